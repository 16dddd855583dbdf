//! `SparseTensorDenseMatMul`: a sparse matrix times a dense one.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, dispatch, register_ops};

use super::number::Number;
use crate::spread;

fn product<T: Number>(cx: &mut OpContext<'_>, adjoint_a: bool, adjoint_b: bool) -> Result<()> {
    let (indices, values, shape, b) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let shape = match (shape.shape().dims(), shape.as_slice::<i64>()?) {
        ([2], [m, k]) => Shape::from_i64(&[*m, *k])?,
        _ => {
            return Err(Error::invalid(format!(
                "a_shape must have 2 elements, not shape {}",
                shape.shape()
            )));
        }
    };
    let n = match indices.shape().dims() {
        [n, 2] if values.shape().dims() == [*n] => *n,
        _ => {
            return Err(Error::invalid(format!(
                "a_indices and a_values should have shapes [n, 2] and [n], not {} and {}",
                indices.shape(),
                values.shape()
            )));
        }
    };
    let &[rows_b, columns_b] = b.shape().dims() else {
        return Err(Error::invalid(format!("b is not a matrix: it has shape {}", b.shape())));
    };
    let (m, k) = if adjoint_a {
        (shape[1], shape[0])
    } else {
        (shape[0], shape[1])
    };
    let (inner, columns) = if adjoint_b {
        (columns_b, rows_b)
    } else {
        (rows_b, columns_b)
    };
    if k != inner {
        return Err(Error::invalid(format!(
            "cannot multiply A and B because inner dimensions do not match: {k} and {inner}, of shapes {shape} and {}; \
             did you forget a transpose?",
            b.shape()
        )));
    }
    let at = indices.to_i64_vec()?;
    let (values, dense) = (values.as_slice::<T>()?, b.as_slice::<T>()?);
    let mut places = Vec::with_capacity(n);
    for (e, at) in at.chunks_exact(2).enumerate() {
        let (row, column) = if adjoint_a { (at[1], at[0]) } else { (at[0], at[1]) };
        let inside = |i: i64, len: usize| usize::try_from(i).ok().filter(|i| *i < len);
        match (inside(row, m), inside(column, k)) {
            (Some(r), Some(c)) => places.push((r, c)),
            _ => {
                return Err(Error::invalid(format!(
                    "index[{e}] = {at:?} is out of bounds of shape {shape}"
                )));
            }
        }
    }
    let mut out = cx.zeros(T::DTYPE, [m, columns])?;
    let to = out
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    // Every chunk of rows takes its elements out of all of them, in order, so that sums do not depend on the workers.
    let group = (m.div_ceil(8)).max(1);
    let cheap = n.saturating_mul(columns) < 4 * spread::GRAIN;
    let group = if cheap { m.max(1) } else { group };
    spread::chunks(cx.parallel(), to, group * columns, |chunk, to| {
        let rows = chunk * group..(chunk + 1) * group;
        for ((r, c), v) in places.iter().zip(values) {
            if !rows.contains(r) {
                continue;
            }
            let v = if adjoint_a { v.conj() } else { *v };
            let row = &mut to[(r - rows.start) * columns..][..columns];
            if adjoint_b {
                for (j, o) in row.iter_mut().enumerate() {
                    *o = o.plus(v.times(dense[j * columns_b + c].conj()));
                }
            } else {
                for (o, x) in row.iter_mut().zip(&dense[c * columns..][..columns]) {
                    *o = o.plus(v.times(*x));
                }
            }
        }
    });
    cx.set_output(0, out);
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (a, b) = (init.attrs.bool("adjoint_a")?, init.attrs.bool("adjoint_b")?);
    dispatch!(init.input_types[1], T in numbers => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| product::<T>(cx, a, b)))
    }, else Err(init.no_kernel()))
}

fn conj(x: Output) -> Result<Output> {
    match x.dtype().is_complex() {
        true => x.conj_op(),
        false => Ok(x),
    }
}

/// Column `i` of a matrix.
fn column(x: &Output, i: i32) -> Result<Output> {
    x.gather(&x.graph().constant(i)?, 1)
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (indices, values, shape, b) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (adjoint_a, adjoint_b) = (cx.attrs().bool("adjoint_a")?, cx.attrs().bool("adjoint_b")?);
    let dy = cx.dense(dys, 0)?;
    let db = cx
        .graph()
        .op("SparseTensorDenseMatMul")
        .input(&indices)
        .input(&values)
        .input(&shape)
        .input(&dy)
        .attr("adjoint_a", !adjoint_a)
        .output()?;
    let db = if adjoint_b { conj(db.transpose(&[1, 0])?)? } else { db };
    // The product with the adjoint of b, only where a has elements.
    let (rows, columns) = (column(&indices, 0)?, column(&indices, 1)?);
    let (of_dy, of_b) = if adjoint_a { (columns, rows) } else { (rows, columns) };
    let b = if adjoint_b { b.transpose(&[1, 0])? } else { b };
    let (x, y) = (dy.gather(&of_dy, 0)?, b.gather(&of_b, 0)?);
    let x = if adjoint_a { conj(x)? } else { x };
    let y = if adjoint_a == adjoint_b { conj(y)? } else { y };
    let da = x.times(&y)?.sum(&[1], false)?;
    Ok(vec![None, Some(da.into()), None, Some(db.into())])
}

fn sample(s: &mut Sampler, adjoint_a: bool, adjoint_b: bool) -> Result<Operation> {
    let values = s.normal([3])?;
    let inner = if adjoint_a { 2 } else { 3 };
    let b = match adjoint_b {
        true => s.normal([2, inner])?,
        false => s.normal([inner, 2])?,
    };
    s.op("SparseTensorDenseMatMul")
        .input(&s.constant([[0i64, 1], [1, 0], [1, 2]])?)
        .input(&values)
        .input(&s.constant([2i64, 3])?)
        .input(&b)
        .attr("adjoint_a", adjoint_a)
        .attr("adjoint_b", adjoint_b)
        .finish()
}

fn dense_product() -> OpDef {
    OpDef::new("SparseTensorDenseMatMul", Category::Sparse)
        .doc("The product of a sparse matrix and a dense one, either of them adjoint.")
        .input("a_indices: Tindices")
        .input("a_values: T")
        .input("a_shape: int64")
        .input("b: T")
        .output("product: T")
        .attr("T: type")
        .attr("Tindices: {int32, int64} = DT_INT64")
        .attr("adjoint_a: bool = false")
        .attr("adjoint_b: bool = false")
        .shape(|cx| {
            let a = cx.constant_shape(2)?.with_rank(2)?;
            let b = cx.input(3).with_rank(2)?;
            cx.input(0).with_rank(2)?;
            cx.input(1).with_rank(1)?;
            let (m, k) = match cx.attrs().bool("adjoint_a")? {
                true => (a.dim(1), a.dim(0)),
                false => (a.dim(0), a.dim(1)),
            };
            let (inner, n) = match cx.attrs().bool("adjoint_b")? {
                true => (b.dim(1), b.dim(0)),
                false => (b.dim(0), b.dim(1)),
            };
            PartialShape::vector(k).merge(&PartialShape::vector(inner))?;
            Ok(vec![PartialShape::new(vec![m, n])])
        })
        .gradient(gradient)
        .cpu(kernel)
        .sample(|s| sample(s, false, false))
        .sample(|s| sample(s, false, true))
        .sample(|s| sample(s, true, false))
        .sample(|s| sample(s, true, true))
}

register_ops!(dense_product);
