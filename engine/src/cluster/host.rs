//! What one process contributes to the steps of a cluster: its devices, its resources, and its share of each step.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use actorflow_actors::exec::{Executor, Launched, Pace, PartOf, PartWatch, RunOptions, Trace};
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::rendezvous::{Arrival, EdgeKey, Rendezvous};
use actorflow_core::resource::ResourceManager;
use actorflow_core::tensor::Tensor;
use dashmap::DashMap;
use parking_lot::Mutex;

use super::joint::Joint;
use super::messages::WAITS_FOR;
use super::table::StepTable;
use super::tracer::Tracer;

mod early;
mod share;

use early::{Charges, Early};
use share::in_order;
pub(crate) use share::{DevicePlan, SharePlan};

/// How a share of a step is to be run.
pub(crate) struct ShareOptions<'a> {
    pub(crate) step: u64,
    pub(crate) deadline: Option<Instant>,
    /// Fails the share when it is cancelled; it is cancelled when a part of the share fails.
    pub(crate) cancel: &'a CancelToken,
    /// Takes when its nodes ran.
    pub(crate) trace: Option<Arc<Tracer>>,
}

/// What is known of a share that is in progress.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShareStatus {
    /// Everything that is left waits.
    pub(crate) waiting: bool,
    /// For what: nodes and edges.
    pub(crate) waits_for: String,
    /// How many other steps are in progress here that do not stand still, as far as is known.
    pub(crate) others: usize,
}

/// A share in progress.
struct Active {
    share: Arc<SharePlan>,
    launched: Mutex<Vec<Launched>>,
    /// The part that runs on its caller's thread, if one does.
    caller: Option<Arc<PartWatch>>,
    cancel: CancelToken,
    begun: Instant,
    /// Its coordinator has seen it stand still everywhere, and no progress since.
    stalled: AtomicBool,
}

struct Entry {
    table: Arc<StepTable>,
    active: Option<Arc<Active>>,
    born: Instant,
    /// What has come before it began.
    charges: Charges,
}

impl Entry {
    /// Of a step that has not begun here.
    fn early(step: u64) -> Entry {
        Entry {
            table: StepTable::new(step),
            active: None,
            born: Instant::now(),
            charges: Charges::default(),
        }
    }
}

/// Steps that are over, so that what comes late for them is known to be late.
#[derive(Default)]
struct Ended {
    order: VecDeque<u64>,
    set: HashSet<u64>,
}

/// How many steps are remembered after their end.
const REMEMBER: usize = 8192;
/// What arrives for a step that does not begin for so long is dropped.
const EARLY: Duration = Duration::from_secs(30);
/// Steps for which something may have arrived before they began. A coordinator tells all its tasks at once, so that even
/// a few are rare; one that comes when there are so many fails when it begins.
const EARLY_STEPS: usize = 4096;
/// How often early arrivals are looked through, at most.
const SWEEP: Duration = Duration::from_secs(1);

/// Counts of what was dropped.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// Values for steps that are over.
    pub(crate) late: AtomicU64,
    /// Values from tasks that the plan does not name.
    pub(crate) foreign: AtomicU64,
    /// Values for steps that never began.
    pub(crate) orphaned: AtomicU64,
}

/// A process with devices.
pub(crate) struct Host {
    executors: Vec<Arc<Executor>>,
    resources: Arc<ResourceManager>,
    steps: DashMap<u64, Entry>,
    /// Those of them that have not begun.
    early: AtomicUsize,
    /// And how much has come for them.
    early_bytes: Early,
    swept: Mutex<Instant>,
    ended: Mutex<Ended>,
    /// Steps that have begun.
    pub(crate) begun: AtomicU64,
    pub(crate) dropped: Dropped,
}

impl Host {
    /// `early_bytes`: what each member may send for steps that have not begun; see [`Limits`](super::Limits).
    pub(crate) fn new(executors: Vec<Arc<Executor>>, resources: Arc<ResourceManager>, early_bytes: usize) -> Arc<Host> {
        Arc::new(Host {
            executors,
            resources,
            steps: DashMap::new(),
            early: AtomicUsize::new(0),
            early_bytes: Early::new(early_bytes),
            swept: Mutex::new(Instant::now()),
            ended: Mutex::default(),
            begun: AtomicU64::new(0),
            dropped: Dropped::default(),
        })
    }

    pub(crate) fn executors(&self) -> &[Arc<Executor>] {
        &self.executors
    }

    pub(crate) fn resources(&self) -> &Arc<ResourceManager> {
        &self.resources
    }

