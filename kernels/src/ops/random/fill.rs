//! Filling tensors from a stream by a distribution. TensorFlow's `FillPhiloxRandom`.

#![forbid(unsafe_code)]

use actorflow_core::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::parallel::Parallel;
use actorflow_core::philox::{Philox, normal_f32, normal_f64, uniform_bf16, uniform_f16, uniform_f32, uniform_f64};
use actorflow_core::{DType, Shape, Tensor};
use half::{bf16, f16};

use super::blocks;
use super::stream::Singles;
use crate::math::madd::Madd;
use crate::spread;
use crate::wide::{self, Work};

/// A distribution whose elements each take a fixed number of a stream's numbers.
pub trait Fixed<T>: Copy + Send + Sync {
    /// Elements made of a block of four numbers; a divisor of `CHUNK`.
    const GROUP: usize;

    /// Makes elements of consecutive blocks: `4 / GROUP` numbers for each. The last block may be partly used.
    fn make(self, bits: &[u32], out: &mut [T]);
}

/// Elements that one worker makes at a time.
const CHUNK: usize = 16 << 10;
/// Numbers generated at a time.
const BITS: usize = 256;

/// Fills `out` from the stream's position on.
pub fn fixed<T: Element, D: Fixed<T>>(par: &dyn Parallel, from: Philox, out: &mut [T], dist: D) {
    spread::chunks(par, out, CHUNK, |i, part| {
        let mut at = from;
        at.skip((i * CHUNK / D::GROUP) as u64);
        let mut bits = [0u32; BITS];
        for piece in part.chunks_mut(BITS / 4 * D::GROUP) {
            let blocks = piece.len().div_ceil(D::GROUP);
            blocks::fill(at, &mut bits[..4 * blocks]);
            dist.make(&bits[..4 * blocks], piece);
            at.skip(blocks as u64);
        }
    });
}

/// Uniform in `[0, 1)`.
#[derive(Debug, Clone, Copy)]
pub struct Uniform;

struct Map<'a, T, F>(&'a [u32], &'a mut [T], F);

impl<T, F: Fn(u32) -> T> Work for Map<'_, T, F> {
    type Out = ();

    #[inline(always)]
    fn run<M: Madd>(self) {
        for (o, x) in self.1.iter_mut().zip(self.0) {
            *o = (self.2)(*x);
        }
    }
}

impl Fixed<f32> for Uniform {
    const GROUP: usize = 4;

    fn make(self, bits: &[u32], out: &mut [f32]) {
        wide::run(Map(bits, out, uniform_f32));
    }
}

impl Fixed<f16> for Uniform {
    const GROUP: usize = 4;

    fn make(self, bits: &[u32], out: &mut [f16]) {
        out.iter_mut().zip(bits).for_each(|(o, x)| *o = uniform_f16(*x));
    }
}

impl Fixed<bf16> for Uniform {
    const GROUP: usize = 4;

    fn make(self, bits: &[u32], out: &mut [bf16]) {
        out.iter_mut().zip(bits).for_each(|(o, x)| *o = uniform_bf16(*x));
    }
}

impl Fixed<f64> for Uniform {
    const GROUP: usize = 2;

    fn make(self, bits: &[u32], out: &mut [f64]) {
        for (o, x) in out.iter_mut().zip(bits.chunks_exact(2)) {
            *o = uniform_f64(x[0], x[1]);
        }
    }
}

/// The standard normal distribution.
#[derive(Debug, Clone, Copy)]
pub struct Normal;

/// Makes pairs of elements of pairs of numbers; the second of the last pair may be left over.
fn pairs<T>(bits: &[u32], out: &mut [T], of: impl Fn(f32) -> T) {
    for (o, x) in out.chunks_mut(2).zip(bits.chunks_exact(2)) {
        let (a, b) = normal_f32(x[0], x[1]);
        o[0] = of(a);
        if let Some(o) = o.get_mut(1) {
            *o = of(b);
        }
    }
}

impl Fixed<f32> for Normal {
    const GROUP: usize = 4;

    fn make(self, bits: &[u32], out: &mut [f32]) {
        pairs(bits, out, |x| x);
    }
}

impl Fixed<f16> for Normal {
    const GROUP: usize = 4;

    fn make(self, bits: &[u32], out: &mut [f16]) {
        pairs(bits, out, f16::from_f32);
    }
}

impl Fixed<bf16> for Normal {
    const GROUP: usize = 4;

    fn make(self, bits: &[u32], out: &mut [bf16]) {
        pairs(bits, out, bf16::from_f32);
    }
}

