//! Placement: which device each node of a graph runs on.
//!
//! In the order of their precedence, a node's device follows from
//!
//! 1. where it was placed before, when a graph grows between runs;
//! 2. what it asks for ([`Graph::device_scope`], [`Graph::device_function`], `OpBuilder::device`), possibly in part;
//! 3. what it has to be with: nodes that it is colocated with, and those that it takes references or handles from;
//! 4. where its neighbours are, for nodes without inputs of their own and for those that only pass on or look at theirs;
//! 5. the default device, or the cost model: a greedy simulation of a run, as in section 3.2.1 of the TensorFlow white
//!    paper.

#![forbid(unsafe_code)]

mod choose;
mod cost;
mod demands;
mod estimate;
mod groups;
mod lossy;
mod replica;
mod simulate;
#[cfg(test)]
mod tests;

pub use actorflow_core::device_name::{DeviceName, TaskName};
pub use actorflow_core::graph::NodeSummary;
pub use cost::{CostModel, Link};
pub use lossy::{lossless, lossy};
pub use replica::{PsStrategy, parameter_devices, replica_device_setter};

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use actorflow_core::graph::NodeId;
use actorflow_core::op::OpDef;
use actorflow_core::{Error, Graph, Result};

use demands::{Demands, Solver};
use groups::Groups;

/// A device that nodes can be placed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The full name.
    pub name: DeviceName,
    /// The budget for tensors in bytes; 0 if it is not known. [`Free::CostModel`] puts no more bytes of variables there.
    pub memory: usize,
    /// How many threads run its kernels.
    pub threads: usize,
    /// Tells the device of one process from that of the process started in its place.
    pub incarnation: u64,
}

/// How devices are chosen for nodes that nothing ties to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Free {
    /// The default device, or the first one that is allowed.
    #[default]
    Default,
    /// The one where the node is done first, by simulating the run with [`PlaceOptions::costs`].
    CostModel,
    /// Any one, at random by this seed; for tests of what runs on several devices.
    Scatter(u64),
}

/// How a graph is placed.
#[derive(Debug, Clone, Default)]
pub struct PlaceOptions {
    /// The number of the device for nodes that can be anywhere.
    pub default_device: usize,
    /// Move nodes that ask for what there is not to the nearest device, instead of failing.
    pub soft: bool,
    /// How devices are chosen where there is a choice.
    pub free: Free,
    /// What computing and sending costs, for [`Free::CostModel`]; the static estimates if it is not given.
    pub costs: Option<Arc<CostModel>>,
}

/// A node that is not where it asked to be; displayed, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: Arc<str>,
    /// The device that it asked for, possibly in part.
    pub asked: DeviceName,
    /// The device that it is on.
    pub got: DeviceName,
    /// Why.
    pub why: String,
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Move { name, got, why, .. } = self;
        if self.asked.is_any() {
            write!(f, "node {name:?} was placed on {got}: {why}")
        } else {
            write!(
                f,
                "node {name:?} asked for {} and was placed on {got}: {why}",
                self.asked
            )
        }
    }
}

/// The device of every node of a graph, as it was when it was placed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    device_of: Vec<usize>,
    /// For nodes that the graph did not have yet.
    default_device: usize,
    moves: Vec<Move>,
}

impl Placement {
    /// The number of the node's device; the default device of a node that was added later.
    pub fn device_of(&self, node: NodeId) -> usize {
        self.get(node).unwrap_or(self.default_device)
    }

    /// The number of the node's device, if the graph had the node when it was placed.
    pub fn get(&self, node: NodeId) -> Option<usize> {
        self.device_of.get(node.index()).copied()
    }

    /// How many nodes were placed.
    pub fn len(&self) -> usize {
        self.device_of.len()
    }

    /// Whether there were no nodes.
    pub fn is_empty(&self) -> bool {
        self.device_of.is_empty()
    }

    /// The nodes that soft placement put elsewhere than they asked for, those of earlier placements first.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }
}

/// Whether devices of a kind have a kernel for an operation.
pub fn supports(_op: &OpDef, kind: &str) -> bool {
    kind == "CPU"
}

