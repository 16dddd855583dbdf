//! The devices that a coordinator may use, and the processes that have them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_core::device_name::DeviceName;
use actorflow_core::error::{Error, Result};
use actorflow_transport::Message;

use super::host::Host;
use super::link::Link;
use super::messages::{DESCRIBE, Description, header_of};
use super::node::Node;
use super::ship::WireTask;
use super::spec::{ClusterSpec, TaskName};
use crate::partition::Site;
use crate::placement::DeviceInfo;

/// A process with devices.
pub(crate) enum Process {
    /// The coordinator's own.
    Here(Arc<Host>),
    /// Another task.
    There(Arc<Link>),
}

impl Process {
    /// The way there, if it is another task.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        match self {
            Process::Here(_) => None,
            Process::There(link) => Some(link.clone()),
        }
    }
}

/// The devices that a coordinator may use.
pub(crate) struct Devices {
    infos: Vec<DeviceInfo>,
    sites: Vec<Site>,
    /// The number of each device among those of its process.
    numbers: Vec<usize>,
    processes: Vec<Process>,
    /// The coordinator's own task and its address, if it is in one.
    me: Option<WireTask>,
    /// Keeps the way to the others open.
    node: Option<Arc<Node>>,
}

/// A task that has not said what it has by then is taken to have one CPU.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(2);

impl Devices {
    fn empty(me: Option<WireTask>, node: Option<Arc<Node>>) -> Devices {
        Devices {
            infos: Vec::new(),
            sites: Vec::new(),
            numbers: Vec::new(),
            processes: Vec::new(),
            me,
            node,
        }
    }

    /// The devices of this process alone.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a device whose name is none.
    pub(crate) fn local(host: Arc<Host>) -> Result<Devices> {
        let mut d = Devices::empty(None, None);
        d.add_host(host)?;
        Ok(d)
    }

    fn add_host(&mut self, host: Arc<Host>) -> Result<()> {
        for (i, e) in host.executors().iter().enumerate() {
            let device = e.device();
            self.add(
                device.name(),
                i,
                device.pool().stats().budget,
                device.parallel().threads(),
                0,
            )?;
        }
        self.processes.push(Process::Here(host));
        Ok(())
    }

    fn add(&mut self, name: &str, number: usize, memory: usize, threads: usize, incarnation: u64) -> Result<()> {
        self.infos.push(DeviceInfo {
            name: name.parse()?,
            memory,
            threads,
            incarnation,
        });
        self.sites.push(Site {
            name: name.into(),
            process: self.processes.len(),
        });
        self.numbers.push(number);
        Ok(())
    }

    /// The devices of a cluster, as its tasks describe them; of those that a filter accepts, if there are any filters.
    /// `me` is the coordinator's own task, with its host. Tasks that do not answer yet are taken to have one CPU, which
    /// free nodes are not placed on.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a filter or device name that is none; `UNAVAILABLE` before the node is on the network.
    pub(crate) fn of_cluster(
        node: Arc<Node>,
        spec: &ClusterSpec,
        me: Option<(TaskName, Arc<Host>)>,
        filters: &[String],
        patience: Duration,
    ) -> Result<Devices> {
        let filters: Vec<DeviceName> = filters.iter().map(|f| f.parse()).collect::<Result<_>>()?;
        let wanted = |task: &TaskName| -> Result<bool> {
            let any = DeviceName {
                job: Some(task.job.clone()),
                task: Some(task.index),
                ..DeviceName::default()
            };
            let fits = |f: &DeviceName| {
                f.job.as_ref().is_none_or(|j| Some(j) == any.job.as_ref()) && f.task.is_none_or(|t| Some(t) == any.task)
            };
            Ok(filters.is_empty() || filters.iter().any(fits))
        };
        let wire = |(task, addr): (TaskName, &str)| WireTask {
            name: task.to_string(),
            addr: addr.to_owned(),
        };
        let mine = me.as_ref().map(|(t, _)| t.clone());
        let known = mine
            .as_ref()
            .and_then(|t| spec.tasks().find(|(of, _)| of == t))
            .map(wire);
        let mut d = Devices::empty(known, Some(node.clone()));
        let mut others = Vec::new();
        for (task, addr) in spec.tasks() {
            if Some(&task) != mine.as_ref() && wanted(&task)? {
                others.push(node.link(&task, addr)?);
            }
        }
        let mut answers = ask_all(&others, patience.min(DESCRIBED_WITHIN));
        for (task, _) in spec.tasks() {
            if let Some((me, host)) = &me
                && *me == task
            {
                d.add_host(host.clone())?;
                continue;
            }
            let Some(i) = others.iter().position(|l| l.task == task) else {
                continue;
            };
            match answers[i].take() {
                Some((incarnation, description)) => {
                    for (n, device) in description.devices.iter().enumerate() {
                        let memory = usize::try_from(device.memory).unwrap_or(usize::MAX);
                        d.add(&device.name, n, memory, device.threads as usize, incarnation)?;
                    }
                }
                None => {
                    let name = format!("/job:{}/replica:0/task:{}/device:CPU:0", task.job, task.index);
                    d.add(&name, 0, usize::MAX, 1, 0)?;
                }
            }
            d.processes.push(Process::There(others[i].clone()));
        }
        Ok(d)
    }

