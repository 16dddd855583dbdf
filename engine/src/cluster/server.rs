//! A task of a cluster, and looking at one from outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_actors::device::CpuDevice;
use actorflow_actors::exec::Executor;
use actorflow_actors::pool::PoolOptions;
use actorflow_actors::turn::TurnMailbox;
use actorflow_core::error::{Error, Result};
use actorflow_core::files::FilePolicy;
use actorflow_core::kernel::Device;
use actorflow_core::resource::ResourceManager;
use actorflow_transport::identity::Identity;
use actorflow_transport::{Counters, EndpointOptions, Limits, Message, Subject, Timing};
use parking_lot::{Condvar, Mutex};

use super::host::Host;
use super::link::Link;
use super::messages::{CANCEL, DESCRIBE, Description, Names, RESET, Reason, STEPS, Steps, header_of, with_header};
use super::node::{Node, Policy};
use super::ship::GraphLimits;
use super::spec::{ClusterSpec, TaskName};
use crate::session::SessionOptions;

/// How a task is set up.
#[derive(Clone)]
pub struct ServerOptions {
    /// The cluster.
    pub spec: ClusterSpec,
    /// Which of its tasks this is.
    pub task: TaskName,
    /// Who it is on the wire: a certificate for that very task.
    pub identity: Identity,
    /// Where it listens; by default at the port of its address in `spec`, on that address if it is one, else on all.
    pub bind: Option<SocketAddr>,
    /// Which run of the task this is: larger than that of every earlier one. By default the time of day.
    pub incarnation: Option<u64>,
    /// The cluster's epoch; 0 if it has none.
    pub epoch: u64,
    /// Threads, memory, number of CPU devices, and the time without progress after which a run fails.
    pub session: SessionOptions,
    /// The jobs whose tasks may submit graphs to this one, beside clients and chiefs.
    pub submitters: Vec<String>,
    /// The directories that graphs may touch files in: every operation that reads or writes files, of every session that
    /// uses this task's devices. `DIR:ro` allows reading only; `s3://bucket/folder` objects below it. Without one, graphs
    /// touch no files. See [`FilePolicy`].
    pub directories: Vec<String>,
    /// The most bytes that the part of a graph for this task may have as it arrives, and the most that its decoded nodes,
    /// and its constants, may take in memory. Variables and what is fed do not count.
    pub max_graph_bytes: usize,
    /// The most nodes that the part of a graph for this task may have.
    pub max_nodes: usize,
    /// What a peer may use.
    pub limits: Limits,
    /// How long a silence may last.
    pub timing: Timing,
    /// How long another task may take to answer when it is connected.
    pub connect_timeout: Duration,
}

impl ServerOptions {
    /// The default options: one CPU device with every core, graphs from the jobs `chief`, `master` and `worker`, of up to
    /// 1 GiB and 1,048,576 nodes and without access to files; keep-alives every second, lost after 5 s of silence, 10 s
    /// for connecting.
    pub fn new(spec: ClusterSpec, task: TaskName, identity: Identity) -> ServerOptions {
        ServerOptions {
            spec,
            task,
            identity,
            bind: None,
            incarnation: None,
            epoch: 0,
            session: SessionOptions::default(),
            submitters: ["chief", "master", "worker"].map(str::to_owned).to_vec(),
            directories: Vec::new(),
            max_graph_bytes: 1 << 30,
            max_nodes: 1 << 20,
            limits: Limits::default(),
            timing: Timing::default(),
            connect_timeout: CONNECT,
        }
    }
}

/// How long connecting may take by default.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);

/// How a session joins a cluster from outside.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Who the client is: a certificate of a client or chief.
    pub identity: Identity,
    /// Where its own endpoint is; by default any port.
    pub bind: Option<SocketAddr>,
    /// How long a task may take to answer.
    pub connect_timeout: Duration,
    /// What tasks may use of the client.
    pub limits: Limits,
    /// How long a silence may last.
    pub timing: Timing,
}

impl ConnectOptions {
    /// The default options: any port, 10 s for connecting.
    pub fn new(identity: Identity) -> ConnectOptions {
        ConnectOptions {
            identity,
            bind: None,
            connect_timeout: CONNECT,
            limits: Limits::default(),
            timing: Timing::default(),
        }
    }
}

/// A task of a cluster: a process that has devices and variables, and does its share of the steps of every session.
///
/// Dropping it shuts it down at once.
pub struct Server {
    node: Arc<Node>,
    host: Arc<Host>,
    options: ServerOptions,
    over: Arc<(Mutex<bool>, Condvar)>,
}

