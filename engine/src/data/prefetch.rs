//! A thread that makes examples ahead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actorflow_core::{Code, Error, Result};

use super::dataset::{Example, Examples};

/// How long dropping the iterator waits for the thread, which may be in the middle of an example.
const END: Duration = Duration::from_secs(5);

struct Ahead {
    /// `None` when the iterator is being dropped.
    items: Option<Receiver<Result<Example>>>,
    thread: Option<JoinHandle<()>>,
}

/// The same examples, of which up to `n` are made ahead.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if the system has no more threads.
pub(super) fn ahead(mut from: Examples, n: usize) -> Result<Examples> {
    let (tx, rx) = sync_channel(n);
    let work = move || {
        loop {
            // The examples are not used after a panic.
            let item = match catch_unwind(AssertUnwindSafe(|| from.next())) {
                Ok(Some(item)) => item,
                Ok(None) => return,
                Err(_) => Err(Error::internal(
                    "making an example panicked, in a thread that prefetches",
                )),
            };
            let last = item.is_err();
            // The receiver is gone when nobody wants more.
            if tx.send(item).is_err() || last {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("prefetch".to_owned()).spawn(work);
    let thread = thread.map_err(|e| {
        Error::new(
            Code::ResourceExhausted,
            format!("cannot start a thread that prefetches: {e}"),
        )
    })?;
    Ok(Box::new(Ahead {
        items: Some(rx),
        thread: Some(thread),
    }))
}

impl Iterator for Ahead {
    type Item = Result<Example>;

    fn next(&mut self) -> Option<Result<Example>> {
        self.items.as_ref()?.recv().ok()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // A thread that waits for room sees that nobody takes anything any more.
        self.items = None;
        let until = Instant::now() + END;
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(200));
            }
            if thread.is_finished() {
                // It does not panic.
                let _ = thread.join();
            }
        }
    }
}
