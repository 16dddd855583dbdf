//! The step coordinator: which steps run, until when, and how to stop them.
//!
//! A [`StepRegistry`] belongs to an engine. Its table is shared: a step enters and leaves it, and can be listed and
//! cancelled, by a short lock on any thread, so that leaving can neither wait nor fail. What needs a clock, ending
//! steps whose deadline has passed, is done by a control actor, the [`StepCoordinator`], which the first deadline
//! starts. It keeps one timer, for the earliest deadline, and aborts whatever is overdue when that runs.
//!
//! **Who registers.** A step registers only if it has a deadline, or when it parks its first request (so that it
//! may wait for long and somebody must be able to see and to stop it). A step of a few microseconds that does
//! neither never comes here, and an engine without deadlines never starts a control thread.
//!
//! **Exactly once.** A step's abort handle is called at most once, with the first [`AbortReason`]: it is taken out
//! of the table by whoever aborts, and called without any lock held. It must not block; it may drop the
//! [`Registration`]. A step that has left the table is never aborted after [`Registration::end`] returned, except by
//! a caller that had taken the handle before.
//!
//! **Capacity.** The table holds one entry for each registered step. The coordinator is told of an earlier deadline
//! through its bounded mailbox; if that is full, a message that will make it look at the table is in it already,
//! so nothing waits and nothing is lost.
//!
//! **Disconnection.** Dropping the registry, or its host, aborts every step in it with [`AbortReason::Shutdown`];
//! whoever registers afterwards is aborted at once.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use parking_lot::Mutex;

use super::{ArbiterHost, ControlActor, ControlAddr, ControlCx, ControlError, Handle, Timer};

/// Identifies a step within its engine; never used again.
pub type StepId = u64;

/// Why a step is aborted from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortReason {
    /// Somebody cancelled it.
    Cancelled,
    /// Its deadline passed.
    DeadlineExceeded,
    /// The engine is going away.
    Shutdown,
}

/// Aborts a step: called at most once, from any thread, and must not block.
pub type Abort = Arc<dyn Fn(AbortReason) + Send + Sync>;

/// A registered step, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInfo {
    /// Its id.
    pub id: StepId,
    /// What it runs, for people.
    pub label: Arc<str>,
    /// When it was registered.
    pub start: Instant,
    /// When it will be aborted.
    pub deadline: Option<Instant>,
    /// Whether and why it has been aborted; it is listed until it has really ended.
    pub aborted: Option<AbortReason>,
}

struct Entry {
    info: StepInfo,
    /// Taken by who aborts the step.
    abort: Option<Abort>,
}

#[derive(Default)]
struct Inner {
    steps: BTreeMap<StepId, Entry>,
    /// The earliest deadline that the coordinator knows of, or is about to learn of.
    armed: Option<Instant>,
    closed: bool,
}

/// What registry, registrations and coordinator share.
#[derive(Default)]
struct Table {
    inner: Mutex<Inner>,
    next: AtomicU64,
}

impl Table {
    fn list(&self) -> Vec<StepInfo> {
        self.inner
            .lock()
            .steps
            .values()
            .map(|entry| entry.info.clone())
            .collect()
    }

    /// Aborts the steps that `which` chooses and that have not been aborted; returns how many.
    fn abort(&self, reason: AbortReason, which: impl Fn(&StepInfo) -> bool) -> usize {
        let taken: Vec<Abort> = {
            let mut inner = self.inner.lock();
            let chosen = inner.steps.values_mut().filter(|entry| which(&entry.info));
            chosen
                .filter_map(|entry| {
                    let abort = entry.abort.take()?;
                    entry.info.aborted = Some(reason);
                    Some(abort)
                })
                .collect()
        };
        for abort in &taken {
            // A handle that panics must not keep the others from being called.
            let _ = catch_unwind(AssertUnwindSafe(|| abort(reason)));
        }
        taken.len()
    }

    fn close(&self) {
        self.inner.lock().closed = true;
        self.abort(AbortReason::Shutdown, |_| true);
    }

    /// The earliest deadline of a step not yet aborted, which the caller arms its timer for.
    fn rearm(&self) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let pending = inner.steps.values().filter(|entry| entry.abort.is_some());
        inner.armed = pending.filter_map(|entry| entry.info.deadline).min();
        inner.armed
    }
}

/// The running steps of one engine. See the [module](self).
pub struct StepRegistry {
    host: Arc<ArbiterHost>,
    table: Arc<Table>,
    coordinator: Mutex<Option<ControlAddr<StepCoordinator>>>,
}

