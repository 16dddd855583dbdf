//! Constant folding: what depends on constants only is computed once, when the plan is made.
//!
//! Why no result changes: a node is computed by its own kernel, and only if it is free of state, effects, control flow
//! and references, so that it would have given the same in every run. Fed tensors are no constants (a feed has cut
//! its producer before). A kernel that fails is left in place, so that the run reports the error, and so is one that
//! waits or claims resources. Constants inside of a conditional or a loop carry a control edge from it; what is folded
//! takes over the control edges of all its inputs, so that it is computed, or dead, when they were.
//!
//! `Shape`, `Size` and `Rank` depend on the shape of their input only. Where that is known when the graph is built,
//! they are constants as well; they keep a control edge from their input if computing that has effects, or belongs to
//! a conditional or a loop.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actorflow_actors::exec::Source;
use actorflow_core::error::Result;
use actorflow_core::kernel::{Device, HostDevice, run_alone};
use actorflow_core::resource::ResourceManager;
use actorflow_core::{DType, PartialShape, Tensor};

use super::ir::{CONST, Ir, IrNode};

/// A folded value may have so many bytes: larger ones take longer to read from memory than most take to compute, and
/// would be kept as long as the plan.
const LARGEST: usize = 10 << 20;
/// What all values of one folding may take together, in bytes.
const BUDGET: usize = 256 << 20;

/// Folds everything that can be; how many nodes became constants, and how many edges went away.
///
/// # Errors
/// `UNIMPLEMENTED` if there is no `Const` operation.
pub(super) fn run(ir: &mut Ir, resources: &Arc<ResourceManager>) -> Result<usize> {
    let order = ir.order();
    let effects = ir.effects(&order);
    let device: Arc<dyn Device> = Arc::new(HostDevice::with_budget(BUDGET));
    let mut known: HashMap<(usize, usize), Tensor> = HashMap::new();
    let mut redirect = HashMap::new();
    let mut folded = 0;
    for i in order {
        let Some(n) = ir.node(i) else { continue };
        if n.def.name() == CONST {
            if let Ok(t) = n.attrs.tensor("value") {
                known.insert((i, 0), t.clone());
            }
            continue;
        }
        if n.inputs.is_empty() || n.output_types.is_empty() || !ir.is_free(n) {
            continue;
        }
        let (values, more) = match of_shape(ir, n, &effects) {
            Some(found) => found,
            None => {
                let Some(values) = compute(n, &known, &device, resources) else {
                    continue;
                };
                let from = n.dependencies().filter_map(|d| ir.node(d));
                (values, from.flat_map(|d| d.control.iter().copied()).collect())
            }
        };
        let multiple = values.len() > 1;
        if multiple && n.pinned {
            continue;
        }
        let mut control: Vec<usize> = n.control.iter().copied().chain(more).collect();
        control.sort_unstable();
        control.dedup();
        folded += 1;
        for (k, value) in values.into_iter().enumerate() {
            let at = if multiple { clone_as_output(ir, i, k) } else { Some(i) };
            let Some(at) = at else { continue };
            ir.make_constant(at, value.clone())?;
            if let Some(c) = &mut ir.nodes[at] {
                c.control.clone_from(&control);
            }
            known.insert((at, 0), value.clone());
            if multiple {
                known.insert((i, k), value);
                redirect.insert((i, k), Source::Node { node: at, output: 0 });
            }
        }
    }
    ir.redirect(&redirect);
    let edges = drop_control(ir);
    if folded + edges > 0 {
        ir.sweep();
    }
    Ok(folded + edges)
}

/// A node beside node `i` that has only its output `k`; its number.
fn clone_as_output(ir: &mut Ir, i: usize, k: usize) -> Option<usize> {
    let mut n = ir.node(i)?.clone();
    (n.target, n.pinned) = (false, false);
    n.output_types = vec![n.output_types[k]];
    n.output_refs = vec![false];
    n.output_shapes = vec![n.output_shapes[k].clone()];
    Some(ir.add(n))
}

