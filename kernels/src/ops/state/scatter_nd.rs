//! `ScatterNdUpdate`, `ScatterNdAdd` and their kin on references and resource variables.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::Variable;
use actorflow_core::{Shape, Tensor, register_ops};

use super::arith::Update;
use super::rows::{Reach, Rows, index_error, make};
use crate::ops::array::support::ints;

/// The last dimension of the indices names an element or a slice of the variable.
struct BySlice {
    /// Whether indices out of range are skipped instead of refused.
    ignore: bool,
}

/// The number of slice that each index names in a tensor of shape `dims`, and the length of a slice.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the index that is out of range, unless these are ignored ([`Rows::SKIP`]); for indices
/// with more components than the tensor has dimensions.
pub(super) fn slices(dims: &Shape, indices: &Tensor, ignore: bool) -> Result<(Vec<usize>, usize)> {
    let Some((&depth, outer)) = indices.shape().split_last() else {
        return Err(Error::invalid("the indices must be at least a vector, got a scalar"));
    };
    if depth > dims.rank() {
        return Err(Error::invalid(format!(
            "indices of shape {} have {depth} components, but the tensor of shape {dims} has {} dimensions",
            indices.shape(),
            dims.rank()
        )));
    }
    let (named, rest) = dims.split_at(depth);
    let len: usize = rest.iter().product();
    // With no component, each index names the whole tensor; there may be many of them in no memory at all.
    let count: usize = outer.iter().product();
    let mut picks = Vec::new();
    picks
        .try_reserve_exact(count)
        .map_err(|_| Error::exhausted(format!("there is no memory for {count} indices")))?;
    if depth == 0 {
        picks.resize(count, 0);
        return Ok((picks, len));
    }
    let all = ints(indices)?;
    let pick = |(at, index): (usize, &[i64])| {
        let mut slice = 0;
        for (i, n) in index.iter().zip(named) {
            match usize::try_from(*i) {
                Ok(i) if i < *n => slice = slice * n + i,
                _ if ignore => return Ok(Rows::SKIP),
                _ => {
                    let outer = Shape::new(outer);
                    let range = format!("the range of the tensor's shape {dims}");
                    return Err(index_error(&outer, at, &format!("{index:?}"), &range));
                }
            }
        }
        Ok(slice)
    };
    for index in all.chunks_exact(depth).enumerate() {
        picks.push(pick(index)?);
    }
    Ok((picks, len))
}

impl Reach for BySlice {
    fn rows(&self, var: &Variable, shape: &Shape, indices: &Tensor, updates: &Shape) -> Result<Rows> {
        let (picks, len) = slices(shape, indices, self.ignore)?;
        let depth = indices.shape().last().copied().unwrap_or(0);
        let outer = &indices.shape()[..indices.shape().rank().saturating_sub(1)];
        if !outer.iter().chain(&shape[depth..]).eq(updates.iter()) {
            return Err(Error::invalid(format!(
                "updates must have the indices' outer dimensions followed by the shape of a slice; got updates \
                 {updates}, indices {} and variable {} of shape {shape}",
                indices.shape(),
                var.name()
            )));
        }
        Ok(Rows {
            picks,
            len,
            scalar: false,
        })
    }
}

/// Whether the attribute says that indices out of range are ignored.
pub(super) fn ignores(init: &KernelInit<'_>) -> Result<bool> {
    match init.attrs.str("bad_indices_policy")? {
        "" | "DEFAULT" | "ERROR" => Ok(false),
        "IGNORE" => Ok(true),
        other => Err(Error::invalid(format!(
            "bad_indices_policy must be \"ERROR\" or \"IGNORE\", got {other:?}"
        ))),
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let update = match init.op.rsplit("ScatterNd").next() {
        Some("Add") => Update::Add,
        Some("Sub") => Update::Sub,
        Some("Min") => Update::Min,
        Some("Max") => Update::Max,
        _ => Update::Set,
    };
    let ignore = ignores(init)?;
    make(init, update, init.input_types.get(2).copied(), BySlice { ignore })
}

fn definition((name, doc): (&'static str, &'static str)) -> OpDef {
    let is_ref = name.starts_with("Scatter");
    let update = name.ends_with("Update");
    let mut def = OpDef::new(name, Category::State)
        .doc(doc)
        .input(if is_ref { "ref: Ref(T)" } else { "ref: resource" })
        .input("indices: Tindices")
        .input("updates: T");
    if is_ref {
        def = def.output("output_ref: Ref(T)");
    }
    def.attr(if is_ref && !update { "T: numbertype" } else { "T: type" })
        .attr("Tindices: {int32, int64}")
        .attr(if is_ref && !update {
            "use_locking: bool = false"
        } else {
            "use_locking: bool = true"
        })
        .attr("bad_indices_policy: string = ''")
        .shape(|cx| Ok(vec![cx.input(0); cx.num_outputs()]))
        .stateful()
        .not_differentiable()
        .cpu(kernel)
}

fn ops() -> Vec<OpDef> {
    [
        ("ScatterNdUpdate", "Replaces elements or slices of the variable."),
        (
            "ScatterNdAdd",
            "Adds to elements or slices of the variable; they may repeat.",
        ),
        (
            "ScatterNdSub",
            "Subtracts from elements or slices of the variable; they may repeat.",
        ),
        (
            "ScatterNdMin",
            "Lowers elements or slices of the variable to the updates.",
        ),
        (
            "ScatterNdMax",
            "Raises elements or slices of the variable to the updates.",
        ),
        (
            "ResourceScatterNdUpdate",
            "Replaces elements or slices of the variable.",
        ),
        (
            "ResourceScatterNdAdd",
            "Adds to elements or slices of the variable; they may repeat.",
        ),
        (
            "ResourceScatterNdSub",
            "Subtracts from elements or slices of the variable; they may repeat.",
        ),
        (
            "ResourceScatterNdMin",
            "Lowers elements or slices of the variable to the updates.",
        ),
        (
            "ResourceScatterNdMax",
            "Raises elements or slices of the variable to the updates.",
        ),
    ]
    .map(definition)
    .into()
}

register_ops!(all ops);