/// Devices of this process, with their executors. They share the threads.
pub(crate) fn cpu_executors(task: &TaskName, options: &SessionOptions) -> (Vec<Arc<Executor>>, Arc<ResourceManager>) {
    let workers = PoolOptions {
        pin: options.pin,
        ..PoolOptions::new(options.threads)
    };
    let resources = ResourceManager::new(TurnMailbox::factory());
    let name = |i: usize| format!("/job:{}/replica:0/task:{}/device:CPU:{i}", task.job, task.index);
    let first = Arc::new(CpuDevice::new(name(0), workers, options.memory_budget));
    let pool = first.workers().clone();
    let mut devices = vec![first];
    for i in 1..options.devices.max(1) {
        devices.push(Arc::new(CpuDevice::sharing(name(i), &pool, options.memory_budget)));
    }
    let executors = devices
        .into_iter()
        .map(|d| {
            let device: Arc<dyn Device> = d;
            Executor::new(pool.clone(), device, resources.clone(), options.stall_timeout)
        })
        .collect();
    (executors, resources)
}

/// Where a task listens whose peers find it at `addr`.
fn listening(addr: &str) -> Result<SocketAddr> {
    if let Ok(exact) = addr.parse::<SocketAddr>() {
        // Peers reach a machine at addresses that it does not always have itself; a loopback address it has.
        let all: IpAddr = match exact.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        return Ok((all, exact.port()).into());
    }
    let port = addr.rsplit_once(':').and_then(|(_, p)| p.parse().ok());
    let port: u16 = port.ok_or_else(|| Error::invalid(format!("{addr:?} is no address; write host:port")))?;
    let local = addr.starts_with("localhost:");
    let ip = if local {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    Ok((ip, port).into())
}

impl Server {
    /// Starts a task. It listens when this returns; the other tasks need not be there yet.
    ///
    /// # Errors
    /// `NOT_FOUND` if the cluster has no such task, or there is no such directory that graphs may touch; `INVALID_ARGUMENT`
    /// if the certificate is for somebody else; whatever the system says about the address.
    pub fn start(options: ServerOptions) -> Result<Server> {
        actorflow_kernels::link();
        actorflow_core::op::registry().check()?;
        let addr = options.spec.address(&options.task)?;
        let subject = Subject::Task {
            job: options.task.job.to_string(),
            index: options.task.index,
        };
        if *options.identity.subject() != subject {
            return Err(Error::invalid(format!(
                "the certificate is for {}, but this is task {}; join the cluster as that task, or start the one that \
                 the certificate is for",
                options.identity.subject(),
                options.task
            )));
        }
        let bind = match options.bind {
            Some(bind) => bind,
            None => listening(addr)?,
        };
        let files = FilePolicy::only(&options.directories)?;
        let (executors, resources) = cpu_executors(&options.task, &options.session);
        resources.set_files(files)?;
        let pool = executors.first().map(|e| e.device().pool().clone());
        let host = Host::new(executors, resources);
        let mut endpoint = EndpointOptions::new(bind, options.identity.clone());
        endpoint.epoch = options.epoch;
        endpoint.limits = options.limits;
        endpoint.timing = options.timing;
        endpoint.pool = pool;
        if let Some(i) = options.incarnation {
            endpoint.incarnation = i;
        }
        let policy = Policy {
            submitters: options.submitters.clone(),
            graphs: GraphLimits {
                bytes: options.max_graph_bytes,
                nodes: options.max_nodes,
            },
        };
        let spec = options.spec.clone();
        let node = Node::start(endpoint, Some(host.clone()), spec, policy, options.connect_timeout)?;
        Ok(Server {
            node,
            host,
            options,
            over: Arc::default(),
        })
    }

    /// Which task it is.
    pub fn task(&self) -> &TaskName {
        &self.options.task
    }

    /// The cluster.
    pub fn spec(&self) -> &ClusterSpec {
        &self.options.spec
    }

    /// Where sessions find it (`tf.train.Server.target`): `actorflow://host:port`.
    pub fn target(&self) -> String {
        let addr = self.options.spec.address(&self.options.task);
        format!("actorflow://{}", addr.unwrap_or_default())
    }

    /// The address that it listens at.
    ///
    /// # Errors
    /// `UNAVAILABLE` if it does not.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.node.endpoint()?.local_addr())
    }

    /// The variables, queues and the like that the task has.
    pub fn resources(&self) -> &Arc<ResourceManager> {
        self.host.resources()
    }

    /// Uses a renewed certificate from now on.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is for somebody else.
    pub fn set_identity(&self, identity: Identity) -> Result<()> {
        self.node.endpoint()?.set_identity(identity)
    }

    /// What crossed the wire so far.
    ///
    /// # Errors
    /// As [`local_addr`](Self::local_addr).
    pub fn counters(&self) -> Result<Counters> {
        Ok(self.node.endpoint()?.counters())
    }

    /// What the task is doing, for metrics.
    pub fn status(&self) -> ServerStatus {
        use std::sync::atomic::Ordering::Relaxed;
        let (plans, remote_steps) = self.node.load();
        let dropped = &self.host.dropped;
        ServerStatus {
            plans,
            steps: self.host.active_steps().len(),
            remote_steps,
            connected: self.node.connected().into_iter().collect(),
            late: dropped.late.load(Relaxed),
            foreign: dropped.foreign.load(Relaxed),
            orphaned: dropped.orphaned.load(Relaxed),
            memory: self
                .host
                .executors()
                .iter()
                .map(|e| e.device().pool().stats().used)
                .sum(),
        }
    }

    /// Blocks until [`shutdown`](Self::shutdown).
    pub fn join(&self) {
        let (over, changed) = &*self.over;
        let mut over = over.lock();
        while !*over {
            changed.wait(&mut over);
        }
    }

    /// Waits up to `grace` for the steps in progress, then ends them and leaves the cluster.
    pub fn shutdown(&self, grace: Duration) {
        let until = Instant::now() + grace;
        while !self.host.active_steps().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        for (step, _) in self.host.active_steps() {
            self.host.abort(
                step,
                Error::unavailable(format!("task {} is shutting down", self.options.task)),
            );
        }
        self.node.close(grace.min(Duration::from_secs(1)));
        let (over, changed) = &*self.over;
        *over.lock() = true;
        changed.notify_all();
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    pub(crate) fn options(&self) -> &ServerOptions {
        &self.options
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !*self.over.0.lock() {
            self.shutdown(Duration::ZERO);
        }
    }
}

/// What a task is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Plans that coordinators have registered.
    pub plans: usize,
    /// Steps in progress.
    pub steps: usize,
    /// Of these, those that other processes began.
    pub remote_steps: usize,
    /// The tasks that are connected.
    pub connected: Vec<String>,
    /// Tensors that came for steps that were over.
    pub late: u64,
    /// Tensors that came from tasks which the plan does not name.
    pub foreign: u64,
    /// Tensors that came for steps that never began.
    pub orphaned: u64,
    /// Bytes that tensors take.
    pub memory: usize,
}

