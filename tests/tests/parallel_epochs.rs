//! Examples of synchronous training among real processes: each is used exactly once in each epoch, whoever is killed.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod processes;

use std::time::Duration;

use processes::epochs::EPOCHS;
use processes::{Cluster, Task};

/// Waits for the end; every example was used once in every epoch.
fn all_were_used_once(workers: &[Task]) {
    for w in workers {
        assert_eq!(w.line("USES").1, format!("{EPOCHS} {EPOCHS}"));
        w.line("END");
    }
}

/// Lets all workers take steps until that one, so that the test is never behind them.
fn until(workers: &mut [Task], step: u64) {
    workers.iter_mut().for_each(|w| w.until(step));
}

fn a_worker_dies_again_and_again(strategy: &'static str) {
    let c = Cluster::light(1, 2, strategy);
    let (_servers, mut workers) = c.start_all(1, 2);
    let mut bound = 0;
    for (at, computing) in [(3, 0), (6, 5), (5, 20)] {
        bound += 9;
        for w in &mut workers {
            w.compute(Duration::from_millis(computing.max(2)));
        }
        until(&mut workers, bound);
        workers[0].steps(at);
        // It dies before it pushes, while it waits, or when it has pushed: at any time of a step.
        std::thread::sleep(Duration::from_millis(computing));
        workers[1].kill();
        workers[1] = c.start("worker", 1);
        bound += 4;
        until(&mut workers, bound);
        workers[1].steps(2);
        workers[0].skip();
    }
    until(&mut workers, u64::MAX);
    all_were_used_once(&workers);
}

#[test]
fn examples_of_a_worker_that_is_killed_and_started_again_are_used_once() {
    a_worker_dies_again_and_again("epochs-sync");
}

#[test]
fn examples_of_an_all_reduce_whose_worker_is_killed_are_used_once() {
    a_worker_dies_again_and_again("epochs-allreduce");
}

#[test]
fn examples_are_used_once_when_a_server_is_lost_and_its_values_come_from_a_checkpoint() {
    let c = Cluster::light(1, 2, "monitored-epochs-sync");
    let (mut servers, mut workers) = c.start_all(1, 2);
    for w in &mut workers {
        w.compute(Duration::from_millis(20));
    }
    until(&mut workers, 20);
    workers[1].steps(13);
    servers[0].kill();
    servers[0] = c.start("ps", 0);
    // Some steps are taken again, from the checkpoint on.
    until(&mut workers, 40);
    workers[1].steps(12);
    workers[0].skip();
    // The chief, too.
    workers[0].kill();
    workers[0] = c.start("worker", 0);
    until(&mut workers, u64::MAX);
    all_were_used_once(&workers);
}
