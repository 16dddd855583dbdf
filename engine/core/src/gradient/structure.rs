//! The loops and conditionals of a graph, recovered from its nodes.
//!
//! A graph that comes from a file says nothing about loops beyond its nodes. In which loop a node runs follows from
//! the `Enter` and `Exit` nodes before it; under which conditions it runs (its [`Guard`]s) from the `Switch` and
//! `Merge` nodes before it. Both are computed when they are asked for, so the graph may grow meanwhile.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeId, Operation, Output, OutputRef};

/// The number of a loop; 0 is outside of any.
pub(super) type FrameId = usize;

/// A loop of the graph.
#[derive(Debug, Clone)]
pub(super) struct FrameInfo {
    /// The loop around it.
    pub(super) parent: FrameId,
    pub(super) name: String,
    pub(super) parallel: i64,
}

/// A condition under which a node runs: a `Switch` (or `_SwitchN`) sent its data to output `arm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Guard {
    /// What the choice depends on, behind any Identity.
    pub(super) on: OutputRef,
    pub(super) arm: u32,
    /// How many outputs there are to choose from; `0` for a `Switch`, which a bool decides.
    pub(super) arms: u32,
}

/// See the [module](self).
pub(super) struct Structure {
    graph: Graph,
    frames: Vec<FrameInfo>,
    by_name: HashMap<(FrameId, String), FrameId>,
    /// The frame that a node fires in.
    of: HashMap<NodeId, FrameId>,
    guards: HashMap<NodeId, Arc<[Guard]>>,
    /// The LoopCond of each loop that was there when the first was asked for.
    conditions: Option<HashMap<FrameId, NodeId>>,
}

pub(super) fn is_enter(n: &Node) -> bool {
    matches!(n.op_name(), "Enter" | "RefEnter")
}

pub(super) fn is_exit(n: &Node) -> bool {
    matches!(n.op_name(), "Exit" | "RefExit")
}

pub(super) fn is_next(n: &Node) -> bool {
    matches!(n.op_name(), "NextIteration" | "RefNextIteration")
}

pub(super) fn is_merge(n: &Node) -> bool {
    matches!(n.op_name(), "Merge" | "RefMerge")
}

pub(super) fn is_switch(n: &Node) -> bool {
    matches!(n.op_name(), "Switch" | "RefSwitch")
}

/// Whether a value is the same in every iteration of its loop, because it comes from outside.
pub(super) fn is_constant_enter(n: &Node) -> bool {
    is_enter(n) && n.attrs().bool("is_constant").unwrap_or(false)
}

impl Structure {
    pub(super) fn new(graph: &Graph) -> Structure {
        Structure {
            graph: graph.clone(),
            frames: vec![FrameInfo {
                parent: 0,
                name: String::new(),
                parallel: 1,
            }],
            by_name: HashMap::new(),
            of: HashMap::new(),
            guards: HashMap::new(),
            conditions: None,
        }
    }

    pub(super) fn frame(&self, f: FrameId) -> &FrameInfo {
        &self.frames[f]
    }

    /// The frames around `f`, from the outermost one that is inside of `base` to `f` itself; `None` if `f` is not
    /// inside of `base`.
    pub(super) fn path(&self, base: FrameId, f: FrameId) -> Option<Vec<FrameId>> {
        let mut path = Vec::new();
        let mut at = f;
        while at != base {
            if at == 0 {
                return None;
            }
            path.push(at);
            at = self.frames[at].parent;
        }
        path.reverse();
        Some(path)
    }

    /// The node that decides in which frame another one fires: its first input that is no back edge.
    fn decider(&self, n: &Node) -> Result<Option<NodeId>> {
        for r in n.inputs() {
            if !(is_merge(n) && is_next(&*self.graph.node(r.node)?)) {
                return Ok(Some(r.node));
            }
        }
        Ok(n.control_inputs().first().copied())
    }

    /// The frame that the node fires in.
    pub(super) fn fires_in(&mut self, id: NodeId) -> Result<FrameId> {
        let mut chain = Vec::new();
        let mut at = id;
        let mut frame = loop {
            if let Some(f) = self.of.get(&at) {
                break *f;
            }
            let node = self.graph.node(at)?;
            match self.decider(&node)? {
                Some(before) if chain.len() <= self.graph.len() => {
                    chain.push((at, before));
                    at = before;
                }
                Some(_) => return Err(node.blame(Error::invalid("the graph has a cycle that is no loop"))),
                None => {
                    self.of.insert(at, 0);
                    break 0;
                }
            }
        };
        while let Some((node, before)) = chain.pop() {
            frame = self.behind(before, frame)?;
            self.of.insert(node, frame);
        }
        Ok(frame)
    }

    /// The frame of the outputs of a node that fires in `frame`.
    fn behind(&mut self, id: NodeId, frame: FrameId) -> Result<FrameId> {
        let node = self.graph.node(id)?;
        if is_exit(&node) {
            if frame == 0 {
                return Err(node.blame(Error::invalid("an Exit outside of any loop")));
            }
            return Ok(self.frames[frame].parent);
        }
        if !is_enter(&node) {
            return Ok(frame);
        }
        let name = node.attrs().str("frame_name")?.to_owned();
        if let Some(f) = self.by_name.get(&(frame, name.clone())) {
            return Ok(*f);
        }
        let f = self.frames.len();
        self.frames.push(FrameInfo {
            parent: frame,
            name: name.clone(),
            parallel: node.attrs().int("parallel_iterations")?,
        });
        self.by_name.insert((frame, name), f);
        Ok(f)
    }

