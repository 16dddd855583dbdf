//! What a run is told, and what it tells.

use std::time::Duration;

use actorflow::Result;
use actorflow::train::parallel::Strategy;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::data::Dataset;
use super::network::Shape;

/// How many pushes an update takes.
pub(super) fn pushes_per_update(strategy: Strategy, workers: usize) -> usize {
    match strategy {
        Strategy::Async { .. } | Strategy::Ssp { .. } => 1,
        Strategy::Sync { backup } => workers.saturating_sub(backup).max(1),
        Strategy::Hybrid { replicas, .. } => replicas,
        Strategy::AllReduce => workers,
    }
}

/// How the learning rate changes within the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Schedule {
    /// It stays.
    Constant,
    /// It falls to nothing in a straight line.
    Linear,
    /// It falls to nothing in half a cosine wave: slowly, fast, slowly.
    Cosine,
}

impl Schedule {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Schedule::Constant => "constant",
            Schedule::Linear => "linear",
            Schedule::Cosine => "cosine",
        }
    }

    /// What is left of the rate when this share of the budget is used.
    fn left(self, done: f64) -> f64 {
        let done = done.clamp(0.0, 1.0);
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - done,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

/// What all tasks of a run are told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    /// The strategy, as text.
    pub(super) strategy: String,
    /// How many workers.
    pub(super) workers: usize,
    /// How many parameter servers.
    pub(super) ps: usize,
    /// What is learnt from.
    pub(super) dataset: Dataset,
    /// What learns.
    pub(super) shape: Shape,
    /// Rows in a worker's step.
    pub(super) batch: usize,
    /// What is added to each number of them at most.
    pub(super) noise: f32,
    /// The learning rate, at first.
    pub(super) rate: f64,
    /// How it changes.
    pub(super) schedule: Schedule,
    /// The momentum.
    pub(super) momentum: f64,
    /// The seed of the order of rows, and of made-up ones.
    pub(super) seed: u64,
    /// Ends when the model has had so many updates.
    pub(super) updates: u64,
    /// How often the values are kept, to be judged afterwards.
    pub(super) snapshots: u64,
    /// Seconds that each step sleeps, in place of a device that computes.
    pub(super) compute: f64,
    /// How many times as long each worker takes to compute.
    pub(super) factors: Vec<f64>,
    /// The worker that keeps values: one with which nothing goes wrong, if there is one.
    pub(super) observer: usize,
    /// Threads of each task.
    pub(super) threads: usize,
    /// Seconds that a step may wait for others.
    pub(super) deadline: f64,
}

impl Setup {
    /// The strategy.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is none.
    pub(super) fn strategy(&self) -> Result<Strategy> {
        self.strategy.parse()
    }

    /// The learning rate of the update that comes after so many.
    pub(super) fn rate_after(&self, updates: u64) -> f32 {
        (self.rate * self.schedule.left(updates as f64 / self.updates.max(1) as f64)) as f32
    }

    /// The longest that a step may wait.
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs_f64(self.deadline)
    }
}

/// A step of a worker; times are microseconds from the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// When it began to compute.
    pub(super) begin: u64,
    /// When its gradients were there.
    pub(super) ready: u64,
    /// When it had new values.
    pub(super) end: u64,
    /// The updates that the model has had by then.
    pub(super) update: u64,
    /// Whether its gradients count.
    pub(super) applied: bool,
    /// The loss on its batch.
    pub(super) loss: f32,
}

/// Values of the model at a point of the run, judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    /// Seconds from the start.
    pub(super) seconds: f64,
    /// The updates that the model had had.
    pub(super) update: u64,
    /// The examples that those were computed from.
    #[serde(default)]
    pub(super) examples: u64,
    /// Mean cross-entropy on the test rows.
    pub(super) loss: f64,
    /// Accuracy on the test rows.
    pub(super) accuracy: f64,
}

/// What the worker that keeps values has seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Pushes that were applied when they were 0, 1, 2 … updates old.
    pub(super) staleness: Vec<u64>,
    /// The values, judged.
    pub(super) points: Vec<Point>,
    /// Mean cross-entropy of the last values, on the training rows.
    pub(super) train_loss: f64,
}

/// What a worker says when it has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ended {
    /// Why, if not since the budget is spent.
    pub(super) error: Option<String>,
    /// What it has seen, if it kept values.
    pub(super) seen: Option<Seen>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Used {
    /// Bytes of frames that it sent.
    pub(super) bytes: u64,
    /// Microseconds of processor time.
    pub(super) cpu: u64,
}

/// The life of a worker's process that was killed, in seconds from the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Death {
    /// Which worker.
    pub(super) worker: usize,
    /// When it was killed.
    pub(super) at: f64,
    /// When its successor began to train.
    pub(super) back: Option<f64>,
}

/// All that is known of a run.
#[derive(Debug, Default)]
pub(super) struct Raw {
    /// The steps of each worker.
    pub(super) marks: Vec<Vec<Mark>>,
    /// What the worker has seen that kept values.
    pub(super) seen: Seen,
    /// Bytes that all processes sent in training.
    pub(super) bytes: Option<u64>,
    /// Processor time of each parameter server in training, in seconds.
    pub(super) server_cpu: Vec<f64>,
    /// Who was killed.
    pub(super) deaths: Vec<Death>,
    /// Why workers ended before their time.
    pub(super) errors: Vec<String>,
    /// When the last worker ended, in seconds from the start.
    pub(super) ended: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learning_rate_stays_or_falls_to_nothing_by_the_end_of_the_budget() {
        let of = |s: Schedule| [0.0, 0.25, 0.5, 1.0, 1.5].map(|done| s.left(done));
        assert_eq!(of(Schedule::Constant), [1.0; 5]);
        assert_eq!(of(Schedule::Linear), [1.0, 0.75, 0.5, 0.0, 0.0]);
        let cosine = of(Schedule::Cosine);
        let wave = [1.0, (2.0 + 2f64.sqrt()) / 4.0, 0.5, 0.0, 0.0];
        assert!(
            cosine.iter().zip(wave).all(|(a, b)| (a - b).abs() < 1e-12),
            "{cosine:?}"
        );
        for s in Schedule::value_variants() {
            let called = s.to_possible_value().unwrap();
            assert_eq!(called.get_name(), s.name());
        }
    }

    #[test]
    fn an_update_is_made_of_what_the_strategy_waits_for() {
        let of = |text: &str, workers| pushes_per_update(text.parse().unwrap(), workers);
        assert_eq!((of("async", 4), of("ssp3", 4), of("sync", 4)), (1, 1, 4));
        assert_eq!(
            (of("sync+backup1", 4), of("hybrid2x2", 4), of("allreduce", 3)),
            (3, 2, 3)
        );
    }
}
