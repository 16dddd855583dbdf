//! The mailbox loses no message, runs one at a time, keeps the order of each sender, and is idle in the end.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=/tmp/loom-target cargo test --release -p
//! actorflow-actors --test loom_mailbox`; without the flag a stress test on real threads.

mod support;

use actorflow_actors::{
    mailbox::Mailbox,
    sync::{Arc, thread},
};

type Log = Vec<(u8, u8)>;

/// The messages of `sender`, in the order they were handled.
fn of(log: &Log, sender: u8) -> Vec<u8> {
    log.iter()
        .filter(|entry| entry.0 == sender)
        .map(|entry| entry.1)
        .collect()
}

fn final_log(mailbox: &Mailbox<Log>) -> Log {
    assert!(mailbox.is_idle());
    mailbox.try_with(|log| log.clone()).ok().expect("nobody else is left")
}

#[test]
fn nothing_is_lost_and_every_sender_keeps_its_order() {
    support::model(|| {
        let mailbox = Arc::new(Mailbox::new(Log::new()));
        let threads = [1, 2].map(|sender| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                for i in 0..2 {
                    mailbox.send(move |log| log.push((sender, i)));
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let log = final_log(&mailbox);
        assert_eq!((of(&log, 1), of(&log, 2), log.len()), (vec![0, 1], vec![0, 1], 4));
    });
}

#[test]
fn three_senders_and_a_direct_caller_exclude_each_other() {
    support::model(|| {
        let mailbox = Arc::new(Mailbox::new(Log::new()));
        let threads = [1, 2].map(|sender| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.send(move |log| log.push((sender, 0))))
        });
        let direct = mailbox.try_with(|log| log.push((3, 0))).is_ok();
        mailbox.send(|log| log.push((3, 1)));
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let log = final_log(&mailbox);
        assert_eq!((of(&log, 1), of(&log, 2)), (vec![0], vec![0]));
        assert_eq!(of(&log, 3), if direct { vec![0, 1] } else { vec![1] });
    });
}

#[test]
fn a_handler_that_sends_to_its_own_actor_races_with_another_sender() {
    support::model(|| {
        let mailbox = Arc::new(Mailbox::new(Log::new()));
        let other = Arc::clone(&mailbox);
        let thread = thread::spawn(move || other.send(|log| log.push((2, 0))));
        let own = Arc::clone(&mailbox);
        mailbox.send(move |log| {
            own.send(|log| log.push((1, 1)));
            log.push((1, 0));
        });
        thread.join().expect("no panic");
        let log = final_log(&mailbox);
        assert_eq!((of(&log, 1), of(&log, 2)), (vec![0, 1], vec![0]));
    });
}

#[test]
fn an_actor_that_was_handed_on_is_finished_by_the_other_thread() {
    support::model(|| {
        let mailbox = Arc::new(Mailbox::new(Log::new()));
        let other = Arc::clone(&mailbox);
        let thread = thread::spawn(move || {
            other.send(|log| log.push((2, 0)));
            other.send(|log| log.push((2, 1)));
        });
        let mut helper = None;
        Mailbox::send_bounded(
            &mailbox,
            |log| log.push((1, 0)),
            0,
            |rest| {
                helper = Some(thread::spawn(move || assert!(rest.run(usize::MAX).is_none())));
            },
        );
        thread.join().expect("no panic");
        helper.into_iter().for_each(|helper| helper.join().expect("no panic"));
        let log = final_log(&mailbox);
        assert_eq!((of(&log, 1), of(&log, 2)), (vec![0], vec![0, 1]));
    });
}
