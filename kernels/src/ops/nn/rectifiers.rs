//! `Relu`, `Relu6`, `LeakyRelu` and their gradients.
#![forbid(unsafe_code)]

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, dispatch, register_ops};
use half::{bf16, f16};

use super::map::{binary, unary};
use crate::elementwise::{Loop1, Loop2, Loops, functions};
use crate::math::madd::Madd;
use crate::math::simd::{Elem, Fn1, Fn2, LoopKind, Plain, Wide};
use crate::{shapes, spread};

/// A number on which rectifiers are defined.
trait Real: Element + Elem {
    /// The loop that suits simple functions of it.
    type Loop: LoopKind;
    fn relu(self) -> Self;
    fn relu6(self) -> Self;
    /// `self` where `x` is positive, else `self` times zero.
    fn where_positive(self, x: Self) -> Self;
    /// `self` where `x` is strictly between 0 and 6, else `self` times zero.
    fn where_inside(self, x: Self) -> Self;
}

macro_rules! reals {
    ($($t:ty, $loop:ty, $zero:expr, $one:expr, $six:expr, |$a:ident, $b:ident| $product:expr;)*) => {
        $(impl Real for $t {
            type Loop = $loop;
            #[inline(always)]
            fn relu(self) -> $t {
                // A NaN is not less than 0, and stays.
                if self < $zero { $zero } else { self }
            }
            #[inline(always)]
            fn relu6(self) -> $t {
                let x = self.relu();
                if x > $six { $six } else { x }
            }
            #[inline(always)]
            fn where_positive(self, x: $t) -> $t {
                let ($a, $b) = (self, if x > $zero { $one } else { $zero });
                $product
            }
            #[inline(always)]
            fn where_inside(self, x: $t) -> $t {
                let ($a, $b) = (self, if (x > $zero) & (x < $six) { $one } else { $zero });
                $product
            }
        })*
    };
}

reals! {
    f32, Wide, 0.0, 1.0, 6.0, |a, b| a * b;
    f64, Wide, 0.0, 1.0, 6.0, |a, b| a * b;
    f16, Plain, f16::ZERO, f16::ONE, f16::from_f32_const(6.0), |a, b| a * b;
    bf16, Plain, bf16::ZERO, bf16::ONE, bf16::from_f32_const(6.0), |a, b| a * b;
    i8, Plain, 0, 1, 6, |a, b| a * b;
    i16, Plain, 0, 1, 6, |a, b| a * b;
    i32, Plain, 0, 1, 6, |a, b| a * b;
    i64, Plain, 0, 1, 6, |a, b| a * b;
}

macro_rules! unsigned {
    ($($t:ty)*) => {
        $(impl Real for $t {
            type Loop = Plain;
            #[inline(always)]
            fn relu(self) -> $t {
                self
            }
            #[inline(always)]
            fn relu6(self) -> $t {
                self.min(6)
            }
            #[inline(always)]
            fn where_positive(self, x: $t) -> $t {
                if x > 0 { self } else { 0 }
            }
            #[inline(always)]
            fn where_inside(self, x: $t) -> $t {
                if x > 0 && x < 6 { self } else { 0 }
            }
        })*
    };
}

unsigned!(u8 u16 u32 u64);

/// max(x, 0)
struct Relu;
/// min(max(x, 0), 6)
struct Relu6;
/// The gradient where the feature is positive.
struct ReluGrad;
/// The gradient where the feature is between 0 and 6.
struct Relu6Grad;

impl<T: Real> Fn1<T, T> for Relu {
    type Loop = T::Loop;
    #[inline(always)]
    fn call<M: Madd>(x: T) -> T {
        x.relu()
    }
}

impl<T: Real> Fn1<T, T> for Relu6 {
    type Loop = T::Loop;
    #[inline(always)]
    fn call<M: Madd>(x: T) -> T {
        x.relu6()
    }
}

