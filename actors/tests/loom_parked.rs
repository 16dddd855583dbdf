//! Cancelling races with serving, and every parked request is resumed exactly once.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=/tmp/loom-target cargo test --release -p
//! actorflow-actors --test loom_parked`; without the flag a stress test on real threads.

mod support;

use actorflow_actors::{
    mailbox::Mailbox,
    parked::{Cancellation, Cause, Continuation, ParkedQueue, Resumed, Serve, Verdict},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        thread,
    },
};

/// A pile of tokens; a request wants some and gathers them as they come.
struct Tokens(u32);

struct Want {
    want: u32,
    got: u32,
}

impl Serve<Want, u32> for Tokens {
    fn serve(&mut self, request: &mut Want) -> Verdict<u32> {
        let more = self.0.min(request.want - request.got);
        self.0 -= more;
        request.got += more;
        if request.got == request.want {
            Verdict::Complete(request.got)
        } else {
            Verdict::Wait
        }
    }

    fn reclaim(&mut self, request: Want) {
        self.0 += request.got;
    }
}

struct Resource {
    tokens: Tokens,
    parked: ParkedQueue<Want, u32>,
}

impl Resource {
    fn new() -> Self {
        Self {
            tokens: Tokens(0),
            parked: ParkedQueue::new(),
        }
    }

    fn add(&mut self, tokens: u32) {
        self.tokens.0 += tokens;
        self.scan();
    }

    fn scan(&mut self) {
        self.parked.scan(&mut self.tokens);
    }
}

/// Counts how often a node was resumed, served in the low half, cancelled in the high half.
fn count(resumed: &Arc<AtomicUsize>) -> Continuation<u32> {
    let resumed = Arc::clone(resumed);
    Box::new(move |outcome| {
        let one = if matches!(outcome, Resumed::Served(_)) {
            1
        } else {
            1 << 16
        };
        resumed.fetch_add(one, Relaxed);
    })
}

const SERVED: usize = 1;
const CANCELLED: usize = 1 << 16;

#[test]
fn a_request_is_served_or_cancelled_and_no_token_is_lost() {
    support::model(|| {
        let mut resource = Resource::new();
        let resumed = [0; 2].map(|_| Arc::new(AtomicUsize::new(0)));
        let ticket = resource.parked.park(1, Want { want: 2, got: 0 }, count(&resumed[0]));
        resource.parked.park(2, Want { want: 1, got: 0 }, count(&resumed[1]));
        resource.add(1);
        let mailbox = Arc::new(Mailbox::new(resource));

        let other = Arc::clone(&mailbox);
        let canceller = thread::spawn(move || {
            let outcome = ticket.cancel(Cause::Aborted);
            other.send(Resource::scan);
            outcome
        });
        mailbox.send(|resource| resource.add(1));
        let outcome = canceller.join().expect("no panic");

        let first = resumed[0].load(Relaxed);
        match outcome {
            Cancellation::Done => assert_eq!(first, CANCELLED),
            Cancellation::TooLate => assert_eq!(first, SERVED),
            Cancellation::Noted => assert!(first == SERVED || first == CANCELLED),
        }
        let second = if first == SERVED { 0 } else { SERVED };
        assert_eq!(resumed[1].load(Relaxed), second);
        let left = mailbox
            .try_with(|resource| resource.tokens.0)
            .ok()
            .expect("nobody else is left");
        assert_eq!(left, if first == SERVED { 0 } else { 1 });
    });
}

#[test]
fn a_request_that_must_wait_on_is_cancelled_even_if_it_was_just_looked_at() {
    support::model(|| {
        let mut resource = Resource::new();
        let resumed = [0; 2].map(|_| Arc::new(AtomicUsize::new(0)));
        let ticket = resource.parked.park(1, Want { want: 2, got: 0 }, count(&resumed[0]));
        resource.parked.park(2, Want { want: 1, got: 0 }, count(&resumed[1]));
        let mailbox = Arc::new(Mailbox::new(resource));

        let other = Arc::clone(&mailbox);
        let canceller = thread::spawn(move || {
            assert_ne!(ticket.cancel(Cause::Aborted), Cancellation::TooLate);
            other.send(Resource::scan);
        });
        mailbox.send(|resource| resource.add(1));
        canceller.join().expect("no panic");

        assert_eq!(resumed[0].load(Relaxed), CANCELLED);
        assert_eq!(resumed[1].load(Relaxed), SERVED);
        assert_eq!(mailbox.try_with(|resource| resource.tokens.0).ok(), Some(0));
    });
}

#[test]
fn two_cancellers_and_the_dropping_resource_resume_it_once() {
    support::model(|| {
        let mut resource = Resource::new();
        let resumed = Arc::new(AtomicUsize::new(0));
        let ticket = resource.parked.park(1, Want { want: 1, got: 0 }, count(&resumed));
        let cancellers = [Cause::Aborted, Cause::Deadline].map(|cause| {
            let ticket = ticket.clone();
            thread::spawn(move || ticket.cancel(cause))
        });
        drop(resource);
        for canceller in cancellers {
            canceller.join().expect("no panic");
        }
        assert_eq!(resumed.load(Relaxed), CANCELLED);
    });
}

#[test]
fn cancelling_a_step_races_with_its_tickets() {
    support::model(|| {
        let mut resource = Resource::new();
        let resumed = [0; 2].map(|_| Arc::new(AtomicUsize::new(0)));
        let tickets = [0, 1].map(|i| resource.parked.park(7, Want { want: 1, got: 0 }, count(&resumed[i])));
        let [first, _second] = tickets;
        let canceller = thread::spawn(move || first.cancel(Cause::Deadline));
        resource.parked.cancel_step(7, Cause::Aborted, &mut resource.tokens);
        canceller.join().expect("no panic");
        assert!(resumed.iter().all(|resumed| resumed.load(Relaxed) == CANCELLED));
        assert!(resource.parked.is_empty());
    });
}
