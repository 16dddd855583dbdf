//! What quantised integers stand for, and what the kernels share.
//!
//! The integers of a type divide a range of real numbers evenly: the least integer stands for its lower end, the
//! greatest for its upper end. Whether a step is computed in `f32` or in `f64` decides the last bit of a result, so there
//! are two forms of either direction: [`real`] and [`nearest`] for single numbers, [`Reals`] and [`Integers`] for whole
//! tensors.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::{DType, Element, PartialShape, Tensor};

use crate::moves;

/// An integer that a quantised type is stored as.
pub(crate) trait Quant: Element + Ord {
    /// The least integer.
    const LOWEST: i64;
    /// The greatest integer.
    const HIGHEST: i64;
    /// The quantised type.
    const QUANTIZED: DType;
    /// How many integers there are.
    const STEPS: f64 = (Self::HIGHEST - Self::LOWEST + 1) as f64;
    /// The integer, without its type.
    fn wide(self) -> i64;
    /// The low bits.
    fn narrow(x: i64) -> Self;
}

macro_rules! quants {
    ($($t:ident => $q:ident),*) => {
        $(impl Quant for $t {
            const LOWEST: i64 = $t::MIN as i64;
            const HIGHEST: i64 = $t::MAX as i64;
            const QUANTIZED: DType = DType::$q;
            #[inline(always)]
            fn wide(self) -> i64 {
                self.into()
            }
            #[inline(always)]
            fn narrow(x: i64) -> Self {
                x as $t
            }
        })*
    };
}

quants!(i8 => QI8, u8 => QU8, i32 => QI32, i16 => QI16, u16 => QU16);

/// Runs a block with the integer type of a quantised dtype; `else` covers every other dtype.
macro_rules! quantized {
    ($d:expr, $T:ident => $body:expr, else $other:expr) => {{
        let d: actorflow_core::DType = $d;
        match d.is_quantized() {
            true => actorflow_core::dispatch!(d.storage(), $T in [I8, U8, I32, I16, U16] => $body, else $other),
            false => $other,
        }
    }};
}
pub(crate) use quantized;

/// The real number that one integer of `T` stands for, steps in `f64`.
pub(crate) fn real<T: Quant>(x: T, min: f32, max: f32) -> f32 {
    if min == max {
        return min;
    }
    let adjust = T::STEPS / (T::STEPS - 1.0);
    let scale = f64::from(max - min) * adjust / T::STEPS;
    let single = scale as f32;
    let least = f64::from((min / single).round()) * f64::from(single);
    (least + (x.wide() - T::LOWEST) as f64 * scale) as f32
}

/// The integer that stands for `x`, which may lie beyond those of `T`.
pub(crate) fn unclamped<T: Quant>(x: f32, min: f32, max: f32) -> i64 {
    if min == max {
        return T::LOWEST;
    }
    let adjust = T::STEPS / (T::STEPS - 1.0);
    let scale = T::STEPS / (f64::from(max - min) * adjust);
    let steps = (f64::from(x) * scale).round() - (f64::from(min) * scale).round();
    (steps as i64).wrapping_add(T::LOWEST)
}

/// The integer of `T` nearest to `x`.
pub(crate) fn nearest<T: Quant>(x: f32, min: f32, max: f32) -> T {
    T::narrow(unclamped::<T>(x, min, max).clamp(T::LOWEST, T::HIGHEST))
}

/// The integer that stands for zero, as one of 32 bits.
pub(crate) fn zero_point<T: Quant>(min: f32, max: f32) -> i32 {
    unclamped::<T>(0.0, min, max) as i32
}

/// The real numbers of a tensor's integers, steps in `f32`.
#[derive(Clone, Copy)]
pub(crate) struct Reals {
    least: f32,
    scale: f32,
}

impl Reals {
    pub(crate) fn of<T: Quant>(min: f32, max: f32) -> Reals {
        let scale = (f64::from(max - min) / (T::STEPS - 1.0)) as f32;
        let rounded = if min == max { min } else { (min / scale).round() * scale };
        Reals {
            least: rounded - T::LOWEST as f32 * scale,
            scale,
        }
    }

    #[inline(always)]
    pub(crate) fn at<T: Quant>(self, x: T) -> f32 {
        self.least + x.wide() as f32 * self.scale
    }
}

/// The integers nearest to a tensor's real numbers, steps in `f32`.
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    scale: f32,
    shift: f32,
    low: f32,
    high: f32,
}

impl Integers {
    pub(crate) fn of<T: Quant>(min: f32, max: f32) -> Integers {
        let scale = match min == max {
            true => 0.0,
            false => ((T::STEPS - 1.0) / f64::from(max - min)) as f32,
        };
        Integers {
            scale,
            shift: (min * scale).round() - T::LOWEST as f32,
            low: T::LOWEST as f32,
            // The greatest float32 below 2^31: what rounds to 2^31 is no 32-bit integer.
            high: (T::HIGHEST as f32).min(2_147_483_520.0),
        }
    }

    #[inline(always)]
    pub(crate) fn at<T: Quant>(self, x: f32) -> T {
        let steps = ((x * self.scale).round() - self.shift).max(self.low).min(self.high);
        T::narrow(steps as i64)
    }
}

/// What one step is of the integers of `T`.
fn step<T: Quant>(min: f32, max: f32) -> f32 {
    (max - min) / (T::HIGHEST - T::LOWEST) as f32
}

