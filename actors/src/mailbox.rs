//! The mailbox of a resource actor (a variable, a queue, a table …): messages from any thread, handled one at a
//! time, by whichever thread finds the actor idle.
//!
//! A resource actor has no thread. Its state `S` lives in the [`Mailbox`]; a message is a closure over `&mut S`.
//! The sender that finds the actor idle *becomes* the actor: it runs its message at once, on its own thread and
//! without boxing it, then whatever arrived meanwhile. A sender that finds the actor busy leaves its message
//! and goes on. Nobody ever waits for anybody, so a resource cannot block a worker.
//!
//! **One word.** The whole protocol is one atomic pointer:
//!
//! | `head` | meaning |
//! |---|---|
//! | `IDLE` (null) | nobody runs the actor, nothing is queued |
//! | `BUSY` (1) | somebody runs the actor, nothing new is queued |
//! | a node | somebody runs the actor; a list of messages, newest first |
//!
//! Senders push with one compare-exchange; the runner takes the whole list with one swap and turns it round, a
//! batch. Going idle is `BUSY → IDLE` by compare-exchange, which fails if anything was pushed, so no message can
//! be left behind with nobody to run it: there is no separate "scheduled" flag that could disagree with the
//! queue. A push links to whatever head it saw and a take detaches everything, so a recycled node address (ABA)
//! is harmless.
//!
//! **Order.** Messages of one sender are handled in the order they were sent; messages of different senders in
//! the order of their pushes. A handler that sends to its own actor enqueues behind what is there.
//!
//! **Failure.** A message that panics is contained: the panic is counted, handed to the mailbox's hook, and the
//! next message runs. The state is then what the message left; messages that can fail halfway keep it sound.
//!
//! **Capacity.** The queue has no bound of its own, because refusing or blocking here would stop a worker. Every
//! queued message belongs to a started node of a running step, so it is bounded by what the steps may have in
//! flight; requests that wait for a *condition* do not stay here but move to
//! [`parked`](crate::parked), which can be cancelled.
//!
//! **Fairness.** [`Mailbox::send`] runs everything it finds. A runner that must not serve others for long uses
//! [`Mailbox::send_bounded`], which hands the actor on after a batch.
//!
//! **Disconnection.** Senders reach the mailbox through a reference or an `Arc`, so it cannot go away under them;
//! when the last one goes, nothing is queued, and the state is dropped.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use crate::sync::{
    Arc, UnsafeCell,
    atomic::{
        AtomicPtr, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// A message in the queue.
type Message<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Called with the payload of a message that panicked, on the thread that ran it and while it holds the actor;
/// it may send to the actor (which enqueues) and must not block.
pub type PanicHook = Box<dyn Fn(Box<dyn Any + Send>) + Send + Sync>;

struct Node<S> {
    /// Written by the sender before it publishes the node, then by who took it.
    next: UnsafeCell<*mut Node<S>>,
    message: Message<S>,
}

/// An actor's state with the queue of messages to it. See the [module](self) for the protocol.
pub struct Mailbox<S> {
    head: AtomicPtr<Node<S>>,
    /// Messages taken from `head` and not yet handled, oldest first. Touched only by who runs the actor.
    taken: UnsafeCell<*mut Node<S>>,
    state: UnsafeCell<S>,
    panics: AtomicUsize,
    hook: Option<PanicHook>,
}

// SAFETY: the state and the messages are only touched by the one thread that holds the actor, and holding is
// handed over by release/acquire on `head`; so they move between threads and are never shared: `S: Send`
// suffices, and messages are `Send`.
unsafe impl<S: Send> Send for Mailbox<S> {}
// SAFETY: as above.
unsafe impl<S: Send> Sync for Mailbox<S> {}

/// The actor is idle.
fn idle<S>() -> *mut Node<S> {
    ptr::null_mut()
}

/// The actor is held and nothing new is queued. Never dereferenced; nodes are aligned, so none has this address.
fn busy<S>() -> *mut Node<S> {
    ptr::without_provenance_mut(1)
}

impl<S> Mailbox<S> {
    /// An idle actor with this state; panics of messages are only counted.
    pub fn new(state: S) -> Self {
        Self::build(state, None)
    }

    /// An idle actor whose messages' panics are also reported to `hook`.
    pub fn with_panic_hook(state: S, hook: PanicHook) -> Self {
        Self::build(state, Some(hook))
    }

    fn build(state: S, hook: Option<PanicHook>) -> Self {
        Self {
            head: AtomicPtr::new(idle()),
            taken: UnsafeCell::new(ptr::null_mut()),
            state: UnsafeCell::new(state),
            panics: AtomicUsize::new(0),
            hook,
        }
    }

    /// Runs `f` on the state here and now if the actor is idle, and gives `f` back if it is not. Nothing is
    /// boxed; an uncontended call costs two atomic operations. A panic of `f` reaches the caller, after the
    /// actor has been released.
    ///
    /// Inside a handler of the same actor this always gives `f` back.
    #[inline]
    pub fn try_with<R, F: FnOnce(&mut S) -> R>(&self, f: F) -> Result<R, F> {
        // Acquire: pairs with the release of who held the actor before.
        if self.head.compare_exchange(idle(), busy(), Acquire, Relaxed).is_err() {
            return Err(f);
        }
        let _held = Held(self);
        // SAFETY: the exchange made this thread the one that holds the actor, until `_held` is dropped.
        Ok(self.state.with_mut(|state| f(unsafe { &mut *state })))
    }

    /// Sends a message. If the actor is idle the message runs now, on this thread, followed by everything that
    /// arrives until the actor is idle again; else it is queued for whoever holds the actor. Never blocks.
    #[inline]
    pub fn send<F: FnOnce(&mut S) + Send + 'static>(&self, message: F) {
        if self.send_holding(message) {
            drop(Held(self));
        }
    }

    /// [`send`](Self::send) by a thread that must not serve the other senders for long: after `batch` further
    /// messages the actor, still held, is given to `hand_on`, which typically spawns it on a worker pool.
    pub fn send_bounded<F>(this: &Arc<Self>, message: F, batch: usize, hand_on: impl FnOnce(Rest<S>))
    where
        F: FnOnce(&mut S) + Send + 'static,
    {
        if this.send_holding(message) {
            let held = Rest {
                mailbox: Arc::clone(this),
                finished: false,
            };
            if let Some(rest) = held.run(batch) {
                hand_on(rest);
            }
        }
    }

    /// Whether nobody runs the actor; a snapshot.
    pub fn is_idle(&self) -> bool {
        self.head.load(Relaxed).is_null()
    }

    /// How many messages have panicked.
    pub fn panics(&self) -> usize {
        self.panics.load(Relaxed)
    }

    /// Runs the message and returns true with the actor still held, or queues it.
    #[inline]
    fn send_holding<F: FnOnce(&mut S) + Send + 'static>(&self, message: F) -> bool {
        if self.head.compare_exchange(idle(), busy(), Acquire, Relaxed).is_ok() {
            self.handle(message);
            return true;
        }
        self.push(Box::new(message))
    }

    /// Queues a message and returns false, or, if the actor has become idle, takes it, runs the message and
    /// returns true.
    #[cold]
    fn push(&self, message: Message<S>) -> bool {
        let node = Box::into_raw(Box::new(Node {
            next: UnsafeCell::new(ptr::null_mut()),
            message,
        }));
        let mut head = self.head.load(Relaxed);
        loop {
            if head.is_null() {
                match self.head.compare_exchange_weak(head, busy(), Acquire, Relaxed) {
                    Ok(_) => {
                        // SAFETY: the node came from `Box::into_raw` above and was never published.
                        let node = unsafe { Box::from_raw(node) };
                        self.handle(node.message);
                        return true;
                    }
                    Err(now) => head = now,
                }
            } else {
                // SAFETY: the node is this thread's until the exchange below publishes it.
                unsafe { (*node).next.with_mut(|next| *next = head) };
                // Release: publishes the node to the runner that takes it.
                match self.head.compare_exchange_weak(head, node, Release, Relaxed) {
                    Ok(_) => return false,
                    Err(now) => head = now,
                }
            }
        }
    }

    /// Runs one message on the state. The caller holds the actor.
    #[inline]
    fn handle(&self, message: impl FnOnce(&mut S)) {
        // SAFETY: only who holds the actor gets here.
        let run = || self.state.with_mut(|state| message(unsafe { &mut *state }));
        if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
            self.contain(payload);
        }
    }

    #[cold]
    fn contain(&self, payload: Box<dyn Any + Send>) {
        self.panics.fetch_add(1, Relaxed);
        if let Some(hook) = &self.hook {
            // A hook that panics has nowhere to report it; the message stays counted.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(payload)));
        }
    }

    /// Handles queued messages until the actor is idle (true), or `batch` are done and more wait (false, and
    /// the actor is still held). The caller holds the actor.
    fn drain(&self, mut batch: usize) -> bool {
        loop {
            let node = match self.next() {
                Some(node) => node,
                // Release: hands the state to the next holder. Fails exactly if something was pushed.
                None => match self.head.compare_exchange(busy(), idle(), Release, Relaxed) {
                    Ok(_) => return true,
                    Err(_) => {
                        self.take();
                        continue;
                    }
                },
            };
            if batch == 0 {
                self.put_back(node);
                return false;
            }
            batch -= 1;
            self.handle(node.message);
        }
    }

    /// The oldest taken message.
    fn next(&self) -> Option<Box<Node<S>>> {
        self.taken.with_mut(|taken| {
            // SAFETY: `taken` belongs to the holder; its nodes came from `Box::into_raw` and are owned by the list.
            unsafe {
                if (*taken).is_null() {
                    return None;
                }
                let node = Box::from_raw(*taken);
                *taken = node.next.with(|next| *next);
                Some(node)
            }
        })
    }

    /// Puts a message back in front of the taken ones.
    fn put_back(&self, node: Box<Node<S>>) {
        // SAFETY: `taken` belongs to the holder, and `node.next` is still the head of the list it came from.
        self.taken.with_mut(|taken| unsafe { *taken = Box::into_raw(node) });
    }

    /// Takes everything queued, oldest first. The caller holds the actor and has handled what it took before.
    fn take(&self) {
        // Acquire: pairs with the releases of all pushes in the list (each push is a read-modify-write, so they
        // continue one another's release sequences).
        let mut newest = self.head.swap(busy(), Acquire);
        let mut oldest = ptr::null_mut();
        while newest != busy() && !newest.is_null() {
            // SAFETY: the swap detached the list, so its nodes are this thread's alone.
            let next = unsafe { (*newest).next.with(|next| *next) };
            // SAFETY: as above.
            unsafe { (*newest).next.with_mut(|next| *next = oldest) };
            oldest = newest;
            newest = next;
        }
        // SAFETY: `taken` belongs to the holder; it is empty.
        self.taken.with_mut(|taken| unsafe { *taken = oldest });
    }
}

