//! Driving a step.
//!
//! A blocking run happens on its caller as far as possible. If the plan has nothing worth another worker, or the
//! device has one thread, the caller runs it *solo*: plain loads and stores instead of atomic operations, no
//! hand-over. Otherwise the caller is one of the step's threads and helps until the step is over. An asynchronous
//! run starts on a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

use actorflow_core::Tensor;
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Device, StepContext};
use actorflow_core::parallel::Parallel;
use actorflow_core::rendezvous::Rendezvous;
use actorflow_core::resource::ResourceManager;
use parking_lot::Mutex;

use super::any::AnyRunner;
use super::plan::Plan;
use super::step::{Arrived, RUNNING, Scratch, Step, Trace, WAITING};
use crate::control::ArbiterHost;
use crate::control::steps::StepRegistry;
use crate::pool::WorkerPool;
use crate::turn::TurnMailbox;

/// How one run is to be done.
#[derive(Default)]
pub struct RunOptions<'a> {
    /// Fails the run with `DEADLINE_EXCEEDED` when it passes.
    pub deadline: Option<Instant>,
    /// Fails the run when it is cancelled.
    pub cancel: Option<&'a CancelToken>,
    /// Receives what the run did, node by node.
    pub trace: Option<&'a mut Trace>,
    /// Receives the same while the run goes on, which [`Executor::launch`] does, too; complete when the run is over.
    pub record: Option<Arc<Mutex<Trace>>>,
    /// The step that this is a part of, if several devices or tasks run it together.
    pub part: Option<PartOf>,
}

/// A step that several devices or tasks run together. Who began it watches over its progress: a part that waits for
/// others is not stalled.
#[derive(Clone)]
pub struct PartOf {
    /// The number of the step, the same in every part.
    pub step_id: u64,
    /// Where the parts' tensors meet.
    pub rendezvous: Arc<dyn Rendezvous>,
    /// Tells others whether the part waits; kept up to date by blocking runs.
    pub watch: Arc<PartWatch>,
}

/// What others see of a part that runs on its caller's thread.
#[derive(Debug, Default)]
pub struct PartWatch {
    waiting: AtomicBool,
    waits_for: Mutex<String>,
}

impl PartWatch {
    /// Whether everything that is left of it waits.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// The nodes that wait, for messages; known after a few seconds of waiting.
    pub fn waits_for(&self) -> String {
        self.waits_for.lock().clone()
    }
}

/// Runs plans on one device, over the resources of one session.
pub struct Executor {
    pub(super) pool: Arc<WorkerPool>,
    device: Arc<dyn Device>,
    resources: Arc<ResourceManager>,
    /// Runs that are in progress.
    pub(super) active: AtomicUsize,
    /// Of these, those whose callers have found nothing to do for a while.
    blocked: AtomicUsize,
    /// The deadlines of asynchronous runs, which no caller watches.
    pub(super) deadlines: StepRegistry,
    /// A run without a deadline that makes no progress for this long, while nothing else runs that could wake it, fails.
    stall: Duration,
}

/// How many finished steps of a plan are kept for reuse.
const KEEP_STEPS: usize = 8;

static NEXT_STEP: AtomicU64 = AtomicU64::new(1);

struct Active<'a>(&'a AtomicUsize);

