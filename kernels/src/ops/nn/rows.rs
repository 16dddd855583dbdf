//! What the operations on rows of floats share: the arithmetic, and the lanes in which a row is computed.
#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::ops::{Add, Div, Mul, Neg, Sub};

use actorflow_core::Tensor;
use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::Device;
use half::{bf16, f16};

use crate::math::madd::{Baseline, Madd};
use crate::math::simd::{self, Fn1, Wide};
use crate::math::single;
use crate::wide::{self, Work};

/// A float that kernels compute in.
pub(super) trait Real:
    Element
    + PartialOrd
    + Debug
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    const ZERO: Self;
    const ONE: Self;
    const LEAST: Self;
    /// The nearest value.
    fn of(x: f64) -> Self;
    /// e to the power of `self`.
    fn exp<M: Madd>(self) -> Self;
    /// e to the power of `self`, minus 1.
    fn expm1<M: Madd>(self) -> Self;
    /// log(1 + e^self)
    fn softplus<M: Madd>(self) -> Self;
    /// e to the power of each.
    fn exp_all(x: &mut [Self]);
    /// The natural logarithm of each.
    fn log_all(x: &mut [Self]);
    /// |self|
    fn magnitude(self) -> Self;
    /// Runs `work` with the instructions that suit this type.
    fn run<W: Work>(work: W) -> W::Out;
}

/// [`single::exp`] for the loops of [`simd`].
struct Exp;
/// [`single::log`] for the loops of [`simd`].
struct Log;

impl Fn1<f32, f32> for Exp {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(x: f32) -> f32 {
        single::exp::<M>(x)
    }
}

impl Fn1<f32, f32> for Log {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(x: f32) -> f32 {
        single::log::<M>(x)
    }
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const LEAST: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn exp<M: Madd>(self) -> f32 {
        single::exp::<M>(self)
    }
    #[inline(always)]
    fn expm1<M: Madd>(self) -> f32 {
        single::expm1::<M>(self)
    }
    #[inline(always)]
    fn softplus<M: Madd>(self) -> f32 {
        single::softplus::<M>(self)
    }
    fn exp_all(x: &mut [f32]) {
        simd::map1_inplace::<Exp, f32>(x);
    }
    fn log_all(x: &mut [f32]) {
        simd::map1_inplace::<Log, f32>(x);
    }
    #[inline(always)]
    fn magnitude(self) -> f32 {
        self.abs()
    }
    #[inline]
    fn run<W: Work>(work: W) -> W::Out {
        wide::run(work)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const LEAST: f64 = f64::NEG_INFINITY;
    #[inline(always)]
    fn of(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn exp<M: Madd>(self) -> f64 {
        f64::exp(self)
    }
    #[inline(always)]
    fn expm1<M: Madd>(self) -> f64 {
        self.exp_m1()
    }
    #[inline(always)]
    fn softplus<M: Madd>(self) -> f64 {
        // max(x, 0) + log1p(e^-|x|), keeping NaN.
        (if self < 0.0 { 0.0 } else { self }) + (-self.abs()).exp().ln_1p()
    }
    fn exp_all(x: &mut [f64]) {
        x.iter_mut().for_each(|x| *x = x.exp());
    }
    fn log_all(x: &mut [f64]) {
        x.iter_mut().for_each(|x| *x = x.ln());
    }
    #[inline(always)]
    fn magnitude(self) -> f64 {
        self.abs()
    }
    #[inline]
    fn run<W: Work>(work: W) -> W::Out {
        work.run::<Baseline>()
    }
}

/// A float of a tensor, and the one that it is computed in.
pub(super) trait Float: Element {
    /// f64 for itself, f32 for all others.
    type Real: Real;
    /// The same value.
    fn to_real(self) -> Self::Real;
    /// The nearest value.
    fn from_real(x: Self::Real) -> Self;

    /// The tensor in [`Real`](Self::Real); itself if it is one already.
    fn widened(device: &dyn Device, x: &Tensor) -> Result<Tensor> {
        if Self::DTYPE == Self::Real::DTYPE {
            return Ok(x.clone());
        }
        convert(device, x, Self::to_real)
    }

    /// A tensor of [`Real`](Self::Real) as one of this type.
    fn narrowed(device: &dyn Device, x: Tensor) -> Result<Tensor> {
        if Self::DTYPE == Self::Real::DTYPE {
            return Ok(x);
        }
        convert(device, &x, Self::from_real)
    }
}

fn convert<A: Element, B: Element>(device: &dyn Device, x: &Tensor, f: fn(A) -> B) -> Result<Tensor> {
    let mut out = Tensor::alloc_in(device.pool(), B::DTYPE, x.shape().clone())?;
    for (o, a) in writable::<B>(&mut out)?.iter_mut().zip(x.as_slice::<A>()?) {
        *o = f(*a);
    }
    Ok(out)
}

/// The elements of a tensor just made.
pub(super) fn writable<T: Element>(t: &mut Tensor) -> Result<&mut [T]> {
    t.as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))
}

