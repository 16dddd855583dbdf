//! Control actors: rare, long-lived, on threads of the engine's own. The one module that knows actix.
//!
//! Coordination (which steps run and until when, later which tasks and peers are alive) is worth a real actor with
//! a bounded mailbox and timers, and never lies on the path of a microsecond step. It runs on actix; this module
//! wraps it so that the rest of the engine sees four ideas and no framework:
//!
//! * an [`ArbiterHost`] owns one thread with actix's event loop, started by the first actor and joined when the
//!   host is dropped. Several hosts live in one process; the embedder needs no runtime, and one of its own,
//!   actix or tokio, is not touched;
//! * a [`ControlActor`] is state that handles messages ([`Handle`]) one at a time;
//! * a [`ControlAddr`] sends to it: [`try_send`](ControlAddr::try_send) (at once or not at all),
//!   [`send`](ControlAddr::send) (a future) and [`call`](ControlAddr::call) (blocks the calling thread until a
//!   deadline);
//! * a [`ControlCx`] gives the actor timers and its own address.
//!
//! **Capacity.** A mailbox holds [`ControlActor::CAPACITY`] messages (and, an actix detail, one more for each
//! address). A full one is an error of `try_send` and makes `send` wait. actix's unbounded `do_send` is not used.
//!
//! **Failure.** A handler that panics is contained: its sender gets [`ControlError::Panicked`] and the actor goes
//! on with the state the handler left. Messages to an actor that has stopped fail with [`ControlError::Closed`].
//!
//! **Cancellation.** Dropping the future of `send` withdraws a message that has not entered the mailbox yet, and
//! else only the interest in its answer.
//!
//! **Disconnection.** Dropping the host stops its actors ([`ControlActor::stopping`] runs) and joins the thread;
//! dropped on that very thread it lets the thread end by itself.

#![forbid(unsafe_code)]

pub mod steps;

use std::{
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context as TaskContext, Poll, Wake, Waker},
    thread::{self, JoinHandle, Thread, ThreadId},
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, AsyncContext};
use parking_lot::Mutex;

/// Why a message was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlError {
    /// The actor has stopped, or its host is gone.
    Closed,
    /// The deadline passed first.
    Timeout,
    /// The handler panicked.
    Panicked,
    /// A blocking call from the actor's own thread, which would wait for itself.
    WouldDeadlock,
    /// The system refused a thread or an event loop.
    NoThread,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the control actor has stopped",
            Self::Timeout => "the control actor did not answer before the deadline",
            Self::Panicked => "the control actor's handler panicked",
            Self::WouldDeadlock => "a blocking call to a control actor from its own thread",
            Self::NoThread => "no thread could be started for the control actors",
        })
    }
}

impl std::error::Error for ControlError {}

/// Why a message could not be put in the mailbox at once; it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<M> {
    /// The mailbox is full.
    Full(M),
    /// The actor has stopped.
    Closed(M),
}

/// State that handles messages one at a time, on its host's thread. Handlers must not block.
pub trait ControlActor: Sized + Send + Unpin + 'static {
    /// How many messages may wait.
    const CAPACITY: usize = 256;

    /// Runs before the first message.
    fn started(&mut self, cx: &mut ControlCx<'_, Self>) {
        let _ = cx;
    }

    /// Runs after the last message, when the actor stops by itself or with its host.
    fn stopping(&mut self) {}
}

/// How an actor answers messages of type `M`.
pub trait Handle<M: Send + 'static>: ControlActor {
    /// The answer.
    type Reply: Send + 'static;

    /// Handles one message.
    fn handle(&mut self, message: M, cx: &mut ControlCx<'_, Self>) -> Self::Reply;
}

/// An actor as actix sees it.
struct Hosted<A>(A);

/// A message as actix sees it.
struct Envelope<A, M>(M, PhantomData<fn() -> A>);

impl<A, M> Envelope<A, M> {
    fn new(message: M) -> Self {
        Self(message, PhantomData)
    }
}

