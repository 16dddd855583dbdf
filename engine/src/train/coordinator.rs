//! Threads that work together, and stop together.
//!
//! When one of them is done or fails, or whoever owns them has enough, all are told to stop; runs that wait are
//! cancelled; the first error is kept for the one who joins them. `TensorFlow: tf.train.Coordinator`.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_core::cancel::CancelToken;
use actorflow_core::{Code, Error, Result};
use parking_lot::{Condvar, Mutex};

#[derive(Default)]
struct State {
    stopping: bool,
    /// The first error that was no regular end.
    error: Option<Error>,
    /// The threads that run, by number.
    threads: Vec<(u64, String)>,
    next: u64,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    token: CancelToken,
}

/// Owns threads that stop together. Dropping it asks them to stop, without waiting for them.
#[derive(Default)]
pub struct Coordinator {
    handle: StopHandle,
}

/// What a coordinator's threads see of it; can be cloned and sent.
#[derive(Clone, Default)]
pub struct StopHandle(Arc<Inner>);

impl StopHandle {
    /// Whether everybody is to stop.
    pub fn should_stop(&self) -> bool {
        self.0.state.lock().stopping
    }

    /// Asks everybody to stop, and cancels the runs that were given the [`token`](Self::token).
    pub fn request_stop(&self) {
        self.stop_with(None);
    }

    /// Reports an error and asks everybody to stop. The first error is kept; `OUT_OF_RANGE`, the end of the input, is
    /// none.
    pub fn fail(&self, error: Error) {
        self.stop_with(Some(error).filter(|e| e.code() != Code::OutOfRange));
    }

    fn stop_with(&self, error: Option<Error>) {
        {
            let mut s = self.0.state.lock();
            // What fails because of the stop itself is no news.
            let news = !s.stopping || error.as_ref().is_some_and(|e| e.code() != Code::Cancelled);
            if news && s.error.is_none() {
                s.error = error;
            }
            s.stopping = true;
            self.0.changed.notify_all();
        }
        // Wakes runs, whose threads may come here.
        self.0
            .token
            .cancel(Error::new(Code::Cancelled, "the coordinator was asked to stop"));
    }

    /// Cancelled when everybody is to stop: for runs that should not outlive that.
    pub fn token(&self) -> &CancelToken {
        &self.0.token
    }

    /// Sleeps until everybody is to stop, but not longer than `most`; whether it is so.
    pub fn wait_for_stop(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        let mut s = self.0.state.lock();
        while !s.stopping {
            if self.0.changed.wait_until(&mut s, until).timed_out() {
                return s.stopping;
            }
        }
        true
    }
}

impl Coordinator {
    /// A coordinator without threads.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for threads and callbacks.
    pub fn handle(&self) -> StopHandle {
        self.handle.clone()
    }

    /// Whether everybody is to stop.
    pub fn should_stop(&self) -> bool {
        self.handle.should_stop()
    }

    /// Asks everybody to stop.
    pub fn request_stop(&self) {
        self.handle.request_stop();
    }

    /// Runs `work` on a thread of its own. If it returns an error, or panics, everybody is asked to stop.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the system has no more threads.
    pub fn spawn(&self, name: &str, work: impl FnOnce(&StopHandle) -> Result<()> + Send + 'static) -> Result<()> {
        let id = {
            let mut s = self.handle.0.state.lock();
            let id = s.next;
            s.next += 1;
            s.threads.push((id, name.to_owned()));
            id
        };
        let (handle, title) = (self.handle(), name.to_owned());
        let body = move || {
            // `work` is not used after a panic.
            match catch_unwind(AssertUnwindSafe(|| work(&handle))) {
                Ok(Ok(())) => {}
                Ok(Err(e)) => handle.fail(e),
                Err(_) => handle.fail(Error::internal(format!("thread {title:?} panicked"))),
            }
            ended(&handle, id);
        };
        match std::thread::Builder::new().name(name.to_owned()).spawn(body) {
            Ok(_) => Ok(()),
            Err(e) => {
                ended(&self.handle, id);
                let why = format!("cannot start thread {name:?}: {e}");
                Err(Error::new(Code::ResourceExhausted, why))
            }
        }
    }

    /// Waits until all threads have ended, but not longer than `most`.
    ///
    /// It does not ask them to stop: call [`request_stop`](Self::request_stop) before, unless they end by themselves.
    ///
    /// # Errors
    /// The first error that was reported; `DEADLINE_EXCEEDED` naming the threads that have not ended.
    pub fn join(&self, most: Duration) -> Result<()> {
        let until = Instant::now() + most;
        let inner = &self.handle.0;
        let mut s = inner.state.lock();
        while !s.threads.is_empty() {
            if inner.changed.wait_until(&mut s, until).timed_out() && !s.threads.is_empty() {
                let names: Vec<&str> = s.threads.iter().map(|t| t.1.as_str()).collect();
                let late = Error::deadline(format!(
                    "{} threads have not ended in {most:.0?}: {}",
                    names.len(),
                    names.join(", ")
                ));
                return Err(match &s.error {
                    Some(e) => late.context(format!("after the error {e}")),
                    None => late,
                });
            }
        }
        match &s.error {
            Some(e) => Err(e.clone()),
            None => Ok(()),
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.request_stop();
    }
}

fn ended(handle: &StopHandle, id: u64) {
    let mut s = handle.0.state.lock();
    s.threads.retain(|t| t.0 != id);
    handle.0.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn one_error_stops_everybody_and_comes_out_of_join() {
        let c = Coordinator::new();
        for i in 0..4 {
            c.spawn(&format!("waits {i}"), |stop| {
                assert!(stop.wait_for_stop(LONG));
                Err(Error::new(Code::Cancelled, "stopped"))
            })
            .unwrap();
        }
        c.spawn("fails", |_| Err(Error::data_loss("bad record"))).unwrap();
        let e = c.join(LONG).unwrap_err();
        assert_eq!((e.code(), e.message()), (Code::DataLoss, "bad record"));
        assert!(c.should_stop() && c.handle().token().is_cancelled());
    }

    #[test]
    fn the_end_of_the_input_is_no_error_and_a_panic_is_one() {
        let c = Coordinator::new();
        c.spawn("reads", |_| Err(Error::out_of_range("end"))).unwrap();
        c.join(LONG).unwrap();
        assert!(c.should_stop());
        let c = Coordinator::new();
        c.spawn("bad", |_| panic!("no")).unwrap();
        let e = c.join(LONG).unwrap_err();
        assert_eq!(e.code(), Code::Internal);
        assert!(e.message().contains("bad"));
    }

    #[test]
    fn who_does_not_end_is_named() {
        let c = Coordinator::new();
        let (tx, rx) = std::sync::mpsc::channel::<()>();
        c.spawn("stubborn", move |_| {
            let _ = rx.recv();
            Ok(())
        })
        .unwrap();
        let e = c.join(Duration::from_millis(20)).unwrap_err();
        assert_eq!(e.code(), Code::DeadlineExceeded);
        assert!(e.message().contains("stubborn"), "{e}");
        drop(tx);
        c.join(LONG).unwrap();
    }

    #[test]
    fn dropping_it_asks_to_stop() {
        let c = Coordinator::new();
        let h = c.handle();
        assert!(!h.wait_for_stop(Duration::from_millis(1)));
        drop(c);
        assert!(h.should_stop());
    }
}
