//! Resource actors: state that is only ever touched by whoever holds the actor's turn.
//!
//! A resource actor (variable, queue, mutex, table) is an [`Actor<S>`]: a state `S` behind a [`Mailbox`]. A node
//! that wants the state *claims* the mailbox. If the actor is idle the claim succeeds at once and the kernel runs
//! on the spot; else the request waits in the mailbox as a continuation and the claim is handed to it when its
//! turn comes. No thread ever blocks on an actor. Requests are served in the order of their arrival.
//!
//! A node that needs several actors claims them in the order of their addresses, so claims cannot deadlock.
//! The mailbox itself is the actor runtime's; this module knows only the trait.

use std::cell::{RefCell, RefMut};
use std::sync::Arc;

use crate::error::{Error, Result};

/// What runs when a claim is granted.
pub type Turn = Box<dyn FnOnce() + Send>;

/// The mailbox of a resource actor: who holds the turn, and who waits for it.
pub trait Mailbox: Send + Sync {
    /// Claims the turn if nobody holds it or waits for it; true if it is now the caller's.
    fn try_claim(&self) -> bool;

    /// Waits for the turn: `turn` is called exactly once, with the turn held, on this thread at once or later on
    /// the thread that releases it. Whoever runs `turn` must see to it that the turn is released.
    fn claim(&self, turn: Turn);

    /// Gives the turn up, to the longest waiting request if there is one.
    ///
    /// Only the holder may call this.
    fn release(&self);
}

/// Makes mailboxes; the actor runtime provides it.
pub type MailboxFactory = Arc<dyn Fn() -> Box<dyn Mailbox> + Send + Sync>;

/// Something with a mailbox that a kernel can ask to hold while it runs.
pub trait Claimable: Send + Sync {
    /// The mailbox.
    fn mailbox(&self) -> &dyn Mailbox;
}

/// State `S` with a mailbox.
pub struct Actor<S> {
    mailbox: Box<dyn Mailbox>,
    state: RefCell<S>,
}

// SAFETY: the state is only reached through `Claims::state` and `try_with`, both of which require the turn, and
// the mailbox grants the turn to one holder at a time; `RefCell` catches a holder that borrows it twice.
unsafe impl<S: Send> Sync for Actor<S> {}

impl<S: Send> Claimable for Actor<S> {
    fn mailbox(&self) -> &dyn Mailbox {
        &*self.mailbox
    }
}

struct ReleaseOnDrop<'a>(&'a dyn Mailbox);

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl<S: Send> Actor<S> {
    /// An idle actor.
    pub fn new(mailbox: Box<dyn Mailbox>, state: S) -> Self {
        Actor {
            mailbox,
            state: RefCell::new(state),
        }
    }

    /// Runs `f` on the state now if nobody holds or awaits the turn; gives `f` back otherwise.
    pub fn try_with<R, F: FnOnce(&mut S) -> R>(&self, f: F) -> std::result::Result<R, F> {
        if !self.mailbox.try_claim() {
            return Err(f);
        }
        let _release = ReleaseOnDrop(&*self.mailbox);
        match self.state.try_borrow_mut() {
            Ok(mut s) => Ok(f(&mut s)),
            Err(_) => Err(f),
        }
    }

    /// Runs `f` on the state when the turn comes: now if the actor is idle, else later on the thread that
    /// releases it. Requests of one thread run in the order in which they were sent.
    pub fn send(self: &Arc<Self>, f: impl FnOnce(&mut S) + Send + 'static)
    where
        S: 'static,
    {
        let this = self.clone();
        self.mailbox.claim(Box::new(move || {
            let _release = ReleaseOnDrop(&*this.mailbox);
            if let Ok(mut s) = this.state.try_borrow_mut() {
                f(&mut s);
            }
        }));
    }

    /// Runs `f` on the state and waits for its answer, blocking this thread until the actor's turn comes.
    ///
    /// For callers outside of a step (tests, checkpoints, metrics); kernels never block.
    ///
    /// # Errors
    /// `CANCELLED` if the actor was dropped with the request still waiting.
    pub fn call<R: Send + 'static>(self: &Arc<Self>, f: impl FnOnce(&mut S) -> R + Send + 'static) -> Result<R>
    where
        S: 'static,
    {
        let (tx, rx) = crossbeam::channel::bounded(1);
        self.send(move |s| {
            // The receiver waits below, so this send cannot fail.
            let _ = tx.send(f(s));
        });
        rx.recv()
            .map_err(|_| Error::cancelled("the resource was destroyed while a request waited"))
    }
}

/// The turns that a running kernel holds.
#[derive(Default)]
pub struct Claims {
    list: Vec<Arc<dyn Claimable>>,
}

fn address(c: &Arc<dyn Claimable>) -> usize {
    Arc::as_ptr(c) as *const () as usize
}

impl Claims {
    /// No claim.
    pub const fn none() -> Self {
        Claims { list: Vec::new() }
    }

