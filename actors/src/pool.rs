//! The CPU device actor's workers: one pool of threads for whole nodes and for the insides of kernels.
//!
//! **Seats.** A pool of `threads` has exactly that many *seats*, and a thread computes for the device only while
//! it holds one: a worker takes a seat when it sees work and gives it back when it finds none, and a thread of
//! the embedder takes one with [`WorkerPool::enter`] to run a step on the spot. So the device never uses more
//! cores than it was given, whoever calls, and a blocking run with `threads = 1` happens on its caller entirely.
//! Worker threads are created when there is first something for them to do.
//!
//! **Work** reaches the workers in two ways. A [`Task`] (a node worth running elsewhere) goes to the spawning
//! worker's own deque, or to the injector; idle workers steal. A *parallel region*
//! ([`Parallel::run`], a kernel that spreads its own work) is published
//! in a table from which idle workers join it; its owner takes part and never waits for a helper that has not
//! come. Regions may nest and several threads may run regions at once.
//!
//! **Waking.** While a step is active ([`WorkerPool::step_guard`]) a worker that runs out of work first spins for
//! 50 µs, so that the consecutive kernels of a step find it awake; then it sleeps. No more
//! workers spin than there are free seats. Work is announced by waking one sleeper, and none if one spins; a
//! worker that finds more than it can do wakes the next, so announcing costs the caller the same whatever the
//! size of the pool. A sleeper on another core than the caller's is preferred.
//!
//! **Failure.** A task that panics is contained: counted, and reported to the pool's hook. A panic in a parallel
//! region is re-raised in the thread that runs the region.
//!
//! **Capacity.** Tasks are not bounded here: the executor publishes one only when [`WorkerPool::idle`] says that
//! a seat is free. At most 64 regions are published at once; a region beyond that runs on its caller alone.
//!
//! **Disconnection.** Dropping the pool lets the running tasks finish, drops the queued ones without running them
//! (a task must treat that as its cancellation) and joins the threads. Dropped by one of its own workers (a task
//! held the last reference), it does not join but lets the threads end by themselves.
//!
//! **Cancellation** of single tasks is the business of the step they belong to.

mod affinity;
mod event;
mod region_table;
mod seat;
mod sleep;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    any::Any,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use actorflow_core::parallel::Parallel;

use self::worker::Shared;
pub use self::{
    event::Event,
    seat::Seat,
    worker::{StepGuard, WorkerCx},
};

/// Something for a worker to do once: a node of a step, or a batch of them.
///
/// Dropped without having run when the pool goes away first.
pub trait Task: Send {
    /// Does it. Runs on a worker, or on a thread that [helps](WorkerPool::help_while), which holds a seat.
    fn run(self: Box<Self>, cx: &WorkerCx<'_>);
}

impl<F: FnOnce(&WorkerCx<'_>) + Send> Task for F {
    fn run(self: Box<Self>, cx: &WorkerCx<'_>) {
        self(cx);
    }
}

/// Receives the payload of a task that panicked, on the thread that ran it.
pub type TaskPanicHook = Arc<dyn Fn(Box<dyn Any + Send>) + Send + Sync>;

/// How a [`WorkerPool`] is set up.
#[derive(Clone)]
pub struct PoolOptions {
    /// How many threads may compute at once, the embedder's included; 0 counts as 1.
    pub threads: usize,
    /// Whether worker `i` is bound to the `i`-th core of the process's affinity mask. Without effect if there
    /// are fewer cores than threads, and where the platform cannot do it. Embedder threads are never bound.
    pub pin: bool,
    /// The workers' threads are named `name-0`, `name-1` …
    pub name: String,
    /// Told about every task that panicked.
    pub on_panic: Option<TaskPanicHook>,
}

impl PoolOptions {
    /// A pool of `threads`; pinned exactly if that is every core the process may use. (A pool that uses only a
    /// part would otherwise share the first cores with every other pool and process that thinks the same.)
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        Self {
            threads,
            pin: threads == affinity::cores().len(),
            name: "actorflow-cpu".into(),
            on_panic: None,
        }
    }
}

impl Default for PoolOptions {
    /// One thread for each core the process may use.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

impl fmt::Debug for PoolOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolOptions")
            .field("threads", &self.threads)
            .field("pin", &self.pin)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a pool has done so far, for reports and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Worker threads that exist.
    pub workers: usize,
    /// Seats taken at this moment.
    pub seats_taken: usize,
    /// Tasks waiting to be picked up at this moment.
    pub queued: usize,
    /// Tasks that panicked.
    pub panics: usize,
    /// Threads the system refused to create.
    pub failed_spawns: usize,
}

/// The workers of one CPU device. See the [module](self).
pub struct WorkerPool {
    shared: Arc<Shared>,
}

impl WorkerPool {
    /// A pool without threads yet.
    pub fn new(options: PoolOptions) -> Self {
        Self {
            shared: Shared::new(options),
        }
    }

    /// Takes a seat for the calling thread if one is free, so that it may run a step on the spot. A thread that
    /// has a seat already gets a second hold on the same one.
    ///
    /// While it holds a seat a thread must not wait for another thread that needs one, except through
    /// [`help_while`](Self::help_while), which gives the seat back before it sleeps.
    #[inline]
    pub fn enter(&self) -> Option<Seat<'_>> {
        Seat::take(&self.shared)
    }

    /// Publishes a task. Never blocks; a worker is woken, or created, if a seat is free.
    pub fn spawn(&self, task: Box<dyn Task>) {
        self.shared.spawn(task, None);
    }

    /// Whether a published task would find a free seat now. Two relaxed loads, so a hint; it already counts the
    /// tasks that were published and not yet picked up.
    #[inline]
    pub fn idle(&self) -> bool {
        self.shared.idle()
    }

    /// Marks a step as active until the guard is dropped: idle workers then spin a little before they sleep.
    #[inline]
    pub fn step_guard(&self) -> StepGuard<'_> {
        StepGuard::new(&self.shared)
    }

    /// What a task gets, for a thread of the embedder that runs nodes itself. The thread holds a [`Seat`].
    pub fn cx(&self) -> WorkerCx<'_> {
        WorkerCx::outside(&self.shared)
    }

    /// Waits while `cond()` holds: runs queued tasks and helps regions as long as there are any and a seat can be
    /// had, else sleeps until `event` is set. Returns true when `cond()` no longer holds, false when `deadline`
    /// passed first (a task that is being helped with is finished nevertheless).
    ///
    /// Whoever makes `cond()` false sets `event` afterwards; `cond` must not hold for ever once it is set.
    /// A seat of this thread is given back before it sleeps and taken again after, if one is free; if not, the
    /// thread's [`Seat`] is one in name only until its next parallel region gets one.
    pub fn help_while(&self, event: &Event, cond: impl Fn() -> bool, deadline: Option<Instant>) -> bool {
        self.shared.help_while(event, &cond, deadline)
    }

    /// Counters of this pool.
    pub fn stats(&self) -> PoolStats {
        self.shared.stats()
    }
}

impl Parallel for WorkerPool {
    fn threads(&self) -> usize {
        self.shared.threads()
    }

    /// The calling thread takes part, and so needs a seat. If it has none and none becomes free for
    /// [`SEAT_PATIENCE`], it goes on without, so that no mistake of an embedder can hang a run.
    fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        self.shared.run(chunks, body);
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.shared.shut_down();
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool")
            .field("threads", &self.shared.threads())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// How long a thread without a seat waits for one before its parallel region runs without.
pub const SEAT_PATIENCE: Duration = Duration::from_millis(100);