impl Fixed<f64> for Normal {
    const GROUP: usize = 2;

    fn make(self, bits: &[u32], out: &mut [f64]) {
        for (o, x) in out.chunks_mut(2).zip(bits.chunks_exact(4)) {
            let (a, b) = normal_f64([x[0], x[1], x[2], x[3]]);
            o[0] = a;
            if let Some(o) = o.get_mut(1) {
                *o = b;
            }
        }
    }
}

/// Integers in `low..low + range`, uniform but for the bias of a remainder.
#[derive(Debug, Clone, Copy)]
pub struct Between<T, U> {
    /// The least.
    pub low: T,
    /// How many there are; not 0.
    pub range: U,
}

impl Fixed<i32> for Between<i32, u32> {
    const GROUP: usize = 4;

    fn make(self, bits: &[u32], out: &mut [i32]) {
        let range = self.range.max(1);
        for (o, x) in out.iter_mut().zip(bits) {
            *o = self.low.wrapping_add((x % range) as i32);
        }
    }
}

#[inline]
fn wide_bits(x: &[u32]) -> u64 {
    u64::from(x[0]) | u64::from(x[1]) << 32
}

impl Fixed<i64> for Between<i64, u64> {
    const GROUP: usize = 2;

    fn make(self, bits: &[u32], out: &mut [i64]) {
        let range = self.range.max(1);
        for (o, x) in out.iter_mut().zip(bits.chunks_exact(2)) {
            *o = self.low.wrapping_add((wide_bits(x) % range) as i64);
        }
    }
}

/// Integers of any value.
#[derive(Debug, Clone, Copy)]
pub struct AnyInt;

macro_rules! any_int {
    ($($t:ty, $group:literal, $each:literal, $of:expr;)*) => {
        $(impl Fixed<$t> for AnyInt {
            const GROUP: usize = $group;

            fn make(self, bits: &[u32], out: &mut [$t]) {
                let of: fn(&[u32]) -> $t = $of;
                for (o, x) in out.iter_mut().zip(bits.chunks_exact($each)) {
                    *o = of(x);
                }
            }
        })*
    };
}

any_int! {
    i32, 4, 1, |x| x[0] as i32;
    u32, 4, 1, |x| x[0];
    i64, 2, 2, |x| wide_bits(x) as i64;
    u64, 2, 2, wide_bits;
}

/// Where the truncated normal distribution is cut, in standard deviations.
const CUT: f64 = 2.0;

/// An element of a truncated normal distribution; they are made in groups.
pub trait Truncated: Element {
    /// Elements of a group.
    const GROUP: usize;

    /// The next two candidates.
    fn pair(from: &mut Singles) -> (Self, Self);

    /// Whether a candidate lies between the cuts.
    fn inside(self) -> bool;
}

macro_rules! truncated {
    ($($t:ty, $group:literal, $pair:expr, $inside:expr;)*) => {
        $(impl Truncated for $t {
            const GROUP: usize = $group;

            #[inline]
            fn pair(from: &mut Singles) -> (Self, Self) {
                let f: fn(&mut Singles) -> ($t, $t) = $pair;
                f(from)
            }

            #[inline]
            fn inside(self) -> bool {
                let f: fn($t) -> bool = $inside;
                f(self)
            }
        })*
    };
}

fn single_pair(from: &mut Singles) -> (f32, f32) {
    let x0 = from.next();
    normal_f32(x0, from.next())
}

truncated! {
    f32, 4, single_pair, |x| x.abs() < CUT as f32;
    f64, 2, |s| normal_f64(std::array::from_fn(|_| s.next())), |x| x.abs() < CUT;
    f16, 4, |s| { let (a, b) = single_pair(s); (f16::from_f32(a), f16::from_f32(b)) }, |x| x.to_f64().abs() < CUT;
    bf16, 4, |s| { let (a, b) = single_pair(s); (bf16::from_f32(a), bf16::from_f32(b)) }, |x| x.to_f64().abs() < CUT;
}

/// Fills `out` with a normal distribution whose values beyond two standard deviations are drawn again.
///
/// Each group of elements has a stretch of the stream of its own, as a group may take any number of draws.
pub fn truncated<T: Truncated>(par: &dyn Parallel, from: Philox, out: &mut [T]) {
    let skip = (T::GROUP as u64 * super::stream::RESERVED) / 4;
    spread::chunks(par, out, CHUNK, |i, part| {
        for (k, group) in part.chunks_mut(T::GROUP).enumerate() {
            let mut at = from;
            at.skip(((i * CHUNK / T::GROUP + k) as u64).wrapping_mul(skip));
            let mut from = Singles::new(at);
            let mut n = 0;
            while n < group.len() {
                let (a, b) = T::pair(&mut from);
                for x in [a, b] {
                    if n < group.len() && x.inside() {
                        group[n] = x;
                        n += 1;
                    }
                }
            }
        }
    });
}

