//! `BroadcastTo`, `BroadcastArgs`, `BroadcastGradientArgs`.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::unbroadcast;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};
use smallvec::SmallVec;

use super::support::{Ints, Light, index_vector, int_vector};
use crate::moves::{self, Copies, Fill, view_copy};

/// The tensor repeated along its axes of length 1 (and new ones in front) to `shape`.
///
/// # Errors
/// `INVALID_ARGUMENT` if the shapes do not fit.
pub(crate) fn broadcast(cx: &OpContext<'_>, x: &Tensor, shape: &Shape) -> Result<Tensor> {
    if x.shape() == shape {
        return Ok(x.clone());
    }
    let missing = shape.rank().checked_sub(x.shape().rank());
    let fits = |m: usize| x.shape().iter().zip(&shape[m..]).all(|(a, b)| *a == 1 || a == b);
    let missing = missing
        .filter(|m| fits(*m))
        .ok_or_else(|| Error::invalid(format!("shape {} cannot be broadcast to {shape}", x.shape())))?;
    shape.checked_count()?;
    let mut strides: SmallVec<[isize; 6]> = SmallVec::from_elem(0, missing);
    for (n, s) in x.shape().iter().zip(x.shape().strides()) {
        strides.push(if *n == 1 { 0 } else { s as isize });
    }
    let copy = view_copy(shape, &strides, 0);
    moves::build(cx, x.dtype(), shape.clone(), Fill::Any, &[x], &Copies(&[copy]))
}

fn broadcast_to() -> OpDef {
    OpDef::new("BroadcastTo", Category::Array)
        .doc("The tensor repeated along its axes of length 1, and new ones in front, to the given shape.")
        .input("input: T")
        .input("shape: Tidx")
        .output("output: T")
        .attr("T: type")
        .attr("Tidx: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let (x, shape) = (cx.input(0), cx.constant_shape(1)?);
            if let (Some(a), Some(b)) = (x.dims(), shape.dims()) {
                let fits = b.len().checked_sub(a.len()).is_some_and(|m| {
                    a.iter()
                        .zip(&b[m..])
                        .all(|(a, b)| *a == Some(1) || a.is_none() || b.is_none() || a == b)
                });
                if !fits {
                    return Err(Error::invalid(format!("shape {x} cannot be broadcast to {shape}")));
                }
            }
            Ok(vec![shape])
        })
        .gradient(|cx, dys| {
            let dx = unbroadcast(&cx.dense(dys, 0)?, &cx.input(0)?, &cx.output(0)?)?;
            Ok(vec![Some(dx.into()), None])
        })
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let shape = cx.input(1)?.to_shape()?;
                let t = broadcast(cx, cx.input(0)?, &shape)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([3, 1])?;
            let shape = s.constant([2i32, 3, 4])?;
            s.op("BroadcastTo").input(&x).input(&shape).finish()
        })
}

fn two_shapes(cx: &OpContext<'_>) -> Result<(Ints, Ints)> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    for t in [a, b] {
        if t.shape().rank() != 1 {
            return Err(Error::invalid(format!(
                "a shape must be a vector, got shape {}",
                t.shape()
            )));
        }
    }
    Ok((int_vector(a, "s0")?, int_vector(b, "s1")?))
}

fn broadcast_args() -> OpDef {
    OpDef::new("BroadcastArgs", Category::Array)
        .doc("The shape to which two shapes broadcast.")
        .input("s0: T")
        .input("s1: T")
        .output("r0: T")
        .attr("T: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let lens = [cx.input(0).with_rank(1)?.dim(0), cx.input(1).with_rank(1)?.dim(0)];
            Ok(vec![PartialShape::vector(match lens {
                [Some(a), Some(b)] => Some(a.max(b)),
                _ => None,
            })])
        })
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.attrs.dtype("T")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let (a, b) = two_shapes(cx)?;
                let s = Shape::broadcast(&Shape::from_i64(&a)?, &Shape::from_i64(&b)?)?;
                cx.set_output(0, index_vector(dtype, &s.to_i64())?);
                Ok(())
            })))
        })
}

/// The axes along which each of two shapes is broadcast to their common shape.
fn reduction_axes(a: &[i64], b: &[i64]) -> Result<(Ints, Ints)> {
    let rank = a.len().max(b.len());
    let dim = |s: &[i64], i: usize| if i + s.len() >= rank { s[i + s.len() - rank] } else { 1 };
    let (mut x, mut y) = (Ints::new(), Ints::new());
    for i in 0..rank {
        match (dim(a, i), dim(b, i)) {
            // Both are 1: each is summed over, which changes nothing.
            (1, 1) => {
                x.push(i as i64);
                y.push(i as i64);
            }
            (1, _) => x.push(i as i64),
            (_, 1) => y.push(i as i64),
            (p, q) if p == q => {}
            _ => return Err(Error::invalid(format!("incompatible shapes: {a:?} vs. {b:?}"))),
        }
    }
    Ok((x, y))
}

fn broadcast_gradient_args() -> OpDef {
    OpDef::new("BroadcastGradientArgs", Category::Array)
        .doc("The axes over which the gradients of two operands of a broadcasting operation are summed.")
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
        .cpu(|init| {
            let dtype: DType = init.attrs.dtype("T")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let (a, b) = two_shapes(cx)?;
                let (x, y) = reduction_axes(&a, &b)?;
                cx.set_output(0, index_vector(dtype, &x)?);
                cx.set_output(1, index_vector(dtype, &y)?);
                Ok(())
            })))
        })
}

register_ops!(broadcast_to, broadcast_args, broadcast_gradient_args);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Output, Result, Tensor};

    fn to(x: &Output, shape: &[i64]) -> Result<Output> {
        let s = x.graph().constant(Tensor::vector(shape))?;
        x.graph().op("BroadcastTo").input(x).input(&s).output()
    }

    #[test]
    fn axes_of_length_one_are_repeated() {
        let g = Graph::new();
        let x = g.constant([[1i32], [2]]).unwrap();
        assert_eq!(eval(&to(&x, &[2, 3]).unwrap()), Tensor::from([[1i32, 1, 1], [2, 2, 2]]));
        assert_eq!(
            eval(&to(&x, &[2, 2, 1]).unwrap()).to_vec::<i32>().unwrap(),
            [1, 2, 1, 2]
        );
        assert_eq!(eval(&to(&x, &[2, 0]).unwrap()).len(), 0);
        let s = g.constant("a").unwrap();
        assert_eq!(
            eval(&to(&s, &[2]).unwrap()),
            Tensor::strings([2], vec!["a", "a"]).unwrap()
        );
        assert!(to(&x, &[3, 3]).is_err() && to(&x, &[2]).is_err() && to(&x, &[-2, 1]).is_err());
    }

    #[test]
    fn shapes_broadcast_and_back() {
        let g = Graph::new();
        let (a, b) = (g.constant([2i32, 1, 3]).unwrap(), g.constant([4i32, 1]).unwrap());
        let s = g.op("BroadcastArgs").input(&a).input(&b).output().unwrap();
        assert_eq!(eval(&s), Tensor::from([2i32, 4, 3]));
        let r = g.op("BroadcastGradientArgs").input(&a).input(&b).finish().unwrap();
        assert_eq!(eval(&r.output(0).unwrap()), Tensor::from([1i32]));
        assert_eq!(eval(&r.output(1).unwrap()), Tensor::from([0i32, 2]));
    }
}
