//! The Bessel functions of orders 0 and 1.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::GradContext;
use actorflow_core::op::OpDef;
use actorflow_core::{Output, register_ops};

use super::common::{FLOATS, one, sample1, unary};
use crate::elementwise::{fn1, functions, loop_table};
use crate::math::special;

/// The functions; those `inside` are NaN at both infinities and those `below_infinity` at +∞, as in TensorFlow, which
/// multiplies two limits there.
macro_rules! functions_of {
    ($($name:ident $f:ident $at:ident;)*) => {
        fn1! { $($name {
            Plain f32 => |x, M| $at(f64::from(x), special::$f) as f32;
            Plain f64 => |x, M| $at(x, special::$f);
        })* }
        loop_table! { $($f = Loop1::costly $name [F32, F64];)* }
    };
}
functions_of! {
    I0 i0 inside;
    I0e i0e everywhere;
    I1 i1 inside;
    I1e i1e everywhere;
    J0 j0 inside;
    J1 j1 inside;
    K0 k0 everywhere;
    K0e k0e everywhere;
    K1 k1 everywhere;
    K1e k1e everywhere;
    Y0 y0 below_infinity;
}

fn1! {
    Y1 {
        // TensorFlow's single-precision Y1 is NaN at 0, its double one -∞.
        Plain f32 => |x, M| if x == 0.0 { f32::NAN } else { below_infinity(f64::from(x), special::y1) as f32 };
        Plain f64 => |x, M| below_infinity(x, special::y1);
    }
}
loop_table! { y1 = Loop1::costly Y1 [F32, F64]; }

fn everywhere(x: f64, f: impl Fn(f64) -> f64) -> f64 {
    f(x)
}

fn inside(x: f64, f: impl Fn(f64) -> f64) -> f64 {
    if x.is_infinite() { f64::NAN } else { f(x) }
}

fn below_infinity(x: f64, f: impl Fn(f64) -> f64) -> f64 {
    if x == f64::INFINITY { f64::NAN } else { f(x) }
}

functions! {
    "BesselI0" => i0;
    "BesselI0e" => i0e;
    "BesselI1" => i1;
    "BesselI1e" => i1e;
    "BesselJ0" => j0;
    "BesselJ1" => j1;
    "BesselK0" => k0;
    "BesselK0e" => k0e;
    "BesselK1" => k1;
    "BesselK1e" => k1e;
    "BesselY0" => y0;
    "BesselY1" => y1;
}

/// `at_zero` where x is 0, where the formula `elsewhere` divides by it.
fn with_zero(x: &Output, at_zero: f64, elsewhere: &Output) -> Result<Output> {
    x.equal(&x.scalar_like(0.0)?)?
        .select(&x.scalar_like(at_zero)?, elsewhere)
}

/// The op `Bessel` + `name` with its derivative, a function of x and of the op's output.
macro_rules! bessel {
    ($($f:ident $name:literal $lo:literal $hi:literal $doc:literal, |$x:ident, $y:ident| $slope:expr;)*) => {
        $(fn $f() -> OpDef {
            fn slope($x: &Output, $y: &Output) -> Result<Output> {
                $slope
            }
            let def = unary($name, FLOATS).doc($doc).gradient(|cx: &GradContext, dys| {
                one(cx.dense(dys, 0)?.times(&slope(&cx.input(0)?, &cx.output(0)?)?)?)
            });
            sample1!(def, $name, |s| s.uniform([2, 3], $lo, $hi)?)
        })*
    };
}

