//! `Sinh`, `Cosh`, `Tanh`, `TanhGrad`, `Asinh`, `Acosh`, `Atanh`, `Sigmoid`, `SigmoidGrad`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::op::OpDef;
use actorflow_core::{Output, register_ops};

use super::common::{C64, C128, FLOATS_COMPLEX, conj, gradient_of_unary, one, sample1, two, unary};
use super::trig::one_and_square;
use crate::elementwise::{fn1, fn2, functions, loop_table};
use crate::math::{complex, single};

fn1! {
    Sinh {
        Wide f32 => |x, M| single::sinh::<M>(x);
        Plain f64 => |x, M| x.sinh();
        Plain C64, C128 => |x, M| complex::sinh(x);
    }
    Cosh {
        Wide f32 => |x, M| single::cosh::<M>(x);
        Plain f64 => |x, M| x.cosh();
        Plain C64, C128 => |x, M| complex::cosh(x);
    }
    Tanh {
        Wide f32 => |x, M| single::tanh::<M>(x);
        Plain f64 => |x, M| x.tanh();
        Plain C64, C128 => |x, M| complex::tanh(x);
    }
    Asinh {
        Wide f32 => |x, M| single::asinh::<M>(x);
        Plain f64 => |x, M| x.asinh();
        Plain C64, C128 => |x, M| complex::asinh(x);
    }
    Acosh {
        Wide f32 => |x, M| single::acosh::<M>(x);
        Plain f64 => |x, M| x.acosh();
        Plain C64, C128 => |x, M| complex::acosh(x);
    }
    Atanh {
        Wide f32 => |x, M| single::atanh::<M>(x);
        Plain f64 => |x, M| x.atanh();
        Plain C64, C128 => |x, M| complex::atanh(x);
    }
    /// 1 / (1 + e⁻ˣ), accurate in both tails.
    Sigmoid {
        Wide f32 => |x, M| single::sigmoid::<M>(x);
        Plain f64 => |x, M| {
            let e = (-x.abs()).exp();
            (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
        };
        Plain C64, C128 => |x, M| complex::sigmoid(x);
    }
}

// Operands: the output of the function, and the gradient of that output.
fn2! {
    TanhGrad {
        Wide f32, f64 => |y, dy, M| dy * (1.0 - y * y);
        Plain C64, C128 => |y, dy, M| dy * (-(y * y) + 1.0);
    }
    SigmoidGrad {
        Wide f32, f64 => |y, dy, M| dy * y * (1.0 - y);
        Plain C64, C128 => |y, dy, M| dy * y * (-y + 1.0);
    }
}

loop_table! {
    sinh_loop = Loop1::heavy Sinh [F32, F64, C64, C128];
    cosh_loop = Loop1::heavy Cosh [F32, F64, C64, C128];
    tanh_loop = Loop1::heavy Tanh [F32, F64, C64, C128];
    asinh_loop = Loop1::heavy Asinh [F32, F64, C64, C128];
    acosh_loop = Loop1::heavy Acosh [F32, F64, C64, C128];
    atanh_loop = Loop1::heavy Atanh [F32, F64, C64, C128];
    sigmoid_loop = Loop1::heavy Sigmoid [F32, F64, C64, C128];
    tanh_grad_loop = Loop2::light TanhGrad [F32, F64, C64, C128];
    sigmoid_grad_loop = Loop2::light SigmoidGrad [F32, F64, C64, C128];
}

functions! {
    "Sinh" => sinh_loop;
    "Cosh" => cosh_loop;
    "Tanh" => tanh_loop;
    "Asinh" => asinh_loop;
    "Acosh" => acosh_loop;
    "Atanh" => atanh_loop;
    "Sigmoid" => sigmoid_loop;
    "TanhGrad" => tanh_grad_loop;
    "SigmoidGrad" => sigmoid_grad_loop;
}

fn grad_op(name: &str, y: &Output, dy: &Output) -> Result<Output> {
    y.graph().op(name).input(y).input(dy).output()
}

fn sinh() -> OpDef {
    let def = unary("Sinh", FLOATS_COMPLEX)
        .doc("The hyperbolic sine.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.times(&conj(&cx.input(0)?)?.unary("Cosh")?)?));
    sample1!(def, "Sinh", |s| s.normal([2, 3])?)
}

fn cosh() -> OpDef {
    let def = unary("Cosh", FLOATS_COMPLEX)
        .doc("The hyperbolic cosine.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.times(&conj(&cx.input(0)?)?.unary("Sinh")?)?));
    sample1!(def, "Cosh", |s| s.normal([2, 3])?)
}

fn tanh() -> OpDef {
    let def = unary("Tanh", FLOATS_COMPLEX)
        .doc("The hyperbolic tangent.")
        .gradient(|cx, dys| one(grad_op("TanhGrad", &conj(&cx.output(0)?)?, &cx.dense(dys, 0)?)?));
    sample1!(def, "Tanh", |s| s.normal([2, 3])?)
}

fn asinh() -> OpDef {
    let def = unary("Asinh", FLOATS_COMPLEX)
        .doc("The number whose hyperbolic sine is x.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.divided_by(&conj(&cx.output(0)?)?.unary("Cosh")?)?));
    sample1!(def, "Asinh", |s| s.normal([2, 3])?)
}

fn acosh() -> OpDef {
    let def = unary("Acosh", FLOATS_COMPLEX)
        .doc("The positive number whose hyperbolic cosine is x.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.divided_by(&conj(&cx.output(0)?)?.unary("Sinh")?)?));
    sample1!(def, "Acosh", |s| s.uniform([2, 3], 1.2, 3.0)?)
}

fn atanh() -> OpDef {
    let def = unary("Atanh", FLOATS_COMPLEX)
        .doc("The number whose hyperbolic tangent is x.")
        .gradient(|cx, dys| {
            let inv = one_and_square(&conj(&cx.input(0)?)?, "Sub")?.reciprocal()?;
            one(cx.dense(dys, 0)?.times(&inv)?)
        });
    sample1!(def, "Atanh", |s| s.uniform([2, 3], -0.9, 0.9)?)
}

fn sigmoid() -> OpDef {
    let def = unary("Sigmoid", FLOATS_COMPLEX)
        .doc("1 / (1 + e⁻ˣ).")
        .gradient(|cx, dys| one(grad_op("SigmoidGrad", &conj(&cx.output(0)?)?, &cx.dense(dys, 0)?)?));
    sample1!(def, "Sigmoid", |s| s.normal([2, 3])?)
}

fn tanh_grad() -> OpDef {
    gradient_of_unary("TanhGrad", FLOATS_COMPLEX)
        .doc("The gradient of Tanh from its output: dy (1 - y²).")
        .gradient(|cx, dys| {
            let (a, b, g) = (conj(&cx.input(0)?)?, conj(&cx.input(1)?)?, cx.dense(dys, 0)?);
            let ga = g.times(&g.scalar_like(-2.0)?)?.times(&b)?.times(&a)?;
            two(ga, grad_op("TanhGrad", &a, &g)?)
        })
        .sample(|s| {
            let (y, dy) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("TanhGrad").input(&y).input(&dy).finish()
        })
}

fn sigmoid_grad() -> OpDef {
    gradient_of_unary("SigmoidGrad", FLOATS_COMPLEX)
        .doc("The gradient of Sigmoid from its output: dy y (1 - y).")
        .gradient(|cx, dys| {
            let (a, b, g) = (conj(&cx.input(0)?)?, conj(&cx.input(1)?)?, cx.dense(dys, 0)?);
            let gb = g.times(&b)?;
            let ga = gb.minus(&gb.scalar_like(2.0)?.times(&gb)?.times(&a)?)?;
            two(ga, grad_op("SigmoidGrad", &a, &g)?)
        })
        .sample(|s| {
            let (y, dy) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("SigmoidGrad").input(&y).input(&dy).finish()
        })
}

register_ops!(sinh, cosh, tanh, asinh, acosh, atanh, sigmoid, tanh_grad, sigmoid_grad);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};
    use num_complex::Complex;

    #[test]
    fn saturation_and_nan() {
        let g = Graph::new();
        let x = g.constant([f32::NEG_INFINITY, -0.0, f32::INFINITY, f32::NAN]).unwrap();
        let t = eval(&x.tanh().unwrap()).to_vec::<f32>().unwrap();
        assert!(t[0] == -1.0 && t[1].is_sign_negative() && t[2] == 1.0 && t[3].is_nan());
        let x = g.constant([-800.0f64, -700.0, 0.0, 800.0]).unwrap();
        let s = eval(&x.sigmoid().unwrap()).to_vec::<f64>().unwrap();
        assert!(s[0] == 0.0 && s[1] > 0.0 && s[2] == 0.5 && s[3] == 1.0);
    }

    /// As TensorFlow's: whoever differentiates conjugates the output before, and the operation does not again.
    #[test]
    fn the_gradients_operations_do_not_conjugate() {
        let g = Graph::new();
        let complex = |re, im| g.constant(Tensor::scalar(Complex::new(re, im))).unwrap();
        for (op, re, im) in [("TanhGrad", 1.55, 1.9), ("SigmoidGrad", 0.05, 0.9)] {
            let node = g.op(op).input(&complex(0.3, 0.4)).input(&complex(1.0, 2.0));
            let got = eval(&node.output().unwrap()).to_scalar::<Complex<f64>>().unwrap();
            assert!((got - Complex::new(re, im)).norm() < 1e-12, "{op}: {got}");
        }
    }
}