impl<S> Drop for Mailbox<S> {
    fn drop(&mut self) {
        // Nothing is queued when the last sender is gone, unless a `Rest` was forgotten with `mem::forget`.
        self.take();
        while let Some(node) = self.next() {
            drop(node);
        }
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for Mailbox<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox")
            .field("idle", &self.is_idle())
            .field("panics", &self.panics())
            .finish_non_exhaustive()
    }
}

/// Releases the actor when dropped, after handling what has arrived; also while a panic of `try_with`'s closure
/// unwinds, so that no message is stranded.
struct Held<'a, S>(&'a Mailbox<S>);

impl<S> Drop for Held<'_, S> {
    #[inline]
    fn drop(&mut self) {
        // Release: hands the state to the next holder.
        if self.0.head.compare_exchange(busy(), idle(), Release, Relaxed).is_err() {
            self.0.drain(usize::MAX);
        }
    }
}

/// A held actor with messages waiting. Whoever has it must [`run`](Rest::run) it; dropping it runs everything.
#[must_use = "the actor stays held until the rest has run"]
pub struct Rest<S> {
    mailbox: Arc<Mailbox<S>>,
    finished: bool,
}

impl<S> Rest<S> {
    /// Handles up to `batch` messages. `None` when the actor is idle again, else the rest of it.
    pub fn run(mut self, batch: usize) -> Option<Self> {
        self.finished = self.mailbox.drain(batch);
        (!self.finished).then_some(self)
    }
}

