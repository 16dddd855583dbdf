//! `SparseReduceSum`, `SparseReduceMax`, `SparseReduceSumSparse`, `SparseReduceMaxSparse`, `SparseSoftmax`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{DType, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::dense::gather_nd;
use super::number::{Number, Ordered};
use super::reorder::order;
use super::{Sparse, indices_tensor, known_rank, parts};

/// Which dimensions a node reduces.
fn reduced(cx: &OpContext<'_>, rank: usize) -> Result<Vec<bool>> {
    let mut out = vec![false; rank];
    for a in cx.input(3)?.to_i64_vec()? {
        let at = resolve_axis(a, rank).map_err(|_| {
            Error::invalid(format!(
                "invalid reduction dimension {a} for an input with {rank} dimensions"
            ))
        })?;
        out[at] = true;
    }
    Ok(out)
}

/// The index of an element among the results.
fn key(at: &[i64], reduced: &[bool]) -> Vec<i64> {
    at.iter().zip(reduced).filter(|(_, r)| !**r).map(|(i, _)| *i).collect()
}

/// The shape of the results, in which reduced dimensions are 1 if they are kept.
fn result_shape(s: &Sparse<'_>, reduced: &[bool], keep: bool) -> Vec<i64> {
    let dims = s.shape.iter().zip(reduced);
    dims.filter(|(_, r)| keep || !**r)
        .map(|(d, r)| if *r { 1 } else { *d })
        .collect()
}

fn groups<T: Number>(s: &Sparse<'_>, reduced: &[bool], join: fn(T, T) -> T) -> Result<BTreeMap<Vec<i64>, T>> {
    let mut out: BTreeMap<Vec<i64>, T> = BTreeMap::new();
    for (k, v) in s.values.as_slice::<T>()?.iter().enumerate() {
        let group = out.entry(key(s.index(k), reduced));
        group.and_modify(|x| *x = join(*x, *v)).or_insert(*v);
    }
    Ok(out)
}

fn to_dense<T: Number>(cx: &mut OpContext<'_>, keep: bool, join: fn(T, T) -> T) -> Result<()> {
    let s = Sparse::at(cx, 0)?;
    let reduced = reduced(cx, s.rank)?;
    let flat = Shape::from_i64(&result_shape(&s, &reduced, false))?;
    flat.checked_count()?;
    let found = groups(&s, &reduced, join)?;
    let shape = Shape::from_i64(&result_shape(&s, &reduced, keep))?;
    let mut out = cx.zeros(T::DTYPE, shape)?;
    let to = out
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    let strides = flat.strides();
    for (at, v) in found {
        if !at.iter().zip(flat.iter()).all(|(i, d)| (0..*d as i64).contains(i)) {
            return Err(Error::internal(format!(
                "an element of the sum is at {at:?}, outside of shape {flat}"
            )));
        }
        to[at.iter().zip(&strides).map(|(i, s)| *i as usize * s).sum::<usize>()] = v;
    }
    cx.set_output(0, out);
    Ok(())
}

fn to_sparse<T: Number>(cx: &mut OpContext<'_>, keep: bool, join: fn(T, T) -> T) -> Result<()> {
    let s = Sparse::at(cx, 0)?;
    let reduced = reduced(cx, s.rank)?;
    let shape = result_shape(&s, &reduced, keep);
    let found = groups(&s, &reduced, join)?;
    let (mut flat, mut values) = (Vec::new(), Vec::with_capacity(found.len()));
    for (at, v) in &found {
        let mut at = at.iter();
        for r in reduced.iter().filter(|r| keep || !**r) {
            flat.push(if *r { 0 } else { at.next().copied().unwrap_or(0) });
        }
        values.push(*v);
    }
    let indices = indices_tensor(values.len(), shape.len(), &flat)?;
    cx.set_output(0, indices);
    cx.set_output(1, Tensor::vector(&values));
    cx.set_output(2, Tensor::vector(&shape));
    Ok(())
}

