//! The coordinator of a session whose nodes are on several devices: places, divides, registers, runs.
//!
//! It lives where the session is. What a plan asks of a task is registered there once and has a number from then on; a
//! step is one message to each task with its feeds, and one back with what it fetched. Everything else that crosses is
//! pushed from task to task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use actorflow_actors::exec::{Pace, Plan, Source, Trace};
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::{Graph, Tensor};
use parking_lot::Mutex;

use super::devices::{Devices, Process};
use super::events;
use super::host::{DevicePlan, Host, SharePlan, ShareStatus};
use super::link::{Asked, Gives, Link, RemoteShare};
use super::run::{DistRun, Taker, Then};
use super::ship::{self, AWAY, ELSEWHERE, FROM, HERE, WireRoute, WireShare, WireTask};
use super::table::{Outlet, Route};
use super::tracer::Tracer;
use super::watch::{Waiting, Watch};
use crate::partition::{self, Crossing, DivideOptions, Part};
use crate::passes::ir::Ir;
use crate::passes::{self, Passes};
use crate::placement::{PlaceOptions, Placement, place};
use crate::session::Key;

/// The share of a plan that one process has.
struct Share {
    /// Which of the run's feeds it takes, in order.
    feeds: Vec<usize>,
    /// Which of the run's fetches it gives, in order.
    fetches: Vec<usize>,
    work: Work,
    taker: Arc<dyn Taker>,
}

enum Work {
    Here(Arc<Host>, Arc<SharePlan>),
    There(Arc<RemoteShare>),
}

/// A plan over several devices.
pub(crate) struct DistPlan {
    shares: Vec<Share>,
    /// Fetches that are fed: (which fetch, which feed).
    passed: Vec<(usize, usize)>,
    feeds: usize,
    fetches: usize,
    /// Nodes of all shares, before passes.
    nodes: usize,
}

impl DistPlan {
    /// The nodes that a run has on all devices, before the passes of each.
    pub(crate) fn num_nodes(&self) -> usize {
        self.nodes
    }

    /// The plans of the devices of this process.
    pub(crate) fn plans_here(&self) -> impl Iterator<Item = &Arc<Plan>> {
        self.shares.iter().flat_map(|s| match &s.work {
            Work::Here(_, share) => share.devices.iter().map(|d| &d.plan).collect(),
            Work::There(_) => Vec::new(),
        })
    }
}

/// How a run is to be done.
#[derive(Default)]
pub(crate) struct How<'a> {
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: Option<&'a CancelToken>,
    pub(crate) trace: Option<&'a mut Trace>,
}

/// How a coordinator works.
#[derive(Clone)]
pub(crate) struct MasterOptions {
    pub(crate) passes: Passes,
    pub(crate) divide: DivideOptions,
    pub(crate) place: PlaceOptions,
    /// A step in which for so long nothing happens but waiting fails, unless it has said how long it may wait.
    pub(crate) stall: Duration,
}

/// The coordinator of one session.
pub(crate) struct Master {
    devices: Arc<Devices>,
    options: MasterOptions,
    placed: Mutex<Option<(u64, Placement)>>,
    steps: AtomicU64,
    watch: Watch,
}

/// The share of the process that the coordinator is in, as it sees it.
struct Local(Arc<Host>);

impl Taker for Local {
    fn name(&self) -> String {
        "this process".to_owned()
    }

    fn abort(&self, _: u64, _: &Error) {
        // Its share is run with the step's own token.
    }

    fn status(&self, step: u64, stalled: bool, then: Box<dyn FnOnce(Option<ShareStatus>) + Send>) {
        then(self.0.status(step, Some(stalled)));
    }
}

impl Master {
    /// A coordinator of these devices.
    pub(crate) fn new(devices: Devices, options: MasterOptions) -> Arc<Master> {
        Master::over(Arc::new(devices), options)
    }

