//! The compiled form of a plan with control flow.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::Cost;
use actorflow_core::rendezvous::frame_hash;
use parking_lot::Mutex;

use super::super::plan::{
    CLAIMS, DEREF, MEASURED, NO_NODE, NodeInfo, NodeSpec, Plan, PlanNode, PlanSpec, Role, SUSPENDS, Source,
    UNUSED_OUTPUTS, too_large,
};
use super::frames::frames;
use crate::pending::Pending;

/// How a node is fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    Switch,
    /// The kernel says by empty outputs which are dead.
    SwitchN,
    Merge,
    Enter,
    ConstantEnter,
    Exit,
    NextIteration,
    Pass,
    ControlTrigger,
    Send,
    Recv,
}

/// What sending to and firing a node needs; kernel and cost are in the plan's node of the same number.
pub(in crate::exec) struct FlowNode {
    pub(super) kind: Kind,
    pub(in crate::exec) flags: u16,
    /// Input slots; a Merge has two: the live value, and the number of the input that it came from.
    pub(in crate::exec) slots: u16,
    pub(in crate::exec) outputs: u16,
    /// Slot and word numbers are within the frame.
    pub(in crate::exec) first_slot: u32,
    pub(super) word: u32,
    pub(super) first_edge: u32,
    pub(super) edges: u32,
    pub(super) first_control: u32,
    pub(super) controls: u32,
    /// Of an Enter the frame inside; of an Exit which of the frame's exits it is.
    pub(super) arg: u32,
}

/// The value of a Merge's input goes to its one slot.
pub(super) const TO_MERGE: u8 = 1;
/// The Merge wants to know which input it was.
pub(super) const INDEXED: u8 = 2;
/// The last edge of this output takes the tensor by move.
pub(super) const LAST: u8 = 4;

/// A data edge.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlowEdge {
    pub(super) slot: u32,
    pub(super) word: u32,
    /// The receiving node, or [`NO_NODE`] for a fetch.
    pub(super) dst: u32,
    pub(super) out: u16,
    /// Which of a Merge's inputs it is.
    pub(super) input: u16,
    pub(super) flags: u8,
}

/// A control edge.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlowControl {
    pub(super) dst: u32,
    pub(super) word: u32,
    pub(super) to_merge: bool,
}

/// A frame as it is before it runs.
pub(super) struct StaticFrame {
    pub(super) name: String,
    /// The hash of the name, for the tags of its iterations.
    pub(super) hash: u64,
    /// Which of its parent's loops it is.
    pub(super) child: usize,
    /// The number of loops directly inside.
    pub(super) children: usize,
    pub(super) enters: u32,
    pub(super) parallel: usize,
    /// The slots of one iteration.
    pub(super) slots: usize,
    /// The pending words of one iteration.
    pub(super) template: Box<[u32]>,
    /// The Exit nodes.
    pub(super) exits: Vec<u32>,
}

/// What a plan with control flow has in addition to an ordinary one.
pub(in crate::exec) struct Flow {
    pub(in crate::exec) nodes: Box<[FlowNode]>,
    pub(super) edges: Box<[FlowEdge]>,
    pub(super) controls: Box<[FlowControl]>,
    pub(super) feed_edges: Box<[FlowEdge]>,
    /// The edges of feed `i` are `feed_edges[feed_first[i]..feed_first[i + 1]]`.
    pub(super) feed_first: Box<[u32]>,
    pub(super) frames: Box<[StaticFrame]>,
}

impl Flow {
    /// Whether there are loops.
    pub(in crate::exec) fn has_loops(&self) -> bool {
        self.frames.len() > 1
    }
}

