//! Plans and steps: the node actors.
//!
//! A [`Plan`] is the immutable, compiled form of a graph for one set of feeds, fetches and targets; a run of it is
//! a *step*. A node actor's address is its dense number in the plan, its mailbox a slice of the step's slots and
//! one [`pending`](crate::pending) word; sending to it is a slot write and an arrival.
//!
//! - `plan`: compiling a [`PlanSpec`], the CSR edges, the pool of steps
//! - `step`: the slots and words of a run, its outcome, what waits outside of any worker
//! - `fire`: running nodes depth first on one thread
//! - `wait`: nodes that wait outside of any worker
//! - `flow`: the same for plans with control flow
//! - `run`: driving a step on its caller, alone or with the device's workers
//! - `launch`: steps that nobody drives
//!
//! **Failure.** The first error (or panic) of a node fails the step, names the node, cancels what waits and stops
//! firing. A step with an error is discarded, never reused.

mod any;
mod fire;
mod flow;
mod launch;
mod plan;
mod run;
mod step;
mod wait;

pub use launch::{Ended, Launched, Pace, StepFuture, Stop};
pub use plan::{InputSpec, NodeInfo, NodeSpec, Plan, PlanClass, PlanSpec, Role, Source};
pub use run::{Executor, PartOf, PartWatch, RunOptions};
pub use step::{NodeTrace, Trace};
pub use wait::panic_message;
