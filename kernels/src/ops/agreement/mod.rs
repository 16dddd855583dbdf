//! How the replicas of a model agree about its next values: which gradients count, in which order they are added up,
//! and that each update happens once, for all variables or for none.
//!
//! An *agreement* is an actor beside the variables that it guards, one for each parameter server. A step of training
//! goes through it in three phases, each an operation:
//!
//! 1. `AgreeStage` leaves a replica's gradients there, under the replica's number and that of its push;
//! 2. `AgreeDecide`, on one of the servers, waits until enough replicas have staged everywhere and then decides whose
//!    gradients count, once for all servers;
//! 3. `AgreeApply`, brought by whoever learnt of the decision first, moves all variables of a server in one turn and
//!    gives their new values; bringing a decision again changes nothing.
//!
//! Replicas that wait for nobody skip the second phase: their ticket is their decision. `AgreeGate` holds back those that
//! are too far ahead; `AgreeReduce` gives the mean instead of applying it, for replicas that keep the parameters
//! themselves. What is decided and when is in [`state`], which knows nothing of tensors.

#![forbid(unsafe_code)]

pub mod apply;
pub mod decide;
pub mod desk;
pub mod handle;
pub mod mean;
pub mod membership;
pub mod program;
pub mod reduce;
pub mod report;
pub mod stage;
pub mod state;
#[cfg(test)]
mod tests;
