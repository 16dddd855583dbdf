//! `Square`, `Sqrt`, `Rsqrt`, `Reciprocal`, `Inv` and the operations of their gradients.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Output, register_ops};

use super::common::{C64, C128, FLOATS_COMPLEX, SIGNED_COMPLEX, conj, gradient_of_unary, one, sample1, two, unary};
use crate::elementwise::{fn1, fn2, functions, loop_table};

fn1! {
    Square {
        Wide f32, f64 => |x, M| x * x;
        Wide i32, i64 => |x, M| x.wrapping_mul(x);
        Plain i8, i16 => |x, M| x.wrapping_mul(x);
        Plain C64, C128 => |x, M| x * x;
    }
    Sqrt {
        Wide f32, f64 => |x, M| x.sqrt();
        Plain C64, C128 => |x, M| x.sqrt();
    }
    Rsqrt {
        Wide f32, f64 => |x, M| 1.0 / x.sqrt();
        Plain C64, C128 => |x, M| x.sqrt().inv();
    }
    Reciprocal {
        Wide f32, f64 => |x, M| 1.0 / x;
        Plain C64, C128 => |x, M| x.inv();
    }
}

// Operands: the output of the function, and the gradient of that output. Where no gradient comes, none goes on, even where the
// function has no finite slope.
fn2! {
    SqrtGrad {
        Wide f32, f64 => |y, dy, M| if dy == 0.0 { 0.0 } else { dy * 0.5 / y };
        Plain C64 => |y, dy, M| if dy == C64::ZERO { dy } else { dy * 0.5 / y.conj() };
        Plain C128 => |y, dy, M| if dy == C128::ZERO { dy } else { dy * 0.5 / y.conj() };
    }
    RsqrtGrad {
        Wide f32, f64 => |y, dy, M| if dy == 0.0 { 0.0 } else { dy * y * -0.5 * (y * y) };
        Plain C64 => |y, dy, M| if dy == C64::ZERO { dy } else { dy * y.conj() * -0.5 * (y.conj() * y.conj()) };
        Plain C128 => |y, dy, M| if dy == C128::ZERO { dy } else { dy * y.conj() * -0.5 * (y.conj() * y.conj()) };
    }
    ReciprocalGrad {
        Wide f32, f64 => |y, dy, M| if dy == 0.0 { 0.0 } else { -dy * (y * y) };
        Plain C64 => |y, dy, M| if dy == C64::ZERO { dy } else { -dy * (y.conj() * y.conj()) };
        Plain C128 => |y, dy, M| if dy == C128::ZERO { dy } else { -dy * (y.conj() * y.conj()) };
    }
}

loop_table! {
    square_loop = Loop1::light Square [F32, F64, I8, I16, I32, I64, C64, C128] signed;
    sqrt_loop = Loop1::light Sqrt [F32, F64, C64, C128];
    rsqrt_loop = Loop1::light Rsqrt [F32, F64, C64, C128];
    reciprocal_loop = Loop1::light Reciprocal [F32, F64, C64, C128];
    sqrt_grad_loop = Loop2::light SqrtGrad [F32, F64, C64, C128];
    rsqrt_grad_loop = Loop2::light RsqrtGrad [F32, F64, C64, C128];
    reciprocal_grad_loop = Loop2::light ReciprocalGrad [F32, F64, C64, C128];
}

functions! {
    "Square" => square_loop;
    "Sqrt" => sqrt_loop;
    "Rsqrt" => rsqrt_loop;
    "Reciprocal" => reciprocal_loop;
    "Inv" => reciprocal_loop;
    "SqrtGrad" => sqrt_grad_loop;
    "RsqrtGrad" => rsqrt_grad_loop;
    "ReciprocalGrad" => reciprocal_grad_loop;
    "InvGrad" => reciprocal_grad_loop;
}

fn grad_op(name: &str, y: &Output, dy: &Output) -> Result<Output> {
    y.graph().op(name).input(y).input(dy).output()
}

fn square() -> OpDef {
    let def = unary(
        "Square",
        "T: {bfloat16, half, float, double, int8, int16, int32, int64, uint8, uint16, uint32, uint64, complex64, \
         complex128}",
    )
    .doc("x².")
    .gradient(|cx, dys| {
        let x = conj(&cx.input(0)?)?;
        one(cx.dense(dys, 0)?.times(&x.times(&x.scalar_like(2.0)?)?)?)
    });
    sample1!(def, "Square", |s| s.normal([2, 3])?)
}

fn sqrt() -> OpDef {
    let def = unary("Sqrt", FLOATS_COMPLEX)
        .doc("The square root.")
        .gradient(|cx, dys| one(grad_op("SqrtGrad", &cx.output(0)?, &cx.dense(dys, 0)?)?));
    sample1!(def, "Sqrt", |s| s.positive([2, 3])?)
}

fn rsqrt() -> OpDef {
    let def = unary("Rsqrt", FLOATS_COMPLEX)
        .doc("1 / √x.")
        .gradient(|cx, dys| one(grad_op("RsqrtGrad", &cx.output(0)?, &cx.dense(dys, 0)?)?));
    sample1!(def, "Rsqrt", |s| s.positive([2, 3])?)
}

