//! `Concat`, `ConcatV2`, `ConcatOffset`: joining along an axis.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{DType, Output, PartialShape, Tensor, register_ops};

use super::support::{int_scalar, int_vector, product};
use crate::moves::{self, Axis, Copies, Fill, StridedCopy};

/// The inputs' positions: `Concat` has its axis first, `ConcatV2` last.
#[derive(Clone, Copy)]
struct Places {
    axis: usize,
    first: usize,
}

const V1: Places = Places { axis: 0, first: 1 };

fn v2(inputs: usize) -> Places {
    Places {
        axis: inputs - 1,
        first: 0,
    }
}

fn infer(cx: &ShapeContext<'_>, at: Places) -> Result<Vec<PartialShape>> {
    let values = &cx.inputs()[at.first..at.first + cx.num_inputs() - 1];
    Ok(vec![joined_shape(values, cx.constant_i64(at.axis))?])
}

/// The shape of the tensors joined along an axis, if that is known.
///
/// # Errors
/// `INVALID_ARGUMENT` if they do not fit each other.
pub(crate) fn joined_shape(values: &[PartialShape], axis: Option<i64>) -> Result<PartialShape> {
    let Some(rank) = values.iter().find_map(PartialShape::rank) else {
        return Ok(PartialShape::UNKNOWN);
    };
    let Some(axis) = axis else {
        for v in values {
            v.with_rank(rank)?;
        }
        return Ok(PartialShape::of_rank(rank));
    };
    let axis = resolve_axis(axis, rank)?;
    let mut all = PartialShape::of_rank(rank);
    let mut sum = Some(0usize);
    for v in values {
        let v = v.with_rank(rank)?;
        sum = sum.zip(v.dim(axis)).and_then(|(a, b)| a.checked_add(b));
        all = all.merge(&v.with_dim(axis, None))?;
    }
    Ok(all.with_dim(axis, sum))
}

fn run(cx: &mut OpContext<'_>, at: Places) -> Result<()> {
    let n = cx.num_inputs() - 1;
    let axis = int_scalar(cx.input(at.axis)?, "the axis")?;
    let sources = (at.first..at.first + n)
        .map(|i| cx.input(i))
        .collect::<Result<Vec<_>>>()?;
    let axis = resolve_axis(axis, sources[0].shape().rank())?;
    let t = join(cx, &sources, axis)?;
    cx.set_output(0, t);
    Ok(())
}

/// The tensors, at least one, joined along axis `axis`.
///
/// # Errors
/// `INVALID_ARGUMENT` if their shapes do not fit each other.
pub(crate) fn join(cx: &OpContext<'_>, sources: &[&Tensor], axis: usize) -> Result<Tensor> {
    let first = sources[0].shape();
    let mut length = 0usize;
    for (i, s) in sources.iter().enumerate() {
        let s = s.shape();
        if s.rank() != first.rank() || (0..s.rank()).any(|d| d != axis && s[d] != first[d]) {
            return Err(Error::invalid(format!(
                "dimensions other than {axis} must agree: input 0 has shape {first}, input {i} has {s}"
            )));
        }
        length = length
            .checked_add(s[axis])
            .ok_or_else(|| Error::invalid("the joined dimension overflows"))?;
    }
    let shape = first.with_replaced(axis, 1, &[length]);
    shape.checked_count()?;
    let (outer, inner) = (product(&first[..axis]), product(&first[axis + 1..]));
    let mut to = 0;
    let copies: Vec<StridedCopy> = sources
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let run = s.shape()[axis] * inner;
            let rows = Axis {
                n: outer,
                src: run as isize,
                dst: (length * inner) as isize,
            };
            let row = Axis { n: run, src: 1, dst: 1 };
            let axes = [rows, row].into_iter().collect();
            let copy = StridedCopy {
                source: i,
                from: 0,
                to,
                axes,
            };
            to += run;
            copy
        })
        .collect();
    moves::build(cx, sources[0].dtype(), shape, Fill::Any, sources, &Copies(&copies))
}

