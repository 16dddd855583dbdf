//! The worker threads: finding work, spinning, sleeping.
//!
//! The rule that makes the pool lose no wake-up: whoever creates an opportunity (publishes a task or a region,
//! frees a seat) first makes it visible and then looks for a sleeper; a worker first announces that it lies down
//! and then looks for an opportunity once more. All four are `SeqCst`, so one of the two sees the other.

#![forbid(unsafe_code)]

use std::{
    cell::Cell,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool, AtomicIsize, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use actorflow_core::parallel::Parallel;
use crossbeam::{
    deque::{Injector, Steal, Stealer, Worker as Deque},
    utils::CachePadded,
};
use parking_lot::Mutex;

use super::{
    Event, PoolOptions, PoolStats, SEAT_PATIENCE, Seat, Task, affinity,
    region_table::RegionTable,
    seat::Seats,
    sleep::{Chosen, Dormitory},
};
use crate::region::Region;

/// How long a worker that ran out of work stays awake while a step is active. Longer than the serial kernels
/// between two parallel ones of a small training step; waking a sleeper costs some 5–50 µs.
pub(super) const SPIN: Duration = Duration::from_micros(50);
/// How long a thread that waits for its step looks for the end before it sleeps.
const WAIT_SPIN: Duration = Duration::from_micros(20);

/// A worker's own deque: its owner takes the newest task, thieves the oldest.
type Tasks = Deque<Box<dyn Task>>;

thread_local! {
    /// The pool (its address) whose worker this thread is; 0 for none.
    static WORKER_OF: Cell<usize> = const { Cell::new(0) };
}

/// What the pool's handle and its workers share.
pub(super) struct Shared {
    me: Weak<Shared>,
    options: PoolOptions,
    cores: Vec<usize>,
    pub(super) seats: CachePadded<Seats>,
    /// Workers that are awake and look for work without a seat.
    spinning: CachePadded<AtomicUsize>,
    /// Tasks counted in minus tasks taken out; negative for an instant when a task is taken before it is counted.
    /// Positive only if there is a task to be had.
    queued: CachePadded<AtomicIsize>,
    steps: CachePadded<AtomicUsize>,
    injector: Injector<Box<dyn Task>>,
    stealers: Box<[Stealer<Box<dyn Task>>]>,
    /// The workers' deques, until their threads fetch them.
    deques: Box<[Mutex<Option<Tasks>>]>,
    regions: RegionTable,
    beds: Dormitory,
    handles: Mutex<Vec<JoinHandle<()>>>,
    born: AtomicUsize,
    shutdown: AtomicBool,
    panics: AtomicUsize,
    failed_spawns: AtomicUsize,
}

impl Shared {
    pub(super) fn new(mut options: PoolOptions) -> Arc<Self> {
        options.threads = options.threads.max(1);
        let threads = options.threads;
        let mut cores = if options.pin { affinity::cores() } else { Vec::new() };
        if cores.len() < threads {
            cores.clear();
        }
        let deques: Vec<_> = (0..threads).map(|_| Deque::new_lifo()).collect();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            seats: CachePadded::new(Seats::new(threads)),
            spinning: CachePadded::default(),
            queued: CachePadded::default(),
            steps: CachePadded::default(),
            injector: Injector::new(),
            stealers: deques.iter().map(Deque::stealer).collect(),
            deques: deques.into_iter().map(|deque| Mutex::new(Some(deque))).collect(),
            regions: RegionTable::new(),
            beds: Dormitory::new(threads, |worker| cores.get(worker).copied()),
            handles: Mutex::default(),
            born: AtomicUsize::new(0),
            shutdown: AtomicBool::new(false),
            panics: AtomicUsize::new(0),
            failed_spawns: AtomicUsize::new(0),
            cores,
            options,
        })
    }

    /// Identifies the pool among all that are alive.
    #[inline]
    pub(super) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(super) fn threads(&self) -> usize {
        self.seats.total()
    }

    #[inline]
    pub(super) fn idle(&self) -> bool {
        let promised = self.queued.load(Relaxed).max(0).unsigned_abs();
        self.seats.taken() + promised < self.seats.total()
    }

    pub(super) fn stats(&self) -> PoolStats {
        PoolStats {
            workers: self.born.load(Relaxed),
            seats_taken: self.seats.taken(),
            queued: self.queued.load(Relaxed).max(0).unsigned_abs(),
            panics: self.panics.load(Relaxed),
            failed_spawns: self.failed_spawns.load(Relaxed),
        }
    }

    #[inline]
    fn has_work(&self) -> bool {
        self.regions.any_open() || self.queued.load(Relaxed) > 0
    }

    /// The last look before sleeping.
    fn has_opportunity(&self) -> bool {
        (self.regions.any_open_before_sleep() || self.queued.load(SeqCst) > 0) && self.seats.any_free()
    }

    pub(super) fn spawn(&self, task: Box<dyn Task>, local: Option<&Tasks>) {
        match local {
            Some(deque) => deque.push(task),
            None => self.injector.push(task),
        }
        // After the push, so that a positive count promises a task.
        self.queued.fetch_add(1, SeqCst);
        if !self.announce() && self.born.load(SeqCst) == 0 {
            // No thread can be created at all: what nobody else will run, runs here.
            let _seat = Seat::take_waiting(self, SEAT_PATIENCE);
            while let Some(task) = self.find(None) {
                self.run_task(task, None);
            }
        }
    }

    /// Wakes a worker for work that was just made visible, if one is of use. False if a thread that was needed
    /// could not be created.
    #[inline]
    fn announce(&self) -> bool {
        if self.spinning.load(SeqCst) > 0 || !self.seats.any_free() || !self.beds.any() {
            return true;
        }
        self.wake_one()
    }

    #[cold]
    fn wake_one(&self) -> bool {
        match self.beds.wake_one(affinity::current_core()) {
            Some(Chosen::Unborn(worker)) => self.create(worker),
            Some(Chosen::Woken) | None => true,
        }
    }

    fn create(&self, worker: usize) -> bool {
        let mut handles = self.handles.lock();
        let Some(shared) = self.me.upgrade().filter(|_| !self.shutdown.load(SeqCst)) else {
            return true;
        };
        let builder = thread::Builder::new().name(format!("{}-{worker}", self.options.name));
        match builder.spawn(move || shared.work_until_shutdown(worker)) {
            Ok(handle) => {
                self.born.fetch_add(1, SeqCst);
                handles.push(handle);
                true
            }
            Err(_) => {
                self.failed_spawns.fetch_add(1, Relaxed);
                self.beds.put_back(worker);
                false
            }
        }
    }

    /// Gives a seat back, and wakes a worker that may want it.
    pub(super) fn free_seat(&self) {
        self.seats.give_back();
        if self.regions.any_open_before_sleep() || self.queued.load(SeqCst) > 0 {
            self.announce();
        }
    }

    /// A task from this thread's deque, the injector or another worker's deque.
    fn find(&self, local: Option<&Tasks>) -> Option<Box<dyn Task>> {
        if let Some(task) = local.and_then(Deque::pop) {
            self.queued.fetch_sub(1, SeqCst);
            return Some(task);
        }
        while self.queued.load(Relaxed) > 0 {
            let from_injector = match local {
                Some(deque) => self.injector.steal_batch_and_pop(deque),
                None => self.injector.steal(),
            };
            let stolen = from_injector.or_else(|| self.stealers.iter().map(Stealer::steal).collect());
            match stolen {
                Steal::Success(task) => {
                    self.queued.fetch_sub(1, SeqCst);
                    return Some(task);
                }
                Steal::Empty => return None,
                Steal::Retry => std::hint::spin_loop(),
            }
        }
        None
    }

    fn run_task(&self, task: Box<dyn Task>, local: Option<&Tasks>) {
        let cx = WorkerCx { shared: self, local };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task.run(&cx))) {
            self.panics.fetch_add(1, Relaxed);
            if let Some(hook) = &self.options.on_panic {
                // A hook that panics has nowhere to report it; the task stays counted.
                let _ = catch_unwind(AssertUnwindSafe(|| hook(payload)));
            }
        }
    }

    /// Does one piece of work, with a seat; false if there is none.
    fn work_once(&self, local: Option<&Tasks>) -> bool {
        if self.regions.any_open() {
            let helped = self.regions.help(|left| {
                if left > 1 || self.queued.load(Relaxed) > 0 {
                    self.announce();
                }
            });
            if helped {
                return true;
            }
        }
        let Some(task) = self.find(local) else { return false };
        if self.queued.load(Relaxed) > 0 {
            self.announce();
        }
        self.run_task(task, local);
        true
    }

    fn work_until_idle(&self, deque: &Tasks) {
        while self.work_once(Some(deque)) {
            if self.shutdown.load(Relaxed) {
                break;
            }
        }
    }

    fn work_until_shutdown(&self, worker: usize) {
        WORKER_OF.set(self.id());
        let core = self.cores.get(worker).copied();
        let pinned = core.is_some_and(affinity::pin);
        self.beds.born(worker);
        // Nobody else takes this deque, and the worker is created once.
        let Some(deque) = self.deques[worker].lock().take() else {
            return;
        };
        while !self.shutdown.load(Relaxed) {
            if self.has_work()
                && let Some(_seat) = Seat::take(self)
            {
                self.work_until_idle(&deque);
            }
            if !self.spin() {
                self.sleep(worker, pinned);
            }
        }
    }

    /// Looks for work without a seat for a while; true if there is some and a seat for it.
    fn spin(&self) -> bool {
        if self.steps.load(Relaxed) == 0 {
            return false;
        }
        let others = self.spinning.fetch_add(1, SeqCst);
        let mut found = false;
        if others + self.seats.taken() < self.seats.total() {
            let end = Instant::now() + SPIN;
            while !found && !self.shutdown.load(Relaxed) && Instant::now() < end {
                for _ in 0..32 {
                    found = self.has_work() && self.seats.any_free();
                    if found {
                        break;
                    }
                    std::hint::spin_loop();
                }
            }
        }
        self.spinning.fetch_sub(1, SeqCst);
        found
    }

    fn sleep(&self, worker: usize, pinned: bool) {
        let core = if pinned { None } else { affinity::current_core() };
        self.beds.lie_down(worker, core);
        if (self.has_opportunity() || self.shutdown.load(SeqCst)) && self.beds.get_up(worker) {
            return;
        }
        self.beds.sleep(worker);
    }

    pub(super) fn help_while(&self, event: &Event, cond: &dyn Fn() -> bool, deadline: Option<Instant>) -> bool {
        loop {
            if !cond() {
                return true;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
            if self.has_work()
                && let Some(_seat) = Seat::take(self)
                && self.work_once(None)
            {
                continue;
            }
            if event.is_set() {
                // Set, and the condition is about to follow.
                thread::yield_now();
                continue;
            }
            let end = Instant::now() + WAIT_SPIN;
            while cond() && !event.is_set() && !self.has_work() && Instant::now() < end {
                std::hint::spin_loop();
            }
            if cond() && !event.is_set() {
                Seat::without(self, || event.wait(deadline));
            }
        }
    }

    pub(super) fn shut_down(&self) {
        self.shutdown.store(true, SeqCst);
        self.beds.wake_all();
        if WORKER_OF.get() == self.id() {
            // A worker cannot join itself, and must not wait for others that may wait for its task.
            self.handles.lock().clear();
            return;
        }
        loop {
            let handles = std::mem::take(&mut *self.handles.lock());
            if handles.is_empty() {
                break;
            }
            for handle in handles {
                // A worker contains panics of its tasks; nothing is left to report of its own.
                let _ = handle.join();
            }
        }
        loop {
            match self.injector.steal() {
                // A task whose drop panics must not keep the others from being dropped.
                Steal::Success(task) => drop(catch_unwind(AssertUnwindSafe(|| drop(task)))),
                Steal::Retry => {}
                Steal::Empty => break,
            }
        }
    }
}

