//! Requests to a resource actor that cannot be served yet: a queue of continuations instead of blocked threads.
//!
//! A `QueueDequeue` on an empty queue, a `MutexLock` on a taken mutex: the actor *parks* the request with the
//! continuation of the node that made it, and goes on. Whenever its state changes it [scans](ParkedQueue::scan)
//! the queue from the front and serves what can be served; first come, first served.
//!
//! **Exactly once.** Every parked continuation is resumed exactly once: with a value, or with the [`Cause`] of its
//! cancellation. The actor's own thread serves and anyone may cancel through the [`Ticket`], at any time, from any
//! thread, without going through the mailbox. The two meet in the entry: serving first *claims* the continuation,
//! so a request is never half served and then cancelled. A cancellation that comes during a claim is left as a
//! note; it takes effect if the actor decides that the request must wait on, and is too late if it was served.
//!
//! **Putting back.** What a request had gathered before it was cancelled (`QueueDequeueMany` with half its
//! elements) is given to [`Serve::reclaim`], on the actor's thread, before the next request is looked at. When the
//! ticket cancelled it, that is the next scan: whoever cancels from outside sends the actor a message that scans.
//!
//! **Cancellation of a step.** [`ParkedQueue::cancel_step`] wakes everything one step has parked here, as an abort
//! or a deadline needs; it runs on the actor's thread, as a message.
//!
//! **Disconnection.** Dropping the queue (the resource is gone) resumes everything with [`Cause::Dropped`].
//!
//! **Capacity.** One entry for each node of a running step that waits here, so the number of concurrent steps
//! bounds it. Entries cancelled through tickets stay until the next scan.
//!
//! **Failure.** A panic in serving one request cancels that request with [`Cause::Panicked`]; a continuation that
//! panics has been resumed. Either way the scan goes on, and the first panic is raised again at its end, so that
//! the [mailbox](crate::mailbox) reports it and nobody behind is left waiting.

#![forbid(unsafe_code)]

use std::{
    any::Any,
    collections::VecDeque,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use crate::sync::{Arc, Mutex};

/// Why a parked request was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its step was aborted or cancelled.
    Aborted,
    /// Its step's deadline passed.
    Deadline,
    /// The resource was closed for such requests.
    Closed,
    /// The resource is gone.
    Dropped,
    /// Serving it panicked.
    Panicked,
}

/// What a parked node is resumed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed<T> {
    /// The request was served.
    Served(T),
    /// It was not, and never will be.
    Cancelled(Cause),
}

/// What a parked node does next; called exactly once. Must not block.
pub type Continuation<T> = Box<dyn FnOnce(Resumed<T>) + Send>;

/// What became of an attempt to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// The continuation has been resumed with the cause, by this call.
    Done,
    /// The actor is looking at the request at this moment: it serves it, or cancels it in this call's stead.
    Noted,
    /// The request was served, or cancelled before.
    TooLate,
}

/// What the actor decides about the request in hand.
#[derive(Debug)]
pub enum Verdict<T> {
    /// Served: resume the node with this.
    Complete(T),
    /// Never: resume the node with this cause.
    Refuse(Cause),
    /// It waits, and so does everything behind it.
    Wait,
    /// It waits, but those behind it may go ahead.
    Skip,
}

/// The actor's side of a scan.
pub trait Serve<R, T> {
    /// Decides about a request; may keep what it has gathered so far in it.
    fn serve(&mut self, request: &mut R) -> Verdict<T>;

    /// Takes back what a cancelled request had gathered.
    fn reclaim(&mut self, request: R) {
        drop(request);
    }
}

enum State<T> {
    Parked(Continuation<T>),
    /// The actor has the continuation in hand.
    Claimed,
    /// The same, and somebody has cancelled meanwhile.
    ClaimedAndCancelled(Cause),
    Done,
}

/// The part of an entry that canceller and actor share. The lock is held for a few instructions, never while a
/// continuation or a request runs.
struct Slot<T> {
    state: Mutex<State<T>>,
}