/// The parts of the gradient that belong to the inputs: a split where the lengths are known when the graph is
/// built, else slices at the offsets that `ConcatOffset` computes.
fn gradient(cx: &GradContext, dys: &[Option<Grad>], at: Places) -> Result<Vec<Option<Grad>>> {
    let g = cx.graph();
    let dy = cx.dense(dys, 0)?;
    let n = cx.num_inputs() - 1;
    let values = (at.first..at.first + n)
        .map(|i| cx.input(i))
        .collect::<Result<Vec<_>>>()?;
    let axis = cx.input(at.axis)?;
    let known = axis.constant_value().and_then(|t| t.to_i64().ok());
    let lengths = known.and_then(|a| {
        let length = |v: &Output| v.shape().rank().and_then(|r| v.shape().dim(resolve_axis(a, r).ok()?));
        values
            .iter()
            .map(|v| length(v).map(|d| d as i64))
            .collect::<Option<Vec<i64>>>()
    });
    let parts = match (known, lengths) {
        (Some(a), Some(lengths)) => g
            .op("SplitV")
            .input(&dy)
            .input(&g.constant(Tensor::vector(&lengths))?)
            .input(&g.scalar(DType::I32, a as f64)?)
            .attr("num_split", n)
            .finish()?
            .outputs(),
        _ => {
            let axis = axis.cast(DType::I32)?.modulo(&values[0].rank_op()?)?;
            let shapes = g.op("ShapeN").input_list(&values).finish()?.outputs();
            let offsets = g
                .op("ConcatOffset")
                .input(&axis)
                .input_list(&shapes)
                .finish()?
                .outputs();
            offsets
                .iter()
                .zip(&shapes)
                .map(|(o, s)| g.op("Slice").input(&dy).input(o).input(s).output())
                .collect::<Result<_>>()?
        }
    };
    let mut all = vec![None; cx.num_inputs()];
    for (i, p) in parts.into_iter().enumerate() {
        all[at.first + i] = Some(p.into());
    }
    Ok(all)
}

fn concat() -> OpDef {
    OpDef::new("Concat", Category::Array)
        .doc("Joins tensors along an axis, which comes first.")
        .input("concat_dim: int32")
        .input("values: N * T")
        .output("output: T")
        .attr("N: int >= 2")
        .attr("T: type")
        .shape(|cx| infer(cx, V1))
        .gradient(|cx, dys| gradient(cx, dys, V1))
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| run(cx, V1))))
        .sample(|s| {
            let (x, y) = (s.normal([2, 3])?, s.normal([1, 3])?);
            let axis = s.constant(0i32)?;
            s.op("Concat").input(&axis).input_list(&[x, y]).finish()
        })
}

fn concat_v2() -> OpDef {
    OpDef::new("ConcatV2", Category::Array)
        .doc("Joins tensors along an axis.")
        .input("values: N * T")
        .input("axis: Tidx")
        .output("output: T")
        .attr("N: int >= 2")
        .attr("T: type")
        .attr("Tidx: {int32, int64} = DT_INT32")
        .shape(|cx| infer(cx, v2(cx.num_inputs())))
        .gradient(|cx, dys| gradient(cx, dys, v2(cx.num_inputs())))
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| run(cx, v2(cx.num_inputs())))))
        .sample(|s| {
            let (x, y) = (s.normal([2, 3])?, s.normal([2, 1])?);
            let axis = s.constant(-1i32)?;
            s.op("ConcatV2").input_list(&[x, y]).input(&axis).finish()
        })
        .sample(|s| {
            // Lengths that are not known when the graph is built.
            let x = s.normal([2, 3])?;
            let y = s.normal([2, 2])?;
            let hide = |v: &Output| {
                let b = v.graph().op("PlaceholderWithDefault").input(v);
                b.attr("shape", PartialShape::UNKNOWN).output()
            };
            let axis = s.constant(-1i32)?;
            s.op("ConcatV2")
                .input_list(&[hide(&x)?, hide(&y)?])
                .input(&axis)
                .finish()
        })
}