fn dense_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    known_rank(cx, 0)?;
    let (shape, keep) = (cx.constant_shape(2)?, cx.attrs().bool("keep_dims")?);
    let (Some(rank), Some(axes)) = (shape.rank(), cx.constant_i64s(3)) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let mut dims: Vec<Option<Option<usize>>> = (0..rank).map(|i| Some(shape.dim(i))).collect();
    for a in axes {
        dims[resolve_axis(a, rank)?] = keep.then_some(Some(1));
    }
    Ok(vec![PartialShape::new(dims.into_iter().flatten().collect::<Vec<_>>())])
}

fn sparse_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let rank = known_rank(cx, 0)?;
    Ok(parts(
        None,
        rank.filter(|_| cx.attrs().bool("keep_dims").unwrap_or(false)),
    ))
}

fn definition(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Sparse)
        .input("input_indices: int64")
        .input("input_values: T")
        .input("input_shape: int64")
        .input("reduction_axes: int32")
        .attr("keep_dims: bool = false")
        .attr(types)
}

fn dense(name: &'static str, types: &str) -> OpDef {
    definition(name, types).output("output: T").shape(dense_shape)
}

fn sparse(name: &'static str, types: &str) -> OpDef {
    definition(name, types)
        .output("output_indices: int64")
        .output("output_values: T")
        .output("output_shape: int64")
        .shape(sparse_shape)
}

const NUMBERS: &str = "T: numbertype";
const REALS: &str = "T: realnumbertype";

fn larger<T: Ordered>(x: T, y: T) -> T {
    if y.above(x) { y } else { x }
}

fn sum_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let g = cx.graph();
    let (indices, shape, axes, dy) = (cx.input(0)?, cx.input(2)?, cx.input(3)?, cx.dense(dys, 0)?);
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    let rank = shape.size_op()?;
    let axes = axes.reshape(&[-1])?.plus(&rank)?.modulo(&rank)?;
    let all = g.op("Range").input(&zero).input(&rank).input(&one).output()?;
    let ones = axes.ones_like()?.cast(DType::I64)?;
    // The shape with 1 in the place of what is reduced.
    let kept = g
        .op("DynamicStitch")
        .input_list(&[all, axes])
        .input_list(&[shape.clone(), ones])
        .output()?;
    let scale = shape.floor_div(&kept.maximum(&g.constant(1i64)?)?)?;
    let at = indices.floor_div(&scale.maximum(&g.constant(1i64)?)?)?;
    let dx = gather_nd(&dy.reshape_to(&kept)?, &at)?;
    Ok(vec![None, Some(dx.into()), None, None])
}

