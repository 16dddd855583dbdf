//! Sessions that are made ready, watched, and made anew after failures: the loop of a training.
//!
//! - [`MonitoredSession`]: initialises or restores before the first run, calls hooks around each, recovers
//! - [`MonitoredSession::for_replica`]: the same around the steps of a replica, under any strategy of
//!   [`parallel`](super::parallel)
//! - [`Scaffold`]: the operations that this takes; by default they are made of the graph's variables
//! - [`SessionHook`]: what hooks are; [`hooks`] has those of a usual training
//!
//! ```
//! use actorflow::train::monitored::{MonitoredSession, hooks::StopAtStepHook};
//! use actorflow::train::optimizer::{GradientDescent, Optimizer};
//! use actorflow::{Graph, GraphVariables};
//!
//! # fn main() -> actorflow::Result<()> {
//! let g = Graph::new();
//! let w = g.variable("w", 4f32)?;
//! let loss = w.square()?;
//! let step = g.global_step()?;
//! let train = Optimizer::new(GradientDescent { rate: 0.1.into() }).minimize_counting(&loss, &step)?;
//!
//! let mut session = MonitoredSession::builder(&g).hook(StopAtStepHook::last_step(20)).build()?;
//! while !session.should_stop() {
//!     session.execute(&[&train])?;
//! }
//! assert!(session.run(&[], &[&loss])?[0].to_scalar::<f32>()? < 0.01);
//! session.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! `TensorFlow: tf.train.MonitoredSession`.

#![forbid(unsafe_code)]

mod hook;
pub mod hooks;
mod ready;
mod runs;
pub mod scaffold;

#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod tests;

pub use hook::{RunArgs, RunContext, RunValues, SessionHook, Setup};
pub use ready::{Role, SessionFactory};
pub use scaffold::{InitFn, Scaffold, report_uninitialized_variables};

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use actorflow_core::{Code, Error, Graph, Operation, Output, Result, Tensor};

use self::ready::{Preparer, recoverable};
use super::coordinator::Coordinator;
use super::parallel::{Replica, StepReport};
use super::queue_runner::start_queue_runners;
use crate::session::Session;

/// A worker looks so often whether the chief is done.
const POLL: Duration = Duration::from_millis(20);
/// A worker does not look more often.
const FASTEST_POLL: Duration = Duration::from_millis(1);
/// A worker looks at least so often.
const SLOWEST_POLL: Duration = Duration::from_millis(50);
/// The longest pause between two attempts to recover.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long threads that fill queues may take to end.
const THREADS_END: Duration = Duration::from_secs(10);

/// A [`MonitoredSession`] in the making.
#[must_use = "call build()"]
pub struct MonitoredBuilder {
    preparer: Preparer,
    scaffold: Scaffold,
    /// The hooks, and whether each is the chief's alone.
    hooks: Vec<(bool, Box<dyn SessionHook>)>,
    max_recoveries: usize,
    queue_runners: bool,
    replica: Option<Replica>,
}

impl MonitoredBuilder {
    /// Who this client is; the chief by default.
    pub fn role(mut self, role: Role) -> Self {
        self.preparer.role = role;
        self
    }

    /// Where the chief looks for a checkpoint to go on from. It does not save there: that is
    /// [`CheckpointSaverHook`](hooks::CheckpointSaverHook)'s.
    pub fn checkpoint_dir(mut self, dir: impl Into<String>) -> Self {
        self.preparer.checkpoint_dir = Some(dir.into());
        self
    }

    /// The checkpoint that the chief starts from if the directory has none.
    pub fn checkpoint(mut self, prefix: impl Into<String>) -> Self {
        self.preparer.checkpoint = Some(prefix.into());
        self
    }

    /// The operations that belong to the training.
    pub fn scaffold(mut self, scaffold: Scaffold) -> Self {
        self.scaffold = scaffold;
        self
    }

    /// Adds a hook.
    pub fn hook(mut self, hook: impl SessionHook + 'static) -> Self {
        self.hooks.push((false, Box::new(hook)));
        self
    }

    /// Adds a hook that only the chief has: a worker leaves it out.
    pub fn chief_hook(mut self, hook: impl SessionHook + 'static) -> Self {
        self.hooks.push((true, Box::new(hook)));
        self
    }

    /// How sessions are made; local ones with default options by default.
    pub fn sessions(mut self, factory: impl Fn(&Graph) -> Result<Session> + Send + Sync + 'static) -> Self {
        self.preparer.create = Arc::new(factory);
        self
    }

    /// How long initialising, restoring, or waiting for the chief may take; five minutes by default.
    pub fn ready_timeout(mut self, most: Duration) -> Self {
        self.preparer.ready_timeout = most;
        self
    }

