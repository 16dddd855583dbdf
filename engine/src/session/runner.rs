//! Describing one run.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actorflow_actors::exec::{StepFuture, Trace};
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::Result;
use actorflow_core::{Operation, Output, Tensor};

use super::backend::{How, Prepared, TakeTrace};
use super::{Session, check_feed};

/// One run in the making; made by [`Session::runner`].
#[must_use = "call run() or run_async()"]
pub struct Runner<'a> {
    session: &'a Session,
    feeds: Vec<(Output, Tensor)>,
    fetches: Vec<Output>,
    targets: Vec<Operation>,
    deadline: Option<Instant>,
    cancel: Option<CancelToken>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Runner {
            session,
            feeds: Vec::new(),
            fetches: Vec::new(),
            targets: Vec::new(),
            deadline: None,
            cancel: None,
        }
    }

    /// Gives a tensor instead of what the graph would compute for `output`.
    pub fn feed(mut self, output: &Output, value: impl Into<Tensor>) -> Self {
        self.feeds.push((output.clone(), value.into()));
        self
    }

    /// Asks for a value.
    pub fn fetch(mut self, output: &Output) -> Self {
        self.fetches.push(output.clone());
        self
    }

    /// Asks for an operation to be run.
    pub fn target(mut self, op: &Operation) -> Self {
        self.targets.push(op.clone());
        self
    }

    /// Fails the run with `DEADLINE_EXCEEDED` at this time. Until then it may wait, however long
    /// [`stall_timeout`](crate::SessionOptions::stall_timeout) is.
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Some(at);
        self
    }

    /// Fails the run with `DEADLINE_EXCEEDED` after this time.
    pub fn timeout(self, after: Duration) -> Self {
        self.deadline(Instant::now() + after)
    }

    /// Fails the run when the token is cancelled.
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    fn prepared(&self) -> Result<Prepared> {
        let feeds: Vec<&Output> = self.feeds.iter().map(|(o, _)| o).collect();
        let fetches: Vec<&Output> = self.fetches.iter().collect();
        let targets: Vec<&Operation> = self.targets.iter().collect();
        let plan = self.session.plan(&feeds, &fetches, &targets)?;
        for (o, t) in &self.feeds {
            check_feed(o, t)?;
        }
        Ok(plan)
    }

    /// Runs and waits; the fetched values in order.
    ///
    /// # Errors
    /// As [`Session::run`]; `DEADLINE_EXCEEDED` and `CANCELLED` as asked for.
    pub fn run(self) -> Result<Vec<Tensor>> {
        let plan = self.prepared()?;
        let options = How {
            deadline: self.deadline,
            cancel: self.cancel.as_ref(),
            trace: None,
        };
        self.session
            .backend()
            .run(&plan, self.feeds.into_iter().map(|(_, t)| t), options)
    }

    /// [`run`](Self::run), also reporting when each node ran, for how long and on which thread.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_traced(self) -> Result<(Vec<Tensor>, Trace)> {
        let plan = self.prepared()?;
        let mut trace = Trace::default();
        let options = How {
            deadline: self.deadline,
            cancel: self.cancel.as_ref(),
            trace: Some(&mut trace),
        };
        let out = self
            .session
            .backend()
            .run(&plan, self.feeds.into_iter().map(|(_, t)| t), options)?;
        Ok((out, trace))
    }

    /// Starts the run on the session's workers. The future needs no particular runtime; dropping it cancels the
    /// run.
    ///
    /// # Errors
    /// Errors of the description come at once, errors of the run from the future.
    pub fn run_async(self) -> Result<StepFuture> {
        let plan = self.prepared()?;
        let feeds = self.feeds.into_iter().map(|(_, t)| t).collect();
        Ok(self
            .session
            .backend()
            .run_async(&plan, feeds, self.deadline, self.cancel.as_ref()))
    }

    /// [`run_async`](Self::run_async), also reporting when each node ran, for how long and on which thread: what
    /// [`run_traced`](Self::run_traced) is to [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run_async`](Self::run_async).
    pub fn run_async_traced(self) -> Result<TracedFuture> {
        let plan = self.prepared()?;
        let feeds = self.feeds.into_iter().map(|(_, t)| t).collect();
        let backend = self.session.backend();
        let (run, take) = backend.run_async_traced(&plan, feeds, self.deadline, self.cancel.as_ref());
        Ok(TracedFuture { run, take: Some(take) })
    }
}

/// A run in progress that is traced; a plain future that needs no particular runtime. Dropping it cancels the run.
#[must_use = "dropping the future cancels the run"]
pub struct TracedFuture {
    run: StepFuture,
    take: Option<TakeTrace>,
}

impl Future for TracedFuture {
    type Output = Result<(Vec<Tensor>, Trace)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        Pin::new(&mut me.run).poll(cx).map(|result| {
            let trace = me.take.take();
            result.map(|values| (values, trace.map_or_else(Trace::default, |take| take())))
        })
    }
}
