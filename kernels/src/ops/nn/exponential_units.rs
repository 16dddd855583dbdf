//! `Elu`, `Selu`, `Softplus`, `Softsign` and their gradients.
#![forbid(unsafe_code)]

use actorflow_core::dtype::DType;
use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, dispatch, register_ops};
use half::{bf16, f16};

use super::map::{binary, unary};
use super::rows::{Float, Real};
use crate::elementwise::{Loop1, Loop2, Loops, functions};
use crate::math::madd::{Baseline, Madd};
use crate::math::simd::{Fn1, Fn2, Plain, Wide};
use crate::shapes;

const SCALE: f64 = 1.050_700_987_355_480_5;
const SCALE_ALPHA: f64 = 1.758_099_340_847_376_8;

macro_rules! units {
    ($($name:ident |$x:ident| $e:expr;)*) => {
        $(struct $name;
        impl $name {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters, reason = "not every unit multiplies and adds")]
            fn at<T: Real, M: Madd>($x: T) -> T {
                $e
            }
        }
        units!(@one $name f32 Wide M, f64 Plain M, f16 Plain Baseline, bf16 Plain Baseline);)*
    };
    (@one $name:ident $($t:ident $loop:ident $m:ident),*) => {
        $(impl Fn1<$t, $t> for $name {
            type Loop = $loop;
            #[inline(always)]
            fn call<M: Madd>(x: $t) -> $t {
                $t::from_real($name::at::<_, $m>(x.to_real()))
            }
        })*
    };
}

units! {
    Elu |x| if x < T::ZERO { x.expm1::<M>() } else { x };
    Selu |x| if x < T::ZERO { T::of(SCALE_ALPHA) * x.expm1::<M>() } else { T::of(SCALE) * x };
    Softplus |x| x.softplus::<M>();
    Softsign |x| x / (T::ONE + x.magnitude());
}

macro_rules! unit_grads {
    ($($name:ident |$g:ident, $x:ident| $e:expr;)*) => {
        $(struct $name;
        impl $name {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters, reason = "not every unit multiplies and adds")]
            fn at<T: Real, M: Madd>($g: T, $x: T) -> T {
                $e
            }
        }
        unit_grads!(@one $name f32 Wide M, f64 Plain M, f16 Plain Baseline, bf16 Plain Baseline);)*
    };
    (@one $name:ident $($t:ident $loop:ident $m:ident),*) => {
        $(impl Fn2<$t, $t, $t> for $name {
            type Loop = $loop;
            #[inline(always)]
            fn call<M: Madd>(g: $t, x: $t) -> $t {
                $t::from_real($name::at::<_, $m>(g.to_real(), x.to_real()))
            }
        })*
    };
}

unit_grads! {
    EluGrad |g, y| if y < T::ZERO { (y + T::ONE) * g } else { g };
    SeluGrad |g, y| if y < T::ZERO { (y + T::of(SCALE_ALPHA)) * g } else { g * T::of(SCALE) };
    SoftplusGrad |g, x| g / ((-x).exp::<M>() + T::ONE);
    SoftsignGrad |g, x| {
        let d = T::ONE + x.magnitude();
        g / (d * d)
    };
}

/// The places of these functions in fused chains; their own kernels are below.
macro_rules! loops {
    ($($fn:ident $kind:ident $name:ident;)*) => {
        $(fn $fn(d: DType) -> Option<Loops> {
            match d {
                DType::F32 => Some($kind::heavy::<$name, f32>().into()),
                DType::F64 => Some($kind::heavy::<$name, f64>().into()),
                _ => None,
            }
        })*
    };
}

loops! {
    elu_loop Loop1 Elu;
    selu_loop Loop1 Selu;
    softplus_loop Loop1 Softplus;
    softsign_loop Loop1 Softsign;
    elu_grad_loop Loop2 EluGrad;
    selu_grad_loop Loop2 SeluGrad;
    softplus_grad_loop Loop2 SoftplusGrad;
    softsign_grad_loop Loop2 SoftsignGrad;
}