    /// A coordinator of the same devices for another graph.
    pub(crate) fn sibling(&self) -> Arc<Master> {
        Master::over(self.devices.clone(), self.options.clone())
    }

    fn over(devices: Arc<Devices>, options: MasterOptions) -> Arc<Master> {
        Arc::new(Master {
            watch: Watch::new(options.stall),
            devices,
            options,
            placed: Mutex::new(None),
            // Steps of different sessions must not have the same numbers anywhere in the cluster.
            steps: AtomicU64::new(u64::from(random_u32()) << 32),
        })
    }

    pub(crate) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Where the nodes of a graph are; those that were placed before stay.
    ///
    /// # Errors
    /// As [`place`].
    pub(crate) fn placement(&self, graph: &Graph) -> Result<Placement> {
        let mut placed = self.placed.lock();
        let version = graph.version();
        if let Some((v, p)) = &*placed
            && *v == version
            && p.len() == graph.len()
        {
            return Ok(p.clone());
        }
        let before = placed.as_ref().map(|(_, p)| p);
        let now = place(graph, self.devices.infos(), before, &self.options.place)?;
        *placed = Some((version, now.clone()));
        Ok(now)
    }

    /// Compiles what one set of feeds, fetches and targets needs.
    ///
    /// # Errors
    /// What placing, a pass, dividing or a kernel factory returns, with the node's name; `UNAVAILABLE` listing the tasks
    /// that are needed and do not answer.
    pub(crate) fn plan(&self, graph: &Graph, wanted: &Key) -> Result<DistPlan> {
        let placement = self.placement(graph)?;
        let (feeds, fetches, targets) = (&wanted.feeds, &wanted.fetches, &wanted.targets);
        let mut ir = Ir::reduce_placed(graph, feeds, fetches, targets, |n| placement.device_of(n))?;
        passes::alias::run(&mut ir)?;
        let (feeds, fetches) = (ir.feeds, ir.fetches.len());
        let divided = partition::divide(ir, self.devices.sites(), self.options.divide)?;
        let names: Arc<[String]> = divided.crossings.iter().map(|c| self.edge_name(c)).collect();
        let nodes = divided.parts.iter().map(|p| p.ir.nodes.iter().flatten().count()).sum();
        let mut by_process: Vec<Vec<Part>> = Vec::new();
        by_process.resize_with(self.devices.processes().len(), Vec::new);
        for part in divided.parts {
            by_process[self.devices.sites()[part.device].process].push(part);
        }
        let needed: Vec<usize> = (0..by_process.len()).filter(|p| !by_process[*p].is_empty()).collect();
        self.reach(&needed)?;
        let gives = needed.iter().filter_map(|p| {
            let link = self.devices.processes()[*p].link()?;
            Some((link.task.clone(), self.gives(*p, &by_process[*p], &divided.crossings)))
        });
        let (gives, mut shares): (Gives, Vec<Share>) = (gives.collect(), Vec::new());
        for (process, parts) in by_process.into_iter().enumerate() {
            if !parts.is_empty() {
                shares.push(self.share(process, parts, &divided.crossings, &names, &gives)?);
            }
        }
        Ok(DistPlan {
            shares,
            passed: divided.passed,
            feeds,
            fetches,
            nodes,
        })
    }

    fn edge_name(&self, c: &Crossing) -> String {
        let sites = self.devices.sites();
        format!("{} from {} to {}", c.tensor, sites[c.from].name, sites[c.to].name)
    }

