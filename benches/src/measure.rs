//! Timing: calls a second, window by window.

use std::sync::OnceLock;
use std::time::Instant;

use actorflow::{Passes, Result, SessionOptions};

/// The cores of the process, asked for before any thread is bound.
pub(crate) fn cores() -> &'static [core_affinity::CoreId] {
    static CORES: OnceLock<Vec<core_affinity::CoreId>> = OnceLock::new();
    CORES.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default())
}

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Windows per figure.
    pub(crate) samples: usize,
    /// Seconds per window.
    pub(crate) window: f64,
    /// Threads that may compute at once.
    pub(crate) threads: usize,
    /// The passes of sessions.
    pub(crate) passes: Passes,
}

impl Settings {
    /// Binds the calling thread to the first core (the last one for one thread, as the peers' scripts do), so that
    /// the scheduler cannot put it on a worker's core.
    pub(crate) fn pin_caller(&self) {
        let cores = cores();
        let core = if self.threads == 1 { cores.last() } else { cores.first() };
        if let Some(c) = core {
            core_affinity::set_for_current(*c);
        }
    }

    /// Session options for this many threads, workers bound to cores.
    pub(crate) fn session(&self) -> SessionOptions {
        SessionOptions {
            pin: self.threads > 1,
            passes: self.passes,
            ..SessionOptions::with_threads(self.threads)
        }
    }

    /// Calls of `f` a second, one figure per window.
    ///
    /// # Errors
    /// What `f` returns.
    pub(crate) fn rates(&self, mut f: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
        let timed = |f: &mut dyn FnMut() -> Result<()>, n: u64| -> Result<f64> {
            let t = Instant::now();
            for _ in 0..n {
                f()?;
            }
            Ok(t.elapsed().as_secs_f64())
        };
        for _ in 0..3 {
            f()?;
        }
        let once = timed(&mut f, 1)?.max(1e-7);
        let n = ((self.window / once / 4.0) as u64).clamp(1, 10_000_000);
        let per = timed(&mut f, n)? / n as f64;
        let n = ((self.window / per.max(1e-9)) as u64).max(1);
        (0..self.samples).map(|_| Ok(n as f64 / timed(&mut f, n)?)).collect()
    }
}