impl<S> Drop for Rest<S> {
    fn drop(&mut self) {
        if !self.finished {
            self.mailbox.drain(usize::MAX);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn an_idle_actor_runs_the_message_before_send_returns() {
        let mailbox = Mailbox::new(1);
        mailbox.send(|n| *n += 1);
        assert_eq!(mailbox.try_with(|n| *n).ok(), Some(2));
        assert!(mailbox.is_idle());
    }

    #[test]
    fn a_handler_that_sends_to_its_own_actor_enqueues() {
        let mailbox = Arc::new(Mailbox::new(Vec::new()));
        let own = Arc::clone(&mailbox);
        mailbox.send(move |log: &mut Vec<u32>| {
            own.send(|log| log.push(2));
            own.send(|log| log.push(3));
            assert!(own.try_with(|_| ()).is_err());
            log.push(1);
        });
        assert_eq!(mailbox.try_with(|log| log.clone()).ok(), Some(vec![1, 2, 3]));
    }

    #[test]
    fn a_panicking_message_is_counted_reported_and_does_not_stop_the_others() {
        let reported = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&reported);
        let hook: PanicHook = Box::new(move |payload| {
            seen.store(payload.downcast_ref::<&str>() == Some(&"bad message"), Relaxed);
            panic!("a hook that panics, too");
        });
        let mailbox = Arc::new(Mailbox::with_panic_hook(0, hook));
        let own = Arc::clone(&mailbox);
        mailbox.send(move |n| {
            own.send(|n| *n += 10);
            *n += 1;
            panic!("bad message");
        });
        assert_eq!(mailbox.try_with(|n| *n).ok(), Some(11));
        assert_eq!(mailbox.panics(), 1);
        assert!(reported.load(Relaxed));
    }

    #[test]
    fn a_panic_of_try_with_reaches_the_caller_and_strands_no_message() {
        let mailbox = Arc::new(Mailbox::new(0));
        let own = Arc::clone(&mailbox);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            mailbox.try_with(|_: &mut i32| {
                own.send(|n| *n = 7);
                panic!("direct");
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(mailbox.try_with(|n| *n).ok(), Some(7));
    }

    #[test]
    fn a_bounded_sender_hands_the_actor_on_after_its_batch() {
        let mailbox = Arc::new(Mailbox::new(Vec::new()));
        let own = Arc::clone(&mailbox);
        let mut rest = None;
        let first = move |log: &mut Vec<u32>| {
            log.push(0);
            (1..=5).for_each(|i| own.send(move |log| log.push(i)));
        };
        Mailbox::send_bounded(&mailbox, first, 2, |r| rest = Some(r));
        assert!(!mailbox.is_idle());
        mailbox.send(|log| log.push(6));
        let rest = rest.and_then(|rest| rest.run(1)).expect("three of five handled");
        drop(rest);
        assert_eq!(mailbox.try_with(|log| log.clone()).ok(), Some((0..=6).collect()));
    }

    #[test]
    fn dropping_the_mailbox_drops_its_state_once() {
        let state = Arc::new(());
        let mailbox = Mailbox::new(Arc::clone(&state));
        mailbox.send(|_| ());
        drop(mailbox);
        assert_eq!(Arc::strong_count(&state), 1);
    }
}
