//! `Erf`, `Erfc`, `Erfinv`, `Ndtri`.
#![forbid(unsafe_code)]

use std::f64::consts::{FRAC_2_SQRT_PI, PI};

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::common::{FLOATS, one, sample1, unary};
use crate::elementwise::{fn1, functions, loop_table};
use crate::math::{double, single, special};

fn1! {
    Erf {
        Wide f32 => |x, M| single::erf::<M>(x);
        // NaN at infinity, as TensorFlow's double-precision Erf.
        Plain f64 => |x, M| if x.is_infinite() { f64::NAN } else { double::erf(x) };
    }
    Erfc {
        Wide f32 => |x, M| single::erfc::<M>(x);
        Plain f64 => |x, M| double::erfc(x);
    }
    Erfinv {
        Plain f32 => |x, M| special::erfinv(f64::from(x)) as f32;
        Plain f64 => |x, M| special::erfinv(x);
    }
    Ndtri {
        Plain f32 => |x, M| special::ndtri(f64::from(x)) as f32;
        Plain f64 => |x, M| special::ndtri(x);
    }
}

loop_table! {
    erf_loop = Loop1::heavy Erf [F32, F64];
    erfc_loop = Loop1::heavy Erfc [F32, F64];
    erfinv_loop = Loop1::costly Erfinv [F32, F64];
    ndtri_loop = Loop1::costly Ndtri [F32, F64];
}

functions!("Erf" => erf_loop; "Erfc" => erfc_loop; "Erfinv" => erfinv_loop; "Ndtri" => ndtri_loop;);

fn erf() -> OpDef {
    let def = unary("Erf", FLOATS).doc("The error function.").gradient(|cx, dys| {
        let (x, g) = (cx.input(0)?, cx.dense(dys, 0)?);
        let slope = x.square()?.negated()?.exp()?;
        one(g.times(&g.scalar_like(FRAC_2_SQRT_PI)?)?.times(&slope)?)
    });
    sample1!(def, "Erf", |s| s.normal([2, 3])?)
}

fn erfc() -> OpDef {
    let def = unary("Erfc", FLOATS)
        .doc("1 less the error function, without loss where that is near 1.")
        .gradient(|cx, dys| {
            let (x, g) = (cx.input(0)?, cx.dense(dys, 0)?);
            let slope = x.square()?.negated()?.exp()?;
            one(g.times(&g.scalar_like(-FRAC_2_SQRT_PI)?)?.times(&slope)?)
        });
    sample1!(def, "Erfc", |s| s.normal([2, 3])?)
}

fn erfinv() -> OpDef {
    let def = unary("Erfinv", FLOATS)
        .doc("The number whose error function is x.")
        .gradient(|cx, dys| {
            let (y, g) = (cx.output(0)?, cx.dense(dys, 0)?);
            one(g.times(&g.scalar_like(PI.sqrt() / 2.0)?)?.times(&y.square()?.exp()?)?)
        });
    sample1!(def, "Erfinv", |s| s.uniform([2, 3], -0.9, 0.9)?)
}

fn ndtri() -> OpDef {
    let def = unary("Ndtri", FLOATS)
        .doc("The quantile of the standard normal distribution.")
        .gradient(|cx, dys| {
            let (y, g) = (cx.output(0)?, cx.dense(dys, 0)?);
            let rise = y.square()?.divided_by(&y.scalar_like(2.0)?)?.exp()?;
            one(g.times(&g.scalar_like((2.0 * PI).sqrt())?)?.times(&rise)?)
        });
    sample1!(def, "Ndtri", |s| s.uniform([2, 3], 0.1, 0.9)?)
}

register_ops!(erf, erfc, erfinv, ndtri);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::Graph;

    #[test]
    fn in_double_precision_the_error_function_is_nan_at_infinity() {
        let g = Graph::new();
        let x = g.constant([f64::INFINITY, f64::NEG_INFINITY, -1e300, 30.0]).unwrap();
        let y = eval(&x.unary("Erf").unwrap()).to_vec::<f64>().unwrap();
        assert!(y[0].is_nan() && y[1].is_nan() && y[2..] == [-1.0, 1.0]);
        let x = g.constant([f32::INFINITY, f32::NEG_INFINITY]).unwrap();
        assert_eq!(eval(&x.unary("Erf").unwrap()).to_vec::<f32>().unwrap(), [1.0, -1.0]);
    }

    #[test]
    fn quantiles_undo_the_distribution() {
        let g = Graph::new();
        let x = g.constant([-0.75f64, 0.0, 0.5]).unwrap();
        let back = eval(&x.unary("Erfinv").unwrap().unary("Erf").unwrap())
            .to_vec::<f64>()
            .unwrap();
        for (a, b) in back.iter().zip([-0.75, 0.0, 0.5]) {
            assert!((a - b).abs() < 1e-15);
        }
        let p = g.constant([0.0f32, 0.5, 1.0]).unwrap();
        let z = eval(&p.unary("Ndtri").unwrap()).to_vec::<f32>().unwrap();
        assert_eq!(z, [f32::NEG_INFINITY, 0.0, f32::INFINITY]);
    }
}
