//! `SparseAdd`, `SparseAddGrad`, `SparseSparseMaximum`, `SparseSparseMinimum`: two sparse tensors, element by element.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, dispatch, register_ops};

use super::number::{Number, Ordered};
use super::{Sparse, indices_tensor, known_rank, matrix, parts};

/// An element of the union of two sparse tensors: of the first, of the second, or of both.
type Either = (Option<usize>, Option<usize>);

/// The elements of two sparse tensors in order, as if the elements of both were in order.
fn union(a: &Sparse<'_>, b: &Sparse<'_>) -> Vec<Either> {
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::with_capacity(a.len() + b.len());
    while i < a.len() && j < b.len() {
        let order = a.index(i).cmp(b.index(j));
        out.push((order.is_le().then_some(i), order.is_ge().then_some(j)));
        i += usize::from(order != Ordering::Greater);
        j += usize::from(order != Ordering::Less);
    }
    out.extend((i..a.len()).map(|i| (Some(i), None)));
    out.extend((j..b.len()).map(|j| (None, Some(j))));
    out
}

fn same_shape(a: &Sparse<'_>, b: &Sparse<'_>) -> Result<()> {
    if a.shape != b.shape {
        return Err(Error::invalid(format!(
            "the operands' shapes do not match: {:?} and {:?}",
            a.shape, b.shape
        )));
    }
    Ok(())
}

/// The elements of the union with the values that `f` gives them, where it gives any: their indices and values.
fn combined<T: Number>(
    a: &Sparse<'_>,
    b: &Sparse<'_>,
    f: impl Fn(Option<T>, Option<T>) -> Option<T>,
) -> Result<(Tensor, Tensor)> {
    let (x, y) = (a.values.as_slice::<T>()?, b.values.as_slice::<T>()?);
    let (mut at, mut values) = (Vec::new(), Vec::new());
    for (i, j) in union(a, b) {
        if let Some(v) = f(i.map(|i| x[i]), j.map(|j| y[j])) {
            values.push(v);
            at.extend(i.map(|i| a.index(i)).or(j.map(|j| b.index(j))).unwrap_or(&[]));
        }
    }
    Ok((indices_tensor(values.len(), a.rank, &at)?, Tensor::vector(&values)))
}

fn add<T: Number>(cx: &mut OpContext<'_>) -> Result<()> {
    let (a, b) = (Sparse::at(cx, 0)?, Sparse::at(cx, 3)?);
    same_shape(&a, &b)?;
    let thresh = cx.input(6)?;
    if !thresh.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "the threshold must be a scalar, not of shape {}",
            thresh.shape()
        )));
    }
    let thresh = dispatch!(thresh.dtype(), R in reals => Ordered::to_f64(thresh.to_scalar::<R>()?),
        else return Err(Error::invalid("the threshold must be a real number")));
    let (indices, values) = combined::<T>(&a, &b, |x, y| match (x, y) {
        // Only sums are held against the threshold.
        (Some(x), Some(y)) => Some(x.plus(y)).filter(|s| thresh <= s.size()),
        (x, y) => x.or(y),
    })?;
    let shape = cx.input(2)?.clone();
    cx.set_output(0, indices);
    cx.set_output(1, values);
    cx.set_output(2, shape);
    Ok(())
}

fn add_op() -> OpDef {
    OpDef::new("SparseAdd", Category::Sparse)
        .doc("The sum of two sparse tensors; sums whose magnitude is below the threshold are dropped.")
        .input("a_indices: int64")
        .input("a_values: T")
        .input("a_shape: int64")
        .input("b_indices: int64")
        .input("b_values: T")
        .input("b_shape: int64")
        .input("thresh: Treal")
        .output("sum_indices: int64")
        .output("sum_values: T")
        .output("sum_shape: int64")
        .attr("T: numbertype")
        .attr("Treal: realnumbertype")
        .shape(|cx| {
            let (a, b) = (known_rank(cx, 0)?, known_rank(cx, 3)?);
            Ok(parts(
                None,
                PartialShape::vector(a).merge(&PartialShape::vector(b))?.dim(0),
            ))
        })
        .gradient(|cx, dys| {
            let grads = cx
                .graph()
                .op("SparseAddGrad")
                .input(&cx.dense(dys, 1)?)
                .input(&cx.input(0)?)
                .input(&cx.input(3)?)
                .input(&cx.output(0)?)
                .finish()?;
            let mut all = vec![None; 7];
            all[1] = Some(grads.output(0)?.into());
            all[4] = Some(grads.output(1)?.into());
            Ok(all)
        })
        .cpu(|init| dispatch!(init.input_types[1], T in numbers => Ok(Box::new(add::<T>)), else Err(init.no_kernel())))
        .sample(|s| {
            let (a, b) = (s.normal([3])?, s.normal([2])?);
            let shape = s.constant([2i64, 3])?;
            s.op("SparseAdd")
                .input(&s.constant([[0i64, 1], [1, 0], [1, 2]])?)
                .input(&a)
                .input(&shape)
                .input(&s.constant([[0i64, 1], [1, 1]])?)
                .input(&b)
                .input(&shape)
                .input(&s.scalar(0.0)?)
                .finish()
        })
}

