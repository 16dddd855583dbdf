//! Common subexpressions: what is computed twice is computed once.
//!
//! Two nodes are one if they have the same operation, the same attributes bit by bit, the same inputs (in either
//! order where the operation says so) and the same control inputs.
//!
//! Why no result changes: a node without state computes the same from the same inputs, whenever it runs. Left alone
//! are nodes with state or effects, of control flow, with references among inputs or outputs, and nodes that read a
//! reference: they take the variable's value at the time when they run, and an assignment may lie between two of
//! them. Random operations have state. The merged node waits for the same control inputs as both, belongs to the same
//! loop and is dead when they are, because all that decides it is equal.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use actorflow_actors::exec::Source;

use super::ir::{Ir, IrNode};
use super::same::{hash_attrs, same_attrs};

/// Merges equal nodes; how many went away.
pub(super) fn run(ir: &mut Ir) -> usize {
    let mut seen: HashMap<u64, Vec<usize>> = HashMap::new();
    // By node: the one that stands for it.
    let mut same_as: HashMap<usize, usize> = HashMap::new();
    for i in ir.order() {
        let Some(n) = &mut ir.nodes[i] else { continue };
        for s in &mut n.inputs {
            if let Source::Node { node, .. } = s
                && let Some(to) = same_as.get(node)
            {
                *node = *to;
            }
        }
        for c in &mut n.control {
            if let Some(to) = same_as.get(c) {
                *c = *to;
            }
        }
        n.control.sort_unstable();
        n.control.dedup();
        let Some(n) = ir.node(i) else { continue };
        if n.output_types.is_empty() || !ir.is_free(n) {
            continue;
        }
        let alike = seen.entry(hash(n)).or_default();
        match alike.iter().find(|j| ir.node(**j).is_some_and(|m| same(m, n))) {
            Some(&j) => {
                same_as.insert(i, j);
            }
            None => alike.push(i),
        }
    }
    for (gone, stays) in &same_as {
        let target = ir.nodes[*gone].take().is_some_and(|n| n.target);
        if let Some(n) = &mut ir.nodes[*stays] {
            n.target |= target;
        }
    }
    // What jumps back to the start of a loop was not in order.
    for n in ir.nodes.iter_mut().flatten() {
        n.inputs.iter_mut().for_each(|s| moved(s, &same_as));
        for c in &mut n.control {
            if let Some(to) = same_as.get(c) {
                *c = *to;
            }
        }
    }
    ir.fetches.iter_mut().for_each(|s| moved(s, &same_as));
    ir.sweep();
    same_as.len()
}

fn moved(s: &mut Source, same_as: &HashMap<usize, usize>) {
    if let Source::Node { node, .. } = s
        && let Some(to) = same_as.get(node)
    {
        *node = *to;
    }
}

/// An order of sources, for operations whose inputs may be swapped.
fn rank(s: &Source) -> (bool, usize, usize) {
    match *s {
        Source::Feed(k) => (false, k, 0),
        Source::Node { node, output } => (true, node, output),
    }
}

fn is_swappable(n: &IrNode) -> bool {
    n.def.is_commutative() && n.inputs.len() == 2
}

fn hash(n: &IrNode) -> u64 {
    let mut h = DefaultHasher::new();
    n.def.name().hash(&mut h);
    let mut inputs: Vec<_> = n.inputs.iter().map(rank).collect();
    if is_swappable(n) {
        inputs.sort_unstable();
    }
    inputs.hash(&mut h);
    n.control.hash(&mut h);
    hash_attrs(&n.attrs, &mut h);
    h.finish()
}

fn same(a: &IrNode, b: &IrNode) -> bool {
    let inputs = a.inputs == b.inputs
        || is_swappable(a) && a.inputs[0] == b.inputs[1] && a.inputs[1] == b.inputs[0] && b.inputs.len() == 2;
    std::ptr::eq(a.def, b.def)
        && inputs
        && a.control == b.control
        && a.input_types == b.input_types
        && a.output_types == b.output_types
        && same_attrs(&a.attrs, &b.attrs)
}
