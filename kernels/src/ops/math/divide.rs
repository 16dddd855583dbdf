//! `Div`, `RealDiv`, `DivNoNan`, `FloorDiv`, `TruncateDiv`, `FloorMod`, `Mod`, `TruncateMod`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Tensor, dispatch, register_ops};

use super::common::{C64, C128, binary, conj, reduced, sample2};
use crate::elementwise::{fn2, functions, loop_table};

/// a / b rounded towards zero, by a division of f64, which is exact enough and has an instruction for many at once:
/// a quotient that is no integer is at least 1 / |a| of itself away from one.
#[inline(always)]
fn truncated(a: i32, b: i32) -> i32 {
    // The one quotient that does not fit, the least integer by -1, wraps.
    let q = (f64::from(a) / f64::from(b)) as i32;
    if b == -1 { a.wrapping_neg() } else { q }
}

/// As [`truncated`], rounded down.
#[inline(always)]
fn floored(a: i32, b: i32) -> i32 {
    let exact = f64::from(a) / f64::from(b);
    let q = exact as i32;
    let down = q.wrapping_sub(i32::from(f64::from(q) > exact));
    if b == -1 { a.wrapping_neg() } else { down }
}

// A zero integer divisor is refused before the loop; what the loops give for it does not matter.
fn2! {
    /// The quotient, of integers rounded towards zero; the least integer by -1 wraps.
    TruncateDiv {
        Plain i8, i16, i64, u8, u16, u32, u64 => |a, b, M| if b == 0 { 0 } else { a.wrapping_div(b) };
        Wide i32 => |a, b, M| truncated(a, b);
        Wide f32, f64 => |a, b, M| (a / b).trunc();
    }
    /// The quotient, of integers rounded towards zero.
    Div {
        Plain i8, i16, i64, u8, u16, u32, u64 => |a, b, M| if b == 0 { 0 } else { a.wrapping_div(b) };
        Wide i32 => |a, b, M| truncated(a, b);
        Wide f32, f64 => |a, b, M| a / b;
        Plain C64, C128 => |a, b, M| a / b;
    }
    /// The quotient of real and complex numbers.
    RealDiv {
        Wide f32, f64 => |a, b, M| a / b;
        Plain C64, C128 => |a, b, M| a / b;
    }
    /// The quotient, but 0 where the divisor is 0.
    DivNoNan {
        Wide f32, f64 => |a, b, M| if b == 0.0 { 0.0 } else { a / b };
        Plain C64, C128 => |a, b, M| if b == Default::default() { b } else { a / b };
    }
    /// The quotient rounded down.
    FloorDiv {
        Wide i32 => |a, b, M| floored(a, b);
        Plain i8, i16, i64 => |a, b, M| {
            if b == 0 {
                return 0;
            }
            let (q, r) = (a.wrapping_div(b), a.wrapping_rem(b));
            if r != 0 && (r < 0) != (b < 0) { q - 1 } else { q }
        };
        Plain u8, u16, u32, u64 => |a, b, M| a.checked_div(b).unwrap_or(0);
        Wide f32, f64 => |a, b, M| (a / b).floor();
    }
    /// The remainder with the sign of the divisor.
    FloorMod {
        Wide i32 => |a, b, M| a.wrapping_sub(floored(a, b).wrapping_mul(b));
        Plain i8, i16, i64 => |a, b, M| {
            if b == 0 {
                return 0;
            }
            let r = a.wrapping_rem(b);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        };
        Plain u8, u16, u32, u64 => |a, b, M| a.checked_rem(b).unwrap_or(0);
        Plain f32, f64 => |a, b, M| {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        };
    }
    /// The remainder with the sign of the dividend.
    TruncateMod {
        Wide i32 => |a, b, M| a.wrapping_sub(truncated(a, b).wrapping_mul(b));
        Plain i64 => |a, b, M| if b == 0 { 0 } else { a.wrapping_rem(b) };
        Plain f32, f64 => |a, b, M| a % b;
    }
}

loop_table! {
    div_loop = Loop2::heavy Div [I8, I16, I32, I64, U8, U16, U32, U64, F32, F64, C64, C128];
    real_div_loop = Loop2::light RealDiv [F32, F64, C64, C128];
    div_no_nan_loop = Loop2::light DivNoNan [F32, F64, C64, C128];
    floor_div_loop = Loop2::heavy FloorDiv [I8, I16, I32, I64, U8, U16, U32, U64, F32, F64];
    truncate_div_loop = Loop2::heavy TruncateDiv [I8, I16, I32, I64, U8, U16, U32, U64, F32, F64];
    floor_mod_loop = Loop2::heavy FloorMod [I8, I16, I32, I64, U8, U16, U32, U64, F32, F64];
    truncate_mod_loop = Loop2::heavy TruncateMod [I32, I64, F32, F64];
}

