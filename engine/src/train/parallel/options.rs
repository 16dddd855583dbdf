//! What a replica is built from, and what a step of it gives.

use std::time::Duration;

use actorflow_core::{Error, Output, Result, Tensor};

use super::Strategy;
use crate::placement::PsStrategy;

/// What a model is to a [`Replica`](super::Replica).
#[derive(Debug, Clone)]
pub struct Model {
    /// What a batch is fed for, in order.
    pub inputs: Vec<Output>,
    /// What is made smaller: a float scalar, the mean over the batch.
    pub loss: Output,
    /// What else each step computes.
    pub metrics: Vec<Output>,
}

/// How a [`Replica`](super::Replica) is built. All replicas of a model must agree in everything but their number and
/// their worker.
#[derive(Debug, Clone)]
pub struct ReplicaOptions {
    /// How the replicas agree.
    pub strategy: Strategy,
    /// The number of this one; 0 is the chief, which initialises the model.
    pub replica: usize,
    /// How many there are, those in reserve included.
    pub replicas: usize,
    /// The devices or tasks that keep the parameters: `/job:ps/task:0`, `/cpu:0`. Variables ask for nothing if there are
    /// none. Not used by [`Strategy::AllReduce`].
    pub ps: Vec<String>,
    /// How variables are spread over `ps`.
    pub spread: PsStrategy,
    /// The device or task that computes: `/job:worker/task:1`, `/cpu:2`.
    pub worker: String,
    /// Those of all replicas, for [`Strategy::AllReduce`].
    pub workers: Vec<String>,
    /// In how many parts a step computes its batch, one after the other, of equal sizes along the first dimension. With a
    /// power of two, replicas that each do a part of a batch and one that does all of it give the same bits.
    pub micro_batches: usize,
    /// The longest that a step or the start may take, waiting for other replicas included.
    pub deadline: Duration,
    /// What the names of the agreements begin with; models that are trained at the same time need different ones.
    pub name: String,
}

impl ReplicaOptions {
    /// Options for everything on the default device, with a deadline of a minute.
    pub fn new(strategy: Strategy, replica: usize, replicas: usize) -> ReplicaOptions {
        ReplicaOptions {
            strategy,
            replica,
            replicas,
            ps: Vec::new(),
            spread: PsStrategy::RoundRobin,
            worker: String::new(),
            workers: Vec::new(),
            micro_batches: 1,
            deadline: Duration::from_secs(60),
            name: "agreement".to_owned(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        self.strategy.check(self.replicas)?;
        if self.replica >= self.replicas {
            return Err(Error::invalid(format!(
                "there is no replica {} of {}; the first is 0",
                self.replica, self.replicas
            )));
        }
        if self.micro_batches == 0 {
            return Err(Error::invalid("a step computes its batch in at least 1 part, not 0"));
        }
        if self.strategy == Strategy::AllReduce && self.workers.len() != self.replicas {
            return Err(Error::invalid(format!(
                "allreduce needs the devices of all {} workers, got {:?}",
                self.replicas, self.workers
            )));
        }
        Ok(())
    }
}

/// What a step of a replica did.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// The loss on the batch, before the update.
    pub loss: f32,
    /// The metrics; of several parts of a batch, their means.
    pub metrics: Vec<Tensor>,
    /// How many updates the model has had, the present one included.
    pub global_step: u64,
    /// Whether the replica's gradients count; if not, it came too late.
    pub applied: bool,
    /// How many updates old the values were from which the gradients that count were computed.
    pub staleness: u64,
}