    /// Connects to the tasks that a plan needs.
    fn reach(&self, processes: &[usize]) -> Result<()> {
        let links = processes.iter().filter_map(|p| self.devices.processes()[*p].link());
        let missing: Vec<Arc<Link>> = links.filter(|l| l.live().is_none()).collect();
        let (tx, rx) = std::sync::mpsc::channel();
        let mut until = Instant::now();
        for link in &missing {
            let deadline = Instant::now() + link.patience;
            until = until.max(deadline);
            let tx = tx.clone();
            // Whoever waits below may have given up.
            link.with_peer(deadline, Box::new(move |peer| drop(tx.send(peer.err()))));
        }
        drop(tx);
        let mut failed: Vec<Error> = Vec::new();
        for _ in &missing {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
            match rx.recv_timeout(left) {
                Ok(answer) => failed.extend(answer),
                Err(_) => failed.push(Error::unavailable("a task does not answer")),
            }
        }
        match &failed[..] {
            [] => Ok(()),
            [one] => Err(one.clone()),
            several => {
                let all: Vec<&str> = several.iter().map(Error::message).collect();
                Err(Error::unavailable(format!(
                    "{} tasks that the run needs cannot be reached: {}",
                    several.len(),
                    all.join("; ")
                )))
            }
        }
    }

    fn share(
        &self,
        process: usize,
        parts: Vec<Part>,
        crossings: &[Crossing],
        names: &Arc<[String]>,
        gives: &Gives,
    ) -> Result<Share> {
        let (mut feeds, mut fetches) = (Vec::new(), Vec::new());
        let number = |list: &mut Vec<usize>, wanted: &[usize]| -> Vec<usize> {
            let place = |w: &usize| {
                list.iter().position(|k| k == w).unwrap_or_else(|| {
                    list.push(*w);
                    list.len() - 1
                })
            };
            wanted.iter().map(place).collect()
        };
        let parts: Vec<(Part, Vec<usize>, Vec<usize>)> = parts
            .into_iter()
            .map(|p| {
                let (f, g) = (number(&mut feeds, &p.feeds), number(&mut fetches, &p.fetches));
                (p, f, g)
            })
            .collect();
        let (work, taker): (Work, Arc<dyn Taker>) = match &self.devices.processes()[process] {
            Process::Here(host) => {
                let share = self.share_here(host, process, parts, crossings, names, (feeds.len(), fetches.len()))?;
                (Work::Here(host.clone(), share), Arc::new(Local(host.clone())))
            }
            Process::There(link) => {
                let sizes = (feeds.len(), fetches.len());
                let share = self.share_there(link, process, &parts, (crossings, names, gives), sizes)?;
                (Work::There(share.clone()), share)
            }
        };
        Ok(Share {
            feeds,
            fetches,
            work,
            taker,
        })
    }

    fn share_here(
        &self,
        host: &Arc<Host>,
        process: usize,
        parts: Vec<(Part, Vec<usize>, Vec<usize>)>,
        crossings: &[Crossing],
        names: &Arc<[String]>,
        (feeds, fetches): (usize, usize),
    ) -> Result<Arc<SharePlan>> {
        let mut devices = Vec::new();
        for (mut part, feeds, fetches) in parts {
            let resources = host.resources();
            passes::optimize(&mut part.ir, self.options.passes, resources)?;
            devices.push(DevicePlan {
                device: self.devices.number_in_process(part.device),
                plan: Plan::new(part.ir.into_spec(resources)?)?,
                feeds,
                fetches,
            });
        }
        let mut peers = Vec::new();
        let routes = crossings
            .iter()
            .map(|c| {
                let (from, to) = self.ends(c);
                if from == process && to == process {
                    return Some(Route::Here);
                }
                let other = match (from == process, to == process) {
                    (true, false) => self.devices.processes()[to].link()?,
                    (false, true) => self.devices.processes()[from].link()?,
                    _ => return None,
                };
                let name = other.task.to_string();
                if !peers.contains(&name) {
                    peers.push(name.clone());
                }
                Some(if from == process {
                    let outlet: Arc<dyn Outlet> = other;
                    Route::Away(outlet)
                } else {
                    Route::From(name.into())
                })
            })
            .collect();
        Ok(Arc::new(SharePlan {
            devices,
            routes,
            feeds,
            fetches,
            edge_names: names.clone(),
            peers,
        }))
    }