impl Parallel for Shared {
    fn threads(&self) -> usize {
        self.seats.total()
    }

    fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        if chunks <= 1 || self.seats.total() == 1 {
            for chunk in 0..chunks {
                body(chunk);
            }
            return;
        }
        let _seat = Seat::take_waiting(self, SEAT_PATIENCE);
        let region = Region::new(chunks, body);
        self.regions.run(&region, || {
            self.announce();
        });
        if let Some(payload) = region.take_panic() {
            resume_unwind(payload);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// What a running task sees of the pool.
pub struct WorkerCx<'a> {
    shared: &'a Shared,
    /// The running worker's own deque; none on a thread of the embedder.
    local: Option<&'a Tasks>,
}

impl<'a> WorkerCx<'a> {
    pub(super) fn outside(shared: &'a Shared) -> Self {
        Self { shared, local: None }
    }

    /// Publishes a task, on the worker's own deque if this is a worker. Never blocks.
    pub fn spawn(&self, task: Box<dyn Task>) {
        self.shared.spawn(task, self.local);
    }

    /// As [`WorkerPool::idle`](super::WorkerPool::idle).
    #[inline]
    pub fn idle(&self) -> bool {
        self.shared.idle()
    }

    /// The pool's intra-op parallelism, for kernels.
    #[inline]
    pub fn parallel(&self) -> &'a dyn Parallel {
        self.shared
    }

    /// As [`WorkerPool::help_while`](super::WorkerPool::help_while).
    pub fn help_while(&self, event: &Event, cond: impl Fn() -> bool, deadline: Option<Instant>) -> bool {
        self.shared.help_while(event, &cond, deadline)
    }

    /// Whether this is one of the pool's own workers.
    pub fn is_worker(&self) -> bool {
        self.local.is_some()
    }
}

impl fmt::Debug for WorkerCx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerCx")
            .field("is_worker", &self.is_worker())
            .finish_non_exhaustive()
    }
}

/// An active step of the pool; see [`WorkerPool::step_guard`](super::WorkerPool::step_guard).
#[derive(Debug)]
pub struct StepGuard<'a> {
    shared: &'a Shared,
}

impl<'a> StepGuard<'a> {
    #[inline]
    pub(super) fn new(shared: &'a Shared) -> Self {
        // Relaxed: only a hint to idle workers.
        shared.steps.fetch_add(1, Relaxed);
        Self { shared }
    }
}

impl Drop for StepGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.shared.steps.fetch_sub(1, Relaxed);
    }
}