/// The range that products of an `A` and a `B` have as integers of 32 bits.
pub(crate) fn range_of_product<A: Quant, B: Quant>(
    (min_a, max_a): (f32, f32),
    (min_b, max_b): (f32, f32),
) -> (f32, f32) {
    let c = step::<A>(min_a, max_a) * step::<B>(min_b, max_b);
    (c * i32::LOWEST as f32, c * i32::HIGHEST as f32)
}

/// The one element of input `i`, an end of a range.
///
/// # Errors
/// `INVALID_ARGUMENT` for another number of elements, naming the input.
pub(crate) fn end(cx: &OpContext<'_>, i: usize, what: &str) -> Result<f32> {
    match cx.input(i)?.as_slice::<f32>()? {
        [x] => Ok(*x),
        _ => Err(Error::invalid(format!(
            "{what} must be a scalar, got shape {}",
            cx.input(i)?.shape()
        ))),
    }
}

/// Inputs `i` and `i + 1`, the ends of a range.
///
/// # Errors
/// As [`end`].
pub(crate) fn ends(cx: &OpContext<'_>, i: usize, what: &str) -> Result<(f32, f32)> {
    Ok((
        end(cx, i, &format!("min_{what}"))?,
        end(cx, i + 1, &format!("max_{what}"))?,
    ))
}

/// As [`ends`] of a range that has to be one.
///
/// # Errors
/// `INVALID_ARGUMENT` unless the upper end is greater than the lower one.
pub(crate) fn proper_ends(cx: &OpContext<'_>, i: usize, what: &str) -> Result<(f32, f32)> {
    let (min, max) = ends(cx, i, what)?;
    match max > min {
        true => Ok((min, max)),
        false => Err(Error::invalid(format!(
            "max_{what} must be larger than min_{what}, got {max} and {min}"
        ))),
    }
}

/// Input `i` as the integers that it is stored as; nothing is copied.
///
/// # Errors
/// `INTERNAL` if there is none.
pub(crate) fn stored(cx: &OpContext<'_>, i: usize) -> Result<Tensor> {
    let t = cx.input(i)?.clone();
    let storage = t.dtype().storage();
    if storage == t.dtype() {
        Ok(t)
    } else {
        t.bitcast(storage)
    }
}

/// Sets output 0 to the integers `t` as a quantised tensor, outputs 1 and 2 to its range.
pub(crate) fn deliver<T: Quant>(cx: &mut OpContext<'_>, t: Tensor, (min, max): (f32, f32)) -> Result<()> {
    cx.set_output(0, t.bitcast(T::QUANTIZED)?);
    cx.set_output(1, Tensor::scalar(min));
    cx.set_output(2, Tensor::scalar(max));
    Ok(())
}

/// A tensor of `x`'s shape whose elements are `f` of `x`'s.
///
/// # Errors
/// `INVALID_ARGUMENT` if `x` is no tensor of `A`; as [`OpContext::alloc`].
pub(crate) fn map<A: Element, B: Element>(cx: &OpContext<'_>, x: &Tensor, f: impl Fn(A) -> B + Sync) -> Result<Tensor> {
    let from = x.as_slice::<A>()?;
    let mut t = cx.alloc(B::DTYPE, x.shape())?;
    let out = t.as_mut_slice::<B>().unwrap_or(&mut []);
    moves::par_chunks(cx.parallel(), out, |at, out| {
        out.iter_mut().zip(&from[at..]).for_each(|(o, x)| *o = f(*x));
    });
    Ok(t)
}

/// The shapes of a result and its range: the given one and two scalars.
pub(crate) fn with_range(shape: PartialShape) -> Vec<PartialShape> {
    vec![shape, PartialShape::scalar(), PartialShape::scalar()]
}

/// Checks that inputs `from..` are scalars, which ends of ranges are.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the shape of one that is not.
pub(crate) fn scalars(cx: &ShapeContext<'_>, at: &[usize]) -> Result<()> {
    at.iter().try_for_each(|i| cx.input(*i).with_rank(0).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_range_are_the_least_and_the_greatest_integer() {
        assert_eq!(
            (nearest::<u8>(-1.0, -1.0, 3.0), nearest::<u8>(3.0, -1.0, 3.0)),
            (0, 255)
        );
        assert_eq!(
            (nearest::<i8>(-9.0, -1.0, 3.0), nearest::<i8>(9.0, -1.0, 3.0)),
            (-128, 127)
        );
        assert_eq!(zero_point::<u8>(-1.0, 3.0), 64);
        let to = Integers::of::<i32>(-1.0, 1.0);
        assert_eq!((to.at::<i32>(-1.0), to.at::<i32>(1.0)), (i32::MIN, 2_147_483_520));
        assert_eq!(to.at::<i32>(f32::NAN), i32::MIN);
    }

    #[test]
    fn both_forms_give_the_real_number_back() {
        let (to, from) = (Integers::of::<u16>(-2.0, 6.0), Reals::of::<u16>(-2.0, 6.0));
        for x in [-2.0f32, -0.7, 0.0, 1.25, 5.999] {
            assert!((from.at(to.at::<u16>(x)) - x).abs() < 2e-4, "{x}");
            assert!((real(nearest::<u16>(x, -2.0, 6.0), -2.0, 6.0) - x).abs() < 2e-4, "{x}");
        }
    }

    #[test]
    fn an_empty_range_has_one_number() {
        assert_eq!(real(7u8, 2.0, 2.0), 2.0);
        assert_eq!(nearest::<i8>(5.0, 2.0, 2.0), -128);
        assert_eq!(Reals::of::<u8>(0.0, 0.0).at(9u8), 0.0);
        assert_eq!(Integers::of::<u8>(0.0, 0.0).at::<u8>(3.0), 0);
    }
}
