//! What a session runs on: one device, or several of this process or of a cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_actors::exec::{Executor, Pace, Plan, RunOptions, StepFuture, Trace};
use actorflow_core::cancel::CancelToken;
use actorflow_core::device_name::TaskName;
use actorflow_core::error::Result;
use actorflow_core::graph::NodeId;
use actorflow_core::kernel::{Device, HostDevice};
use actorflow_core::resource::ResourceManager;
use actorflow_core::{Error, Graph, Tensor};
use parking_lot::Mutex;

use super::{Key, SessionOptions};
pub(crate) use crate::cluster::How;
use crate::cluster::{
    ConnectOptions, Devices, DistPlan, Host, Master, MasterOptions, Purpose, Server, Tracer, client_node, cpu_executors,
};
use crate::partition::DivideOptions;
use crate::passes::{self, Passes, ir::Ir};
use crate::placement::PlaceOptions;

/// A compiled run.
#[derive(Clone)]
pub(crate) enum Prepared {
    One(Arc<Plan>),
    Many(Arc<DistPlan>),
}

impl Prepared {
    /// The plans of the devices of this process.
    pub(crate) fn plans_here(&self) -> Vec<Arc<Plan>> {
        match self {
            Prepared::One(plan) => vec![plan.clone()],
            Prepared::Many(plan) => plan.plans_here().cloned().collect(),
        }
    }

    /// The nodes of a run, on all devices.
    pub(crate) fn num_nodes(&self) -> usize {
        match self {
            Prepared::One(plan) => plan.len(),
            Prepared::Many(plan) => plan.num_nodes(),
        }
    }
}

pub(crate) enum Backend {
    One(Arc<Executor>),
    Many {
        master: Arc<Master>,
        resources: Arc<ResourceManager>,
        device: Arc<dyn Device>,
        /// The node is the session's own and leaves the network with it.
        owns_node: bool,
    },
}

fn master_options(options: &SessionOptions, default_device: usize) -> MasterOptions {
    MasterOptions {
        passes: options.passes,
        divide: DivideOptions {
            lossy: options.lossy_edges,
        },
        place: PlaceOptions {
            default_device,
            soft: options.soft_placement,
            free: options.free_nodes,
            costs: options.costs.clone(),
        },
        stall: options.stall_timeout,
    }
}

impl Backend {
    /// The devices of this process.
    pub(crate) fn local(options: &SessionOptions) -> Result<Backend> {
        actorflow_kernels::link();
        actorflow_core::op::registry().check()?;
        let task = TaskName::new("localhost", 0)?;
        let (mut executors, resources) = cpu_executors(&task, options);
        if executors.len() == 1
            && let Some(one) = executors.pop()
        {
            return Ok(Backend::One(one));
        }
        // Nobody sends anything to it.
        let host = Host::new(executors, resources, 0);
        Backend::many(Devices::local(host)?, options, 0, false)
    }

    /// The devices of the cluster that a task is in.
    pub(crate) fn in_task(server: &Server, options: &SessionOptions) -> Result<Backend> {
        let (task, spec) = (server.task().clone(), server.spec());
        let me = Some((task.clone(), server.host().clone()));
        let patience = server.options().connect_timeout;
        let devices = Devices::of_cluster(server.node().clone(), spec, me, &options.device_filters, patience)?;
        let first = devices.first_of(&task).unwrap_or(0);
        Backend::many(devices, options, first, false)
    }

    /// The devices of the cluster that a target is in.
    pub(crate) fn outside(target: &str, client: &ConnectOptions, options: &SessionOptions) -> Result<Backend> {
        actorflow_kernels::link();
        actorflow_core::op::registry().check()?;
        let (node, spec, home) = client_node(target, client, Purpose::Work)?;
        let (filters, patience) = (&options.device_filters, client.connect_timeout);
        let devices = Devices::of_cluster(node, &spec, None, filters, patience)?;
        let first = home.and_then(|h| devices.first_of(&h)).unwrap_or(0);
        Backend::many(devices, options, first, true)
    }

    fn many(devices: Devices, options: &SessionOptions, default_device: usize, owns_node: bool) -> Result<Backend> {
        if devices.infos().is_empty() {
            return Err(Error::invalid(format!(
                "no device of the cluster is left by the filters {:?}",
                options.device_filters
            )));
        }
        let (resources, device): (Arc<ResourceManager>, Arc<dyn Device>) = match devices.host() {
            Some(host) => (
                host.resources().clone(),
                host.executors()
                    .first()
                    .map_or_else(|| Arc::new(HostDevice::default()) as _, |e| e.device().clone()),
            ),
            None => (
                ResourceManager::new(actorflow_actors::turn::TurnMailbox::factory()),
                Arc::new(HostDevice::default()),
            ),
        };
        Ok(Backend::Many {
            master: Master::new(devices, master_options(options, default_device)),
            resources,
            device,
            owns_node,
        })
    }

    /// The same devices and resources, for another graph.
    pub(crate) fn sibling(&self) -> Backend {
        match self {
            Backend::One(e) => Backend::One(e.clone()),
            Backend::Many {
                master,
                resources,
                device,
                ..
            } => Backend::Many {
                master: master.sibling(),
                resources: resources.clone(),
                device: device.clone(),
                owns_node: false,
            },
        }
    }

