//! `ClipByValue`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::unbroadcast;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use num_complex::Complex;

use super::common::{C64, C128};
use crate::elementwise::{self, Loop2, Loops, fn2, loop_table};
use crate::shapes;

/// A complex number with real and imaginary part each replaced by the bound's where `out` says so.
fn by_parts<T: Copy>(x: Complex<T>, bound: Complex<T>, out: impl Fn(T, T) -> bool) -> Complex<T> {
    let part = |x, bound| if out(x, bound) { bound } else { x };
    Complex::new(part(x.re, bound.re), part(x.im, bound.im))
}

// The order of the operands decides where NaN goes: a NaN element stays, a NaN bound does not bind.
fn2! {
    NotBelow {
        Wide f32, f64, i32, i64, u8 => |x, low, M| if x < low { low } else { x };
        Plain i8, i16, u16, u32, u64 => |x, low, M| if x < low { low } else { x };
        Plain C64, C128 => |x, low, M| by_parts(x, low, |x, low| x < low);
    }
    NotAbove {
        Wide f32, f64, i32, i64, u8 => |x, high, M| if x > high { high } else { x };
        Plain i8, i16, u16, u32, u64 => |x, high, M| if x > high { high } else { x };
        Plain C64, C128 => |x, high, M| by_parts(x, high, |x, high| x > high);
    }
}

loop_table! {
    not_below = Loop2::light NotBelow [F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, C64, C128];
    not_above = Loop2::light NotAbove [F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, C64, C128];
}

struct Clip {
    above: Loop2,
    below: Loop2,
}

impl Kernel for Clip {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        // Where the bounds cross, the lower one wins.
        elementwise::chain([(&self.above, 2), (&self.below, 1)], cx)
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let d = init.output_types[0];
    match (
        elementwise::with_half(d, not_above),
        elementwise::with_half(d, not_below),
    ) {
        (Some(Loops::Two(above)), Some(Loops::Two(below))) => Ok(Box::new(Clip { above, below })),
        _ => Err(init.no_kernel()),
    }
}

fn clip_by_value() -> OpDef {
    OpDef::new("ClipByValue", Category::Math)
        .doc("t held within two bounds, each a scalar or of t's shape; of complex numbers, real and imaginary parts are.")
        .input("t: T")
        .input("clip_value_min: T")
        .input("clip_value_max: T")
        .output("output: T")
        .attr("T: numbertype")
        .shape(shapes::like_first)
        .gradient(|cx, dys| {
            let (x, low, high, g) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.dense(dys, 0)?);
            let zeros = g.zeros_like()?;
            let (below, above) = (x.less(&low)?, x.greater(&high)?);
            let inside = below.logical_or(&above)?.select(&zeros, &g)?;
            Ok(vec![
                Some(inside.into()),
                Some(unbroadcast(&below.select(&g, &zeros)?, &low, &x)?.into()),
                Some(unbroadcast(&above.select(&g, &zeros)?, &high, &x)?.into()),
            ])
        })
        .cpu(kernel)
        .sample(|s| {
            let (x, low, high) = (s.normal([3, 4])?, s.uniform([], -0.6, -0.5)?, s.uniform([], 0.5, 0.6)?);
            s.op("ClipByValue").input(&x).input(&low).input(&high).finish()
        })
}

register_ops!(clip_by_value);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};
    use num_complex::Complex;

    #[test]
    fn complex_numbers_are_held_part_by_part() {
        let g = Graph::new();
        let number = |re: f32, im: f32| g.constant(Tensor::scalar(Complex::new(re, im))).unwrap();
        let clip = |t, low, high| {
            let node = g.op("ClipByValue").input(&t).input(&low).input(&high);
            eval(&node.output().unwrap()).to_scalar::<Complex<f32>>().unwrap()
        };
        let got = clip(number(-4.0, 9.0), number(1.0, 2.0), number(2.0, 3.0));
        assert_eq!(got, Complex::new(1.0, 3.0));
        // Real bounds leave no imaginary part.
        let got = clip(number(1.5, 9.0), number(1.0, 0.0), number(2.0, 0.0));
        assert_eq!(got, Complex::new(1.5, 0.0));
    }

    #[test]
    fn bounds_hold_unless_they_are_nan_and_the_lower_wins() {
        let g = Graph::new();
        let clip = |t: Tensor, low: Tensor, high: Tensor| {
            let [t, low, high] = [t, low, high].map(|x| g.constant(x).unwrap());
            g.op("ClipByValue").input(&t).input(&low).input(&high).output().unwrap()
        };
        let t = || Tensor::from([1.0f32, 5.0, -5.0]);
        assert_eq!(
            eval(&clip(t(), 0.0f32.into(), 2.0f32.into())),
            Tensor::from([1.0f32, 2.0, 0.0])
        );
        assert_eq!(
            eval(&clip(t(), 2.0f32.into(), 0.0f32.into())),
            Tensor::from([2.0f32; 3])
        );
        assert_eq!(
            eval(&clip(t(), f32::NAN.into(), 2.0f32.into())),
            Tensor::from([1.0f32, 2.0, -5.0])
        );
        let lows = Tensor::from([2.0f32, 0.0, -9.0]);
        assert_eq!(eval(&clip(t(), lows, 4.0f32.into())), Tensor::from([2.0f32, 4.0, -5.0]));
        let nan = clip(f64::NAN.into(), 0.0.into(), 1.0.into());
        assert!(eval(&nan).to_scalar::<f64>().unwrap().is_nan());
        let bad = clip(t(), Tensor::from([0.0f32]), 1.0f32.into());
        assert!(fails(&bad).message().contains("same shape"));
    }
}
