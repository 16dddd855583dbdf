//! Element-wise functions of floating-point numbers as TensorFlow defines them, for f32 and f64 alike.
//!
//! All are branch-free unless said otherwise, so that they suit wide loops. `floor`, `ceil`, `abs` and `sqrt` are the standard
//! library's; TensorFlow's `Rint` and its `Round` are both `round_ties_even`.
#![forbid(unsafe_code)]

use std::ops::{Add, Div, Mul, Rem, Sub};

/// f32 or f64.
pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Rem<Output = Self>
    + Default
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// 6.
    const SIX: Self;
    /// Not a number.
    const NAN: Self;
    /// The greatest integer not above.
    fn floor(self) -> Self;
    /// Magnitude.
    fn abs(self) -> Self;
    /// Natural logarithm, by the standard library.
    fn ln(self) -> Self;
    /// `ln(1 + x)`, by the standard library.
    fn ln_1p(self) -> Self;
    /// The next value towards infinity.
    fn next_up(self) -> Self;
    /// The next value towards minus infinity.
    fn next_down(self) -> Self;
}

macro_rules! real {
    ($($t:ident),*) => {
        $(impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const SIX: Self = 6.0;
            const NAN: Self = $t::NAN;
            #[inline(always)]
            fn floor(self) -> Self {
                $t::floor(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $t::abs(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                $t::ln(self)
            }
            #[inline(always)]
            fn ln_1p(self) -> Self {
                $t::ln_1p(self)
            }
            #[inline(always)]
            fn next_up(self) -> Self {
                $t::next_up(self)
            }
            #[inline(always)]
            fn next_down(self) -> Self {
                $t::next_down(self)
            }
        })*
    };
}
real!(f32, f64);

/// Whether `x` is not a number.
#[inline(always)]
#[allow(clippy::eq_op)]
pub fn is_nan<T: Real>(x: T) -> bool {
    x != x
}

/// TensorFlow's `Maximum`: NaN if either operand is; of two zeros the second.
#[inline(always)]
pub fn maximum<T: Real>(x: T, y: T) -> T {
    let m = if x > y { x } else { y };
    if is_nan(x) { x } else { m }
}

/// TensorFlow's `Minimum`: NaN if either operand is; of two zeros the second.
#[inline(always)]
pub fn minimum<T: Real>(x: T, y: T) -> T {
    let m = if x < y { x } else { y };
    if is_nan(x) { x } else { m }
}

/// -1, 0 or 1; NaN stays. Either zero gives +0.
#[inline(always)]
pub fn sign<T: Real>(x: T) -> T {
    let s = if x > T::ZERO { T::ONE } else { T::ZERO };
    let s = if x < T::ZERO { T::ZERO - T::ONE } else { s };
    if is_nan(x) { x } else { s }
}

/// `(x - y)^2`.
#[inline(always)]
pub fn squared_difference<T: Real>(x: T, y: T) -> T {
    let d = x - y;
    d * d
}

/// `x / y`, but 0 where `y` is 0, whatever `x` is.
#[inline(always)]
pub fn div_no_nan<T: Real>(x: T, y: T) -> T {
    if y == T::ZERO { T::ZERO } else { x / y }
}

/// `x * y`, but 0 where `y` is 0, even if `x` is infinite or NaN.
#[inline(always)]
pub fn mul_no_nan<T: Real>(x: T, y: T) -> T {
    if y == T::ZERO { T::ZERO } else { x * y }
}

/// `x / y`, but `x` where it is 0, even if `y` is 0 or NaN.
#[inline(always)]
pub fn xdivy<T: Real>(x: T, y: T) -> T {
    if x == T::ZERO { x } else { x / y }
}

/// `x * ln(y)`, but `x` where it is 0. Calls the standard library.
#[inline(always)]
pub fn xlogy<T: Real>(x: T, y: T) -> T {
    if x == T::ZERO { x } else { x * y.ln() }
}

/// `x * ln(1 + y)`, but `x` where it is 0. Calls the standard library.
#[inline(always)]
pub fn xlog1py<T: Real>(x: T, y: T) -> T {
    if x == T::ZERO { x } else { x * y.ln_1p() }
}

/// TensorFlow's `FloorDiv`: `floor(x / y)`.
#[inline(always)]
pub fn floor_div<T: Real>(x: T, y: T) -> T {
    (x / y).floor()
}

/// The remainder with the sign of `x` (TensorFlow's `TruncateMod` and `Mod`). Calls the library.
#[inline(always)]
pub fn truncate_mod<T: Real>(x: T, y: T) -> T {
    x % y
}

/// The remainder with the sign of `y` (TensorFlow's `FloorMod`). Calls the library.
#[inline(always)]
pub fn floor_mod<T: Real>(x: T, y: T) -> T {
    let r = x % y;
    if r != T::ZERO && (y < T::ZERO) != (r < T::ZERO) {
        r + y
    } else {
        r
    }
}

/// The value next to `x` in the direction of `y`; `y` where they are equal, NaN where one is.
#[inline(always)]
pub fn next_after<T: Real>(x: T, y: T) -> T {
    if is_nan(x) || is_nan(y) {
        T::NAN
    } else if x == y {
        y
    } else if x < y {
        x.next_up()
    } else {
        x.next_down()
    }
}

/// `max(x, 0)`; NaN stays.
#[inline(always)]
pub fn relu<T: Real>(x: T) -> T {
    // One comparison: NaN is not at or below zero.
    if x <= T::ZERO { T::ZERO } else { x }
}

/// `min(max(x, 0), 6)`; NaN stays.
#[inline(always)]
pub fn relu6<T: Real>(x: T) -> T {
    let y = if x <= T::ZERO { T::ZERO } else { x };
    if y > T::SIX { T::SIX } else { y }
}

/// `x`, or `slope * x` below zero.
#[inline(always)]
pub fn leaky_relu<T: Real>(x: T, slope: T) -> T {
    if x > T::ZERO { x } else { x * slope }
}

/// `x / (1 + |x|)`; NaN at infinity, as in TensorFlow.
#[inline(always)]
pub fn softsign<T: Real>(x: T) -> T {
    x / (T::ONE + x.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    #[test]
    fn maximum_and_minimum_pass_nan_on() {
        for f in [maximum::<f64>, minimum] {
            assert!(f(f64::NAN, 1.0).is_nan() && f(1.0, f64::NAN).is_nan());
        }
        assert_eq!((maximum(1.0, 2.0), minimum(1.0, 2.0)), (2.0, 1.0));
        assert!(maximum(0.0, -0.0_f64).is_sign_negative() && maximum(-0.0, 0.0_f64).is_sign_positive());
    }

    #[test]
    fn guarded_operations_give_zero_where_tensorflow_does() {
        assert_eq!(div_no_nan(f64::NAN, 0.0), 0.0);
        assert_eq!(div_no_nan(3.0, 2.0), 1.5);
        assert_eq!(mul_no_nan(INF, 0.0), 0.0);
        assert!(mul_no_nan(0.0, INF).is_nan());
        assert_eq!(xdivy(0.0, f64::NAN), 0.0);
        assert_eq!(xlogy(0.0, -1.0), 0.0);
        assert_eq!(xlogy(2.0, 0.0), -INF);
        assert_eq!(xlog1py(0.0, -2.0), 0.0);
        assert_eq!(xlog1py(1.0, 1.0), std::f64::consts::LN_2);
    }

    #[test]
    fn floor_mod_takes_the_sign_of_the_divisor() {
        assert_eq!(floor_mod(-1.0, 2.5), 1.5);
        assert_eq!(floor_mod(1.0, -2.5), -1.5);
        assert_eq!(floor_mod(-1.0, INF), INF);
        assert!(floor_mod(-0.0_f64, 3.0).is_sign_negative());
        assert_eq!((truncate_mod(-7.0, 3.0), floor_div(-7.0, 3.0)), (-1.0, -3.0));
    }

    #[test]
    fn next_after_steps_over_zero_and_keeps_equal_values() {
        assert_eq!(next_after(0.0_f32, -1.0), -f32::from_bits(1));
        assert!(next_after(0.0_f32, -0.0).is_sign_negative());
        assert_eq!(next_after(f32::INFINITY, 0.0), f32::MAX);
        assert!(next_after(1.0, f64::NAN).is_nan());
    }

    #[test]
    fn rectifiers_keep_nan() {
        assert!(relu(f32::NAN).is_nan() && relu6(f32::NAN).is_nan() && sign(f32::NAN).is_nan());
        assert_eq!((relu(-2.0), relu6(9.0), leaky_relu(-2.0, 0.25)), (0.0, 6.0, -0.5));
        assert!(sign(-0.0_f64).is_sign_positive() && relu(-0.0_f64).is_sign_positive());
        assert!(softsign(INF).is_nan());
    }
}