    /// How often a worker looks whether the chief is done: every 20 ms by default, every 50 ms at least.
    pub fn poll(mut self, every: Duration) -> Self {
        self.preparer.poll = every.clamp(FASTEST_POLL, SLOWEST_POLL);
        self
    }

    /// How often in a row, without a run that succeeds in between, the session is made anew; 10 times by default.
    pub fn max_recoveries(mut self, most: usize) -> Self {
        self.max_recoveries = most;
        self
    }

    /// Whether the graph's queue runners are started; they are by default.
    pub fn queue_runners(mut self, start: bool) -> Self {
        self.queue_runners = start;
        self
    }

    /// Lets hooks add to the graph, completes the scaffold, and makes a session ready.
    ///
    /// # Errors
    /// What a hook, initialising or restoring says; `DEADLINE_EXCEEDED` naming the variables that a worker waited for in
    /// vain.
    pub fn build(self) -> Result<MonitoredSession> {
        let MonitoredBuilder {
            preparer,
            mut scaffold,
            hooks,
            max_recoveries,
            queue_runners,
            replica,
        } = self;
        let worker = preparer.role == Role::Worker;
        let mine = hooks.into_iter().filter(|(chiefs, _)| !(*chiefs && worker));
        let mut hooks: Vec<Box<dyn SessionHook>> = mine.map(|(_, hook)| hook).collect();
        for hook in &mut hooks {
            hook.begin(&preparer.graph)?;
        }
        scaffold.finalize(&preparer.graph)?;
        let mut session = MonitoredSession {
            preparer,
            scaffold,
            hooks,
            max_recoveries,
            queue_runners,
            replica,
            live: None,
            stop: false,
            recoveries: 0,
        };
        session.recovering(|s| s.revive())?;
        Ok(session)
    }
}

/// A session that is ready, and the threads that fill its queues.
struct Live {
    session: Session,
    threads: Coordinator,
}

/// A session that is initialised or restored before its first run, whose runs are watched by hooks, and that is made anew
/// when it is lost.
///
/// A run that fails with `ABORTED` or `UNAVAILABLE` (a task of the cluster was lost) is repeated in a new session: the
/// chief restores the latest checkpoint, a worker waits for the chief. Steps after that checkpoint are lost, so save often
/// enough. Any other error is the program's; after it, [`close`](Self::close) is not called but the session dropped, which
/// ends its threads but calls no hook.
pub struct MonitoredSession {
    preparer: Preparer,
    scaffold: Scaffold,
    hooks: Vec<Box<dyn SessionHook>>,
    max_recoveries: usize,
    queue_runners: bool,
    replica: Option<Replica>,
    live: Option<Live>,
    stop: bool,
    recoveries: usize,
}

impl MonitoredSession {
    /// Starts describing a session of a graph.
    pub fn builder(graph: &Graph) -> MonitoredBuilder {
        MonitoredBuilder {
            preparer: Preparer {
                graph: graph.clone(),
                create: Arc::new(Session::new),
                role: Role::default(),
                checkpoint_dir: None,
                checkpoint: None,
                ready_timeout: Duration::from_secs(300),
                poll: POLL,
            },
            scaffold: Scaffold::default(),
            hooks: Vec::new(),
            max_recoveries: 10,
            queue_runners: true,
            replica: None,
        }
    }

    /// Starts describing a session that drives a replica, whose steps hooks watch as they do runs; replica 0 is the chief.
    ///
    /// The chief initialises or restores before the training begins, and the others wait for it; all of them join it
    /// ([`Replica::start`]), and leave it when they [`close`](Self::close). A [`step`](Self::step) of which a task was lost is
    /// repeated in a new session. If a parameter server has come back without values, the chief restores the latest
    /// checkpoint into all of them, so that everybody goes on from there; while all values are there, nothing is restored.
    pub fn for_replica(replica: Replica) -> MonitoredBuilder {
        let role = match replica.options().replica {
            0 => Role::Chief,
            _ => Role::Worker,
        };
        let mut builder = MonitoredSession::builder(replica.graph()).role(role);
        builder.replica = Some(replica);
        builder
    }

    /// Whether the training is to end: a hook said so, the input has ended, or a thread that fills queues failed.
    pub fn should_stop(&self) -> bool {
        self.stop || self.live.as_ref().is_some_and(|l| l.threads.should_stop())
    }

    /// Asks the training to end.
    pub fn request_stop(&mut self) {
        self.stop = true;
    }

    /// The session at present, for runs that no hook sees; `None` after a failure, until the next run has made another.
    pub fn session(&self) -> Option<&Session> {
        self.live.as_ref().map(|l| &l.session)
    }

    /// The operations that belong to the training.
    pub fn scaffold(&self) -> &Scaffold {
        &self.scaffold
    }

    /// How often the session was made anew.
    pub fn recoveries(&self) -> usize {
        self.recoveries
    }