impl<T: Real> Fn2<T, T, T> for ReluGrad {
    type Loop = T::Loop;
    #[inline(always)]
    fn call<M: Madd>(g: T, x: T) -> T {
        g.where_positive(x)
    }
}

impl<T: Real> Fn2<T, T, T> for Relu6Grad {
    type Loop = T::Loop;
    #[inline(always)]
    fn call<M: Madd>(g: T, x: T) -> T {
        g.where_inside(x)
    }
}

const REALS: &str = "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}";

fn unit(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .input("features: T")
        .output("activations: T")
        .attr(types)
        .shape(shapes::unchanged)
}

fn unit_grad(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .input("gradients: T")
        .input("features: T")
        .output("backprops: T")
        .attr(types)
        .shape(shapes::merged)
}

/// The gradient of a unit: the node `op` of its gradient and its output.
fn through(cx: &GradContext, grads: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let dx = cx
        .graph()
        .op(op)
        .input(&cx.dense(grads, 0)?)
        .input(&cx.output(0)?)
        .output()?;
    Ok(vec![Some(dx.into())])
}

/// The gradient of a gradient that is linear in its first input and constant, almost everywhere, in its second.
fn linear(cx: &GradContext, grads: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let x = cx.input(1)?;
    let dg = cx.graph().op(op).input(&cx.dense(grads, 0)?).input(&x).output()?;
    Ok(vec![Some(dg.into()), Some(x.zeros_like()?.into())])
}

fn sample1(s: &mut Sampler, op: &str) -> Result<Operation> {
    let x = s.normal([2, 5])?;
    s.op(op).input(&x).finish()
}

fn sample2(s: &mut Sampler, op: &str) -> Result<Operation> {
    let (g, x) = (s.normal([2, 5])?, s.normal([2, 5])?);
    s.op(op).input(&g).input(&x).finish()
}

macro_rules! kernel1 {
    ($init:ident, $f:ty) => {
        dispatch!($init.input_types[0], T in reals => Ok(Box::new(unary::<$f, T>)), else Err($init.no_kernel()))
    };
}

macro_rules! kernel2 {
    ($init:ident, $f:ty) => {
        dispatch!($init.input_types[0], T in reals => Ok(Box::new(binary::<$f, T>)), else Err($init.no_kernel()))
    };
}

fn relu() -> OpDef {
    unit(
        "Relu",
        "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}",
    )
    .doc("Rectified linear: max(features, 0).")
    .gradient(|cx, dys| through(cx, dys, "ReluGrad"))
    .cpu(|init| kernel1!(init, Relu))
    .sample(|s| sample1(s, "Relu"))
}

fn relu_grad() -> OpDef {
    unit_grad("ReluGrad", REALS)
        .doc("Passes gradients on where features (or outputs of Relu) are positive.")
        .gradient(|cx, dys| linear(cx, dys, "ReluGrad"))
        .cpu(|init| kernel2!(init, ReluGrad))
        .sample(|s| sample2(s, "ReluGrad"))
}

fn relu6() -> OpDef {
    unit("Relu6", REALS)
        .doc("Rectified linear with an upper bound: min(max(features, 0), 6).")
        .gradient(|cx, dys| through(cx, dys, "Relu6Grad"))
        .cpu(|init| kernel1!(init, Relu6))
        .sample(|s| sample1(s, "Relu6"))
        .sample(|s| {
            let x = s.uniform([6], 6.1, 9.0)?;
            s.op("Relu6").input(&x).finish()
        })
}

fn relu6_grad() -> OpDef {
    unit_grad("Relu6Grad", REALS)
        .doc("Passes gradients on where features (or outputs of Relu6) are between 0 and 6.")
        .gradient(|cx, dys| linear(cx, dys, "Relu6Grad"))
        .cpu(|init| kernel2!(init, Relu6Grad))
        .sample(|s| sample2(s, "Relu6Grad"))
}