impl<'a> Active<'a> {
    fn new(n: &'a AtomicUsize) -> Self {
        n.fetch_add(1, Relaxed);
        Active(n)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Executor {
    /// An executor that fails a run without a deadline after `stall` without progress if no other run of it is active.
    pub fn new(
        pool: Arc<WorkerPool>,
        device: Arc<dyn Device>,
        resources: Arc<ResourceManager>,
        stall: Duration,
    ) -> Arc<Self> {
        Arc::new(Executor {
            pool,
            device,
            resources,
            active: AtomicUsize::new(0),
            blocked: AtomicUsize::new(0),
            deadlines: StepRegistry::new(Arc::new(ArbiterHost::new("actorflow-control"))),
            stall,
        })
    }

    /// The device's workers.
    pub fn pool(&self) -> &Arc<WorkerPool> {
        &self.pool
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The session's resources.
    pub fn resources(&self) -> &Arc<ResourceManager> {
        &self.resources
    }

    pub(super) fn step(&self, plan: &Arc<Plan>) -> Arc<Step> {
        let kept = plan.free.lock().pop();
        match kept {
            Some(s) if Arc::ptr_eq(&s.cx.resources, &self.resources) => s,
            _ => Arc::new(Step::new(
                plan,
                StepContext {
                    step_id: 0,
                    cancel: CancelToken::new(),
                    resources: self.resources.clone(),
                    step_resources: ResourceManager::new(TurnMailbox::factory()),
                    rendezvous: None,
                    device: self.device.clone(),
                },
            )),
        }
    }

    fn recycle(&self, plan: &Arc<Plan>, mut step: Arc<Step>) {
        if step.failed.load(Relaxed) || step.cx.cancel.is_cancelled() {
            return;
        }
        // A continuation that was resumed may still be letting go of the step on another thread.
        for _ in 0..1000 {
            if Arc::strong_count(&step) == 1 {
                break;
            }
            std::hint::spin_loop();
        }
        if let Some(s) = Arc::get_mut(&mut step) {
            s.cx.step_resources.clear_all();
            s.cx.rendezvous = None;
            if !s.reset(plan) {
                return;
            }
            let mut free = plan.free.lock();
            if free.len() < KEEP_STEPS {
                free.push(step);
            }
        }
    }

    /// Runs a plan and waits for it. `feeds` gives one tensor for each feed, in order.
    ///
    /// # Errors
    /// The first error of a node; `CANCELLED` or `DEADLINE_EXCEEDED`; `INVALID_ARGUMENT` for too few feeds.
    pub fn run(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        feeds: impl ExactSizeIterator<Item = Tensor>,
        options: RunOptions<'_>,
    ) -> Result<Vec<Tensor>> {
        check_feeds(plan, feeds.len())?;
        let _active = Active::new(&self.active);
        let mut step = self.step(plan);
        let parallel = self.pool.threads() > 1 && plan.parallel.load(Relaxed);
        let solo = !parallel;
        {
            let Some(s) = Arc::get_mut(&mut step) else {
                return Err(Error::internal("a pooled step is in use"));
            };
            self.prepare(s, plan, solo, &options);
        }
        let _registered = match options.cancel {
            Some(c) => {
                c.check()?;
                let step = step.clone();
                Some(c.on_cancel(move |why| step.fail(why.clone())))
            }
            None => None,
        };
        let _spin = (self.pool.threads() > 1 && (parallel || plan.is_heavy())).then(|| self.pool.step_guard());
        let watch = options.part.map(|p| p.watch);
        if solo {
            self.drive_solo(plan, &step, feeds, watch)
        } else {
            self.drive_shared(plan, &step, feeds, watch)
        }
        let outcome = step.outcome(plan);
        if let Some(out) = options.trace
            && let Some(t) = &step.trace
        {
            *out = std::mem::take(&mut *t.lock());
        }
        if step.measure {
            plan.reconsider();
        }
        drop(_registered);
        self.recycle(plan, step);
        outcome
    }

    pub(super) fn prepare(&self, s: &mut Step, plan: &Plan, solo: bool, options: &RunOptions<'_>) {
        match &options.part {
            Some(p) => {
                s.cx.step_id = p.step_id;
                s.cx.rendezvous = Some(p.rendezvous.clone());
            }
            None => s.cx.step_id = NEXT_STEP.fetch_add(1, Relaxed),
        }
        s.solo = solo;
        s.measure = plan.measure_this_run();
        s.deadline = options.deadline;
        if options.trace.is_some() || options.record.is_some() {
            s.trace = Some(options.record.clone().unwrap_or_default());
            s.started = Some(Instant::now());
        }
    }

    fn drive_solo(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        step: &Arc<Step>,
        feeds: impl Iterator<Item = Tensor>,
        watch: Option<Arc<PartWatch>>,
    ) {
        // A seat keeps the device from being oversubscribed by heavy plans; cheap ones are over before it matters.
        let enter = || if plan.is_heavy() { self.pool.enter() } else { None };
        let mut seat = enter();
        // SAFETY: the step was just taken from the pool and is solo: only this call uses its scratch area.
        let scratch = unsafe { &mut *step.scratch.get() };
        let mut runner = AnyRunner::<true>::new(self, plan, step, scratch);
        runner.start(feeds);
        if !plan.may_wait {
            return;
        }
        let mut idle = Idle::new(self, watch);
        while step.outstanding.load(Acquire) >= WAITING && !step.has_failed() {
            while let Some(arrived) = step.inbox.pop() {
                idle.ended();
                step.outstanding.fetch_sub(WAITING, Relaxed);
                runner.resume(arrived);
            }
            if step.outstanding.load(Acquire) < WAITING || step.has_failed() {
                break;
            }
            if step.event.is_set() {
                step.event.reset();
                continue;
            }
            idle.begun();
            // Who waits does not compute, and whoever is to end the wait may need the seat.
            drop(seat.take());
            if !step.event.wait(Some(idle.look_again(step))) {
                idle.check(plan, step);
            }
            seat = enter();
        }
        while let Some(arrived) = step.inbox.pop() {
            // The step failed; turns that were granted meanwhile are given back.
            if let Arrived::Granted(_, mut held) = arrived {
                held.release_all();
            }
        }
    }

    fn drive_shared(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        step: &Arc<Step>,
        feeds: impl Iterator<Item = Tensor>,
        watch: Option<Arc<PartWatch>>,
    ) {
        let seat = self.pool.enter();
        step.outstanding.store(RUNNING, Relaxed);
        {
            let mut scratch = Scratch::default();
            AnyRunner::<false>::new(self, plan, step, &mut scratch).start(feeds);
        }
        end_activity(plan, step);
        drop(seat);
        let mut idle = Idle::new(self, watch);
        while !is_over(step) {
            let runs = step.outstanding.load(Acquire) & (WAITING - 1) != 0;
            if runs {
                idle.ended()
            } else {
                idle.begun()
            }
            let until = idle.look_again(step);
            if !self
                .pool
                .help_while(&step.event, || !is_over(step) && !step.event.is_set(), Some(until))
            {
                idle.check(plan, step);
            }
            if step.event.is_set() && !is_over(step) {
                // Failed while other threads still run nodes of this step: their kernels return soon.
                std::thread::yield_now();
            }
        }
    }
}

/// A run that waits: since when, and whether the executor counts it as blocked.
struct Idle<'a> {
    exec: &'a Executor,
    watch: Option<Arc<PartWatch>>,
    since: Option<Instant>,
}

impl<'a> Idle<'a> {
    fn new(exec: &'a Executor, watch: Option<Arc<PartWatch>>) -> Self {
        Idle {
            exec,
            watch,
            since: None,
        }
    }

    fn tell(&self, waiting: bool) {
        if let Some(w) = &self.watch {
            w.waiting.store(waiting, Relaxed);
        }
    }

    fn begun(&mut self) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.exec.blocked.fetch_add(1, Relaxed);
            self.tell(true);
        }
    }

