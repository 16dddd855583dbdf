//! The mailbox behind core's resource actors: who holds the turn, and who waits for it.
//!
//! A kernel that touches a variable or a queue holds the actor's *turn* while it runs. Unlike the messages of
//! [`mailbox`](crate::mailbox), a turn may outlive the call that grants it: the node it is granted to fires later,
//! on another worker, and gives the turn up when its kernel returns.
//!
//! **One word**, as in [`mailbox`](crate::mailbox): idle, held, or held with a list of those who wait, newest
//! first. Claiming an idle turn and releasing one that nobody waits for are one compare-exchange each.
//!
//! **Order.** Turns are granted in the order in which they were asked for, except that a claim that finds the
//! actor idle takes it at once.
//!
//! **Depth.** A granted request that finishes at once releases the turn inside its grant; such releases are
//! noticed by the loop that granted it, so a queue of any length needs no deep stack.
//!
//! **Disconnection.** Requests that still wait when the actor is dropped are dropped with it; their continuations
//! then report that.

use std::cell::Cell;
use std::ptr;

use actorflow_core::actor::{Mailbox, MailboxFactory, Turn};

use crate::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::{UnsafeCell, thread_local};

struct Waiting {
    next: *mut Waiting,
    turn: Option<Turn>,
}

/// The turn of one resource actor.
pub struct TurnMailbox {
    head: AtomicPtr<Waiting>,
    /// Requests taken from `head`, oldest first. Only the holder touches it.
    taken: UnsafeCell<*mut Waiting>,
}

// SAFETY: `taken` is only touched by whoever holds the turn, and holding is handed over by release/acquire on
// `head` or by running the next turn on the same thread; turns are `Send`.
unsafe impl Send for TurnMailbox {}
// SAFETY: as above.
unsafe impl Sync for TurnMailbox {}

fn idle() -> *mut Waiting {
    ptr::null_mut()
}

/// Held, nobody waits. Never dereferenced; real nodes are aligned, so none has this address.
fn busy() -> *mut Waiting {
    ptr::without_provenance_mut(1)
}

thread_local! {
    /// The mailbox whose turn this thread is granting, and whether that turn has been released meanwhile.
    // loom's macro knows no `const { … }`.
    #[allow(clippy::missing_const_for_thread_local)]
    static GRANTING: Cell<(*const TurnMailbox, bool)> = Cell::new((ptr::null(), false));
}

fn granting() -> (*const TurnMailbox, bool) {
    GRANTING.with(Cell::get)
}

fn set_granting(to: (*const TurnMailbox, bool)) {
    GRANTING.with(|granting| granting.set(to));
}

impl Default for TurnMailbox {
    fn default() -> Self {
        Self::new()
    }
}

impl TurnMailbox {
    /// An idle one.
    pub fn new() -> Self {
        Self {
            head: AtomicPtr::new(idle()),
            taken: UnsafeCell::new(ptr::null_mut()),
        }
    }

    /// Makes these for a [`ResourceManager`](actorflow_core::resource::ResourceManager).
    pub fn factory() -> MailboxFactory {
        std::sync::Arc::new(|| Box::new(TurnMailbox::new()))
    }

    /// The longest waiting request. The caller holds the turn.
    fn next(&self) -> Option<Turn> {
        self.taken.with_mut(|taken| {
            // SAFETY: the caller holds the turn, so `taken` is its own; every node in the list came from
            // `Box::into_raw` in `claim` and is owned by the list.
            unsafe {
                if (*taken).is_null() {
                    return None;
                }
                let mut node = Box::from_raw(*taken);
                *taken = node.next;
                node.turn.take()
            }
        })
    }

    /// Moves what waits in `head` to `taken`, oldest first. The caller holds the turn and `head` has a list.
    fn take(&self) {
        // Acquire: pairs with the pushes.
        let mut node = self.head.swap(busy(), Acquire);
        let mut reversed = ptr::null_mut();
        while node != busy() && !node.is_null() {
            // SAFETY: the swap made the whole list this thread's.
            unsafe {
                let next = (*node).next;
                (*node).next = reversed;
                reversed = node;
                node = next;
            }
        }
        // SAFETY: the caller holds the turn; `taken` is empty, or `next` would have found something.
        self.taken.with_mut(|taken| unsafe { *taken = reversed });
    }
}

impl Mailbox for TurnMailbox {
    #[inline]
    fn try_claim(&self) -> bool {
        // Acquire: pairs with the release of whoever held the turn before.
        self.head.compare_exchange(idle(), busy(), Acquire, Relaxed).is_ok()
    }

