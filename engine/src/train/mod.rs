//! Training: variables, initialisers, optimizers, clipping, learning-rate schedules.
//!
//! - [`variable`]: variables and their initialisation
//! - [`init`]: initial values
//! - [`optimizer`]: `minimize`, `compute_gradients`, `apply_gradients` and the update rules
//! - [`clip`]: gradients clipped by value, norm and global norm
//! - [`saver`]: checkpoints of a session's variables
//! - [`schedule`]: learning rates that follow a step counter

pub mod clip;
pub mod init;
pub mod optimizer;
pub mod saver;
pub mod schedule;
pub mod variable;
