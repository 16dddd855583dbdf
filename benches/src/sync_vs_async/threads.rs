//! A run in threads of this process, over one set of devices.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use actorflow::{CancelToken, Error, Graph, Result, Session, SessionOptions};

use super::data::Split;
use super::setup::{Ended, Mark, Raw, Setup};
use super::trainee::{Places, Trainee};

/// What a worker tells.
enum Said {
    Steps(usize, Vec<Mark>),
    Ended(usize, Ended),
}

/// Trains in threads; `seen` is given the steps as they are told.
///
/// # Errors
/// If a replica cannot be built or started, or the run is cancelled.
pub(super) fn run(setup: &Setup, data: &Split, stop: &CancelToken, mut seen: impl FnMut(&[Mark])) -> Result<Raw> {
    let options = SessionOptions {
        devices: (setup.ps + setup.workers).max(1),
        pin: false,
        ..SessionOptions::with_threads(setup.threads)
    };
    let devices = Session::with_options(&Graph::new(), options)?;
    let places = |_: usize| Places {
        ps: (0..setup.ps).map(|i| format!("/cpu:{i}")).collect(),
        workers: (0..setup.workers).map(|i| format!("/cpu:{}", setup.ps + i)).collect(),
    };
    let (say, said) = channel();
    // All join before any of them trains.
    let ready = Barrier::new(setup.workers);
    let failed = Mutex::new(None);
    let mut raw = Raw {
        marks: vec![Vec::new(); setup.workers],
        ..Raw::default()
    };
    // A little before training does.
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for me in 0..setup.workers {
            let (devices, say, ready, failed) = (&devices, say.clone(), &ready, &failed);
            scope.spawn(move || {
                let made = Trainee::new(setup, me, me, data, places(me), |g| Ok(devices.sibling(g)));
                let trainee = match made {
                    Ok(trainee) => Some(trainee),
                    Err(e) => {
                        if let Ok(mut failed) = failed.lock() {
                            failed.get_or_insert(e);
                        }
                        None
                    }
                };
                ready.wait();
                let all = failed.lock().is_ok_and(|f| f.is_none());
                let Some(trainee) = trainee.filter(|_| all) else {
                    return;
                };
                // Nobody listens any more once the run has failed.
                let tell = |marks| {
                    let _ = say.send(Said::Steps(me, marks));
                    Ok(())
                };
                let ended = trainee.train(0, Duration::ZERO, stop, tell);
                let _ = say.send(Said::Ended(me, ended));
            });
        }
        drop(say);
        loop {
            match said.recv_timeout(Duration::from_millis(100)) {
                Ok(Said::Steps(worker, marks)) => {
                    seen(&marks);
                    raw.marks[worker].extend(marks);
                }
                Ok(Said::Ended(worker, ended)) => {
                    raw.ended = begun.elapsed().as_secs_f64();
                    raw.errors.extend(ended.error.map(|e| format!("worker {worker}: {e}")));
                    if let Some(seen) = ended.seen {
                        raw.seen = seen;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    stop.check()?;
    match failed.into_inner() {
        Ok(None) => Ok(raw),
        Ok(Some(e)) => Err(e),
        Err(_) => Err(Error::internal("a worker's thread panicked")),
    }
}
