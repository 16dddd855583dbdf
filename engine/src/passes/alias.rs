//! Reading variables through references at the time that TensorFlow reads them. This is no optimisation: it always runs.
//!
//! TensorFlow's `Identity` of a reference variable copies nothing: its output is the variable's own buffer, and
//! assignments write into that buffer. So whoever computes with such an identity's output after an assignment sees the
//! new value, even if the identity ran before it, and a fetched variable has the value it has at the end of the run.
//! (Moving averages of a training step rely on it: they take `v/read`, which ran before the step.) Here an identity's
//! output is a value of its own; to give the same numbers, a node that runs after an assignment takes the variable
//! itself in place of an identity's output, and a fetched variable is read after the assignments.
//!
//! Left alone are nodes that do not come after an assignment, for which both readings are the same or a race, and
//! identities that wait for somebody or that somebody waits for: their place in time matters, and a program that gives
//! them one wants the value that the variable has then.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use actorflow_actors::exec::Source;
use actorflow_core::error::Result;
use actorflow_core::op::registry;

use super::ir::{Ir, IrNode};

/// Operations that hand a reference on without writing to it.
const FORWARDS: &[&str] = &[
    "IsVariableInitialized",
    "RefEnter",
    "RefExit",
    "RefIdentity",
    "RefMerge",
    "RefNextIteration",
    "RefSelect",
    "RefSwitch",
];

/// Operations whose output is, in TensorFlow, the buffer of their input.
const ALIASES: &[&str] = &["Identity", "PreventGradient", "StopGradient"];

/// The reference that an alias stands for.
#[derive(Clone, Copy)]
struct Alias {
    reference: Source,
    variable: usize,
}

/// Who writes which variable through references, and who uses what.
pub(crate) struct Writers {
    of: HashMap<usize, Vec<usize>>,
    users: Vec<Vec<usize>>,
}

impl Writers {
    /// The writers of a graph as it is now.
    pub(crate) fn of(ir: &Ir) -> Writers {
        let mut of: HashMap<usize, Vec<usize>> = HashMap::new();
        for (i, n) in ir.nodes.iter().enumerate() {
            let Some(n) = n else { continue };
            for (s, want_ref) in n.inputs.iter().zip(&n.input_refs) {
                if *want_ref
                    && !FORWARDS.contains(&n.def.name())
                    && let Some(v) = variable(ir, *s)
                {
                    of.entry(v).or_default().push(i);
                }
            }
        }
        let mut users: Vec<Vec<usize>> = Vec::new();
        if !of.is_empty() {
            users.resize(ir.nodes.len(), Vec::new());
            for (i, n) in ir.nodes.iter().enumerate() {
                for d in n.iter().flat_map(IrNode::dependencies) {
                    users[d].push(i);
                }
            }
        }
        Writers { of, users }
    }

    /// Whether node `i` runs after a node that writes to the variable of this reference.
    pub(crate) fn come_before(&self, ir: &Ir, reference: Source, i: usize) -> bool {
        let writers = variable(ir, reference).and_then(|v| self.of.get(&v));
        writers.is_some_and(|w| downstream(&self.users, w).get(i).copied().unwrap_or(false))
    }
}

/// Makes nodes that run after an assignment read what was assigned.
///
/// # Errors
/// If `Identity` is not linked in.
pub(crate) fn run(ir: &mut Ir) -> Result<()> {
    let Writers { of: writers, users } = Writers::of(ir);
    if writers.is_empty() {
        return Ok(());
    }
    let aliases = aliases(ir, &users);
    let mut later: HashMap<usize, Vec<bool>> = HashMap::new();
    let mut changed = false;
    for (n, alias) in &aliases {
        let Some(w) = writers.get(&alias.variable) else {
            continue;
        };
        let later = later.entry(alias.variable).or_insert_with(|| downstream(&users, w));
        for &c in users[*n].iter().filter(|c| later[**c]) {
            changed |= take_reference(ir, c, *n, alias);
        }
    }
    changed |= read_fetches_last(ir, &users, &writers, &aliases)?;
    if changed {
        ir.sweep();
    }
    Ok(())
}

/// The variable that a reference refers to, if the graph says so.
fn variable(ir: &Ir, mut s: Source) -> Option<usize> {
    // Longer chains than there are nodes are loops.
    for _ in 0..=ir.nodes.len() {
        if !ir.is_ref(s) {
            return None;
        }
        let Source::Node { node, .. } = s else { return None };
        let n = ir.node(node)?;
        match n.input_refs.iter().position(|r| *r) {
            Some(k) => s = *n.inputs.get(k)?,
            None => return Some(node),
        }
    }
    None
}