impl<A: Handle<M>, M: Send + 'static> actix::Message for Envelope<A, M> {
    type Result = Result<A::Reply, ControlError>;
}

impl<A: ControlActor> Actor for Hosted<A> {
    type Context = actix::Context<Self>;

    fn started(&mut self, inner: &mut Self::Context) {
        inner.set_mailbox_capacity(A::CAPACITY);
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.started(&mut ControlCx { inner })));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.stopping()));
    }
}

impl<A: Handle<M>, M: Send + 'static> actix::Handler<Envelope<A, M>> for Hosted<A> {
    type Result = Result<A::Reply, ControlError>;

    fn handle(&mut self, message: Envelope<A, M>, inner: &mut Self::Context) -> Self::Result {
        catch_unwind(AssertUnwindSafe(|| self.0.handle(message.0, &mut ControlCx { inner })))
            .map_err(|_| ControlError::Panicked)
    }
}

/// What an actor may do while it handles a message.
pub struct ControlCx<'a, A: ControlActor> {
    inner: &'a mut actix::Context<Hosted<A>>,
}

/// A timer that was set with [`ControlCx::run_later`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer(actix::SpawnHandle);

impl<A: ControlActor> ControlCx<'_, A> {
    /// Calls `f` on the actor after `delay`, unless the timer is cancelled or the actor stops first.
    pub fn run_later(
        &mut self,
        delay: Duration,
        f: impl FnOnce(&mut A, &mut ControlCx<'_, A>) + Send + 'static,
    ) -> Timer {
        Timer(self.inner.run_later(delay, move |hosted, inner| {
            let _ = catch_unwind(AssertUnwindSafe(|| f(&mut hosted.0, &mut ControlCx { inner })));
        }))
    }

    /// Cancels a timer; without effect if it has run.
    pub fn cancel(&mut self, timer: Timer) {
        self.inner.cancel_future(timer.0);
    }

    /// Stops the actor after this message.
    pub fn stop(&mut self) {
        self.inner.stop();
    }
}

/// Where to send messages to an actor.
pub struct ControlAddr<A: ControlActor> {
    addr: actix::Addr<Hosted<A>>,
    host: ThreadId,
}

impl<A: ControlActor> Clone for ControlAddr<A> {
    fn clone(&self) -> Self {
        Self {
            addr: self.addr.clone(),
            host: self.host,
        }
    }
}

impl<A: ControlActor> fmt::Debug for ControlAddr<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlAddr")
            .field("connected", &self.addr.connected())
            .finish_non_exhaustive()
    }
}

impl<A: ControlActor> ControlAddr<A> {
    /// Puts a message in the mailbox at once or not at all; the answer is dropped.
    pub fn try_send<M: Send + 'static>(&self, message: M) -> Result<(), TrySendError<M>>
    where
        A: Handle<M>,
    {
        self.addr.try_send(Envelope::new(message)).map_err(|error| match error {
            actix::prelude::SendError::Full(envelope) => TrySendError::Full(envelope.0),
            actix::prelude::SendError::Closed(envelope) => TrySendError::Closed(envelope.0),
        })
    }

    /// Sends a message, waiting for room in the mailbox, and waits for the answer. Works on any executor.
    pub async fn send<M: Send + 'static>(&self, message: M) -> Result<A::Reply, ControlError>
    where
        A: Handle<M>,
    {
        self.addr
            .send(Envelope::new(message))
            .await
            .unwrap_or(Err(ControlError::Closed))
    }

    /// [`send`](Self::send) for a thread that is no executor: sleeps until the answer or the deadline.
    pub fn call<M: Send + 'static>(&self, message: M, deadline: Instant) -> Result<A::Reply, ControlError>
    where
        A: Handle<M>,
    {
        if thread::current().id() == self.host {
            return Err(ControlError::WouldDeadlock);
        }
        block_on(self.send(message), deadline).unwrap_or(Err(ControlError::Timeout))
    }
}

