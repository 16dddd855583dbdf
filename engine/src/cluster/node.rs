//! A process of a cluster on the wire: its endpoint, its ways to other tasks, and what it does for coordinators.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use actorflow_actors::exec::Pace;
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::rendezvous::EdgeKey;
use actorflow_transport::{Endpoint, EndpointOptions, Handler, Message, Parcel, Peer, Reply, Subject};
use crossbeam::channel::{Sender, bounded};
use dashmap::DashMap;
use parking_lot::Mutex;

use super::epoch::Epochs;
use super::events;
use super::host::{Host, ShareOptions, SharePlan};
use super::link::Link;
use super::messages::*;
use super::peers::Peers;
use super::policy::Policy;
use super::register;
use super::renewal::Keeper;
use super::spec::{ClusterSpec, TaskName};
use super::tracer::Tracer;

/// Plans that one coordinator may have registered at a task.
const PLANS: usize = 4096;

/// Threads that compile what is registered.
const REGISTRARS: usize = 2;
/// Steps that are listed to whoever asks which are in progress.
const LISTED: usize = 256;

/// Whose a plan or a step is: a subject, and which run of it.
type Owner = (Subject, u64);

fn owner(peer: &Peer) -> Owner {
    (peer.info().subject.clone(), peer.info().incarnation)
}

/// The task of a subject: `/job:ps/task:0`; others have no tensors to send.
fn task_of(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Task { job, index } => Some(format!("/job:{job}/task:{index}")),
        _ => None,
    }
}

struct Registration {
    owner: Owner,
    share: Arc<SharePlan>,
}

struct Run {
    owner: Owner,
    /// The connection that asked for it, and that alone takes the answer.
    peer: Peer,
    cancel: CancelToken,
}

/// Work that is too slow for the endpoint's threads.
type Job = Box<dyn FnOnce() + Send>;

/// A process of a cluster.
pub(crate) struct Node {
    endpoint: OnceLock<Arc<Endpoint>>,
    links: Mutex<HashMap<TaskName, Arc<Link>>>,
    peers: Arc<Peers>,
    /// What it computes with; a client has nothing.
    pub(crate) host: Option<Arc<Host>>,
    pub(crate) spec: ClusterSpec,
    pub(crate) policy: Policy,
    pub(super) epochs: Epochs,
    plans: DashMap<u64, Registration>,
    runs: DashMap<u64, Run>,
    next_plan: AtomicU64,
    jobs: Sender<Job>,
    patience: Duration,
    started: Instant,
    /// What renews its certificate, if anything does.
    pub(super) keeper: Mutex<Option<Keeper>>,
}

/// What the endpoint tells; it does not keep the node alive.
struct Ears(Weak<Node>);

impl Node {
    /// Joins the network.
    ///
    /// # Errors
    /// As [`Endpoint::bind`].
    pub(crate) fn start(
        mut options: EndpointOptions,
        host: Option<Arc<Host>>,
        spec: ClusterSpec,
        policy: Policy,
        epochs: Epochs,
        patience: Duration,
    ) -> Result<Arc<Node>> {
        // A few threads compile what is registered, so that one large graph does not hold up all others; they end with
        // the node, and survive whatever a graph does to them.
        let (jobs, todo) = bounded::<Job>(1024);
        for _ in 0..REGISTRARS {
            let todo = todo.clone();
            std::thread::Builder::new()
                .name("actorflow-register".into())
                .spawn(move || {
                    for job in todo {
                        // The reply that went with it answers for itself.
                        let _ = catch_unwind(AssertUnwindSafe(job));
                    }
                })
                .map_err(Error::from)?;
        }
        options.epoch = epochs.now();
        options.threads = options.limits.threads();
        let node = Arc::new(Node {
            endpoint: OnceLock::new(),
            links: Mutex::default(),
            peers: Arc::default(),
            host,
            spec,
            policy,
            epochs,
            plans: DashMap::new(),
            runs: DashMap::new(),
            next_plan: AtomicU64::new(1),
            jobs,
            patience,
            started: Instant::now(),
            keeper: Mutex::default(),
        });
        let endpoint = Endpoint::bind(options, Arc::new(Ears(Arc::downgrade(&node))))?;
        node.endpoint.get_or_init(|| Arc::new(endpoint));
        Ok(node)
    }

