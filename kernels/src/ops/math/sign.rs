//! `Abs`, `Neg`, `Sign`.
#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::common::{C64, C128, SIGNED, SIGNED_COMPLEX, one, sample1, unary};
use crate::elementwise::{fn1, functions, loop_table};

fn1! {
    Abs {
        Wide f32, f64 => |x, M| x.abs();
        Wide i32, i64 => |x, M| x.wrapping_abs();
        Plain i8, i16 => |x, M| x.wrapping_abs();
    }
    Neg {
        Wide f32, f64 => |x, M| -x;
        Wide i32, i64 => |x, M| x.wrapping_neg();
        Plain i8, i16 => |x, M| x.wrapping_neg();
        Plain C64, C128 => |x, M| -x;
    }
    /// -1, 0 or 1; NaN stays; of a complex number its direction. Subnormal numbers count as 0, as in TensorFlow.
    Sign {
        Wide f32 => |x, M| {
            let s = if x >= f32::MIN_POSITIVE { 1.0 } else { 0.0 };
            let s = if x <= -f32::MIN_POSITIVE { -1.0 } else { s };
            if x.is_nan() { x } else { s }
        };
        Wide f64 => |x, M| {
            let s = if x >= f64::MIN_POSITIVE { 1.0 } else { 0.0 };
            let s = if x <= -f64::MIN_POSITIVE { -1.0 } else { s };
            if x.is_nan() { x } else { s }
        };
        Wide i32, i64 => |x, M| x.signum();
        Plain i8, i16 => |x, M| x.signum();
        Plain C64 => |x, M| if x == C64::ZERO { x } else { x.unscale(x.norm()) };
        Plain C128 => |x, M| if x == C128::ZERO { x } else { x.unscale(x.norm()) };
    }
}

loop_table! {
    abs_loop = Loop1::light Abs [F32, F64, I8, I16, I32, I64];
    neg_loop = Loop1::light Neg [F32, F64, I8, I16, I32, I64, C64, C128];
    sign_loop = Loop1::light Sign [F32, F64, I8, I16, I32, I64, C64, C128];
}

functions!("Abs" => abs_loop; "Neg" => neg_loop; "Sign" => sign_loop;);

fn abs() -> OpDef {
    let def = unary("Abs", SIGNED)
        .doc("|x|; the least integer wraps to itself.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.times(&cx.input(0)?.sign()?)?));
    sample1!(def, "Abs", |s| s.normal([2, 3])?)
}

fn neg() -> OpDef {
    let def = unary("Neg", SIGNED_COMPLEX)
        .doc("-x.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.negated()?));
    sample1!(def, "Neg", |s| s.normal([2, 3])?)
}

fn sign() -> OpDef {
    let def = unary("Sign", SIGNED_COMPLEX)
        .doc("-1, 0 or 1 with the sign of x; of a complex number x / |x|.")
        .gradient(|cx, _| one(cx.input(0)?.zeros_like()?));
    sample1!(def, "Sign", |s| s.normal([2, 3])?)
}

register_ops!(abs, neg, sign);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn signs_of_every_kind() {
        let g = Graph::new();
        let x = g.constant([-3i8, 0, 9, -128]).unwrap();
        assert_eq!(eval(&x.sign().unwrap()), Tensor::from([-1i8, 0, 1, -1]));
        assert_eq!(eval(&x.abs().unwrap()), Tensor::from([3i8, 0, 9, -128]));
        assert_eq!(eval(&x.negated().unwrap()), Tensor::from([3i8, 0, -9, -128]));
        let x = g.constant([f32::NAN, -0.0, f32::NEG_INFINITY]).unwrap();
        let s = eval(&x.sign().unwrap()).to_vec::<f32>().unwrap();
        assert!(s[0].is_nan() && s[1].is_sign_positive() && s[2] == -1.0);
        let x = g.constant([half::f16::from_f32(-2.5)]).unwrap();
        assert_eq!(eval(&x.abs().unwrap()), Tensor::from([half::f16::from_f32(2.5)]));
    }
}