/// Wakes a sleeping thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread; `None` if the deadline passed first.
fn block_on<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = TaskContext::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

/// The thread that control actors live on, and its event loop.
struct Running {
    system: actix::System,
    thread: JoinHandle<()>,
}

/// Owns the control actors of one engine: their thread starts with the first actor and is joined at the end.
pub struct ArbiterHost {
    name: String,
    running: Mutex<Option<Running>>,
}

impl ArbiterHost {
    /// A host whose thread, once there is one, has this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            running: Mutex::new(None),
        }
    }

    /// Starts an actor.
    ///
    /// # Errors
    /// [`ControlError::NoThread`] if the host's thread is needed and cannot be started.
    pub fn start<A: ControlActor>(&self, actor: A) -> Result<ControlAddr<A>, ControlError> {
        let mut running = self.running.lock();
        let running = match &mut *running {
            Some(running) => running,
            none => none.insert(self.start_thread()?),
        };
        let addr = Hosted::start_in_arbiter(running.system.arbiter(), |_| Hosted(actor));
        Ok(ControlAddr {
            addr,
            host: running.thread.thread().id(),
        })
    }

    /// Whether the thread exists.
    pub fn is_running(&self) -> bool {
        self.running.lock().is_some()
    }

    fn start_thread(&self) -> Result<Running, ControlError> {
        let (tell, told) = mpsc::channel();
        let body = move || {
            // Creating the event loop panics where the system refuses one; the starter then hears nothing.
            let Ok(runner) = catch_unwind(actix::System::new) else {
                return;
            };
            let _ = tell.send(actix::System::current());
            // The only error is an exit code, and stopping sets none.
            let _ = runner.run();
        };
        let thread = thread::Builder::new()
            .name(self.name.clone())
            .spawn(body)
            .map_err(|_| ControlError::NoThread)?;
        match told.recv() {
            Ok(system) => Ok(Running { system, thread }),
            Err(_) => {
                let _ = thread.join();
                Err(ControlError::NoThread)
            }
        }
    }
}

impl Drop for ArbiterHost {
    fn drop(&mut self) {
        let Some(running) = self.running.get_mut().take() else {
            return;
        };
        running.system.stop();
        if running.thread.thread().id() != thread::current().id() {
            // Handlers' panics are contained, so there is nothing to hand on.
            let _ = running.thread.join();
        }
    }
}