impl StepRegistry {
    /// An empty registry, whose coordinator will live on `host`.
    pub fn new(host: Arc<ArbiterHost>) -> Self {
        Self {
            host,
            table: Arc::default(),
            coordinator: Mutex::new(None),
        }
    }

    /// Registers a step until the returned guard is dropped. A deadline in the past aborts it at once, though not
    /// in this call.
    ///
    /// # Errors
    /// [`ControlError::NoThread`] if there is a deadline and the control thread cannot be started, and
    /// [`ControlError::Closed`] if the host's event loop has ended; the step is then not registered.
    pub fn register(
        &self,
        label: impl Into<Arc<str>>,
        deadline: Option<Instant>,
        abort: Abort,
    ) -> Result<Registration, ControlError> {
        let coordinator = deadline.map(|_| self.coordinator()).transpose()?;
        let id = self.table.next.fetch_add(1, Relaxed);
        let info = StepInfo {
            id,
            label: label.into(),
            start: Instant::now(),
            deadline,
            aborted: None,
        };
        let registration = Registration {
            table: Arc::clone(&self.table),
            id,
        };
        let (earlier, closed) = {
            let mut inner = self.table.inner.lock();
            inner.steps.insert(
                id,
                Entry {
                    info,
                    abort: Some(abort),
                },
            );
            let earlier = deadline.is_some_and(|new| inner.armed.is_none_or(|armed| new < armed));
            if earlier {
                inner.armed = deadline;
            }
            (earlier, inner.closed)
        };
        if closed {
            self.table.abort(AbortReason::Shutdown, |info| info.id == id);
        } else if let Some(coordinator) = coordinator.filter(|_| earlier) {
            match coordinator.try_send(LookAgain) {
                // Every message makes the coordinator look at the table when it is handled, which is still to come.
                Ok(()) | Err(super::TrySendError::Full(LookAgain)) => {}
                Err(super::TrySendError::Closed(LookAgain)) => return Err(ControlError::Closed),
            }
        }
        Ok(registration)
    }

    /// The registered steps, oldest first.
    pub fn list(&self) -> Vec<StepInfo> {
        self.table.list()
    }

    /// Cancels one step; false if it is not registered or was aborted before.
    pub fn cancel(&self, id: StepId) -> bool {
        self.table.abort(AbortReason::Cancelled, |info| info.id == id) > 0
    }

    /// Cancels all registered steps; returns how many had not been aborted before.
    pub fn cancel_all(&self) -> usize {
        self.table.abort(AbortReason::Cancelled, |_| true)
    }

    /// The coordinator, for other control actors; it is started if need be.
    ///
    /// # Errors
    /// [`ControlError::NoThread`] if the control thread cannot be started.
    pub fn coordinator(&self) -> Result<ControlAddr<StepCoordinator>, ControlError> {
        let mut coordinator = self.coordinator.lock();
        if let Some(address) = &*coordinator {
            return Ok(address.clone());
        }
        let address = self.host.start(StepCoordinator {
            table: Arc::clone(&self.table),
            timer: None,
        })?;
        Ok(coordinator.insert(address).clone())
    }
}

impl Drop for StepRegistry {
    fn drop(&mut self) {
        self.table.close();
    }
}

impl fmt::Debug for StepRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepRegistry")
            .field("steps", &self.list())
            .finish_non_exhaustive()
    }
}

/// A step's place in the registry, until it is dropped.
#[must_use = "dropping it takes the step out of the registry"]
pub struct Registration {
    table: Arc<Table>,
    id: StepId,
}

impl Registration {
    /// The step's id.
    pub fn id(&self) -> StepId {
        self.id
    }

    /// Why the step was aborted through the registry, if it was.
    pub fn aborted(&self) -> Option<AbortReason> {
        self.table
            .inner
            .lock()
            .steps
            .get(&self.id)
            .and_then(|entry| entry.info.aborted)
    }

    /// Takes the step out of the registry, as dropping does.
    pub fn end(self) {}
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Dropped outside of the lock: the abort handle may hold the last reference to the step.
        let entry = self.table.inner.lock().steps.remove(&self.id);
        drop(entry);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The control actor that ends overdue steps; it also answers other control actors about them.
pub struct StepCoordinator {
    table: Arc<Table>,
    /// The timer that is set, and for when.
    timer: Option<(Timer, Instant)>,
}

impl StepCoordinator {
    /// Aborts what is overdue and sets the timer for what is due next.
    fn look(&mut self, cx: &mut ControlCx<'_, Self>) {
        let now = Instant::now();
        self.table.abort(AbortReason::DeadlineExceeded, |info| {
            info.deadline.is_some_and(|deadline| deadline <= now)
        });
        let next = self.table.rearm();
        if self.timer.is_some_and(|(_, set_for)| Some(set_for) == next) {
            return;
        }
        if let Some((timer, _)) = self.timer.take() {
            cx.cancel(timer);
        }
        self.timer = next.map(|deadline| {
            let delay = deadline.saturating_duration_since(Instant::now());
            let timer = cx.run_later(delay, |coordinator, cx| {
                coordinator.timer = None;
                coordinator.look(cx);
            });
            (timer, deadline)
        });
    }
}

impl fmt::Debug for StepCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepCoordinator")
            .field("steps", &self.table.list())
            .finish_non_exhaustive()
    }
}

