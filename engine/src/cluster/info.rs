//! Looking at a cluster from outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_core::error::{Error, Result};
use actorflow_transport::identity::Identity;
use actorflow_transport::{EndpointOptions, Limits, Message, Subject, Timing, VISITOR};

use super::epoch::{Epoch, Epochs};
use super::link::Link;
use super::messages::{
    CANCEL, DESCRIBE, Description, DeviceEntry, EPOCH, GONE, Gone, Names, RESET, Reason, STEPS, Steps, header_of,
    with_header,
};
use super::node::Node;
use super::policy::Policy;
use super::renewal::{self, Renewal};
use super::server::CONNECT;
use super::spec::{ClusterSpec, TaskName};

/// How a session joins a cluster from outside.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Who the client is: a certificate of a client or chief.
    pub identity: Identity,
    /// Where the certificate is renewed as long as the session lives, and revocations come from. By default what the folder
    /// of the identity says; see [`Renewal::of`]. Without one the certificate ends after its day, and revocations are not
    /// noticed.
    pub renewal: Option<Renewal>,
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
    /// The default options: any port, 10 s for connecting, renewal as the identity's folder says.
    pub fn new(identity: Identity) -> ConnectOptions {
        ConnectOptions {
            renewal: Renewal::of(&identity),
            identity,
            bind: None,
            connect_timeout: CONNECT,
            limits: Limits::default(),
            timing: Timing::default(),
        }
    }
}

/// Looking at a cluster, without a session.
///
/// It disturbs nobody who runs under the same identity: to the tasks it is a visitor and no run of its subject, and may
/// not submit graphs.
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
    /// The epoch that it is in.
    pub epoch: u64,
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

impl DeviceStatus {
    pub(crate) fn of(d: DeviceEntry) -> DeviceStatus {
        DeviceStatus {
            name: d.name,
            memory: d.memory,
            used: d.used,
            threads: d.threads,
        }
    }
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

fn is_loopback(addr: &str) -> bool {
    addr.starts_with("127.") || addr.starts_with("localhost:") || addr.starts_with("[::1]")
}

/// The address from which a client reaches others.
fn any(loopback: bool, v6: bool) -> IpAddr {
    match (loopback, v6) {
        (true, true) => Ipv6Addr::LOCALHOST.into(),
        (true, false) => Ipv4Addr::LOCALHOST.into(),
        (false, true) => Ipv6Addr::UNSPECIFIED.into(),
        (false, false) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Why a client joins a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To run graphs on it.
    Work,
    /// To look at it.
    Look,
}

/// A client's node, which listens at `from` unless the options say where.
fn start_client(from: IpAddr, spec: ClusterSpec, options: &ConnectOptions, purpose: Purpose) -> Result<Arc<Node>> {
    let bind = options.bind.unwrap_or_else(|| (from, 0).into());
    let identity = match &options.renewal {
        Some(renewal) => renewal.refreshed(&options.identity)?,
        None => options.identity.clone(),
    };
    let mut endpoint = EndpointOptions::new(bind, identity.clone());
    endpoint.limits = options.limits;
    endpoint.timing = options.timing;
    if purpose == Purpose::Look {
        endpoint.incarnation = VISITOR;
    }
    let node = Node::start(
        endpoint,
        None,
        spec,
        Policy::of_client(),
        Epochs::none(),
        options.connect_timeout,
    )?;
    if let Some(renewal) = &options.renewal {
        renewal::begin(&node, renewal, identity, true)?;
    }
    Ok(node)
}

/// A node for a client, the cluster as the task at `target` describes it, and which task that is. Who comes to work belongs
/// to the epoch that the task is in, and does nothing any more in a later one; who only looks belongs to none.
pub(crate) fn client_node(
    target: &str,
    options: &ConnectOptions,
    purpose: Purpose,
) -> Result<(Arc<Node>, ClusterSpec, Option<TaskName>)> {
    let addr = address_of(target)?;
    let from = any(is_loopback(addr), addr.starts_with('['));
    let node = start_client(from, ClusterSpec::new(), options, purpose)?;
    let deadline = Instant::now() + options.connect_timeout;
    let peer = node.endpoint()?.connect(addr, None, deadline);
    let peer = peer.map_err(|e| e.context(format!("no task of a cluster answers at {addr}")))?;
    let answer = peer.call(Message::new(DESCRIBE), deadline)?;
    let d = header_of!(answer, Description)?;
    if purpose == Purpose::Work {
        node.endpoint()?.set_epoch(d.epoch);
    }
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
    /// Of a cluster that is known: nobody is connected to before something is asked.
    ///
    /// # Errors
    /// Whatever the system says about the address that it is to be reached from.
    pub fn of(spec: &ClusterSpec, options: &ConnectOptions) -> Result<ClusterInfo> {
        let on_loopback = spec.tasks().all(|(_, addr)| is_loopback(addr));
        let any_v6 = spec.tasks().any(|(_, addr)| addr.starts_with('['));
        Ok(ClusterInfo {
            node: start_client(any(on_loopback, any_v6), spec.clone(), options, Purpose::Look)?,
            spec: spec.clone(),
            patience: options.connect_timeout,
        })
    }

    /// Connects to the cluster that the task at `target` belongs to.
    ///
    /// # Errors
    /// `UNAVAILABLE` if nobody answers there, `UNAUTHENTICATED` if it is another cluster's.
    pub fn connect(target: &str, options: &ConnectOptions) -> Result<ClusterInfo> {
        let (node, spec, _) = client_node(target, options, Purpose::Look)?;
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
            epoch: d.epoch,
            devices: d.devices.into_iter().map(DeviceStatus::of).collect(),
        })
    }