    fn claim(&self, turn: Turn) {
        let node = Box::into_raw(Box::new(Waiting {
            next: ptr::null_mut(),
            turn: Some(turn),
        }));
        let mut head = self.head.load(Relaxed);
        loop {
            if head.is_null() {
                match self.head.compare_exchange_weak(head, busy(), Acquire, Relaxed) {
                    Ok(_) => {
                        // SAFETY: the node was never published.
                        let mut node = unsafe { Box::from_raw(node) };
                        if let Some(turn) = node.turn.take() {
                            turn();
                        }
                        return;
                    }
                    Err(now) => head = now,
                }
            } else {
                // SAFETY: the node is this thread's until the exchange publishes it. `busy` ends the list.
                unsafe { (*node).next = head };
                match self.head.compare_exchange_weak(head, node, Release, Relaxed) {
                    Ok(_) => return,
                    Err(now) => head = now,
                }
            }
        }
    }

    #[inline]
    fn release(&self) {
        let nothing_taken = self.taken.with(|taken| {
            // SAFETY: the caller holds the turn.
            unsafe { (*taken).is_null() }
        });
        // Release: hands the state to the next holder.
        if nothing_taken && self.head.compare_exchange(busy(), idle(), Release, Relaxed).is_ok() {
            return;
        }
        self.grant();
    }
}

impl TurnMailbox {
    /// Gives the turn to those who wait, until one keeps it or nobody is left. The caller holds the turn.
    #[cold]
    fn grant(&self) {
        let outer = granting();
        if ptr::eq(outer.0, self) {
            // Called from a turn that this thread grants: the loop below goes on with the next one.
            set_granting((self, true));
            return;
        }
        loop {
            let Some(turn) = self.next() else {
                if self.head.compare_exchange(busy(), idle(), Release, Relaxed).is_ok() {
                    break;
                }
                self.take();
                continue;
            };
            set_granting((self, false));
            turn();
            if !granting().1 {
                // The turn was kept; whoever has it releases it. Nothing of `self` may be touched any more.
                break;
            }
        }
        set_granting(outer);
    }
}

impl Drop for TurnMailbox {
    fn drop(&mut self) {
        if !self.head.load(Relaxed).is_null() && self.head.load(Relaxed) != busy() {
            self.take();
        }
        while let Some(turn) = self.next() {
            drop(turn);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Arc, Mutex};

    #[test]
    fn waiting_requests_are_granted_in_order_without_deep_recursion() {
        let m = Arc::new(TurnMailbox::new());
        assert!(m.try_claim() && !m.try_claim());
        let seen = Arc::new(Mutex::new(Vec::new()));
        const N: usize = 100_000;
        for i in 0..N {
            let (m2, seen) = (m.clone(), seen.clone());
            m.claim(Box::new(move || {
                seen.lock().unwrap().push(i);
                m2.release();
            }));
        }
        m.release();
        assert!(seen.lock().unwrap().iter().copied().eq(0..N));
        assert!(m.try_claim());
    }

    #[test]
    fn a_kept_turn_holds_back_the_others_until_it_is_released() {
        let m = Arc::new(TurnMailbox::new());
        let n = Arc::new(AtomicUsize::new(0));
        assert!(m.try_claim());
        for _ in 0..2 {
            let n = n.clone();
            m.claim(Box::new(move || {
                n.fetch_add(1, SeqCst);
            }));
        }
        m.release();
        assert_eq!(n.load(SeqCst), 1);
        m.release();
        assert_eq!(n.load(SeqCst), 2);
        m.release();
        assert!(m.try_claim());
    }

    #[test]
    fn only_one_holder_at_a_time_and_nobody_is_forgotten() {
        const THREADS: usize = 4;
        const EACH: usize = 5_000;
        let m = Arc::new(TurnMailbox::new());
        let inside = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|s| {
            for t in 0..THREADS {
                let (m, inside, done) = (m.clone(), inside.clone(), done.clone());
                s.spawn(move || {
                    for i in 0..EACH {
                        let (m2, inside, done) = (m.clone(), inside.clone(), done.clone());
                        let work = move || {
                            assert_eq!(inside.fetch_add(1, SeqCst), 0);
                            inside.fetch_sub(1, SeqCst);
                            done.fetch_add(1, SeqCst);
                            m2.release();
                        };
                        if (i + t) % 3 == 0 && m.try_claim() {
                            work();
                        } else {
                            m.claim(Box::new(work));
                        }
                    }
                });
            }
        });
        assert_eq!(done.load(SeqCst), THREADS * EACH);
        assert!(m.try_claim());
    }

    #[test]
    fn requests_are_dropped_with_the_actor() {
        let dropped = Arc::new(());
        let m = TurnMailbox::new();
        assert!(m.try_claim());
        let keep = dropped.clone();
        m.claim(Box::new(move || drop(keep)));
        drop(m);
        assert_eq!(Arc::strong_count(&dropped), 1);
    }
}
