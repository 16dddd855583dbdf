//! The beginning, by the number of steps.

use std::time::{Duration, Instant};

use actorflow_core::{Error, Graph, Result};

use super::step::StepReader;
use crate::train::monitored::{RunArgs, RunContext, SessionHook};

/// How often the step is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Holds the first run back until the global step has reached a number, so that workers join a training one after the
/// other. `TensorFlow: tf.train.GlobalStepWaiterHook`.
pub struct GlobalStepWaiterHook {
    until: i64,
    most: Duration,
    waited: bool,
    step: StepReader,
}

impl GlobalStepWaiterHook {
    /// Waits until the global step is at least `step`, ten minutes at most.
    pub fn new(step: i64) -> GlobalStepWaiterHook {
        GlobalStepWaiterHook {
            until: step,
            most: Duration::from_secs(600),
            waited: false,
            step: StepReader::default(),
        }
    }

    /// Waits at most so long.
    pub fn timeout(mut self, most: Duration) -> Self {
        self.most = most;
        self
    }
}

impl SessionHook for GlobalStepWaiterHook {
    fn begin(&mut self, graph: &Graph) -> Result<()> {
        self.step.require(graph, "GlobalStepWaiterHook")
    }

    fn before_run(&mut self, context: &RunContext<'_>) -> Result<Option<RunArgs>> {
        let begin = Instant::now();
        while !self.waited {
            let now = self.step.read(context.session())?;
            self.waited = now >= self.until;
            if !self.waited && begin.elapsed() >= self.most {
                return Err(Error::deadline(format!(
                    "waited {:.1?} for global step {}, but it is {now}; do the other workers train?",
                    self.most, self.until
                )));
            }
            if !self.waited {
                std::thread::sleep(POLL.min(self.most));
            }
        }
        Ok(None)
    }
}
