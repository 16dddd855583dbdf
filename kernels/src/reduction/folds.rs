//! The operations that tensors are folded with.

use std::marker::PhantomData;

use num_complex::Complex;

use super::Fold;

/// The sum; integers wrap.
pub struct Sum<T>(PhantomData<T>);
/// The product; integers wrap.
pub struct Product<T>(PhantomData<T>);
/// The largest element, or NaN if there is one; the least value of the type for none.
pub struct Largest<T>(PhantomData<T>);
/// The smallest element, or NaN if there is one; the greatest value of the type for none.
pub struct Smallest<T>(PhantomData<T>);
/// Whether all are true.
pub struct And;
/// Whether one is true.
pub struct Or;

macro_rules! arithmetic {
    ($($t:ty, $wide:literal, $zero:expr, $one:expr, |$a:ident, $b:ident| $sum:expr, $product:expr;)*) => {
        $(impl Fold for Sum<$t> {
            type T = $t;
            const WIDE: bool = $wide;
            #[inline(always)]
            fn start() -> $t {
                $zero
            }
            #[inline(always)]
            fn join($a: $t, $b: $t) -> $t {
                $sum
            }
        }
        impl Fold for Product<$t> {
            type T = $t;
            const WIDE: bool = false;
            #[inline(always)]
            fn start() -> $t {
                $one
            }
            #[inline(always)]
            fn join($a: $t, $b: $t) -> $t {
                $product
            }
        })*
    };
}

arithmetic! {
    f32, true, 0.0, 1.0, |a, b| a + b, a * b;
    f64, true, 0.0, 1.0, |a, b| a + b, a * b;
    i32, true, 0, 1, |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    i64, true, 0, 1, |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    Complex<f32>, false, Complex::new(0.0, 0.0), Complex::new(1.0, 0.0), |a, b| a + b, a * b;
    Complex<f64>, false, Complex::new(0.0, 0.0), Complex::new(1.0, 0.0), |a, b| a + b, a * b;
}

macro_rules! extremes {
    ($($t:ty, $wide:literal, $low:expr, $high:expr, |$x:ident| $nan:expr;)*) => {
        $(impl Fold for Largest<$t> {
            type T = $t;
            const WIDE: bool = $wide;
            #[inline(always)]
            fn start() -> $t {
                $low
            }
            #[inline(always)]
            fn join($x: $t, b: $t) -> $t {
                // A NaN on the right makes the comparison false, one on the left is kept by name.
                if ($x > b) | $nan { $x } else { b }
            }
        }
        impl Fold for Smallest<$t> {
            type T = $t;
            const WIDE: bool = $wide;
            #[inline(always)]
            fn start() -> $t {
                $high
            }
            #[inline(always)]
            fn join($x: $t, b: $t) -> $t {
                if ($x < b) | $nan { $x } else { b }
            }
        })*
    };
}

extremes! {
    f32, true, f32::NEG_INFINITY, f32::INFINITY, |x| x.is_nan();
    f64, true, f64::NEG_INFINITY, f64::INFINITY, |x| x.is_nan();
    i32, true, i32::MIN, i32::MAX, |x| false;
    i64, false, i64::MIN, i64::MAX, |x| false;
    u64, false, u64::MIN, u64::MAX, |x| false;
}

macro_rules! logic {
    ($($name:ident $start:literal |$a:ident, $b:ident| $join:expr;)*) => {
        $(impl Fold for $name {
            type T = bool;
            const WIDE: bool = false;
            #[inline(always)]
            fn start() -> bool {
                $start
            }
            #[inline(always)]
            fn join($a: bool, $b: bool) -> bool {
                $join
            }
        })*
    };
}

logic! {
    And true |a, b| a & b;
    Or false |a, b| a | b;
}
