//! What watches the runs of a monitored session.

use std::cell::Cell;
use std::time::Duration;

use actorflow_actors::exec::Trace;
use actorflow_core::{Graph, Operation, Output, Result, Tensor};

use super::scaffold::Scaffold;
use crate::session::Session;
use crate::train::coordinator::Coordinator;

/// What a run is asked for, by the program or by a hook.
#[derive(Debug, Clone, Default)]
pub struct RunArgs {
    /// Tensors that replace what the graph would compute.
    pub feeds: Vec<(Output, Tensor)>,
    /// Values to compute.
    pub fetches: Vec<Output>,
    /// Operations to run for their effects.
    pub targets: Vec<Operation>,
    /// Whether it is to be reported when each node ran.
    pub trace: bool,
    /// The longest that the run may take, waiting for others included. The shortest that anybody asks for counts; without
    /// one, a run that only waits fails after [`stall_timeout`](crate::SessionOptions::stall_timeout).
    pub timeout: Option<Duration>,
}

impl RunArgs {
    /// Nothing yet.
    pub fn new() -> RunArgs {
        RunArgs::default()
    }

    /// Gives a tensor instead of what the graph would compute for `output`.
    pub fn feed(mut self, output: &Output, value: impl Into<Tensor>) -> RunArgs {
        self.feeds.push((output.clone(), value.into()));
        self
    }

    /// Asks for a value.
    pub fn fetch(mut self, output: &Output) -> RunArgs {
        self.fetches.push(output.clone());
        self
    }

    /// Asks for an operation to be run.
    pub fn target(mut self, op: &Operation) -> RunArgs {
        self.targets.push(op.clone());
        self
    }

    /// Fails the run with `DEADLINE_EXCEEDED` after this time, and lets it wait until then.
    pub fn timeout(mut self, after: Duration) -> RunArgs {
        self.timeout = Some(after);
        self
    }

    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.feeds.is_empty() && self.fetches.is_empty() && self.targets.is_empty() && !self.trace
    }

    /// Asks when each node ran.
    pub fn traced(mut self) -> RunArgs {
        self.trace = true;
        self
    }
}

/// A run that is about to begin, or has just ended.
pub struct RunContext<'a> {
    session: &'a Session,
    args: &'a RunArgs,
    stop: Cell<bool>,
}

impl<'a> RunContext<'a> {
    pub(super) fn new(session: &'a Session, args: &'a RunArgs) -> RunContext<'a> {
        RunContext {
            session,
            args,
            stop: Cell::new(false),
        }
    }

    /// The session, for runs of the hook's own.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// What the program asked for.
    pub fn args(&self) -> &RunArgs {
        self.args
    }

    /// Asks the training to end after this run.
    pub fn request_stop(&self) {
        self.stop.set(true);
    }

    /// Whether a hook has asked for the end.
    pub fn stop_requested(&self) -> bool {
        self.stop.get()
    }
}

/// What a run gave a hook.
pub struct RunValues<'a> {
    /// The values of the hook's own fetches, in order.
    pub values: Vec<Tensor>,
    /// When each node ran, if a hook asked for it.
    pub trace: Option<&'a Trace>,
}

/// A session that was made ready.
pub struct Setup<'a> {
    /// The session.
    pub session: &'a Session,
    /// The operations that belong to the training.
    pub scaffold: &'a Scaffold,
    /// Owns threads that end with the session. An error of one of them fails the training.
    pub threads: &'a Coordinator,
    pub(super) stop: &'a Cell<bool>,
}

impl Setup<'_> {
    /// Asks the training to end before its first run.
    pub fn request_stop(&self) {
        self.stop.set(true);
    }
}

/// Watches the runs of a [`MonitoredSession`](super::MonitoredSession), and may take part in them.
///
/// Hooks are called in the order in which they were added. An error of a hook ends the training. `TensorFlow:
/// tf.train.SessionRunHook`.
pub trait SessionHook: Send {
    /// Called once, while the graph can still be added to.
    ///
    /// # Errors
    /// What the hook finds wrong.
    fn begin(&mut self, _graph: &Graph) -> Result<()> {
        Ok(())
    }

    /// Called when a session is ready: at the beginning, and after each recovery.
    ///
    /// # Errors
    /// What the hook finds wrong.
    fn after_create_session(&mut self, _setup: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    /// Called before each run; what it gives is run too.
    ///
    /// # Errors
    /// What the hook finds wrong.
    fn before_run(&mut self, _context: &RunContext<'_>) -> Result<Option<RunArgs>> {
        Ok(None)
    }

    /// Called after each run that succeeded.
    ///
    /// # Errors
    /// What the hook finds wrong.
    fn after_run(&mut self, _context: &RunContext<'_>, _values: &RunValues<'_>) -> Result<()> {
        Ok(())
    }

    /// Called once, when the training was closed; not after an error.
    ///
    /// # Errors
    /// What the hook finds wrong.
    fn end(&mut self, _session: &Session) -> Result<()> {
        Ok(())
    }
}