    /// The endpoint.
    ///
    /// # Errors
    /// `UNAVAILABLE` before it is bound.
    pub(crate) fn endpoint(&self) -> Result<&Arc<Endpoint>> {
        self.endpoint
            .get()
            .ok_or_else(|| Error::unavailable("the task is still starting; try again"))
    }

    /// The way to a task, at the address that the cluster's description gives, or else at this one.
    ///
    /// # Errors
    /// As [`endpoint`](Self::endpoint).
    pub(crate) fn link(&self, task: &TaskName, addr: &str) -> Result<Arc<Link>> {
        let endpoint = self.endpoint()?.clone();
        let addr = self.spec.address(task).unwrap_or(addr).to_owned();
        let mut links = self.links.lock();
        let link = links.entry(task.clone());
        let link = link.or_insert_with(|| Link::new(task.clone(), addr, endpoint, self.peers.clone(), self.patience));
        Ok(link.clone())
    }

    /// Leaves the network.
    pub(crate) fn close(&self, grace: Duration) {
        drop(self.keeper.lock().take());
        if let Some(e) = self.endpoint.get() {
            e.close(grace);
        }
    }

    /// The devices of this process.
    pub(crate) fn devices(&self) -> Vec<DeviceEntry> {
        let devices = self.host.iter().flat_map(|h| h.executors()).map(|e| {
            let stats = e.device().pool().stats();
            DeviceEntry {
                name: e.device().name().to_owned(),
                memory: stats.budget as u64,
                used: stats.used as u64,
                threads: u32::try_from(e.device().parallel().threads()).unwrap_or(u32::MAX),
            }
        });
        devices.collect()
    }