    fn has_ended(&self, step: u64) -> bool {
        self.ended.lock().set.contains(&step)
    }

    fn begin(
        &self,
        share: &Arc<SharePlan>,
        options: &ShareOptions<'_>,
        caller: Option<Arc<PartWatch>>,
    ) -> Result<(Arc<StepTable>, Arc<Active>)> {
        let step = options.step;
        if share.devices.iter().any(|d| d.device >= self.executors.len()) {
            return Err(Error::internal("the plan has a device that this task does not have"));
        }
        if self.has_ended(step) {
            let why =
                "was aborted before it began here, or more had come for it than is kept for steps that have not begun";
            return Err(Error::cancelled(format!("step {step} {why}")).derived());
        }
        let active = Arc::new(Active {
            share: share.clone(),
            launched: Mutex::default(),
            caller,
            cancel: options.cancel.clone(),
            begun: Instant::now(),
            stalled: AtomicBool::new(false),
        });
        let table = match self.steps.entry(step) {
            dashmap::Entry::Vacant(v) => {
                let mut entry = Entry::early(step);
                entry.active = Some(active.clone());
                v.insert(entry).table.clone()
            }
            dashmap::Entry::Occupied(mut o) => {
                let entry = o.get_mut();
                if entry.active.is_some() {
                    return Err(Error::internal(format!("step {step} was begun twice")));
                }
                entry.active = Some(active.clone());
                self.early.fetch_sub(1, Relaxed);
                self.early_bytes.give_back(std::mem::take(&mut entry.charges));
                entry.table.clone()
            }
        };
        table.open(&share.routes);
        self.begun.fetch_add(1, Relaxed);
        Ok((table, active))
    }

    fn end(&self, step: u64) {
        {
            let mut ended = self.ended.lock();
            if ended.set.insert(step) {
                ended.order.push_back(step);
                if ended.order.len() > REMEMBER
                    && let Some(old) = ended.order.pop_front()
                {
                    ended.set.remove(&old);
                }
            }
        }
        self.forget(step, Error::cancelled("the step is over").derived());
        self.sweep();
    }

    /// Drops what there is of a step; what waits in it is told why.
    fn forget(&self, step: u64, why: Error) {
        if let Some((_, entry)) = self.steps.remove(&step) {
            if entry.active.is_none() {
                self.early.fetch_sub(1, Relaxed);
            }
            self.early_bytes.give_back(entry.charges);
            entry.table.abort(why);
        }
    }

    /// Runs a share on the calling thread as far as possible, and waits for it.
    ///
    /// # Errors
    /// The first error of a node of the share, or why it was cancelled.
    pub(crate) fn run_here(
        &self,
        share: &Arc<SharePlan>,
        feeds: &[Tensor],
        options: ShareOptions<'_>,
    ) -> Result<Vec<Tensor>> {
        let watch = Arc::<PartWatch>::default();
        let (table, active) = self.begin(share, &options, Some(watch.clone()))?;
        let _over = Over {
            host: self,
            step: options.step,
        };
        let aborts = table.clone();
        let _wake = options.cancel.on_cancel(move |why| aborts.abort(why.clone()));
        let largest = (0..share.devices.len()).max_by_key(|i| share.devices[*i].plan.len());
        let Some(mine) = largest else { return Ok(Vec::new()) };
        let joint = Joint::new(share, options.cancel, None);
        for (i, part) in share.devices.iter().enumerate() {
            if i != mine {
                self.launch(share, i, feeds, &options, &table, &joint, Pace::Spawn, &active);
            } else if part.feeds.iter().any(|k| *k >= feeds.len()) {
                return Err(Error::internal("the step was given too few feeds"));
            }
        }
        let part = &share.devices[mine];
        let given = part.feeds.iter().map(|k| feeds[*k].clone());
        let (mut trace, began) = (Trace::default(), Instant::now());
        let run = RunOptions {
            deadline: options.deadline,
            cancel: Some(options.cancel),
            trace: options.trace.is_some().then_some(&mut trace),
            record: None,
            part: Some(PartOf {
                step_id: options.step,
                rendezvous: table.clone(),
                watch,
            }),
        };
        let result = self.executors[part.device].run(&part.plan, given, run);
        if let Some(tracer) = &options.trace {
            tracer.add(trace, began);
        }
        let result = result.map_err(|e| share.say_what_is_missing(e, &table));
        if share.devices.len() == 1 {
            return result.map(|values| in_order(part, values, share.fetches));
        }
        joint.done(part, result);
        joint.wait();
        joint.outcome()
    }

