//! Which nodes gradients pass through.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeId, Output, OutputRef};
use crate::op::Gradient;

fn is_push(n: &Node) -> bool {
    matches!(n.op_name(), "StackPushV2" | "StackPush")
}

/// Whether a node takes a value from a stack.
pub(super) fn is_pop(n: &Node) -> bool {
    matches!(n.op_name(), "StackPopV2" | "StackPop")
}

/// The node that made the stack that a node pushes to or pops from.
fn origin(nodes: &[Arc<Node>], id: NodeId) -> NodeId {
    let mut at = id;
    loop {
        let n = &nodes[at.index()];
        let passes = is_push(n)
            || is_pop(n)
            || matches!(
                n.op_name(),
                "Enter" | "RefEnter" | "Switch" | "RefSwitch" | "_SwitchN" | "Identity"
            );
        match n.inputs().first() {
            Some(r) if passes => at = r.node,
            _ => return at,
        }
    }
}

/// The nodes that push to each stack.
fn pushes(nodes: &[Arc<Node>]) -> HashMap<NodeId, Vec<NodeId>> {
    let mut found: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for n in nodes.iter().filter(|n| is_push(n)) {
        found.entry(origin(nodes, n.id())).or_default().push(n.id());
    }
    found
}

/// The nodes on a path from an x to a y. What is popped from a stack depends on what was pushed on it.
pub(super) fn between(graph: &Graph, ys: &[Output], xs: &[Output], stops: &[Output]) -> Result<HashSet<NodeId>> {
    let nodes = graph.nodes();
    let stop: HashSet<OutputRef> = stops.iter().map(Output::as_ref).collect();
    let mut above = vec![false; nodes.len()];
    let mut users: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    let mut stacks: Option<HashMap<NodeId, Vec<NodeId>>> = None;
    let mut todo: Vec<NodeId> = ys.iter().map(|y| y.op().id()).collect();
    let carries = |r: &OutputRef| {
        let from = &nodes[r.node.index()];
        let dtype = from.output_types().get(r.index as usize);
        dtype.is_some_and(|t| t.is_differentiable()) && !stop.contains(r)
    };
    while let Some(id) = todo.pop() {
        let seen = above
            .get_mut(id.index())
            .ok_or_else(|| Error::internal("dangling edge"))?;
        if std::mem::replace(seen, true) {
            continue;
        }
        let node = &nodes[id.index()];
        for r in node.inputs() {
            todo.push(r.node);
            users.entry(r.node).or_default().push(id);
        }
        if is_pop(node) {
            let stacks = stacks.get_or_insert_with(|| pushes(&nodes));
            for push in stacks.get(&origin(&nodes, id)).into_iter().flatten() {
                todo.push(*push);
                users.entry(*push).or_default().push(id);
            }
        }
    }
    let sources: HashSet<OutputRef> = xs.iter().map(Output::as_ref).collect();
    let mut found: HashSet<NodeId> = HashSet::new();
    let mut todo: VecDeque<NodeId> = VecDeque::new();
    for r in &sources {
        if above[r.node.index()] {
            found.insert(r.node);
            todo.push_back(r.node);
        }
    }
    // Along edges that carry a gradient; back edges of loops too.
    let mut reached: HashSet<NodeId> = HashSet::new();
    while let Some(id) = todo.pop_front() {
        for user in users.get(&id).into_iter().flatten() {
            let node = &nodes[user.index()];
            if reached.contains(user) || matches!(node.def().gradient_of(), Gradient::NotDifferentiable) {
                continue;
            }
            let on_path = |r: &&OutputRef| r.node == id && (reached.contains(&id) || sources.contains(r));
            let by_stack = is_pop(node) && is_push(&nodes[id.index()]) && reached.contains(&id);
            if by_stack || node.inputs().iter().filter(on_path).any(carries) {
                reached.insert(*user);
                found.insert(*user);
                todo.push_back(*user);
            }
        }
    }
    Ok(found)
}