fn has_zero(divisors: &Tensor) -> Result<bool> {
    dispatch!(divisors.dtype(), T in integers => Ok(divisors.as_slice::<T>()?.contains(&0)), else Ok(false))
}

/// Refuses zero integer divisors.
fn divisible(_: &Tensor, divisors: &Tensor) -> Result<()> {
    if has_zero(divisors)? {
        return Err(Error::invalid("Integer division by zero"));
    }
    Ok(())
}

/// As [`divisible`], with the code that TensorFlow's truncating divisions have.
fn divisible_or_internal(_: &Tensor, divisors: &Tensor) -> Result<()> {
    if has_zero(divisors)? {
        return Err(Error::internal("Integer division by zero"));
    }
    Ok(())
}

functions! {
    "Div" => div_loop, check divisible;
    "RealDiv" => real_div_loop;
    "DivNoNan" => div_no_nan_loop;
    "FloorDiv" => floor_div_loop, check divisible;
    "TruncateDiv" => truncate_div_loop, check divisible_or_internal;
    "FloorMod" => floor_mod_loop, check divisible;
    "Mod" => truncate_mod_loop, check divisible;
    "TruncateMod" => truncate_mod_loop, check divisible_or_internal;
}

const ALL: &str = "T: {bfloat16, half, float, double, uint8, int8, uint16, int16, int32, uint32, uint64, int64, \
                   complex64, complex128}";

/// dz/dx = 1/y, dz/dy = -x/y/y, with the division `op`.
fn quotient_grad(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
    let (cx_, cy) = (conj(&x)?, conj(&y)?);
    let div = |a: &actorflow_core::Output, b| cx.graph().op(op).input(a).input(b).output();
    let gy = g.times(&div(&div(&cx_.negated()?, &cy)?, &cy)?)?;
    reduced(&x, &y, &div(&g, &cy)?, &gy)
}

fn div() -> OpDef {
    let def = binary("Div", ALL)
        .doc("x / y; of integers rounded towards zero.")
        .gradient(|cx, dys| quotient_grad(cx, dys, "RealDiv"));
    sample2!(def, "Div", normal, positive)
}

fn real_div() -> OpDef {
    let def = binary("RealDiv", ALL)
        .doc("x / y of real and complex numbers.")
        .gradient(|cx, dys| quotient_grad(cx, dys, "RealDiv"));
    sample2!(def, "RealDiv", normal, positive)
}

fn div_no_nan() -> OpDef {
    let def = binary("DivNoNan", "T: {half, float, bfloat16, double, complex64, complex128}")
        .doc("x / y, but 0 where y is 0.")
        .gradient(|cx, dys| quotient_grad(cx, dys, "DivNoNan"));
    sample2!(def, "DivNoNan", normal, positive)
}

fn floor_div() -> OpDef {
    binary("FloorDiv", ALL)
        .doc("x / y rounded down.")
        .gradient(|cx, _| cx.none())
        .sample(|s| {
            // Constants: what does not move has no gradient.
            let (a, b) = (s.constant([7.0, -7.0])?, s.constant([2.0, 2.0])?);
            s.op("FloorDiv").input(&a).input(&b).finish()
        })
}

fn truncate_div() -> OpDef {
    binary("TruncateDiv", ALL)
        .doc("x / y rounded towards zero.")
        .gradient(|cx, _| cx.none())
        .sample(|s| {
            let (a, b) = (s.constant([7.0, -7.0])?, s.constant([2.0, 2.0])?);
            s.op("TruncateDiv").input(&a).input(&b).finish()
        })
}

fn floor_mod() -> OpDef {
    let def = binary(
        "FloorMod",
        "T: {int8, int16, int32, int64, uint8, uint16, uint32, uint64, bfloat16, half, float, double}",
    )
    .doc("The remainder of x / y rounded down: it has the sign of y.")
    .gradient(|cx, dys| {
        let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
        let gy = g.times(&x.floor_div(&y)?.negated()?)?;
        reduced(&x, &y, &g, &gy)
    });
    def.sample(|s| {
        let (a, b) = (s.uniform([2, 3], 2.1, 2.9)?, s.uniform([3], 0.95, 1.0)?);
        s.op("FloorMod").input(&a).input(&b).finish()
    })
}

fn mod_() -> OpDef {
    binary("Mod", "T: {int32, int64, half, bfloat16, float, double}")
        .doc("The remainder of x / y rounded towards zero: it has the sign of x.")
}