    fn share_there(
        &self,
        link: &Arc<Link>,
        process: usize,
        parts: &[(Part, Vec<usize>, Vec<usize>)],
        (crossings, names, gives): (&[Crossing], &Arc<[String]>, &Gives),
        (feeds, fetches): (usize, usize),
    ) -> Result<Arc<RemoteShare>> {
        let mut tasks: Vec<WireTask> = Vec::new();
        let mut routes = Vec::with_capacity(crossings.len());
        for c in crossings {
            let (from, to) = self.ends(c);
            let (kind, other) = match (from == process, to == process) {
                (true, true) => (HERE, None),
                (true, false) => (AWAY, Some(to)),
                (false, true) => (FROM, Some(from)),
                (false, false) => (ELSEWHERE, None),
            };
            let task = match other {
                None => 0,
                Some(other) => {
                    let wire = self.devices.wire_task(other)?;
                    tasks.iter().position(|t| *t == wire).unwrap_or_else(|| {
                        tasks.push(wire);
                        tasks.len() - 1
                    })
                }
            };
            routes.push(WireRoute {
                kind,
                task: task as u32,
            });
        }
        let parts = parts
            .iter()
            .map(|(p, f, g)| ship::part_to_wire(p, self.devices.number_in_process(p.device), f, g))
            .collect::<Result<_>>()?;
        let wire = WireShare {
            parts,
            routes,
            edge_names: names.to_vec(),
            tasks,
            feeds: feeds as u32,
            fetches: fetches as u32,
            passes: ship::pass_names(self.options.passes),
        };
        Ok(RemoteShare::new(link.clone(), ship::to_bytes(&wire)?, gives.clone()))
    }

    /// What others get of a process, a few things: fetched tensors, edges, and what is done there for its own sake.
    fn gives(&self, process: usize, parts: &[Part], crossings: &[Crossing]) -> String {
        const MOST: usize = 4;
        let fetched = parts.iter().flat_map(|p| {
            p.ir.fetches.iter().filter_map(|f| match f {
                Source::Node { node, output } => Some(format!("{}:{output}", p.ir.node(*node)?.name)),
                Source::Feed(_) => None,
            })
        });
        let edges = crossings.iter().filter(|c| {
            let (from, to) = self.ends(c);
            from == process && to != process
        });
        let targets = parts.iter().flat_map(|p| {
            let nodes = p.ir.nodes.iter().flatten();
            nodes
                .filter(|n| n.target && n.def.name() != "_Send")
                .map(|n| n.name.to_string())
        });
        let edges = edges.map(|c| self.edge_name(c));
        let all: Vec<String> = fetched.chain(edges).chain(targets).take(MOST).collect();
        all.join(", ")
    }

    fn ends(&self, c: &Crossing) -> (usize, usize) {
        let sites = self.devices.sites();
        (sites[c.from].process, sites[c.to].process)
    }

    fn begin(
        &self,
        plan: &DistPlan,
        feeds: &[Tensor],
        cancel: Option<&CancelToken>,
        then: Option<Then>,
    ) -> Result<Arc<DistRun>> {
        if let Some(c) = cancel {
            c.check()?;
        }
        if feeds.len() != plan.feeds {
            return Err(Error::invalid(format!(
                "the run needs {} feeds, got {}",
                plan.feeds,
                feeds.len()
            )));
        }
        let takers = plan.shares.iter().map(|s| s.taker.clone()).collect();
        let given = plan.passed.iter().map(|(fetch, feed)| (*fetch, feeds[*feed].clone()));
        Ok(DistRun::new(
            self.steps.fetch_add(1, Relaxed),
            takers,
            plan.fetches,
            given,
            then,
        ))
    }

    fn start_remote(
        plan: &Arc<DistPlan>,
        run: &Arc<DistRun>,
        feeds: &[Tensor],
        deadline: Option<Instant>,
        trace: Option<&Arc<Tracer>>,
    ) {
        for (i, share) in plan.shares.iter().enumerate() {
            if let Work::There(remote) = &share.work {
                let (of, to) = (plan.clone(), run.clone());
                let then = move |result| to.done(i, &of.shares[i].fetches, result);
                let given = Asked {
                    step: run.step,
                    feeds: share.given(feeds),
                    deadline,
                    trace: trace.cloned(),
                };
                remote.run(given, Box::new(then));
            }
        }
    }

