//! The same strategies with more workers than this machine has cores: a discrete-event simulation, by measured times.
//!
//! - [`events`]: the simulation: computers that compute, a network that takes its time, servers that take pushes one after the
//!   other, and the rule of each strategy
//! - [`calibrate`]: its times, from a run
//!
//! What is simulated learns nothing; it says how many steps are made, how stale they are and who waits.

mod calibrate;
mod events;
#[cfg(test)]
mod tests;

use actorflow::train::parallel::Strategy;

use super::inject::Injection;
use super::measures::{Row, Source, Timeline, mean_age, trimmed};
use super::repeats::Repeats;
use super::setup::pushes_per_update;

pub(super) use calibrate::Times;
pub(super) use events::{Outcome, World};

/// A strategy with so many workers: hybrids keep their number of groups.
fn scaled(strategy: Strategy, workers: usize) -> Strategy {
    match strategy {
        Strategy::Hybrid { groups, .. } if workers.is_multiple_of(groups) => Strategy::Hybrid {
            groups,
            replicas: workers / groups,
        },
        other => other,
    }
}

/// Whether so many workers can be simulated by a strategy.
pub(super) fn fits(strategy: Strategy, workers: usize) -> bool {
    scaled(strategy, workers).check(workers).is_ok()
}

/// The numbers of a simulated run, as a row beside those of measured ones.
pub(super) fn row(
    times: &Times,
    strategy: Strategy,
    workers: usize,
    (injection, named): (&Injection, &[usize]),
    (batch, seed): (usize, u64),
) -> Row {
    let as_run = strategy;
    let strategy = scaled(strategy, workers);
    let world = World::new(times, strategy, workers, injection, named);
    let o: Outcome = world.run(seed);
    let examples = (pushes_per_update(strategy, workers) * batch) as f64;
    Row {
        strategy: as_run.to_string(),
        workers,
        ps: if strategy == Strategy::AllReduce { 0 } else { times.ps },
        source: Source::Simulated,
        injected: injection.to_string(),
        errors: Vec::new(),
        seconds: o.seconds,
        updates: o.updates,
        pushes: o.pushes,
        late: o.late,
        updates_per_second: o.updates as f64 / o.seconds,
        examples_per_second: o.updates as f64 * examples / o.seconds,
        seconds_to_target: None,
        examples_to_target: None,
        test_accuracy: None,
        test_loss: None,
        train_loss: None,
        mean_staleness: mean_age(&o.staleness),
        staleness: trimmed(&o.staleness),
        bytes: None,
        bytes_per_update: None,
        waiting: o.waiting,
        median_compute_seconds: times.median_compute(),
        median_wait_seconds: None,
        server_seconds_per_push: Some(times.service),
        others_steps_per_second: o.others / o.seconds,
        others_of_clean: None,
        others_longest_gap_seconds: None,
        others_median_step_seconds: None,
        per_worker: Vec::new(),
        curve: Vec::new(),
        timeline: Timeline::default(),
        deaths: Vec::new(),
        repeats: Repeats::default(),
    }
}
