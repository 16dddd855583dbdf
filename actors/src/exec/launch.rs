//! Runs that nobody drives: they start on a worker, or on the thread that asks, and tell when they are over.

#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use actorflow_core::Tensor;
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use parking_lot::Mutex;

use super::any::AnyRunner;
use super::plan::Plan;
use super::run::{Executor, RunOptions, check_feeds, end_activity, past_deadline};
use super::step::{Arrived, RUNNING, Scratch, Step, WAITING};
use super::wait::Spot;
use crate::control::steps::Registration;
use crate::pool::{Task, WorkerCx};

impl Executor {
    /// Has the control actor fail an asynchronous run when its deadline passes, and name what it waits for then.
    fn watch(&self, plan: &Arc<Plan>, step: &Arc<Step>, deadline: Option<Instant>) -> Result<Option<Registration>> {
        if deadline.is_none() {
            return Ok(None);
        }
        let (of, in_plan) = (Arc::downgrade(step), plan.clone());
        let abort = Arc::new(move |_| {
            if let Some(step) = of.upgrade() {
                step.fail(past_deadline(&in_plan, &step));
            }
        });
        self.deadlines
            .register("asynchronous run", deadline, abort)
            .map(Some)
            .map_err(|e| Error::internal(format!("the deadline of a run cannot be watched: {e}")))
    }

    /// Starts a run on the device's workers and returns at once.
    ///
    /// Dropping the future cancels the run.
    pub fn run_async(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        feeds: Vec<Tensor>,
        deadline: Option<Instant>,
        cancel: Option<&CancelToken>,
    ) -> StepFuture {
        let (shared, told) = Outcome::new();
        let options = RunOptions {
            deadline,
            cancel,
            ..RunOptions::default()
        };
        let run = match self.launch(plan, feeds, options, Pace::Spawn, told) {
            Ok(run) => Some(Running::Step(run)),
            Err(e) => {
                shared.lock().result = Some(Err(e));
                None
            }
        };
        StepFuture { outcome: shared, run }
    }

    /// Starts a run whose end `done` is told of, on whatever thread that happens. Dropping the answer changes nothing
    /// but that the deadline and the cancellation of `options` are no longer watched. A trace is taken into `record` only.
    ///
    /// # Errors
    /// As [`run`](Self::run), for what is wrong before it starts; `done` is not called then.
    pub fn launch(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        feeds: Vec<Tensor>,
        options: RunOptions<'_>,
        pace: Pace,
        done: impl FnOnce(Result<Vec<Tensor>>) + Send + 'static,
    ) -> Result<Launched> {
        check_feeds(plan, feeds.len())?;
        if let Some(c) = options.cancel {
            c.check()?;
        }
        let mut step = self.step(plan);
        {
            let s = Arc::get_mut(&mut step).ok_or_else(|| Error::internal("a pooled step is in use"))?;
            self.prepare(s, plan, false, &options);
            s.outstanding.store(RUNNING, Relaxed);
        }
        let watch = self.watch(plan, &step, options.deadline)?;
        let registered = options.cancel.map(|c| {
            let step = step.clone();
            c.on_cancel(move |why| step.fail(why.clone()))
        });
        let exec = self.clone();
        exec.active.fetch_add(1, Relaxed);
        *step.on_finish.lock() = Some(Box::new(move |result| {
            exec.active.fetch_sub(1, Relaxed);
            done(result);
        }));
        let job = Job {
            exec: self.clone(),
            plan: plan.clone(),
            step: step.clone(),
            what: What::Start(feeds),
            done: false,
        };
        let known_cheap = || plan.runs.load(Relaxed) > FEW_RUNS && !plan.is_heavy();
        if pace == Pace::AtOnceIfCheap && known_cheap() {
            job.go();
        } else {
            self.pool.spawn(Box::new(job));
        }
        Ok(Launched {
            plan: plan.clone(),
            step,
            _cancel: registered,
            _deadline: watch,
        })
    }
}

/// After so many runs the cost of a plan's nodes is known.
const FEW_RUNS: u64 = 4;

/// On which thread [`Executor::launch`] begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// On one of the device's workers.
    Spawn,
    /// On the calling thread, if the plan's nodes were measured and are all cheap; else as [`Spawn`](Self::Spawn).
    AtOnceIfCheap,
}

/// A run that [`Executor::launch`] started.
pub struct Launched {
    plan: Arc<Plan>,
    step: Arc<Step>,
    _cancel: Option<actorflow_core::cancel::CancelGuard>,
    _deadline: Option<Registration>,
}

impl Launched {
    /// Fails the run, unless it is over.
    pub fn abort(&self, why: Error) {
        self.step.fail(why);
    }

    /// Whether nothing of it runs: everything that is left waits for somebody else.
    pub fn is_waiting(&self) -> bool {
        self.step.outstanding.load(Acquire) & (WAITING - 1) == 0
    }

