//! Values that are known when the graph is built: constants and what follows from them.

use std::sync::Arc;

use super::{Graph, Node, OutputRef};
use crate::actor::local_mailboxes;
use crate::attr::AttrValue;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::files::FilePolicy;
use crate::kernel::{HostDevice, KernelInit, run_alone};
use crate::resource::ResourceManager;
use crate::shape::PartialShape;
use crate::tensor::Tensor;

/// Nodes followed backwards from the one that is asked about.
const MAX_DEPTH: usize = 12;
/// Only small values are computed: they are shapes, axes and indices.
const MAX_ELEMENTS: usize = 4096;

fn node_of(graph: &Graph, r: OutputRef) -> Option<Arc<Node>> {
    graph.read(|d| d.nodes.get(r.node.index()).cloned())
}

/// The value of an output if it follows from constants and known shapes.
pub(crate) fn constant_value(graph: &Graph, r: OutputRef) -> Option<Tensor> {
    value(graph, r, MAX_DEPTH)
}

fn value(graph: &Graph, r: OutputRef, depth: usize) -> Option<Tensor> {
    let node = node_of(graph, r)?;
    match node.op_name() {
        "Const" => return node.attrs().tensor("value").ok().cloned(),
        "Shape" | "Size" | "Rank" => {
            let of = node_of(graph, *node.inputs().first()?)?;
            let shape = of.output_shapes.get(node.inputs().first()?.index as usize)?.clone();
            let list = match node.op_name() {
                "Shape" => shape.to_shape()?.to_i64(),
                "Size" => vec![i64::try_from(shape.count()?).ok()?],
                _ => vec![shape.rank()? as i64],
            };
            let t = match node.output_type(0) {
                DType::I32 => Tensor::vector(
                    &list
                        .iter()
                        .map(|d| i32::try_from(*d).ok())
                        .collect::<Option<Vec<_>>>()?,
                ),
                _ => Tensor::vector(&list),
            };
            return if node.op_name() == "Shape" {
                Some(t)
            } else {
                t.reshape([]).ok()
            };
        }
        _ => {}
    }
    let def = node.def();
    let small = |s: &PartialShape| s.count().is_some_and(|n| n <= MAX_ELEMENTS);
    if depth == 0
        || def.is_stateful()
        || def.is_control_flow()
        || def.cpu_kernel().is_none()
        || node.inputs().is_empty()
        || !node.control_inputs().is_empty()
        || !node.output_shapes.iter().all(small)
        || !node.output_types().iter().all(|t| t.is_plain())
    {
        return None;
    }
    let inputs = node
        .inputs()
        .iter()
        .map(|i| value(graph, *i, depth - 1))
        .collect::<Option<Vec<_>>>()?;
    let resources = ResourceManager::new(local_mailboxes());
    // Building a graph touches no file, whatever its nodes say.
    resources.set_files(FilePolicy::nothing()).ok()?;
    let kernel = def.make_kernel(&KernelInit::of(&node, &resources)).ok()?;
    if kernel.may_suspend() || kernel.needs_claims() {
        return None;
    }
    // A kernel that fails here fails again, with a proper message, when the graph runs.
    let run = || {
        run_alone(
            &*kernel,
            inputs,
            node.num_outputs(),
            Arc::new(HostDevice::default()),
            resources,
        )
    };
    let outs = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok()?.ok()?;
    outs.into_iter().nth(r.index as usize)
}

/// The value of an integer vector as a shape; dimensions that are not known (or -1) are unknown.
pub(crate) fn constant_shape(graph: &Graph, r: OutputRef) -> Result<PartialShape> {
    partial(graph, r, MAX_DEPTH)
}

fn partial(graph: &Graph, r: OutputRef, depth: usize) -> Result<PartialShape> {
    if let Some(t) = value(graph, r, depth) {
        let dims = t.to_i64_vec()?;
        if let Some(d) = dims.iter().find(|d| **d < -1) {
            return Err(Error::invalid(format!("dimension {d} of shape {dims:?} is negative")));
        }
        return Ok(PartialShape::from_i64(&dims));
    }
    let Some(node) = node_of(graph, r) else {
        return Ok(PartialShape::UNKNOWN);
    };
    let of = |i: usize| node.inputs().get(i).and_then(|r| Some((node_of(graph, *r)?, *r)));
    let shape_of = |i: usize| of(i).and_then(|(n, r)| n.output_shapes.get(r.index as usize).cloned());
    Ok(match node.op_name() {
        "Shape" => shape_of(0).unwrap_or_default(),
        _ if depth == 0 => PartialShape::UNKNOWN,
        "Cast" | "Identity" | "StopGradient" => match node.inputs().first() {
            Some(i) => partial(graph, *i, depth - 1)?,
            None => PartialShape::UNKNOWN,
        },
        "Pack" if matches!(node.attrs().get("axis"), Some(AttrValue::Int(0))) => PartialShape::new(
            node.inputs()
                .iter()
                .map(|i| {
                    value(graph, *i, depth - 1)
                        .and_then(|t| t.to_i64().ok())
                        .and_then(|d| usize::try_from(d).ok())
                })
                .collect::<Vec<_>>(),
        ),
        "ConcatV2" => {
            let Some((_, parts)) = node.inputs().split_last() else {
                return Ok(PartialShape::UNKNOWN);
            };
            let mut all = PartialShape::scalar();
            for p in parts {
                all = all.concat(&partial(graph, *p, depth - 1)?);
            }
            all
        }
        _ => match graph
            .read(|_| node.output_shapes.get(r.index as usize).cloned())
            .unwrap_or_default()
            .dim(0)
        {
            Some(rank) if rank <= crate::shape::MAX_RANK => PartialShape::of_rank(rank),
            _ => PartialShape::UNKNOWN,
        },
    })
}