impl<T> Slot<T> {
    fn claim(&self) -> Option<Continuation<T>> {
        let mut state = self.state.lock();
        match mem::replace(&mut *state, State::Claimed) {
            State::Parked(continuation) => Some(continuation),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Puts a claimed continuation back, unless it was cancelled meanwhile.
    fn unclaim(&self, continuation: Continuation<T>) -> Option<(Continuation<T>, Cause)> {
        let mut state = self.state.lock();
        match *state {
            State::ClaimedAndCancelled(cause) => {
                *state = State::Done;
                Some((continuation, cause))
            }
            _ => {
                *state = State::Parked(continuation);
                None
            }
        }
    }

    fn finish(&self) {
        *self.state.lock() = State::Done;
    }

    fn is_done(&self) -> bool {
        matches!(*self.state.lock(), State::Done)
    }

    fn cancel(&self, cause: Cause) -> Cancellation {
        let continuation = {
            let mut state = self.state.lock();
            match mem::replace(&mut *state, State::Done) {
                State::Parked(continuation) => continuation,
                State::Claimed => {
                    *state = State::ClaimedAndCancelled(cause);
                    return Cancellation::Noted;
                }
                State::ClaimedAndCancelled(first) => {
                    *state = State::ClaimedAndCancelled(first);
                    return Cancellation::TooLate;
                }
                State::Done => return Cancellation::TooLate,
            }
        };
        continuation(Resumed::Cancelled(cause));
        Cancellation::Done
    }
}

/// The right to cancel one parked request, from any thread.
pub struct Ticket<T> {
    slot: Arc<Slot<T>>,
}

impl<T> Ticket<T> {
    /// Cancels the request if it has not been served. The continuation runs in this call.
    ///
    /// Afterwards send the actor a message that scans, so that what the request had gathered is put back.
    pub fn cancel(&self, cause: Cause) -> Cancellation {
        self.slot.cancel(cause)
    }

    /// Whether the node has been, or is just being, resumed; a snapshot.
    pub fn is_done(&self) -> bool {
        self.slot.is_done()
    }
}

impl<T> Clone for Ticket<T> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
        }
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("done", &self.is_done()).finish()
    }
}

struct Entry<R, T> {
    step: u64,
    request: R,
    slot: Arc<Slot<T>>,
}

/// The parked requests of one resource actor, oldest first: requests of type `R`, each resumed with a `T`. Part of
/// the actor's state.
pub struct ParkedQueue<R, T> {
    entries: VecDeque<Entry<R, T>>,
}

impl<R, T> Default for ParkedQueue<R, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R, T> ParkedQueue<R, T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            entries: VecDeque::new(),
        }
    }

    /// Parks a request of step `step` at the end of the queue.
    pub fn park(&mut self, step: u64, request: R, continuation: Continuation<T>) -> Ticket<T> {
        let slot = Arc::new(Slot {
            state: Mutex::new(State::Parked(continuation)),
        });
        self.entries.push_back(Entry {
            step,
            request,
            slot: Arc::clone(&slot),
        });
        Ticket { slot }
    }

    /// How many entries there are, those cancelled since the last scan included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The requests that wait, oldest first; for reports on what a step is waiting for.
    pub fn waiting(&self) -> impl Iterator<Item = (u64, &R)> {
        self.entries
            .iter()
            .filter(|entry| !entry.slot.is_done())
            .map(|entry| (entry.step, &entry.request))
    }

    /// Reclaims what was cancelled, then serves from the front until a request says [`Verdict::Wait`] or the end
    /// is reached. Returns how many nodes were resumed with a value or refused.
    ///
    /// # Panics
    /// Raises the first panic of serving or of a continuation again, when everything else is done.
    pub fn scan(&mut self, server: &mut impl Serve<R, T>) -> usize {
        let mut panics = Panics::default();
        let mut resumed = 0;
        'again: loop {
            self.sweep(server, &mut panics);
            let mut at = 0;
            while let Some(entry) = self.entries.get_mut(at) {
                let Some(continuation) = entry.slot.claim() else {
                    // Cancelled since the sweep: what it had may serve an earlier one.
                    continue 'again;
                };
                let verdict = panics.contain(|| server.serve(&mut entry.request));
                let outcome = match verdict {
                    Some(Verdict::Complete(value)) => Resumed::Served(value),
                    Some(Verdict::Refuse(cause)) => Resumed::Cancelled(cause),
                    None => Resumed::Cancelled(Cause::Panicked),
                    Some(wait @ (Verdict::Wait | Verdict::Skip)) => {
                        if let Some((continuation, cause)) = entry.slot.unclaim(continuation) {
                            if let Some(entry) = self.entries.remove(at) {
                                panics.contain(|| server.reclaim(entry.request));
                            }
                            panics.contain(|| continuation(Resumed::Cancelled(cause)));
                            continue 'again;
                        }
                        if matches!(wait, Verdict::Wait) {
                            break 'again;
                        }
                        at += 1;
                        continue;
                    }
                };
                entry.slot.finish();
                // Removed before it is resumed, so that it is gone whatever the continuation does.
                drop(self.entries.remove(at));
                resumed += 1;
                panics.contain(|| continuation(outcome));
            }
            break;
        }
        panics.raise();
        resumed
    }

    /// Cancels everything that step `step` has parked and puts back what it had gathered. Returns how many nodes
    /// were resumed by this. The caller scans afterwards if what was put back may serve others.
    ///
    /// # Panics
    /// As [`scan`](Self::scan).
    pub fn cancel_step(&mut self, step: u64, cause: Cause, server: &mut impl Serve<R, T>) -> usize {
        let mut panics = Panics::default();
        let mut cancelled = 0;
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            if entry.step != step {
                at += 1;
                continue;
            }
            let continuation = entry.slot.claim();
            entry.slot.finish();
            if let Some(entry) = self.entries.remove(at) {
                panics.contain(|| server.reclaim(entry.request));
            }
            if let Some(continuation) = continuation {
                cancelled += 1;
                panics.contain(|| continuation(Resumed::Cancelled(cause)));
            }
        }
        panics.raise();
        cancelled
    }

    /// Removes what was cancelled through tickets.
    fn sweep(&mut self, server: &mut impl Serve<R, T>, panics: &mut Panics) {
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            if !entry.slot.is_done() {
                at += 1;
            } else if let Some(entry) = self.entries.remove(at) {
                panics.contain(|| server.reclaim(entry.request));
            }
        }
    }
}

