//! Which nodes have to be on one device: colocation groups.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actorflow_core::DType;
use actorflow_core::graph::Node;

/// Why two nodes are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tie {
    /// The program says so.
    Asked,
    /// One takes a reference that the other gives.
    Reference,
    /// One takes a resource handle that the other gives.
    Handle,
    /// One takes a variant, which does not leave its task, that the other gives.
    Variant,
    /// Both use the state of that container and shared name.
    Shared,
}

struct Edge {
    /// The node that has to be where `to` is.
    from: usize,
    to: usize,
    tie: Tie,
}

/// The partition of a graph's nodes into groups that have to be on one device each.
pub(super) struct Groups {
    group_of: Vec<usize>,
    members: Vec<Vec<usize>>,
    edges: Vec<Edge>,
}

impl Groups {
    /// Partitions `nodes`. Variants tie nodes together if devices are of several tasks: nothing else is known to send
    /// them. A mutex's lock is one that has to stay on its device in any case.
    pub(super) fn of(nodes: &[Arc<Node>], several_tasks: bool) -> Groups {
        let edges = ties(nodes, several_tasks);
        let mut parent: Vec<usize> = (0..nodes.len()).collect();
        for e in &edges {
            let (a, b) = (root(&mut parent, e.from), root(&mut parent, e.to));
            // The smaller number is the root, so that groups come in the order of their first nodes.
            parent[a.max(b)] = a.min(b);
        }
        let mut group_of = vec![0; nodes.len()];
        let mut members: Vec<Vec<usize>> = Vec::new();
        for n in 0..nodes.len() {
            let r = root(&mut parent, n);
            if r == n {
                group_of[n] = members.len();
                members.push(vec![n]);
            } else {
                group_of[n] = group_of[r];
                members[group_of[r]].push(n);
            }
        }
        Groups {
            group_of,
            members,
            edges,
        }
    }

    /// The number of groups.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// The group of a node.
    pub(super) fn of_node(&self, node: usize) -> usize {
        self.group_of[node]
    }

    /// The nodes of a group, in ascending order.
    pub(super) fn members(&self, group: usize) -> &[usize] {
        &self.members[group]
    }

    /// The chain of ties between two nodes of one group, in words.
    pub(super) fn why(&self, nodes: &[Arc<Node>], a: usize, b: usize) -> String {
        let mut near: HashMap<usize, Vec<&Edge>> = HashMap::new();
        for e in self.edges.iter().filter(|e| self.group_of[e.from] == self.group_of[a]) {
            near.entry(e.from).or_default().push(e);
            near.entry(e.to).or_default().push(e);
        }
        // By which edge each node was reached, from `a`.
        let mut by: HashMap<usize, &Edge> = HashMap::new();
        let mut queue = VecDeque::from([a]);
        while let Some(n) = queue.pop_front() {
            if n == b {
                break;
            }
            for e in near.get(&n).into_iter().flatten() {
                let other = if e.from == n { e.to } else { e.from };
                if other != a && !by.contains_key(&other) {
                    by.insert(other, e);
                    queue.push_back(other);
                }
            }
        }
        let mut chain = Vec::new();
        let mut at = b;
        while at != a {
            let Some(e) = by.get(&at) else { break };
            chain.push(in_words(e, nodes));
            at = if e.from == at { e.to } else { e.from };
        }
        chain.reverse();
        chain.join(", ")
    }
}

fn in_words(e: &Edge, nodes: &[Arc<Node>]) -> String {
    let (from, to) = (nodes[e.from].name(), nodes[e.to].name());
    match e.tie {
        Tie::Asked => format!("{from:?} is colocated with {to:?}"),
        Tie::Reference => format!("{from:?} takes a reference from {to:?}"),
        Tie::Handle => format!("{from:?} takes a resource handle from {to:?}"),
        Tie::Variant => format!("{from:?} takes a variant from {to:?}"),
        Tie::Shared => format!("{from:?} and {to:?} share their state by name"),
    }
}

fn root(parent: &mut [usize], mut n: usize) -> usize {
    while parent[n] != n {
        parent[n] = parent[parent[n]];
        n = parent[n];
    }
    n
}

fn ties(nodes: &[Arc<Node>], several_tasks: bool) -> Vec<Edge> {
    // A name of a group that is no node's stands for the first node that has it.
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut shared: HashMap<(&str, &str, &str), usize> = HashMap::new();
    let mut edges = Vec::new();
    // Nodes through which locks of mutexes go.
    let mut locks = vec![false; nodes.len()];
    for (i, n) in nodes.iter().enumerate() {
        names.insert(n.name(), i);
        locks[i] = n.op_name() == "MutexLock"
            || (n.inputs().iter().zip(n.input_types()))
                .any(|(r, t)| *t == DType::Variant && locks.get(r.node.index()) == Some(&true));
    }
    for (from, n) in nodes.iter().enumerate() {
        for name in n.colocate_with() {
            let to = *names.entry(name.as_str()).or_insert(from);
            if to != from {
                let tie = Tie::Asked;
                edges.push(Edge { from, to, tie });
            }
        }
        for (input, (&is_ref, &dtype)) in n.inputs().iter().zip(n.input_refs().iter().zip(n.input_types())) {
            let tie = match dtype {
                _ if is_ref => Tie::Reference,
                DType::Resource => Tie::Handle,
                DType::Variant if several_tasks || locks[from] => Tie::Variant,
                _ => continue,
            };
            // The producer is of the graph, which may have grown since its nodes were listed.
            if input.node.index() < nodes.len() {
                let to = input.node.index();
                edges.push(Edge { from, to, tie });
            }
        }
        if let Some(key) = shared_state(n) {
            let to = *shared.entry(key).or_insert(from);
            if to != from {
                let tie = Tie::Shared;
                edges.push(Edge { from, to, tie });
            }
        }
    }
    edges
}

/// The state of an operation that finds it by name instead of by a handle: kind of state, container, name.
fn shared_state(n: &Node) -> Option<(&str, &str, &str)> {
    let kind = match n.op_name() {
        "Stage" | "Unstage" | "StagePeek" | "StageSize" | "StageClear" => "Stage",
        "AddSparseToTensorsMap" | "AddManySparseToTensorsMap" | "TakeManySparseFromTensorsMap" => "TensorsMap",
        op if op.starts_with("MapStage") || op.starts_with("MapUnstage") => "MapStage",
        "MapPeek" | "MapSize" | "MapIncompleteSize" | "MapClear" => "MapStage",
        op if op.starts_with("OrderedMap") => "OrderedMap",
        _ => return None,
    };
    let name = match n.attrs().str("shared_name") {
        Ok("") | Err(_) => n.name(),
        Ok(name) => name,
    };
    Some((kind, n.attrs().str("container").unwrap_or(""), name))
}
