//! The elements that convolutions are computed in.
#![forbid(unsafe_code)]

use std::ops::{Add, Mul};

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Device, OpContext};
use actorflow_core::{Shape, Tensor};
use half::{bf16, f16};
use parking_lot::Mutex;

use super::super::rows::Float;
use crate::gemm::{self, GemmError};
use crate::math::madd::{Baseline, Madd};
use crate::ops::array::transpose::transposed;
use crate::wide::{self, Work};

/// A number that products are computed in.
pub(crate) trait Number: Element + gemm::Element + PartialOrd + Add<Output = Self> + Mul<Output = Self> {
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// `self * b + c`
    fn madd<M: Madd>(self, b: Self, c: Self) -> Self;
    /// The sum; integers wrap.
    fn plus(self, b: Self) -> Self;
    /// Runs `work` with the instructions that suit this type.
    fn run<W: Work>(work: W) -> W::Out;

    /// The numbers, if they are of this type.
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }

    /// The numbers, if they are of this type.
    fn as_f32_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}

impl Number for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    #[inline(always)]
    fn madd<M: Madd>(self, b: f32, c: f32) -> f32 {
        M::f32(self, b, c)
    }
    #[inline(always)]
    fn plus(self, b: f32) -> f32 {
        self + b
    }
    #[inline]
    fn run<W: Work>(work: W) -> W::Out {
        wide::run(work)
    }
    fn as_f32(x: &[f32]) -> Option<&[f32]> {
        Some(x)
    }
    fn as_f32_mut(x: &mut [f32]) -> Option<&mut [f32]> {
        Some(x)
    }
}

impl Number for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    #[inline(always)]
    fn madd<M: Madd>(self, b: f64, c: f64) -> f64 {
        M::f64(self, b, c)
    }
    #[inline(always)]
    fn plus(self, b: f64) -> f64 {
        self + b
    }
    #[inline]
    fn run<W: Work>(work: W) -> W::Out {
        wide::run(work)
    }
}

impl Number for i32 {
    const ZERO: i32 = 0;
    const ONE: i32 = 1;
    #[inline(always)]
    fn madd<M: Madd>(self, b: i32, c: i32) -> i32 {
        self.wrapping_mul(b).wrapping_add(c)
    }
    #[inline(always)]
    fn plus(self, b: i32) -> i32 {
        self.wrapping_add(b)
    }
    #[inline]
    fn run<W: Work>(work: W) -> W::Out {
        work.run::<Baseline>()
    }
}

/// An element of the tensors that are convolved.
pub(crate) trait Item: Element {
    /// What it is computed in: itself, or f32 for halves.
    type Number: Number;

    /// The tensor in [`Number`](Self::Number); itself if it is one already.
    fn widened(device: &dyn Device, x: &Tensor) -> Result<Tensor>;

    /// A tensor of [`Number`](Self::Number) as one of this type.
    fn narrowed(device: &dyn Device, x: Tensor) -> Result<Tensor>;
}

macro_rules! floats {
    ($($t:ty => $n:ty),*) => {
        $(impl Item for $t {
            type Number = $n;
            fn widened(device: &dyn Device, x: &Tensor) -> Result<Tensor> {
                <$t as Float>::widened(device, x)
            }
            fn narrowed(device: &dyn Device, x: Tensor) -> Result<Tensor> {
                <$t as Float>::narrowed(device, x)
            }
        })*
    };
}

floats!(f32 => f32, f64 => f64, f16 => f32, bf16 => f32);

impl Item for i32 {
    type Number = i32;
    fn widened(_: &dyn Device, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }
    fn narrowed(_: &dyn Device, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }
}

/// The tensor with the channels last, in the type that is computed in.
pub(crate) fn taken<T: Item>(cx: &OpContext<'_>, x: &Tensor, to_last: &[usize]) -> Result<Tensor> {
    T::widened(&*cx.step().device, &transposed(cx, x, to_last)?)
}

/// What [`taken`] does, undone.
pub(crate) fn given<T: Item>(cx: &OpContext<'_>, x: Tensor, back: &[usize]) -> Result<Tensor> {
    transposed(cx, &T::narrowed(&*cx.step().device, x)?, back)
}

/// A new tensor for numbers, from the device's pool.
pub(crate) fn room<T: Element>(device: &dyn Device, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::alloc_in(device.pool(), T::DTYPE, shape.into())
}

/// The elements of a tensor just made.
pub(crate) fn writable<T: Element>(t: &mut Tensor) -> Result<&mut [T]> {
    t.as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))
}

/// A product was asked for that does not fit its operands, which is a mistake of the caller.
pub(crate) fn refused(e: GemmError) -> Error {
    Error::internal(e.to_string())
}

/// The first error of several workers.
#[derive(Default)]
pub(crate) struct Failure(Mutex<Option<Error>>);

impl Failure {
    /// Keeps the error, if there is one and it is the first.
    pub(crate) fn note(&self, r: Result<()>) {
        if let Err(e) = r {
            self.0.lock().get_or_insert(e);
        }
    }

    /// The error that was kept.
    pub(crate) fn result(self) -> Result<()> {
        self.0.into_inner().map_or(Ok(()), Err)
    }
}
