//! Element-wise updates in place: what the assigning and scattering operations do to the elements they reach.

#![forbid(unsafe_code)]

use actorflow_core::Element;
use actorflow_core::error::{Error, Result};
use half::{bf16, f16};
use num_complex::Complex;

/// How an update changes an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// It takes the update's place.
    Set,
    /// Sum; integers wrap around.
    Add,
    /// Difference; integers wrap around.
    Sub,
    /// Product; integers wrap around.
    Mul,
    /// Quotient; of integers, truncated.
    Div,
    /// The smaller one.
    Min,
    /// The larger one.
    Max,
}

/// An element that every [`Update`] can change (complex numbers: all but the smaller and larger one).
pub trait Arith: Element {
    /// Whether a division by zero is an error.
    const INTEGER: bool;
    /// Whether there is a smaller and a larger one.
    const ORDERED: bool;
    /// Sum.
    fn add(self, b: Self) -> Self;
    /// Difference.
    fn sub(self, b: Self) -> Self;
    /// Product.
    fn mul(self, b: Self) -> Self;
    /// Quotient; by an integer zero, anything.
    fn div(self, b: Self) -> Self;
    /// The smaller one.
    fn min(self, b: Self) -> Self;
    /// The larger one.
    fn max(self, b: Self) -> Self;
}

macro_rules! integers {
    ($($t:ty),*) => {
        $(impl Arith for $t {
            const INTEGER: bool = true;
            const ORDERED: bool = true;
            #[inline(always)]
            fn add(self, b: Self) -> Self { self.wrapping_add(b) }
            #[inline(always)]
            fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
            #[inline(always)]
            fn mul(self, b: Self) -> Self { self.wrapping_mul(b) }
            #[inline(always)]
            fn div(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_div(b) } }
            #[inline(always)]
            fn min(self, b: Self) -> Self { Ord::min(self, b) }
            #[inline(always)]
            fn max(self, b: Self) -> Self { Ord::max(self, b) }
        })*
    };
}

macro_rules! floats {
    ($($t:ty),*) => {
        $(impl Arith for $t {
            const INTEGER: bool = false;
            const ORDERED: bool = true;
            #[inline(always)]
            fn add(self, b: Self) -> Self { self + b }
            #[inline(always)]
            fn sub(self, b: Self) -> Self { self - b }
            #[inline(always)]
            fn mul(self, b: Self) -> Self { self * b }
            #[inline(always)]
            fn div(self, b: Self) -> Self { self / b }
            #[inline(always)]
            fn min(self, b: Self) -> Self { if b < self { b } else { self } }
            #[inline(always)]
            fn max(self, b: Self) -> Self { if b > self { b } else { self } }
        })*
    };
}

macro_rules! complex {
    ($($t:ty),*) => {
        $(impl Arith for $t {
            const INTEGER: bool = false;
            const ORDERED: bool = false;
            #[inline(always)]
            fn add(self, b: Self) -> Self { self + b }
            #[inline(always)]
            fn sub(self, b: Self) -> Self { self - b }
            #[inline(always)]
            fn mul(self, b: Self) -> Self { self * b }
            #[inline(always)]
            fn div(self, b: Self) -> Self { self / b }
            #[inline(always)]
            fn min(self, _: Self) -> Self { self }
            #[inline(always)]
            fn max(self, _: Self) -> Self { self }
        })*
    };
}

/// Sums are "or" and differences "exclusive or": what is left when C++ turns the sum or difference of two truth values, as
/// numbers, back to one, as TensorFlow does.
impl Arith for bool {
    const INTEGER: bool = true;
    const ORDERED: bool = true;
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self | b
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self ^ b
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self & b
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self & b
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self & b
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self | b
    }
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64);
floats!(f32, f64, f16, bf16);
complex!(Complex<f32>, Complex<f64>);

impl Update {
    /// Fails if these updates cannot be made.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a division of integers by zero; `UNIMPLEMENTED` for the extremes of complex numbers.
    pub fn check<T: Arith>(self, updates: &[T]) -> Result<()> {
        match self {
            Update::Div if T::INTEGER && updates.contains(&T::default()) => {
                Err(Error::invalid("Integer division by zero: the updates contain a zero"))
            }
            Update::Min | Update::Max if !T::ORDERED => {
                Err(Error::unimplemented(format!("{} numbers have no order", T::DTYPE)))
            }
            _ => Ok(()),
        }
    }

    /// Changes every element of `to` by the corresponding one of `by`.
    #[inline]
    pub fn zip<T: Arith>(self, to: &mut [T], by: &[T]) {
        #[inline(always)]
        fn each<T: Arith>(to: &mut [T], by: &[T], f: impl Fn(T, T) -> T) {
            for (a, b) in to.iter_mut().zip(by) {
                *a = f(*a, *b);
            }
        }
        match self {
            Update::Set => to.copy_from_slice(by),
            Update::Add => each(to, by, T::add),
            Update::Sub => each(to, by, T::sub),
            Update::Mul => each(to, by, T::mul),
            Update::Div => each(to, by, T::div),
            Update::Min => each(to, by, T::min),
            Update::Max => each(to, by, T::max),
        }
    }

    /// Changes every element of `to` by the same update.
    #[inline]
    pub fn fill<T: Arith>(self, to: &mut [T], by: T) {
        match self {
            Update::Set => to.fill(by),
            Update::Add => to.iter_mut().for_each(|a| *a = a.add(by)),
            Update::Sub => to.iter_mut().for_each(|a| *a = a.sub(by)),
            Update::Mul => to.iter_mut().for_each(|a| *a = a.mul(by)),
            Update::Div => to.iter_mut().for_each(|a| *a = a.div(by)),
            Update::Min => to.iter_mut().for_each(|a| *a = a.min(by)),
            Update::Max => to.iter_mut().for_each(|a| *a = a.max(by)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_and_refuse_zero_divisors() {
        let mut a = [i32::MIN, 7];
        Update::Div.zip(&mut a, &[-1, 2]);
        assert_eq!(a, [i32::MIN, 3]);
        assert!(Update::Div.check(&[1, 0]).is_err() && Update::Div.check(&[1.0, 0.0]).is_ok());
        assert!(Update::Max.check(&[Complex::new(1f32, 0.)]).is_err());
    }
}
