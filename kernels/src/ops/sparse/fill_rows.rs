//! `SparseFillEmptyRows`, `SparseFillEmptyRowsGrad`, and the same for ragged tensors.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, dispatch, register_ops};

use super::number::Number;
use super::{Sparse, indices_tensor, parts, pick};
use crate::{moves, shapes};

/// Where the elements of rows go if every empty row gets one more.
struct Filled {
    /// For each element of the result, the element of the input it is, and its row.
    from: Vec<(Option<usize>, usize)>,
    empty: Vec<bool>,
    /// Where each element of the input went.
    map: Vec<i64>,
}

/// Elements keep their order within a row.
fn fill(cx: &OpContext<'_>, n: usize, rows: i64, row_of: impl Fn(usize) -> i64) -> Result<Filled> {
    let count = usize::try_from(rows).map_err(|_| Error::invalid(format!("the number of rows {rows} is negative")))?;
    if count == 0 && n > 0 {
        return Err(Error::invalid(format!("there are no rows, but {n} elements in them")));
    }
    let mut counts: Vec<usize> = moves::list(cx, count)?;
    counts.resize(count, 0);
    for k in 0..n {
        let row = row_of(k);
        match usize::try_from(row).ok().and_then(|r| counts.get_mut(r)) {
            Some(c) => *c += 1,
            None => {
                return Err(Error::invalid(format!(
                    "element {k} is in row {row}, but there are {rows} rows"
                )));
            }
        }
    }
    let empty: Vec<bool> = counts.iter().map(|c| *c == 0).collect();
    let mut from = Vec::with_capacity(n + empty.iter().filter(|e| **e).count());
    let mut next = counts;
    for (row, c) in next.iter_mut().enumerate() {
        let start = from.len();
        from.extend(std::iter::repeat_n((None, row), (*c).max(1)));
        *c = start;
    }
    let mut map = Vec::with_capacity(n);
    for k in 0..n {
        let row = row_of(k) as usize;
        from[next[row]].0 = Some(k);
        map.push(next[row] as i64);
        next[row] += 1;
    }
    Ok(Filled { from, empty, map })
}

/// The values of the result: those of the input, and `default` in what were empty rows.
fn filled_values(cx: &OpContext<'_>, f: &Filled, values: &Tensor, default: &Tensor) -> Result<Tensor> {
    if !default.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "default_value must be a scalar, saw shape {}",
            default.shape()
        )));
    }
    let at: Vec<_> = f.from.iter().map(|(k, _)| k.map_or((1, 0), |k| (0, k))).collect();
    pick(cx, &[values, default], &at)
}

fn fill_sparse(cx: &mut OpContext<'_>) -> Result<()> {
    let s = Sparse::at(cx, 0)?;
    if s.rank == 0 {
        return Err(Error::invalid("the dense shape cannot be empty"));
    }
    let f = fill(cx, s.len(), s.shape[0], |k| s.index(k)[0])?;
    let mut flat = Vec::with_capacity(f.from.len() * s.rank);
    for (k, row) in &f.from {
        match k {
            Some(k) => flat.extend_from_slice(s.index(*k)),
            None => {
                flat.push(*row as i64);
                flat.extend(std::iter::repeat_n(0, s.rank - 1));
            }
        }
    }
    let values = filled_values(cx, &f, s.values, cx.input(3)?)?;
    let indices = indices_tensor(f.from.len(), s.rank, &flat)?;
    cx.set_output(0, indices);
    cx.set_output(1, values);
    cx.set_output(2, Tensor::vector(&f.empty));
    cx.set_output(3, Tensor::vector(&f.map));
    Ok(())
}

fn fill_ragged(cx: &mut OpContext<'_>) -> Result<()> {
    let (rows, values, n) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if rows.shape().rank() != 1 || rows.shape() != values.shape() || !n.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "value_rowids and values must be vectors of one length and nrows a scalar; got shapes {}, {} and {}",
            rows.shape(),
            values.shape(),
            n.shape()
        )));
    }
    let ids = rows.as_slice::<i64>()?;
    let f = fill(cx, ids.len(), n.to_i64()?, |k| ids[k])?;
    let out: Vec<i64> = f.from.iter().map(|(_, row)| *row as i64).collect();
    let values = filled_values(cx, &f, values, cx.input(3)?)?;
    cx.set_output(0, Tensor::vector(&out));
    cx.set_output(1, values);
    cx.set_output(2, Tensor::vector(&f.empty));
    cx.set_output(3, Tensor::vector(&f.map));
    Ok(())
}

/// Of the values and of the default, which are inputs 1 and 3.
fn gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let grads = cx
        .graph()
        .op(op)
        .input(&cx.output(3)?)
        .input(&cx.dense(dys, 1)?)
        .finish()?;
    Ok(vec![
        None,
        Some(grads.output(0)?.into()),
        None,
        Some(grads.output(1)?.into()),
    ])
}

