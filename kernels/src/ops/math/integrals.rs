//! `Dawsn`, `Expint`, `FresnelCos`, `FresnelSin`, `Spence`.
#![forbid(unsafe_code)]

use std::f64::consts::FRAC_PI_2;

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::common::{FLOATS, one, sample1, unary};
use crate::elementwise::{fn1, functions, loop_table};
use crate::math::special;

/// NaN at +∞, as in TensorFlow, whose expansions for large x divide two limits there.
fn below_infinity(x: f64, f: impl Fn(f64) -> f64) -> f64 {
    if x == f64::INFINITY { f64::NAN } else { f(x) }
}

fn1! {
    Dawsn {
        Plain f32 => |x, M| special::dawsn(f64::from(x)) as f32;
        Plain f64 => |x, M| special::dawsn(x);
    }
    Expint {
        Plain f32 => |x, M| below_infinity(f64::from(x), special::expint) as f32;
        Plain f64 => |x, M| below_infinity(x, special::expint);
    }
    FresnelCos {
        Plain f32 => |x, M| special::fresnel_cos(f64::from(x)) as f32;
        Plain f64 => |x, M| special::fresnel_cos(x);
    }
    FresnelSin {
        Plain f32 => |x, M| special::fresnel_sin(f64::from(x)) as f32;
        Plain f64 => |x, M| special::fresnel_sin(x);
    }
    Spence {
        Plain f32 => |x, M| below_infinity(f64::from(x), special::spence) as f32;
        Plain f64 => |x, M| below_infinity(x, special::spence);
    }
}

loop_table! {
    dawsn_loop = Loop1::costly Dawsn [F32, F64];
    expint_loop = Loop1::costly Expint [F32, F64];
    fresnel_cos_loop = Loop1::costly FresnelCos [F32, F64];
    fresnel_sin_loop = Loop1::costly FresnelSin [F32, F64];
    spence_loop = Loop1::costly Spence [F32, F64];
}

functions! {
    "Dawsn" => dawsn_loop;
    "Expint" => expint_loop;
    "FresnelCos" => fresnel_cos_loop;
    "FresnelSin" => fresnel_sin_loop;
    "Spence" => spence_loop;
}

fn dawsn() -> OpDef {
    let def = unary("Dawsn", FLOATS)
        .doc("Dawson's integral: e^(-x²) times the integral of e^(t²) from 0 to x.")
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.output(0)?, cx.dense(dys, 0)?);
            let slope = g.scalar_like(1.0)?.minus(&g.scalar_like(2.0)?.times(&x)?.times(&y)?)?;
            one(g.times(&slope)?)
        });
    sample1!(def, "Dawsn", |s| s.normal([2, 3])?)
}

fn expint() -> OpDef {
    let def = unary("Expint", FLOATS)
        .doc("The exponential integral Ei.")
        .gradient(|cx, dys| {
            let x = cx.input(0)?;
            one(cx.dense(dys, 0)?.times(&x.exp()?)?.divided_by(&x)?)
        });
    sample1!(def, "Expint", |s| s.positive([2, 3])?)
}

fn fresnel_cos() -> OpDef {
    let def = unary("FresnelCos", FLOATS)
        .doc("Fresnel's integral of cos(πt²/2) from 0 to x.")
        .gradient(|cx, dys| {
            let x = cx.input(0)?;
            let slope = x.scalar_like(FRAC_PI_2)?.times(&x.square()?)?.cos()?;
            one(cx.dense(dys, 0)?.times(&slope)?)
        });
    sample1!(def, "FresnelCos", |s| s.normal([2, 3])?)
}

fn fresnel_sin() -> OpDef {
    let def = unary("FresnelSin", FLOATS)
        .doc("Fresnel's integral of sin(πt²/2) from 0 to x.")
        .gradient(|cx, dys| {
            let x = cx.input(0)?;
            let slope = x.scalar_like(FRAC_PI_2)?.times(&x.square()?)?.sin()?;
            one(cx.dense(dys, 0)?.times(&slope)?)
        });
    sample1!(def, "FresnelSin", |s| s.normal([2, 3])?)
}

fn spence() -> OpDef {
    let def = unary("Spence", FLOATS)
        .doc("Spence's integral of -log t / (t - 1) from 1 to x.")
        .gradient(|cx, dys| {
            let x = cx.input(0)?;
            let unit = x.scalar_like(1.0)?;
            let slope = x.log()?.divided_by(&unit.minus(&x)?)?;
            // The limit where numerator and denominator vanish.
            let slope = x.equal(&unit)?.select(&unit.negated()?, &slope)?;
            one(cx.dense(dys, 0)?.times(&slope)?)
        });
    sample1!(def, "Spence", |s| s.uniform([2, 3], 0.2, 0.9)?)
}

register_ops!(dawsn, expint, fresnel_cos, fresnel_sin, spence);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::Graph;

    #[test]
    fn two_of_them_are_nan_at_infinity_as_in_tensorflow() {
        let g = Graph::new();
        let x = g.constant([f64::INFINITY, 1e300]).unwrap();
        for (op, nan) in [
            ("Expint", true),
            ("Spence", true),
            ("FresnelCos", false),
            ("Dawsn", false),
        ] {
            let y = eval(&x.unary(op).unwrap()).to_vec::<f64>().unwrap();
            assert_eq!((y[0].is_nan(), y[1].is_nan()), (nan, false), "{op}");
        }
    }
}
