//! Compiling a plan.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel};
use parking_lot::Mutex;

use super::flow::{self, Flow};
use super::step::Step;
use crate::pending::Pending;

/// Where an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Output `output` of node `node`.
    Node {
        /// The node's number.
        node: usize,
        /// Which output.
        output: usize,
    },
    /// The feed of that number.
    Feed(usize),
}

/// A data input of a node, or a fetch.
#[derive(Debug, Clone, Copy)]
pub struct InputSpec {
    /// Where it comes from.
    pub source: Source,
    /// The source is a reference to a variable, and the node wants the value.
    pub deref: bool,
}

/// What messages say about a node.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// The node's name in the graph.
    pub name: Arc<str>,
    /// The operation.
    pub op: &'static str,
    /// The source line that built it, if known.
    pub location: Option<&'static Location<'static>>,
    /// The nodes of the graph that this one does the work of, if a pass has put several together.
    pub parts: Arc<[NodeInfo]>,
}

impl NodeInfo {
    /// Adds to an error what is known of this node.
    pub fn blame(&self, e: Error) -> Error {
        let e = e.at_node(&self.name, self.op);
        let part = self.parts.iter().find(|p| e.node() == Some(&p.name));
        match part.map_or(self.location, |p| p.location) {
            Some(l) => e.built_at(l),
            None => e,
        }
    }
}

/// How the executor treats a node. All but [`Ordinary`](Role::Ordinary) nodes belong to control flow, and a plan
/// with one of them runs with dead tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Role {
    /// Fires when all inputs have arrived; is dead, and not computed, if one of them is.
    #[default]
    Ordinary,
    /// Two inputs, data and a bool scalar, and two outputs; the one that the bool does not select is dead.
    Switch,
    /// The kernel leaves the outputs empty that are to be dead.
    SwitchN,
    /// Fires when its control inputs have arrived and either one data input is live or all are dead. Outputs: the
    /// live value, and the number of the input.
    Merge,
    /// Brings its input into a loop.
    Enter {
        /// The loop's name; together with the iteration of the outer loop it names the loop's frame.
        frame: Arc<str>,
        /// The value is delivered in every iteration, not in the first one only.
        is_constant: bool,
        /// How many iterations may be in progress at once.
        parallel_iterations: u32,
    },
    /// Takes its input out of its loop; a dead one only when the loop is over.
    Exit,
    /// Brings its input to the next iteration; a dead one stops.
    NextIteration,
    /// Passes its input on.
    LoopCond,
    /// Fires when all inputs have arrived, and is never dead.
    ControlTrigger,
    /// Sends its input to another device; a dead one is sent as such, so that the other side learns of it.
    Send,
    /// Gives what was sent for the iteration that it is in; is dead if that was.
    Recv,
}

/// A node of a plan to be.
pub struct NodeSpec {
    /// For messages.
    pub info: NodeInfo,
    /// The code.
    pub kernel: Arc<dyn Kernel>,
    /// The data inputs.
    pub inputs: Vec<InputSpec>,
    /// The nodes that must finish before.
    pub control: Vec<usize>,
    /// The number of outputs.
    pub outputs: usize,
    /// How the executor treats it.
    pub role: Role,
}

/// A graph, reduced to what one run needs, ready to be compiled.
#[derive(Default)]
pub struct PlanSpec {
    /// The nodes, in any order.
    pub nodes: Vec<NodeSpec>,
    /// How many tensors are fed.
    pub feeds: usize,
    /// What is fetched. None of them may be a reference: put a reading node between.
    pub fetches: Vec<Source>,
}

impl PlanSpec {
    /// Whether a data edge from one node to another closes a loop.
    pub(super) fn is_back_edge(&self, from: usize, to: usize) -> bool {
        let role = |n: usize| self.nodes.get(n).map(|n| &n.role);
        matches!(role(from), Some(Role::NextIteration)) && matches!(role(to), Some(Role::Merge))
    }
}

/// `dst` of an edge into a fetch slot, where no node waits.
pub(super) const NO_NODE: u32 = u32::MAX;

/// A data edge: output `out` goes to `slot`, which belongs to node `dst`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) slot: u32,
    pub(super) dst: u32,
    pub(super) out: u16,
    /// The last edge of this output takes the tensor by move.
    pub(super) last: bool,
}

/// Some output has no edge, so it must be dropped by itself.
pub(super) const UNUSED_OUTPUTS: u16 = 1;
/// Some input is a reference whose value the kernel wants.
pub(super) const DEREF: u16 = 2;
/// The kernel may ask for resource actors' turns.
pub(super) const CLAIMS: u16 = 4;
/// The kernel may suspend.
pub(super) const SUSPENDS: u16 = 8;
/// The cost is worth measuring.
pub(super) const MEASURED: u16 = 16;