/// Places the nodes of a graph on `devices`. Nodes that `before` (a placement of the graph when it was smaller, on the
/// same devices) has placed stay where they are, and what is colocated with them follows. The answer depends on the
/// arguments only.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no device, a device's name is not full or is there twice, or the options or `before`
/// do not fit; `RESOURCE_EXHAUSTED` naming a variable and the devices, if [`Free::CostModel`] finds none that has the
/// [memory](DeviceInfo::memory) for it; and, naming the nodes and what they ask for, if nodes ask for a device that there is not, or nodes that
/// have to be together for different ones. [`PlaceOptions::soft`] makes moves of these, except where nodes were placed
/// on different devices earlier or no device has all of the kernels.
///
/// ```
/// use actorflow::Graph;
/// use actorflow::placement::{DeviceInfo, PlaceOptions, place};
///
/// # fn main() -> actorflow::Result<()> {
/// let g = Graph::new();
/// let _cpu1 = g.device_scope("/cpu:1");
/// let x = g.constant(1.0f32)?;
/// let device = |i: u64| -> actorflow::Result<DeviceInfo> {
///     let name = format!("/job:localhost/task:0/cpu:{i}").parse()?;
///     Ok(DeviceInfo { name, memory: 0, threads: 1, incarnation: 1 })
/// };
/// let placement = place(&g, &[device(0)?, device(1)?], None, &PlaceOptions::default())?;
/// assert_eq!(placement.device_of(x.op().id()), 1);
/// # Ok(())
/// # }
/// ```
pub fn place(
    graph: &Graph,
    devices: &[DeviceInfo],
    before: Option<&Placement>,
    options: &PlaceOptions,
) -> Result<Placement> {
    let nodes = graph.nodes();
    check_devices(devices, options)?;
    let pinned = before.map_or(&[][..], |b| &b.device_of);
    if pinned.len() > nodes.len() || pinned.iter().any(|d| *d >= devices.len()) {
        return Err(Error::invalid(
            "the earlier placement is of another graph or of other devices: it has nodes or devices that are not here",
        ));
    }
    let several_tasks = devices.windows(2).any(|w| w[0].name.task() != w[1].name.task());
    let groups = Groups::of(&nodes, several_tasks);
    let demands = Demands::of(&nodes, devices)?;
    let solver = Solver {
        nodes: &nodes,
        devices,
        demands: &demands,
        groups: &groups,
        pinned,
    };
    let mut moves = before.map_or_else(Vec::new, |b| b.moves.clone());
    let mut candidates = Vec::with_capacity(groups.len());
    for group in 0..groups.len() {
        candidates.push(match solver.candidates(group) {
            Ok(c) => c,
            Err(conflict) if options.soft => {
                let (device, moved) = solver.nearest(group, &conflict)?;
                moves.extend(moved);
                [device].into()
            }
            Err(conflict) => return Err(solver.error(&conflict, false)),
        });
    }
    let chooser = choose::Chooser::new(&nodes, devices, &groups, &candidates, options);
    let of_group = chooser.choose()?;
    Ok(Placement {
        device_of: (0..nodes.len()).map(|n| of_group[groups.of_node(n)]).collect(),
        default_device: options.default_device,
        moves,
    })
}

/// How long a run of all nodes takes where they are placed, in nanoseconds, by the simulation that [`Free::CostModel`] places by.
///
/// # Errors
/// `INVALID_ARGUMENT` if the placement is on other devices.
pub fn estimated_ns(graph: &Graph, devices: &[DeviceInfo], placement: &Placement, costs: &CostModel) -> Result<u64> {
    let nodes = graph.nodes();
    let several_tasks = devices.windows(2).any(|w| w[0].name.task() != w[1].name.task());
    let groups = Groups::of(&nodes, several_tasks);
    let mut simulation = simulate::Simulation::new(&nodes, devices, &groups, costs);
    for n in choose::topological(&nodes) {
        let device = placement.device_of(nodes[n].id());
        if device >= devices.len() {
            return Err(Error::invalid("the placement is on other devices: it has more of them"));
        }
        simulation.run(n, device);
    }
    Ok(simulation.end())
}

fn check_devices(devices: &[DeviceInfo], options: &PlaceOptions) -> Result<()> {
    if options.default_device >= devices.len() {
        return Err(Error::invalid(format!(
            "the default device is number {}, but there are {} devices",
            options.default_device,
            devices.len()
        )));
    }
    let mut names = HashSet::new();
    for d in devices {
        if !d.name.is_full() {
            return Err(Error::invalid(format!(
                "the device name \"{}\" is not full; it needs job, task, kind and index, like \
                 \"/job:localhost/task:0/device:CPU:0\"",
                d.name
            )));
        }
        // A replica that is left out is replica 0.
        let name = DeviceName {
            replica: Some(d.name.replica.unwrap_or(0)),
            ..d.name.clone()
        };
        if !names.insert(name) {
            return Err(Error::invalid(format!("there are two devices \"{}\"", d.name)));
        }
    }
    Ok(())
}
