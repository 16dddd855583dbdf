//! A flag that a thread outside the pool can wait for.

#![forbid(unsafe_code)]

use std::{
    sync::atomic::{
        AtomicU32,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

const CLEAR: u32 = 0;
/// Clear, and somebody sleeps until it is set.
const AWAITED: u32 = 1;
const SET: u32 = 2;

/// A flag that is set once and waited for, such as "this step is done". Setting it when nobody sleeps is one
/// atomic operation. Any number of threads may wait.
///
/// The setter still touches the event after a waiter has seen it set, so it must outlive the call of
/// [`set`](Event::set): share it by `Arc`, or through the step that both sides hold.
#[derive(Debug, Default)]
pub struct Event {
    state: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Event {
    /// A clear event.
    pub const fn new() -> Self {
        Self {
            state: AtomicU32::new(CLEAR),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Sets the event and wakes everyone who waits. What was written before is visible to whoever sees it set.
    #[inline]
    pub fn set(&self) {
        if self.state.swap(SET, AcqRel) == AWAITED {
            // The lock makes sure that a waiter is either not yet before its test of the state, or asleep.
            drop(self.lock.lock());
            self.wake.notify_all();
        }
    }

    /// Whether the event is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.state.load(Acquire) == SET
    }

    /// Clears the event for its next use; the caller knows that nobody waits for it or sets it.
    pub fn reset(&self) {
        self.state.store(CLEAR, Release);
    }

    /// Sleeps until the event is set (true) or the deadline has passed (false).
    pub fn wait(&self, deadline: Option<Instant>) -> bool {
        if self.is_set() {
            return true;
        }
        let mut guard = self.lock.lock();
        loop {
            // Fails when it is set, or when somebody else announced waiting before.
            let _ = self.state.compare_exchange(CLEAR, AWAITED, Relaxed, Relaxed);
            if self.is_set() {
                return true;
            }
            match deadline {
                None => self.wake.wait(&mut guard),
                Some(deadline) => {
                    if self.wake.wait_until(&mut guard, deadline).timed_out() {
                        return self.is_set();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn waiting_ends_when_the_event_is_set_and_not_before() {
        let event = Event::new();
        assert!(!event.wait(Some(Instant::now() + Duration::from_millis(1))));
        thread::scope(|scope| {
            let waiters: Vec<_> = (0..3).map(|_| scope.spawn(|| event.wait(None))).collect();
            event.set();
            for waiter in waiters {
                assert!(waiter.join().unwrap());
            }
        });
        assert!(event.wait(None));
        event.reset();
        assert!(!event.is_set());
    }

    #[test]
    fn repeated_use_never_loses_a_wake_up() {
        let (ping, pong) = (Event::new(), Event::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    ping.wait(None);
                    ping.reset();
                    pong.set();
                }
            });
            for _ in 0..2_000 {
                ping.set();
                pong.wait(None);
                pong.reset();
            }
        });
    }
}
