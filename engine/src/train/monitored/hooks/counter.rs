//! How fast it goes.

use std::sync::Arc;
use std::time::Duration;

use actorflow_core::{Graph, Result};

use super::step::StepReader;
use super::timer::{Every, Timer};
use crate::summary::EventWriter;
use crate::train::monitored::{RunArgs, RunContext, RunValues, SessionHook};

/// The tag in TensorBoard, as TensorFlow has it.
const TAG: &str = "global_step/sec";

/// How many steps were taken in some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRate {
    /// The global step.
    pub step: i64,
    /// How many steps were taken since the last report, by all workers together.
    pub steps: i64,
    /// The time since the last report.
    pub elapsed: Duration,
}

impl StepRate {
    /// Steps per second; infinite if no time has passed.
    pub fn per_second(&self) -> f64 {
        self.steps as f64 / self.elapsed.as_secs_f64()
    }
}

/// Reports steps per second. `TensorFlow: tf.train.StepCounterHook`.
pub struct StepCounterHook {
    timer: Timer,
    report: Box<dyn FnMut(StepRate) + Send>,
    writer: Option<Arc<EventWriter>>,
    step: StepReader,
}

impl StepCounterHook {
    /// Calls `report` so often.
    pub fn new(every: Every, report: impl FnMut(StepRate) + Send + 'static) -> StepCounterHook {
        StepCounterHook {
            timer: Timer::new(every),
            report: Box::new(report),
            writer: None,
            step: StepReader::default(),
        }
    }

    /// Also writes the rate to an event file, as `global_step/sec`.
    pub fn summaries(mut self, writer: &Arc<EventWriter>) -> Self {
        self.writer = Some(writer.clone());
        self
    }
}

impl SessionHook for StepCounterHook {
    fn begin(&mut self, graph: &Graph) -> Result<()> {
        self.timer.check("StepCounterHook")?;
        self.step.require(graph, "StepCounterHook")
    }

    fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
        Ok(Some(self.step.ask()))
    }

    fn after_run(&mut self, context: &RunContext<'_>, values: &RunValues<'_>) -> Result<()> {
        if !self.timer.due(self.step.answer(values)?.saturating_add(1)) {
            return Ok(());
        }
        let step = self.step.read(context.session())?;
        if !self.timer.due(step) {
            return Ok(());
        }
        let Some((steps, elapsed)) = self.timer.mark(step) else {
            return Ok(());
        };
        // A session that was restored is behind.
        let rate = StepRate { step, steps, elapsed };
        if steps > 0 {
            (self.report)(rate);
            if let Some(w) = &self.writer {
                w.add_scalar(TAG, rate.per_second() as f32, step)?;
            }
        }
        Ok(())
    }
}