fn concat_offset() -> OpDef {
    OpDef::new("ConcatOffset", Category::Array)
        .doc("Where in their concatenation tensors of the given shapes begin.")
        .input("concat_dim: int32")
        .input("shape: N * shape_type")
        .output("offset: N * shape_type")
        .attr("N: int >= 2")
        .attr("shape_type: {int32, int64} = DT_INT32")
        .shape(|cx| cx.inputs()[1..].iter().map(|s| s.with_rank(1)).collect())
        .not_differentiable()
        .cpu(|_| Ok(Box::new(offsets)))
}

fn offsets(cx: &mut OpContext<'_>) -> Result<()> {
    let axis = int_scalar(cx.input(0)?, "concat_dim")?;
    let first = int_vector(cx.input(1)?, "shape")?;
    let axis = resolve_axis(axis, first.len())?;
    let mut sum = 0i64;
    for i in 1..cx.num_inputs() {
        let t = cx.input(i)?;
        if t.shape().rank() != 1 {
            return Err(Error::invalid(format!(
                "a shape must be a vector, got shape {}",
                t.shape()
            )));
        }
        let (dims, dtype) = (int_vector(t, "shape")?, t.dtype());
        if dims.len() != first.len() || (0..dims.len()).any(|d| d != axis && dims[d] != first[d]) {
            return Err(Error::invalid(format!(
                "dimensions other than {axis} must agree: shape 0 is {first:?}, shape {} is {dims:?}",
                i - 1
            )));
        }
        let mut offset = vec![0i64; dims.len()];
        offset[axis] = sum;
        sum = sum
            .checked_add(dims[axis])
            .ok_or_else(|| Error::invalid("the joined dimension overflows"))?;
        cx.set_output(i - 1, super::support::index_vector(dtype, &offset)?);
    }
    Ok(())
}

register_ops!(concat, concat_v2, concat_offset);

#[cfg(test)]
mod tests {
    use super::super::support::index_constant;
    use super::*;
    use crate::testing::eval;
    use actorflow_core::{Graph, Shape};

    #[test]
    fn tensors_are_joined_along_any_axis() {
        let g = Graph::new();
        let a = g.constant([[1i32, 2], [3, 4]]).unwrap();
        let b = g.constant([[5i32, 6]]).unwrap();
        assert_eq!(
            eval(&g.concat(&[a.clone(), b.clone()], 0).unwrap()),
            Tensor::from([[1i32, 2], [3, 4], [5, 6]])
        );
        let c = g.concat(&[a.clone(), a.clone()], -1).unwrap();
        assert_eq!(eval(&c), Tensor::from([[1i32, 2, 1, 2], [3, 4, 3, 4]]));
        let e = g.concat(&[a, b], 1).unwrap_err();
        assert!(e.message().contains("[2,2]") && e.message().contains("[1,2]"), "{e}");
    }

    #[test]
    fn scalars_cannot_be_joined() {
        let g = Graph::new();
        let a = g.constant(1i32).unwrap();
        assert!(g.concat(&[a.clone(), a], 0).is_err());
    }

    #[test]
    fn offsets_add_up() {
        let g = Graph::new();
        let (axis, s) = (
            g.constant(1i32).unwrap(),
            index_constant(&g, DType::I32, &[2, 3, 5]).unwrap(),
        );
        let o = g
            .op("ConcatOffset")
            .input(&axis)
            .input_list(&[s.clone(), s.clone(), s])
            .finish()
            .unwrap();
        assert_eq!(eval(&o.output(2).unwrap()), Tensor::from([0i32, 6, 0]));
        let _: Shape = eval(&o.output(0).unwrap()).to_shape().unwrap();
    }
}