/// The kernel does nothing: firing the node is passing its control edges on.
pub(super) const EMPTY: u16 = 32;
/// The only output is written where the last of its edges leads.
pub(super) const DIRECT: u16 = 64;
/// The node needs more than a call of its kernel.
pub(super) const SPECIAL: u16 = DEREF | CLAIMS | SUSPENDS;

pub(super) struct PlanNode {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) first_slot: u32,
    pub(super) first_edge: u32,
    pub(super) first_control: u32,
    pub(super) inputs: u16,
    pub(super) outputs: u16,
    pub(super) edges: u32,
    pub(super) controls: u32,
    pub(super) flags: u16,
    /// Measured cost in nanoseconds, smoothed; above [`EXPENSIVE_NS`] the node is worth another worker.
    pub(super) cost: AtomicU32,
}

/// A hand-over to another worker costs one to two microseconds when that worker is awake, and tens when it
/// sleeps; a node must be well above that to gain from it.
pub(super) const EXPENSIVE_NS: u32 = 20_000;

/// Of this many runs one is measured, after the first few.
const MEASURE_EVERY: u64 = 64;
const MEASURE_FIRST: u64 = 3;

/// A compiled plan. Any number of steps may run it at once.
pub struct Plan {
    pub(super) nodes: Box<[PlanNode]>,
    pub(super) info: Box<[NodeInfo]>,
    /// The inputs that are references to be read: (first slot relative, per node), in CSR order.
    pub(super) deref: Box<[Vec<u16>]>,
    pub(super) edges: Box<[Edge]>,
    pub(super) controls: Box<[u32]>,
    /// The edges of feed `i` are `feed_edges[feed_first[i]..feed_first[i + 1]]`.
    pub(super) feed_edges: Box<[Edge]>,
    pub(super) feed_first: Box<[u32]>,
    pub(super) template: Box<[u32]>,
    pub(super) roots: Box<[u32]>,
    pub(super) slots: usize,
    pub(super) fetch_slots: Box<[u32]>,
    pub(super) max_outputs: usize,
    /// Whether any node may wait outside of a worker.
    pub(super) may_wait: bool,
    /// Whether two nodes are expensive, so that another worker is of use.
    pub(super) parallel: AtomicBool,
    /// Whether any node is expensive.
    pub(super) heavy: AtomicBool,
    pub(super) runs: AtomicU64,
    pub(super) free: Mutex<Vec<Arc<Step>>>,
    /// What a plan with control flow has in addition; its nodes' edges are there.
    pub(super) flow: Option<Box<Flow>>,
}

/// What a plan can do, decided when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanClass {
    /// No control flow: every node runs exactly once.
    Simple,
    /// Conditionals: some nodes may be dead.
    Cond,
    /// Loops: frames and iterations.
    Loop,
}

