//! `Pad`, `PadV2`: a border of one value.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Output, PartialShape, Shape, Tensor, register_ops};
use smallvec::SmallVec;

use super::support::{checked_rank, index_constant, ints, shape_of};
use crate::moves::{self, Axis, Copies, Fill, StridedCopy};

/// How many elements go before and after each dimension.
pub(crate) type Paddings = SmallVec<[(usize, usize); 6]>;

/// The rows of a paddings matrix.
///
/// # Errors
/// `INVALID_ARGUMENT` for another shape than `[rank, 2]` and negative numbers.
pub(crate) fn paddings(t: &Tensor, rank: usize) -> Result<Paddings> {
    if t.shape().dims() != [rank, 2] {
        return Err(Error::invalid(format!(
            "paddings must have shape [{rank},2], got {}",
            t.shape()
        )));
    }
    let pairs = ints(t)?;
    let pad =
        |x: i64| usize::try_from(x).map_err(|_| Error::invalid(format!("paddings must be non-negative, got {x}")));
    pairs.chunks_exact(2).map(|p| Ok((pad(p[0])?, pad(p[1])?))).collect()
}

/// The dimensions with the paddings added.
pub(crate) fn padded(dims: &[usize], pads: &Paddings) -> Result<Shape> {
    let each = dims.iter().zip(pads).map(|(d, (a, b))| {
        let sum = d.checked_add(*a).and_then(|s| s.checked_add(*b));
        sum.ok_or_else(|| Error::invalid("a padded dimension overflows"))
    });
    let shape = Shape::from(each.collect::<Result<Vec<_>>>()?);
    shape.checked_count()?;
    Ok(shape)
}

/// The shape function of everything that pads input 0 by the matrix of input 1; `sign` -1 takes away.
pub(crate) fn infer(cx: &ShapeContext<'_>, sign: i64) -> Result<Vec<PartialShape>> {
    let pads = cx.input(1).with_rank(2)?;
    if pads.dim(1).is_some_and(|d| d != 2) {
        return Err(Error::invalid(format!("paddings must have shape [rank,2], got {pads}")));
    }
    let Some(rank) = cx.input(0).rank().or(pads.dim(0)) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let x = cx.input(0).with_rank(checked_rank(rank)?)?;
    if pads.dim(0).is_some_and(|d| d != rank) {
        return Err(Error::invalid(format!(
            "paddings must have shape [{rank},2], got {pads}"
        )));
    }
    let Some(t) = cx.constant(1) else {
        return Ok(vec![PartialShape::of_rank(rank)]);
    };
    let pads = paddings(&t, rank)?;
    let dims = (0..rank).map(|i| {
        let Some(n) = x.dim(i) else {
            return Ok(None);
        };
        let (a, b) = pads[i];
        let all = n as i128 + i128::from(sign) * (a as i128 + b as i128);
        usize::try_from(all)
            .map(Some)
            .map_err(|_| Error::invalid(format!("paddings {:?} do not fit dimension {i} of {x}", pads[i])))
    });
    Ok(vec![PartialShape::new(dims.collect::<Result<Vec<_>>>()?)])
}

fn run(cx: &OpContext<'_>, fill: Fill<'_>) -> Result<Tensor> {
    let x = cx.input(0)?;
    let pads = paddings(cx.input(1)?, x.shape().rank())?;
    let shape = padded(x.shape(), &pads)?;
    if shape == *x.shape() {
        return Ok(x.clone());
    }
    let (from, to) = (x.shape().strides(), shape.strides());
    let axes = (0..pads.len()).map(|i| Axis {
        n: x.shape()[i],
        src: from[i] as isize,
        dst: to[i] as isize,
    });
    let copy = StridedCopy {
        source: 0,
        from: 0,
        to: pads.iter().zip(&to).map(|(p, s)| p.0 * s).sum(),
        axes: axes.collect(),
    };
    moves::build(cx, x.dtype(), shape, fill, &[x], &Copies(&[copy]))
}

/// The part of the gradient inside of the border.
fn inside(cx: &GradContext, dy: &Output) -> Result<Output> {
    let (g, x, pads) = (cx.graph(), cx.input(0)?, cx.input(1)?);
    let index = pads.dtype();
    let begin = match pads.constant_value() {
        Some(t) => {
            let all = ints(&t)?;
            index_constant(g, index, &all.iter().copied().step_by(2).collect::<Vec<_>>())?
        }
        None => {
            let rank = x.rank_op()?;
            let begin = g.constant([0i32, 0])?;
            let size = g.stack(&[rank, g.constant(1i32)?], 0)?;
            g.op("Slice")
                .input(&pads)
                .input(&begin)
                .input(&size)
                .output()?
                .reshape(&[-1])?
        }
    };
    g.op("Slice")
        .input(dy)
        .input(&begin)
        .input(&shape_of(&x, index)?)
        .output()
}

