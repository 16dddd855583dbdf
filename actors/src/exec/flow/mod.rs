//! Plans with control flow: conditionals and loops as node actors.
//!
//! A conditional is a `Switch` and a `Merge`. What depends on the side that is not taken is *dead*: it does not
//! compute, it only tells its consumers, and a `Merge` joins the dead side with the live one.
//!
//! A loop is a *frame*. `Enter` brings values into it, `NextIteration` brings them from one iteration to the next,
//! `Exit` takes them out. A node of a loop is an actor once for each iteration, with input slots of its own, so that
//! iterations overlap as far as their data allow, up to the loop's `parallel_iterations`. Frames nest; one is named by
//! the loop and the iteration of the frame around it.
//!
//! - `frames`: which frame each node belongs to, decided and checked when the plan is compiled
//! - `layout`: the compiled form, with slots numbered by frame
//! - `state`: the frames and iterations of a step, and their recycling
//! - `fire`: firing nodes and sending what they give
//! - `tokens`: entering, iterating, leaving; when iterations and frames are over
//!
//! **When an iteration is over.** It counts its nodes that are ready or running, plus the frames inside of it.
//! Iteration `i` is over when that count is zero, iteration `i - 1` is over, and every `Enter` of the frame has
//! arrived; the frame is over with its last iteration. These are tested together under the frame's lock (which a step
//! of one thread does not take). Then the iteration's slots are recycled, so a loop runs in constant memory; and when
//! a frame is over, those of its `Exit`s that never were live are sent dead.

mod fire;
mod frames;
mod layout;
mod state;
mod tokens;

pub(super) use fire::FlowRunner;
pub(super) use layout::{Flow, compile};
pub(super) use state::{FlowStep, Iter};