    /// The steps in progress in a task, the oldest first; some hundreds of them, if there are more.
    ///
    /// # Errors
    /// As [`task`](Self::task).
    pub fn steps(&self, task: &TaskName) -> Result<Vec<StepStatus>> {
        Ok(self.steps_of_all(task)?.0)
    }

    /// As [`steps`](Self::steps), and how many there are in all.
    ///
    /// # Errors
    /// As [`task`](Self::task).
    pub fn steps_of_all(&self, task: &TaskName) -> Result<(Vec<StepStatus>, u64)> {
        let (_, answer) = self.ask(task, Message::new(STEPS))?;
        let Steps { steps, count } = header_of!(answer, Steps)?;
        let steps = steps.into_iter().map(|s| StepStatus {
            step: s.step,
            age: Duration::from_micros(s.age_us),
            waiting: s.waiting,
            waits_for: s.waits_for,
        });
        Ok((steps.collect(), count))
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
    /// (`tf.Session.reset`). All tasks are asked, at the same time, whatever one of them says.
    ///
    /// # Errors
    /// The first task's that could not, with all those that could not and those that did.
    pub fn reset(&self, containers: &[&str]) -> Result<()> {
        let tasks: Vec<TaskName> = self.spec.tasks().map(|(t, _)| t).collect();
        let answers: Vec<Result<Vec<String>>> = std::thread::scope(|scope| {
            let asked: Vec<_> = tasks
                .iter()
                .map(|t| scope.spawn(|| self.reset_task(t, containers)))
                .collect();
            let panicked = || Err(Error::internal("the question panicked"));
            asked
                .into_iter()
                .map(|a| a.join().unwrap_or_else(|_| panicked()))
                .collect()
        });
        let names = |ok: bool| -> Vec<String> {
            let of = tasks.iter().zip(&answers).filter(|(_, a)| a.is_ok() == ok);
            of.map(|(t, _)| t.to_string()).collect()
        };
        let (done, not) = (names(true), names(false));
        match answers.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(first) => Err(first.context(match done.is_empty() {
                true => format!("nothing is forgotten by {}", not.join(", ")),
                false => format!("forgotten by {}, not by {}", done.join(", "), not.join(", ")),
            })),
        }
    }

    /// As [`reset`](Self::reset), in one task; gives those of the containers that had anything.
    ///
    /// # Errors
    /// As [`task`](Self::task).
    pub fn reset_task(&self, task: &TaskName, containers: &[&str]) -> Result<Vec<String>> {
        let names = containers.iter().map(|c| (*c).to_owned()).collect();
        let (_, answer) = self.ask(task, with_header!(RESET, 0, &Names { names })?)?;
        Ok(header_of!(answer, Names)?.names)
    }

    /// Has a task go to an epoch of the cluster, unless it is in a later one: it drops what comes of earlier epochs from then
    /// on, and ends the steps in progress with `ABORTED`. Sessions that clients have made before are of the earlier epoch and
    /// do nothing any more; those in tasks ([`Session::on`](crate::Session::on)) go on. All tasks of a cluster are to be told;
    /// what one that was not sends to the others is dropped and counted, or answered with `ABORTED`. Gives the epoch that the
    /// task is in then.
    ///
    /// # Errors
    /// As [`task`](Self::task); `INVALID_ARGUMENT` for an epoch more than 1,048,576 ahead; what the system says of the
    /// file in which the task keeps it.
    pub fn raise_epoch(&self, task: &TaskName, epoch: u64) -> Result<u64> {
        let (_, answer) = self.ask(task, with_header!(EPOCH, 0, &Epoch { epoch })?)?;
        Ok(header_of!(answer, Epoch)?.epoch)
    }

    /// Tells the other tasks, and through them the clients that they have, that the process of a task has ended: for
    /// whoever watches over processes, as a chief. Steps that need the task fail with `UNAVAILABLE` at once, instead of after
    /// [`Timing::idle`]. Runs of the task after `incarnation` are not meant.
    ///
    /// Gives the tasks that have not heard it, with the reasons; they notice the silence by themselves.
    ///
    /// # Errors
    /// `NOT_FOUND` if the cluster has no such task.
    pub fn announce_gone(&self, task: &TaskName, incarnation: u64) -> Result<Vec<(TaskName, Error)>> {
        self.spec.address(task)?;
        // What is pending there, of another announcement perhaps, need not wait for the silence.
        let why = Error::unavailable("its process has ended");
        self.node.give_up(task, incarnation, &why)?;
        let gone = Gone {
            task: task.to_string(),
            incarnation,
        };
        let deadline = Instant::now() + self.patience;
        let (tx, rx) = std::sync::mpsc::channel();
        let mut left: Vec<TaskName> = Vec::new();
        for (other, addr) in self.spec.tasks().filter(|(t, _)| t != task) {
            let (message, tx, name) = (with_header!(GONE, 0, &gone)?, tx.clone(), other.clone());
            let connected = move |peer: Result<actorflow_transport::Peer>| match peer {
                // Whoever announces may have given up.
                Err(e) => drop(tx.send((name, Err(e)))),
                Ok(peer) => peer.request(message, deadline, Box::new(move |a| drop(tx.send((name, a.map(drop)))))),
            };
            self.node.link(&other, addr)?.with_peer(deadline, Box::new(connected));
            left.push(other);
        }
        let mut deaf = Vec::new();
        while !left.is_empty() {
            match rx.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((name, answer)) => {
                    left.retain(|t| *t != name);
                    deaf.extend(answer.err().map(|e| (name, e)));
                }
                Err(_) => break,
            }
        }
        deaf.extend(left.into_iter().map(|t| (t, Error::deadline("no answer"))));
        Ok(deaf)
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