    /// The frame that the node's outputs are in.
    pub(super) fn outputs_in(&mut self, id: NodeId) -> Result<FrameId> {
        let f = self.fires_in(id)?;
        self.behind(id, f)
    }

    /// The output behind any Identity.
    pub(super) fn plain(&self, mut r: OutputRef) -> Result<OutputRef> {
        loop {
            let n = self.graph.node(r.node)?;
            match (n.op_name(), n.inputs().first()) {
                ("Identity", Some(before)) => r = *before,
                _ => return Ok(r),
            }
        }
    }

    /// Whether a Switch is one of a loop, decided by the loop's condition.
    pub(super) fn is_loop_switch(&self, n: &Node) -> Result<bool> {
        if !is_switch(n) {
            return Ok(false);
        }
        let pred = self.plain(n.inputs()[1])?;
        Ok(self.graph.node(pred.node)?.op_name() == "LoopCond")
    }

    /// Whether a Merge is one of a loop, with a back edge.
    pub(super) fn is_loop_merge(&self, n: &Node) -> Result<bool> {
        if !is_merge(n) {
            return Ok(false);
        }
        for r in n.inputs() {
            let from = self.graph.node(r.node)?;
            if is_next(&from) || is_enter(&from) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The conditions under which the node runs, those of its loops excepted.
    pub(super) fn guards(&mut self, id: NodeId) -> Result<Arc<[Guard]>> {
        let mut todo = vec![(id, false)];
        let mut begun: HashSet<NodeId> = HashSet::new();
        while let Some((id, ready)) = todo.pop() {
            if self.guards.contains_key(&id) {
                continue;
            }
            let node = self.graph.node(id)?;
            let sources = self.deciding(&node)?;
            if !ready {
                if !begun.insert(id) {
                    return Err(node.blame(Error::invalid("the graph has a cycle that is no loop")));
                }
                todo.push((id, true));
                for r in &sources {
                    if !self.guards.contains_key(&r.node) {
                        todo.push((r.node, false));
                    }
                }
                continue;
            }
            let mut found: Vec<Guard> = Vec::new();
            let merge = is_merge(&node);
            for (i, r) in sources.iter().enumerate() {
                let from = self.behind_switch(*r)?;
                if merge && i > 0 {
                    found.retain(|g| from.contains(g));
                } else {
                    found.extend(from.iter().filter(|g| !found.contains(g)).copied().collect::<Vec<_>>());
                }
            }
            self.guards.insert(id, found.into());
        }
        Ok(self.guards.get(&id).cloned().unwrap_or_default())
    }

    /// Whose deadness decides whether the node is dead: for a loop's Merge the Enter alone, for others all inputs.
    fn deciding(&self, node: &Node) -> Result<Vec<OutputRef>> {
        let mut sources = Vec::new();
        for r in node.inputs() {
            if !(is_merge(node) && is_next(&*self.graph.node(r.node)?)) {
                sources.push(*r);
            }
        }
        if !is_merge(node) && node.op_name() != "ControlTrigger" {
            sources.extend(node.control_inputs().iter().map(|c| OutputRef {
                node: *c,
                // The deadness of the node itself, not of one of its outputs.
                index: u32::MAX,
            }));
        }
        Ok(sources)
    }

    /// The conditions under which an output is live. The node's own must be known.
    fn behind_switch(&self, r: OutputRef) -> Result<Vec<Guard>> {
        let node = self.graph.node(r.node)?;
        let mut guards = self.guards.get(&r.node).map(|g| g.to_vec()).unwrap_or_default();
        let arms = match node.op_name() {
            "Switch" | "RefSwitch" if !self.is_loop_switch(&node)? => 0,
            "_SwitchN" => node.num_outputs() as u32,
            _ => return Ok(guards),
        };
        if r.index != u32::MAX {
            let guard = Guard {
                on: self.plain(node.inputs()[1])?,
                arm: r.index,
                arms,
            };
            if !guards.contains(&guard) {
                guards.push(guard);
            }
        }
        Ok(guards)
    }

    /// The conditions under which an output is live.
    pub(super) fn output_guards(&mut self, x: &Output) -> Result<Vec<Guard>> {
        self.guards(x.op().id())?;
        self.behind_switch(x.as_ref())
    }

    /// The node that decides whether a loop goes on.
    pub(super) fn loop_condition(&mut self, f: FrameId) -> Result<Operation> {
        if self.conditions.is_none() {
            let mut found = HashMap::new();
            for n in self.graph.nodes().iter().filter(|n| n.op_name() == "LoopCond") {
                found.insert(self.fires_in(n.id())?, n.id());
            }
            self.conditions = Some(found);
        }
        match self.conditions.as_ref().and_then(|c| c.get(&f)) {
            Some(id) => Ok(Operation::new(self.graph.clone(), *id)),
            None => Err(Error::invalid(format!(
                "loop {:?} has no LoopCond, so that its gradient cannot be built",
                self.frames[f].name
            ))),
        }
    }
}