impl Plan {
    /// Compiles a specification.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming a node of a cycle that is no loop, or both ends of an edge that crosses the border
    /// of a loop; `RESOURCE_EXHAUSTED` for graphs too large to number.
    pub fn new(spec: PlanSpec) -> Result<Arc<Plan>> {
        let n = spec.nodes.len();
        if u32::try_from(n).is_err() || n as u32 == NO_NODE {
            return Err(too_large());
        }
        let order = topological(&spec)?;
        if spec.nodes.iter().any(|n| n.role != Role::Ordinary) {
            return flow::compile(spec, &order).map(Arc::new);
        }
        // Nodes are numbered in topological order, so that a step walks its slab mostly forward.
        let mut number = vec![0u32; n];
        for (new, old) in order.iter().enumerate() {
            number[*old] = new as u32;
        }
        let mut data: Vec<Vec<Edge>> = vec![Vec::new(); n];
        let mut feeds: Vec<Vec<Edge>> = vec![Vec::new(); spec.feeds];
        let mut controls: Vec<Vec<u32>> = vec![Vec::new(); n];
        let mut first_slot = vec![0u32; n];
        let mut slots = 0usize;
        let mut template = vec![0u32; n];
        for (new, &old) in order.iter().enumerate() {
            let node = &spec.nodes[old];
            if node.inputs.len() > usize::from(u16::MAX) || node.outputs > usize::from(u16::MAX) {
                return Err(node.info.blame(too_large()));
            }
            first_slot[new] = u32::try_from(slots).map_err(|_| too_large())?;
            slots += node.inputs.len();
            template[new] = Pending::template(node.inputs.len() + node.control.len())
                .ok_or_else(|| node.info.blame(too_large()))?;
        }
        let mut fed_inputs = vec![0u32; n];
        for (new, &old) in order.iter().enumerate() {
            let node = &spec.nodes[old];
            for (i, input) in node.inputs.iter().enumerate() {
                let slot = first_slot[new] + i as u32;
                let dst = new as u32;
                match input.source {
                    Source::Node { node: from, output } => {
                        let outputs = spec.nodes.get(from).map_or(0, |f| f.outputs);
                        if output >= outputs {
                            return Err(node
                                .info
                                .blame(Error::internal("an edge comes from an output that is not there")));
                        }
                        data[number[from] as usize].push(Edge {
                            slot,
                            dst,
                            out: output as u16,
                            last: false,
                        });
                    }
                    Source::Feed(k) => {
                        let edges = feeds
                            .get_mut(k)
                            .ok_or_else(|| Error::internal("an edge comes from no feed"))?;
                        edges.push(Edge {
                            slot,
                            dst,
                            out: 0,
                            last: false,
                        });
                        fed_inputs[new] += 1;
                    }
                }
            }
            for c in &node.control {
                controls[number[*c] as usize].push(new as u32);
            }
        }
        let mut fetch_slots = Vec::with_capacity(spec.fetches.len());
        for f in &spec.fetches {
            let slot = u32::try_from(slots).map_err(|_| too_large())?;
            slots += 1;
            fetch_slots.push(slot);
            match *f {
                Source::Node { node, output } => {
                    data[number[node] as usize].push(Edge {
                        slot,
                        dst: NO_NODE,
                        out: output as u16,
                        last: false,
                    });
                }
                Source::Feed(k) => feeds
                    .get_mut(k)
                    .ok_or_else(|| Error::internal("a fetch comes from no feed"))?
                    .push(Edge {
                        slot,
                        dst: NO_NODE,
                        out: 0,
                        last: false,
                    }),
            }
        }
        let mut plan = Plan {
            nodes: Box::default(),
            info: Box::default(),
            deref: Box::default(),
            edges: Box::default(),
            controls: Box::default(),
            feed_edges: Box::default(),
            feed_first: Box::default(),
            roots: (0..n as u32).filter(|i| template[*i as usize] == 0).collect(),
            template: template.into(),
            slots,
            fetch_slots: fetch_slots.into(),
            max_outputs: spec.nodes.iter().map(|s| s.outputs).max().unwrap_or(0),
            may_wait: false,
            parallel: AtomicBool::new(false),
            heavy: AtomicBool::new(false),
            runs: AtomicU64::new(0),
            free: Mutex::default(),
            flow: None,
        };
        let mut flat_feeds = Vec::new();
        let mut feed_first = vec![0u32];
        for edges in &mut feeds {
            mark_last(edges);
            flat_feeds.append(edges);
            feed_first.push(flat_feeds.len() as u32);
        }
        plan.feed_edges = flat_feeds.into();
        plan.feed_first = feed_first.into();
        plan.link(spec, &order, &first_slot, data, controls)?;
        Ok(Arc::new(plan))
    }

    fn link(
        &mut self,
        spec: PlanSpec,
        order: &[usize],
        first_slot: &[u32],
        mut data: Vec<Vec<Edge>>,
        controls: Vec<Vec<u32>>,
    ) -> Result<()> {
        let (mut edges, mut all_controls) = (Vec::new(), Vec::new());
        let (mut nodes, mut info, mut derefs) = (Vec::new(), Vec::new(), Vec::new());
        let mut specs: Vec<Option<NodeSpec>> = spec.nodes.into_iter().map(Some).collect();
        for (new, old) in order.iter().enumerate() {
            let Some(node) = specs[*old].take() else {
                return Err(Error::internal("a node was numbered twice"));
            };
            let out = &mut data[new];
            let used = mark_last(out);
            let deref: Vec<u16> = node
                .inputs
                .iter()
                .enumerate()
                .filter(|(_, i)| i.deref)
                .map(|(i, _)| i as u16)
                .collect();
            let mut flags = 0;
            let mut flag = |on: bool, f: u16| flags |= if on { f } else { 0 };
            flag(used < node.outputs, UNUSED_OUTPUTS);
            flag(!deref.is_empty(), DEREF);
            flag(node.kernel.needs_claims(), CLAIMS);
            flag(node.kernel.may_suspend(), SUSPENDS);
            flag(node.kernel.cost() == Cost::Measured, MEASURED);
            let edgeless = node.inputs.is_empty() && node.outputs == 0;
            flag(node.kernel.is_empty() && edgeless, EMPTY);
            flag(node.outputs == 1 && used == 1, DIRECT);
            self.may_wait |= flags & (DEREF | CLAIMS | SUSPENDS) != 0;
            let first_edge = u32::try_from(edges.len()).map_err(|_| Error::exhausted("too many edges"))?;
            nodes.push(PlanNode {
                kernel: node.kernel,
                first_slot: first_slot[new],
                first_edge,
                first_control: all_controls.len() as u32,
                inputs: node.inputs.len() as u16,
                outputs: node.outputs as u16,
                edges: out.len() as u32,
                controls: controls[new].len() as u32,
                flags,
                cost: AtomicU32::new(0),
            });
            edges.append(out);
            all_controls.extend_from_slice(&controls[new]);
            info.push(node.info);
            derefs.push(deref);
        }
        self.nodes = nodes.into();
        self.info = info.into();
        self.deref = derefs.into();
        self.edges = edges.into();
        self.controls = all_controls.into();
        Ok(())
    }

