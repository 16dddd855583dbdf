//! `Floor`, `Ceil`, `Rint`, `Round`, and the tests `IsNan`, `IsInf`, `IsFinite`.
#![forbid(unsafe_code)]

use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, dispatch, register_ops};

use super::common::{FLOATS, SIGNED_COMPLEX, unary};
use crate::elementwise::{self, Loop1, Loops, fn1, functions, loop_table};
use crate::shapes;

// Subnormal numbers count as 0, as in TensorFlow, which flushes them.
fn1! {
    Floor {
        Wide f32 => |x, M| if x.abs() < f32::MIN_POSITIVE { 0.0 * x } else { x.floor() };
        Wide f64 => |x, M| if x.abs() < f64::MIN_POSITIVE { 0.0 * x } else { x.floor() };
    }
    Ceil {
        Wide f32 => |x, M| if x.abs() < f32::MIN_POSITIVE { 0.0 * x } else { x.ceil() };
        Wide f64 => |x, M| if x.abs() < f64::MIN_POSITIVE { 0.0 * x } else { x.ceil() };
    }
    /// To the nearest integer, halves to the even one.
    Round {
        Wide f32, f64 => |x, M| x.round_ties_even();
        Plain i8, i16, i32, i64 => |x, M| x;
    }
    IsNan {
        Wide f32 as bool, f64 as bool => |x, M| x.is_nan();
    }
    IsInf {
        Wide f32 as bool, f64 as bool => |x, M| x.is_infinite();
    }
    IsFinite {
        Wide f32 as bool, f64 as bool => |x, M| x.is_finite();
    }
}

loop_table! {
    floor_loop = Loop1::light Floor [F32, F64];
    ceil_loop = Loop1::light Ceil [F32, F64];
    rint_loop = Loop1::light Round [F32, F64];
    round_loop = Loop1::light Round [F32, F64, I8, I16, I32, I64];
}

macro_rules! test_loop {
    ($($name:ident $f:ident;)*) => {
        $(fn $name(d: DType) -> Option<Loops> {
            dispatch!(d, T in [F32, F64] => Some(Loop1::light_to::<$f, T, bool>().into()), else None)
        })*
    };
}
test_loop!(is_nan_loop IsNan; is_inf_loop IsInf; is_finite_loop IsFinite;);

functions! {
    "Floor" => floor_loop;
    "Ceil" => ceil_loop;
    "Rint" => rint_loop;
    "Round" => round_loop;
    "IsNan" => is_nan_loop;
    "IsInf" => is_inf_loop;
    "IsFinite" => is_finite_loop;
}

/// Rounding is flat: no gradient, as in TensorFlow.
macro_rules! rounding {
    ($($f:ident $name:literal $types:expr, $doc:literal;)*) => {
        $(fn $f() -> OpDef {
            unary($name, $types).doc($doc).gradient(|cx, _| cx.none()).sample(|s| {
                let x = s.constant([0.3, -1.7])?;
                s.op($name).input(&x).finish()
            })
        })*
    };
}
rounding! {
    floor "Floor" FLOATS, "The greatest integer not above x.";
    ceil "Ceil" FLOATS, "The least integer not below x.";
    rint "Rint" FLOATS, "The nearest integer, of halves the even one.";
    round "Round" SIGNED_COMPLEX, "The nearest integer, of halves the even one; integers stay.";
}

fn test(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("x: T")
        .output("y: bool")
        .attr(FLOATS)
        .shape(shapes::like_first)
        .not_differentiable()
        .cpu(elementwise::kernel)
}

fn is_nan() -> OpDef {
    test("IsNan").doc("Whether x is not a number.")
}

fn is_inf() -> OpDef {
    test("IsInf").doc("Whether x is infinite.")
}

fn is_finite() -> OpDef {
    test("IsFinite").doc("Whether x is neither infinite nor NaN.")
}

register_ops!(floor, ceil, rint, round, is_nan, is_inf, is_finite);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn halves_round_to_even() {
        let g = Graph::new();
        let x = g.constant([0.5f64, 1.5, 2.5, -0.5, -1.5, 1e300]).unwrap();
        for op in ["Rint", "Round"] {
            assert_eq!(
                eval(&x.unary(op).unwrap()),
                Tensor::from([0.0, 2.0, 2.0, -0.0, -2.0, 1e300])
            );
        }
        let x = g.constant([3i32, -4]).unwrap();
        assert_eq!(eval(&x.unary("Round").unwrap()), Tensor::from([3, -4]));
    }

    #[test]
    fn classes_of_numbers() {
        let g = Graph::new();
        let x = g.constant([f32::NAN, f32::INFINITY, 1.0]).unwrap();
        assert_eq!(eval(&x.unary("IsNan").unwrap()), Tensor::from([true, false, false]));
        assert_eq!(eval(&x.unary("IsInf").unwrap()), Tensor::from([false, true, false]));
        assert_eq!(eval(&x.unary("IsFinite").unwrap()), Tensor::from([false, false, true]));
        let h = g.constant([half::f16::NAN, half::f16::ONE]).unwrap();
        assert_eq!(eval(&h.unary("IsNan").unwrap()), Tensor::from([true, false]));
    }
}
