//! `RaggedGather`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext, IndexedSlices};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::{inner, splits_of};
use crate::moves::{self, Fill, Item, Shuffle};
use crate::ops::array::support::index_vector;

/// Ranges of rows of the source, one behind the other.
pub(super) struct Ranges<'a> {
    pub(super) ranges: &'a [(usize, usize)],
    pub(super) inner: usize,
}

impl Shuffle for Ranges<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        let outside = || Error::internal("a range lies outside of its source");
        let (from, mut at) = (sources.first().copied().unwrap_or(&[]), 0);
        for (a, b) in self.ranges {
            let part = from.get(a * self.inner..b * self.inner).ok_or_else(outside)?;
            out.get_mut(at..at + part.len())
                .ok_or_else(outside)?
                .clone_from_slice(part);
            at += part.len();
        }
        Ok(())
    }
}

/// The rows of `values` that the ranges name.
pub(super) fn take_ranges(cx: &OpContext<'_>, values: &Tensor, ranges: &[(usize, usize)]) -> Result<Tensor> {
    let row = inner(values);
    let rows = ranges.iter().try_fold(0usize, |n, (a, b)| n.checked_add(b - a));
    let rows = rows.ok_or_else(|| Error::invalid("there are too many rows"))?;
    let shape: Shape = std::iter::once(rows).chain(row.iter().copied()).collect();
    let size = shape.checked_count()?;
    if size == 0 {
        return match values.dtype() {
            DType::Variant => Tensor::variants(shape, Vec::new()),
            DType::Resource => Tensor::resources(shape, Vec::new()),
            d => moves::zeros(cx, d, shape),
        };
    }
    let inner = row.count();
    moves::build(
        cx,
        values.dtype(),
        shape,
        Fill::Any,
        &[values],
        &Ranges { ranges, inner },
    )
}

fn run(cx: &mut OpContext<'_>, params: usize, out_type: DType) -> Result<()> {
    let mut splits = Vec::with_capacity(params);
    for i in 0..params {
        splits.push(splits_of(cx.input(i)?)?);
    }
    let (values, indices) = (cx.input(params)?.clone(), cx.input(params + 1)?);
    let rows = match values.shape().dims() {
        [n, ..] => *n,
        [] => return Err(Error::invalid("params_dense_values must be at least a vector")),
    };
    for (i, s) in splits.iter().enumerate() {
        let below = splits.get(i + 1).map_or(rows, |next| next.len().saturating_sub(1));
        if s.last().is_some_and(|last| *last > below as i64) {
            return Err(Error::invalid("ragged splits must not point past values"));
        }
    }
    // The dimensions of the indices.
    let dims = indices.shape().dims();
    let mut outs = Vec::new();
    let mut outer = 1usize;
    for w in dims.windows(2) {
        outer *= w[0];
        let mut ends: Vec<i64> = moves::list(cx, outer + 1)?;
        ends.extend((0..=outer).map(|i| (i * w[1]) as i64));
        outs.push(index_vector(out_type, &ends)?);
    }
    let first = splits.first().ok_or_else(|| Error::internal("there are no splits"))?;
    let number = first.len().saturating_sub(1);
    let mut ranges: Vec<(usize, usize)> = moves::list(cx, indices.len())?;
    for (k, i) in indices.to_i64_vec()?.into_iter().enumerate() {
        match usize::try_from(i).ok().filter(|i| *i < number) {
            Some(i) => ranges.push((i, i + 1)),
            None => return Err(Error::invalid(format!("indices[{k}] = {i} is not in [0, {number})"))),
        }
    }
    for s in &splits {
        let total = ranges.iter().try_fold(0usize, |n, (a, b)| n.checked_add(b - a));
        let total = total.ok_or_else(|| Error::invalid("there are too many rows"))?;
        let (mut ends, mut at) = (moves::list::<i64>(cx, total + 1)?, 0);
        ends.push(0);
        for (a, b) in &mut ranges {
            for r in *a..*b {
                at += s[r + 1] - s[r];
                ends.push(at);
            }
            // An empty range of an empty list begins nowhere.
            let start = |r: usize| s.get(r).copied().unwrap_or(0) as usize;
            (*a, *b) = (start(*a), start(*b));
        }
        outs.push(index_vector(out_type, &ends)?);
    }
    // The rows of a scalar index are the result itself.
    let skip = usize::from(dims.is_empty());
    let dense = take_ranges(cx, &values, &ranges)?;
    let n = outs.len() - skip;
    outs.into_iter()
        .skip(skip)
        .enumerate()
        .for_each(|(i, t)| cx.set_output(i, t));
    cx.set_output(n, dense);
    Ok(())
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let g = cx.graph();
    let params = cx.num_inputs() - 2;
    let mut ends = cx.input(0)?;
    for i in 1..params {
        ends = cx.input(i)?.gather(&ends, 0)?;
    }
    let (values, indices) = (cx.input(params)?, cx.input(params + 1)?.reshape(&[-1])?);
    let next = g
        .op("Slice")
        .input(&ends)
        .input(&g.constant([1i32])?)
        .input(&g.constant([-1i32])?)
        .output()?;
    let rows = g
        .op("RaggedRange")
        .input(&ends.gather(&indices, 0)?)
        .input(&next.gather(&indices, 0)?)
        .input(&ends.scalar_like(1.0)?)
        .finish()?
        .output(1)?;
    let mut all = vec![None; params + 2];
    let last = cx.node().num_outputs() - 1;
    all[params] = Some(
        IndexedSlices {
            values: cx.dense(dys, last)?,
            indices: rows,
            dense_shape: values.shape_op()?,
        }
        .into(),
    );
    Ok(all)
}

