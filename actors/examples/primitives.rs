//! What the runtime's primitives cost on this machine: `cargo run --release -p actorflow-actors --example primitives`.
//!
//! Prints the best and the median of many rounds, in nanoseconds for one operation.

use std::{
    hint::black_box,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use actorflow_actors::{
    mailbox::Mailbox,
    pending::Pending,
    pool::{Event, PoolOptions, WorkerCx, WorkerPool},
};
use actorflow_core::parallel::Parallel;

/// Times `rounds` rounds of `each` operations, with `between` called untimed before every round.
fn measure(name: &str, rounds: usize, each: u32, mut between: impl FnMut(), mut operation: impl FnMut()) {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            between();
            let start = Instant::now();
            for _ in 0..each {
                operation();
            }
            start.elapsed().as_nanos() as f64 / f64::from(each)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{name:48} best {:9.1} ns   median {:9.1} ns",
        times[0],
        times[rounds / 2]
    );
}

fn main() {
    let word = Pending::new(1);
    measure(
        "pending: reset and arrive",
        200,
        10_000,
        || (),
        || {
            word.reset(1);
            assert!(black_box(&word).arrive(1));
        },
    );
    measure(
        "pending: reset and arrive_solo",
        200,
        10_000,
        || (),
        || {
            word.reset(1);
            assert!(black_box(&word).arrive_solo(1));
        },
    );

    let mailbox = Mailbox::new(0u64);
    measure(
        "mailbox: try_with, idle",
        200,
        10_000,
        || (),
        || {
            let _ = black_box(&mailbox).try_with(|n| *n += 1);
        },
    );
    measure(
        "mailbox: send, idle",
        200,
        10_000,
        || (),
        || black_box(&mailbox).send(|n| *n += 1),
    );
    let shared = Arc::new(Mailbox::new(0u64));
    let own = Arc::clone(&shared);
    measure(
        "mailbox: send, busy (queued and drained)",
        200,
        1,
        || (),
        || {
            let own = Arc::clone(&own);
            shared.send(move |_| (0..1000).for_each(|_| own.send(|n| *n += 1)));
        },
    );

    let single = WorkerPool::new(PoolOptions::new(1));
    measure(
        "pool of 1: enter",
        200,
        10_000,
        || (),
        || drop(black_box(&single).enter()),
    );
    measure(
        "pool of 1: empty region of 2 chunks",
        200,
        10_000,
        || (),
        || {
            single.run(2, &|i| {
                black_box(i);
            });
        },
    );

    let pool = WorkerPool::new(PoolOptions::new(2));
    let seat = pool.enter();
    let step = pool.step_guard();
    let region = || {
        pool.run(2, &|i| {
            black_box(i);
        });
    };
    measure(
        "pool of 2: enter, nested",
        200,
        10_000,
        || (),
        || drop(black_box(&pool).enter()),
    );
    let warm = || (0..100).for_each(|_| region());
    measure("pool of 2: empty region of 2 chunks, hot", 300, 1_000, warm, region);
    let pause = || {
        region();
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(5) {
            std::hint::spin_loop();
        }
    };
    measure("pool of 2: the same, 5 us after the last", 3_000, 1, pause, region);
    // Both chunks are long enough for the helper to come: what is left beyond 10 us is the cost of sharing.
    let halves = || {
        pool.run(2, &|_| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(10) {
                std::hint::spin_loop();
            }
        });
    };
    measure("pool of 2: region of 2 x 10 us, hot", 300, 20, halves, halves);
    drop(step);
    measure(
        "pool of 2: empty region, cold (workers asleep)",
        300,
        1,
        || thread::sleep(Duration::from_millis(1)),
        region,
    );
    measure(
        "pool of 2: region of 2 x 10 us, cold",
        300,
        1,
        || thread::sleep(Duration::from_millis(1)),
        halves,
    );
    drop(seat);

    let done = Arc::new(Event::new());
    measure(
        "pool of 2: spawn a task and wait, cold",
        300,
        1,
        || thread::sleep(Duration::from_millis(1)),
        || {
            done.reset();
            let set = Arc::clone(&done);
            pool.spawn(Box::new(move |_: &WorkerCx<'_>| set.set()));
            done.wait(None);
        },
    );
    let step = pool.step_guard();
    measure(
        "pool of 2: spawn a task and wait, hot",
        300,
        100,
        || (),
        || {
            done.reset();
            let set = Arc::clone(&done);
            pool.spawn(Box::new(move |_: &WorkerCx<'_>| set.set()));
            while !done.is_set() {
                std::hint::spin_loop();
            }
        },
    );
    drop(step);
    println!("{:?}", pool.stats());
}