fn kind(role: &Role) -> Kind {
    match role {
        Role::Ordinary => Kind::Ordinary,
        Role::Switch => Kind::Switch,
        Role::SwitchN => Kind::SwitchN,
        Role::Merge => Kind::Merge,
        Role::Enter { is_constant: false, .. } => Kind::Enter,
        Role::Enter { is_constant: true, .. } => Kind::ConstantEnter,
        Role::Exit => Kind::Exit,
        Role::NextIteration => Kind::NextIteration,
        Role::LoopCond => Kind::Pass,
        Role::ControlTrigger => Kind::ControlTrigger,
        Role::Send => Kind::Send,
        Role::Recv => Kind::Recv,
    }
}

/// Numbers of inputs and outputs that the executor relies on when it fires a node without its kernel.
fn check_arity(node: &NodeSpec) -> Result<()> {
    let (inputs, outputs) = (node.inputs.len(), node.outputs);
    let fits = match node.role {
        Role::Ordinary | Role::SwitchN | Role::ControlTrigger => true,
        Role::Switch => inputs == 2 && outputs == 2,
        Role::Merge => inputs >= 1 && (1..=2).contains(&outputs),
        Role::Send => inputs == 1 && outputs == 0,
        Role::Recv => inputs == 0 && outputs == 1,
        Role::Enter { .. } | Role::Exit | Role::NextIteration | Role::LoopCond => inputs == 1 && outputs == 1,
    };
    let small = inputs <= usize::from(u16::MAX) && outputs <= usize::from(u16::MAX);
    if fits && small {
        return Ok(());
    }
    Err(node.info.blame(Error::invalid(format!(
        "a {} cannot have {inputs} inputs and {outputs} outputs",
        node.info.op
    ))))
}

/// Where a node is.
#[derive(Default, Clone)]
struct Place {
    number: u32,
    first_slot: u32,
    word: u32,
    indexed: bool,
    /// Of an Enter the frame inside; of an Exit which of the frame's exits it is.
    arg: u32,
}

struct Compiler<'a> {
    spec: &'a PlanSpec,
    places: Vec<Place>,
}

impl Compiler<'_> {
    /// The edge to input `i` of node `to` (both as in the specification).
    fn edge(&self, to: usize, i: usize, out: usize) -> FlowEdge {
        let place = &self.places[to];
        let merge = self.spec.nodes[to].role == Role::Merge;
        let indexed = if place.indexed { INDEXED } else { 0 };
        FlowEdge {
            slot: place.first_slot + if merge { 0 } else { i as u32 },
            word: place.word,
            dst: place.number,
            out: out as u16,
            input: i as u16,
            flags: if merge { TO_MERGE | indexed } else { 0 },
        }
    }
}

/// Sorts edges by output, marks the last of each; how many outputs have one.
fn mark_last(edges: &mut [FlowEdge]) -> usize {
    edges.sort_by_key(|e| e.out);
    let mut outputs = 0;
    for i in 0..edges.len() {
        let last = edges.get(i + 1).is_none_or(|next| next.out != edges[i].out);
        if last {
            edges[i].flags |= LAST;
            outputs += 1;
        }
    }
    outputs
}

