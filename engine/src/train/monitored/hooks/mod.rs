//! The hooks of a usual training.
//!
//! - [`StopAtStepHook`], [`GlobalStepWaiterHook`]: when to stop, when to start
//! - [`StepCounterHook`], [`LoggingTensorHook`]: how fast it goes, and how well
//! - [`NanTensorHook`]: when it has gone wrong
//! - [`CheckpointSaverHook`], [`SummarySaverHook`], [`ProfilerHook`]: what stays in files
//! - [`FeedFnHook`], [`FinalOpsHook`]: what each run is given, and what is computed at the end

mod checkpoint;
mod counter;
mod feed;
mod finals;
mod logging;
mod nan;
mod profiler;
mod step;
mod stop;
mod summary;
mod timer;
mod waiter;

#[cfg(test)]
mod tests;

pub use checkpoint::CheckpointSaverHook;
pub use counter::{StepCounterHook, StepRate};
pub use feed::FeedFnHook;
pub use finals::{FinalOpsHook, FinalValues};
pub use logging::LoggingTensorHook;
pub use nan::NanTensorHook;
pub use profiler::{ProfilerHook, chrome_trace};
pub use stop::StopAtStepHook;
pub use summary::SummarySaverHook;
pub use timer::Every;
pub use waiter::GlobalStepWaiterHook;
