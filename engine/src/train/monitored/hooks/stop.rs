//! The end, by the number of steps.

use actorflow_core::{Graph, Result};

use super::step::StepReader;
use crate::train::monitored::{RunArgs, RunContext, RunValues, SessionHook, Setup};

/// Ends the training when the global step has reached a number. `TensorFlow: tf.train.StopAtStepHook`.
///
/// It needs a global step. A training that is restored at or beyond that step does not run at all.
pub struct StopAtStepHook {
    steps: Option<i64>,
    last: Option<i64>,
    step: StepReader,
}

impl StopAtStepHook {
    /// Ends at this step.
    pub fn last_step(step: i64) -> StopAtStepHook {
        StopAtStepHook {
            steps: None,
            last: Some(step),
            step: StepReader::default(),
        }
    }

    /// Ends so many steps after the one at which the training begins.
    pub fn num_steps(steps: i64) -> StopAtStepHook {
        StopAtStepHook {
            steps: Some(steps),
            last: None,
            step: StepReader::default(),
        }
    }

    fn reached(&self, step: i64) -> bool {
        self.last.is_some_and(|last| step >= last)
    }
}

impl SessionHook for StopAtStepHook {
    fn begin(&mut self, graph: &Graph) -> Result<()> {
        self.step.require(graph, "StopAtStepHook")
    }

    fn after_create_session(&mut self, setup: &Setup<'_>) -> Result<()> {
        let now = self.step.read(setup.session)?;
        if let (None, Some(n)) = (self.last, self.steps) {
            self.last = Some(now.saturating_add(n));
        }
        if self.reached(now) {
            setup.request_stop();
        }
        Ok(())
    }

    fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
        Ok(Some(self.step.ask()))
    }

    fn after_run(&mut self, context: &RunContext<'_>, values: &RunValues<'_>) -> Result<()> {
        let seen = self.step.answer(values)?;
        if self.reached(seen.saturating_add(1)) && self.reached(self.step.read(context.session())?) {
            context.request_stop();
        }
        Ok(())
    }
}