fn ragged_gather() -> OpDef {
    OpDef::new("RaggedGather", Category::Sparse)
        .doc("The rows of a ragged tensor that indices name.")
        .input("params_nested_splits: PARAMS_RAGGED_RANK * Tsplits")
        .input("params_dense_values: Tvalues")
        .input("indices: Tindices")
        .output("output_nested_splits: OUTPUT_RAGGED_RANK * Tsplits")
        .output("output_dense_values: Tvalues")
        .attr("Tvalues: type")
        .attr("Tindices: {int32, int64}")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .attr("PARAMS_RAGGED_RANK: int >= 1")
        .attr("OUTPUT_RAGGED_RANK: int >= 0")
        .shape(|cx| {
            let params = cx.num_inputs() - 2;
            let indices = cx.input(params + 1);
            if let Some(rank) = indices.rank() {
                let want = (params + rank).checked_sub(1);
                if want != Some(cx.num_outputs() - 1) {
                    return Err(Error::invalid(format!(
                        "OUTPUT_RAGGED_RANK must be PARAMS_RAGGED_RANK + rank(indices) - 1 = {want:?}, not {}",
                        cx.num_outputs() - 1
                    )));
                }
            }
            let values = cx.input(params).with_rank_at_least(1)?;
            let mut out = vec![PartialShape::vector(None); cx.num_outputs() - 1];
            out.push(values.with_dim(0, None));
            Ok(out)
        })
        .gradient(gradient)
        .cpu(|init| {
            let params = usize::try_from(init.attrs.int("PARAMS_RAGGED_RANK")?).unwrap_or(0);
            let outs = usize::try_from(init.attrs.int("OUTPUT_RAGGED_RANK")?).unwrap_or(0);
            let splits = init.attrs.dtype("Tsplits")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let rank = cx.input(params + 1)?.shape().rank();
                if outs + 1 != params + rank {
                    return Err(Error::invalid(format!(
                        "OUTPUT_RAGGED_RANK is {outs}, but the result has {} ragged dimensions",
                        (params + rank).saturating_sub(1)
                    )));
                }
                run(cx, params, splits)
            }))
        })
        .sample(|s| {
            let v = s.normal([5])?;
            s.op("RaggedGather")
                .input_list(&[s.constant([0i64, 1, 3])?, s.constant([0i64, 2, 2, 5])?])
                .input(&v)
                .input(&s.constant([1i64, 0, 1])?)
                .attr("OUTPUT_RAGGED_RANK", 2)
                .finish()
        })
        .sample(|s| {
            let v = s.normal([5, 2])?;
            s.op("RaggedGather")
                .input_list(&[s.constant([0i64, 2, 2, 5])?])
                .input(&v)
                .input(&s.constant(2i64)?)
                .attr("OUTPUT_RAGGED_RANK", 0)
                .finish()
        })
}

register_ops!(ragged_gather);