    /// Runs a plan and waits for it; the share of this process on the calling thread, as far as possible.
    ///
    /// # Errors
    /// The step's first error.
    pub(crate) fn run(&self, plan: &Arc<DistPlan>, feeds: Vec<Tensor>, how: How<'_>) -> Result<Vec<Tensor>> {
        let run = self.begin(plan, &feeds, how.cancel, None)?;
        if plan.shares.is_empty() {
            return run.wait(None);
        }
        let waiting = match how.deadline {
            Some(_) => Waiting::Callers,
            None => Waiting::Undeclared,
        };
        self.watch.over(&run, waiting)?;
        let _cancelled = how.cancel.map(|c| run.fails_with(c));
        let tracer = how.trace.is_some().then(Tracer::new);
        Self::start_remote(plan, &run, &feeds, how.deadline, tracer.as_ref());
        for (i, share) in plan.shares.iter().enumerate() {
            if let Work::Here(host, work) = &share.work {
                let options = run.options(how.deadline, tracer.clone());
                let result = host.run_here(work, &share.given(&feeds), options);
                run.done(i, &share.fetches, result);
            }
        }
        let result = run.wait(how.deadline);
        if let (Some(out), Some(tracer)) = (how.trace, &tracer) {
            *out = tracer.take();
            if result.is_ok() {
                self.learn(out);
            }
        }
        if let Err(e) = &result {
            events::step_failed(run.step, "this session", e);
        }
        result
    }

    /// Takes what a run has cost into account where nodes are placed by costs.
    pub(crate) fn learn(&self, trace: &Trace) {
        if let Some(costs) = &self.options.place.costs {
            costs.record_trace(trace);
        }
    }

    /// Starts a plan; `then` is told what comes of it, on any thread.
    ///
    /// # Errors
    /// What is wrong before it starts; `then` is not called then.
    pub(crate) fn launch(
        self: &Arc<Self>,
        plan: &Arc<DistPlan>,
        feeds: &[Tensor],
        deadline: Option<Instant>,
        cancel: Option<&CancelToken>,
        trace: Option<&Arc<Tracer>>,
        then: Then,
    ) -> Result<Arc<DistRun>> {
        // What must live until the end of the run ends with it.
        let kept = Arc::new(Mutex::new(None));
        let of_end = kept.clone();
        let ended: Then = Box::new(move |result| {
            drop(of_end.lock().take());
            then(result);
        });
        let run = self.begin(plan, feeds, cancel, Some(ended))?;
        self.watch
            .over(&run, deadline.map_or(Waiting::Callers, Waiting::Until))?;
        let cancelled = cancel.map(|c| run.fails_with(c));
        *kept.lock() = Some((cancelled, run.clone()));
        Self::start_remote(plan, &run, feeds, deadline, trace);
        for (i, share) in plan.shares.iter().enumerate() {
            if let Work::Here(host, work) = &share.work {
                let (of, to) = (plan.clone(), run.clone());
                let done = move |result| to.done(i, &of.shares[i].fetches, result);
                let options = run.options(deadline, trace.cloned());
                host.run_apart(work, &share.given(feeds), &options, Pace::Spawn, Box::new(done));
            }
        }
        if plan.shares.is_empty() {
            run.finish_empty();
        }
        Ok(run)
    }
}

impl Share {
    /// Of a run's feeds those that it takes.
    fn given(&self, feeds: &[Tensor]) -> Vec<Tensor> {
        self.feeds.iter().map(|k| feeds[*k].clone()).collect()
    }
}

/// A number that nobody else has, most likely.
fn random_u32() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() as u32
}