macro_rules! floats {
    ($($t:ty, $r:ty, |$x:ident| $to:expr, $from:expr;)*) => {
        $(impl Float for $t {
            type Real = $r;
            #[inline(always)]
            fn to_real(self) -> $r {
                let $x = self;
                $to
            }
            #[inline(always)]
            fn from_real($x: $r) -> $t {
                $from
            }
        })*
    };
}

floats! {
    f32, f32, |x| x, x;
    f64, f64, |x| x, x;
    f16, f32, |x| x.to_f32(), f16::from_f32(x);
    bf16, f32, |x| x.to_f32(), bf16::from_f32(x);
}

/// The kernel function `$f::<T>` for the float type of input 0.
macro_rules! float_kernel {
    ($init:expr, $f:ident) => {
        actorflow_core::dispatch!($init.input_types[0], T in floats => Ok(Box::new($f::<T>)), else Err($init.no_kernel()))
    };
}
pub(super) use float_kernel;

/// Lanes in which a long row is computed.
const LANES: usize = 16;

/// Elements of rows that are worth handing to another worker, where each takes an exponential.
const ROW_GRAIN: usize = 8 * 1024;

/// Rows of `columns` elements to a chunk.
pub(super) fn rows_of(columns: usize) -> usize {
    (ROW_GRAIN / columns.max(1)).max(1)
}

/// Elements of a block of rows, which stays in the first-level cache while several loops go over it.
const BLOCK: usize = 2048;
/// Rows of a block at most.
pub(super) const BLOCK_ROWS: usize = 256;

/// Rows of `columns` elements to a block.
pub(super) fn block_rows(columns: usize) -> usize {
    (BLOCK / columns.max(1)).clamp(1, BLOCK_ROWS)
}

/// Folds a row: lanes side by side if it is long, then the lanes in pairs.
#[inline(always)]
fn fold_row<T: Real>(row: &[T], start: T, join: impl Fn(T, T) -> T) -> T {
    if row.len() < 2 * LANES {
        return row.iter().fold(start, |a, b| join(a, *b));
    }
    let (lanes, rest) = row.as_chunks::<LANES>();
    let mut acc = [start; LANES];
    for x in lanes {
        for (a, x) in acc.iter_mut().zip(x) {
            *a = join(*a, *x);
        }
    }
    for (a, x) in acc.iter_mut().zip(rest) {
        *a = join(*a, *x);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] = join(acc[i], acc[i + half]);
        }
        half /= 2;
    }
    acc[0]
}

/// The sum of a row.
#[inline(always)]
pub(super) fn sum_row<T: Real>(row: &[T]) -> T {
    fold_row(row, T::ZERO, |a, b| a + b)
}

/// Subtracts from each row its largest element; NaNs are passed over when it is looked for.
pub(super) struct Shift<'a, T> {
    pub(super) rows: &'a mut [T],
    pub(super) columns: usize,
}

impl<T: Real> Work for Shift<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        for row in self.rows.chunks_exact_mut(self.columns) {
            let max = fold_row(row, T::LEAST, |a, b| if b > a { b } else { a });
            row.iter_mut().for_each(|x| *x = *x - max);
        }
    }
}

/// The sum of each row.
pub(super) struct Sums<'a, T> {
    pub(super) rows: &'a [T],
    pub(super) sums: &'a mut [T],
}

impl<T: Real> Work for Sums<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let columns = self.rows.len() / self.sums.len();
        for (row, sum) in self.rows.chunks_exact(columns).zip(self.sums) {
            *sum = sum_row(row);
        }
    }
}

/// Divides each row by its sum.
pub(super) struct Divide<'a, T> {
    pub(super) rows: &'a mut [T],
    pub(super) sums: &'a [T],
}

impl<T: Real> Work for Divide<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let columns = self.rows.len() / self.sums.len();
        for (row, sum) in self.rows.chunks_exact_mut(columns).zip(self.sums) {
            let scale = T::ONE / *sum;
            row.iter_mut().for_each(|x| *x = *x * scale);
        }
    }
}