bessel! {
    bessel_i0 "BesselI0" -2.0 2.0 "The modified Bessel function of the first kind, order 0.",
        |x, _y| x.unary("BesselI1");
    bessel_i0e "BesselI0e" -2.0 2.0 "BesselI0 times e to the power -|x|.",
        |x, y| x.unary("BesselI1e")?.minus(&x.sign()?.times(y)?);
    bessel_i1 "BesselI1" 0.3 2.0 "The modified Bessel function of the first kind, order 1.",
        |x, y| with_zero(x, 1.0, &x.unary("BesselI0")?.minus(&y.divided_by(x)?)?);
    bessel_i1e "BesselI1e" 0.3 2.0 "BesselI1 times e to the power -|x|.",
        |x, y| {
            let steep = y.times(&x.sign()?.plus(&x.reciprocal()?)?)?;
            with_zero(x, 0.5, &x.unary("BesselI0e")?.minus(&steep)?)
        };
    bessel_j0 "BesselJ0" -2.0 2.0 "The Bessel function of the first kind, order 0.",
        |x, _y| x.unary("BesselJ1")?.negated();
    bessel_j1 "BesselJ1" 0.3 2.0 "The Bessel function of the first kind, order 1.",
        |x, y| with_zero(x, 0.5, &x.unary("BesselJ0")?.minus(&y.divided_by(x)?)?);
    bessel_k0 "BesselK0" 0.5 3.0 "The modified Bessel function of the second kind, order 0.",
        |x, _y| x.unary("BesselK1")?.negated();
    bessel_k0e "BesselK0e" 0.5 3.0 "BesselK0 times e to the power x.",
        |x, y| y.minus(&x.unary("BesselK1e")?);
    bessel_k1 "BesselK1" 0.5 3.0 "The modified Bessel function of the second kind, order 1.",
        |x, y| x.unary("BesselK0")?.negated()?.minus(&y.divided_by(x)?);
    bessel_k1e "BesselK1e" 0.5 3.0 "BesselK1 times e to the power x.",
        |x, y| {
            let rest = x.scalar_like(1.0)?.minus(&x.reciprocal()?)?;
            y.times(&rest)?.minus(&x.unary("BesselK0e")?)
        };
    bessel_y0 "BesselY0" 0.5 3.0 "The Bessel function of the second kind, order 0.",
        |x, _y| x.unary("BesselY1")?.negated();
    bessel_y1 "BesselY1" 0.5 3.0 "The Bessel function of the second kind, order 1.",
        |x, y| x.unary("BesselY0")?.minus(&y.divided_by(x)?);
}

register_ops!(
    bessel_i0, bessel_i0e, bessel_i1, bessel_i1e, bessel_j0, bessel_j1, bessel_k0, bessel_k0e, bessel_k1, bessel_k1e,
    bessel_y0, bessel_y1
);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::gradient::gradients;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn at_infinity_and_at_zero_they_are_what_tensorflow_says() {
        let g = Graph::new();
        let at = |op: &str, x: f64| {
            let wide = eval(&g.constant(x).unwrap().unary(op).unwrap());
            let single = eval(&g.constant(x as f32).unwrap().unary(op).unwrap());
            (wide.to_scalar::<f64>().unwrap(), single.to_scalar::<f32>().unwrap())
        };
        for op in ["BesselI0", "BesselI1", "BesselJ0", "BesselJ1", "BesselY0", "BesselY1"] {
            let (wide, single) = at(op, f64::INFINITY);
            assert!(wide.is_nan() && single.is_nan(), "{op}");
            let (wide, single) = at(op, f64::NEG_INFINITY);
            let y = op.starts_with("BesselY");
            assert_eq!((wide == f64::NEG_INFINITY, single.is_nan()), (y, !y), "{op}");
        }
        assert_eq!(at("BesselI1e", f64::INFINITY), (0.0, 0.0));
        assert_eq!(at("BesselK0", f64::INFINITY), (0.0, 0.0));
        let (wide, single) = at("BesselY1", 0.0);
        assert!(wide == f64::NEG_INFINITY && single.is_nan());
    }

    #[test]
    fn slopes_at_zero_are_the_limits() {
        let g = Graph::new();
        for (op, want) in [("BesselI1", 0.5), ("BesselI1e", 0.5), ("BesselJ1", 0.5)] {
            let x = g.constant(0.0f64).unwrap();
            let y = x.unary(op).unwrap();
            let dx = gradients(&[y], &[x]).unwrap().remove(0).unwrap().to_dense().unwrap();
            // TensorFlow's own answer for I1 is 1, twice the limit.
            let want = if op == "BesselI1" { 1.0 } else { want };
            assert_eq!(eval(&dx), Tensor::from(want), "{op}");
        }
    }
}
