//! Uniform quantisation: an integer stands for `(integer - zero point) * scale`, with one scale and zero point for a
//! whole tensor or one pair for each slice along an axis.
//!
//! Results are those of TensorFlow's kernels (`core/kernels/uniform_quant_ops`) to the last bit: a change of scale is a
//! multiplication by a fixed-point number and a shift with one rounding, and integers of 32 bits wrap around.
//!
//! - `convert`: from real numbers and back, and to another scale
//! - `arith`: sums and bounds, element by element
//! - `dot`: products of matrices

pub mod arith;
pub mod convert;
pub mod dot;
#[cfg(test)]
mod tests;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::{Attrs, Shape};

use super::range::Quant;

/// An attribute that is an integer of 32 bits.
///
/// # Errors
/// `INVALID_ARGUMENT` naming it if it is none.
fn small(attrs: &Attrs, name: &str) -> Result<i32> {
    let x = attrs.int(name)?;
    i32::try_from(x).map_err(|_| Error::invalid(format!("attribute {name} is {x}, which does not fit an int32")))
}

/// The attribute `name` as an axis: -1 is none.
///
/// # Errors
/// `INVALID_ARGUMENT` naming it if it is less.
fn axis(attrs: &Attrs, name: &str) -> Result<Option<usize>> {
    match attrs.int(name)? {
        -1 => Ok(None),
        a => usize::try_from(a)
            .map(Some)
            .map_err(|_| Error::invalid(format!("{name} must be >= -1, given: {a}"))),
    }
}

/// The bounds of integers that an operation may give.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    least: i32,
    most: i32,
}

impl Bounds {
    /// Those that the attributes `…quantization_min_val` and `…quantization_max_val` give.
    fn of(attrs: &Attrs, prefix: &str) -> Result<Bounds> {
        Ok(Bounds {
            least: small(attrs, &format!("{prefix}quantization_min_val"))?,
            most: small(attrs, &format!("{prefix}quantization_max_val"))?,
        })
    }

    #[inline(always)]
    fn clamp(self, x: i32) -> i32 {
        x.min(self.most).max(self.least)
    }
}

/// Which slice along an axis an element belongs to, by its place in the tensor.
#[derive(Clone, Copy, Debug)]
struct Slices {
    n: usize,
    inner: usize,
}

impl Slices {
    /// Of a tensor of that shape; without an axis there is one slice.
    fn along(shape: &Shape, axis: Option<usize>) -> Slices {
        match axis.filter(|a| *a < shape.rank()) {
            Some(a) => Slices {
                n: shape[a].max(1),
                inner: shape[a + 1..].iter().product::<usize>().max(1),
            },
            None => Slices { n: 1, inner: 1 },
        }
    }

    #[inline(always)]
    fn at(self, i: usize) -> usize {
        i / self.inner % self.n
    }
}

/// The scales and zero points of a tensor.
struct Scales {
    scales: Vec<f32>,
    zeros: Vec<i32>,
}

impl Scales {
    /// Inputs `i` and `i + 1`, for a tensor of that shape that is quantised along `axis`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the shapes if they do not fit.
    fn read(cx: &OpContext<'_>, i: usize, of: &Shape, axis: Option<usize>) -> Result<Scales> {
        let (scales, zeros) = (cx.input(i)?, cx.input(i + 1)?);
        let (s, z) = (scales.shape(), zeros.shape());
        if s != z {
            return Err(Error::invalid(format!(
                "scales and zero_points must have the same shape, but have {s} and {z}"
            )));
        }
        match axis {
            Some(a) if a >= of.rank() => Err(Error::invalid(format!(
                "quantization_axis must be -1 or in the range [0, rank) of a tensor of shape {of}, but is {a}"
            ))),
            None if !s.is_scalar() => Err(Error::invalid(format!(
                "without a quantization_axis (-1) scales and zero_points must be scalars, but have shape {s}"
            ))),
            Some(a) if s.rank() != 1 || s[0] != of[a] => Err(Error::invalid(format!(
                "with quantization_axis {a} of a tensor of shape {of} scales and zero_points must be vectors of {} \
                 elements, but have shape {s}",
                of[a]
            ))),
            _ => Ok(Scales {
                scales: scales.to_vec()?,
                zeros: zeros.to_vec()?,
            }),
        }
    }

    /// Fails unless all scales are positive.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what has another.
    fn positive(&self, what: &str) -> Result<()> {
        match self.scales.iter().find(|s| !(**s > 0.0)) {
            Some(s) => Err(Error::invalid(format!(
                "{what} scales must be all positive, but one is {s}"
            ))),
            None => Ok(()),
        }
    }

