//! One worker that computes ten times as long as the others, among real processes: whom it holds up under which strategy.
//!
//! Computing is sleeping, so that rates are those of the strategy and not of the machine's cores.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod processes;

use std::time::{Duration, Instant};

use processes::{Cluster, rate};

/// How long computing takes, and how long for the straggler.
const COMPUTING: Duration = Duration::from_millis(80);
const STRAGGLING: Duration = Duration::from_millis(800);
/// How long rates are taken: several steps of the straggler.
const PHASE: Duration = Duration::from_millis(3500);
const WORKERS: u32 = 3;
const STRAGGLER: usize = 1;

/// What is left of the clean rate of the workers but the straggler, all together.
fn left_over(strategy: &'static str) -> f64 {
    let c = Cluster::light(1, WORKERS, strategy);
    let (_servers, mut workers) = c.start_all(1, WORKERS);
    for w in &mut workers {
        w.steps(2);
        w.compute(COMPUTING);
    }
    let settle = || std::thread::sleep(COMPUTING * 4);
    settle();
    let clean_from = Instant::now();
    std::thread::sleep(PHASE);
    let clean_to = Instant::now();
    workers[STRAGGLER].compute(STRAGGLING);
    settle();
    let slow_from = Instant::now();
    std::thread::sleep(PHASE);
    let slow_to = Instant::now();
    let (mut clean, mut slow) = (0.0, 0.0);
    for (i, w) in workers.iter().enumerate() {
        if i != STRAGGLER {
            clean += rate(&w.steps_between(clean_from, clean_to));
            slow += rate(&w.steps_between(slow_from, slow_to));
        }
    }
    slow / clean
}

#[test]
fn a_straggler_holds_up_synchronous_workers_but_neither_asynchronous_ones_nor_those_with_a_reserve() {
    // At the same time: all of them sleep.
    let left: Vec<(&str, f64)> = std::thread::scope(|scope| {
        let each = ["async", "sync+backup1", "sync"].map(|s| scope.spawn(move || (s, left_over(s))));
        each.map(|t| t.join().unwrap()).into()
    });
    println!("of the clean rate are left: {left:?}");
    for (strategy, left) in left {
        if strategy == "sync" {
            assert!(left < 0.3, "{strategy}: {left}");
        } else {
            assert!(left >= 0.9, "{strategy}: {left}");
        }
    }
}