/// The distributions of float tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// [`Uniform`].
    Uniform,
    /// [`Normal`].
    Normal,
    /// [`truncated`].
    Truncated,
}

/// A tensor of floats from the stream.
///
/// # Errors
/// `INVALID_ARGUMENT` for a dtype that is no float; as [`OpContext::alloc`].
pub fn floats(cx: &OpContext<'_>, dist: Float, dtype: DType, shape: Shape, from: Philox) -> Result<Tensor> {
    fn run<T: Truncated>(par: &dyn Parallel, dist: Float, from: Philox, out: &mut [T])
    where
        Uniform: Fixed<T>,
        Normal: Fixed<T>,
    {
        match dist {
            Float::Uniform => fixed(par, from, out, Uniform),
            Float::Normal => fixed(par, from, out, Normal),
            Float::Truncated => truncated(par, from, out),
        }
    }
    let mut t = cx.alloc(dtype, shape)?;
    let par = cx.parallel();
    match dtype {
        DType::F32 => run::<f32>(par, dist, from, slice(&mut t)?),
        DType::F64 => run::<f64>(par, dist, from, slice(&mut t)?),
        DType::F16 => run::<f16>(par, dist, from, slice(&mut t)?),
        DType::BF16 => run::<bf16>(par, dist, from, slice(&mut t)?),
        _ => return Err(Error::invalid(format!("{dtype} is not a float"))),
    }
    Ok(t)
}

/// A tensor of integers in `low..high` from the stream.
///
/// # Errors
/// `INVALID_ARGUMENT` if the range is empty or the bounds are no scalars of one integer dtype; as
/// [`OpContext::alloc`].
pub fn between(cx: &OpContext<'_>, low: &Tensor, high: &Tensor, shape: Shape, from: Philox) -> Result<Tensor> {
    fn bounds<T: Element + PartialOrd + std::fmt::Display>(low: &Tensor, high: &Tensor) -> Result<(T, T)> {
        let (low, high) = (low.to_scalar::<T>()?, high.to_scalar::<T>()?);
        if low >= high {
            return Err(Error::invalid(format!("Need minval < maxval, got {low} >= {high}")));
        }
        Ok((low, high))
    }
    for b in [low, high] {
        if !b.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "the bounds of random integers must be scalars, got shape {}",
                b.shape()
            )));
        }
    }
    let mut t = cx.alloc(low.dtype(), shape)?;
    if t.is_empty() {
        return Ok(t);
    }
    let par = cx.parallel();
    match low.dtype() {
        DType::I32 => {
            let (low, high) = bounds::<i32>(low, high)?;
            let range = (high as u32).wrapping_sub(low as u32);
            fixed::<i32, _>(par, from, slice(&mut t)?, Between { low, range });
        }
        DType::I64 => {
            let (low, high) = bounds::<i64>(low, high)?;
            let range = (high as u64).wrapping_sub(low as u64);
            fixed::<i64, _>(par, from, slice(&mut t)?, Between { low, range });
        }
        d => return Err(Error::invalid(format!("random integers cannot be {d}"))),
    }
    Ok(t)
}

/// A tensor of integers of any value from the stream.
///
/// # Errors
/// `INVALID_ARGUMENT` for a dtype that is no 32 or 64 bit integer; as [`OpContext::alloc`].
pub fn any_ints(cx: &OpContext<'_>, dtype: DType, shape: Shape, from: Philox) -> Result<Tensor> {
    let mut t = cx.alloc(dtype, shape)?;
    let par = cx.parallel();
    match dtype {
        DType::I32 => fixed::<i32, _>(par, from, slice(&mut t)?, AnyInt),
        DType::I64 => fixed::<i64, _>(par, from, slice(&mut t)?, AnyInt),
        DType::U32 => fixed::<u32, _>(par, from, slice(&mut t)?, AnyInt),
        DType::U64 => fixed::<u64, _>(par, from, slice(&mut t)?, AnyInt),
        _ => return Err(Error::invalid(format!("random integers cannot be {dtype}"))),
    }
    Ok(t)
}

/// The elements of a new tensor.
pub(super) fn slice<T: Element>(t: &mut Tensor) -> Result<&mut [T]> {
    t.as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor cannot be written"))
}
