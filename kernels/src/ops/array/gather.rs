//! `Gather`, `GatherV2`: slices along an axis, picked by index.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, IndexedSlices};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::shape::resolve_axis;
use actorflow_core::{DType, Output, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::support::{int_scalar, product, shape_of};
use crate::moves::{self, Fill, Item, Shuffle, par_rows};

/// `out[b, o, i, ..] = src[b, o, picks[b, i], ..]`, rows of `row` elements.
struct Lookup<'a> {
    outer: usize,
    dim: usize,
    row: usize,
    /// Indices to a batch.
    n: usize,
    picks: &'a [usize],
}

impl Shuffle for Lookup<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], par: &dyn Parallel) -> Result<()> {
        let src = sources.first().copied().unwrap_or(&[]);
        if out.is_empty() {
            return Ok(());
        }
        let block = self.dim * self.row;
        par_rows(par, out, self.row, |at, part| {
            let first = at / self.row;
            let (mut i, mut block_at) = (first % self.n, first / self.n);
            let mut batch = block_at / self.outer;
            let mut rest = part;
            // One run of lookups in one block of the source at a time.
            while !rest.is_empty() {
                let rows = (self.n - i).min(rest.len() / self.row);
                let (now, later) = rest.split_at_mut(rows * self.row);
                let table = &src[block_at * block..(block_at + 1) * block];
                let picks = &self.picks[batch * self.n + i..][..rows];
                if self.row == 1 {
                    now.iter_mut().zip(picks).for_each(|(o, p)| o.clone_from(&table[*p]));
                } else {
                    for (o, p) in now.chunks_exact_mut(self.row).zip(picks) {
                        o.clone_from_slice(&table[p * self.row..][..self.row]);
                    }
                }
                rest = later;
                i = 0;
                block_at += 1;
                batch = block_at / self.outer;
            }
        });
        Ok(())
    }
}

/// The indices as numbers of rows, all less than `dim`.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the first one that is not.
pub(crate) fn checked_indices(indices: &Tensor, dim: usize) -> Result<Vec<usize>> {
    let bad = |at: usize, x: &dyn std::fmt::Display| {
        let mut rest = at;
        let place: Vec<String> = indices
            .shape()
            .strides()
            .iter()
            .map(|s| {
                let i = rest / s.max(&1);
                rest %= s.max(&1);
                i.to_string()
            })
            .collect();
        let place = place.join(",");
        Error::invalid(format!("indices[{place}] = {x} is not in [0, {dim})"))
    };
    dispatch!(indices.dtype(), T in [I32, I64, I16] => {
        let list = indices.as_slice::<T>()?;
        list.iter().enumerate().map(|(at, &x)| {
            usize::try_from(x).ok().filter(|i| *i < dim).ok_or_else(|| bad(at, &x))
        }).collect()
    }, else Err(Error::invalid(format!("indices cannot be {}", indices.dtype()))))
}

/// The axis and the number of batch dimensions, resolved.
fn places(axis: i64, batch: i64, params: usize, indices: usize) -> Result<(usize, usize)> {
    if params == 0 {
        return Err(Error::invalid("params must be at least a vector"));
    }
    let axis = resolve_axis(axis, params)?;
    let b = if batch < 0 { batch + indices as i64 } else { batch };
    let b = usize::try_from(b).ok().filter(|b| *b <= indices);
    let b = b.ok_or_else(|| {
        Error::invalid(format!(
            "batch_dims {batch} is out of range for indices of rank {indices}"
        ))
    })?;
    if b > axis {
        return Err(Error::invalid(format!(
            "batch_dims ({b}) must not be more than axis ({axis})"
        )));
    }
    Ok((axis, b))
}

fn lookup(cx: &OpContext<'_>, axis: i64, batch: i64) -> Result<Tensor> {
    let (params, indices) = (cx.input(0)?, cx.input(1)?);
    let (p, ix) = (params.shape(), indices.shape());
    let (axis, batch) = places(axis, batch, p.rank(), ix.rank())?;
    if p[..batch] != ix[..batch] {
        return Err(Error::invalid(format!(
            "the first {batch} dimensions of params {p} and indices {ix} must agree"
        )));
    }
    let dims = [&p[..axis], &ix[batch..], &p[axis + 1..]].concat();
    let shape = Shape::from(dims);
    shape.checked_count()?;
    let picks = checked_indices(indices, p[axis])?;
    if let ([i], 1, false) = (&picks[..], axis + 1, shape.count() == 0) {
        // One row shares the buffer.
        return params.slice_rows(*i, i + 1)?.reshape(shape);
    }
    let how = Lookup {
        outer: product(&p[batch..axis]),
        dim: p[axis],
        row: product(&p[axis + 1..]),
        n: product(&ix[batch..]),
        picks: &picks,
    };
    moves::build(cx, params.dtype(), shape, Fill::Any, &[params], &how)
}