/// The places of these functions in fused chains; their own kernels are above.
fn relu_loop(d: DType) -> Option<Loops> {
    match d {
        DType::F32 => Some(Loop1::light::<Relu, f32>().into()),
        DType::F64 => Some(Loop1::light::<Relu, f64>().into()),
        _ => None,
    }
}

fn relu6_loop(d: DType) -> Option<Loops> {
    match d {
        DType::F32 => Some(Loop1::light::<Relu6, f32>().into()),
        DType::F64 => Some(Loop1::light::<Relu6, f64>().into()),
        _ => None,
    }
}

fn relu_grad_loop(d: DType) -> Option<Loops> {
    match d {
        DType::F32 => Some(Loop2::light::<ReluGrad, f32>().into()),
        DType::F64 => Some(Loop2::light::<ReluGrad, f64>().into()),
        _ => None,
    }
}

fn relu6_grad_loop(d: DType) -> Option<Loops> {
    match d {
        DType::F32 => Some(Loop2::light::<Relu6Grad, f32>().into()),
        DType::F64 => Some(Loop2::light::<Relu6Grad, f64>().into()),
        _ => None,
    }
}

functions!(
    "Relu" => relu_loop;
    "Relu6" => relu6_loop;
    "ReluGrad" => relu_grad_loop;
    "Relu6Grad" => relu6_grad_loop;
);

/// A float that leaks: computed in f32 or f64.
trait Float: Element {
    fn leak(self, scale: Self, x: Self) -> Self;
    fn of(x: f32) -> Self;
}

macro_rules! leaky {
    ($($t:ty, $zero:expr, $of:expr;)*) => {
        $(impl Float for $t {
            #[inline(always)]
            fn leak(self, scale: $t, x: $t) -> $t {
                if x > $zero { self } else { self * scale }
            }
            fn of(x: f32) -> $t {
                $of(x)
            }
        })*
    };
}

leaky! {
    f32, 0.0, |x| x;
    f64, 0.0, f64::from;
    f16, f16::ZERO, f16::from_f32;
    bf16, bf16::ZERO, bf16::from_f32;
}

/// `LeakyRelu` (of one input) and `LeakyReluGrad` (of two).
struct Leaky<T> {
    alpha: T,
}

impl<T: Float> Kernel for Leaky<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let last = cx.num_inputs() - 1;
        let shape = cx.input(0)?.shape().clone();
        if &shape != cx.input(last)?.shape() {
            return Err(actorflow_core::Error::invalid(format!(
                "gradients of shape {shape} must have the shape of the features, {}",
                cx.input(last)?.shape()
            )));
        }
        let mut out = cx.alloc(T::DTYPE, shape)?;
        let (g, x, alpha) = (cx.slice::<T>(0)?, cx.slice::<T>(last)?, self.alpha);
        let y = out
            .as_mut_slice::<T>()
            .ok_or_else(|| actorflow_core::Error::internal("a new tensor must be writable"))?;
        spread::chunks(cx.parallel(), y, spread::GRAIN, |i, y| {
            let at = i * spread::GRAIN..i * spread::GRAIN + y.len();
            for ((y, g), x) in y.iter_mut().zip(&g[at.clone()]).zip(&x[at]) {
                *y = g.leak(alpha, *x);
            }
        });
        cx.set_output(0, out);
        Ok(())
    }
}

fn leaky_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let alpha = init.attrs.float("alpha")?;
    dispatch!(init.input_types[0], T in floats => Ok(Box::new(Leaky { alpha: <T as Float>::of(alpha) })),
        else Err(init.no_kernel()))
}

const FLOATS: &str = "T: {half, bfloat16, float, double} = DT_FLOAT";
const ALPHA: &str = "alpha: float = 0.2";

fn leaky_grad_node(cx: &GradContext, dy: &Output, x: &Output) -> Result<Output> {
    cx.graph()
        .op("LeakyReluGrad")
        .input(dy)
        .input(x)
        .attr("alpha", cx.attrs().float("alpha")?)
        .output()
}