fn sum() -> OpDef {
    dense("SparseReduceSum", NUMBERS)
        .doc("The dense sum of a sparse tensor over dimensions.")
        .gradient(sum_grad)
        .cpu(|init| {
            let keep = init.attrs.bool("keep_dims")?;
            dispatch!(init.input_types[1], T in numbers => {
                Ok(Box::new(move |cx: &mut OpContext<'_>| to_dense::<T>(cx, keep, T::plus)))
            }, else Err(init.no_kernel()))
        })
        .sample(|s| {
            let v = s.normal([3])?;
            s.op("SparseReduceSum")
                .input(&s.constant([[0i64, 1], [1, 0], [1, 2]])?)
                .input(&v)
                .input(&s.constant([2i64, 3])?)
                .input(&s.constant([-1i32])?)
                .finish()
        })
        .sample(|s| {
            let v = s.normal([3])?;
            s.op("SparseReduceSum")
                .input(&s.constant([[0i64, 1], [1, 0], [1, 2]])?)
                .input(&v)
                .input(&s.constant([2i64, 3])?)
                .input(&s.constant(0i32)?)
                .attr("keep_dims", true)
                .finish()
        })
}

fn max() -> OpDef {
    dense("SparseReduceMax", REALS)
        .doc("The dense maximum of a sparse tensor over dimensions; 0 where there are no elements.")
        .cpu(|init| {
            let keep = init.attrs.bool("keep_dims")?;
            dispatch!(init.input_types[1], T in reals => {
                Ok(Box::new(move |cx: &mut OpContext<'_>| to_dense::<T>(cx, keep, larger)))
            }, else Err(init.no_kernel()))
        })
}

fn sum_sparse() -> OpDef {
    sparse("SparseReduceSumSparse", NUMBERS)
        .doc("The sparse sum of a sparse tensor over dimensions.")
        .cpu(|init| {
            let keep = init.attrs.bool("keep_dims")?;
            dispatch!(init.input_types[1], T in numbers => {
                Ok(Box::new(move |cx: &mut OpContext<'_>| to_sparse::<T>(cx, keep, T::plus)))
            }, else Err(init.no_kernel()))
        })
}

fn max_sparse() -> OpDef {
    sparse("SparseReduceMaxSparse", REALS)
        .doc("The sparse maximum of a sparse tensor over dimensions.")
        .cpu(|init| {
            let keep = init.attrs.bool("keep_dims")?;
            dispatch!(init.input_types[1], T in reals => {
                Ok(Box::new(move |cx: &mut OpContext<'_>| to_sparse::<T>(cx, keep, larger)))
            }, else Err(init.no_kernel()))
        })
}

fn softmax<T: Ordered>(cx: &mut OpContext<'_>) -> Result<()> {
    let s = Sparse::at(cx, 0)?;
    if s.rank < 2 {
        return Err(Error::invalid(format!(
            "the input should have rank >= 2, but its shape is {:?}",
            s.shape
        )));
    }
    let sorted = order(s.indices, s.rank, s.len());
    let values = s.values.as_slice::<T>()?;
    let row = |k: usize| &s.index(sorted[k])[..s.rank - 1];
    let mut out = Vec::with_capacity(s.len());
    let mut start = 0;
    while start < s.len() {
        let end = (start..s.len()).find(|k| row(*k) != row(start)).unwrap_or(s.len());
        let x = || sorted[start..end].iter().map(|k| values[*k].to_f64());
        let most = x().fold(f64::NEG_INFINITY, |a, b| if b.is_nan() || b > a { b } else { a });
        let total: f64 = x().map(|x| (x - most).exp()).sum();
        out.extend(x().map(|x| T::from_f64((x - most).exp() / total)));
        start = end;
    }
    cx.set_output(0, Tensor::vector(&out));
    Ok(())
}

fn softmax_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let g = cx.graph();
    let (indices, shape, y, dy) = (cx.input(0)?, cx.input(2)?, cx.output(0)?, cx.dense(dys, 0)?);
    let sums = g
        .op("SparseReduceSum")
        .input(&indices)
        .input(&y.times(&dy)?)
        .input(&shape)
        .input(&g.constant([-1i32])?)
        .attr("keep_dims", true)
        .output()?;
    let moved = g
        .op("SparseDenseCwiseAdd")
        .input(&indices)
        .input(&dy)
        .input(&shape)
        .input(&sums.negated()?)
        .output()?;
    Ok(vec![None, Some(moved.times(&y)?.into()), None])
}

fn softmax_op() -> OpDef {
    OpDef::new("SparseSoftmax", Category::Sparse)
        .doc("The softmax of the elements that are there in each row of the last dimension.")
        .input("sp_indices: int64")
        .input("sp_values: T")
        .input("sp_shape: int64")
        .output("output: T")
        .attr("T: {half, float, double}")
        .shape(|cx| {
            known_rank(cx, 0)?;
            Ok(vec![cx.input(1)])
        })
        .gradient(softmax_grad)
        .cpu(|init| {
            dispatch!(init.input_types[1], T in [F16, F32, F64] => Ok(Box::new(softmax::<T>)),
                else Err(init.no_kernel()))
        })
        .sample(|s| {
            let v = s.normal([4])?;
            s.op("SparseSoftmax")
                .input(
                    &s.constant([[0i64, 1], [1, 0], [1, 2], [1, 1]])?
                        .gather(&s.constant([0i32, 1, 3, 2])?, 0)?,
                )
                .input(&v)
                .input(&s.constant([2i64, 3])?)
                .finish()
        })
}

register_ops!(sum, max, sum_sparse, max_sparse, softmax_op);
