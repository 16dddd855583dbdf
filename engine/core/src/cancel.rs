//! Cancellation: a token that a run and everything that waits for it share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};

type Callback = Box<dyn FnOnce(&Error) + Send>;

struct State {
    reason: Option<Error>,
    next: u64,
    callbacks: Vec<(u64, Callback)>,
}

struct Inner {
    cancelled: AtomicBool,
    state: Mutex<State>,
}

/// A shared flag that says "give up", why, and who must be woken.
///
/// Checking it is one relaxed load. Callbacks run once, on the thread that cancels, after the flag is set; one that
/// is registered afterwards runs at once on the registering thread.
#[derive(Clone)]
pub struct CancelToken(Arc<Inner>);

impl Default for CancelToken {
    fn default() -> Self {
        Self::new()
    }
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        CancelToken(Arc::new(Inner {
            cancelled: AtomicBool::new(false),
            state: Mutex::new(State {
                reason: None,
                next: 0,
                callbacks: Vec::new(),
            }),
        }))
    }

    /// Whether [`cancel`](Self::cancel) was called.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Cancels with a reason and wakes everyone. The first reason wins; returns whether this call was the first.
    pub fn cancel(&self, reason: Error) -> bool {
        let callbacks = {
            let mut s = self.0.state.lock();
            if s.reason.is_some() {
                return false;
            }
            s.reason = Some(reason.clone());
            self.0.cancelled.store(true, Ordering::Release);
            std::mem::take(&mut s.callbacks)
        };
        for (_, c) in callbacks {
            c(&reason);
        }
        true
    }

    /// Why it was cancelled, if it was.
    pub fn reason(&self) -> Option<Error> {
        if !self.is_cancelled() {
            return None;
        }
        self.0.state.lock().reason.clone()
    }

    /// `Err(reason)` once cancelled.
    ///
    /// # Errors
    /// The reason given to [`cancel`](Self::cancel).
    pub fn check(&self) -> Result<()> {
        match self.reason() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// Calls `f` when the token is cancelled, unless the returned guard is dropped before.
    pub fn on_cancel(&self, f: impl FnOnce(&Error) + Send + 'static) -> CancelGuard {
        let mut s = self.0.state.lock();
        if let Some(reason) = s.reason.clone() {
            drop(s);
            f(&reason);
            return CancelGuard {
                token: self.clone(),
                id: u64::MAX,
            };
        }
        let id = s.next;
        s.next += 1;
        s.callbacks.push((id, Box::new(f)));
        CancelGuard {
            token: self.clone(),
            id,
        }
    }

    /// A new token that is cancelled with this one (but not the other way round).
    pub fn child(&self) -> (CancelToken, CancelGuard) {
        let child = CancelToken::new();
        let to = child.clone();
        let guard = self.on_cancel(move |e| {
            to.cancel(e.clone());
        });
        (child, guard)
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelToken({:?})", self.reason())
    }
}

/// Keeps a callback registered with a [`CancelToken`]; dropping it takes the callback back.
#[must_use = "dropping the guard unregisters the callback"]
pub struct CancelGuard {
    token: CancelToken,
    id: u64,
}

impl CancelGuard {
    /// Leaves the callback registered for good.
    pub fn forget(mut self) {
        self.id = u64::MAX;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if self.id == u64::MAX {
            return;
        }
        let mut s = self.token.0.state.lock();
        let found = s.callbacks.iter().position(|(id, _)| *id == self.id);
        let taken = found.map(|i| s.callbacks.swap_remove(i));
        // The callback's captures are dropped without the lock: they may own other guards of this token.
        drop(s);
        drop(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn callbacks_run_once_and_late_ones_at_once() {
        let t = CancelToken::new();
        let n = Arc::new(AtomicUsize::new(0));
        let count = |t: &CancelToken| {
            let n = n.clone();
            t.on_cancel(move |_| {
                n.fetch_add(1, Ordering::SeqCst);
            })
        };
        let _kept = count(&t);
        drop(count(&t));
        assert!(t.cancel(Error::cancelled("a")));
        assert!(!t.cancel(Error::cancelled("b")));
        let _late = count(&t);
        assert_eq!(n.load(Ordering::SeqCst), 2);
        assert_eq!(t.check().unwrap_err().message(), "a");
    }

    #[test]
    fn children_follow_parents_only() {
        let p = CancelToken::new();
        let (c, _g) = p.child();
        let (d, _h) = p.child();
        c.cancel(Error::cancelled("child"));
        assert!(!p.is_cancelled() && !d.is_cancelled());
        p.cancel(Error::deadline("parent"));
        assert_eq!(d.reason().unwrap().code(), crate::error::Code::DeadlineExceeded);
        assert_eq!(c.reason().unwrap().message(), "child");
    }
}
