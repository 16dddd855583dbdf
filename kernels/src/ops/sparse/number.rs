//! Arithmetic of sparse elements: what wraps for integers, and rounds once for half floats.
#![forbid(unsafe_code)]

use actorflow_core::dtype::Element;
use half::{bf16, f16};
use num_complex::Complex;

/// A number.
pub(crate) trait Number: Element {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// The quotient; `None` for an integer divided by zero.
    fn over(self, other: Self) -> Option<Self>;
    fn conj(self) -> Self;
    /// The magnitude, for comparison with a threshold.
    fn size(self) -> f64;
}

/// A number that others are greater or less than.
pub(crate) trait Ordered: Number {
    fn above(self, other: Self) -> bool;
    fn to_f64(self) -> f64;
    fn from_f64(x: f64) -> Self;
}

macro_rules! integers {
    ($($t:ty)*) => {
        $(impl Number for $t {
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            fn over(self, other: Self) -> Option<Self> {
                (other != 0).then(|| self.wrapping_div(other))
            }
            fn conj(self) -> Self {
                self
            }
            fn size(self) -> f64 {
                (self as f64).abs()
            }
        }
        impl Ordered for $t {
            fn above(self, other: Self) -> bool {
                self > other
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn from_f64(x: f64) -> Self {
                x as $t
            }
        })*
    };
}

macro_rules! floats {
    ($($t:ty, $wide:expr, $narrow:expr;)*) => {
        $(impl Number for $t {
            fn plus(self, other: Self) -> Self {
                self + other
            }
            fn times(self, other: Self) -> Self {
                self * other
            }
            fn over(self, other: Self) -> Option<Self> {
                Some(self / other)
            }
            fn conj(self) -> Self {
                self
            }
            fn size(self) -> f64 {
                $wide(self).abs()
            }
        }
        impl Ordered for $t {
            fn above(self, other: Self) -> bool {
                self > other
            }
            fn to_f64(self) -> f64 {
                $wide(self)
            }
            fn from_f64(x: f64) -> Self {
                $narrow(x)
            }
        })*
    };
}

macro_rules! complex {
    ($($t:ty)*) => {
        $(impl Number for Complex<$t> {
            fn plus(self, other: Self) -> Self {
                self + other
            }
            fn times(self, other: Self) -> Self {
                self * other
            }
            fn over(self, other: Self) -> Option<Self> {
                Some(self / other)
            }
            fn conj(self) -> Self {
                Complex::conj(&self)
            }
            fn size(self) -> f64 {
                self.norm() as f64
            }
        })*
    };
}

integers!(i8 i16 i32 i64 u8 u16 u32 u64);
floats! {
    f32, f64::from, |x| x as f32;
    f64, f64::from, |x| x;
    f16, f64::from, f16::from_f64;
    bf16, f64::from, bf16::from_f64;
}
complex!(f32 f64);
