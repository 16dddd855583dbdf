//! Checkpoints while it trains.

use std::sync::Arc;

use actorflow_core::{Error, Graph, Result};

use super::step::StepReader;
use super::timer::{Every, Timer};
use crate::session::Session;
use crate::summary::EventWriter;
use crate::train::monitored::{RunArgs, RunContext, RunValues, SessionHook, Setup};
use crate::train::saver::{Saver, latest_checkpoint};

/// Saves checkpoints: at the beginning, so often, and at the end. `TensorFlow: tf.train.CheckpointSaverHook`.
///
/// It is the chief's. It needs a global step, which is part of the checkpoints' names: `DIR/model.ckpt-100`.
pub struct CheckpointSaverHook {
    dir: String,
    basename: String,
    timer: Timer,
    saver: Option<Arc<Saver>>,
    writer: Option<Arc<EventWriter>>,
    step: StepReader,
}

impl CheckpointSaverHook {
    /// Saves to a directory, by the scaffold's saver.
    pub fn new(dir: impl Into<String>, every: Every) -> CheckpointSaverHook {
        CheckpointSaverHook {
            dir: dir.into(),
            basename: "model.ckpt".to_owned(),
            timer: Timer::new(every),
            saver: None,
            writer: None,
            step: StepReader::default(),
        }
    }

    /// The first part of the files' names, `model.ckpt` by default.
    pub fn basename(mut self, name: impl Into<String>) -> Self {
        self.basename = name.into();
        self
    }

    /// Saves by another saver than the scaffold's.
    pub fn saver(mut self, saver: &Arc<Saver>) -> Self {
        self.saver = Some(saver.clone());
        self
    }

    /// Also notes in an event file that a checkpoint was saved.
    pub fn summaries(mut self, writer: &Arc<EventWriter>) -> Self {
        self.writer = Some(writer.clone());
        self
    }

    fn prefix(&self) -> String {
        match &self.dir[..] {
            "" => self.basename.clone(),
            dir => format!("{}/{}", dir.trim_end_matches('/'), self.basename),
        }
    }

    fn save(&mut self, session: &Session, step: i64) -> Result<()> {
        let saver = self.saver.as_ref().ok_or_else(|| {
            Error::failed_precondition("CheckpointSaverHook has no saver: the graph has no variables to save")
        })?;
        let path = saver.save(session, &self.prefix(), Some(step))?;
        self.timer.mark(step);
        match &self.writer {
            Some(w) => w.add_checkpoint(&path, step).and_then(|()| w.flush()),
            None => Ok(()),
        }
    }
}

impl SessionHook for CheckpointSaverHook {
    fn begin(&mut self, graph: &Graph) -> Result<()> {
        self.timer.check("CheckpointSaverHook")?;
        self.step.require(graph, "CheckpointSaverHook")
    }

    fn after_create_session(&mut self, setup: &Setup<'_>) -> Result<()> {
        if self.saver.is_none() {
            self.saver = setup.scaffold.saver.clone();
        }
        let step = self.step.read(setup.session)?;
        // What was just restored is saved already.
        let restored = format!("{}-{step}", self.prefix());
        if latest_checkpoint(&self.dir)?.is_some_and(|latest| latest == restored) {
            self.timer.mark(step);
            return Ok(());
        }
        self.save(setup.session, step)
    }

    fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
        Ok(Some(self.step.ask()))
    }

    fn after_run(&mut self, context: &RunContext<'_>, values: &RunValues<'_>) -> Result<()> {
        if !self.timer.due(self.step.answer(values)?.saturating_add(1)) {
            return Ok(());
        }
        let step = self.step.read(context.session())?;
        match self.timer.due(step) {
            true => self.save(context.session(), step),
            false => Ok(()),
        }
    }

    fn end(&mut self, session: &Session) -> Result<()> {
        let step = self.step.read(session)?;
        match self.timer.last() {
            Some(last) if last == step => Ok(()),
            _ => self.save(session, step),
        }
    }
}
