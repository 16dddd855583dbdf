//! `Range`.

use actorflow_core::error::{Error, Result};
use actorflow_core::half::{bf16, f16};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, dispatch, register_ops};

/// Numbers that a range can count in.
trait Count: actorflow_core::Element {
    /// How many values there are from `start` (inclusive) to `limit` (exclusive) in steps of `delta`.
    fn steps(start: Self, limit: Self, delta: Self) -> Result<usize>;

    /// `start + i·delta`.
    fn at(start: Self, delta: Self, i: usize) -> Self;
}

fn wrong_way(start: &dyn std::fmt::Display, limit: &dyn std::fmt::Display, delta: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!(
        "a range from {start} to {limit} needs a delta of the other sign than {delta}"
    ))
}

fn too_long() -> Error {
    Error::invalid("the range has more elements than a tensor can hold")
}

macro_rules! integers {
    ($($t:ty),*) => {
        $(impl Count for $t {
            fn steps(start: Self, limit: Self, delta: Self) -> Result<usize> {
                if delta == 0 {
                    return Err(Error::invalid("delta must not be 0"));
                }
                let (s, l, d) = (start as i128, limit as i128, delta as i128);
                if (d > 0 && s > l) || (d < 0 && s < l) {
                    return Err(wrong_way(&start, &limit, &delta));
                }
                let n = ((l - s).unsigned_abs()).div_ceil(d.unsigned_abs());
                i64::try_from(n).map(|n| n as usize).map_err(|_| too_long())
            }

            #[inline]
            fn at(start: Self, delta: Self, i: usize) -> Self {
                start.wrapping_add((i as $t).wrapping_mul(delta))
            }
        })*
    };
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! floats {
    ($($t:ty, $to:expr, $from:expr;)*) => {
        $(impl Count for $t {
            fn steps(start: Self, limit: Self, delta: Self) -> Result<usize> {
                // As TensorFlow: quotient and difference are rounded to the dtype.
                let (s, l, d) = ($to(start), $to(limit), $to(delta));
                if d == 0.0 {
                    return Err(Error::invalid("delta must not be 0"));
                }
                if (d > 0.0 && s > l) || (d < 0.0 && s < l) {
                    return Err(wrong_way(&s, &l, &d));
                }
                let n = $to($from($to($from(l - s)) / d)).abs().ceil();
                if n < i64::MAX as f64 as _ {
                    Ok(n as usize)
                } else {
                    Err(too_long())
                }
            }

            #[inline]
            fn at(start: Self, delta: Self, i: usize) -> Self {
                let step = $from($to($from(i as _)) * $to(delta));
                $from($to(start) + $to(step))
            }
        })*
    };
}

floats! {
    f32, |x: f32| x, |x: f32| x;
    f64, |x: f64| x, |x: f64| x;
    f16, |x: f16| x.to_f32(), f16::from_f32;
    bf16, |x: bf16| x.to_f32(), bf16::from_f32;
}

fn steps(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<usize> {
    dispatch!(start.dtype(), T in reals => {
        T::steps(start.to_scalar()?, limit.to_scalar()?, delta.to_scalar()?)
    }, else Err(Error::invalid(format!("there is no range of dtype {}", start.dtype()))))
}

fn range() -> OpDef {
    OpDef::new("Range", Category::Array)
        .doc("The numbers from `start` (inclusive) to `limit` (exclusive) in steps of `delta`.")
        .input("start: Tidx")
        .input("limit: Tidx")
        .input("delta: Tidx")
        .output("output: Tidx")
        .attr(
            "Tidx: {bfloat16, half, float, double, int8, int16, int32, int64, uint8, uint16, uint32, uint64} = \
             DT_INT32",
        )
        .shape(|cx| {
            for i in 0..3 {
                cx.input(i).with_rank(0)?;
            }
            Ok(vec![PartialShape::vector(
                match (cx.constant(0), cx.constant(1), cx.constant(2)) {
                    (Some(s), Some(l), Some(d)) => Some(steps(&s, &l, &d)?),
                    _ => None,
                },
            )])
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(compute)))
}

fn compute(cx: &mut OpContext<'_>) -> Result<()> {
    let (start, limit, delta) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    for (t, name) in [(start, "start"), (limit, "limit"), (delta, "delta")] {
        if !t.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "{name} must be a scalar, got shape {}",
                t.shape()
            )));
        }
    }
    let n = steps(start, limit, delta)?;
    let dtype: DType = start.dtype();
    let mut t = cx.alloc(dtype, [n])?;
    dispatch!(dtype, T in reals => {
        let (s, d) = (start.to_scalar::<T>()?, delta.to_scalar::<T>()?);
        for (i, x) in t.as_mut_slice::<T>().unwrap_or(&mut []).iter_mut().enumerate() {
            *x = T::at(s, d, i);
        }
    }, else return Err(Error::invalid("no range of this dtype")));
    cx.set_output(0, t);
    Ok(())
}

register_ops!(range);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::error::Result;
    use actorflow_core::{Code, Element, Graph, Output, PartialShape, Tensor};

    fn range<T: Element>(g: &Graph, start: T, limit: T, delta: T) -> Result<Output> {
        let c = |x: T| g.constant(Tensor::scalar(x));
        g.op("Range")
            .input(&c(start)?)
            .input(&c(limit)?)
            .input(&c(delta)?)
            .output()
    }

    #[test]
    fn ranges_count_up_and_down() {
        let g = Graph::new();
        let r = range(&g, 3i32, 18, 4).unwrap();
        assert_eq!(r.shape(), PartialShape::from([4]));
        assert_eq!(eval(&r), Tensor::from([3i32, 7, 11, 15]));
        assert_eq!(eval(&range(&g, 3i64, -1, -2).unwrap()), Tensor::from([3i64, 1]));
        assert_eq!(
            eval(&range(&g, 0.0f32, 1.0, 0.25).unwrap()),
            Tensor::from([0.0f32, 0.25, 0.5, 0.75])
        );
        assert_eq!(eval(&range(&g, 5u8, 5, 1).unwrap()).len(), 0);
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let g = Graph::new();
        assert!(range(&g, 0i32, 5, 0).is_err() && range(&g, 0i32, 5, -1).is_err());
        assert!(range(&g, 0f64, f64::INFINITY, 1.0).is_err() && range(&g, 0f32, f32::NAN, 1.0).is_err());
        let e = fails(&range(&g, i64::MIN + 1, i64::MAX / 2, 2).unwrap());
        assert!(
            matches!(e.code(), Code::InvalidArgument | Code::ResourceExhausted),
            "{e}"
        );
    }
}
