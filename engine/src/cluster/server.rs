//! A task of a cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
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
use actorflow_transport::{Counters, EndpointOptions, Limits, Subject, Timing, VISITOR};
use parking_lot::{Condvar, Mutex};

use super::epoch::Epochs;
use super::host::Host;
use super::info::DeviceStatus;
use super::node::Node;
use super::policy::Policy;
use super::renewal::{self, Renewal};
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
    /// Where the certificate is renewed as long as the task runs, and revocations come from. By default what the folder of
    /// the identity says; see [`Renewal::of`]. Without one, [`Server::set_identity`] is the only way.
    pub renewal: Option<Renewal>,
    /// Where it listens; by default at the port of its address in `spec`, on that address if it is one, else on all.
    pub bind: Option<SocketAddr>,
    /// Which run of the task this is, from 1: larger than that of every earlier one. By default the time of day.
    pub incarnation: Option<u64>,
    /// The cluster's epoch, at least: frames of earlier ones are dropped, and those of this task elsewhere if the cluster is
    /// in a later one. With 0 the task is in no epoch until it is told one, and nothing that it says is stale.
    pub epoch: u64,
    /// Where the epoch is kept across restarts of the task.
    pub epoch_file: Option<PathBuf>,
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
    /// The default of [`max_graph_bytes`](Self::max_graph_bytes): 1 GiB.
    pub const MAX_GRAPH_BYTES: usize = 1 << 30;
    /// The default of [`max_nodes`](Self::max_nodes): 1,048,576.
    pub const MAX_NODES: usize = 1 << 20;

    /// The default options: epoch 1, one CPU device with every core, graphs from the jobs `chief`, `master` and `worker`, of up to
    /// 1 GiB and 1,048,576 nodes and without access to files; keep-alives every second, lost after 5 s of silence, 10 s
    /// for connecting; renewal as the identity's folder says.
    pub fn new(spec: ClusterSpec, task: TaskName, identity: Identity) -> ServerOptions {
        ServerOptions {
            spec,
            task,
            renewal: Renewal::of(&identity),
            identity,
            bind: None,
            incarnation: None,
            epoch: 1,
            epoch_file: None,
            session: SessionOptions::default(),
            submitters: ["chief", "master", "worker"].map(str::to_owned).to_vec(),
            directories: Vec::new(),
            max_graph_bytes: ServerOptions::MAX_GRAPH_BYTES,
            max_nodes: ServerOptions::MAX_NODES,
            limits: Limits::default(),
            timing: Timing::default(),
            connect_timeout: CONNECT,
        }
    }
}

/// How long connecting may take by default.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);

/// A task of a cluster: a process that has devices and variables, and does its share of the steps of every session.
///
/// Dropping it shuts it down at once.
pub struct Server {
    node: Arc<Node>,
    host: Arc<Host>,
    options: ServerOptions,
    incarnation: u64,
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

/// With a cure if somebody else has the port.
fn taken(e: Error) -> Error {
    if !e.message().contains("in use") {
        return e;
    }
    Error::failed_precondition(format!(
        "{}: another process has this UDP port; end it, or give the task another address in the cluster's description (or \
         another one to listen at: --bind)",
        e.message()
    ))
}

impl Server {
    /// Starts a task. It listens when this returns; the other tasks need not be there yet.
    ///
    /// # Errors
    /// `NOT_FOUND` if the cluster has no such task, or there is no such directory that graphs may touch; `INVALID_ARGUMENT`
    /// if the certificate is for somebody else, the incarnation is 0 or the authority's address is none; `DATA_LOSS` if the
    /// epoch's file holds something else; whatever the system says about the address.
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
        let budget = pool.as_ref().map_or(usize::MAX, |p| p.stats().budget);
        let host = Host::new(executors, resources, options.limits.within(budget).early_bytes);
        let mut endpoint = EndpointOptions::new(bind, options.identity.clone());
        endpoint.limits = options.limits;
        endpoint.timing = options.timing;
        endpoint.pool = pool;
        if let Some(i) = options.incarnation {
            if i == VISITOR {
                let why = "incarnation 0 stands for those who only look at a cluster; give a task 1 or more, or none";
                return Err(Error::invalid(why));
            }
            endpoint.incarnation = i;
        }
        let incarnation = endpoint.incarnation;
        let policy = Policy {
            computes: true,
            submitters: options.submitters.clone(),
            graphs: GraphLimits {
                bytes: options.max_graph_bytes,
                nodes: options.max_nodes,
            },
        };
        let (spec, patience) = (options.spec.clone(), options.connect_timeout);
        let epochs = Epochs::open(options.epoch, options.epoch_file.clone())?;
        let node = Node::start(endpoint, Some(host.clone()), spec, policy, epochs, patience).map_err(taken)?;
        if let Some(renewal) = &options.renewal {
            renewal::begin(&node, renewal, options.identity.clone(), false)?;
        }
        Ok(Server {
            node,
            host,
            options,
            incarnation,
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

    /// Which run of the task this is.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The epoch that it is in; see [`ClusterInfo::raise_epoch`](super::ClusterInfo::raise_epoch).
    pub fn epoch(&self) -> u64 {
        self.node.epochs.now()
    }

    /// The variables, queues and the like that the task has.
    pub fn resources(&self) -> &Arc<ResourceManager> {
        self.host.resources()
    }

    /// Uses a renewed certificate, or another list of revocations, from now on: connections to peers that are revoked are
    /// closed; with another certificate new connections take the place of the present ones, without failing steps.
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
            epoch: self.epoch(),
            plans,
            steps: self.host.active_steps().len(),
            remote_steps,
            begun: self.host.begun.load(Relaxed),
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
            devices: self.node.devices().into_iter().map(DeviceStatus::of).collect(),
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
    /// The epoch that it is in.
    pub epoch: u64,
    /// Plans that coordinators have registered.
    pub plans: usize,
    /// Steps in progress.
    pub steps: usize,
    /// Of these, those that other processes began.
    pub remote_steps: usize,
    /// Steps that have begun since the task started.
    pub begun: u64,
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
    /// Its devices.
    pub devices: Vec<DeviceStatus>,
}