/// The value of a `Shape`, `Size`, `Rank` or `ShapeN`, and what it must still wait for.
fn of_shape(ir: &Ir, n: &IrNode, effects: &[bool]) -> Option<(Vec<Tensor>, Vec<usize>)> {
    let of = |s: &Source| -> Option<Tensor> {
        let shape = ir.shape_of(*s)?;
        let list = match n.def.name() {
            "Shape" | "ShapeN" => shape.to_shape()?.to_i64(),
            "Size" => vec![i64::try_from(shape.count()?).ok()?],
            "Rank" => vec![i64::try_from(shape.rank()?).ok()?],
            _ => return None,
        };
        let t = match n.output_types.first()? {
            DType::I64 => Tensor::vector(&list),
            DType::I32 => {
                let narrow: std::result::Result<Vec<i32>, _> = list.iter().map(|d| i32::try_from(*d)).collect();
                Tensor::vector(&narrow.ok()?)
            }
            _ => return None,
        };
        match n.def.name() {
            "Shape" | "ShapeN" => Some(t),
            _ => t.reshape([]).ok(),
        }
    };
    if !matches!(n.def.name(), "Shape" | "ShapeN" | "Size" | "Rank") || n.inputs.len() != n.output_types.len() {
        return None;
    }
    let values = n.inputs.iter().map(of).collect::<Option<Vec<_>>>()?;
    let mut wait = Vec::new();
    for s in &n.inputs {
        if let Source::Node { node, .. } = *s
            && effects.get(node).copied().unwrap_or(true)
        {
            // The outputs of a control-flow primitive are alive or dead one by one, which a control edge cannot tell.
            if ir.node(node).is_none_or(|p| p.def.is_control_flow()) {
                return None;
            }
            wait.push(node);
        }
    }
    Some((values, wait))
}

/// Runs a node all of whose inputs are known; `None` if that cannot or should not be done.
fn compute(
    n: &IrNode,
    known: &HashMap<(usize, usize), Tensor>,
    device: &Arc<dyn Device>,
    resources: &Arc<ResourceManager>,
) -> Option<Vec<Tensor>> {
    let value = |s: &Source| match s {
        Source::Node { node, output } => known.get(&(*node, *output)).cloned(),
        Source::Feed(_) => None,
    };
    let inputs = n.inputs.iter().map(value).collect::<Option<Vec<_>>>()?;
    let storable = |t: &DType| t.is_plain() || *t == DType::Str;
    let too_large =
        |(s, t): (&PartialShape, &DType)| s.count().and_then(|c| c.checked_mul(t.size().max(1))) > Some(LARGEST);
    if !n.output_types.iter().all(storable) || n.output_shapes.iter().zip(&n.output_types).any(too_large) {
        return None;
    }
    let kernel = n.kernel(resources).ok()?;
    if kernel.may_suspend() || kernel.needs_claims() {
        return None;
    }
    let outputs = n.output_types.len();
    let run = || run_alone(&*kernel, inputs, outputs, device.clone(), resources.clone());
    let values = catch_unwind(AssertUnwindSafe(run)).ok()?.ok()?;
    let fits = |(t, d): (&Tensor, &DType)| t.dtype() == *d && t.byte_size() <= LARGEST;
    (values.len() == outputs && values.iter().zip(&n.output_types).all(fits)).then_some(values)
}

/// Removes control edges from nodes that are done at once: constants and `NoOp`s that wait for nothing.
fn drop_control(ir: &mut Ir) -> usize {
    let mut dropped = 0;
    let mut idle = vec![false; ir.nodes.len()];
    for i in ir.order() {
        let Some(n) = &mut ir.nodes[i] else { continue };
        let before = n.control.len();
        n.control.retain(|c| !idle[*c]);
        dropped += before - n.control.len();
        idle[i] = n.control.is_empty() && n.inputs.is_empty() && matches!(n.def.name(), CONST | "NoOp");
    }
    dropped
}