functions!(
    "Elu" => elu_loop;
    "Selu" => selu_loop;
    "Softplus" => softplus_loop;
    "Softsign" => softsign_loop;
    "EluGrad" => elu_grad_loop;
    "SeluGrad" => selu_grad_loop;
    "SoftplusGrad" => softplus_grad_loop;
    "SoftsignGrad" => softsign_grad_loop;
);

macro_rules! kernel {
    ($init:ident, $by:ident, $f:ty) => {
        dispatch!($init.input_types[0], T in floats => Ok(Box::new($by::<$f, T>)), else Err($init.no_kernel()))
    };
}

const FLOATS: &str = "T: {half, bfloat16, float, double}";

fn unit(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .input("features: T")
        .output("activations: T")
        .attr(FLOATS)
        .shape(shapes::unchanged)
}

/// `second` is what the gradient is computed from: the unit's features or its outputs.
fn unit_grad(name: &'static str, second: &str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .input("gradients: T")
        .input(second)
        .output("backprops: T")
        .attr(FLOATS)
        .shape(shapes::merged)
}

fn node(cx: &GradContext, op: &str, dy: &Output, x: &Output) -> Result<Output> {
    cx.graph().op(op).input(dy).input(x).output()
}

/// The gradient of a unit whose gradient `op` is computed from its outputs.
fn by_outputs(cx: &GradContext, grads: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    Ok(vec![Some(node(cx, op, &cx.dense(grads, 0)?, &cx.output(0)?)?.into())])
}

/// The gradient of `EluGrad` and `SeluGrad`: both factors are linear where the unit is exponential.
fn grad_of_exponential(cx: &GradContext, grads: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let (dy, g, y) = (cx.dense(grads, 0)?, cx.input(0)?, cx.input(1)?);
    let below = y.less(&y.scalar_like(0.0)?)?;
    let dg = node(cx, op, &dy, &y)?;
    let dx = below.select(&dy.times(&g)?, &y.zeros_like()?)?;
    Ok(vec![Some(dg.into()), Some(dx.into())])
}

fn sample1(s: &mut Sampler, op: &str) -> Result<Operation> {
    let x = s.normal([2, 5])?;
    s.op(op).input(&x).finish()
}

fn sample2(s: &mut Sampler, op: &str) -> Result<Operation> {
    let (g, x) = (s.normal([2, 5])?, s.normal([2, 5])?);
    s.op(op).input(&g).input(&x).finish()
}

fn elu() -> OpDef {
    unit("Elu")
        .doc("Exponential linear: features where positive, else e^features - 1.")
        .gradient(|cx, dys| by_outputs(cx, dys, "EluGrad"))
        .cpu(|init| kernel!(init, unary, Elu))
        .sample(|s| sample1(s, "Elu"))
}

fn elu_grad() -> OpDef {
    unit_grad("EluGrad", "outputs: T")
        .doc("The gradient of Elu, computed from its outputs.")
        .gradient(|cx, dys| grad_of_exponential(cx, dys, "EluGrad"))
        .cpu(|init| kernel!(init, binary, EluGrad))
        .sample(|s| sample2(s, "EluGrad"))
}

fn selu() -> OpDef {
    unit("Selu")
        .doc("Scaled exponential linear, which keeps means near 0 and variances near 1.")
        .gradient(|cx, dys| by_outputs(cx, dys, "SeluGrad"))
        .cpu(|init| kernel!(init, unary, Selu))
        .sample(|s| sample1(s, "Selu"))
}

fn selu_grad() -> OpDef {
    unit_grad("SeluGrad", "outputs: T")
        .doc("The gradient of Selu, computed from its outputs.")
        .gradient(|cx, dys| grad_of_exponential(cx, dys, "SeluGrad"))
        .cpu(|init| kernel!(init, binary, SeluGrad))
        .sample(|s| sample2(s, "SeluGrad"))
}

fn softplus() -> OpDef {
    unit("Softplus")
        .doc("log(1 + e^features)")
        .gradient(|cx, dys| {
            let dx = cx.dense(dys, 0)?.times(&cx.input(0)?.sigmoid()?)?;
            Ok(vec![Some(dx.into())])
        })
        .cpu(|init| kernel!(init, unary, Softplus))
        .sample(|s| sample1(s, "Softplus"))
}