    /// The nodes that wait, for messages; empty if none does.
    pub fn waiting_for(&self) -> String {
        self.step.waiting_for(&self.plan)
    }
}

enum What {
    Start(Vec<Tensor>),
    Fire(Spot),
    Resume(Arrived),
    Nothing,
}

/// Part of a step, for a worker.
pub(super) struct Job {
    exec: Arc<Executor>,
    plan: Arc<Plan>,
    step: Arc<Step>,
    what: What,
    done: bool,
}

impl Job {
    pub(super) fn fire(exec: &Arc<Executor>, plan: &Arc<Plan>, step: &Arc<Step>, spot: Spot) -> Job {
        Job {
            exec: exec.clone(),
            plan: plan.clone(),
            step: step.clone(),
            what: What::Fire(spot),
            done: false,
        }
    }

    pub(super) fn resume(exec: &Arc<Executor>, plan: &Arc<Plan>, step: &Arc<Step>, arrived: Arrived) -> Job {
        Job {
            exec: exec.clone(),
            plan: plan.clone(),
            step: step.clone(),
            what: What::Resume(arrived),
            done: false,
        }
    }
}

impl Task for Job {
    fn run(self: Box<Self>, _: &WorkerCx<'_>) {
        (*self).go();
    }
}

impl Job {
    fn go(mut self) {
        let what = std::mem::replace(&mut self.what, What::Nothing);
        {
            let mut scratch = Scratch::default();
            let mut runner = AnyRunner::<false>::new(&self.exec, &self.plan, &self.step, &mut scratch);
            match what {
                What::Start(feeds) => runner.start(feeds.into_iter()),
                What::Fire(spot) => runner.fire(spot),
                What::Resume(arrived) => runner.resume(arrived),
                What::Nothing => {}
            }
        }
        self.done = true;
        end_activity(&self.plan, &self.step);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // The pool went away before the job ran.
        if let What::Resume(Arrived::Granted(_, held)) = &mut self.what {
            held.release_all();
        }
        self.step
            .fail(Error::cancelled("the session was closed while the run was in progress"));
        end_activity(&self.plan, &self.step);
    }
}

struct Outcome {
    result: Option<Result<Vec<Tensor>>>,
    waker: Option<Waker>,
}

impl Outcome {
    /// An outcome that is not known yet, and what makes it known and wakes whoever waits for it.
    fn new() -> (Arc<Mutex<Outcome>>, impl FnOnce(Result<Vec<Tensor>>) + Send + 'static) {
        let outcome = Arc::new(Mutex::new(Outcome {
            result: None,
            waker: None,
        }));
        let to = outcome.clone();
        let told = move |result| {
            let waker = {
                let mut o = to.lock();
                o.result = Some(result);
                o.waker.take()
            };
            if let Some(w) = waker {
                w.wake();
            }
        };
        (outcome, told)
    }
}

/// A run in progress; a plain future that needs no particular runtime. Dropping it cancels the run.
#[must_use = "dropping the future cancels the run"]
pub struct StepFuture {
    outcome: Arc<Mutex<Outcome>>,
    run: Option<Running>,
}

/// What a future can stop.
enum Running {
    Step(Launched),
    Other(Stop),
}

impl Running {
    fn abort(self, why: Error) {
        match self {
            Running::Step(run) => run.abort(why),
            Running::Other(stop) => stop(why),
        }
    }
}

/// Ends a run that is not one of this executor's.
pub type Stop = Box<dyn FnOnce(Error) + Send>;

/// Told of the end of such a run, once.
pub type Ended = Box<dyn FnOnce(Result<Vec<Tensor>>) + Send>;

impl StepFuture {
    /// The future of a run that `start` starts: it is given whom to tell of the end, and gives how to stop the run.
    pub fn of(start: impl FnOnce(Ended) -> Result<Stop>) -> StepFuture {
        let (outcome, told) = Outcome::new();
        let run = match start(Box::new(told)) {
            Ok(stop) => Some(Running::Other(stop)),
            Err(e) => {
                outcome.lock().result = Some(Err(e));
                None
            }
        };
        StepFuture { outcome, run }
    }
}

impl Future for StepFuture {
    type Output = Result<Vec<Tensor>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let taken = {
            let mut o = self.outcome.lock();
            let r = o.result.take();
            if r.is_none() {
                o.waker = Some(cx.waker().clone());
            }
            r
        };
        match taken {
            Some(r) => {
                self.run = None;
                Poll::Ready(r)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for StepFuture {
    fn drop(&mut self) {
        if let Some(run) = self.run.take()
            && self.outcome.lock().result.is_none()
        {
            run.abort(Error::cancelled("the future of the run was dropped"));
        }
    }
}
