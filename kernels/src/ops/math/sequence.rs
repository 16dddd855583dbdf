//! `LinSpace`, `Cross`, `NextAfter`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::unbroadcast;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Element, PartialShape, Tensor, dispatch, register_ops};
use half::{bf16, f16};

use super::common::FLOATS;
use crate::elementwise::{self, fn2, functions, loop_table};
use crate::math::real;
use crate::shapes;

fn unwritable() -> Error {
    Error::internal("a new tensor must be writable")
}

/// `num` numbers from `start` to `stop`, computed in the wide type `$w`.
macro_rules! spaced {
    ($cx:expr, $num:expr, $t:ty, $w:ty, |$x:ident| $up:expr, |$y:ident| $down:expr) => {{
        let widen = |$x: $t| -> $w { $up };
        let (first, last) = ($cx.scalar::<$t>(0)?, $cx.scalar::<$t>(1)?);
        let (start, stop) = (widen(first), widen(last));
        let mut out = $cx.alloc(<$t>::DTYPE, [$num])?;
        let v = out.as_mut_slice::<$t>().ok_or_else(unwritable)?;
        let step = (stop - start) / ($num.max(2) - 1) as $w;
        for (i, v) in v.iter_mut().enumerate() {
            let $y: $w = start + step * i as $w;
            *v = $down;
        }
        // The end is met exactly.
        if let [_, .., end] = v {
            *end = last;
        }
        out
    }};
}

fn lin_space_kernel(cx: &mut OpContext<'_>) -> Result<()> {
    for (i, name) in ["start", "stop", "num"].into_iter().enumerate() {
        let s = cx.input(i)?.shape();
        if !s.is_scalar() {
            return Err(Error::invalid(format!("{name} must be a scalar, not shape {s}")));
        }
    }
    let num = cx.input(2)?.to_i64()?;
    let n = usize::try_from(num)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Error::invalid(format!("Requires num > 0: {num}")))?;
    let out: Tensor = match cx.input(0)?.dtype() {
        DType::F32 => spaced!(cx, n, f32, f32, |x| x, |y| y),
        DType::F64 => spaced!(cx, n, f64, f64, |x| x, |y| y),
        DType::F16 => spaced!(cx, n, f16, f32, |x| x.to_f32(), |y| f16::from_f32(y)),
        _ => spaced!(cx, n, bf16, f32, |x| x.to_f32(), |y| bf16::from_f32(y)),
    };
    cx.set_output(0, out);
    Ok(())
}

fn lin_space() -> OpDef {
    OpDef::new("LinSpace", Category::Math)
        .doc("num numbers from start to stop, both included, equally spaced.")
        .input("start: T")
        .input("stop: T")
        .input("num: Tidx")
        .output("output: T")
        .attr(FLOATS)
        .attr("Tidx: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let num = cx.constant_i64(2);
            if let Some(n) = num.filter(|n| *n <= 0) {
                return Err(Error::invalid(format!("Requires num > 0: {n}")));
            }
            Ok(vec![PartialShape::vector(num.and_then(|n| usize::try_from(n).ok()))])
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(lin_space_kernel)))
}

/// The product of vectors of three.
fn cross_of<T: Element>(a: &[T], b: &[T], z: &mut [T], minor: impl Fn(T, T, T, T) -> T) {
    for ((z, a), b) in z.chunks_exact_mut(3).zip(a.chunks_exact(3)).zip(b.chunks_exact(3)) {
        for i in 0..3 {
            let (j, k) = ((i + 1) % 3, (i + 2) % 3);
            z[i] = minor(a[j], b[k], a[k], b[j]);
        }
    }
}

fn cross_kernel(cx: &mut OpContext<'_>) -> Result<()> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if a.shape() != b.shape() {
        return Err(Error::invalid(format!(
            "Both inputs must be of same shape: {} vs. {}",
            a.shape(),
            b.shape()
        )));
    }
    match a.shape().last() {
        Some(3) => {}
        Some(_) => {
            return Err(Error::failed_precondition(
                "Cross-products are only defined for 3-element vectors.",
            ));
        }
        None => return Err(Error::invalid("Input must be at least 1D")),
    }
    let mut out = cx.alloc(a.dtype(), a.shape())?;
    macro_rules! cross {
        ($t:ty, $minor:expr) => {
            cross_of::<$t>(
                a.as_slice()?,
                b.as_slice()?,
                out.as_mut_slice().ok_or_else(unwritable)?,
                $minor,
            )
        };
    }
    match a.dtype() {
        DType::F32 => cross!(f32, |a, b, c, d| a * b - c * d),
        DType::F64 => cross!(f64, |a, b, c, d| a * b - c * d),
        DType::F16 => cross!(f16, |a, b, c, d| a * b - c * d),
        DType::BF16 => cross!(bf16, |a, b, c, d| a * b - c * d),
        d => dispatch!(d, T in integers =>
            cross!(T, |a: T, b, c: T, d| a.wrapping_mul(b).wrapping_sub(c.wrapping_mul(d))), else {
            return Err(Error::invalid(format!("Cross has no CPU kernel for {d}")));
        }),
    }
    cx.set_output(0, out);
    Ok(())
}

