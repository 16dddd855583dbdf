//! `DynamicPartition`, `DynamicStitch`, `ParallelDynamicStitch`: rows sorted into several tensors, and back.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::{DType, PartialShape, Shape, register_ops};

use super::support::{product, shape_of};
use crate::moves::{self, Fill, Item, Rows, Shuffle};

fn partition_kernel(cx: &mut OpContext<'_>) -> Result<()> {
    let (data, parts) = (cx.input(0)?.clone(), cx.input(1)?);
    let lead = parts.shape().rank();
    if data.shape().rank() < lead || data.shape()[..lead] != parts.shape()[..] {
        return Err(Error::invalid(format!(
            "the shape of data {} must start with that of partitions {}",
            data.shape(),
            parts.shape()
        )));
    }
    let n = cx.num_outputs();
    let mut picks = vec![Vec::new(); n];
    for (i, p) in parts.as_slice::<i32>()?.iter().enumerate() {
        let list = usize::try_from(*p).ok().and_then(|p| picks.get_mut(p));
        list.ok_or_else(|| Error::invalid(format!("partitions[{i}] = {p} is not in [0, {n})")))?
            .push(i);
    }
    let rest = &data.shape()[lead..];
    let row = product(rest);
    for (i, picks) in picks.iter().enumerate() {
        let shape = Shape::from([&[picks.len()], rest].concat());
        let t = if shape.count() == 0 {
            moves::zeros(cx, data.dtype(), shape)?
        } else {
            moves::build(cx, data.dtype(), shape, Fill::Any, &[&data], &Rows { row, picks })?
        };
        cx.set_output(i, t);
    }
    Ok(())
}

/// The rows' numbers take the same way as the rows; stitching by them undoes it.
fn partition_gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, data, parts) = (cx.graph(), cx.input(0)?, cx.input(1)?);
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    let numbers = g
        .op("Range")
        .input(&zero)
        .input(&parts.size_op()?)
        .input(&one)
        .output()?;
    let numbers = numbers.reshape_to(&shape_of(&parts, DType::I32)?)?;
    let moved = g
        .op("DynamicPartition")
        .input(&numbers)
        .input(&parts)
        .attr("num_partitions", dys.len());
    let moved = moved.finish()?.outputs();
    let dys = (0..dys.len()).map(|i| cx.dense(dys, i)).collect::<Result<Vec<_>>>()?;
    let all = g
        .op("ParallelDynamicStitch")
        .input_list(&moved)
        .input_list(&dys)
        .output()?;
    let dx = all.reshape_to(&shape_of(&data, DType::I32)?)?;
    Ok(vec![Some(dx.into()), None])
}

fn dynamic_partition() -> OpDef {
    OpDef::new("DynamicPartition", Category::Array)
        .doc("Sorts the rows of `data` into `num_partitions` tensors; `partitions` says which goes where.")
        .input("data: T")
        .input("partitions: int32")
        .output("outputs: num_partitions * T")
        .attr("num_partitions: int >= 1")
        .attr("T: type")
        .shape(|cx| {
            let (data, parts) = (cx.input(0), cx.input(1));
            let one = match (data.rank(), parts.rank()) {
                (Some(d), Some(p)) => {
                    data.with_rank_at_least(p)?;
                    data.sub(0, p).merge(&parts)?;
                    PartialShape::vector(None).concat(&data.sub(p, d))
                }
                _ => PartialShape::UNKNOWN,
            };
            Ok(vec![one; cx.num_outputs()])
        })
        .gradient(partition_gradient)
        .cpu(|_| Ok(Box::new(partition_kernel)))
        .sample(|s| {
            let x = s.normal([2, 3, 2])?;
            let p = s.constant([[0i32, 1, 0], [2, 2, 0]])?;
            s.op("DynamicPartition")
                .input(&x)
                .input(&p)
                .attr("num_partitions", 3i64)
                .finish()
        })
}

/// Row `k` of source `i` goes to row `places[i][k]`; later ones win.
struct Stitch {
    row: usize,
    places: Vec<Vec<usize>>,
}

impl Shuffle for Stitch {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        for (src, places) in sources.iter().zip(&self.places) {
            for (r, p) in src.chunks_exact(self.row).zip(places) {
                out[p * self.row..][..self.row].clone_from_slice(r);
            }
        }
        Ok(())
    }
}

