//! Element-wise fusion: chains and trees of element-wise operations become one `_FusedElementwise`, which applies them
//! block by block, so that what is between them never leaves the cache.
//!
//! Why no result changes: nobody else sees what is between (its users are all in the same tree, it is not fetched, and
//! nobody waits for it). The fused node applies the same functions to the same values in the same order. Where shapes
//! turn out at run time not to suit blocks, it applies the operations one by one, by their own kernels; so it does
//! if they do not fit at all, and the error has the name of the node that it always had. It waits for everything that
//! the parts waited for. Nodes that read a reference are left alone: they would read it later than before.
//!
//! A node is fused with its user only if both results have the same shape as far as the graph knows, or its own is a
//! scalar: what is computed once for a row must not be computed for each element.

#![forbid(unsafe_code)]

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use actorflow_actors::exec::{NodeInfo, Source};
use actorflow_core::error::Result;
use actorflow_core::op::registry;
use actorflow_core::{AttrValue, Attrs, DType, PartialShape};
use actorflow_kernels::ops::math::fused::part;

use super::ir::{Ir, IrNode, Users};

/// The most operations in one node; more would gain nothing, and hold too many blocks at a time.
const MOST: usize = 32;
/// The most terms of an `AddN` that is fused.
const MOST_TERMS: usize = 8;

/// Fuses all that it can; how many nodes went away.
///
/// # Errors
/// `UNIMPLEMENTED` if there is no `_FusedElementwise`.
pub(super) fn run(ir: &mut Ir) -> Result<usize> {
    let order = ir.order();
    let mut position = vec![0; ir.nodes.len()];
    for (at, i) in order.iter().enumerate() {
        position[*i] = at;
    }
    let users = ir.users();
    let mut taken = vec![false; ir.nodes.len()];
    let mut gone = 0;
    for &root in order.iter().rev() {
        if taken[root] {
            continue;
        }
        let group = grow(ir, root, &order, &position, &users);
        if group.len() > 1 {
            group.iter().for_each(|i| taken[*i] = true);
            fuse(ir, root, &group)?;
            gone += group.len() - 1;
        }
    }
    if gone > 0 {
        ir.sweep();
    }
    Ok(gone)
}

/// The number of steps that a node makes in a fused one, if it can take part.
fn steps(ir: &Ir, n: &IrNode) -> Option<usize> {
    let &[dtype @ (DType::F32 | DType::F64)] = &n.output_types[..] else {
        return None;
    };
    if !ir.is_free(n) || n.input_types.iter().any(|t| *t != dtype) {
        return None;
    }
    let (function, _) = part(n.def.name(), dtype)?;
    match n.def.name() {
        "AddN" => (2..=MOST_TERMS).contains(&n.inputs.len()).then(|| n.inputs.len() - 1),
        "BiasAdd"
            if n.attrs
                .get("data_format")
                .is_some_and(|f| *f != AttrValue::from("NHWC")) =>
        {
            None
        }
        _ => (n.inputs.len() == function.arity()).then_some(1),
    }
}

/// Whether a result of shape `s` can be computed along with one of shape `with`.
fn goes_with(s: &PartialShape, with: &PartialShape) -> bool {
    s.rank() == Some(0) || s.dims() == with.dims()
}

/// The nodes that can be fused into `root`, itself among them, in the order in which they run.
fn grow(ir: &Ir, root: usize, order: &[usize], position: &[usize], users: &Users) -> Vec<usize> {
    let Some(n) = ir.node(root) else { return Vec::new() };
    let Some(mut total) = steps(ir, n) else {
        return Vec::new();
    };
    let (dtype, shape) = (n.output_types[0], &n.output_shapes[0]);
    let mut group = vec![root];
    // The producers, the last first: all users of one have been looked at when it comes.
    let mut next: BinaryHeap<usize> = n.producers().map(|p| position[p]).collect();
    while let Some(at) = next.pop() {
        let i = order[at];
        let Some(n) = ir.node(i).filter(|_| !group.contains(&i)) else {
            continue;
        };
        let Some(more) = steps(ir, n) else { continue };
        let hidden = !n.pinned && users.all_among(i, &group);
        if !hidden || n.output_types[0] != dtype || !goes_with(&n.output_shapes[0], shape) || total + more > MOST {
            continue;
        }
        total += more;
        group.push(i);
        next.extend(n.producers().map(|p| position[p]));
    }
    group.sort_unstable_by_key(|i| position[*i]);
    group
}

/// The steps of a fused node to be.
#[derive(Default)]
struct Program {
    inputs: Vec<Source>,
    ops: Vec<String>,
    names: Vec<String>,
    operands: Vec<i64>,
    parts: Vec<NodeInfo>,
    /// The step that has the result of a node.
    result: HashMap<usize, i64>,
}

impl Program {
    /// The number of an operand.
    fn operand(&mut self, s: Source) -> i64 {
        if let Source::Node { node, .. } = s
            && let Some(step) = self.result.get(&node)
        {
            return -1 - step;
        }
        let found = self.inputs.iter().position(|i| *i == s);
        let at = found.unwrap_or_else(|| {
            self.inputs.push(s);
            self.inputs.len() - 1
        });
        // There are at most a few dozen.
        at as i64
    }

    fn step(&mut self, n: &IrNode, operands: &[i64]) -> i64 {
        self.ops.push(n.def.name().to_owned());
        self.names.push(n.name.to_string());
        self.operands.extend(operands);
        self.ops.len() as i64 - 1
    }

    fn add(&mut self, i: usize, n: &IrNode) {
        let operands: Vec<i64> = n.inputs.iter().map(|s| self.operand(*s)).collect();
        let mut last = 0;
        match (&operands[..], n.def.name()) {
            ([first, rest @ ..], "AddN") => {
                let mut sum = *first;
                for term in rest {
                    last = self.step(n, &[sum, *term]);
                    sum = -1 - last;
                }
            }
            _ => last = self.step(n, &operands),
        }
        self.result.insert(i, last);
        self.parts.push(n.info());
    }
}

/// Makes node `root` the fused one of `group`.
fn fuse(ir: &mut Ir, root: usize, group: &[usize]) -> Result<()> {
    let mut p = Program::default();
    let mut control = Vec::new();
    for &i in group {
        if let Some(n) = ir.node(i) {
            p.add(i, n);
            control.extend(&n.control);
        }
    }
    control.sort_unstable();
    control.dedup();
    let def = registry().get("_FusedElementwise")?;
    for &i in group {
        if i != root {
            ir.nodes[i] = None;
        }
    }
    if let Some(n) = &mut ir.nodes[root] {
        let dtype = n.output_types[0];
        let mut attrs = Attrs::new();
        attrs.set("T", dtype);
        attrs.set("N", p.inputs.len());
        attrs.set("ops", p.ops);
        attrs.set("names", p.names);
        attrs.set("operands", p.operands);
        n.def = def;
        n.attrs = attrs;
        n.input_types = vec![dtype; p.inputs.len()];
        n.input_refs = vec![false; p.inputs.len()];
        n.inputs = p.inputs;
        n.control = control;
        n.parts = Arc::from(p.parts);
    }
    Ok(())
}
