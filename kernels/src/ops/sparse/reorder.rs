//! `SparseReorder`, `SparseReshape`: the same elements in order, and in another shape.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::MAX_RANK;
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::{Sparse, indices_tensor, known_rank, matrix, parts, pick_one};

/// The numbers of `n` rows in row-major order of what is in them; equal rows stay in order.
pub(super) fn order(flat: &[i64], rank: usize, n: usize) -> Vec<usize> {
    let row = |k: usize| &flat[k * rank..][..rank];
    let mut numbers: Vec<usize> = (0..n).collect();
    if (1..n).any(|k| row(k - 1) > row(k)) {
        numbers.sort_by(|a, b| row(*a).cmp(row(*b)));
    }
    numbers
}

fn reorder(cx: &mut OpContext<'_>) -> Result<()> {
    let s = Sparse::at(cx, 0)?;
    let sorted = order(s.indices, s.rank, s.len());
    let flat: Vec<i64> = sorted.iter().flat_map(|k| s.index(*k)).copied().collect();
    let (indices, values) = (
        indices_tensor(s.len(), s.rank, &flat)?,
        pick_one(cx, s.values, &sorted)?,
    );
    cx.set_output(0, indices);
    cx.set_output(1, values);
    Ok(())
}

fn reorder_op() -> OpDef {
    OpDef::new("SparseReorder", Category::Sparse)
        .doc("The elements of a sparse tensor in row-major order.")
        .input("input_indices: int64")
        .input("input_values: T")
        .input("input_shape: int64")
        .output("output_indices: int64")
        .output("output_values: T")
        .attr("T: type")
        .shape(|cx| {
            let rank = known_rank(cx, 0)?;
            let n = cx.input(0).sub(0, 1).merge(&cx.input(1))?;
            Ok(parts(n.dim(0), rank)[..2].to_vec())
        })
        .gradient(|cx, dys| {
            let g = cx.graph();
            let indices = cx.input(0)?;
            let zero = g.constant(0i32)?;
            let n = indices.shape_op()?.gather(&zero, 0)?;
            let numbers = g
                .op("Range")
                .input(&zero)
                .input(&n)
                .input(&g.constant(1i32)?)
                .output()?;
            let sorted = g
                .op("SparseReorder")
                .input(&indices)
                .input(&numbers)
                .input(&cx.input(2)?)
                .finish()?;
            let back = sorted.output(1)?.unary("InvertPermutation")?;
            let dx = cx.dense(dys, 1)?.gather(&back, 0)?;
            Ok(vec![None, Some(dx.into()), None])
        })
        .cpu(|_| Ok(Box::new(reorder)))
        .sample(|s| {
            let v = s.normal([3])?;
            s.op("SparseReorder")
                .input(&s.constant([[1i64, 2], [0, 1], [1, 0]])?)
                .input(&v)
                .input(&s.constant([2i64, 3])?)
                .finish()
        })
}

fn product(dims: &[i64]) -> Result<i64> {
    let all = dims.iter().try_fold(1i64, |n, d| n.checked_mul(*d));
    all.ok_or_else(|| Error::invalid(format!("shape {dims:?} has too many elements")))
}

/// The shape that `asked` means for a tensor of shape `from`: one dimension of it may be -1, what is left.
fn resolved(from: &[i64], asked: &[i64]) -> Result<Vec<i64>> {
    if let Some(d) = asked.iter().find(|d| **d < -1) {
        return Err(Error::invalid(format!(
            "dimension {d} of the new shape must be non-negative"
        )));
    }
    if asked.iter().filter(|d| **d == -1).count() > 1 {
        return Err(Error::invalid(format!(
            "only one dimension of the new shape {asked:?} may be -1"
        )));
    }
    let total = product(from)?;
    let mut out = asked.to_vec();
    if let Some(open) = out.iter_mut().find(|d| **d == -1) {
        *open = 1;
        let rest = product(&out)?;
        if rest == 0 {
            return Err(Error::invalid(
                "reshape cannot infer the missing dimension of an empty tensor unless all others are non-zero",
            ));
        }
        if total % rest != 0 {
            return Err(Error::invalid(format!(
                "a sparse tensor of {total} dense values cannot take the shape {asked:?}, which needs a multiple of {rest}"
            )));
        }
        if let Some(i) = asked.iter().position(|d| *d == -1) {
            out[i] = total / rest;
        }
    }
    if product(&out)? != total {
        return Err(Error::invalid(format!(
            "a tensor of shape {from:?} with {total} dense values cannot take the shape {asked:?}"
        )));
    }
    Ok(out)
}

fn reshape(cx: &mut OpContext<'_>) -> Result<()> {
    let (indices, from, to) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (n, rank) = matrix(indices, "input_indices")?;
    if from.shape().dims() != [rank] || to.shape().rank() != 1 || to.len() > MAX_RANK {
        return Err(Error::invalid(format!(
            "indices, shape and new shape of shapes {}, {} and {} do not fit each other",
            indices.shape(),
            from.shape(),
            to.shape()
        )));
    }
    let from = from.as_slice::<i64>()?;
    if let Some(d) = from.iter().find(|d| **d < 0) {
        return Err(Error::invalid(format!("the shape has the negative dimension {d}")));
    }
    let to = resolved(from, to.as_slice()?)?;
    if n > 0 && product(&to)? == 0 {
        return Err(Error::invalid(format!(
            "a tensor of shape {from:?} cannot have {n} elements"
        )));
    }
    let flat = indices.as_slice::<i64>()?;
    let mut out = vec![0i64; n * to.len()];
    for k in 0..n {
        let at = &flat[k * rank..][..rank];
        let place = at
            .iter()
            .zip(from)
            .try_fold(0i64, |p, (i, d)| p.checked_mul(*d)?.checked_add(*i));
        let mut place = place.ok_or_else(|| Error::invalid(format!("index {at:?} is out of bounds of {from:?}")))?;
        let row = &mut out[k * to.len()..][..to.len()];
        for (i, (o, d)) in row.iter_mut().zip(&to).enumerate().rev() {
            // An index outside of the shape stays outside in the first dimension.
            (*o, place) = if i == 0 {
                (place, 0)
            } else {
                (place.rem_euclid(*d), place.div_euclid(*d))
            };
        }
    }
    let indices = indices_tensor(n, to.len(), &out)?;
    cx.set_output(0, indices);
    cx.set_output(1, Tensor::vector(&to));
    Ok(())
}

fn reshape_op() -> OpDef {
    OpDef::new("SparseReshape", Category::Sparse)
        .doc("The indices of the elements of a sparse tensor in another shape with as many elements.")
        .input("input_indices: int64")
        .input("input_shape: int64")
        .input("new_shape: int64")
        .output("output_indices: int64")
        .output("output_shape: int64")
        .shape(|cx| {
            let (indices, from, to) = (
                cx.input(0).with_rank(2)?,
                cx.input(1).with_rank(1)?,
                cx.input(2).with_rank(1)?,
            );
            indices.sub(1, 2).merge(&from)?;
            Ok(vec![PartialShape::new(vec![indices.dim(0), to.dim(0)]), to])
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(reshape)))
}

register_ops!(reorder_op, reshape_op);
