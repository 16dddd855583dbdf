//! `ResourceGather`, `ResourceGatherNd`: reading rows and slices of a resource variable.

#![forbid(unsafe_code)]

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{GradContext, IndexedSlices};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Output, PartialShape, Shape, Tensor, register_ops};

use super::access;
use super::rows::index_error;
use super::scatter_nd::slices;
use crate::moves::{self, Fill, Rows};
use crate::ops::array::support::ints;

/// Reads the variable's value, which stays as it is while it is read even if the variable changes.
fn value(cx: &OpContext<'_>, dtype: DType) -> Result<Tensor> {
    let var = cx.variable(0)?;
    let state = access::state(cx.held(), &var, dtype)?;
    access::existing(&var, &state, false).cloned()
}

struct Gather {
    dtype: DType,
    batch_dims: i64,
}

impl Kernel for Gather {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let value = value(cx, self.dtype)?;
        let indices = cx.input(1)?;
        let (dims, of) = (value.shape().dims(), indices.shape().dims());
        let batch = match self.batch_dims {
            b if b < 0 => b + of.len() as i64,
            b => b,
        };
        let batch = usize::try_from(batch)
            .ok()
            .filter(|b| *b <= of.len() && *b < dims.len() && dims[..*b] == of[..*b])
            .ok_or_else(|| {
                Error::invalid(format!(
                    "cannot gather from shape {} by indices of shape {} with {} batch dimensions",
                    value.shape(),
                    indices.shape(),
                    self.batch_dims
                ))
            })?;
        let (n, inner) = (dims[batch], &dims[batch + 1..]);
        let shape: Shape = dims[..batch].iter().chain(&of[batch..]).chain(inner).copied().collect();
        let each: usize = of[batch..].iter().product();
        let pick = |(at, i): (usize, i64)| match usize::try_from(i) {
            Ok(i) if i < n => Ok(at / each * n + i),
            _ => Err(index_error(indices.shape(), at, &i.to_string(), &format!("[0, {n})"))),
        };
        let picks: Vec<usize> = ints(indices)?
            .into_iter()
            .enumerate()
            .map(pick)
            .collect::<Result<_>>()?;
        let rows = Rows {
            row: inner.iter().product(),
            picks: &picks,
        };
        let t = moves::build(cx, self.dtype, shape, Fill::Any, &[&value], &rows)?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn gather_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (params, indices) = (cx.variable_shape(0).with_rank_at_least(1)?, cx.input(1));
    let (Some(rank), Some(depth)) = (params.rank(), indices.rank()) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let batch = match cx.attrs().int("batch_dims")? {
        b if b < 0 => b + depth as i64,
        b => b,
    };
    let batch = usize::try_from(batch).ok().filter(|b| *b <= depth && *b < rank);
    let batch = batch.ok_or_else(|| {
        Error::invalid(format!(
            "batch_dims must be at most the rank of indices {indices} and less than that of {params}"
        ))
    })?;
    let outer = params.sub(0, batch).merge(&indices.sub(0, batch))?;
    Ok(vec![
        outer
            .concat(&indices.sub(batch, depth))
            .concat(&params.sub(batch + 1, rank)),
    ])
}

/// The elements of vector `v` from the second on.
fn tail(v: &Output) -> Result<Output> {
    let g = v.graph();
    let (one, zero) = (g.constant([1i32])?, g.constant([0i32])?);
    g.op("StridedSlice")
        .input(v)
        .input(&one)
        .input(&zero)
        .input(&one)
        .attr("end_mask", 1i64)
        .output()
}

/// The gradient of the rows, as slices of the variable.
fn gather_grad(cx: &GradContext, dys: &[Option<actorflow_core::gradient::Grad>]) -> GradResult {
    let (handle, indices) = (cx.input(0)?, cx.input(1)?);
    let g = cx.graph();
    let shape = g.op("VariableShape").input(&handle).output()?;
    let count = indices.size_op()?.expand_dims(0)?;
    let rows = g.concat(&[count.clone(), tail(&shape)?], 0)?;
    Ok(vec![
        Some(
            IndexedSlices {
                values: cx.dense(dys, 0)?.reshape_to(&rows)?,
                indices: indices.reshape_to(&count)?,
                dense_shape: shape,
            }
            .into(),
        ),
        None,
    ])
}

type GradResult = Result<Vec<Option<actorflow_core::gradient::Grad>>>;

fn resource_gather() -> OpDef {
    OpDef::new("ResourceGather", Category::State)
        .doc("Rows of the resource variable.")
        .input("resource: resource")
        .input("indices: Tindices")
        .output("output: dtype")
        .attr("batch_dims: int = 0")
        .attr("validate_indices: bool = true")
        .attr("dtype: type")
        .attr("Tindices: {int32, int64}")
        .shape(gather_shape)
        .stateful()
        .gradient(gather_grad)
        .cpu(|init: &KernelInit<'_>| {
            Ok(Box::new(Gather {
                dtype: init.attrs.dtype("dtype")?,
                batch_dims: init.attrs.int("batch_dims")?,
            }))
        })
}

struct GatherNd(DType);

impl Kernel for GatherNd {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let value = value(cx, self.0)?;
        let indices = cx.input(1)?;
        let (picks, len) = slices(value.shape(), indices, false)?;
        let (depth, outer) = match indices.shape().split_last() {
            Some((d, outer)) => (*d, outer),
            None => (0, &[][..]),
        };
        let shape: Shape = outer.iter().chain(&value.shape()[depth..]).copied().collect();
        let rows = Rows {
            row: len,
            picks: &picks,
        };
        let t = moves::build(cx, self.0, shape, Fill::Any, &[&value], &rows)?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn gather_nd_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (params, indices) = (cx.variable_shape(0), cx.input(1).with_rank_at_least(1)?);
    let (Some(rank), Some(outer)) = (params.rank(), indices.rank().map(|r| r - 1)) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let Some(depth) = indices.dim(outer) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    if depth > rank {
        return Err(Error::invalid(format!(
            "indices {indices} have {depth} components, more than the rank of {params}"
        )));
    }
    Ok(vec![indices.sub(0, outer).concat(&params.sub(depth, rank))])
}

fn gather_nd_grad(cx: &GradContext, dys: &[Option<actorflow_core::gradient::Grad>]) -> GradResult {
    let (handle, indices) = (cx.input(0)?, cx.input(1)?);
    let g = cx.graph();
    let shape = g.op("VariableShape").input(&handle).attr("out_type", indices.dtype());
    let shape = shape.output()?;
    let dy = cx.dense(dys, 0)?;
    let known = indices.shape();
    let grad = if known.rank() == Some(2) && known.dim(1) == Some(1) {
        IndexedSlices {
            values: dy,
            indices: indices.squeeze(&[-1])?,
            dense_shape: shape,
        }
        .into()
    } else {
        let sum = g.op("ScatterNd").input(&indices).input(&dy).input(&shape);
        sum.output()?.into()
    };
    Ok(vec![Some(grad), None])
}

fn resource_gather_nd() -> OpDef {
    OpDef::new("ResourceGatherNd", Category::State)
        .doc("Elements or slices of the resource variable.")
        .input("resource: resource")
        .input("indices: Tindices")
        .output("output: dtype")
        .attr("dtype: type")
        .attr("Tindices: {int32, int64}")
        .shape(gather_nd_shape)
        .stateful()
        .gradient(gather_nd_grad)
        .cpu(|init: &KernelInit<'_>| Ok(Box::new(GatherNd(init.attrs.dtype("dtype")?))))
}

register_ops!(resource_gather, resource_gather_nd);