    /// Computes `fetches` with some tensors given, as [`Session::run`].
    ///
    /// # Errors
    /// As [`run_args`](Self::run_args).
    pub fn run(&mut self, feeds: &[(&Output, Tensor)], fetches: &[&Output]) -> Result<Vec<Tensor>> {
        self.run_args(&RunArgs {
            feeds: feeds.iter().map(|(o, t)| ((*o).clone(), t.clone())).collect(),
            fetches: fetches.iter().map(|o| (*o).clone()).collect(),
            ..RunArgs::default()
        })
    }

    /// Runs operations for their effects, as [`Session::execute`].
    ///
    /// # Errors
    /// As [`run_args`](Self::run_args).
    pub fn execute(&mut self, targets: &[&Operation]) -> Result<()> {
        self.run_args(&RunArgs {
            targets: targets.iter().map(|o| (*o).clone()).collect(),
            ..RunArgs::default()
        })
        .map(drop)
    }

    /// Runs what is asked for, together with what hooks ask for; the program's fetches in order.
    ///
    /// # Errors
    /// As [`Session::run`] and what hooks say. `OUT_OF_RANGE` means that the input has ended, after which
    /// [`should_stop`](Self::should_stop) holds. `ABORTED` and `UNAVAILABLE` only after the most recoveries in a row.
    pub fn run_args(&mut self, args: &RunArgs) -> Result<Vec<Tensor>> {
        self.recovering(|s| {
            s.revive()?;
            s.attempt(args)
        })
    }

    /// One step of the replica ([`Replica::step`]), with what hooks ask for. When it is repeated because a task was lost, the
    /// batch counts again if it had counted before the answer was lost; see [`step_with`](Self::step_with). Of a batch that is computed in parts, hooks see
    /// the means of floats, and else the last part.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` unless the session is [of a replica](Self::for_replica); as [`Replica::step`] and what hooks
    /// say. `OUT_OF_RANGE` means that too few replicas remain, after which [`should_stop`](Self::should_stop) holds.
    /// `ABORTED` and `UNAVAILABLE` only after the most recoveries in a row.
    pub fn step(&mut self, batch: &[Tensor]) -> Result<StepReport> {
        self.stepping(|s| s.attempt_step(batch))
    }

    /// [`step`](Self::step) with the batch that `batch` makes for the number of the step ([`Replica::position`]). When a step is
    /// repeated because a task was lost, `batch` is called again, with the number that the step has then: an earlier one if the
    /// training goes on from a checkpoint, a later one if the step has counted after all. With
    /// [`SyncBatches`](crate::data::SyncBatches) each example is used exactly once in each epoch so. Under other strategies, a
    /// `batch` that gives another batch at each call never has one count twice.
    ///
    /// # Errors
    /// As [`step`](Self::step); what `batch` returns.
    pub fn step_with(&mut self, mut batch: impl FnMut(u64) -> Result<Vec<Tensor>>) -> Result<StepReport> {
        self.stepping(|s| {
            let (Some(live), Some(replica)) = (&s.live, &mut s.replica) else {
                return Err(Error::internal("there is no session to take a step in"));
            };
            let handle = live.threads.handle();
            let position = replica.position_unless(handle.token());
            let position = position.map_err(|e| s.explained(e))?;
            s.attempt_step(&batch(position)?)
        })
    }

    fn stepping(&mut self, mut step: impl FnMut(&mut Self) -> Result<StepReport>) -> Result<StepReport> {
        if self.replica.is_none() {
            return Err(Error::failed_precondition(
                "the session drives no replica: make it by MonitoredSession::for_replica, or call run",
            ));
        }
        self.recovering(|s| {
            s.revive()?;
            step(s)
        })
    }

    /// The replica that it drives, if it does.
    pub fn replica(&self) -> Option<&Replica> {
        self.replica.as_ref()
    }

    /// Takes steps until the training is to end, then [closes](Self::close). The end of the input is no error.
    ///
    /// # Errors
    /// The first error of a step, or of closing.
    pub fn train(mut self, mut step: impl FnMut(&mut MonitoredSession) -> Result<()>) -> Result<()> {
        while !self.should_stop() {
            match step(&mut self) {
                Err(e) if e.code() == Code::OutOfRange && self.should_stop() => break,
                other => other?,
            }
        }
        self.close()
    }

    /// Ends the training: hooks first, then the threads that fill queues.
    ///
    /// # Errors
    /// The first error of a hook or a thread; `DEADLINE_EXCEEDED` naming a thread that does not end.
    pub fn close(mut self) -> Result<()> {
        let Some(live) = self.live.take() else {
            return Ok(());
        };
        let mut outcome = Ok(());
        for hook in &mut self.hooks {
            outcome = outcome.and(hook.end(&live.session));
        }
        if let Some(replica) = &mut self.replica {
            // Whoever is gone already waits for nobody.
            outcome = outcome.and(
                replica
                    .leave()
                    .or_else(|e| if recoverable(&e) { Ok(()) } else { Err(e) }),
            );
        }
        live.threads.request_stop();
        outcome.and(live.threads.join(THREADS_END))
    }