/// Looking at a cluster, without a session.
pub struct ClusterInfo {
    node: Arc<Node>,
    spec: ClusterSpec,
    patience: Duration,
}

/// A task, as it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// Which task.
    pub task: TaskName,
    /// Where it is.
    pub addr: String,
    /// Which run of the task this is.
    pub incarnation: u64,
    /// The version of the program.
    pub version: String,
    /// Since when it runs.
    pub uptime: Duration,
    /// Its devices.
    pub devices: Vec<DeviceStatus>,
}

/// A device of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The full name.
    pub name: String,
    /// The byte budget.
    pub memory: u64,
    /// The bytes that tensors take.
    pub used: u64,
    /// The threads that compute, shared by the devices of a task.
    pub threads: u32,
}

/// A step in progress in a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepStatus {
    /// Its number.
    pub step: u64,
    /// Since when.
    pub age: Duration,
    /// Nothing of it runs.
    pub waiting: bool,
    /// What it waits for.
    pub waits_for: String,
}

/// The address in a target: `actorflow://host:port` or `host:port`.
///
/// # Errors
/// `INVALID_ARGUMENT` for anything else.
pub(crate) fn address_of(target: &str) -> Result<&str> {
    let addr = target.strip_prefix("actorflow://").unwrap_or(target);
    match addr.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !addr.contains("//") && port.parse::<u16>().is_ok() => Ok(addr),
        _ => Err(Error::invalid(format!(
            "{target:?} is no target; write actorflow://host:port, the address of any task of the cluster"
        ))),
    }
}