/// Compiles a specification that has control flow; `order` is topological.
///
/// # Errors
/// As [`Plan::new`].
pub(in crate::exec) fn compile(spec: PlanSpec, order: &[usize]) -> Result<Plan> {
    for node in &spec.nodes {
        check_arity(node)?;
    }
    let frames = frames(&spec, order)?;
    let n = spec.nodes.len();
    // Nodes are numbered by frame, and in topological order within it, so that an iteration walks its slab forward.
    let mut order = order.to_vec();
    order.sort_by_key(|i| frames.of[*i]);

    let mut indexed = vec![false; n];
    let sources = spec.nodes.iter().flat_map(|n| n.inputs.iter().map(|i| i.source));
    for s in sources.chain(spec.fetches.iter().copied()) {
        if let Source::Node { node, output } = s {
            let outputs = spec.nodes.get(node).map_or(0, |f| f.outputs);
            if output >= outputs {
                return Err(Error::internal("an edge comes from an output that is not there"));
            }
            indexed[node] |= output == 1;
        }
    }

    let mut statics: Vec<StaticFrame> = frames
        .list
        .iter()
        .map(|f| StaticFrame {
            name: f.name.clone(),
            hash: frame_hash(&f.name),
            child: f.child,
            children: f.children,
            enters: f.enters,
            parallel: f.parallel as usize,
            slots: 0,
            template: Box::default(),
            exits: Vec::new(),
        })
        .collect();
    let mut templates: Vec<Vec<u32>> = vec![Vec::new(); statics.len()];
    let mut places = vec![Place::default(); n];
    for (number, &i) in order.iter().enumerate() {
        let node = &spec.nodes[i];
        let of = frames.of[i];
        let slots = if node.role == Role::Merge { 2 } else { node.inputs.len() };
        let word = match node.role {
            Role::Merge => Pending::merge_template(node.inputs.len(), node.control.len()),
            _ => Pending::template(node.inputs.len() + node.control.len()),
        };
        places[i] = Place {
            number: number as u32,
            first_slot: u32::try_from(statics[of].slots).map_err(|_| too_large())?,
            word: templates[of].len() as u32,
            indexed: node.role == Role::Merge && indexed[i],
            arg: match node.role {
                Role::Enter { .. } => frames.inside[i] as u32,
                Role::Exit => statics[of].exits.len() as u32,
                _ => 0,
            },
        };
        templates[of].push(word.ok_or_else(|| node.info.blame(too_large()))?);
        statics[of].slots += slots;
        if node.role == Role::Exit {
            statics[of].exits.push(number as u32);
        }
    }
    let c = Compiler { spec: &spec, places };

    let mut data: Vec<Vec<FlowEdge>> = vec![Vec::new(); n];
    let mut feeds: Vec<Vec<FlowEdge>> = vec![Vec::new(); spec.feeds];
    let mut controls: Vec<Vec<FlowControl>> = vec![Vec::new(); n];
    let bad_feed = || Error::internal("an edge comes from no feed");
    for &i in &order {
        let node = &spec.nodes[i];
        for (k, input) in node.inputs.iter().enumerate() {
            match input.source {
                Source::Node { node: from, output } => data[from].push(c.edge(i, k, output)),
                Source::Feed(f) => feeds.get_mut(f).ok_or_else(bad_feed)?.push(c.edge(i, k, 0)),
            }
        }
        for from in &node.control {
            controls[*from].push(FlowControl {
                dst: c.places[i].number,
                word: c.places[i].word,
                to_merge: node.role == Role::Merge,
            });
        }
    }
    let mut fetch_slots = Vec::with_capacity(spec.fetches.len());
    for f in &spec.fetches {
        let slot = u32::try_from(statics[0].slots).map_err(|_| too_large())?;
        statics[0].slots += 1;
        fetch_slots.push(slot);
        let edge = |out: usize| FlowEdge {
            slot,
            word: 0,
            dst: NO_NODE,
            out: out as u16,
            input: 0,
            flags: 0,
        };
        match *f {
            Source::Node { node, output } => data[node].push(edge(output)),
            Source::Feed(k) => feeds.get_mut(k).ok_or_else(bad_feed)?.push(edge(0)),
        }
    }
    for (s, t) in statics.iter_mut().zip(templates) {
        s.template = t.into();
    }
    let (mut feed_edges, mut feed_first) = (Vec::new(), vec![0u32]);
    for edges in &mut feeds {
        mark_last(edges);
        feed_edges.append(edges);
        feed_first.push(feed_edges.len() as u32);
    }

    let places = c.places;
    let max_outputs = spec.nodes.iter().map(|s| s.outputs).max().unwrap_or(0);
    let roots: Box<[u32]> = order
        .iter()
        .filter(|i| spec.nodes[**i].inputs.is_empty() && spec.nodes[**i].control.is_empty())
        .map(|i| places[*i].number)
        .collect();
    let mut parts = Parts::default();
    let mut specs: Vec<Option<NodeSpec>> = spec.nodes.into_iter().map(Some).collect();
    for &i in &order {
        let Some(node) = specs[i].take() else {
            return Err(Error::internal("a node was numbered twice"));
        };
        parts.add(node, &places[i], &mut data[i], &controls[i])?;
    }
    let root = &statics[0];
    Ok(Plan {
        nodes: parts.nodes.into(),
        info: parts.info.into(),
        deref: parts.derefs.into(),
        edges: Box::default(),
        controls: Box::default(),
        feed_edges: Box::default(),
        feed_first: feed_first.clone().into(),
        template: root.template.clone(),
        roots,
        slots: root.slots,
        fetch_slots: fetch_slots.into(),
        max_outputs,
        may_wait: parts.may_wait,
        parallel: AtomicBool::new(false),
        heavy: AtomicBool::new(false),
        runs: AtomicU64::new(0),
        free: Mutex::default(),
        flow: Some(Box::new(Flow {
            nodes: parts.flow.into(),
            edges: parts.edges.into(),
            controls: parts.controls.into(),
            feed_edges: feed_edges.into(),
            feed_first: feed_first.into(),
            frames: statics.into(),
        })),
    })
}