    fn describe(&self) -> Result<Message> {
        let description = Description {
            devices: self.devices(),
            tasks: self.spec.tasks().map(|(t, _)| t.to_string()).collect(),
            addresses: self.spec.tasks().map(|(_, a)| a.to_owned()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.started.elapsed().as_secs(),
            epoch: self.epochs.now(),
        };
        with_header!(DESCRIBE, 0, &description)
    }

    pub(super) fn host(&self) -> Result<&Arc<Host>> {
        self.host
            .as_ref()
            .ok_or_else(|| Error::failed_precondition("this process is a client and computes nothing"))
    }

    /// Compiles a share on the thread for it, and answers.
    fn register(self: &Arc<Self>, peer: &Peer, message: Message, reply: Reply) {
        let (node, owner) = (self.clone(), owner(peer));
        let mine = self.plans.iter().filter(|r| r.owner == owner).count();
        if mine >= PLANS {
            let e = Error::exhausted(format!(
                "{} has {mine} plans here, the most that one coordinator may have; keep callables and feed them, \
                 instead of building new graphs",
                owner.0
            ));
            events::limit(&owner.0.to_string(), &e);
            return reply.send(Err(e));
        }
        let job: Job = Box::new(move || {
            let links = node.clone();
            let done = move |share: Result<Arc<SharePlan>>| {
                if let Err(e) = &share {
                    events::limit(&owner.0.to_string(), e);
                }
                let registered = share.and_then(|share| {
                    let handle = node.next_plan.fetch_add(1, Relaxed);
                    node.plans.insert(handle, Registration { owner, share });
                    with_header!(REGISTER, 0, &Registered { handle })
                });
                reply.send(registered);
            };
            register::build(&links, &message.blob, Box::new(done));
        });
        if self.jobs.try_send(job).is_err() {
            // The reply that went with it answers for itself.
        }
    }

    fn run(self: &Arc<Self>, peer: &Peer, message: Message, reply: Reply) {
        let begin = || -> Result<(Arc<SharePlan>, Option<Duration>, Option<Arc<Tracer>>)> {
            let head = header_of!(message, RunShare)?;
            let found = self.plans.get(&head.handle).filter(|r| r.owner == owner(peer));
            let share = found.map(|r| r.share.clone()).ok_or_else(|| no_plan(head.handle))?;
            if message.tensors.len() != share.feeds {
                return Err(Error::invalid(format!(
                    "the share takes {} tensors, got {}",
                    share.feeds,
                    message.tensors.len()
                )));
            }
            let timeout = (head.timeout_us > 0).then(|| Duration::from_micros(head.timeout_us));
            Ok((share, timeout, head.trace.then(Tracer::new)))
        };
        let (share, timeout, trace) = match begin() {
            Ok(begun) => begun,
            Err(e) => return reply.send(Err(e)),
        };
        let host = match self.host() {
            Ok(host) => host,
            Err(e) => return reply.send(Err(e)),
        };
        let (cancel, step) = (CancelToken::new(), message.step);
        let run = Run {
            owner: owner(peer),
            peer: peer.clone(),
            cancel: cancel.clone(),
        };
        match self.runs.entry(step) {
            dashmap::Entry::Occupied(_) => {
                return reply.send(Err(Error::internal(format!("step {step} was begun twice"))));
            }
            dashmap::Entry::Vacant(v) => {
                v.insert(run);
            }
        }
        let options = ShareOptions {
            step,
            deadline: timeout.and_then(|t| Instant::now().checked_add(t)),
            cancel: &cancel,
            trace: trace.clone(),
        };
        let node = self.clone();
        let then = move |fetched: Result<Vec<actorflow_core::Tensor>>| {
            if let Some((_, run)) = node.runs.remove(&step)
                && let Err(e) = &fetched
            {
                events::step_failed(step, &run.owner.0.to_string(), e);
            }
            let answered = fetched.and_then(|tensors| {
                Ok(Message {
                    step,
                    tensors,
                    blob: trace.map_or_else(|| Ok(Default::default()), |t| t.tell())?,
                    ..Message::new(RUN)
                })
            });
            reply.send(answered);
        };
        host.run_apart(&share, &message.tensors, &options, Pace::AtOnceIfCheap, Box::new(then));
    }

    fn abort(&self, peer: &Peer, message: &Message) {
        let Ok(why) = header_of!(message, Reason) else { return };
        let run = self
            .runs
            .get(&message.step)
            .map(|r| (r.owner.clone(), r.cancel.clone()));
        match (run, &self.host) {
            // A step of others, and one of this process that is in progress, is none of the peer's business.
            (Some((whose, cancel)), _) if whose == owner(peer) => {
                cancel.cancel(why.into_error());
            }
            (None, Some(host)) => host.never(message.step),
            _ => {}
        }
    }

    fn cancel(&self, peer: &Peer, message: &Message) -> Result<Message> {
        let why = header_of!(message, Reason)?;
        // Of this process's own sessions, too.
        let token = self.host.as_ref().and_then(|h| h.cancel_token(message.step));
        let cancel = token.ok_or_else(|| Error::not_found(format!("no step {} is in progress here", message.step)))?;
        cancel.cancel(Error::cancelled(format!(
            "{} cancelled the step: {}",
            peer.info().subject,
            why.message
        )));
        Ok(Message::new(CANCEL))
    }

    fn steps(&self) -> Result<Message> {
        let host = self.host()?;
        let all = host.active_steps();
        let count = all.len() as u64;
        let steps = all.into_iter().take(LISTED).map(|(step, age)| {
            let s = host.status(step, None).unwrap_or_default();
            StepEntry {
                step,
                age_us: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
                waiting: s.waiting,
                waits_for: s.waits_for.chars().take(160).collect(),
            }
        });
        let steps = steps.collect();
        with_header!(STEPS, 0, &Steps { steps, count })
    }

    fn reset(&self, message: &Message) -> Result<Message> {
        let names = header_of!(message, Names)?.names;
        let resources = self.host()?.resources();
        let mut known: Vec<String> = resources.list().into_iter().map(|(container, ..)| container).collect();
        known.dedup();
        known.retain(|c| names.is_empty() || names.contains(c));
        if names.is_empty() {
            resources.clear_all();
        }
        for name in names {
            resources.clear_container(&name);
        }
        with_header!(RESET, 0, &Names { names: known })
    }

    fn answer(&self, peer: &Peer, message: &Message) -> Result<Message> {
        match message.kind {
            DESCRIBE => self.describe(),
            STEPS => self.steps(),
            STATUS => {
                let asked = header_of!(message, Looking)?;
                let its_coordinator = self.runs.get(&message.step).is_some_and(|r| r.owner == owner(peer));
                let stalled = its_coordinator.then_some(asked.stalled);
                let status = self.host.as_ref().and_then(|h| h.status(message.step, stalled));
                with_header!(STATUS, message.step, &Status::of(status))
            }
            RESET => self.reset(message),
            CANCEL => self.cancel(peer, message),
            GONE => self.gone(peer, message),
            EPOCH => self.raise_epoch(peer, message),
            kind => Err(Error::unimplemented(format!(
                "a task of version {} knows no request {kind}; do both run the same version?",
                env!("CARGO_PKG_VERSION")
            ))),
        }
    }

    /// Closes the connections with runs of a task up to `incarnation`, which have ended.
    ///
    /// # Errors
    /// As [`endpoint`](Self::endpoint).
    pub(crate) fn give_up(&self, task: &TaskName, incarnation: u64, why: &Error) -> Result<()> {
        let subject = Subject::Task {
            job: task.job.to_string(),
            index: task.index,
        };
        for p in self.endpoint()?.peers() {
            let info = p.info();
            if info.subject == subject && info.incarnation <= incarnation && !info.is_visitor() {
                p.give_up(why.clone().in_task(&task.to_string()));
            }
        }
        Ok(())
    }

    /// A run of a task has ended, as whoever watches over its process says: connections to it are given up at once,
    /// instead of when they have been silent for long. A task passes it on to the clients that it has.
    fn gone(&self, peer: &Peer, message: &Message) -> Result<Message> {
        let gone = header_of!(message, Gone)?;
        let task: TaskName = gone.task.parse()?;
        let why = Error::unavailable(format!("its process has ended, {} says", peer.info().subject));
        self.give_up(&task, gone.incarnation, &why)?;
        // Clients pass nothing on, so that no message goes round.
        if self.host.is_some() {
            let peers = self.endpoint()?.peers();
            let outside = |p: &&Peer| *p != peer && task_of(&p.info().subject).is_none();
            for client in peers.iter().filter(outside) {
                // One that has left needs no news.
                let _ = client.notify(with_header!(GONE, 0, &gone)?);
            }
        }
        Ok(Message::new(GONE))
    }

    /// A connection is up: it is used from now on.
    fn came(&self, peer: &Peer) {
        let info = peer.info();
        if info.is_visitor() {
            return tracing::debug!(peer = %info.subject, addr = %info.addr, "visited");
        }
        self.peers.came(peer);
        if let Subject::Task { job, index } = &info.subject {
            tracing::info!(peer = %info.subject, incarnation = %info.incarnation, addr = %info.addr, "connected");
            let link = TaskName::new(job, *index)
                .ok()
                .and_then(|t| self.links.lock().get(&t).cloned());
            if let Some(link) = link {
                link.adopt(peer);
            }
        } else {
            tracing::debug!(peer = %info.subject, incarnation = %info.incarnation, addr = %info.addr, "connected");
        }
    }

    /// A connection is gone: the steps end that may have lost something with it. If it was the last one with that run of
    /// the peer, all its steps and plans go, too.
    fn lost(&self, peer: &Peer, why: &Error) {
        if peer.info().is_visitor() {
            // It had no part in anything.
            return events::lost(peer, why, true);
        }
        let silent = self.peers.silent_siblings(peer);
        let loss = self.peers.went(peer);
        let gone = owner(peer);
        events::lost(peer, why, loss.last);
        if peer.was_replaced() && !loss.last {
            return;
        }
        if peer.is_silent() {
            // Of two connections that a partition cuts, the second would fail the next step as well.
            for p in silent {
                p.give_up(Error::unavailable(why.message()));
            }
        }
        let error = Error::unavailable(format!(
            "{} (incarnation {}) is lost: {}",
            task_of(&gone.0).map_or_else(|| gone.0.to_string(), |t| format!("task {t}")),
            gone.1,
            why.message()
        ));
        let ends = |r: &Run| r.peer == *peer || (loss.last && r.owner == gone);
        let cancels: Vec<CancelToken> = self.runs.iter().filter(|r| ends(r)).map(|r| r.cancel.clone()).collect();
        for c in cancels {
            c.cancel(error.clone().derived());
        }
        if loss.last {
            self.plans.retain(|_, r| r.owner != gone);
        }
        if let (Some(host), Some(task)) = (&self.host, task_of(&gone.0)) {
            host.lost_task(&task, &error.in_task(&task), loss.before);
        }
    }

    /// How many plans are registered, and how many steps are in progress for others.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.plans.len(), self.runs.len())
    }