impl ControlActor for StepCoordinator {}

impl Drop for StepCoordinator {
    /// Also when the host ends before the actor has started.
    fn drop(&mut self) {
        self.table.close();
    }
}

/// There may be an earlier deadline in the table.
struct LookAgain;

impl Handle<LookAgain> for StepCoordinator {
    type Reply = ();

    fn handle(&mut self, LookAgain: LookAgain, cx: &mut ControlCx<'_, Self>) {
        self.look(cx);
    }
}

/// Asks the coordinator for the registered steps.
#[derive(Debug, Clone, Copy)]
pub struct ListSteps;

impl Handle<ListSteps> for StepCoordinator {
    type Reply = Vec<StepInfo>;

    fn handle(&mut self, ListSteps: ListSteps, cx: &mut ControlCx<'_, Self>) -> Vec<StepInfo> {
        self.look(cx);
        self.table.list()
    }
}

/// Asks the coordinator to cancel one step; answered like [`StepRegistry::cancel`].
#[derive(Debug, Clone, Copy)]
pub struct CancelStep(
    /// Which.
    pub StepId,
);

impl Handle<CancelStep> for StepCoordinator {
    type Reply = bool;

    fn handle(&mut self, CancelStep(id): CancelStep, cx: &mut ControlCx<'_, Self>) -> bool {
        let cancelled = self.table.abort(AbortReason::Cancelled, |info| info.id == id) > 0;
        self.look(cx);
        cancelled
    }
}

/// Asks the coordinator to cancel every step; answered with how many that were.
#[derive(Debug, Clone, Copy)]
pub struct CancelAll;

impl Handle<CancelAll> for StepCoordinator {
    type Reply = usize;

    fn handle(&mut self, CancelAll: CancelAll, cx: &mut ControlCx<'_, Self>) -> usize {
        let cancelled = self.table.abort(AbortReason::Cancelled, |_| true);
        self.look(cx);
        cancelled
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    type Aborts = mpsc::Receiver<(u32, AbortReason)>;

    fn registry() -> (StepRegistry, Arc<ArbiterHost>) {
        let host = Arc::new(ArbiterHost::new("control"));
        (StepRegistry::new(Arc::clone(&host)), host)
    }

    fn abort_to(tx: &mpsc::Sender<(u32, AbortReason)>, name: u32) -> Abort {
        let tx = Mutex::new(tx.clone());
        Arc::new(move |reason| {
            let _ = tx.lock().send((name, reason));
        })
    }

    fn next(aborts: &Aborts) -> (u32, AbortReason) {
        aborts.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn in_ms(ms: u64) -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(ms))
    }

    #[test]
    fn steps_without_deadline_are_listed_and_cancelled_without_a_control_thread() {
        let (registry, host) = registry();
        let (tx, aborts) = mpsc::channel();
        let first = registry.register("first", None, abort_to(&tx, 1)).unwrap();
        let second = registry.register("second", None, abort_to(&tx, 2)).unwrap();
        let labels: Vec<_> = registry.list().into_iter().map(|info| (info.id, info.label)).collect();
        assert_eq!(labels, [(first.id(), "first".into()), (second.id(), "second".into())]);
        assert!(registry.cancel(first.id()));
        assert!(!registry.cancel(first.id()));
        assert_eq!(next(&aborts), (1, AbortReason::Cancelled));
        assert_eq!(first.aborted(), Some(AbortReason::Cancelled));
        first.end();
        assert_eq!(registry.cancel_all(), 1);
        drop(second);
        assert!(registry.list().is_empty());
        assert!(!host.is_running());
    }