fn reciprocal() -> OpDef {
    let def = unary("Reciprocal", SIGNED_COMPLEX)
        .doc("1 / x.")
        .gradient(|cx, dys| one(grad_op("ReciprocalGrad", &cx.output(0)?, &cx.dense(dys, 0)?)?));
    sample1!(def, "Reciprocal", |s| s.positive([2, 3])?)
}

fn inv() -> OpDef {
    let def = unary("Inv", SIGNED_COMPLEX)
        .doc("1 / x; the former name of Reciprocal.")
        .gradient(|cx, dys| one(grad_op("ReciprocalGrad", &cx.output(0)?, &cx.dense(dys, 0)?)?));
    sample1!(def, "Inv", |s| s.positive([2, 3])?)
}

fn sqrt_grad() -> OpDef {
    gradient_of_unary("SqrtGrad", FLOATS_COMPLEX)
        .doc("The gradient of Sqrt from its output: dy / 2y.")
        .gradient(|cx, dys| {
            let (z, g) = (cx.output(0)?, cx.dense(dys, 0)?);
            let ga = g.divided_by(&cx.input(0)?)?;
            two(conj(&ga)?.negated()?.times(&z)?, ga.times(&ga.scalar_like(0.5)?)?)
        })
        .sample(|s| {
            let (y, dy) = (s.positive([2, 3])?, s.normal([2, 3])?);
            s.op("SqrtGrad").input(&y).input(&dy).finish()
        })
}

fn rsqrt_grad() -> OpDef {
    gradient_of_unary("RsqrtGrad", FLOATS_COMPLEX)
        .doc("The gradient of Rsqrt from its output: -dy y³ / 2.")
        .gradient(|cx, dys| {
            let (a, b, g) = (conj(&cx.input(0)?)?, cx.input(1)?, cx.dense(dys, 0)?);
            let ga = conj(&g)?.times(&g.scalar_like(-1.5)?)?.times(&b)?.times(&a.square()?)?;
            two(ga, grad_op("RsqrtGrad", &a, &g)?)
        })
        .sample(|s| {
            let (y, dy) = (s.positive([2, 3])?, s.normal([2, 3])?);
            s.op("RsqrtGrad").input(&y).input(&dy).finish()
        })
}

fn reciprocal_grad_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (a, b, g) = (conj(&cx.input(0)?)?, cx.input(1)?, cx.dense(dys, 0)?);
    let ga = conj(&g)?.times(&g.scalar_like(-2.0)?)?.times(&b)?.times(&a)?;
    two(ga, grad_op("ReciprocalGrad", &a, &g)?)
}

fn reciprocal_grad() -> OpDef {
    gradient_of_unary("ReciprocalGrad", FLOATS_COMPLEX)
        .doc("The gradient of Reciprocal from its output: -dy y².")
        .gradient(reciprocal_grad_grad)
        .sample(|s| {
            let (y, dy) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("ReciprocalGrad").input(&y).input(&dy).finish()
        })
}

fn inv_grad() -> OpDef {
    gradient_of_unary("InvGrad", FLOATS_COMPLEX)
        .doc("The gradient of Inv from its output: -dy y².")
        .gradient(reciprocal_grad_grad)
        .sample(|s| {
            let (y, dy) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("InvGrad").input(&y).input(&dy).finish()
        })
}

register_ops!(
    square,
    sqrt,
    rsqrt,
    reciprocal,
    inv,
    sqrt_grad,
    rsqrt_grad,
    reciprocal_grad,
    inv_grad
);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    /// `where(x > 0, sqrt(x), 0)` is differentiable at 0, because its root takes no part there.
    #[test]
    fn no_gradient_comes_from_an_output_that_takes_no_part() {
        let g = Graph::new();
        let (y, dy) = (
            g.constant([0.0f32, f32::INFINITY, 2.0]).unwrap(),
            g.constant([0.0f32, 0.0, 1.0]).unwrap(),
        );
        for (op, last) in [
            ("SqrtGrad", 0.25),
            ("RsqrtGrad", -4.0),
            ("ReciprocalGrad", -4.0),
            ("InvGrad", -4.0),
        ] {
            let grad = g.op(op).input(&y).input(&dy).output().unwrap();
            assert_eq!(eval(&grad), Tensor::from([0.0f32, 0.0, last]), "{op}");
            let complex = |x: &actorflow_core::Output| x.cast(actorflow_core::DType::C64).unwrap();
            let grad = g.op(op).input(&complex(&y)).input(&complex(&dy)).output().unwrap();
            let real = grad.graph().op("Real").input(&grad).output().unwrap();
            assert_eq!(
                eval(&real),
                Tensor::from([0.0f32, 0.0, last]),
                "{op} of complex numbers"
            );
        }
    }

    #[test]
    fn roots_at_the_edges() {
        let g = Graph::new();
        let x = g.constant([0.0f32, -0.0, f32::INFINITY, -1.0, 4.0]).unwrap();
        let r = eval(&x.rsqrt().unwrap()).to_vec::<f32>().unwrap();
        assert_eq!((r[0], r[1], r[2], r[4]), (f32::INFINITY, -f32::INFINITY, 0.0, 0.5));
        assert!(r[3].is_nan());
        let x = g.constant([200u8, 3]).unwrap();
        assert_eq!(eval(&x.square().unwrap()), Tensor::from([64u8, 9]));
    }
}