fn leaky_relu() -> OpDef {
    unit("LeakyRelu", FLOATS)
        .doc("Rectified linear with a slope `alpha` below zero.")
        .attr(ALPHA)
        .gradient(|cx, dys| {
            let dx = leaky_grad_node(cx, &cx.dense(dys, 0)?, &cx.input(0)?)?;
            Ok(vec![Some(dx.into())])
        })
        .cpu(leaky_kernel)
        .sample(|s| sample1(s, "LeakyRelu"))
        .sample(|s| {
            let x = s.normal([5])?;
            s.op("LeakyRelu").input(&x).attr("alpha", -1.5f32).finish()
        })
}

fn leaky_relu_grad() -> OpDef {
    unit_grad("LeakyReluGrad", FLOATS)
        .doc("The gradient of LeakyRelu: scaled by `alpha` where features are not positive.")
        .attr(ALPHA)
        .gradient(|cx, dys| {
            let x = cx.input(1)?;
            let dg = leaky_grad_node(cx, &cx.dense(dys, 0)?, &x)?;
            Ok(vec![Some(dg.into()), Some(x.zeros_like()?.into())])
        })
        .cpu(leaky_kernel)
        .sample(|s| sample2(s, "LeakyReluGrad"))
}

register_ops!(relu, relu_grad, relu6, relu6_grad, leaky_relu, leaky_relu_grad);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, PartialShape, Tensor};

    #[test]
    fn rectifiers_of_special_values() {
        let g = Graph::new();
        let x = g
            .constant([f32::NAN, -1.0, 0.0, 7.0, f32::INFINITY, f32::NEG_INFINITY])
            .unwrap();
        let f = |op: &str| eval(&x.unary(op).unwrap()).to_vec::<f32>().unwrap();
        assert!(f("Relu")[0].is_nan() && f("Relu6")[0].is_nan() && f("LeakyRelu")[0].is_nan());
        assert_eq!(f("Relu")[1..], [0.0, 0.0, 7.0, f32::INFINITY, 0.0]);
        assert_eq!(f("Relu6")[1..], [0.0, 0.0, 6.0, 6.0, 0.0]);
        assert_eq!(f("LeakyRelu")[1..], [-0.2, 0.0, 7.0, f32::INFINITY, f32::NEG_INFINITY]);
    }

    #[test]
    fn integers_are_rectified() {
        let g = Graph::new();
        let x = g.constant([-3i16, 0, 9]).unwrap();
        assert_eq!(eval(&x.relu().unwrap()), Tensor::from([0i16, 0, 9]));
        assert_eq!(eval(&x.unary("Relu6").unwrap()), Tensor::from([0i16, 0, 6]));
        let y = g
            .op("ReluGrad")
            .input(&g.constant([1u8, 2]).unwrap())
            .input(&g.constant([0u8, 3]).unwrap());
        assert_eq!(eval(&y.output().unwrap()), Tensor::from([0u8, 2]));
    }

    #[test]
    fn gradients_and_features_must_agree() {
        let g = Graph::new();
        let a = g.placeholder("a", DType::F32, PartialShape::UNKNOWN).unwrap();
        let b = g.constant([1f32, 2.]).unwrap();
        let wide = g.constant([1f32, 2., 3.]).unwrap();
        let y = g.op("ReluGrad").input(&a).input(&b).output().unwrap();
        let run = crate::testing::Interpreter::default();
        let e = run.run(&[y], &[], &[(a, Tensor::from([1f32; 3]))]).unwrap_err();
        assert!(e.message().contains("[3]") && e.message().contains("[2]"), "{e}");
        assert!(g.op("ReluGrad").input(&wide).input(&b).output().is_err());
        let ok = g
            .op("LeakyReluGrad")
            .input(&b)
            .input(&g.constant([-1f32, 1.]).unwrap())
            .output()
            .unwrap();
        assert_eq!(eval(&ok), Tensor::from([0.2f32, 2.0]));
    }
}