/// The derivative of the logistic function is 1 / (e^-x + 2 + e^x).
fn grad_of_softplus_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (dy, g, x) = (cx.dense(grads, 0)?, cx.input(0)?, cx.input(1)?);
    let dg = node(cx, "SoftplusGrad", &dy, &x)?;
    let both = ((x.negated()?.exp()? + 2.0)? + &x.exp()?)?;
    let dx = dy.times(&g)?.divided_by(&both)?;
    Ok(vec![Some(dg.into()), Some(dx.into())])
}

fn softplus_grad() -> OpDef {
    unit_grad("SoftplusGrad", "features: T")
        .doc("The gradient of Softplus: scaled by the logistic function of its features.")
        .gradient(grad_of_softplus_grad)
        .cpu(|init| kernel!(init, binary, SoftplusGrad))
        .sample(|s| sample2(s, "SoftplusGrad"))
}

fn softsign() -> OpDef {
    unit("Softsign")
        .doc("features / (1 + |features|)")
        .gradient(|cx, dys| {
            let dx = node(cx, "SoftsignGrad", &cx.dense(dys, 0)?, &cx.input(0)?)?;
            Ok(vec![Some(dx.into())])
        })
        .cpu(|init| kernel!(init, unary, Softsign))
        .sample(|s| sample1(s, "Softsign"))
}

fn softsign_grad() -> OpDef {
    unit_grad("SoftsignGrad", "features: T")
        .doc("The gradient of Softsign.")
        .cpu(|init| kernel!(init, binary, SoftsignGrad))
}

register_ops!(
    elu,
    elu_grad,
    selu,
    selu_grad,
    softplus,
    softplus_grad,
    softsign,
    softsign_grad
);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};
    use half::f16;

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!(
                x == y || (x - y).abs() <= 1e-6 * y.abs().max(1e-3) || x.is_nan() && y.is_nan(),
                "{a:?} {b:?}"
            );
        }
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn units_agree_with_tensorflow_at_special_values() {
        let g = Graph::new();
        let (n, i) = (f32::NAN, f32::INFINITY);
        let x = g.constant([n, -1.0, 0.0, 7.0, i, -i, -100.0]).unwrap();
        let f = |op: &str| eval(&x.unary(op).unwrap()).to_vec::<f32>().unwrap();
        close(&f("Elu"), &[n, -0.632_120_55, 0.0, 7.0, i, -1.0, -1.0]);
        close(
            &f("Selu"),
            &[n, -1.111_330_7, 0.0, 7.354_907, i, -1.758_099_3, -1.758_099_3],
        );
        close(
            &f("Softplus"),
            &[n, 0.313_261_7, std::f32::consts::LN_2, 7.000_911_7, i, 0.0, 0.0],
        );
        close(&f("Softsign"), &[n, -0.5, 0.0, 0.875, n, n, -0.990_099]);
        let d = g.constant([1f32, 2., 3., 4., 5., 6., 7.]).unwrap();
        let f = |op: &str| {
            eval(&g.op(op).input(&d).input(&x).output().unwrap())
                .to_vec::<f32>()
                .unwrap()
        };
        close(&f("EluGrad"), &[1.0, 0.0, 3.0, 4.0, 5.0, -i, -693.0]);
        close(&f("SoftplusGrad"), &[n, 0.537_882_86, 1.5, 3.996_355_8, 5.0, 0.0, 0.0]);
        close(&f("SoftsignGrad"), &[n, 0.5, 3.0, 0.0625, 0.0, 0.0, 0.000_686_207_3]);
    }

    #[test]
    fn halves_are_computed_in_singles() {
        let g = Graph::new();
        let x = g.constant([f16::ONE, -f16::ONE]).unwrap();
        let y = eval(&x.unary("Softsign").unwrap());
        assert_eq!(y, Tensor::from([f16::from_f32(0.5), f16::from_f32(-0.5)]));
    }
}