/// A node for a client, the cluster as the task at `target` describes it, and which task that is.
pub(crate) fn client_node(
    target: &str,
    options: &ConnectOptions,
) -> Result<(Arc<Node>, ClusterSpec, Option<TaskName>)> {
    let addr = address_of(target)?;
    let loopback = addr.starts_with("127.") || addr.starts_with("localhost:") || addr.starts_with("[::1]");
    let any: IpAddr = if loopback {
        if addr.starts_with('[') {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        }
    } else if addr.starts_with('[') {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let bind = options.bind.unwrap_or_else(|| (any, 0).into());
    let mut endpoint = EndpointOptions::new(bind, options.identity.clone());
    endpoint.limits = options.limits;
    endpoint.timing = options.timing;
    let policy = Policy::of_client();
    let node = Node::start(endpoint, None, ClusterSpec::new(), policy, options.connect_timeout)?;
    let deadline = Instant::now() + options.connect_timeout;
    let peer = node.endpoint()?.connect(addr, None, deadline);
    let peer = peer.map_err(|e| e.context(format!("no task of a cluster answers at {addr}")))?;
    let answer = peer.call(Message::new(DESCRIBE), deadline)?;
    let d = header_of!(answer, Description)?;
    let mut spec = ClusterSpec::new();
    for (task, addr) in d.tasks.iter().zip(&d.addresses) {
        let task: TaskName = task.parse()?;
        spec = spec.with_task(&task.job, task.index, addr)?;
    }
    let home = match &peer.info().subject {
        Subject::Task { job, index } => Some(TaskName::new(job, *index)?),
        _ => None,
    };
    Ok((node, spec, home))
}

impl ClusterInfo {
    /// Connects to the cluster that the task at `target` belongs to.
    ///
    /// # Errors
    /// `UNAVAILABLE` if nobody answers there, `UNAUTHENTICATED` if it is another cluster's.
    pub fn connect(target: &str, options: &ConnectOptions) -> Result<ClusterInfo> {
        let (node, spec, _) = client_node(target, options)?;
        Ok(ClusterInfo {
            node,
            spec,
            patience: options.connect_timeout,
        })
    }

    /// The cluster.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    fn ask(&self, task: &TaskName, message: Message) -> Result<(u64, Message)> {
        let addr = self.spec.address(task)?;
        let link = self.node.link(task, addr)?;
        ask(&link, message, Instant::now() + self.patience)
    }

    /// What a task is.
    ///
    /// # Errors
    /// `UNAVAILABLE` if it does not answer.
    pub fn task(&self, task: &TaskName) -> Result<TaskStatus> {
        let (incarnation, answer) = self.ask(task, Message::new(DESCRIBE))?;
        let d = header_of!(answer, Description)?;
        Ok(TaskStatus {
            task: task.clone(),
            addr: self.spec.address(task)?.to_owned(),
            incarnation,
            version: d.version,
            uptime: Duration::from_secs(d.uptime),
            devices: d
                .devices
                .into_iter()
                .map(|d| DeviceStatus {
                    name: d.name,
                    memory: d.memory,
                    used: d.used,
                    threads: d.threads,
                })
                .collect(),
        })
    }

    /// The steps in progress in a task.
    ///
    /// # Errors
    /// As [`task`](Self::task).
    pub fn steps(&self, task: &TaskName) -> Result<Vec<StepStatus>> {
        let (_, answer) = self.ask(task, Message::new(STEPS))?;
        let steps = header_of!(answer, Steps)?.steps.into_iter().map(|s| StepStatus {
            step: s.step,
            age: Duration::from_micros(s.age_us),
            waiting: s.waiting,
            waits_for: s.waits_for,
        });
        Ok(steps.collect())
    }

    /// Ends a step in a task, and so the whole step.
    ///
    /// # Errors
    /// `NOT_FOUND` if it is not in progress there.
    pub fn cancel(&self, task: &TaskName, step: u64, why: &str) -> Result<()> {
        let reason = Reason {
            message: why.to_owned(),
        };
        self.ask(task, with_header!(CANCEL, step, &reason)?).map(drop)
    }

    /// Forgets the variables, queues and the like of some containers in every task; of all, if none is named
    /// (`tf.Session.reset`).
    ///
    /// # Errors
    /// The first task's that could not.
    pub fn reset(&self, containers: &[&str]) -> Result<()> {
        for (task, _) in self.spec.tasks() {
            let names = containers.iter().map(|c| (*c).to_owned()).collect();
            self.ask(&task, with_header!(RESET, 0, &Names { names })?)?;
        }
        Ok(())
    }
}

impl Drop for ClusterInfo {
    fn drop(&mut self) {
        self.node.close(Duration::from_millis(100));
    }
}

/// Asks a task something and waits for the answer; also which run of the task answered.
pub(crate) fn ask(link: &Arc<Link>, message: Message, deadline: Instant) -> Result<(u64, Message)> {
    let (tx, rx) = std::sync::mpsc::sync_channel(1);
    let answered = move |peer: Result<actorflow_transport::Peer>| match peer {
        Ok(peer) => {
            let incarnation = peer.info().incarnation;
            let then = Box::new(move |answer: Result<Message>| {
                // Whoever asked may have given up.
                let _ = tx.send(answer.map(|a| (incarnation, a)));
            });
            peer.request(message, deadline, then);
        }
        Err(e) => {
            let _ = tx.send(Err(e));
        }
    };
    link.with_peer(deadline, Box::new(answered));
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
    rx.recv_timeout(left)
        .map_err(|_| Error::unavailable(format!("task {} at {} does not answer", link.task, link.addr)))?
}
