//! What each run is given.

use actorflow_core::{Output, Result, Tensor};

use crate::train::monitored::{RunArgs, RunContext, SessionHook};

/// Feeds each run with what a function gives. `TensorFlow: tf.train.FeedFnHook`.
///
/// An error of the function fails the run; `OUT_OF_RANGE` is the end of the input.
pub struct FeedFnHook<F> {
    feeds: F,
}

impl<F: FnMut() -> Result<Vec<(Output, Tensor)>> + Send> FeedFnHook<F> {
    /// Calls `feeds` before each run.
    pub fn new(feeds: F) -> FeedFnHook<F> {
        FeedFnHook { feeds }
    }
}

impl<F: FnMut() -> Result<Vec<(Output, Tensor)>> + Send> SessionHook for FeedFnHook<F> {
    fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
        Ok(Some(RunArgs {
            feeds: (self.feeds)()?,
            ..RunArgs::default()
        }))
    }
}
