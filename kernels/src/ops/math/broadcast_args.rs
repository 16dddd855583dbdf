//! `BroadcastGradientArgs`, `BroadcastArgs`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

/// The shape that input `i`, an integer vector, holds.
fn shape_of(cx: &OpContext<'_>, i: usize) -> Result<Vec<i64>> {
    let t = cx.input(i)?;
    if t.shape().rank() != 1 {
        return Err(Error::invalid(format!("In[{i}] must be a vector: {}", t.shape())));
    }
    t.to_i64_vec()
}

fn vector(cx: &OpContext<'_>, v: &[i64]) -> Result<Tensor> {
    match cx.input(0)?.dtype() {
        DType::I32 => v
            .iter()
            .map(|x| i32::try_from(*x).map_err(|_| Error::invalid(format!("dimension {x} does not fit an int32"))))
            .collect::<Result<Vec<_>>>()
            .map(Tensor::from),
        _ => Ok(Tensor::vector(v)),
    }
}

fn incompatible(a: &[i64], b: &[i64]) -> Error {
    Error::invalid(format!("Incompatible shapes: {a:?} vs. {b:?}"))
}

/// The axes of the result along which each operand is to be summed: those where it has length 1 and those that it does
/// not have. As in TensorFlow an axis of length 1 in both counts for both, unless the shapes are equal.
fn reduction_axes(a: &[i64], b: &[i64]) -> Result<[Vec<i64>; 2]> {
    if a == b {
        return Ok([Vec::new(), Vec::new()]);
    }
    let rank = a.len().max(b.len());
    let dim = |s: &[i64], i: usize| if i + s.len() >= rank { s[i + s.len() - rank] } else { 1 };
    let (mut ra, mut rb) = (Vec::new(), Vec::new());
    for i in 0..rank {
        let (p, q) = (dim(a, i), dim(b, i));
        if p != q && p != 1 && q != 1 {
            return Err(incompatible(a, b));
        }
        let axis = i as i64;
        if p == 1 {
            ra.push(axis);
        }
        if q == 1 {
            rb.push(axis);
        }
    }
    Ok([ra, rb])
}

struct GradientArgs;

impl Kernel for GradientArgs {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let [ra, rb] = reduction_axes(&shape_of(cx, 0)?, &shape_of(cx, 1)?)?;
        let (ra, rb) = (vector(cx, &ra)?, vector(cx, &rb)?);
        cx.set_output(0, ra);
        cx.set_output(1, rb);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn broadcast_gradient_args() -> OpDef {
    OpDef::new("BroadcastGradientArgs", Category::Array)
        .doc("The axes along which the gradients of two broadcast operands are summed, from the operands' shapes.")
        .input("s0: T")
        .input("s1: T")
        .output("r0: T")
        .output("r1: T")
        .attr("T: {int32, int64} = DT_INT32")
        .shape(|cx| {
            cx.input(0).with_rank(1)?;
            cx.input(1).with_rank(1)?;
            Ok(vec![PartialShape::vector(None); 2])
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(GradientArgs)))
}

struct Args;

impl Kernel for Args {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (a, b) = (shape_of(cx, 0)?, shape_of(cx, 1)?);
        let all = Shape::broadcast(&Shape::from_i64(&a)?, &Shape::from_i64(&b)?).map_err(|_| incompatible(&a, &b))?;
        let t = vector(cx, &all.to_i64())?;
        cx.set_output(0, t);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn broadcast_args() -> OpDef {
    OpDef::new("BroadcastArgs", Category::Array)
        .doc("The shape that two shapes broadcast to.")
        .input("s0: T")
        .input("s1: T")
        .output("r0: T")
        .attr("T: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let (a, b) = (cx.input(0).with_rank(1)?, cx.input(1).with_rank(1)?);
            let len = a.dim(0).zip(b.dim(0)).map(|(a, b)| a.max(b));
            Ok(vec![PartialShape::vector(len)])
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(Args)))
}

register_ops!(broadcast_gradient_args, broadcast_args);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::Graph;

    #[test]
    fn axes_to_sum_over_are_tensorflows() {
        for (a, b, ra, rb) in [
            (&[2i64, 3, 1][..], &[3i64, 4][..], &[2i64][..], &[0i64][..]),
            (&[1, 1], &[1], &[0, 1], &[0, 1]),
            (&[], &[3, 1], &[0, 1], &[1]),
            (&[1, 3, 1], &[1, 3, 1], &[], &[]),
            (&[2, 1, 3, 1], &[2, 5, 1, 1], &[1, 3], &[2, 3]),
            (&[1, 3], &[2, 1], &[0], &[1]),
        ] {
            assert_eq!(reduction_axes(a, b).unwrap(), [ra.to_vec(), rb.to_vec()], "{a:?} {b:?}");
        }
        assert!(reduction_axes(&[2], &[3]).is_err());
    }

    #[test]
    fn shapes_broadcast() {
        let g = Graph::new();
        let (a, b) = (g.constant([2i32, 1]).unwrap(), g.constant([3i32]).unwrap());
        let s = g.op("BroadcastArgs").input(&a).input(&b).output().unwrap();
        assert_eq!(eval(&s), Tensor::from([2i32, 3]));
    }
}
