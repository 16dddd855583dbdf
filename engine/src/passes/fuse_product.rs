//! Product fusion: a product of matrices or a convolution, the bias that is added to it and a `Relu` become one
//! `_FusedMatMul` or `_FusedConv2D`, which finishes each element while it is in a register.
//!
//! Why no result changes: nobody else sees the product or the sum (they have one user, are not fetched, and nobody
//! waits for them), and for float32 and float64, the only types that are fused, bias and `Relu` are applied to the
//! same rounded values in the same order. The fused node waits for everything that the parts waited for; it has the
//! name of the product, which is what can fail.
//!
//! `BiasAdd` of the same layout is fused, and `Add` of a vector that is known to be as long as the product has columns (or
//! channels, if they are last).

#![forbid(unsafe_code)]

use actorflow_actors::exec::Source;
use actorflow_core::error::Result;
use actorflow_core::op::registry;
use actorflow_core::{AttrValue, Attrs, DType};

use super::ir::{Ir, IrNode};

/// Fuses every product that it can; how many.
///
/// # Errors
/// `UNIMPLEMENTED` if there is no fused operation.
pub(super) fn run(ir: &mut Ir) -> Result<usize> {
    let users = ir.users();
    let mut fused = 0;
    for i in 0..ir.nodes.len() {
        let Some(product) = ir.node(i).filter(|n| is_product(ir, n)) else {
            continue;
        };
        let mut chain = vec![i];
        let mut bias = None;
        if let Some(j) = users.only_user(ir, i)
            && let Some(n) = ir.node(j)
            && let Some(b) = bias_of(ir, product, i, n)
        {
            bias = Some(b);
            chain.push(j);
        }
        if let Some(&last) = chain.last()
            && let Some(j) = users.only_user(ir, last)
            && let Some(n) = ir.node(j)
            && n.def.name() == "Relu"
            && ir.is_free(n)
        {
            chain.push(j);
        }
        if chain.len() > 1 {
            fuse(ir, &chain, bias)?;
            fused += 1;
        }
    }
    if fused > 0 {
        ir.sweep();
    }
    Ok(fused)
}

/// What takes in a product: the operation, and the attributes that it has from the product.
fn fused_op(product: &IrNode) -> Option<(&'static str, &'static [&'static str])> {
    match product.def.name() {
        "MatMul" => Some(("_FusedMatMul", &["transpose_a", "transpose_b"])),
        "Conv2D" => Some((
            "_FusedConv2D",
            &[
                "strides",
                "use_cudnn_on_gpu",
                "padding",
                "explicit_paddings",
                "data_format",
                "dilations",
            ],
        )),
        _ => None,
    }
}

fn is_product(ir: &Ir, n: &IrNode) -> bool {
    fused_op(n).is_some() && matches!(n.output_types[..], [DType::F32 | DType::F64]) && ir.is_free(n)
}

/// Whether the node's channels are last, as they are if it does not say.
fn is_channels_last(n: &IrNode) -> bool {
    n.attrs.get("data_format").is_none_or(|f| *f == AttrValue::from("NHWC"))
}

/// The bias, if node `n` adds one to the product, node `i`.
fn bias_of(ir: &Ir, product: &IrNode, i: usize, n: &IrNode) -> Option<Source> {
    let of_product = |s: &Source| matches!(s, Source::Node { node, .. } if *node == i);
    let at = n.inputs.iter().position(of_product)?;
    let other = *n.inputs.get(1 - at.min(1)).filter(|_| n.inputs.len() == 2)?;
    if !ir.is_free(n) || of_product(&other) {
        return None;
    }
    match n.def.name() {
        "BiasAdd" | "BiasAddV1" => {
            // `BiasAddV1` adds to the last dimension and has no layout.
            (at == 0 && is_channels_last(n) == is_channels_last(product)).then_some(other)
        }
        "Add" | "AddV2" => {
            // A feed has the shape that was declared, which is not known here.
            let shape = product.output_shapes.first()?;
            let columns = shape.dim(shape.rank()?.checked_sub(1)?)?;
            let fits = *ir.shape_of(other)?.dims()? == [Some(columns)];
            (fits && is_channels_last(product)).then_some(other)
        }
        _ => None,
    }
}

/// Makes the last node of a chain the fused one.
fn fuse(ir: &mut Ir, chain: &[usize], bias: Option<Source>) -> Result<()> {
    let parts: Vec<IrNode> = chain.iter().filter_map(|i| ir.node(*i).cloned()).collect();
    let [product, .., _] = &parts[..] else { return Ok(()) };
    let Some((op, kept)) = fused_op(product) else {
        return Ok(());
    };
    let Some(&last) = chain.last() else { return Ok(()) };
    let dtype = product.output_types[0];
    let mut ops = Vec::new();
    if bias.is_some() {
        ops.push("BiasAdd");
    }
    if parts.last().is_some_and(|n| n.def.name() == "Relu") {
        ops.push("Relu");
    }
    let def = registry().get(op)?;
    let mut attrs = Attrs::new();
    for name in kept {
        if let Some(v) = product.attrs.get(name) {
            attrs.set(*name, v.clone());
        }
    }
    attrs.set("T", dtype);
    attrs.set("num_args", usize::from(bias.is_some()));
    attrs.set("fused_ops", ops);
    def.fill_defaults(&mut attrs);
    let mut inputs = product.inputs.clone();
    inputs.extend(bias);
    let control = parts.iter().flat_map(|n| n.control.iter().copied()).collect();
    if let Some(n) = &mut ir.nodes[last] {
        n.name = product.name.clone();
        n.location = product.location;
        n.def = def;
        n.attrs = attrs;
        n.input_types = vec![dtype; inputs.len()];
        n.input_refs = vec![false; inputs.len()];
        n.inputs = inputs;
        n.control = control;
        n.control.sort_unstable();
        n.control.dedup();
    }
    Ok(())
}