    /// The devices.
    pub(crate) fn infos(&self) -> &[DeviceInfo] {
        &self.infos
    }

    /// The devices, as dividing sees them.
    pub(crate) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The processes that have them.
    pub(crate) fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The number of a device in its process.
    pub(crate) fn number_in_process(&self, device: usize) -> usize {
        self.numbers[device]
    }

    /// The devices of the coordinator's own process.
    pub(crate) fn host(&self) -> Option<&Arc<Host>> {
        self.processes.iter().find_map(|p| match p {
            Process::Here(host) => Some(host),
            Process::There(_) => None,
        })
    }

    /// The first device of a task.
    pub(crate) fn first_of(&self, task: &TaskName) -> Option<usize> {
        self.infos.iter().position(|d| d.name.task().as_ref() == Some(task))
    }

    /// How others find a process.
    ///
    /// # Errors
    /// `INTERNAL` for a process that is in no cluster.
    pub(crate) fn wire_task(&self, process: usize) -> Result<WireTask> {
        match &self.processes[process] {
            Process::There(link) => Ok(WireTask {
                name: link.task.to_string(),
                addr: link.addr.clone(),
            }),
            Process::Here(_) => self
                .me
                .clone()
                .ok_or_else(|| Error::internal("the coordinator's own process is in no cluster")),
        }
    }

    /// The node, if there is a network.
    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }
}

/// Asks all tasks what they have; those that answer in time.
fn ask_all(links: &[Arc<Link>], patience: Duration) -> Vec<Option<(u64, Description)>> {
    let deadline = Instant::now() + patience;
    let (tx, rx) = std::sync::mpsc::channel();
    for (i, link) in links.iter().enumerate() {
        let tx = tx.clone();
        let connected = move |peer: Result<actorflow_transport::Peer>| {
            let Ok(peer) = peer else {
                drop(tx.send((i, None)));
                return;
            };
            let incarnation = peer.info().incarnation;
            let then = Box::new(move |answer: Result<Message>| {
                let d = answer.and_then(|m| header_of!(m, Description));
                // Whoever asked may have given up.
                drop(tx.send((i, d.ok().map(|d| (incarnation, d)))));
            });
            peer.request(Message::new(DESCRIBE), deadline, then);
        };
        link.with_peer(deadline, Box::new(connected));
    }
    drop(tx);
    let mut answers: Vec<Option<(u64, Description)>> = Vec::new();
    answers.resize_with(links.len(), || None);
    for _ in links {
        let left = deadline.saturating_duration_since(Instant::now());
        match rx.recv_timeout(left) {
            Ok((i, answer)) => answers[i] = answer,
            Err(_) => break,
        }
    }
    answers
}