fn sparse_op() -> OpDef {
    OpDef::new("SparseFillEmptyRows", Category::Sparse)
        .doc("A sparse tensor with a default value at the start of every row that was empty.")
        .input("indices: int64")
        .input("values: T")
        .input("dense_shape: int64")
        .input("default_value: T")
        .output("output_indices: int64")
        .output("output_values: T")
        .output("empty_row_indicator: bool")
        .output("reverse_index_map: int64")
        .attr("T: type")
        .shape(|cx| {
            let rank = super::known_rank(cx, 0)?;
            cx.input(3).with_rank(0)?;
            let mut out = parts(None, rank);
            out[2] = PartialShape::vector(cx.constant_shape(2)?.dim(0));
            out.push(PartialShape::vector(cx.input(0).dim(0)));
            Ok(out)
        })
        .gradient(|cx, dys| gradient(cx, dys, "SparseFillEmptyRowsGrad"))
        .cpu(|_| Ok(Box::new(fill_sparse)))
        .sample(|s| {
            let (v, d) = (s.normal([3])?, s.normal([])?);
            s.op("SparseFillEmptyRows")
                .input(&s.constant([[3i64, 1], [1, 2], [1, 0]])?)
                .input(&v)
                .input(&s.constant([4i64, 3])?)
                .input(&d)
                .finish()
        })
}

fn ragged_op() -> OpDef {
    OpDef::new("RaggedFillEmptyRows", Category::Sparse)
        .doc("The elements of a ragged tensor's rows with a default value in every row that was empty.")
        .input("value_rowids: int64")
        .input("values: T")
        .input("nrows: int64")
        .input("default_value: T")
        .output("output_value_rowids: int64")
        .output("output_values: T")
        .output("empty_row_indicator: bool")
        .output("reverse_index_map: int64")
        .attr("T: type")
        .shape(|cx| {
            let rows = cx.constant_i64(2).and_then(|n| usize::try_from(n).ok());
            Ok(vec![
                PartialShape::vector(None),
                PartialShape::vector(None),
                PartialShape::vector(rows),
                PartialShape::vector(cx.input(0).with_rank(1)?.dim(0)),
            ])
        })
        .gradient(|cx, dys| gradient(cx, dys, "RaggedFillEmptyRowsGrad"))
        .cpu(|_| Ok(Box::new(fill_ragged)))
        .sample(|s| {
            let (v, d) = (s.normal([3])?, s.normal([])?);
            s.op("RaggedFillEmptyRows")
                .input(&s.constant([3i64, 1, 1])?)
                .input(&v)
                .input(&s.constant(4i64)?)
                .input(&d)
                .finish()
        })
}

fn backward<T: Number>(cx: &mut OpContext<'_>) -> Result<()> {
    let (map, dy) = (cx.input(0)?, cx.input(1)?);
    if map.shape().rank() != 1 || dy.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "reverse_index_map and grad_values must be vectors, saw shapes {} and {}",
            map.shape(),
            dy.shape()
        )));
    }
    let dy = dy.as_slice::<T>()?;
    let (mut seen, mut out) = (vec![false; dy.len()], Vec::with_capacity(map.len()));
    for i in map.as_slice::<i64>()? {
        let at = usize::try_from(*i).ok().filter(|i| *i < dy.len()).ok_or_else(|| {
            Error::invalid(format!(
                "elements of the reverse index map must be in [0, {}) but got {i}",
                dy.len()
            ))
        })?;
        seen[at] = true;
        out.push(dy[at]);
    }
    let rest = dy.iter().zip(&seen).filter(|(_, seen)| !**seen);
    let default = rest.fold(T::default(), |sum, (x, _)| sum.plus(*x));
    cx.set_output(0, Tensor::vector(&out));
    cx.set_output(1, Tensor::scalar(default));
    Ok(())
}

fn grad_def(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Sparse)
        .doc("The gradients of the values and of the default value from that of filled rows.")
        .input("reverse_index_map: int64")
        .input("grad_values: T")
        .output("d_values: T")
        .output("d_default_value: T")
        .attr("T: type")
        .shape(|cx| {
            let mut out = shapes::like_first(cx)?;
            out[1] = PartialShape::scalar();
            Ok(out)
        })
        .cpu(|init| {
            dispatch!(init.input_types[1], T in numbers => Ok(Box::new(backward::<T>)), else Err(init.no_kernel()))
        })
}

fn sparse_grad_op() -> OpDef {
    grad_def("SparseFillEmptyRowsGrad")
}

fn ragged_grad_op() -> OpDef {
    grad_def("RaggedFillEmptyRowsGrad")
}

register_ops!(sparse_op, ragged_op, sparse_grad_op, ragged_grad_op);