    /// The tasks that are connected.
    pub(crate) fn connected(&self) -> HashSet<String> {
        let peers = self.endpoint.get().map(|e| e.peers()).unwrap_or_default();
        let tasks = peers.iter().map(Peer::info).filter(|i| !i.is_visitor());
        tasks.filter_map(|i| task_of(&i.subject)).collect()
    }
}

/// The error of a plan that a task does not have, any more or at all.
pub(crate) fn no_plan(handle: u64) -> Error {
    Error::not_found(format!("{NO_PLAN} {handle} here"))
}

/// How the message of [`no_plan`] begins.
pub(crate) const NO_PLAN: &str = "there is no plan";

impl Handler for Ears {
    fn connected(&self, peer: &Peer) {
        if let Some(node) = self.0.upgrade() {
            node.came(peer);
        }
    }

    fn lost(&self, peer: &Peer, why: &Error) {
        if let Some(node) = self.0.upgrade() {
            node.lost(peer, why);
        }
    }

    fn request(&self, peer: &Peer, message: Message, reply: Reply) {
        let Some(node) = self.0.upgrade() else {
            return reply.send(Err(Error::unavailable("the task is shutting down")));
        };
        if let Err(e) = node.policy.allows(peer.info(), message.kind) {
            return reply.send(Err(e));
        }
        match message.kind {
            RUN => node.run(peer, message, reply),
            REGISTER => node.register(peer, message, reply),
            _ => reply.send(node.answer(peer, &message)),
        }
    }

    fn notice(&self, peer: &Peer, message: Message) {
        let Some(node) = self.0.upgrade() else { return };
        if node.policy.allows(peer.info(), message.kind).is_err() {
            return;
        }
        match message.kind {
            ABORT => node.abort(peer, &message),
            GONE => {
                // What cannot be read says nothing, and there is nobody to answer.
                let _ = node.gone(peer, &message);
            }
            RELEASE => {
                let owner = owner(peer);
                for n in header_of!(message, Numbers).map(|n| n.numbers).unwrap_or_default() {
                    node.plans.remove_if(&n, |_, r| r.owner == owner);
                }
            }
            _ => {}
        }
    }

    fn parcel(&self, peer: &Peer, parcel: Parcel) {
        let Some(node) = self.0.upgrade() else { return };
        if peer.info().is_visitor() {
            return;
        }
        if let (Some(host), Some(from)) = (&node.host, task_of(&peer.info().subject)) {
            let key = EdgeKey {
                edge: parcel.edge,
                tag: parcel.tag,
            };
            host.arrived(parcel.step, key, parcel.value, &from);
        }
    }
}