    /// Asks for the turn of `actor`; asking twice for one actor is asking once.
    pub fn want(&mut self, actor: Arc<dyn Claimable>) {
        let at = address(&actor);
        match self.list.binary_search_by_key(&at, address) {
            Ok(_) => {}
            Err(i) => self.list.insert(i, actor),
        }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The actors, in the order in which they must be claimed.
    pub fn actors(&self) -> &[Arc<dyn Claimable>] {
        &self.list
    }

    /// Claims all at once, or none; true if all are now held.
    #[inline]
    pub fn try_claim_all(&self) -> bool {
        for (i, a) in self.list.iter().enumerate() {
            if !a.mailbox().try_claim() {
                for b in &self.list[..i] {
                    b.mailbox().release();
                }
                return false;
            }
        }
        true
    }

    /// Claims all, one after the other, and then calls `then` with every turn held.
    ///
    /// `then` runs on this thread at once if no actor is busy, else on a thread that releases one.
    pub fn claim_all(self, then: Box<dyn FnOnce(Claims) + Send>) {
        claim_from(self, 0, then);
    }

    /// Gives all turns up.
    #[inline]
    pub fn release_all(&mut self) {
        for a in self.list.drain(..) {
            a.mailbox().release();
        }
    }

    /// The state of an actor whose turn is held.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the state is borrowed already (the same resource was given for two inputs that must
    /// differ); `INTERNAL` if the turn is not held.
    pub fn state<'a, S: Send + 'static>(&'a self, actor: &'a Actor<S>) -> Result<RefMut<'a, S>> {
        let at = actor as *const Actor<S> as *const () as usize;
        let mailbox = &*actor.mailbox as *const dyn Mailbox as *const ();
        let held = self
            .list
            .iter()
            .any(|c| address(c) == at || std::ptr::eq(c.mailbox() as *const dyn Mailbox as *const (), mailbox));
        if !held {
            return Err(Error::internal("a kernel used a resource whose turn it does not hold"));
        }
        actor
            .state
            .try_borrow_mut()
            .map_err(|_| Error::invalid("the same resource was given for two inputs that must be different resources"))
    }
}

fn claim_from(claims: Claims, mut at: usize, then: Box<dyn FnOnce(Claims) + Send>) {
    while let Some(a) = claims.list.get(at) {
        if !a.mailbox().try_claim() {
            let actor = a.clone();
            actor
                .mailbox()
                .claim(Box::new(move || claim_from(claims, at + 1, then)));
            return;
        }
        at += 1;
    }
    then(claims);
}

/// A mailbox for state that only one thread uses: tests, and constant folding when a graph is built.
#[derive(Debug, Default)]
pub struct LocalMailbox {
    held: std::sync::atomic::AtomicBool,
    waiting: parking_lot::Mutex<std::collections::VecDeque<Waiting>>,
}

struct Waiting(Turn);

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

impl Mailbox for LocalMailbox {
    fn try_claim(&self) -> bool {
        let _queue = self.waiting.lock();
        !self.held.swap(true, std::sync::atomic::Ordering::AcqRel)
    }

    fn claim(&self, turn: Turn) {
        let mut queue = self.waiting.lock();
        if self.held.swap(true, std::sync::atomic::Ordering::AcqRel) {
            queue.push_back(Waiting(turn));
        } else {
            drop(queue);
            turn();
        }
    }

    fn release(&self) {
        let mut queue = self.waiting.lock();
        match queue.pop_front() {
            Some(Waiting(turn)) => {
                drop(queue);
                turn();
            }
            None => self.held.store(false, std::sync::atomic::Ordering::Release),
        }
    }
}

/// A factory of [`LocalMailbox`]es.
pub fn local_mailboxes() -> MailboxFactory {
    Arc::new(|| Box::<LocalMailbox>::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(n: i32) -> Arc<Actor<i32>> {
        Arc::new(Actor::new(local_mailboxes()(), n))
    }

    #[test]
    fn requests_wait_for_the_turn_and_run_in_order() {
        let a = actor(0);
        let mut held = Claims::default();
        held.want(a.clone());
        assert!(held.try_claim_all());
        for i in 1..=3 {
            a.send(move |s| *s = *s * 10 + i);
        }
        assert_eq!(*held.state(&a).unwrap(), 0);
        assert!(held.state(&actor(1)).is_err());
        held.release_all();
        assert_eq!(a.call(|s| *s).unwrap(), 123);
    }

    #[test]
    fn many_are_claimed_together_and_the_same_only_once() {
        let (a, b) = (actor(1), actor(2));
        let mut c = Claims::default();
        c.want(a.clone());
        c.want(b.clone());
        c.want(a.clone());
        assert_eq!(c.actors().len(), 2);
        assert!(c.try_claim_all());
        {
            let mut x = c.state(&a).unwrap();
            *x += *c.state(&b).unwrap();
            assert!(c.state(&a).is_err());
        }
        c.release_all();
        assert_eq!(a.call(|s| *s).unwrap(), 3);
    }
}
