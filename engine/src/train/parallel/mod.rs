//! Data parallelism: one model on many workers, and how they agree about its next values.
//!
//! A [`Replica`] is one worker's graph and what drives it. It builds the model with its variables on parameter servers,
//! computes gradients from values that it keeps, and agrees with the other replicas about the next ones by a
//! [`Strategy`]. All that replicas share is at agreement actors beside the variables (the kernels' `agreement` family);
//! nothing polls, and what waits is parked. `docs/parallel.md` is a guide.
//!
//! - [`Strategy`]: asynchronous, synchronous, in between, or without servers
//! - [`ReplicaOptions`], [`Model`], [`StepReport`]: what a replica is made from and what it reports
//! - [`Replica`]: the graph of one replica, and its steps
//! - [`towers`]: replicas in one graph
//! - [`pipeline`]: the layers of one model on several devices or tasks

#![forbid(unsafe_code)]

mod buckets;
mod live;
mod options;
pub mod pipeline;
mod replica;
mod ring;
mod shard;
mod strategy;
pub mod towers;

pub use options::{Model, ReplicaOptions, StepReport};
pub use replica::Replica;
pub use strategy::Strategy;
