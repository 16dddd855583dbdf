//! Replicas that train in step, in TensorFlow's graph form: gradients meet in conditional accumulators.
//!
//! Each replica pushes the gradients of its batch and waits. When enough have pushed, the chief takes the means, applies
//! them, adds 1 to the global step and lets all replicas go on. With fewer `replicas_to_aggregate` than replicas, the
//! others are backups: what comes late is dropped, and who was late goes on with the new values.
//! `TensorFlow: tf.train.SyncReplicasOptimizer`; J. Chen et al., "Revisiting Distributed Synchronous SGD", 2016.
//!
//! It differs from TensorFlow's where that does not keep its promise:
//!
//! - A replica pushes all of its gradients under one mutex, and so does the chief take them. So the gradients of a step are
//!   those of the same replicas for every variable.
//! - Each replica has a gate of its own instead of a token of a common queue, so that a fast one cannot push twice for a
//!   step.
//! - The mean of a sparse gradient is over the replicas, not over those that had the row. So training with N replicas
//!   equals training with the N-fold batch.
//!
//! Replicas may be parts of one graph, run by threads of one session, or each a graph of its own, whose nodes find each
//! other by shared names. Nobody polls: who waits is parked in an accumulator.
//!
//! Give a replica's runs a deadline ([`Runner::timeout`](crate::Runner::timeout), [`RunArgs::timeout`](super::monitored::RunArgs::timeout))
//! that covers the slowest of the others; one without fails after `stall_timeout`.
//!
//! When a run fails or is cancelled in the middle of pushing or of applying, the accumulators may hold parts of a step:
//! train on in a new session. While a replica waits, it can be cancelled.

#![forbid(unsafe_code)]

mod accumulator;
mod hook;
mod shared;

#[cfg(test)]
mod tests;

pub use hook::SyncReplicasHook;
pub use shared::{Replica, SyncGraph};

use actorflow_core::{Error, Output, Result};

use super::optimizer::{Optimizer, VariableGrad};
use super::variable::Variable;

/// The most replicas: each is a node of the chief's step.
const REPLICAS: usize = 1 << 16;

/// Trains variables with the means of several replicas' gradients.
pub struct SyncReplicas {
    optimizer: Optimizer,
    aggregate: usize,
    total: usize,
    name: String,
}

impl SyncReplicas {
    /// The first `replicas_to_aggregate` of `total_num_replicas` that push make a step; the others are backups.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless `1 <= replicas_to_aggregate <= total_num_replicas <= 65536`.
    pub fn new(
        optimizer: impl Into<Optimizer>,
        replicas_to_aggregate: usize,
        total_num_replicas: usize,
    ) -> Result<SyncReplicas> {
        if replicas_to_aggregate == 0 || replicas_to_aggregate > total_num_replicas || total_num_replicas > REPLICAS {
            return Err(Error::invalid(format!(
                "the gradients of {replicas_to_aggregate} replicas cannot be aggregated of {total_num_replicas}: there \
                 must be at least one, not more than there are, and not more than {REPLICAS}"
            )));
        }
        Ok(SyncReplicas {
            optimizer: optimizer.into(),
            aggregate: replicas_to_aggregate,
            total: total_num_replicas,
            name: "sync_replicas".to_owned(),
        })
    }

    /// The name of what replicas share, `sync_replicas` by default: several in one session need several names.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The gradients of a replica's loss, as [`Optimizer::compute_gradients`].
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn compute_gradients(&self, loss: &Output, variables: Option<&[Variable]>) -> Result<Vec<VariableGrad>> {
        self.optimizer.compute_gradients(loss, variables)
    }

    /// Adds what replicas share: accumulators for gradients like those of `like`, and the chief's step.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if no variable has a gradient, or a shape is not fully known.
    #[track_caller]
    pub fn share(&self, like: &[VariableGrad], global_step: &Variable) -> Result<SyncGraph> {
        SyncGraph::new(self, like, global_step)
    }
}