    pub(crate) fn resources(&self) -> &Arc<ResourceManager> {
        match self {
            Backend::One(e) => e.resources(),
            Backend::Many { resources, .. } => resources,
        }
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        match self {
            Backend::One(e) => e.device(),
            Backend::Many { device, .. } => device,
        }
    }

    /// Whether there are devices of other processes.
    pub(crate) fn is_distributed(&self) -> bool {
        matches!(self, Backend::Many { master, .. } if master.devices().node().is_some())
    }

    pub(crate) fn devices(&self) -> Vec<String> {
        match self {
            Backend::One(e) => vec![e.device().name().to_owned()],
            Backend::Many { master, .. } => master.devices().sites().iter().map(|s| s.name.to_string()).collect(),
        }
    }

    pub(crate) fn device_of(&self, graph: &Graph, node: NodeId) -> Result<String> {
        match self {
            Backend::One(e) => Ok(e.device().name().to_owned()),
            Backend::Many { master, .. } => {
                let device = master.placement(graph)?.device_of(node);
                Ok(master.devices().sites()[device].name.to_string())
            }
        }
    }

    /// What soft placement has put elsewhere than it asked for, a sentence each.
    pub(crate) fn moves(&self, graph: &Graph) -> Result<Vec<String>> {
        match self {
            Backend::One(_) => Ok(Vec::new()),
            Backend::Many { master, .. } => {
                let placement = master.placement(graph)?;
                Ok(placement.moves().iter().map(ToString::to_string).collect())
            }
        }
    }

    pub(crate) fn plan(&self, graph: &Graph, wanted: &Key, passes: Passes) -> Result<Prepared> {
        match self {
            Backend::One(e) => {
                let mut ir = Ir::reduce(graph, &wanted.feeds, &wanted.fetches, &wanted.targets)?;
                passes::run(&mut ir, passes, e.resources())?;
                Plan::new(ir.into_spec(e.resources())?).map(Prepared::One)
            }
            Backend::Many { master, .. } => {
                let plan = master.plan(graph, wanted)?;
                Ok(Prepared::Many(Arc::new(plan)))
            }
        }
    }

    #[inline]
    pub(crate) fn run(
        &self,
        plan: &Prepared,
        feeds: impl ExactSizeIterator<Item = Tensor>,
        how: How<'_>,
    ) -> Result<Vec<Tensor>> {
        match (self, plan) {
            (Backend::One(e), Prepared::One(plan)) => {
                let options = RunOptions {
                    deadline: how.deadline,
                    cancel: how.cancel,
                    trace: how.trace,
                    ..RunOptions::default()
                };
                e.run(plan, feeds, options)
            }
            (Backend::Many { master, .. }, Prepared::Many(plan)) => master.run(plan, feeds.collect(), how),
            _ => Err(foreign()),
        }
    }

    pub(crate) fn run_async(
        &self,
        plan: &Prepared,
        feeds: Vec<Tensor>,
        deadline: Option<Instant>,
        cancel: Option<&CancelToken>,
    ) -> StepFuture {
        match (self, plan) {
            (Backend::One(e), Prepared::One(plan)) => e.run_async(plan, feeds, deadline, cancel),
            (Backend::Many { master, .. }, Prepared::Many(plan)) => StepFuture::of(|then| {
                let run = master.launch(plan, &feeds, deadline, cancel, None, then)?;
                Ok(Box::new(move |why| run.fail(why)))
            }),
            _ => StepFuture::of(|_| Err(foreign())),
        }
    }

    /// As [`run_async`](Self::run_async); also what gives the trace when the run has ended well.
    pub(crate) fn run_async_traced(
        &self,
        plan: &Prepared,
        feeds: Vec<Tensor>,
        deadline: Option<Instant>,
        cancel: Option<&CancelToken>,
    ) -> (StepFuture, TakeTrace) {
        match (self, plan) {
            (Backend::One(e), Prepared::One(plan)) => {
                let record = Arc::<Mutex<Trace>>::default();
                let future = StepFuture::of(|then| {
                    let options = RunOptions {
                        deadline,
                        cancel,
                        record: Some(record.clone()),
                        ..RunOptions::default()
                    };
                    let run = e.launch(plan, feeds, options, Pace::Spawn, then)?;
                    Ok(Box::new(move |why| run.abort(why)))
                });
                (future, Box::new(move || std::mem::take(&mut *record.lock())))
            }
            (Backend::Many { master, .. }, Prepared::Many(plan)) => {
                let tracer = Tracer::new();
                let future = StepFuture::of(|then| {
                    let run = master.launch(plan, &feeds, deadline, cancel, Some(&tracer), then)?;
                    Ok(Box::new(move |why| run.fail(why)))
                });
                let master = master.clone();
                let take = move || {
                    let trace = tracer.take();
                    master.learn(&trace);
                    trace
                };
                (future, Box::new(take))
            }
            _ => (StepFuture::of(|_| Err(foreign())), Box::new(Trace::default)),
        }
    }
}

/// Gives the trace of a run that has ended.
pub(crate) type TakeTrace = Box<dyn FnOnce() -> Trace + Send>;

fn foreign() -> Error {
    Error::internal("a plan of another session")
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Backend::Many {
            master,
            owns_node: true,
            ..
        } = self
            && let Some(node) = master.devices().node()
        {
            node.close(Duration::from_millis(100));
        }
    }
}