    /// Makes a session ready unless there is one.
    fn revive(&mut self) -> Result<()> {
        if self.live.is_some() {
            return Ok(());
        }
        let session = match &mut self.replica {
            None => self.preparer.session(&self.scaffold)?,
            Some(replica) => self.preparer.joined(&self.scaffold, replica)?,
        };
        let threads = Coordinator::new();
        if self.queue_runners {
            start_queue_runners(&session, &threads)?;
        }
        let stop = Cell::new(false);
        let setup = Setup {
            session: &session,
            scaffold: &self.scaffold,
            threads: &threads,
            stop: &stop,
        };
        for hook in &mut self.hooks {
            hook.after_create_session(&setup)?;
        }
        self.stop |= stop.get();
        self.live = Some(Live { session, threads });
        Ok(())
    }

    /// Does `work` again, in new sessions, as long as it fails for want of one.
    fn recovering<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let mut failures = 0;
        let mut pause = self.preparer.poll;
        loop {
            let e = match work(self) {
                Ok(x) => return Ok(x),
                Err(e) if self.survives(&e) => e,
                Err(e) => return Err(e),
            };
            if let Some(live) = self.live.take() {
                live.threads.request_stop();
                // Why its threads ended is no news: the session was lost.
                let _ = live.threads.join(THREADS_END);
            }
            if failures == self.max_recoveries {
                self.stop = true;
                return Err(e.context(format!("gave up after {failures} recoveries in a row (max_recoveries)")));
            }
            failures += 1;
            self.recoveries += 1;
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether what failed may succeed in a new session.
    fn survives(&self, e: &Error) -> bool {
        let asked_to_stop = || self.live.as_ref().is_some_and(|l| l.threads.should_stop());
        match (&self.replica, e.code()) {
            // The chief has begun the training anew meanwhile.
            (Some(_), Code::Cancelled) => !asked_to_stop(),
            (Some(replica), Code::FailedPrecondition) => self.live.is_some() && replica.has_lost_values(),
            _ => recoverable(e),
        }
    }

    /// One step of the replica in the session at present.
    fn attempt_step(&mut self, batch: &[Tensor]) -> Result<StepReport> {
        let (Some(live), Some(replica)) = (&self.live, &mut self.replica) else {
            return Err(Error::internal("there is no session to take a step in"));
        };
        let inputs = replica.inputs().iter().cloned();
        let args = RunArgs {
            feeds: inputs.zip(batch.iter().cloned()).collect(),
            ..RunArgs::default()
        };
        let context = RunContext::new(&live.session, &args);
        let handle = live.threads.handle();
        let mut report = None;
        let outcome = runs::watched(&context, &mut self.hooks, |mut all| {
            all.feeds.drain(..args.feeds.len());
            let (done, beside) = replica.step_beside(batch, &all, handle.token())?;
            report = Some(done);
            Ok((beside.values, beside.trace))
        });
        self.stop |= context.stop_requested();
        match outcome {
            Ok(_) => report.ok_or_else(|| Error::internal("a step gave no report")),
            Err(e) => Err(self.explained(e)),
        }
    }

    /// One run in the session at present.
    fn attempt(&mut self, args: &RunArgs) -> Result<Vec<Tensor>> {
        let Some(live) = &self.live else {
            return Err(Error::internal("there is no session to run in"));
        };
        let context = RunContext::new(&live.session, args);
        let handle = live.threads.handle();
        let outcome = runs::watched(&context, &mut self.hooks, |all| {
            runs::in_session(&live.session, all, handle.token())
        });
        self.stop |= context.stop_requested();
        outcome.map_err(|e| self.explained(e))
    }

    /// The error of a run, or why the threads ended if that is what it follows from. The end of the input is noted.
    fn explained(&mut self, e: Error) -> Error {
        let ended = self.live.as_ref().filter(|l| l.threads.should_stop());
        let e = match ended {
            Some(live) if matches!(e.code(), Code::Cancelled | Code::OutOfRange) => {
                thread_error(&live.threads).unwrap_or(e)
            }
            _ => e,
        };
        self.stop |= e.code() == Code::OutOfRange;
        e
    }
}

/// Why the threads ended, if one of them failed.
fn thread_error(threads: &Coordinator) -> Option<Error> {
    let ended = threads.join(THREADS_END);
    ended.err().map(|e| e.context("a thread that fills queues failed"))
}