fn add_grad<T: Number>(cx: &mut OpContext<'_>) -> Result<()> {
    let (dy, a, b, sum) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let ((n, rank), of_a, of_b) = (
        matrix(sum, "sum_indices")?,
        matrix(a, "a_indices")?,
        matrix(b, "b_indices")?,
    );
    if dy.shape().dims() != [n] || of_a.1 != rank || of_b.1 != rank {
        return Err(Error::invalid(format!(
            "backprop_val_grad, a_indices, b_indices and sum_indices of shapes {}, {}, {} and {} do not fit each other",
            dy.shape(),
            a.shape(),
            b.shape(),
            sum.shape()
        )));
    }
    let (dy, sum) = (dy.as_slice::<T>()?, sum.as_slice::<i64>()?);
    // Both walk through the sum, in which some elements may be missing.
    let walk = |t: &Tensor, n: usize| -> Result<Tensor> {
        let (at, mut k) = (t.as_slice::<i64>()?, 0);
        let row = |from: &[i64], i: usize| from[i * rank..][..rank].to_vec();
        let mut out = vec![T::default(); n];
        for (i, o) in out.iter_mut().enumerate() {
            let here = row(at, i);
            while k < dy.len() && row(sum, k) < here {
                k += 1;
            }
            if k < dy.len() && row(sum, k) == here {
                *o = dy[k];
            }
        }
        Ok(Tensor::vector(&out))
    };
    let (da, db) = (walk(a, of_a.0)?, walk(b, of_b.0)?);
    cx.set_output(0, da);
    cx.set_output(1, db);
    Ok(())
}

fn add_grad_op() -> OpDef {
    OpDef::new("SparseAddGrad", Category::Sparse)
        .doc("The gradients of the operands of `SparseAdd` from those of the elements of the sum.")
        .input("backprop_val_grad: T")
        .input("a_indices: int64")
        .input("b_indices: int64")
        .input("sum_indices: int64")
        .output("a_val_grad: T")
        .output("b_val_grad: T")
        .attr("T: numbertype")
        .shape(|cx| {
            let rows = |i: usize| -> Result<_> { Ok(PartialShape::vector(cx.input(i).with_rank(2)?.dim(0))) };
            Ok(vec![rows(1)?, rows(2)?])
        })
        .not_differentiable()
        .cpu(|init| {
            dispatch!(init.input_types[0], T in numbers => Ok(Box::new(add_grad::<T>)), else Err(init.no_kernel()))
        })
}

fn extreme<T: Ordered>(cx: &mut OpContext<'_>, largest: bool) -> Result<()> {
    let (a, b) = (Sparse::at(cx, 0)?, Sparse::at(cx, 3)?);
    same_shape(&a, &b)?;
    let (indices, values) = combined::<T>(&a, &b, |x, y| {
        let (x, y) = (x.unwrap_or_default(), y.unwrap_or_default());
        Some(if x.above(y) == largest || x == y { x } else { y })
    })?;
    cx.set_output(0, indices);
    cx.set_output(1, values);
    Ok(())
}

fn extreme_def(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Sparse)
        .input("a_indices: int64")
        .input("a_values: T")
        .input("a_shape: int64")
        .input("b_indices: int64")
        .input("b_values: T")
        .input("b_shape: int64")
        .output("output_indices: int64")
        .output("output_values: T")
        .attr("T: realnumbertype")
        .shape(|cx| {
            let (a, b) = (known_rank(cx, 0)?, known_rank(cx, 3)?);
            let rank = PartialShape::vector(a).merge(&PartialShape::vector(b))?.dim(0);
            Ok(parts(None, rank)[..2].to_vec())
        })
}

fn maximum() -> OpDef {
    extreme_def("SparseSparseMaximum")
        .doc("The larger of the elements of two sparse tensors; what is missing counts as 0.")
        .cpu(|init| {
            dispatch!(init.input_types[1], T in reals => {
                Ok(Box::new(|cx: &mut OpContext<'_>| extreme::<T>(cx, true)))
            }, else Err(init.no_kernel()))
        })
}

fn minimum() -> OpDef {
    extreme_def("SparseSparseMinimum")
        .doc("The smaller of the elements of two sparse tensors; what is missing counts as 0.")
        .cpu(|init| {
            dispatch!(init.input_types[1], T in reals => {
                Ok(Box::new(|cx: &mut OpContext<'_>| extreme::<T>(cx, false)))
            }, else Err(init.no_kernel()))
        })
}

register_ops!(add_op, add_grad_op, maximum, minimum);