#[derive(Default)]
struct Parts {
    nodes: Vec<PlanNode>,
    info: Vec<NodeInfo>,
    derefs: Vec<Vec<u16>>,
    flow: Vec<FlowNode>,
    edges: Vec<FlowEdge>,
    controls: Vec<FlowControl>,
    may_wait: bool,
}

impl Parts {
    fn add(
        &mut self,
        node: NodeSpec,
        place: &Place,
        edges: &mut Vec<FlowEdge>,
        controls: &[FlowControl],
    ) -> Result<()> {
        let used = mark_last(edges);
        let merge = node.role == Role::Merge;
        let mut deref: Vec<u16> = (0u16..)
            .zip(&node.inputs)
            .filter(|(_, i)| i.deref)
            .map(|(i, _)| if merge { 0 } else { i })
            .collect();
        deref.dedup();
        let runs = matches!(node.role, Role::Ordinary | Role::SwitchN | Role::Send | Role::Recv);
        let mut flags = 0;
        let mut flag = |on: bool, f: u16| flags |= if on { f } else { 0 };
        flag(used < node.outputs, UNUSED_OUTPUTS);
        flag(!deref.is_empty(), DEREF);
        flag(runs && node.kernel.needs_claims(), CLAIMS);
        flag(runs && node.kernel.may_suspend(), SUSPENDS);
        flag(runs && node.kernel.cost() == Cost::Measured, MEASURED);
        self.may_wait |= flags & (DEREF | CLAIMS | SUSPENDS) != 0;
        let slots = if merge { 2 } else { node.inputs.len() as u16 };
        self.flow.push(FlowNode {
            kind: kind(&node.role),
            flags,
            slots,
            outputs: node.outputs as u16,
            first_slot: place.first_slot,
            word: place.word,
            first_edge: u32::try_from(self.edges.len()).map_err(|_| too_large())?,
            edges: edges.len() as u32,
            first_control: u32::try_from(self.controls.len()).map_err(|_| too_large())?,
            controls: controls.len() as u32,
            arg: place.arg,
        });
        self.nodes.push(PlanNode {
            kernel: node.kernel,
            first_slot: place.first_slot,
            first_edge: 0,
            first_control: 0,
            inputs: slots,
            outputs: node.outputs as u16,
            edges: 0,
            controls: 0,
            flags,
            cost: AtomicU32::new(0),
        });
        self.edges.append(edges);
        self.controls.extend_from_slice(controls);
        self.info.push(node.info);
        self.derefs.push(deref);
        Ok(())
    }
}