fn infer(cx: &ShapeContext<'_>, axis: Option<i64>, batch: i64) -> Result<Vec<PartialShape>> {
    let (p, ix) = (cx.input(0).with_rank_at_least(1)?, cx.input(1));
    let (Some(pr), Some(ir)) = (p.rank(), ix.rank()) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let Some(axis) = axis else {
        let b = if batch < 0 {
            batch.saturating_add(ir as i64)
        } else {
            batch
        };
        let b = usize::try_from(b).ok().filter(|b| *b <= ir);
        let b = b.ok_or_else(|| Error::invalid(format!("batch_dims {batch} is out of range for indices {ix}")))?;
        return Ok(vec![PartialShape::of_rank(pr - 1 + ir - b)]);
    };
    let (axis, batch) = places(axis, batch, pr, ir)?;
    let common = p.sub(0, batch).merge(&ix.sub(0, batch))?;
    let parts = [p.sub(batch, axis), ix.sub(batch, ir), p.sub(axis + 1, pr)];
    Ok(vec![parts.iter().fold(common, |all, s| all.concat(s))])
}

/// The rows of the gradient at the rows that were looked up.
fn slices(params: &Output, indices: &Output, dy: &Output) -> Result<Grad> {
    let g = params.graph();
    let shape = shape_of(params, DType::I32)?;
    let indices = indices.reshape(&[-1])?;
    let values = match params.shape().to_shape() {
        Some(s) if s.count() > 0 => {
            let mut dims = s.to_i64();
            dims[0] = -1;
            dy.reshape(&dims)?
        }
        _ => {
            let (one, end, step) = (g.constant([1i32])?, g.constant([0i32])?, g.constant([1i32])?);
            let tail = g.op("StridedSlice").input(&shape).input(&one).input(&end).input(&step);
            let tail = tail.attr("end_mask", 1i64).output()?;
            let n = shape_of(&indices, DType::I32)?;
            dy.reshape_to(&g.concat(&[n, tail], 0)?)?
        }
    };
    Ok(IndexedSlices {
        values,
        indices,
        dense_shape: shape,
    }
    .into())
}

/// The product of elements `from..to` of a shape vector, a scalar.
fn part(shape: &Output, from: &Output, to: &Output) -> Result<Output> {
    let g = shape.graph();
    let one = g.constant([1i32])?;
    let part = g
        .op("StridedSlice")
        .input(shape)
        .input(&from.reshape(&[1])?)
        .input(&to.reshape(&[1])?)
        .input(&one);
    part.output()?
        .cast(DType::I64)?
        .reduce_by("Prod", &g.constant([0i32])?, false)
}

/// The gradient for any axis and batch: every looked-up row is a segment `(block·dim + index)` of a table of rows.
fn dense(params: &Output, indices: &Output, axis: &Output, batch: i64, dy: &Output) -> Result<Output> {
    let g = params.graph();
    let (shape, ix) = (shape_of(params, DType::I32)?, shape_of(indices, DType::I32)?);
    let (rank, ix_rank) = (params.rank_op()?, indices.rank_op()?);
    let axis = axis.cast(DType::I32)?.modulo(&rank)?;
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    let batch = match usize::try_from(batch) {
        Ok(b) => g.scalar(DType::I32, b as f64)?,
        Err(_) => (ix_rank.clone() + g.scalar(DType::I32, batch as f64)?)?,
    };
    let blocks = part(&shape, &zero, &axis)?;
    let batches = part(&shape, &zero, &batch)?;
    let after = axis.plus(&one)?;
    let dim = part(&shape, &axis, &after)?;
    let row = part(&shape, &after, &rank)?;
    let n = part(&ix, &batch, &ix_rank)?;
    let (zero, one) = (g.constant(0i64)?, g.constant(1i64)?);
    let outer = part(&shape, &batch.cast(DType::I32)?, &axis)?;
    let block = g
        .op("Range")
        .input(&zero)
        .input(&blocks)
        .input(&one)
        .output()?
        .times(&dim)?;
    let block = block.reshape_to(&g.stack(&[batches.clone(), outer, one.clone()], 0)?)?;
    let index = indices
        .cast(DType::I64)?
        .reshape_to(&g.stack(&[batches, one, n.clone()], 0)?)?;
    let segments = block.plus(&index)?.reshape(&[-1])?;
    let rows = dy.reshape_to(&g.stack(&[blocks.times(&n)?, row], 0)?)?;
    let sum = g
        .op("UnsortedSegmentSum")
        .input(&rows)
        .input(&segments)
        .input(&blocks.times(&dim)?)
        .output()?;
    sum.reshape_to(&shape)
}

fn gather() -> OpDef {
    OpDef::new("Gather", Category::Array)
        .doc("The rows of `params` that `indices` names.")
        .input("params: Tparams")
        .input("indices: Tindices")
        .output("output: Tparams")
        .attr("validate_indices: bool = true")
        .attr("Tparams: type")
        .attr("Tindices: {int32, int64}")
        .shape(|cx| infer(cx, Some(0), 0))
        .gradient(|cx, dys| {
            Ok(vec![
                Some(slices(&cx.input(0)?, &cx.input(1)?, &cx.dense(dys, 0)?)?),
                None,
            ])
        })
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let t = lookup(cx, 0, 0)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([4, 2])?;
            let i = s.constant([[1i32, 3], [1, 0]])?;
            s.op("Gather").input(&x).input(&i).finish()
        })
}

