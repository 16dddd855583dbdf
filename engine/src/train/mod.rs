//! Training: variables, initialisers, optimizers, clipping, learning-rate schedules.
//!
//! - [`variable`]: variables and their initialisation
//! - [`init`]: initial values
//! - [`partitioned`]: variables in parts, as one
//! - [`optimizer`]: `minimize`, `compute_gradients`, `apply_gradients` and the update rules
//! - [`clip`]: gradients clipped by value, norm and global norm
//! - [`parallel`]: one model on many workers
//! - [`saver`]: checkpoints of a session's variables
//! - [`schedule`]: learning rates that follow a step counter
//! - [`sync_replicas`]: replicas that train in step, by accumulators in the graph
//! - [`monitored`]: the loop of a training, with hooks, that goes on after failures
//! - [`coordinator`], [`queue_runner`], [`input`]: threads that keep queues filled, and pipelines of them

pub mod clip;
pub mod coordinator;
pub mod init;
pub mod input;
pub mod monitored;
pub mod optimizer;
pub mod parallel;
pub mod partitioned;
pub mod queue_runner;
pub mod saver;
pub mod schedule;
pub mod sync_replicas;
pub mod variable;