    #[test]
    fn deadlines_abort_in_their_order_whatever_the_order_of_registration() {
        let (registry, _host) = registry();
        let (tx, aborts) = mpsc::channel();
        let late = registry.register("late", in_ms(400), abort_to(&tx, 1)).unwrap();
        let soon = registry.register("soon", in_ms(200), abort_to(&tx, 2)).unwrap();
        let past = registry
            .register("past", Some(Instant::now()), abort_to(&tx, 3))
            .unwrap();
        let never = registry.register("never", None, abort_to(&tx, 4)).unwrap();
        let seen: Vec<_> = (0..3).map(|_| next(&aborts)).collect();
        assert_eq!(seen, [3, 2, 1].map(|name| (name, AbortReason::DeadlineExceeded)));
        assert_eq!(
            late.aborted().or(soon.aborted()).or(past.aborted()),
            Some(AbortReason::DeadlineExceeded)
        );
        assert_eq!(never.aborted(), None);
    }

    #[test]
    fn no_deadline_fires_early_or_for_a_step_that_has_ended() {
        let (registry, _host) = registry();
        let (tx, aborts) = mpsc::channel();
        let ended = registry.register("ended", in_ms(100), abort_to(&tx, 1)).unwrap();
        let deadline = Instant::now() + Duration::from_millis(150);
        let stays = registry.register("stays", Some(deadline), abort_to(&tx, 2)).unwrap();
        ended.end();
        assert_eq!(next(&aborts), (2, AbortReason::DeadlineExceeded));
        assert!(Instant::now() >= deadline);
        drop(stays);
    }

    #[test]
    fn a_flood_of_deadlines_overflows_the_mailbox_and_loses_none() {
        let (registry, _host) = registry();
        let (tx, aborts) = mpsc::channel();
        let base = Instant::now() + Duration::from_millis(50);
        let steps: Vec<_> = (0..3000)
            .map(|i| {
                // Each earlier than the one before, so that each is news to the coordinator.
                let deadline = base - Duration::from_micros(u64::from(i) * 10);
                registry
                    .register("one of many", Some(deadline), abort_to(&tx, i))
                    .unwrap()
            })
            .collect();
        let mut seen: Vec<_> = steps.iter().map(|_| next(&aborts).0).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..3000).collect::<Vec<_>>());
    }

    #[test]
    fn going_away_aborts_what_runs_and_what_comes_later() {
        let (registry, host) = registry();
        let (tx, aborts) = mpsc::channel();
        let running = registry
            .register("running", in_ms(1_000_000), abort_to(&tx, 1))
            .unwrap();
        // The coordinator has started when it answers.
        let answer = registry.coordinator().unwrap().call(ListSteps, in_ms(20_000).unwrap());
        assert_eq!(answer.unwrap().len(), 1);
        let Registration { ref table, .. } = running;
        assert!(!table.inner.lock().closed);
        drop(registry);
        assert_eq!(next(&aborts), (1, AbortReason::Shutdown));
        drop(host);
    }

    #[test]
    fn a_host_that_stops_aborts_what_runs() {
        let host = Arc::new(ArbiterHost::new("control"));
        let (tx, aborts) = mpsc::channel();
        let table = Arc::new(Table::default());
        // An actor that nobody can send to any more stops by itself.
        let coordinator = StepCoordinator {
            table: Arc::clone(&table),
            timer: None,
        };
        let _address = host.start(coordinator).unwrap();
        let info = StepInfo {
            id: 9,
            label: "step".into(),
            start: Instant::now(),
            deadline: None,
            aborted: None,
        };
        table.inner.lock().steps.insert(
            9,
            Entry {
                info,
                abort: Some(abort_to(&tx, 1)),
            },
        );
        drop(host);
        assert_eq!(next(&aborts), (1, AbortReason::Shutdown));
    }

    #[test]
    fn other_actors_list_and_cancel_by_message() {
        let (registry, _host) = registry();
        let (tx, aborts) = mpsc::channel();
        let steps = [1, 2, 3].map(|i| registry.register("step", None, abort_to(&tx, i)).unwrap());
        let coordinator = registry.coordinator().unwrap();
        let soon = in_ms(20_000).unwrap();
        assert_eq!(coordinator.call(CancelStep(steps[1].id()), soon), Ok(true));
        assert_eq!(next(&aborts), (2, AbortReason::Cancelled));
        assert_eq!(coordinator.call(CancelAll, soon), Ok(2));
        let aborted = coordinator.call(ListSteps, soon).unwrap();
        assert!(aborted.iter().all(|info| info.aborted == Some(AbortReason::Cancelled)));
    }

    #[test]
    fn an_abort_handle_that_panics_keeps_no_other_from_running() {
        let (registry, _host) = registry();
        let (tx, aborts) = mpsc::channel();
        let _bad = registry
            .register("bad", in_ms(5), Arc::new(|_| panic!("bad handle")))
            .unwrap();
        let _good = registry.register("good", in_ms(5), abort_to(&tx, 1)).unwrap();
        assert_eq!(next(&aborts), (1, AbortReason::DeadlineExceeded));
    }
}
