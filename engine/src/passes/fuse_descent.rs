//! Descent fusion: a gradient that is a product of matrices, and that only gradient descent uses, is never stored;
//! the product is added to the variable where it lies. That saves writing and reading the gradient, which at small
//! batches takes as long as the product itself.
//!
//! Why no result changes (but for rounding: the product is scaled and added to the variable before it is rounded, and
//! where the inner dimension is cut in several lengths, each is added by itself):
//!
//! * Nobody else sees the gradient: the product and the identities between it and the update have one user, are not
//!   fetched and are no targets.
//! * The fused node waits for everything that the update, the identities and the product waited for. The identities
//!   are those by which an optimizer makes all gradients of an operation wait for each other.
//! * Others may wait for the product (the other gradients of the operation do). They wait for what it is computed from
//!   instead: a product has no effect, so that being done is all that could be told of it.
//! * It holds the variable's turn while it computes, as the update does.

#![forbid(unsafe_code)]

use actorflow_actors::exec::Source;
use actorflow_core::error::Result;
use actorflow_core::op::registry;
use actorflow_core::{Attrs, DType};

use super::ir::{Ir, IrNode};

/// Fuses every such update; how many.
///
/// # Errors
/// `UNIMPLEMENTED` if the fused operations are not linked in.
pub(super) fn run(ir: &mut Ir) -> Result<usize> {
    let users = ir.users();
    let mut fused = 0;
    for i in 0..ir.nodes.len() {
        let Some(update) = ir.node(i) else { continue };
        let op = match update.def.name() {
            "ResourceApplyGradientDescent" => "_MatMulResourceApplyGradientDescent",
            "ApplyGradientDescent" => "_MatMulApplyGradientDescent",
            _ => continue,
        };
        let mut control = update.control.clone();
        // From the update back to the product, through identities.
        let mut at = i;
        let mut slot = 2;
        let product = loop {
            let Some(Source::Node { node, .. }) = ir.node(at).and_then(|n| n.inputs.get(slot)) else {
                break None;
            };
            let Some(n) = ir.node(*node) else { break None };
            let alone = users.only_data_user(*node) == Some(at) && !n.target;
            if !alone || !ir.is_free(n) {
                break None;
            }
            control.extend(&n.control);
            match n.def.name() {
                "MatMul" if matches!(n.output_types[..], [DType::F32 | DType::F64]) => break Some(*node),
                "Identity" if !n.pinned => (at, slot) = (*node, 0),
                _ => break None,
            }
        };
        if let Some(p) = product.filter(|p| can_be_passed_on(ir, *p)) {
            control.retain(|c| *c != p);
            fuse(ir, i, p, op, control)?;
            fused += 1;
        }
    }
    if fused > 0 {
        ir.sweep();
    }
    Ok(fused)
}

/// Whether those who wait for node `p` may wait for its inputs instead. (The outputs of a control-flow primitive are
/// alive or dead one by one, which a control edge from it cannot tell.)
fn can_be_passed_on(ir: &Ir, p: usize) -> bool {
    let steers = |d: usize| ir.node(d).is_none_or(|n| n.def.is_control_flow());
    ir.node(p).is_some_and(|n| !n.pinned || !n.dependencies().any(steers))
}

/// Makes update `i` the fused node of product `p`.
fn fuse(ir: &mut Ir, i: usize, p: usize, op: &str, mut control: Vec<usize>) -> Result<()> {
    let (Some(update), Some(product)) = (ir.node(i).cloned(), ir.nodes[p].take()) else {
        return Ok(());
    };
    wait_for_inputs(ir, p, &product);
    let def = registry().get(op)?;
    let dtype = product.output_types[0];
    let mut attrs = Attrs::new();
    for name in ["transpose_a", "transpose_b"] {
        if let Some(v) = product.attrs.get(name) {
            attrs.set(name, v.clone());
        }
    }
    attrs.set("T", dtype);
    def.fill_defaults(&mut attrs);
    control.sort_unstable();
    control.dedup();
    ir.nodes[i] = Some(IrNode {
        def,
        attrs,
        inputs: [&update.inputs[..2], &product.inputs].concat(),
        input_types: [&update.input_types[..2], &product.input_types].concat(),
        input_refs: [&update.input_refs[..2], &product.input_refs].concat(),
        control,
        ..update
    });
    Ok(())
}

/// Whoever waited for node `p`, which is gone, waits for what it depended on.
fn wait_for_inputs(ir: &mut Ir, p: usize, gone: &IrNode) {
    let before: Vec<usize> = gone.dependencies().collect();
    for n in ir.nodes.iter_mut().flatten() {
        if n.control.contains(&p) {
            n.control.retain(|c| *c != p);
            n.control.extend(&before);
            n.control.sort_unstable();
            n.control.dedup();
        }
    }
}
