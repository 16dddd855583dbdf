//! One step over several devices or tasks, as its coordinator sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_core::cancel::{CancelGuard, CancelToken};
use actorflow_core::error::{Error, Result};
use actorflow_core::tensor::Tensor;
use parking_lot::{Condvar, Mutex};

use super::host::{ShareOptions, ShareStatus};
use super::tracer::Tracer;

/// Whoever runs a share of a step, seen from the coordinator.
pub(crate) trait Taker: Send + Sync {
    /// The task, for messages.
    fn name(&self) -> String;

    /// Ends the step there.
    fn abort(&self, step: u64, why: &Error);

    /// Asks how far the step is there, and says whether all of it stands still, as far as the coordinator knows; `then`
    /// is called once. `None`: it has not begun, is over, or cannot be asked.
    fn status(&self, step: u64, stalled: bool, then: Box<dyn FnOnce(Option<ShareStatus>) + Send>);
}

/// What a run ends with.
pub(crate) type Then = Box<dyn FnOnce(Result<Vec<Tensor>>) + Send>;

struct State {
    /// Shares that have not reported.
    left: usize,
    error: Option<Error>,
    got: Vec<Option<Tensor>>,
    then: Option<Then>,
    /// For each taker, whether its share is in progress.
    open: Vec<bool>,
    /// Since when nothing but waiting was seen.
    stalled: Option<Instant>,
    /// For what, when it was last looked at.
    waits: String,
}

/// A step in progress.
pub(crate) struct DistRun {
    pub(crate) step: u64,
    /// Cancelled when the step fails; the shares of this process take it as theirs.
    pub(crate) cancel: CancelToken,
    takers: Vec<Arc<dyn Taker>>,
    state: Mutex<State>,
    over: Condvar,
    pub(crate) begun: Instant,
}

/// How long an error waits for the shares that were told to stop.
const GRACE: Duration = Duration::from_secs(1);

impl DistRun {
    /// A step whose shares are run by `takers`, and which gives `fetches` tensors; those of `given` are known.
    pub(crate) fn new(
        step: u64,
        takers: Vec<Arc<dyn Taker>>,
        fetches: usize,
        given: impl Iterator<Item = (usize, Tensor)>,
        then: Option<Then>,
    ) -> Arc<DistRun> {
        let mut got = vec![None; fetches];
        for (k, t) in given {
            if let Some(slot) = got.get_mut(k) {
                *slot = Some(t);
            }
        }
        Arc::new(DistRun {
            step,
            cancel: CancelToken::new(),
            state: Mutex::new(State {
                left: takers.len(),
                error: None,
                got,
                then,
                open: vec![true; takers.len()],
                stalled: None,
                waits: String::new(),
            }),
            takers,
            over: Condvar::new(),
            begun: Instant::now(),
        })
    }