fn truncate_mod() -> OpDef {
    binary("TruncateMod", "T: {int32, int64, bfloat16, half, float, double}")
        .doc("The remainder of x / y rounded towards zero: it has the sign of x.")
}

register_ops!(
    div,
    real_div,
    div_no_nan,
    floor_div,
    truncate_div,
    floor_mod,
    mod_,
    truncate_mod
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph};

    fn apply(op: &str, a: impl Into<Tensor>, b: impl Into<Tensor>) -> actorflow_core::Output {
        let g = Graph::new();
        let (a, b) = (g.constant(a).unwrap(), g.constant(b).unwrap());
        g.op(op).input(&a).input(&b).output().unwrap()
    }

    #[test]
    fn integer_divisions_round_as_their_names_say() {
        let (a, b) = ([7i32, -7, 7, -7, i32::MIN], [3i32, 3, -3, -3, -1]);
        for (op, want) in [
            ("FloorDiv", [2, -3, -3, 2, i32::MIN]),
            ("TruncateDiv", [2, -2, -2, 2, i32::MIN]),
            ("Div", [2, -2, -2, 2, i32::MIN]),
            ("FloorMod", [1, 2, -2, -1, 0]),
            ("Mod", [1, -1, 1, -1, 0]),
        ] {
            assert_eq!(eval(&apply(op, a, b)), Tensor::from(want), "{op}");
        }
        assert_eq!(eval(&apply("FloorDiv", [200u8, 7], 7u8)), Tensor::from([28u8, 1]));
    }

    #[test]
    fn quotients_of_int32_are_exact() {
        let edges = [
            i32::MIN,
            i32::MIN + 1,
            -65537,
            -3,
            -2,
            -1,
            0,
            1,
            2,
            3,
            46341,
            65536,
            i32::MAX - 1,
            i32::MAX,
        ];
        let near = |x: i32| [x, x.wrapping_add(1), x.wrapping_sub(1), x.wrapping_mul(77_777)];
        let all: Vec<i32> = edges.into_iter().flat_map(near).collect();
        let pairs = all
            .iter()
            .flat_map(|a| all.iter().map(move |b| (*a, *b)))
            .filter(|(_, b)| *b != 0);
        let (a, b): (Vec<i32>, Vec<i32>) = pairs.unzip();
        let want = |f: fn(i64, i64) -> i64| {
            let v = a.iter().zip(&b).map(|(a, b)| f(i64::from(*a), i64::from(*b)) as i32);
            Tensor::from(v.collect::<Vec<_>>())
        };
        let got = |op| eval(&apply(op, a.clone(), b.clone()));
        let floor = |a: i64, b: i64| (a - (a % b + b) % b) / b;
        assert_eq!(got("FloorDiv"), want(floor));
        assert_eq!(got("FloorMod"), want(|a, b| (a % b + b) % b));
        assert_eq!(got("TruncateDiv"), want(|a, b| a / b));
        assert_eq!(got("TruncateMod"), want(|a, b| a % b));
    }

    #[test]
    fn a_zero_integer_divisor_is_an_error_unless_nothing_is_divided() {
        for op in ["Div", "FloorDiv", "FloorMod", "Mod"] {
            let e = fails(&apply(op, [1i32, 2], [1i32, 0]));
            assert_eq!(
                (e.code(), e.message().contains("Integer division by zero")),
                (Code::InvalidArgument, true)
            );
        }
        assert_eq!(fails(&apply("TruncateDiv", 1i64, 0i64)).code(), Code::Internal);
        let empty = Tensor::vector::<i32>(&[]);
        assert_eq!(eval(&apply("Div", empty.clone(), 0i32)), empty);
    }

    #[test]
    fn real_divisions_follow_ieee_or_avoid_nan() {
        let (a, b) = ([1.0f64, -1.0, 0.0, 5.0], [0.0f64, 0.0, 0.0, -3.0]);
        let r = eval(&apply("RealDiv", a, b)).to_vec::<f64>().unwrap();
        assert!(r[0] == f64::INFINITY && r[1] == -f64::INFINITY && r[2].is_nan());
        assert_eq!(
            eval(&apply("DivNoNan", a, b)),
            Tensor::from([0.0, 0.0, 0.0, -5.0 / 3.0])
        );
        assert_eq!(eval(&apply("FloorDiv", 5.0f32, -3.0f32)), Tensor::from(-2.0f32));
        assert_eq!(
            eval(&apply("FloorMod", [-1.0f32, 5.0], [f32::INFINITY, -3.0])),
            Tensor::from([f32::INFINITY, -1.0])
        );
    }
}