fn gather_v2() -> OpDef {
    OpDef::new("GatherV2", Category::Array)
        .doc("The slices of `params` along `axis` that `indices` names; the first `batch_dims` dimensions go in pairs.")
        .input("params: Tparams")
        .input("indices: Tindices")
        .input("axis: Taxis")
        .output("output: Tparams")
        .attr("batch_dims: int = 0")
        .attr("Tparams: type")
        .attr("Tindices: {int16, int32, int64}")
        .attr("Taxis: {int32, int64}")
        .shape(|cx| infer(cx, cx.constant_i64(2), cx.attrs().int("batch_dims")?))
        .gradient(|cx, dys| {
            let (params, indices, axis) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
            let (dy, batch) = (cx.dense(dys, 0)?, cx.attrs().int("batch_dims")?);
            let known = axis.constant_value().and_then(|t| t.to_i64().ok());
            // Negative if the rank is not known either.
            let known = known.map(|a| {
                if a < 0 {
                    a + params.shape().rank().unwrap_or(0) as i64
                } else {
                    a
                }
            });
            let dx = if known == Some(0) && batch == 0 {
                let indices = if indices.dtype() == DType::I16 {
                    indices.cast(DType::I32)?
                } else {
                    indices
                };
                slices(&params, &indices, &dy)?
            } else {
                dense(&params, &indices, &axis, batch, &dy)?.into()
            };
            Ok(vec![Some(dx), None, None])
        })
        .cpu(|init| {
            let batch = init.attrs.int("batch_dims")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = lookup(cx, int_scalar(cx.input(2)?, "axis")?, batch)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([4, 2])?;
            let (i, axis) = (s.constant([3i64, 0, 3])?, s.constant(0i32)?);
            s.op("GatherV2").input(&x).input(&i).input(&axis).finish()
        })
        .sample(|s| {
            let x = s.normal([2, 3, 4])?;
            let (i, axis) = (s.constant([[1i32, 3, 3], [0, 2, 2]])?, s.constant(-1i32)?);
            s.op("GatherV2")
                .input(&x)
                .input(&i)
                .input(&axis)
                .attr("batch_dims", 1i64)
                .finish()
        })
        .sample(|s| {
            let x = s.normal([2, 3, 2])?;
            let (i, axis) = (s.constant([[1i32, 2], [2, 2]])?, s.constant(1i64)?);
            s.op("GatherV2").input(&x).input(&i).input(&axis).finish()
        })
}

register_ops!(gather, gather_v2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::gradient::gradients;
    use actorflow_core::{Code, Graph};

    #[test]
    fn lookups_along_axes_and_in_batches() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3], [4, 5, 6]]).unwrap();
        let i = |t: Tensor| g.constant(t).unwrap();
        assert_eq!(
            eval(&x.gather(&i(Tensor::from([1i32, 0, 1])), 0).unwrap()),
            Tensor::from([[4i32, 5, 6], [1, 2, 3], [4, 5, 6]])
        );
        assert_eq!(
            eval(&x.gather(&i(Tensor::from([2i64, 0])), -1).unwrap()),
            Tensor::from([[3i32, 1], [6, 4]])
        );
        let row = eval(&x.gather(&i(Tensor::from(1i32)), 0).unwrap());
        assert_eq!(row, Tensor::from([4i32, 5, 6]));
        let (ix, axis) = (i(Tensor::from([[2i32, 2], [0, 1]])), i(Tensor::from(1i32)));
        let b = g
            .op("GatherV2")
            .input(&x)
            .input(&ix)
            .input(&axis)
            .attr("batch_dims", -1i64)
            .output()
            .unwrap();
        assert_eq!(b.shape(), PartialShape::from([2, 2]));
        assert_eq!(eval(&b), Tensor::from([[3i32, 3], [4, 5]]));
        let s = i(Tensor::strings([2], vec!["a", "b"]).unwrap());
        assert_eq!(
            eval(&s.gather(&i(Tensor::from([1i32, 1])), 0).unwrap()),
            Tensor::strings([2], vec!["b", "b"]).unwrap()
        );
    }

    #[test]
    fn an_index_out_of_range_is_named() {
        let g = Graph::new();
        let x = g.constant([1f32, 2.0]).unwrap();
        let i = g.constant([[0i32, 1], [2, 0]]).unwrap();
        let e = fails(&x.gather(&i, 0).unwrap());
        assert_eq!(e.code(), Code::InvalidArgument);
        assert_eq!(e.message(), "indices[1,0] = 2 is not in [0, 2)");
    }

    #[test]
    fn the_gradient_of_a_row_lookup_is_slices() {
        let g = Graph::new();
        let x = g.placeholder("x", DType::F32, [5, 2]).unwrap();
        let i = g.constant([4i32, 4]).unwrap();
        let y = x.gather(&i, 0).unwrap();
        let dx = gradients(&[y], &[x]).unwrap().remove(0).unwrap();
        let Grad::Slices(s) = dx else { panic!("dense") };
        assert_eq!(s.values.shape(), PartialShape::from([2, 2]));
    }
}
