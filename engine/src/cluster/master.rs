//! The coordinator of a session whose nodes are on several devices: places, divides, registers, runs.
//!
//! It lives where the session is. What a plan asks of a task is registered there once and has a number from then on; a
//! step is one message to each task with its feeds, and one back with what it fetched. Everything else that crosses is
//! pushed from task to task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use actorflow_actors::exec::{Pace, Plan, Trace};
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::{NodeId, OutputRef};
use actorflow_core::{Graph, Tensor};
use parking_lot::Mutex;

use super::host::{DevicePlan, Host, SharePlan, ShareOptions};
use super::run::{DistRun, Watch};
use super::table::{Route, Routes};
use crate::partition::{self, Crossing, DivideOptions, Part, Site};
use crate::passes::ir::Ir;
use crate::passes::{self, Passes};

/// The share of a plan that one process has.
pub(crate) struct Share {
    /// Which process.
    pub(crate) process: usize,
    /// Which of the run's feeds it takes, in order.
    pub(crate) feeds: Vec<usize>,
    /// Which of the run's fetches it gives, in order.
    pub(crate) fetches: Vec<usize>,
    pub(crate) plan: Arc<SharePlan>,
}

/// A plan over several devices.
pub(crate) struct DistPlan {
    pub(crate) shares: Vec<Share>,
    /// Fetches that are fed: (which fetch, which feed).
    passed: Vec<(usize, usize)>,
    feeds: usize,
    fetches: usize,
}

/// How a run over several devices is to be done.
#[derive(Default)]
pub(crate) struct DistOptions<'a> {
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: Option<&'a CancelToken>,
    pub(crate) trace: Option<&'a mut Trace>,
}

/// The coordinator of one session.
pub(crate) struct Master {
    host: Arc<Host>,
    sites: Vec<Site>,
    passes: Passes,
    divide: DivideOptions,
    steps: AtomicU64,
    watch: Watch,
}

impl Master {
    /// A coordinator of the devices of this process.
    pub(crate) fn local(host: Arc<Host>, passes: Passes, divide: DivideOptions, watch: Watch) -> Arc<Master> {
        let sites = host
            .executors()
            .iter()
            .map(|e| Site {
                name: e.device().name().into(),
                process: 0,
            })
            .collect();
        Arc::new(Master {
            host,
            sites,
            passes,
            divide,
            // Steps of different sessions must not have the same numbers anywhere in the cluster.
            steps: AtomicU64::new(u64::from(random_u32()) << 32),
            watch,
        })
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Compiles what one set of feeds, fetches and targets needs.
    ///
    /// # Errors
    /// What a pass, dividing or a kernel factory returns, with the node's name.
    pub(crate) fn plan(
        &self,
        graph: &Graph,
        key: (&[OutputRef], &[OutputRef], &[NodeId]),
        device_of: impl Fn(NodeId) -> usize,
    ) -> Result<DistPlan> {
        let mut ir = Ir::reduce_placed(graph, key.0, key.1, key.2, device_of)?;
        passes::alias::run(&mut ir)?;
        let (feeds, fetches) = (ir.feeds, ir.fetches.len());
        let divided = partition::divide(ir, &self.sites, self.divide)?;
        let names: Arc<[String]> = divided.crossings.iter().map(|c| self.edge_name(c)).collect();
        let mut by_process: Vec<Vec<Part>> = Vec::new();
        for part in divided.parts {
            let process = self.sites[part.device].process;
            if by_process.len() <= process {
                by_process.resize_with(process + 1, Vec::new);
            }
            by_process[process].push(part);
        }
        let mut shares = Vec::new();
        for (process, parts) in by_process.into_iter().enumerate() {
            if !parts.is_empty() {
                shares.push(self.share(process, parts, &divided.crossings, &names)?);
            }
        }
        Ok(DistPlan {
            shares,
            passed: divided.passed,
            feeds,
            fetches,
        })
    }

    fn edge_name(&self, c: &Crossing) -> String {
        format!(
            "{} from {} to {}",
            c.tensor, self.sites[c.from].name, self.sites[c.to].name
        )
    }

    fn share(&self, process: usize, parts: Vec<Part>, crossings: &[Crossing], names: &Arc<[String]>) -> Result<Share> {
        let (mut feeds, mut fetches) = (Vec::new(), Vec::new());
        let mut devices = Vec::new();
        for mut part in parts {
            let number = |list: &mut Vec<usize>, wanted: &[usize]| -> Vec<usize> {
                wanted
                    .iter()
                    .map(|w| {
                        list.iter().position(|k| k == w).unwrap_or_else(|| {
                            list.push(*w);
                            list.len() - 1
                        })
                    })
                    .collect()
            };
            let (part_feeds, part_fetches) = (number(&mut feeds, &part.feeds), number(&mut fetches, &part.fetches));
            let resources = self.host.resources();
            passes::optimize(&mut part.ir, self.passes, resources)?;
            devices.push(DevicePlan {
                device: part.device,
                plan: Plan::new(part.ir.into_spec(resources)?)?,
                feeds: part_feeds,
                fetches: part_fetches,
            });
        }
        let routes: Routes = crossings
            .iter()
            .map(|c| {
                let (from, to) = (self.sites[c.from].process, self.sites[c.to].process);
                (from == process && to == process).then_some(Route::Here)
            })
            .collect();
        Ok(Share {
            process,
            plan: Arc::new(SharePlan {
                devices,
                routes,
                feeds: feeds.len(),
                fetches: fetches.len(),
                edge_names: names.clone(),
            }),
            feeds,
            fetches,
        })
    }

    fn next_step(&self) -> u64 {
        self.steps.fetch_add(1, Relaxed)
    }
}

/// A number that nobody else has, most likely.
fn random_u32() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() as u32
}
