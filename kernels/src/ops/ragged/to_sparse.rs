//! `RaggedTensorToSparse`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::MAX_RANK;
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};

use super::{inner, nested};
use crate::moves;
use crate::ops::sparse::indices_tensor;

fn run(cx: &mut OpContext<'_>, ragged: usize) -> Result<()> {
    let splits = (0..ragged).map(|i| cx.input(i).cloned()).collect::<Result<Vec<_>>>()?;
    let values = cx.input(ragged)?.clone();
    let splits = nested(&splits, &values)?;
    let row = inner(&values);
    let rank = 1 + ragged + row.rank();
    if rank > MAX_RANK {
        return Err(Error::invalid(format!(
            "the sparse tensor would have {rank} dimensions"
        )));
    }
    let number = splits.first().map_or(0, |s| s.len() - 1);
    let mut shape = vec![number as i64];
    shape.extend(
        splits
            .iter()
            .map(|s| s.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)),
    );
    shape.extend(row.iter().map(|d| *d as i64));
    // The index of each row, level by level.
    let mut rows: Vec<Vec<i64>> = (0..number as i64).map(|i| vec![i]).collect();
    for s in &splits {
        let mut below = Vec::new();
        for (w, at) in s.windows(2).zip(&rows) {
            below.extend((0..w[1] - w[0]).map(|i| [&at[..], &[i]].concat()));
        }
        rows = below;
    }
    let size = row.count();
    let total = rows.len().checked_mul(size).and_then(|n| n.checked_mul(rank));
    let mut flat: Vec<i64> = moves::list(cx, total.ok_or_else(|| Error::invalid("there are too many elements"))?)?;
    let strides = Shape::new(&row).strides();
    for at in &rows {
        for e in 0..size {
            flat.extend_from_slice(at);
            flat.extend(strides.iter().zip(row.iter()).map(|(s, d)| (e / s % d) as i64));
        }
    }
    let n = rows.len() * size;
    let indices = indices_tensor(n, rank, &flat)?;
    cx.set_output(0, indices);
    cx.set_output(1, values.reshape([n])?);
    cx.set_output(2, Tensor::vector(&shape));
    Ok(())
}

fn to_sparse() -> OpDef {
    OpDef::new("RaggedTensorToSparse", Category::Sparse)
        .doc("The sparse tensor with the elements of a ragged one.")
        .input("rt_nested_splits: RAGGED_RANK * Tsplits")
        .input("rt_dense_values: T")
        .output("sparse_indices: int64")
        .output("sparse_values: T")
        .output("sparse_dense_shape: int64")
        .attr("RAGGED_RANK: int >= 1")
        .attr("T: type")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .shape(|cx| {
            let ragged = cx.num_inputs() - 1;
            let values = cx.input(ragged).with_rank_at_least(1)?;
            let rank = values.rank().map(|r| r + ragged);
            let mut out = crate::ops::sparse::parts(values.count(), rank);
            out[1] = PartialShape::vector(values.count());
            Ok(out)
        })
        .gradient(|cx, dys| {
            let last = cx.num_inputs() - 1;
            let values = cx.input(last)?;
            let mut all = vec![None; last];
            all.push(Some(cx.dense(dys, 1)?.reshape_to(&values.shape_op()?)?.into()));
            Ok(all)
        })
        .cpu(|init| {
            let ragged = usize::try_from(init.attrs.int("RAGGED_RANK")?).unwrap_or(0);
            Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, ragged)))
        })
        .sample(|s| {
            let v = s.normal([5, 2])?;
            s.op("RaggedTensorToSparse")
                .input_list(&[s.constant([0i64, 2, 2, 5])?])
                .input(&v)
                .finish()
        })
}

register_ops!(to_sparse);
