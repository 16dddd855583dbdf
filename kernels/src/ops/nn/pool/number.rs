//! The elements that pools are computed in.
#![forbid(unsafe_code)]

use actorflow_core::Tensor;
use actorflow_core::dtype::Element;
use actorflow_core::error::Result;
use actorflow_core::kernel::{Device, OpContext};
use half::{bf16, f16};

use super::super::conv::number::{room, writable};
use crate::math::madd::Baseline;
use crate::ops::array::transpose::transposed;
use crate::wide::{self, Work};

/// A number that is compared and added.
pub(in crate::ops::nn) trait Number: Element + PartialOrd {
    /// Zero.
    const ZERO: Self;
    /// The least finite value.
    const LEAST: Self;
    /// The sum; integers wrap.
    fn plus(self, b: Self) -> Self;
    /// `self` times one where `x` is positive, else times zero, as `ReluGrad` has it.
    fn where_positive(self, x: Self) -> Self;
    /// Runs `work` with the instructions that suit this type.
    fn run<W: Work>(work: W) -> W::Out;
}

macro_rules! numbers {
    ($($t:ty, $zero:expr, $one:expr, |$a:ident, $b:ident| $plus:expr, $run:expr;)*) => {
        $(impl Number for $t {
            const ZERO: $t = $zero;
            const LEAST: $t = <$t>::MIN;
            #[inline(always)]
            fn plus(self, $b: $t) -> $t {
                let $a = self;
                $plus
            }
            #[inline(always)]
            fn where_positive(self, x: $t) -> $t {
                self * if x > $zero { $one } else { $zero }
            }
            #[inline]
            fn run<W: Work>(work: W) -> W::Out {
                $run(work)
            }
        })*
    };
}

/// Without code for several instruction sets.
fn plainly<W: Work>(work: W) -> W::Out {
    work.run::<Baseline>()
}

numbers! {
    f32, 0.0, 1.0, |a, b| a + b, wide::run;
    f64, 0.0, 1.0, |a, b| a + b, plainly;
    i64, 0, 1, |a, b| a.wrapping_add(b), plainly;
    u64, 0, 1, |a, b| a.wrapping_add(b), plainly;
}

/// An element of the tensors that are pooled.
pub(in crate::ops::nn) trait Item: Element {
    /// What it is computed in: f32 for halves, i64 for the shorter integers.
    type Number: Number;
    /// The same value.
    fn widen(self) -> Self::Number;
    /// The nearest value; integers wrap.
    fn narrow(x: Self::Number) -> Self;

    /// The tensor in [`Number`](Self::Number).
    fn widened(device: &dyn Device, x: &Tensor) -> Result<Tensor> {
        match Self::DTYPE == Self::Number::DTYPE {
            true => Ok(x.clone()),
            false => converted(device, x, Self::widen),
        }
    }

    /// A tensor of [`Number`](Self::Number) as one of this type.
    fn narrowed(device: &dyn Device, x: Tensor) -> Result<Tensor> {
        match Self::DTYPE == Self::Number::DTYPE {
            true => Ok(x),
            false => converted(device, &x, Self::narrow),
        }
    }
}

fn converted<A: Element, B: Element>(device: &dyn Device, x: &Tensor, f: fn(A) -> B) -> Result<Tensor> {
    let mut out = room::<B>(device, x.shape())?;
    for (o, a) in writable::<B>(&mut out)?.iter_mut().zip(x.as_slice::<A>()?) {
        *o = f(*a);
    }
    Ok(out)
}

macro_rules! items {
    ($($t:ty => $n:ty, |$x:ident| $widen:expr, $narrow:expr;)*) => {
        $(impl Item for $t {
            type Number = $n;
            fn widen(self) -> $n {
                let $x = self;
                $widen
            }
            fn narrow($x: $n) -> $t {
                $narrow
            }
        })*
    };
}

items! {
    f32 => f32, |x| x, x;
    f64 => f64, |x| x, x;
    f16 => f32, |x| x.to_f32(), f16::from_f32(x);
    bf16 => f32, |x| x.to_f32(), bf16::from_f32(x);
    i8 => i64, |x| x.into(), x as i8;
    i16 => i64, |x| x.into(), x as i16;
    i32 => i64, |x| x.into(), x as i32;
    i64 => i64, |x| x, x;
    u8 => i64, |x| x.into(), x as u8;
    u16 => i64, |x| x.into(), x as u16;
    u32 => i64, |x| x.into(), x as u32;
    u64 => u64, |x| x, x;
}

/// The tensor with the channels last, in the type that is computed in.
pub(in crate::ops::nn) fn taken<T: Item>(cx: &OpContext<'_>, x: &Tensor, to_last: &[usize]) -> Result<Tensor> {
    T::widened(&*cx.step().device, &transposed(cx, x, to_last)?)
}

/// What [`taken`] does, undone.
pub(in crate::ops::nn) fn given<T: Item>(cx: &OpContext<'_>, x: Tensor, back: &[usize]) -> Result<Tensor> {
    transposed(cx, &T::narrowed(&*cx.step().device, x)?, back)
}