    /// Starts a share; `then` is told what comes of it, on any thread, exactly once.
    pub(crate) fn run_apart(
        self: &Arc<Self>,
        share: &Arc<SharePlan>,
        feeds: &[Tensor],
        options: &ShareOptions<'_>,
        pace: Pace,
        then: Box<dyn FnOnce(Result<Vec<Tensor>>) + Send>,
    ) {
        let (table, active) = match self.begin(share, options, None) {
            Ok(begun) => begun,
            Err(e) => return then(Err(e)),
        };
        let aborts = table.clone();
        let wake = options.cancel.on_cancel(move |why| aborts.abort(why.clone()));
        let (host, step) = (self.clone(), options.step);
        let finish: Box<dyn FnOnce(Result<Vec<Tensor>>) + Send> = Box::new(move |result| {
            drop(wake);
            host.end(step);
            then(result);
        });
        if share.devices.is_empty() {
            return finish(Ok(Vec::new()));
        }
        let joint = Joint::new(share, options.cancel, Some(finish));
        for i in 0..share.devices.len() {
            self.launch(share, i, feeds, options, &table, &joint, pace, &active);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn launch(
        &self,
        share: &Arc<SharePlan>,
        i: usize,
        feeds: &[Tensor],
        options: &ShareOptions<'_>,
        table: &Arc<StepTable>,
        joint: &Arc<Joint>,
        pace: Pace,
        active: &Active,
    ) {
        let part = &share.devices[i];
        let given: Option<Vec<Tensor>> = part.feeds.iter().map(|k| feeds.get(*k).cloned()).collect();
        let Some(given) = given else {
            return joint.done(part, Err(Error::internal("the step was given too few feeds")));
        };
        let record = options.trace.as_ref().map(|_| Arc::<Mutex<Trace>>::default());
        let (tracer, began) = (options.trace.clone(), Instant::now());
        let run = RunOptions {
            deadline: options.deadline,
            cancel: Some(options.cancel),
            trace: None,
            record: record.clone(),
            part: Some(PartOf {
                step_id: options.step,
                rendezvous: table.clone(),
                watch: Arc::default(),
            }),
        };
        let (of, to, at) = (share.clone(), joint.clone(), table.clone());
        let done = move |result: Result<Vec<Tensor>>| {
            let result = result.map_err(|e| of.say_what_is_missing(e, &at));
            if let (Some(tracer), Some(record)) = (tracer, record) {
                tracer.add(std::mem::take(&mut *record.lock()), began);
            }
            to.done(&of.devices[i], result);
        };
        match self.executors[part.device].launch(&part.plan, given, run, pace, done) {
            Ok(launched) => active.launched.lock().push(launched),
            Err(e) => joint.done(part, Err(e)),
        }
    }

    /// A value has come from another task.
    pub(crate) fn arrived(&self, step: u64, key: EdgeKey, value: Arrival, from: &str) {
        if self.has_ended(step) {
            self.dropped.late.fetch_add(1, Relaxed);
            return;
        }
        let (table, early) = match self.steps.entry(step) {
            dashmap::Entry::Occupied(mut o) => {
                let entry = o.get_mut();
                let early = entry.active.is_none();
                if early && !self.early_bytes.take(&mut entry.charges, from, &value) {
                    drop(o);
                    return self.refuse(step);
                }
                (entry.table.clone(), early)
            }
            dashmap::Entry::Vacant(v) => {
                let mut entry = Entry::early(step);
                let room = self.early.fetch_add(1, Relaxed) < EARLY_STEPS
                    && self.early_bytes.take(&mut entry.charges, from, &value);
                if !room {
                    self.early.fetch_sub(1, Relaxed);
                    drop(v);
                    return self.refuse(step);
                }
                (v.insert(entry).table.clone(), true)
            }
        };
        if !table.may_come_from(key.edge, from) {
            self.dropped.foreign.fetch_add(1, Relaxed);
            return;
        }
        if table.deliver(key, value).is_err() {
            self.dropped.late.fetch_add(1, Relaxed);
        }
        if self.has_ended(step) {
            // It ended meanwhile; the table may have been made anew.
            self.forget(step, Error::cancelled("the step is over").derived());
        } else if early {
            self.sweep();
        }
    }

    /// There is no room for what comes early for a step: it must not begin as if nothing were missing.
    fn refuse(&self, step: u64) {
        self.dropped.orphaned.fetch_add(1, Relaxed);
        self.end(step);
    }

    /// Drops what arrived long ago for steps that have not begun, if there is any and nobody has looked just now.
    pub(crate) fn sweep(&self) {
        if self.early.load(Relaxed) == 0 {
            return;
        }
        let now = Instant::now();
        {
            let Some(mut swept) = self.swept.try_lock() else { return };
            if now.saturating_duration_since(*swept) < SWEEP {
                return;
            }
            *swept = now;
        }
        self.drop_orphans(now);
    }

    /// Drops what had arrived too long before `now` for steps that have not begun.
    fn drop_orphans(&self, now: Instant) {
        self.steps.retain(|_, e| {
            let keep = e.active.is_some() || now.saturating_duration_since(e.born) < EARLY;
            if !keep {
                self.early.fetch_sub(1, Relaxed);
                self.early_bytes.give_back(std::mem::take(&mut e.charges));
                self.dropped.orphaned.fetch_add(1, Relaxed);
            }
            keep
        });
    }

    /// Ends a step that has not begun here: it never will.
    pub(crate) fn never(&self, step: u64) {
        let begun = self.steps.get(&step).is_some_and(|e| e.active.is_some());
        if !begun {
            self.end(step);
        }
    }

    /// The token that ends a step in progress here.
    pub(crate) fn cancel_token(&self, step: u64) -> Option<CancelToken> {
        Some(self.steps.get(&step)?.active.as_ref()?.cancel.clone())
    }

    /// Ends a step here, whether it has begun or not.
    pub(crate) fn abort(&self, step: u64, why: Error) {
        let active = self.steps.get(&step).and_then(|e| e.active.clone());
        match active {
            Some(active) => {
                active.cancel.cancel(why);
            }
            None => self.end(step),
        }
    }

    /// A task is gone, or what it or this one sent on a connection is: the steps that began before and exchange tensors
    /// with it end.
    pub(crate) fn lost_task(&self, task: &str, why: &Error, before: Instant) {
        let affected: Vec<(u64, Arc<StepTable>, Arc<Active>)> = self
            .steps
            .iter()
            .filter_map(|e| Some((*e.key(), e.table.clone(), e.active.clone()?)))
            .filter(|(_, _, a)| a.begun <= before && a.share.peers.iter().any(|p| p == task))
            .collect();
        for (step, table, active) in affected {
            let missing = active.share.missing_from(task, &table);
            let why = match missing.is_empty() {
                true => why.clone(),
                false => {
                    let text = format!("{}; step {step} {WAITS_FOR} {}", why.message(), missing.join(", "));
                    Error::new(why.code(), text).in_task(task)
                }
            };
            active.cancel.cancel(why);
        }
    }

    /// How far a step is here; `None` if it is over or has not begun. `stalled` is what its coordinator knows of the
    /// whole of it, if that is who asks.
    pub(crate) fn status(&self, step: u64, stalled: Option<bool>) -> Option<ShareStatus> {
        let (table, active) = {
            let entry = self.steps.get(&step)?;
            (entry.table.clone(), entry.active.clone()?)
        };
        if let Some(stalled) = stalled {
            active.stalled.store(stalled, Relaxed);
        }
        let moves = |e: &Arc<Active>| !e.stalled.load(Relaxed);
        let others = self
            .steps
            .iter()
            .filter(|e| *e.key() != step && e.active.as_ref().is_some_and(moves));
        let others = others.count();
        let launched = active.launched.lock();
        let mut waits: Vec<String> = launched
            .iter()
            .map(Launched::waiting_for)
            .filter(|w| !w.is_empty())
            .collect();
        waits.extend(active.caller.iter().map(|c| c.waits_for()).filter(|w| !w.is_empty()));
        let edges = table.awaited(4);
        waits.extend(
            edges
                .iter()
                .filter_map(|e| active.share.edge_names.get(*e as usize))
                .cloned(),
        );
        Some(ShareStatus {
            waiting: launched.iter().all(Launched::is_waiting) && active.caller.as_ref().is_none_or(|c| c.is_waiting()),
            waits_for: waits.join("; "),
            others,
        })
    }

    /// The steps in progress here: their numbers, and since when, the oldest first.
    pub(crate) fn active_steps(&self) -> Vec<(u64, Duration)> {
        let mut steps: Vec<_> = self
            .steps
            .iter()
            .filter_map(|e| Some((*e.key(), e.active.as_ref()?.begun.elapsed())))
            .collect();
        steps.sort_unstable_by_key(|(step, age)| (std::cmp::Reverse(*age), *step));
        steps
    }
}

/// Ends a step when its run returns, however it does.
struct Over<'a> {
    host: &'a Host,
    step: u64,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.host.end(self.step);
    }
}

#[cfg(test)]
mod tests;