fn stitch_kernel(cx: &mut OpContext<'_>) -> Result<()> {
    let n = cx.num_inputs() / 2;
    let (mut places, mut sources) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let mut rows = 0usize;
    let mut rest: Option<&[usize]> = None;
    for i in 0..n {
        let (indices, data) = (cx.input(i)?, cx.input(n + i)?);
        let (is, ds) = (indices.shape(), data.shape());
        if ds.rank() < is.rank() || ds[..is.rank()] != is[..] {
            return Err(Error::invalid(format!(
                "the shape of data[{i}] {ds} must start with that of indices[{i}] {is}"
            )));
        }
        let tail = &ds[is.rank()..];
        if rest.replace(tail).is_some_and(|r| r != tail) {
            return Err(Error::invalid(format!(
                "data[{i}] of shape {ds} has other rows than data[0]"
            )));
        }
        let list = indices.as_slice::<i32>()?.iter().enumerate().map(|(k, &p)| {
            usize::try_from(p).map_err(|_| Error::invalid(format!("indices[{i}] has {p} at {k}, which is negative")))
        });
        let list = list.collect::<Result<Vec<_>>>()?;
        rows = list.iter().map(|p| p + 1).fold(rows, usize::max);
        places.push(list);
        sources.push(data);
    }
    let rest = rest.unwrap_or(&[]);
    let shape = Shape::from([&[rows], rest].concat());
    shape.checked_count()?;
    let dtype = sources[0].dtype();
    // Rows that no index names are zero; of handles there is no zero, so there every row must be named.
    let fill = if dtype.is_plain() || dtype == DType::Str {
        Fill::Zero
    } else {
        Fill::Any
    };
    let how = Stitch {
        row: product(rest).max(1),
        places,
    };
    let t = if shape.count() == 0 {
        moves::zeros(cx, dtype, shape)?
    } else {
        moves::build(cx, dtype, shape, fill, &sources, &how)?
    };
    cx.set_output(0, t);
    Ok(())
}

fn stitch_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let n = cx.num_inputs() / 2;
    let mut rows = Some(0usize);
    let mut rest = PartialShape::UNKNOWN;
    for i in 0..n {
        let (indices, data) = (cx.input(i), cx.input(n + i));
        rows = rows.zip(cx.constant_i64s(i)).map(|(r, list)| {
            let high = list.into_iter().max().and_then(|m| usize::try_from(m).ok());
            r.max(high.map_or(0, |m| m + 1))
        });
        if let (Some(a), Some(d)) = (indices.rank(), data.rank()) {
            data.with_rank_at_least(a)?;
            data.sub(0, a).merge(&indices)?;
            rest = rest.merge(&data.sub(a, d))?;
        }
    }
    Ok(vec![PartialShape::vector(rows).concat(&rest)])
}

fn stitch_gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let n = cx.num_inputs() / 2;
    let dy = cx.dense(dys, 0)?;
    let mut all = vec![None; n];
    for i in 0..n {
        all.push(Some(dy.gather(&cx.input(i)?, 0)?.into()));
    }
    Ok(all)
}

fn stitching(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .doc("One tensor of the rows of several: row `indices[i][k]` is row `k` of `data[i]`.")
        .input("indices: N * int32")
        .input("data: N * T")
        .output("merged: T")
        .attr("N: int >= 1")
        .attr("T: type")
        .shape(stitch_shape)
        .gradient(stitch_gradient)
        .cpu(|_| Ok(Box::new(stitch_kernel)))
}

fn dynamic_stitch() -> OpDef {
    stitching("DynamicStitch").sample(|s| {
        let (a, b) = (s.normal([2])?, s.normal([2, 2, 2])?);
        let (i, j) = (s.constant(3i32)?, s.constant([[0i32, 4], [2, 1]])?);
        s.op("DynamicStitch").input_list(&[i, j]).input_list(&[a, b]).finish()
    })
}

fn parallel_dynamic_stitch() -> OpDef {
    stitching("ParallelDynamicStitch").sample(|s| {
        let (a, b) = (s.normal([1])?, s.normal([2])?);
        let (i, j) = (s.constant([2i32])?, s.constant([1i32, 0])?);
        s.op("ParallelDynamicStitch")
            .input_list(&[i, j])
            .input_list(&[a, b])
            .finish()
    })
}

register_ops!(dynamic_partition, dynamic_stitch, parallel_dynamic_stitch);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn rows_are_sorted_and_stitched_back() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2], [3, 4], [5, 6]]).unwrap();
        let p = g.constant([1i32, 0, 1]).unwrap();
        let parts = g
            .op("DynamicPartition")
            .input(&x)
            .input(&p)
            .attr("num_partitions", 3i64)
            .finish()
            .unwrap()
            .outputs();
        assert_eq!(eval(&parts[0]), Tensor::from([[3i32, 4]]));
        assert_eq!(eval(&parts[1]), Tensor::from([[1i32, 2], [5, 6]]));
        assert_eq!(eval(&parts[2]).shape().dims(), [0, 2]);
        let (i, j) = (g.constant([1i32]).unwrap(), g.constant([0i32, 2]).unwrap());
        let y = g
            .op("DynamicStitch")
            .input_list(&[i, j])
            .input_list(&parts[..2])
            .output()
            .unwrap();
        assert_eq!(y.shape().dim(0), Some(3));
        assert_eq!(eval(&y), eval(&x));
        let bad = g.constant([0i32, 3, 0]).unwrap();
        let parts = g
            .op("DynamicPartition")
            .input(&x)
            .input(&bad)
            .attr("num_partitions", 3i64)
            .output()
            .unwrap();
        assert!(fails(&parts).message().contains("partitions[1] = 3"));
    }
}