impl<R, T> Drop for ParkedQueue<R, T> {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        for entry in self.entries.drain(..) {
            panics.contain(|| entry.slot.cancel(Cause::Dropped));
        }
        // Raising here could meet another panic that is unwinding already.
        if !std::thread::panicking() {
            panics.raise();
        }
    }
}

impl<R: fmt::Debug, T> fmt::Debug for ParkedQueue<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.waiting()).finish()
    }
}

/// The first panic of a series of calls.
#[derive(Default)]
struct Panics {
    first: Option<Box<dyn Any + Send>>,
}

impl Panics {
    fn contain<V>(&mut self, f: impl FnOnce() -> V) -> Option<V> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) => Some(value),
            Err(payload) => {
                self.first.get_or_insert(payload);
                None
            }
        }
    }

    fn raise(self) {
        if let Some(payload) = self.first {
            resume_unwind(payload);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// A bag of numbers; a request takes as many as it asks for, gathering them as they come.
    #[derive(Default)]
    struct Bag(VecDeque<u32>);

    struct Take {
        want: usize,
        got: Vec<u32>,
    }

    impl Serve<Take, Vec<u32>> for Bag {
        fn serve(&mut self, request: &mut Take) -> Verdict<Vec<u32>> {
            while request.got.len() < request.want {
                match self.0.pop_front() {
                    Some(13) => panic!("unlucky"),
                    Some(item) => request.got.push(item),
                    None => return Verdict::Wait,
                }
            }
            Verdict::Complete(mem::take(&mut request.got))
        }

        fn reclaim(&mut self, request: Take) {
            request.got.into_iter().rev().for_each(|item| self.0.push_front(item));
        }
    }

    type Log = Arc<Mutex<Vec<(u32, Resumed<Vec<u32>>)>>>;

    fn take(want: usize) -> Take {
        Take { want, got: Vec::new() }
    }

    fn note(log: &Log, name: u32) -> Continuation<Vec<u32>> {
        let log = Arc::clone(log);
        Box::new(move |outcome| log.lock().push((name, outcome)))
    }

    #[test]
    fn requests_are_served_in_order_as_far_as_the_state_allows() {
        let (mut queue, mut bag, log) = (ParkedQueue::new(), Bag::default(), Log::default());
        queue.park(1, take(2), note(&log, 1));
        queue.park(1, take(1), note(&log, 2));
        bag.0.extend([7]);
        assert_eq!(queue.scan(&mut bag), 0);
        bag.0.extend([8, 9]);
        assert_eq!(queue.scan(&mut bag), 2);
        assert_eq!(
            *log.lock(),
            [(1, Resumed::Served(vec![7, 8])), (2, Resumed::Served(vec![9]))]
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn a_cancelled_request_gives_back_what_it_had_before_the_next_is_served() {
        let (mut queue, mut bag, log) = (ParkedQueue::new(), Bag::default(), Log::default());
        let ticket = queue.park(1, take(3), note(&log, 1));
        queue.park(2, take(1), note(&log, 2));
        bag.0.extend([7, 8]);
        assert_eq!(queue.scan(&mut bag), 0);
        assert_eq!(ticket.cancel(Cause::Deadline), Cancellation::Done);
        assert_eq!(ticket.cancel(Cause::Aborted), Cancellation::TooLate);
        assert_eq!(queue.scan(&mut bag), 1);
        assert_eq!(
            *log.lock(),
            [(1, Resumed::Cancelled(Cause::Deadline)), (2, Resumed::Served(vec![7]))]
        );
        assert_eq!(bag.0, [8]);
    }

    #[test]
    fn cancelling_a_step_wakes_all_of_it_and_nothing_else() {
        let (mut queue, mut bag, log) = (ParkedQueue::new(), Bag::default(), Log::default());
        for (name, step) in [(1, 10), (2, 20), (3, 10)] {
            queue.park(step, take(1), note(&log, name));
        }
        assert_eq!(queue.cancel_step(10, Cause::Aborted, &mut bag), 2);
        assert_eq!(queue.waiting().map(|(step, _)| step).collect::<Vec<_>>(), [20]);
        let cancelled = Resumed::Cancelled(Cause::Aborted);
        assert_eq!(*log.lock(), [(1, cancelled.clone()), (3, cancelled)]);
    }

    #[test]
    fn dropping_the_queue_cancels_everything_in_it() {
        let (mut queue, log) = (ParkedQueue::new(), Log::default());
        let ticket = queue.park(1, take(1), note(&log, 1));
        drop(queue);
        assert_eq!(*log.lock(), [(1, Resumed::Cancelled(Cause::Dropped))]);
        assert!(ticket.is_done());
    }

    #[test]
    fn a_request_whose_serving_panics_is_cancelled_and_the_next_is_served() {
        let (mut queue, mut bag, log) = (ParkedQueue::new(), Bag::default(), Log::default());
        queue.park(1, take(1), note(&log, 1));
        queue.park(1, take(1), note(&log, 2));
        bag.0.extend([13, 5]);
        assert!(catch_unwind(AssertUnwindSafe(|| queue.scan(&mut bag))).is_err());
        assert_eq!(
            *log.lock(),
            [(1, Resumed::Cancelled(Cause::Panicked)), (2, Resumed::Served(vec![5]))]
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn a_panicking_continuation_keeps_nobody_behind_it_waiting() {
        let (mut queue, mut bag, log) = (ParkedQueue::new(), Bag::default(), Log::default());
        queue.park(1, take(1), Box::new(|_| panic!("continuation")));
        queue.park(1, take(1), note(&log, 2));
        bag.0.extend([1, 2]);
        assert!(catch_unwind(AssertUnwindSafe(|| queue.scan(&mut bag))).is_err());
        assert_eq!(*log.lock(), [(2, Resumed::Served(vec![2]))]);
    }

    #[test]
    fn a_request_cancelled_while_it_is_looked_at_is_served_or_cancelled_once() {
        struct CancelsItself(Option<Ticket<u32>>, Option<u32>);
        impl Serve<(), u32> for CancelsItself {
            fn serve(&mut self, (): &mut ()) -> Verdict<u32> {
                if let Some(ticket) = self.0.take() {
                    assert_eq!(ticket.cancel(Cause::Aborted), Cancellation::Noted);
                    assert_eq!(ticket.cancel(Cause::Deadline), Cancellation::TooLate);
                }
                self.1.map_or(Verdict::Skip, Verdict::Complete)
            }
        }
        for value in [None, Some(4)] {
            let log = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&log);
            let mut queue = ParkedQueue::new();
            let ticket = queue.park(1, (), Box::new(move |outcome| seen.lock().push(outcome)));
            queue.scan(&mut CancelsItself(Some(ticket), value));
            let expected = value.map_or(Resumed::Cancelled(Cause::Aborted), Resumed::Served);
            assert_eq!(*log.lock(), [expected]);
            assert!(queue.is_empty());
        }
    }
}