/// All aliases of references that have no place in time of their own, in no order.
fn aliases(ir: &Ir, users: &[Vec<usize>]) -> HashMap<usize, Alias> {
    let mut found: HashMap<usize, Alias> = HashMap::new();
    let is_alias = |n: &IrNode| {
        ALIASES.contains(&n.def.name()) && n.input_refs.first() == Some(&false) && n.control.is_empty() && !n.pinned
    };
    let mut todo = Vec::new();
    for (i, n) in ir.nodes.iter().enumerate() {
        let Some(n) = n.as_ref().filter(|n| is_alias(n)) else {
            continue;
        };
        if let Some(reference) = n.inputs.first().copied()
            && let Some(variable) = variable(ir, reference)
        {
            found.insert(i, Alias { reference, variable });
            todo.push(i);
        }
    }
    while let Some(i) = todo.pop() {
        let of = found[&i];
        for &u in &users[i] {
            let Some(n) = ir.node(u).filter(|n| is_alias(n) && !found.contains_key(&u)) else {
                continue;
            };
            if matches!(n.inputs.first(), Some(Source::Node { node, .. }) if *node == i) {
                found.insert(u, of);
                todo.push(u);
            }
        }
    }
    found
}

/// The nodes that come after any of these, themselves not included.
fn downstream(users: &[Vec<usize>], from: &[usize]) -> Vec<bool> {
    let mut seen = vec![false; users.len()];
    let mut todo = from.to_vec();
    while let Some(i) = todo.pop() {
        for &u in &users[i] {
            if !std::mem::replace(&mut seen[u], true) {
                todo.push(u);
            }
        }
    }
    seen
}

/// Node `c` takes the reference in place of the output of node `n`, its alias; whether it took that.
fn take_reference(ir: &mut Ir, c: usize, n: usize, alias: &Alias) -> bool {
    let Some(node) = &mut ir.nodes[c] else { return false };
    let mut changed = false;
    for (s, want_ref) in node.inputs.iter_mut().zip(&node.input_refs) {
        if !want_ref && matches!(*s, Source::Node { node, output: 0 } if node == n) {
            *s = alias.reference;
            changed = true;
        }
    }
    changed
}

/// Fetched variables and aliases are read when the assignments are done: those that
/// every run of the graph makes, outside of conditionals and loops. Whether there are any.
fn read_fetches_last(
    ir: &mut Ir,
    users: &[Vec<usize>],
    writers: &HashMap<usize, Vec<usize>>,
    aliases: &HashMap<usize, Alias>,
) -> Result<bool> {
    let mut changed = false;
    let mut sometimes: Option<Vec<bool>> = None;
    for k in 0..ir.fetches.len() {
        let fetched = ir.fetches[k];
        let reference = match fetched {
            Source::Node { node, output: 0 } => aliases.get(&node).map_or(fetched, |a| a.reference),
            s => s,
        };
        let Some(all) = variable(ir, reference).and_then(|v| writers.get(&v)) else {
            continue;
        };
        let sometimes = sometimes.get_or_insert_with(|| {
            let steers =
                |n: &IrNode| matches!(n.def.name(), "Switch" | "RefSwitch" | "_SwitchN" | "Enter" | "RefEnter");
            let from: Vec<usize> = (0..ir.nodes.len())
                .filter(|i| ir.node(*i).is_some_and(steers))
                .collect();
            downstream(users, &from)
        });
        let is_sometimes = |i: usize| sometimes.get(i).copied().unwrap_or(false);
        let Source::Node { node, output } = reference else {
            continue;
        };
        let waits: Vec<usize> = all.iter().copied().filter(|w| !is_sometimes(*w)).collect();
        let Some(n) = ir.node(node).filter(|_| !is_sometimes(node) && !waits.is_empty()) else {
            continue;
        };
        let reader = IrNode {
            def: registry().get("Identity")?,
            inputs: vec![reference],
            input_types: vec![n.output_types[output]],
            input_refs: vec![false],
            control: waits,
            output_types: vec![n.output_types[output]],
            output_refs: vec![false],
            output_shapes: vec![n.output_shapes[output].clone()],
            target: false,
            pinned: false,
            ..n.clone()
        };
        let reader = ir.add(reader);
        ir.fetches[k] = Source::Node {
            node: reader,
            output: 0,
        };
        changed = true;
    }
    Ok(changed)
}