fn pad() -> OpDef {
    OpDef::new("Pad", Category::Array)
        .doc("A border of zeros: `paddings[i]` says how many go before and after dimension `i`.")
        .input("input: T")
        .input("paddings: Tpaddings")
        .output("output: T")
        .attr("T: type")
        .attr("Tpaddings: {int32, int64} = DT_INT32")
        .shape(|cx| infer(cx, 1))
        .gradient(|cx, dys| Ok(vec![Some(inside(cx, &cx.dense(dys, 0)?)?.into()), None]))
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let t = run(cx, Fill::Zero)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            let p = s.constant([[1i32, 0], [0, 2]])?;
            s.op("Pad").input(&x).input(&p).finish()
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            let p = s.constant([[1i64, 0], [0, 2]])?;
            let p = s
                .op("PlaceholderWithDefault")
                .input(&p)
                .attr("shape", PartialShape::UNKNOWN)
                .output()?;
            s.op("Pad").input(&x).input(&p).finish()
        })
}

fn pad_v2_gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dy = cx.dense(dys, 0)?;
    let dx = inside(cx, &dy)?;
    let border = dy.sum(&[], false)?.minus(&dx.sum(&[], false)?)?;
    Ok(vec![Some(dx.into()), None, Some(border.into())])
}

fn pad_v2() -> OpDef {
    OpDef::new("PadV2", Category::Array)
        .doc("A border of one value: `paddings[i]` says how many go before and after dimension `i`.")
        .input("input: T")
        .input("paddings: Tpaddings")
        .input("constant_values: T")
        .output("output: T")
        .attr("T: type")
        .attr("Tpaddings: {int32, int64} = DT_INT32")
        .shape(|cx| infer(cx, 1))
        .gradient(pad_v2_gradient)
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let value = cx.input(2)?;
                if !value.shape().is_scalar() {
                    return Err(Error::invalid(format!(
                        "constant_values must be a scalar, got shape {}",
                        value.shape()
                    )));
                }
                let t = run(cx, Fill::Value(value))?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let (x, c) = (s.normal([2, 3])?, s.normal([])?);
            let p = s.constant([[1i32, 1], [0, 2]])?;
            s.op("PadV2").input(&x).input(&p).input(&c).finish()
        })
}

register_ops!(pad, pad_v2);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, PartialShape, Tensor};

    #[test]
    fn borders_of_zeros_and_of_a_value() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2], [3, 4]]).unwrap();
        let p = g.constant([[1i32, 0], [0, 1]]).unwrap();
        let y = g.op("Pad").input(&x).input(&p).output().unwrap();
        assert_eq!(y.shape(), PartialShape::from([3, 3]));
        assert_eq!(eval(&y).to_vec::<i32>().unwrap(), [0, 0, 0, 1, 2, 0, 3, 4, 0]);
        let v = g.constant(9i32).unwrap();
        let y = g.op("PadV2").input(&x).input(&p).input(&v).output().unwrap();
        assert_eq!(eval(&y).to_vec::<i32>().unwrap(), [9, 9, 9, 1, 2, 9, 3, 4, 9]);
        let s = g.constant(Tensor::strings([1], vec!["a"]).unwrap()).unwrap();
        let p = g.constant([[1i32, 0]]).unwrap();
        let y = g.op("Pad").input(&s).input(&p).output().unwrap();
        assert_eq!(eval(&y), Tensor::strings([2], vec!["", "a"]).unwrap());
    }

    #[test]
    fn negative_and_misshapen_paddings_are_refused() {
        let g = Graph::new();
        let x = g.constant([1i32, 2]).unwrap();
        for p in [
            Tensor::from([[-1i32, 0]]),
            Tensor::from([[1i32], [0]]),
            Tensor::from([[0i32, 0], [0, 0]]),
        ] {
            assert!(g.op("Pad").input(&x).input(&g.constant(p).unwrap()).output().is_err());
        }
        let huge = g.constant(Tensor::from([[i64::MAX, i64::MAX]])).unwrap();
        let y = g.op("Pad").input(&x).input(&huge).output();
        assert!(
            y.is_err()
                || crate::testing::Interpreter::default()
                    .run(&[y.unwrap()], &[], &[])
                    .is_err()
        );
    }
}