impl fmt::Debug for ArbiterHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArbiterHost")
            .field("name", &self.name)
            .field("running", &self.is_running())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    struct Adder {
        total: u32,
        stopped: Arc<AtomicUsize>,
    }

    impl ControlActor for Adder {
        const CAPACITY: usize = 2;

        fn stopping(&mut self) {
            self.stopped.fetch_add(1, SeqCst);
        }
    }

    struct Add(u32);

    impl Handle<Add> for Adder {
        type Reply = u32;

        fn handle(&mut self, Add(n): Add, _: &mut ControlCx<'_, Self>) -> u32 {
            assert!(n != 13, "unlucky");
            self.total += n;
            self.total
        }
    }

    /// Keeps the actor busy until the channel says so.
    struct Block(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Handle<Block> for Adder {
        type Reply = ();

        fn handle(&mut self, Block(started, go): Block, _: &mut ControlCx<'_, Self>) {
            let _ = started.send(());
            let _ = go.recv();
        }
    }

    struct AskYourself(ControlAddr<Adder>);

    impl Handle<AskYourself> for Adder {
        type Reply = Result<u32, ControlError>;

        fn handle(&mut self, AskYourself(own): AskYourself, _: &mut ControlCx<'_, Self>) -> Self::Reply {
            own.call(Add(1), soon())
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn adder(host: &ArbiterHost) -> (ControlAddr<Adder>, Arc<AtomicUsize>) {
        let stopped = Arc::new(AtomicUsize::new(0));
        let addr = host
            .start(Adder {
                total: 0,
                stopped: Arc::clone(&stopped),
            })
            .expect("a thread");
        (addr, stopped)
    }

    #[test]
    fn a_host_starts_with_its_first_actor_and_stops_it_when_dropped() {
        let host = ArbiterHost::new("control");
        assert!(!host.is_running());
        let (addr, stopped) = adder(&host);
        assert!(host.is_running());
        assert_eq!(addr.call(Add(2), soon()), Ok(2));
        assert_eq!(addr.call(Add(3), soon()), Ok(5));
        drop(host);
        assert_eq!(stopped.load(SeqCst), 1);
        assert_eq!(addr.call(Add(1), soon()), Err(ControlError::Closed));
        assert!(matches!(addr.try_send(Add(1)), Err(TrySendError::Closed(Add(1)))));
    }

    #[test]
    fn several_hosts_live_side_by_side() {
        let hosts: Vec<_> = (0..3).map(|i| ArbiterHost::new(format!("host-{i}"))).collect();
        let actors: Vec<_> = hosts.iter().map(adder).collect();
        for (i, (addr, _)) in actors.iter().enumerate() {
            assert_eq!(addr.call(Add(i as u32), soon()), Ok(i as u32));
        }
        drop(hosts);
        assert!(actors.iter().all(|(_, stopped)| stopped.load(SeqCst) == 1));
    }

    #[test]
    fn a_panicking_handler_fails_its_sender_and_the_actor_goes_on() {
        let host = ArbiterHost::new("control");
        let (addr, _) = adder(&host);
        assert_eq!(addr.call(Add(13), soon()), Err(ControlError::Panicked));
        assert_eq!(addr.call(Add(1), soon()), Ok(1));
    }

    #[test]
    fn a_full_mailbox_refuses_and_nothing_accepted_is_lost() {
        let host = ArbiterHost::new("control");
        let (addr, _) = adder(&host);
        let ((started, is_started), (go, wait)) = (mpsc::channel(), mpsc::channel());
        assert!(addr.try_send(Block(started, wait)).is_ok());
        is_started.recv_timeout(Duration::from_secs(20)).unwrap();
        let accepted = (0..100).take_while(|_| addr.try_send(Add(1)).is_ok()).count();
        assert!((1..10).contains(&accepted), "{accepted} accepted");
        assert_eq!(
            addr.call(Add(50), Instant::now() + Duration::from_millis(20)),
            Err(ControlError::Timeout)
        );
        go.send(()).unwrap();
        assert_eq!(addr.call(Add(0), soon()), Ok(accepted as u32));
    }

    #[test]
    fn a_blocking_call_from_the_actors_own_thread_is_refused() {
        let host = ArbiterHost::new("control");
        let (addr, _) = adder(&host);
        assert_eq!(
            addr.call(AskYourself(addr.clone()), soon()),
            Ok(Err(ControlError::WouldDeadlock))
        );
    }

    #[test]
    fn timers_run_on_the_actor_unless_cancelled() {
        struct Timed(mpsc::Sender<&'static str>);
        impl ControlActor for Timed {
            fn started(&mut self, cx: &mut ControlCx<'_, Self>) {
                let never = cx.run_later(Duration::from_millis(1), |timed, _| {
                    let _ = timed.0.send("cancelled");
                });
                cx.cancel(never);
                cx.run_later(Duration::from_millis(5), |timed, cx| {
                    let _ = timed.0.send("ran");
                    cx.stop();
                });
            }
            fn stopping(&mut self) {
                let _ = self.0.send("stopped");
            }
        }
        let (tx, rx) = mpsc::channel();
        let host = ArbiterHost::new("control");
        host.start(Timed(tx)).expect("a thread");
        let seen: Vec<_> = (0..2)
            .map(|_| rx.recv_timeout(Duration::from_secs(20)).unwrap())
            .collect();
        assert_eq!(seen, ["ran", "stopped"]);
    }
}
