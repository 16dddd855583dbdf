//! `Pow`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Tensor, dispatch, register_ops};

use super::common::{C64, C128, binary, conj, reduced, sample2};
use crate::elementwise::{fn2, functions, loop_table};
use crate::math::single;

/// `base` to the power `exponent`, wrapping, by squaring; a negative exponent, which was refused before, gives 1.
macro_rules! integer_power {
    ($base:expr, $exponent:expr) => {{
        let (mut base, mut left, mut product) = ($base, $exponent, 1);
        while left > 0 {
            if left & 1 == 1 {
                product = base.wrapping_mul(product);
            }
            base = base.wrapping_mul(base);
            left >>= 1;
        }
        product
    }};
}

fn2! {
    Pow {
        Wide f32 => |a, b, M| single::pow::<M>(a, b);
        Plain f64 => |a, b, M| a.powf(b);
        Plain i8, i16, i32, i64 => |a, b, M| integer_power!(a, b);
        Plain C64 => |a, b, M| if b == C64::ZERO { C64::ONE } else if a == C64::ZERO { a } else { (a.ln() * b).exp() };
        Plain C128 => |a, b, M| if b == C128::ZERO { C128::ONE } else if a == C128::ZERO { a } else { (a.ln() * b).exp() };
    }
}

loop_table! {
    pow_loop = Loop2::heavy Pow [F32, F64, I8, I16, I32, I64, C64, C128];
}

/// Refuses negative integer exponents.
fn has_power(_: &Tensor, exponents: &Tensor) -> Result<()> {
    let negative = dispatch!(exponents.dtype(), T in [I8, I16, I32, I64] =>
        exponents.as_slice::<T>()?.iter().any(|e| *e < 0), else false);
    if negative {
        return Err(Error::invalid("Integers to negative integer powers are not allowed"));
    }
    Ok(())
}

functions!("Pow" => pow_loop, check has_power;);

/// Where x is not positive (or, if complex, 0) there is no sensible logarithm: no gradient flows to the exponent.
fn pow_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, y, z, g) = (cx.input(0)?, cx.input(1)?, cx.output(0)?, cx.dense(dys, 0)?);
    let (xc, yc) = (conj(&x)?, conj(&y)?);
    let gx = (g.times(&yc)?).times(&xc.pow(&yc.minus(&yc.scalar_like(1.0)?)?)?)?;
    let zero = xc.scalar_like(0.0)?;
    let usable = if x.dtype().is_complex() {
        xc.not_equal(&zero)?
    } else {
        xc.greater(&zero)?
    };
    let safe = usable.select(&xc, &x.ones_like()?)?;
    let log = usable.select(&safe.log()?, &x.zeros_like()?)?;
    let gy = (g.times(&conj(&z)?)?).times(&log)?;
    reduced(&x, &y, &gx, &gy)
}

fn pow() -> OpDef {
    let def = binary(
        "Pow",
        "T: {bfloat16, float, half, double, int8, int16, int32, int64, complex64, complex128}",
    )
    .doc("x to the power y; integers wrap and cannot have negative exponents.")
    .gradient(pow_grad);
    sample2!(def, "Pow", positive, normal)
}

register_ops!(pow);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::Graph;

    #[test]
    fn integer_powers_wrap_and_refuse_negative_exponents() {
        let g = Graph::new();
        let x = g.constant([7i8, -2, 0]).unwrap();
        let p = x.pow(&g.constant([3i8, 7, 0]).unwrap()).unwrap();
        assert_eq!(eval(&p), Tensor::from([87i8, -128, 1]));
        let bad = x.pow(&g.constant([1i8, -1, 0]).unwrap()).unwrap();
        assert!(fails(&bad).message().contains("negative integer powers"));
    }

    #[test]
    fn real_powers_follow_ieee() {
        let g = Graph::new();
        let x = g.constant([f32::NAN, 1.0, -5.0, -8.0, 0.0]).unwrap();
        let y = g.constant([0.0f32, f32::NAN, 3.0, 0.5, -1.0]).unwrap();
        let p = eval(&x.pow(&y).unwrap()).to_vec::<f32>().unwrap();
        assert_eq!(p[..3], [1.0, 1.0, -125.0]);
        assert!(p[3].is_nan() && p[4] == f32::INFINITY);
    }
}