    fn len(&self) -> usize {
        self.scales.len()
    }

    /// Scale and zero point of slice `k`; those of a whole tensor for any `k`.
    fn at(&self, k: usize) -> (f32, i32) {
        let k = if self.len() == 1 { 0 } else { k };
        (self.scales[k], self.zeros[k])
    }
}

/// The integer of `x / scale`, with `inverse = 1 / scale`.
#[inline(always)]
fn quantized(x: f32, inverse: f32, zero: i32, bounds: Bounds) -> i32 {
    bounds.clamp(within((x * inverse + 0.5).floor()).wrapping_add(zero))
}

/// A positive factor as a fixed-point number of 31 bits and a shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Factor {
    number: i64,
    shift: i32,
}

impl Factor {
    /// # Errors
    /// `INVALID_ARGUMENT` unless it is positive and finite.
    fn of(x: f64) -> Result<Factor> {
        if !(x.is_finite() && x > 0.0) {
            return Err(Error::invalid(format!(
                "a quotient of scales must be a positive finite number, but is {x}; choose scales that are closer"
            )));
        }
        // x = fraction * 2^shift with a fraction in [1/2, 1). Quotients of float32 are never subnormal as float64, and the
        // smallest products become 0 below anyway.
        let biased = ((x.to_bits() >> 52) & 0x7ff) as i32;
        let mut shift = if biased == 0 { -1022 } else { biased - 1022 };
        let fraction = f64::from_bits((x.to_bits() & !(0x7ff << 52)) | (1022 << 52));
        let mut number = (fraction * f64::from(1u32 << 31)).round() as i64;
        if number == 1 << 31 {
            number /= 2;
            shift += 1;
        }
        Ok(match shift {
            ..-31 => Factor { number: 0, shift: 0 },
            31.. => Factor {
                number: (1 << 31) - 1,
                shift: 30,
            },
            _ => Factor { number, shift },
        })
    }

    /// The product, rounded once, within 32 bits.
    #[inline(always)]
    fn times(self, x: i32) -> i32 {
        let by = 31 - self.shift;
        let product = i64::from(x) * self.number + (1 << (by - 1));
        (product >> by).clamp(i32::MIN.into(), i32::MAX.into()) as i32
    }
}

/// From the scales of one tensor to those of another.
struct Rescale {
    /// Factor, zero point before and after.
    steps: Vec<(Factor, i32, i32)>,
}

impl Rescale {
    /// One of both may have a scale for each slice, or both for the same slices.
    ///
    /// # Errors
    /// As [`Factor::of`].
    fn new(from: &Scales, to: &Scales) -> Result<Rescale> {
        // A tensor without slices has no elements either.
        let n = match from.len().min(to.len()) {
            0 => 0,
            _ => from.len().max(to.len()),
        };
        let steps = (0..n).map(|k| {
            let ((s, zero), (t, new)) = (from.at(k), to.at(k));
            Ok((Factor::of(f64::from(s) / f64::from(t))?, zero, new))
        });
        Ok(Rescale {
            steps: steps.collect::<Result<_>>()?,
        })
    }

    /// The integer `x` of slice `k` on the other scale, without its zero point.
    #[inline(always)]
    fn bare(&self, k: usize, x: i32) -> i32 {
        let (factor, zero, _) = self.steps[k];
        factor.times(x.wrapping_sub(zero))
    }

    /// As [`bare`](Self::bare), with its zero point and within bounds.
    #[inline(always)]
    fn whole(&self, k: usize, x: i32, bounds: Bounds) -> i32 {
        bounds.clamp(self.bare(k, x).wrapping_add(self.steps[k].2))
    }
}

/// A stored integer as one of 32 bits.
///
/// TensorFlow's kernels read a `qint32` by way of a `float`: large ones are rounded, and what is then no integer of 32
/// bits becomes the least one.
#[inline(always)]
fn read<T: Quant>(x: T) -> i32 {
    match T::HIGHEST > 1 << 24 {
        true => within(x.wide() as f32),
        false => x.wide() as i32,
    }
}

/// A number as an integer of 32 bits: the least one, as on x86 processors, if it is none.
#[inline(always)]
fn within(x: f32) -> i32 {
    match (-2_147_483_648.0..2_147_483_648.0).contains(&x) {
        true => x as i32,
        false => i32::MIN,
    }
}
