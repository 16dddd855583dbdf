//! What the definitions and gradients of this family share.
#![forbid(unsafe_code)]

use actorflow_core::Output;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, unbroadcast};
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};

use crate::{elementwise, shapes};

pub(super) type C64 = num_complex::Complex<f32>;
pub(super) type C128 = num_complex::Complex<f64>;

pub(super) const FLOATS: &str = "T: {bfloat16, half, float, double}";
pub(super) const FLOATS_COMPLEX: &str = "T: {bfloat16, half, float, double, complex64, complex128}";
pub(super) const SIGNED: &str = "T: {bfloat16, half, float, double, int8, int16, int32, int64}";
pub(super) const SIGNED_COMPLEX: &str =
    "T: {bfloat16, half, float, double, int8, int16, int32, int64, complex64, complex128}";
pub(super) const INTEGERS: &str = "T: {int8, int16, int32, int64, uint8, uint16, uint32, uint64}";

/// The definition of `name(x: T) -> (y: T)` with a function submitted to [`elementwise`].
pub(super) fn unary(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("x: T")
        .output("y: T")
        .attr(types)
        .shape(shapes::like_first)
        .cpu(elementwise::kernel)
}

/// The definition of `name(x: T, y: T) -> (z: T)` with broadcasting.
pub(super) fn binary(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("x: T")
        .input("y: T")
        .output("z: T")
        .attr(types)
        .shape(shapes::broadcast)
        .cpu(elementwise::kernel)
}

/// The definition of `name(y: T, dy: T) -> (z: T)`, the gradient of a unary operation from its output.
pub(super) fn gradient_of_unary(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("y: T")
        .input("dy: T")
        .output("z: T")
        .attr(types)
        .shape(shapes::merged)
        .cpu(|init| Ok(Box::new(SameShape(elementwise::kernel(init)?))))
}

/// A kernel of two operands that do not broadcast.
struct SameShape(Box<dyn Kernel>);

impl Kernel for SameShape {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (a, b) = (cx.input(0)?.shape(), cx.input(1)?.shape());
        if a != b {
            return Err(Error::invalid(format!(
                "inputs must have the same size and shape: input 0 has {a}, input 1 has {b}"
            )));
        }
        self.0.compute(cx)
    }
}

/// The conjugate of a complex output; a real one itself.
pub(super) fn conj(x: &Output) -> Result<Output> {
    if x.dtype().is_complex() {
        x.conj_op()
    } else {
        Ok(x.clone())
    }
}

/// The gradient of the only input.
pub(super) fn one(g: Output) -> Result<Vec<Option<Grad>>> {
    Ok(vec![Some(g.into())])
}

/// The gradients of two inputs.
pub(super) fn two(a: Output, b: Output) -> Result<Vec<Option<Grad>>> {
    Ok(vec![Some(a.into()), Some(b.into())])
}

/// The gradients of operands `x` and `y` that were broadcast, from gradients of the result's shape.
pub(super) fn reduced(x: &Output, y: &Output, gx: &Output, gy: &Output) -> Result<Vec<Option<Grad>>> {
    two(unbroadcast(gx, x, y)?, unbroadcast(gy, y, x)?)
}

/// Samples of a unary operation: `sample1!(def, "Exp", |s| s.normal([2, 3])?)`.
macro_rules! sample1 {
    ($def:expr, $op:literal, |$s:ident| $x:expr) => {
        $def.sample(|$s| {
            let x = $x;
            $s.op($op).input(&x).finish()
        })
    };
}
pub(super) use sample1;

/// Samples of a binary operation with operands of one shape, a scalar, and shapes that broadcast both ways:
/// `sample2!(def, "Mul", normal, positive)`.
macro_rules! sample2 {
    ($def:expr, $op:literal, $a:ident, $b:ident) => {
        $def.sample(|s| {
            let (a, b) = (s.$a([2, 3])?, s.$b([2, 3])?);
            s.op($op).input(&a).input(&b).finish()
        })
        .sample(|s| {
            let (a, b) = (s.$a([2, 3])?, s.$b([])?);
            s.op($op).input(&a).input(&b).finish()
        })
        .sample(|s| {
            let (a, b) = (s.$a([3, 1])?, s.$b([2, 1, 2])?);
            s.op($op).input(&a).input(&b).finish()
        })
    };
}
pub(super) use sample2;