    fn ended(&mut self) {
        if self.since.take().is_some() {
            self.exec.blocked.fetch_sub(1, Relaxed);
            self.tell(false);
        }
    }

    /// Until when to sleep before looking at the clock again.
    fn look_again(&self, step: &Step) -> Instant {
        let tick = Instant::now() + (self.exec.stall / 4).max(Duration::from_millis(10));
        step.deadline.map_or(tick, |d| d.min(tick))
    }

    #[cold]
    fn check(&self, plan: &Plan, step: &Step) {
        let now = Instant::now();
        let waits = || step.waiting_for(plan);
        if let Some(w) = &self.watch {
            *w.waits_for.lock() = waits();
        }
        if step.deadline.is_some_and(|d| now >= d) {
            step.fail(past_deadline(plan, step));
        } else if step.deadline.is_none()
            && step.cx.rendezvous.is_none()
            && self.since.is_some_and(|s| now >= s + self.exec.stall)
            && self.exec.blocked.load(Relaxed) >= self.exec.active.load(Relaxed)
        {
            step.fail(Error::deadline(format!(
                "no progress for {:.0?}, and no other run of the session is active that could bring any; it waits \
                 for: {}",
                self.exec.stall,
                waits()
            )));
        }
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.ended();
    }
}

/// The error of a run whose deadline has passed, with what it waits for.
pub(super) fn past_deadline(plan: &Plan, step: &Step) -> Error {
    let waits = step.waiting_for(plan);
    let what = if waits.is_empty() {
        String::new()
    } else {
        format!("; it waits for: {waits}")
    };
    Error::deadline(format!("the run did not finish before its deadline{what}"))
}

pub(super) fn check_feeds(plan: &Plan, given: usize) -> Result<()> {
    if given != plan.num_feeds() {
        return Err(Error::invalid(format!(
            "the run needs {} feeds, got {given}",
            plan.num_feeds()
        )));
    }
    Ok(())
}

/// Whether nothing runs, and nothing waits unless the step failed.
fn is_over(step: &Step) -> bool {
    let o = step.outstanding.load(Acquire);
    o == 0 || (o & (WAITING - 1) == 0 && step.failed.load(Acquire))
}

/// One activity less; the last one ends the step.
pub(super) fn end_activity(plan: &Arc<Plan>, step: &Arc<Step>) {
    let before = step.outstanding.fetch_sub(RUNNING, AcqRel);
    let left = before - RUNNING;
    if left == 0 || (left & (WAITING - 1) == 0 && step.failed.load(Acquire)) {
        if step.measure {
            plan.reconsider();
        }
        let finish = step.on_finish.lock().take();
        if let Some(f) = finish {
            f(step.outcome(plan));
        }
        step.event.set();
    }
}
