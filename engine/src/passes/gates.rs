//! Opening gates that hold nothing back: identities that wait for nodes of which it cannot be told when they ran.
//!
//! An optimizer makes all gradients of an operation wait for each other, by an identity behind each that has control
//! edges from all (TensorFlow's `GATE_OP`). That keeps an update from overwriting a variable that another gradient
//! still reads. Most gradients read no variable; their gates only keep them from being fused.
//!
//! Why no result changes: the edges go only from nodes without effects that always succeed on tensors that fit
//! ([`is_harmless`]), to an identity. Of such a node can only be told that everything *it* waited for has happened. So
//! the edges are dropped only if the identity comes after all of that anyway: if every node with an effect, every
//! reading of a variable and every control-flow primitive upstream of the waited-for nodes is upstream of the
//! identity's input, too. Gates of nodes that take a variable's value stay as well, though the result would be the
//! same: an update that comes too early would have to copy the variable.

#![forbid(unsafe_code)]

use std::collections::HashSet;

use actorflow_actors::exec::Source;
use actorflow_kernels::ops::math::fused::part;

use super::ir::{Ir, IrNode};

/// Opens every such gate; how many.
pub(super) fn run(ir: &mut Ir) -> usize {
    if !ir.nodes.iter().flatten().any(is_gate) {
        return 0;
    }
    let order = ir.order();
    let events = Events::new(ir, &order);
    let mut open = Vec::new();
    for &i in &order {
        let Some(n) = ir.node(i).filter(|n| is_gate(n)) else {
            continue;
        };
        if !ir.is_free(n) {
            continue;
        }
        let Some(&Source::Node { node: input, .. }) = n.inputs.first() else {
            continue;
        };
        let mut waited = n.control.clone();
        let mut at = 0;
        let harmless = loop {
            let Some(&w) = waited.get(at) else { break true };
            at += 1;
            match ir.node(w) {
                // Whoever waits for a group waits for its members.
                Some(group) if is_group(ir, w) => {
                    let more: Vec<usize> = group.control.iter().copied().filter(|c| !waited.contains(c)).collect();
                    waited.extend(more);
                }
                Some(m) if is_harmless(ir, m) && events.includes(input, w) => {}
                _ => break false,
            }
        };
        if harmless {
            open.push((i, waited));
        }
    }
    // What nobody but a gate needs must be needed by one that stays closed.
    loop {
        let opened: HashSet<usize> = open.iter().map(|(gate, _)| *gate).collect();
        let live = ir.live(|i| !opened.contains(&i));
        let before = open.len();
        open.retain(|(_, waited)| waited.iter().all(|w| live[*w] || is_group(ir, *w)));
        if open.len() == before {
            break;
        }
    }
    for (i, _) in &open {
        if let Some(n) = &mut ir.nodes[*i] {
            n.control.clear();
        }
    }
    if !open.is_empty() {
        ir.sweep();
    }
    open.len()
}

fn is_gate(n: &IrNode) -> bool {
    n.def.name() == "Identity" && !n.control.is_empty()
}

fn is_group(ir: &Ir, i: usize) -> bool {
    ir.node(i).is_some_and(|n| n.def.name() == "NoOp")
}

/// Whether a node has no effect, succeeds on tensors that fit, and does not take a variable's value.
fn is_harmless(ir: &Ir, n: &IrNode) -> bool {
    let known = |t| part(n.def.name(), t).is_some();
    let total = n.output_types.first().is_some_and(|t| known(*t))
        || matches!(
            n.def.name(),
            "Identity"
                | "MatMul"
                | "BiasAdd"
                | "BiasAddGrad"
                | "AddN"
                | "Sum"
                | "Mean"
                | "Reshape"
                | "Select"
                | "Const"
        );
    let takes_value = n.inputs.iter().any(|s| match s {
        Source::Node { node, .. } => ir
            .node(*node)
            .is_none_or(|m| m.def.name() == "ReadVariableOp" || ir.reads_reference(m)),
        Source::Feed(_) => false,
    });
    total && !takes_value && ir.is_free(n)
}

/// Which events (effects, readings of variables, control flow) each node comes after, as sets of bits.
struct Events {
    words: usize,
    bits: Vec<u64>,
    /// Nodes of which nothing is known, because they are in no order.
    unknown: Vec<bool>,
}

impl Events {
    fn new(ir: &Ir, order: &[usize]) -> Events {
        let is_event = |n: &IrNode| !ir.is_free(n);
        let count = ir.nodes.iter().flatten().filter(|n| is_event(n)).count();
        let words = count.div_ceil(64).max(1);
        let mut events = Events {
            words,
            bits: vec![0; words * ir.nodes.len()],
            unknown: vec![true; ir.nodes.len()],
        };
        let mut next = 0;
        for &i in order {
            let Some(n) = ir.node(i) else { continue };
            events.unknown[i] = n.dependencies().any(|d| events.unknown[d] && !jumps_back(ir, d));
            for d in n.dependencies() {
                for w in 0..words {
                    events.bits[i * words + w] |= events.bits[d * words + w];
                }
            }
            if is_event(n) {
                events.bits[i * words + next / 64] |= 1 << (next % 64);
                next += 1;
            }
        }
        events
    }

    /// Whether node `a` comes after every event that node `b` comes after.
    fn includes(&self, a: usize, b: usize) -> bool {
        let of = |i: usize| &self.bits[i * self.words..(i + 1) * self.words];
        !self.unknown[a] && !self.unknown[b] && of(a).iter().zip(of(b)).all(|(a, b)| b & !a == 0)
    }
}

/// Whether an edge from this node goes to the next iteration of a loop.
fn jumps_back(ir: &Ir, i: usize) -> bool {
    ir.node(i).is_some_and(|n| n.def.name() == "NextIteration")
}