    /// How a share of this process is to be run.
    pub(crate) fn options(&self, deadline: Option<Instant>, trace: Option<Arc<Tracer>>) -> ShareOptions<'_> {
        ShareOptions {
            step: self.step,
            deadline,
            cancel: &self.cancel,
            trace,
        }
    }

    /// Fails the step when a token is cancelled, as long as the answer is kept.
    pub(crate) fn fails_with(self: &Arc<Self>, token: &CancelToken) -> CancelGuard {
        let run = Arc::downgrade(self);
        token.on_cancel(move |why| {
            if let Some(run) = run.upgrade() {
                run.fail(why.clone());
            }
        })
    }

    /// The share of taker `i`, which gives the fetches of these numbers, is over.
    pub(crate) fn done(&self, i: usize, fetches: &[usize], result: Result<Vec<Tensor>>) {
        let failed = match result {
            Ok(values) => {
                let mut s = self.state.lock();
                for (k, t) in fetches.iter().zip(values) {
                    if let Some(slot) = s.got.get_mut(*k) {
                        *slot = Some(t);
                    }
                }
                None
            }
            Err(e) => Some(e),
        };
        if let Some(e) = failed {
            // Closed first, so that the taker that failed is not told to stop.
            if let Some(open) = self.state.lock().open.get_mut(i) {
                *open = false;
            }
            self.fail(e);
        }
        let then = {
            let mut s = self.state.lock();
            if let Some(open) = s.open.get_mut(i) {
                *open = false;
            }
            s.left = s.left.saturating_sub(1);
            if s.left == 0 { s.then.take() } else { None }
        };
        self.over.notify_all();
        if let Some(then) = then {
            then(self.outcome());
        }
    }

    /// Whether every share has reported.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().left == 0
    }

    /// Ends a step that nobody has a share of: all that it fetches is fed.
    pub(crate) fn finish_empty(&self) {
        let then = self.state.lock().then.take();
        if let Some(then) = then {
            then(self.outcome());
        }
    }

    /// Fails the step: the first error that does not follow from another one wins, and every share is told to stop.
    pub(crate) fn fail(&self, e: Error) {
        let tell: Vec<Arc<dyn Taker>> = {
            let mut s = self.state.lock();
            match &s.error {
                Some(old) if old.is_derived() && !e.is_derived() => {
                    s.error = Some(e.clone());
                    Vec::new()
                }
                Some(_) => Vec::new(),
                None => {
                    s.error = Some(e.clone());
                    let open = s.open.iter().zip(&self.takers);
                    open.filter(|(open, _)| **open).map(|(_, t)| t.clone()).collect()
                }
            }
        };
        if self
            .cancel
            .cancel(Error::cancelled(format!("another part of the step failed: {e}")).derived())
        {
            for t in tell {
                t.abort(self.step, &e);
            }
        }
        self.over.notify_all();
    }

    fn outcome(&self) -> Result<Vec<Tensor>> {
        let mut s = self.state.lock();
        if let Some(e) = s.error.clone() {
            return Err(e);
        }
        let got = s.got.drain(..);
        got.map(|t| t.ok_or_else(|| Error::internal("a share of the step gave no value")))
            .collect()
    }

    /// Waits until every share has reported, or the step has failed and those that can have stopped; fails it when the
    /// deadline passes.
    ///
    /// # Errors
    /// The step's first error.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Result<Vec<Tensor>> {
        let mut give_up: Option<Instant> = None;
        loop {
            let mut s = self.state.lock();
            if s.left == 0 {
                break;
            }
            if s.error.is_some() && give_up.is_none() {
                give_up = Some(Instant::now() + GRACE);
            }
            let until = give_up.or(deadline);
            let timed_out = match until {
                Some(until) => self.over.wait_until(&mut s, until).timed_out(),
                None => {
                    self.over.wait(&mut s);
                    false
                }
            };
            if !timed_out || s.left == 0 {
                continue;
            }
            if give_up.is_some() {
                break;
            }
            drop(s);
            self.past_deadline();
        }
        self.outcome()
    }

    /// Fails the step because its deadline has passed, naming the tasks that have not finished, and what waits there if
    /// that is known.
    pub(crate) fn past_deadline(&self) {
        let waits = {
            let s = self.state.lock();
            let open = s.open.iter().zip(&self.takers);
            let open: Vec<String> = open.filter(|(open, _)| **open).map(|(_, t)| t.name()).collect();
            match s.stalled {
                Some(_) => format!("step {} waits for: {}", self.step, s.waits),
                None => format!("it waits for {}", open.join(", ")),
            }
        };
        self.fail(Error::deadline(format!(
            "the run did not finish before its deadline; {waits}"
        )));
    }

    /// Looks how far the shares are; a step in which for `limit`, if there is one, nothing was done but wait fails, and
    /// says for what.
    pub(crate) fn look(self: &Arc<Self>, limit: Option<Duration>) {
        let (open, stalled): (Vec<usize>, bool) = {
            let s = self.state.lock();
            if s.error.is_some() {
                return;
            }
            let open = (0..self.takers.len()).filter(|i| s.open[*i]);
            (open.collect(), s.stalled.is_some())
        };
        if open.is_empty() {
            return;
        }
        let seen = Arc::new(Mutex::new((open.len(), Vec::new())));
        for i in open {
            let (run, seen) = (self.clone(), seen.clone());
            let name = self.takers[i].name();
            let note = move |status: Option<ShareStatus>| {
                let all = {
                    let mut s = seen.lock();
                    s.0 -= 1;
                    s.1.push((name, status));
                    (s.0 == 0).then(|| std::mem::take(&mut s.1))
                };
                if let Some(all) = all {
                    run.judge(all, limit);
                }
            };
            self.takers[i].status(self.step, stalled, Box::new(note));
        }
    }

    fn judge(&self, seen: Vec<(String, Option<ShareStatus>)>, limit: Option<Duration>) {
        let waiting = seen.iter().all(|(_, s)| s.as_ref().is_none_or(|s| s.waiting));
        // Another step that moves may bring what this one waits for; a share that has not begun may be compiled still.
        let hope = seen.iter().any(|(_, s)| s.as_ref().is_none_or(|s| s.others > 0));
        let waits: Vec<String> = seen
            .into_iter()
            .map(|(name, s)| match s {
                Some(s) => format!("{name}: {}", s.waits_for),
                None => format!("{name}: it has not begun its share, or does not say how far it is"),
            })
            .collect();
        let waits = waits.join("; ");
        let since = {
            let mut s = self.state.lock();
            if !waiting {
                s.stalled = None;
                return;
            }
            s.waits.clone_from(&waits);
            *s.stalled.get_or_insert_with(Instant::now)
        };
        let Some(limit) = limit else { return };
        let patience = if hope { limit * HOPE } else { limit };
        if since.elapsed() < patience {
            return;
        }
        self.fail(Error::deadline(format!(
            "no progress for {:.0?}, and the run has no deadline that lets it wait longer; step {} waits for: {waits}",
            since.elapsed(),
            self.step,
        )));
    }
}

/// How many times longer a step may wait where something is in progress that may end its waiting. Steps that stand
/// still themselves are no such thing: their coordinators say so when they ask ([`Taker::status`]).
const HOPE: u32 = 6;
