//! The global step, as hooks see it.

use actorflow_core::graph::keys;
use actorflow_core::{Error, Graph, Output, Result};

use super::timer::Timer;
use crate::session::Session;
use crate::train::monitored::{RunArgs, RunValues};
use crate::train::variable::Variable;

/// Reads the graph's global step, beside a run or in one of its own.
///
/// What is read beside a run may be the step before or after it; what has to be right is read again.
#[derive(Debug, Default)]
pub(super) struct StepReader {
    value: Option<Output>,
}

impl StepReader {
    /// Finds the global step; whether there is one.
    ///
    /// # Errors
    /// If the collection names something else than a variable.
    pub(super) fn find(&mut self, graph: &Graph) -> Result<bool> {
        self.value = match graph.collection_outputs(keys::GLOBAL_STEP)?.first() {
            Some(handle) => Some(Variable::from_handle(handle)?.value().clone()),
            None => None,
        };
        Ok(self.value.is_some())
    }

    /// Finds the global step.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` if the graph has none.
    pub(super) fn require(&mut self, graph: &Graph, hook: &str) -> Result<()> {
        match self.find(graph)? {
            true => Ok(()),
            false => Err(Error::failed_precondition(format!(
                "{hook} needs a global step: call graph.global_step(), and give it to the optimizer's minimize_counting"
            ))),
        }
    }

    /// Asks for it beside a run.
    pub(super) fn ask(&self) -> RunArgs {
        match &self.value {
            Some(v) => RunArgs::new().fetch(v),
            None => RunArgs::new(),
        }
    }

    /// The answer: the first of the values.
    ///
    /// # Errors
    /// `INTERNAL` if it was not asked for.
    pub(super) fn answer(&self, values: &RunValues<'_>) -> Result<i64> {
        match values.values.first() {
            Some(t) => t.to_i64(),
            None => Err(Error::internal("the global step was not fetched")),
        }
    }

    /// The step at present; `None` if the graph has none.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub(super) fn now(&self, session: &Session) -> Result<Option<i64>> {
        match &self.value {
            Some(v) => match session.run(&[], &[v])?.first() {
                Some(t) => t.to_i64().map(Some),
                None => Err(Error::internal("a run gave no value")),
            },
            None => Ok(None),
        }
    }

    /// The step at present.
    ///
    /// # Errors
    /// As [`Session::run`]; `INTERNAL` before it was found.
    pub(super) fn read(&self, session: &Session) -> Result<i64> {
        let step = self.now(session)?;
        step.ok_or_else(|| Error::internal("the global step was not looked for"))
    }

    /// Whether a hook is due at the step that the next run will lead to, if `seen` was the last
    /// [answer](Self::answer). Only when it may be so is the step read in a run of its own.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub(super) fn soon(&self, seen: Option<i64>, timer: &Timer, session: &Session) -> Result<bool> {
        let Some(seen) = seen.filter(|_| timer.last().is_some()) else {
            return Ok(true);
        };
        // What was seen beside a run is one behind at most, unless others train too.
        Ok(timer.due(seen.saturating_add(2)) && timer.due(self.read(session)?.saturating_add(1)))
    }
}
