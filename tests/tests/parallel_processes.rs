//! Data parallelism among real processes, some of which are killed: what the others feel of it.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod processes;

use std::time::{Duration, Instant};

use processes::{Cluster, LAST, Step, Task, longest_gap, median_gap, rate};

/// The longest time that may pass between two steps of those who are left.
fn allowed(steps: &[Step]) -> Duration {
    2 * median_gap(steps) + Duration::from_secs(1)
}

#[test]
fn a_killed_worker_costs_asynchronous_ones_nothing() {
    let c = Cluster::light(1, 3, "async");
    let (_servers, mut workers) = c.start_all(1, 3);
    // They compute most of the time, without a core, so that a rate is not the machine's.
    let (computing, phase) = (Duration::from_millis(40), Duration::from_secs(2));
    for w in &mut workers {
        w.steps(3);
        w.compute(computing);
        w.steps(3);
    }
    let begun = Instant::now();
    std::thread::sleep(phase);
    let killed = Instant::now();
    workers[1].kill();
    std::thread::sleep(phase);
    let end = Instant::now();
    for w in [0, 2] {
        let steps = workers[w].steps_between(begun, end);
        assert!(steps.iter().all(|s| s.2));
        let (before, after): (Vec<Step>, Vec<Step>) = steps.iter().partition(|s| s.0 < killed);
        assert!(
            rate(&after) >= 0.8 * rate(&before),
            "worker {w}: {} steps a second, then {}",
            rate(&before),
            rate(&after)
        );
        assert!(longest_gap(&steps) <= allowed(&steps), "{:?}", longest_gap(&steps));
    }
    // It comes back as another process, and finds the training where it is.
    let (_, before, _) = workers[0].steps(1)[0];
    workers[1] = c.start("worker", 1);
    assert!(workers[1].steps(3)[0].1 > before);
}

#[test]
fn a_killed_worker_holds_up_nobody_where_one_is_in_reserve() {
    let c = Cluster::new(1, 3, "sync+backup1");
    let (_servers, mut workers) = c.start_all(1, 3);
    for w in &workers {
        w.steps(5);
    }
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(700));
    workers[2].kill();
    std::thread::sleep(Duration::from_millis(1500));
    let end = Instant::now();
    // All who live, over the same time.
    for (w, worker) in workers[..2].iter().enumerate() {
        let steps = worker.steps_between(begun, end);
        assert!(
            longest_gap(&steps) <= allowed(&steps),
            "worker {w}: {:?}, where a step takes {:?}",
            longest_gap(&steps),
            median_gap(&steps)
        );
        // And at the end nobody is held up.
        assert!(end - steps.last().unwrap().0 <= allowed(&steps), "worker {w}");
        // One set of winners for each step: none is passed over, none comes twice.
        assert!(steps.windows(2).all(|w| w[1].1 > w[0].1), "worker {w}");
    }
}

#[test]
fn a_chief_that_was_killed_resumes_where_the_others_wait() {
    let c = Cluster::new(2, 2, "sync");
    let (_servers, mut workers) = c.start_all(2, 2);
    let (_, before, _) = *workers[1].steps(8).last().unwrap();
    workers[0].kill();
    workers[0] = c.start("worker", 0);
    let resumed = workers[0].steps(3);
    // It neither begins anew nor leaves out a step.
    assert!(resumed[0].1 >= before, "{resumed:?} after {before}");
    assert!(resumed.windows(2).all(|w| w[1].1 == w[0].1 + 1));
    workers[1].steps(1);
}

/// Under all-reduce the killed worker takes its parameters and its buckets with it.
fn a_worker_of_an_all_reduce_is_killed(victim: usize) {
    let c = Cluster::new(0, 3, "allreduce");
    let (_, mut workers) = c.start_all(0, 3);
    let counted = |w: &Task| -> f64 { w.line("COUNT").1.parse().unwrap() };
    for w in &workers {
        w.steps(5);
    }
    for _ in 0..2 {
        workers[victim].kill();
        workers[victim] = c.start("worker", victim as u32);
        let back = workers[victim].steps(4);
        assert!(back[0].1 > 5, "it began anew: {back:?}");
        assert!(back.windows(2).all(|w| w[1].1 == w[0].1 + 1), "{back:?}");
        // Each step has counted once: the variable has the number of the step.
        for w in &workers {
            w.skip();
            let (count, (_, step, applied)) = (counted(w), w.steps(1)[0]);
            assert_eq!((count, applied), (step as f64, true));
        }
    }
}

#[test]
fn a_killed_worker_of_an_all_reduce_takes_its_place_again() {
    a_worker_of_an_all_reduce_is_killed(1);
}

#[test]
fn a_killed_chief_of_an_all_reduce_takes_its_place_again() {
    a_worker_of_an_all_reduce_is_killed(0);
}

/// Kills a task in the middle of a monitored training, starts it again, and waits for the end.
fn a_monitored_training_survives(victim: &str) {
    let c = Cluster::new(2, 2, "monitored-sync");
    let (mut servers, mut workers) = c.start_all(2, 2);
    let (_, before, _) = *workers[0].steps(12).last().unwrap();
    workers[1].steps(12);
    let again = match victim {
        "ps" => &mut servers[1],
        _ => &mut workers[0],
    };
    again.kill();
    *again = c.start(victim, u32::from(victim == "ps"));
    for w in &workers {
        let mut seen = vec![before];
        while seen[seen.len() - 1] < LAST as u64 {
            seen.push(w.steps(1)[0].1);
        }
        // Never further back than the last checkpoint, which is at most so old.
        assert!(seen.windows(2).all(|w| w[1] + 6 > w[0]), "{seen:?}");
    }
    let recovered: Vec<usize> = workers
        .iter()
        .map(|w| w.line("RECOVERIES").1.parse().unwrap())
        .collect();
    for w in &workers {
        w.line("END");
    }
    if victim == "ps" {
        assert!(recovered.iter().all(|n| *n > 0), "{recovered:?}");
    }
}

#[test]
fn a_monitored_training_goes_on_from_its_checkpoint_when_a_server_comes_back_empty() {
    a_monitored_training_survives("ps");
}

#[test]
fn a_chief_of_a_monitored_training_that_was_killed_takes_its_place_again() {
    a_monitored_training_survives("worker");
}