    /// What the plan can do.
    pub fn class(&self) -> PlanClass {
        match &self.flow {
            None => PlanClass::Simple,
            Some(f) if f.has_loops() => PlanClass::Loop,
            Some(_) => PlanClass::Cond,
        }
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing is to be run.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What messages say about each node, in the order of their numbers.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.info
    }

    /// How many tensors a run must be given.
    pub fn num_feeds(&self) -> usize {
        self.feed_first.len() - 1
    }

    /// How many tensors a run gives back.
    pub fn num_fetches(&self) -> usize {
        self.fetch_slots.len()
    }

    /// The measured cost of each node so far, in nanoseconds, by name; 0 for nodes that were never measured.
    pub fn costs(&self) -> Vec<(Arc<str>, u32)> {
        self.nodes
            .iter()
            .zip(&self.info)
            .map(|(n, i)| (i.name.clone(), n.cost.load(Relaxed)))
            .collect()
    }

    /// Whether this run should measure its nodes.
    #[inline]
    pub(super) fn measure_this_run(&self) -> bool {
        // Relaxed, and a lost count does not matter: this is a sample.
        let n = self.runs.load(Relaxed);
        self.runs.store(n + 1, Relaxed);
        n < MEASURE_FIRST || n.is_multiple_of(MEASURE_EVERY)
    }

    /// Whether some node is expensive enough to use the device's other workers.
    pub(super) fn is_heavy(&self) -> bool {
        self.heavy.load(Relaxed)
    }

    /// Decides anew whether more than one worker is of use, after a measured run.
    pub(super) fn reconsider(&self) {
        let expensive = self
            .nodes
            .iter()
            .filter(|n| n.cost.load(Relaxed) >= EXPENSIVE_NS)
            .take(2)
            .count();
        // The iterations of a loop overlap, so that one expensive node in it is two.
        let enough = if self.class() == PlanClass::Loop { 1 } else { 2 };
        self.parallel.store(expensive >= enough, Relaxed);
        self.heavy.store(expensive >= 1, Relaxed);
    }
}

/// Sorts edges by output, marks the last of each; how many outputs have one.
fn mark_last(edges: &mut [Edge]) -> usize {
    edges.sort_by_key(|e| e.out);
    let mut outputs = 0;
    for i in 0..edges.len() {
        let last = edges.get(i + 1).is_none_or(|next| next.out != edges[i].out);
        edges[i].last = last;
        outputs += usize::from(last);
    }
    outputs
}

pub(super) fn too_large() -> Error {
    Error::exhausted("the graph has too many nodes or edges for one plan")
}

/// The nodes, each behind those it depends on; the back edges of loops do not count.
fn topological(spec: &PlanSpec) -> Result<Vec<usize>> {
    let n = spec.nodes.len();
    let mut waiting = vec![0usize; n];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (i, node) in spec.nodes.iter().enumerate() {
        let from_nodes = node.inputs.iter().filter_map(|s| match s.source {
            Source::Node { node: from, .. } => Some(from).filter(|from| !spec.is_back_edge(*from, i)),
            Source::Feed(_) => None,
        });
        for from in from_nodes.chain(node.control.iter().copied()) {
            users
                .get_mut(from)
                .ok_or_else(|| {
                    node.info
                        .blame(Error::internal("an edge comes from a node that is not there"))
                })?
                .push(i);
            waiting[i] += 1;
        }
    }
    // Depth first, as the executor will run it.
    let mut order = Vec::with_capacity(n);
    let mut ready: Vec<usize> = (0..n).rev().filter(|i| waiting[*i] == 0).collect();
    while let Some(i) = ready.pop() {
        order.push(i);
        for &u in users[i].iter().rev() {
            waiting[u] -= 1;
            if waiting[u] == 0 {
                ready.push(u);
            }
        }
    }
    if order.len() < n {
        let stuck = (0..n).find(|i| waiting[*i] > 0).unwrap_or(0);
        return Err(spec.nodes[stuck]
            .info
            .blame(Error::invalid("the graph has a cycle that is no loop through here")));
    }
    Ok(order)
}
