//! One holder of a turn at a time, every request is granted once and in order, and the actor is idle in the end.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=/tmp/loom-target cargo test --release -p
//! actorflow-actors --test loom_turn`; without the flag a stress test on real threads.

mod support;

use actorflow_actors::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        thread,
    },
    turn::TurnMailbox,
};
use actorflow_core::actor::Mailbox;

/// State that is only touched with the turn held: the digits of what was entered.
///
/// An entry is a load and a store without any ordering of their own. Were two holders there at the same time, or did
/// the second not see what the first has done, a digit would be missing in the end.
struct Guarded {
    mailbox: TurnMailbox,
    digits: AtomicUsize,
}

impl Guarded {
    fn new() -> Arc<Guarded> {
        Arc::new(Guarded {
            mailbox: TurnMailbox::new(),
            digits: AtomicUsize::new(0),
        })
    }

    /// With the turn held.
    fn enter(&self, digit: usize) {
        self.digits.store(self.digits.load(Relaxed) * 10 + digit, Relaxed);
    }

    /// What was entered, when nobody is left.
    fn entries(&self) -> Vec<u8> {
        assert!(self.mailbox.try_claim(), "the actor is idle in the end");
        self.digits.load(Relaxed).to_string().into_bytes()
    }
}

/// Asks for the turn, enters a digit and gives the turn up.
fn visit(actor: &Arc<Guarded>, digit: usize) {
    let own = Arc::clone(actor);
    actor.mailbox.claim(Box::new(move || {
        own.enter(digit);
        own.mailbox.release();
    }));
}

/// A thread that visits with these digits, one after the other.
fn visitor<const N: usize>(actor: &Arc<Guarded>, digits: [usize; N]) -> thread::JoinHandle<()> {
    let own = Arc::clone(actor);
    thread::spawn(move || digits.into_iter().for_each(|digit| visit(&own, digit)))
}

/// These digits in any order that keeps each visitor's own.
#[track_caller]
fn has(entries: &[u8], visitors: &[&str]) {
    for visitor in visitors {
        let own: Vec<u8> = entries
            .iter()
            .copied()
            .filter(|e| visitor.as_bytes().contains(e))
            .collect();
        assert_eq!(own, visitor.as_bytes());
    }
    assert_eq!(entries.len(), visitors.iter().map(|v| v.len()).sum::<usize>());
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn every_request_is_granted_once_and_in_each_visitors_order() {
    support::model(|| {
        let actor = Guarded::new();
        let threads = [visitor(&actor, [1, 2]), visitor(&actor, [3])];
        visit(&actor, 4);
        join(threads);
        has(&actor.entries(), &["12", "3", "4"]);
    });
}

#[test]
fn a_turn_taken_at_once_excludes_those_who_wait_and_is_handed_to_them() {
    support::model(|| {
        let actor = Guarded::new();
        let threads = [visitor(&actor, [1]), visitor(&actor, [2])];
        let direct = actor.mailbox.try_claim();
        if direct {
            actor.enter(3);
            actor.mailbox.release();
        }
        join(threads);
        has(&actor.entries(), if direct { &["1", "2", "3"] } else { &["1", "2"] });
    });
}

#[test]
fn those_who_waited_are_granted_in_their_order_while_another_comes() {
    support::model(|| {
        let actor = Guarded::new();
        assert!(actor.mailbox.try_claim());
        visit(&actor, 1);
        visit(&actor, 2);
        let other = visitor(&actor, [3]);
        actor.mailbox.release();
        join([other]);
        has(&actor.entries(), &["12", "3"]);
    });
}

#[test]
fn a_kept_turn_is_given_up_by_the_thread_that_it_was_handed_to() {
    support::model(|| {
        let actor = Guarded::new();
        let other = visitor(&actor, [1]);
        let keeper = Arc::clone(&actor);
        let kept = Arc::new(std::sync::Mutex::new(None));
        let handed = Arc::clone(&kept);
        actor.mailbox.claim(Box::new(move || {
            let thread = thread::spawn(move || {
                keeper.enter(2);
                keeper.mailbox.release();
            });
            *handed.lock().expect("no panic") = Some(thread);
        }));
        visit(&actor, 3);
        join([other]);
        join(kept.lock().expect("no panic").take());
        has(&actor.entries(), &["1", "23"]);
    });
}

#[test]
fn a_turn_that_asks_for_another_actor_and_for_its_own_again_ends() {
    support::model(|| {
        let (a, b) = (Guarded::new(), Guarded::new());
        let other = visitor(&b, [1]);
        let (first, second) = (Arc::clone(&a), Arc::clone(&b));
        a.mailbox.claim(Box::new(move || {
            first.enter(1);
            visit(&first, 2);
            visit(&second, 2);
            first.mailbox.release();
        }));
        join([other]);
        assert_eq!(a.entries(), b"12");
        has(&b.entries(), &["1", "2"]);
    });
}

#[test]
fn requests_that_still_wait_are_dropped_with_the_actor() {
    support::model(|| {
        let alive = Arc::new(());
        let actor = Arc::new(TurnMailbox::new());
        assert!(actor.try_claim());
        let threads = [0, 1].map(|_| {
            let (actor, alive) = (Arc::clone(&actor), Arc::clone(&alive));
            thread::spawn(move || actor.claim(Box::new(move || drop(alive))))
        });
        join(threads);
        drop(actor);
        assert_eq!(Arc::strong_count(&alive), 1);
    });
}