fn cross() -> OpDef {
    OpDef::new("Cross", Category::Math)
        .doc("The cross products of the 3-element vectors along the last dimension.")
        .input("a: T")
        .input("b: T")
        .output("product: T")
        .attr("T: realnumbertype")
        .shape(|cx| {
            let a = cx.input(0).with_rank_at_least(1)?;
            Ok(vec![a.merge(&cx.input(1).with_rank_at_least(1)?)?])
        })
        .gradient(|cx, dys| {
            let (a, b, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            let cross = |u, v| cx.graph().op("Cross").input(u).input(v).output();
            Ok(vec![Some(cross(&b, &g)?.into()), Some(cross(&g, &a)?.into())])
        })
        .cpu(|_: &KernelInit<'_>| -> Result<Box<dyn Kernel>> { Ok(Box::new(cross_kernel)) })
        .sample(|s| {
            let (a, b) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("Cross").input(&a).input(&b).finish()
        })
}

fn2! {
    NextAfter {
        Plain f32, f64 => |x, y, M| real::next_after(x, y);
    }
}

loop_table! {
    next_after_loop = Loop2::light NextAfter [F32, F64];
}

functions!("NextAfter" => next_after_loop;);

fn next_after() -> OpDef {
    OpDef::new("NextAfter", Category::Math)
        .doc("The number next to x1 in the direction of x2.")
        .input("x1: T")
        .input("x2: T")
        .output("output: T")
        .attr("T: {double, float} = DT_FLOAT")
        .shape(shapes::broadcast)
        .gradient(|cx, dys| {
            let (x1, x2, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            let none = x2.zeros_like()?.times(&g)?;
            Ok(vec![
                Some(unbroadcast(&g, &x1, &x2)?.into()),
                Some(unbroadcast(&none, &x2, &x1)?.into()),
            ])
        })
        .cpu(elementwise::kernel)
        .sample(|s| {
            let (x1, x2) = (s.normal([2, 3])?, s.constant([5.0, 6.0, 7.0])?);
            s.op("NextAfter").input(&x1).input(&x2).finish()
        })
}

register_ops!(lin_space, cross, next_after);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Tensor};

    #[test]
    fn linear_spaces_meet_both_ends() {
        let g = Graph::new();
        let space = |a: f64, b: f64, n: i32| {
            let (a, b, n) = (g.constant(a).unwrap(), g.constant(b).unwrap(), g.constant(n).unwrap());
            g.op("LinSpace").input(&a).input(&b).input(&n).output()
        };
        assert_eq!(
            eval(&space(1.0, 3.0, 5).unwrap()),
            Tensor::from([1.0, 1.5, 2.0, 2.5, 3.0])
        );
        assert_eq!(eval(&space(1.0, 3.0, 1).unwrap()), Tensor::from([1.0]));
        assert_eq!(
            *eval(&space(0.0, 0.7, 8).unwrap())
                .as_slice::<f64>()
                .unwrap()
                .last()
                .unwrap(),
            0.7
        );
        assert!(space(1.0, 3.0, 0).is_err());
    }

    #[test]
    fn cross_products_stand_upright() {
        let g = Graph::new();
        let a = g.constant([[1.0f32, 2.0, 3.0], [1.0, 0.0, 0.0]]).unwrap();
        let b = g.constant([[4.0f32, 5.0, 6.0], [0.0, 1.0, 0.0]]).unwrap();
        let z = g.op("Cross").input(&a).input(&b).output().unwrap();
        assert_eq!(eval(&z), Tensor::from([[-3.0f32, 6.0, -3.0], [0.0, 0.0, 1.0]]));
        let a = g.constant([[1i32, 2]]).unwrap();
        let z = g.op("Cross").input(&a).input(&a).output().unwrap();
        assert_eq!(fails(&z).code(), Code::FailedPrecondition);
    }

    #[test]
    fn next_numbers_step_by_one_bit() {
        let g = Graph::new();
        let a = g.constant([0.0f32, 1.0]).unwrap();
        let b = g.constant([-1.0f32, 1.0]).unwrap();
        let z = g.op("NextAfter").input(&a).input(&b).output().unwrap();
        assert_eq!(eval(&z), Tensor::from([-f32::from_bits(1), 1.0]));
    }
}
