//! Summaries for TensorBoard while it trains.

use std::sync::Arc;

use actorflow_core::{Error, Graph, Output, Result};

use super::step::StepReader;
use super::timer::{Every, Timer};
use crate::session::Session;
use crate::summary::EventWriter;
use crate::train::monitored::{RunArgs, RunContext, RunValues, SessionHook, Setup};

/// Writes the graph once, and so often the summary of the training, to an event file. `TensorFlow:
/// tf.train.SummarySaverHook`.
///
/// It needs a global step.
pub struct SummarySaverHook {
    writer: Arc<EventWriter>,
    summary: Option<Output>,
    timer: Timer,
    step: StepReader,
    seen: Option<i64>,
    graph_written: bool,
    due: bool,
}

impl SummarySaverHook {
    /// Writes the scaffold's summary, which is all of the graph's by default.
    pub fn new(writer: &Arc<EventWriter>, every: Every) -> SummarySaverHook {
        SummarySaverHook {
            writer: writer.clone(),
            summary: None,
            timer: Timer::new(every),
            step: StepReader::default(),
            seen: None,
            graph_written: false,
            due: false,
        }
    }

    /// Writes another summary.
    pub fn summary(mut self, summary: &Output) -> Self {
        self.summary = Some(summary.clone());
        self
    }
}

impl SessionHook for SummarySaverHook {
    fn begin(&mut self, graph: &Graph) -> Result<()> {
        self.timer.check("SummarySaverHook")?;
        self.step.require(graph, "SummarySaverHook")
    }

    fn after_create_session(&mut self, setup: &Setup<'_>) -> Result<()> {
        if self.summary.is_none() {
            self.summary = setup.scaffold.summary.clone();
        }
        if !self.graph_written {
            self.writer.add_graph(setup.session.graph())?;
            self.writer.flush()?;
            self.graph_written = true;
        }
        Ok(())
    }

    fn before_run(&mut self, context: &RunContext<'_>) -> Result<Option<RunArgs>> {
        let Some(summary) = &self.summary else {
            return Ok(None);
        };
        self.due = self.step.soon(self.seen, &self.timer, context.session())?;
        let args = self.step.ask();
        Ok(Some(if self.due { args.fetch(summary) } else { args }))
    }

    fn after_run(&mut self, context: &RunContext<'_>, values: &RunValues<'_>) -> Result<()> {
        if self.summary.is_none() {
            return Ok(());
        }
        self.seen = Some(self.step.answer(values)?);
        if !self.due {
            return Ok(());
        }
        let Some(summary) = values.values.get(1) else {
            return Err(Error::internal("the summary was not fetched"));
        };
        let step = self.step.read(context.session())?;
        self.timer.mark(step);
        self.writer.add_summary(summary, step)
    }

    fn end(&mut self, _: &Session) -> Result<()> {
        self.writer.flush()
    }
}
