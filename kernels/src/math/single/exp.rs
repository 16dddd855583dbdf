//! Exponentials and what follows from them with one division.

use crate::math::madd::{Madd, horner};
use std::f32::consts::{LN_2, LOG2_E};

/// Adding this to a value below 2^21 in magnitude leaves its nearest integer in the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has 9 bits, so that its product with an exponent is exact.
const LN2_HI: f32 = 355.0 / 512.0;
const LN2_LO: f32 = -2.121_944_4e-4;

/// The integer nearest to `x` as a float and as an integer, for |x| below 2^21.
#[inline(always)]
fn nearest<M: Madd>(x: f32, scale: f32) -> (f32, i32) {
    let shifted = M::f32(x, scale, ROUNDER);
    (
        shifted - ROUNDER,
        (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32),
    )
}

/// `2^n` for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `x * 2^n` for |n| up to 252, rounded once.
#[inline(always)]
pub(super) fn scale(x: f32, n: i32) -> f32 {
    let half = n >> 1;
    x * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `e^r - 1` for |r| <= 0.35. Relative error of the fit 2^-26.
#[inline(always)]
fn expm1_near_zero<M: Madd>(r: f32) -> f32 {
    let q = horner!(M::f32, r; 0.5, 0.166_665_38, 0.041_666_266, 0.008_367_247, 0.001_394_76);
    M::f32(r * r, q, r)
}

/// `e^(hi + lo) = (1 + t) * 2^n`: returns `t` and `n`. `hi` must lie within ±150 and `lo` be small beside 1.
#[inline(always)]
pub(super) fn reduced<M: Madd>(hi: f32, lo: f32) -> (f32, i32) {
    let (nf, n) = nearest::<M>(hi, LOG2_E);
    let r = M::f32(-nf, LN2_LO, M::f32(-nf, LN2_HI, hi) + lo);
    (expm1_near_zero::<M>(r), n)
}

/// `e^(hi + lo) * 2^shift` for any `hi`, |lo| < 0.01 and |shift| < 20.
#[inline(always)]
pub(super) fn exp_scaled<M: Madd>(hi: f32, lo: f32, shift: i32) -> f32 {
    let hi = if hi > 110.0 { 110.0 } else { hi };
    let hi = if hi < -125.0 { -125.0 } else { hi };
    let (t, n) = reduced::<M>(hi, lo);
    scale(1.0 + t, n.wrapping_add(shift))
}

/// `e^x`.
#[inline(always)]
pub fn exp<M: Madd>(x: f32) -> f32 {
    exp_scaled::<M>(x, 0.0, 0)
}

/// `2^x`.
#[inline(always)]
pub fn exp2<M: Madd>(x: f32) -> f32 {
    let x = if x > 140.0 { 140.0 } else { x };
    let x = if x < -160.0 { -160.0 } else { x };
    let (nf, n) = nearest::<M>(x, 1.0);
    let r = x - nf;
    // (2^r - 1) / r for |r| <= 0.505, error 2^-28.9.
    let q = horner!(M::f32, r; LN_2, 0.240_226_5, 0.055_503_245, 0.009_617_999, 0.001_340_157_7, 0.000_154_777_45);
    scale(M::f32(r, q, 1.0), n)
}

/// `e^x - 1` for x <= 60 (smaller than -20 gives -1, NaN gives NaN), without loss at zero.
#[inline(always)]
fn expm1_bounded<M: Madd>(x: f32) -> f32 {
    let x = if x < -20.0 { -20.0 } else { x };
    let (t, n) = reduced::<M>(x, 0.0);
    let s = power_of_two(n);
    M::f32(s, t, s - 1.0)
}

/// `e^x - 1`, accurate near zero.
#[inline(always)]
pub fn expm1<M: Madd>(x: f32) -> f32 {
    // From 89 on the result overflows.
    let bounded = if x > 89.0 { 89.0 } else { x };
    let bounded = if bounded < -20.0 { -20.0 } else { bounded };
    let (t, n) = reduced::<M>(bounded, 0.0);
    // Half of the result first: 2^n itself overflows for the largest arguments.
    let s = power_of_two(n.wrapping_sub(1));
    let y = 2.0 * M::f32(s, t, s - 0.5);
    // Halving would lose a bit of subnormal arguments, and the sign of zero.
    if x.abs() < 1e-8 { x } else { y }
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let a = if a > 10.0 { 10.0 } else { a };
    let t = expm1_bounded::<M>(a + a);
    (t / (t + 2.0)).copysign(x)
}

/// `1 / (1 + e^-x)`, accurate in both tails.
#[inline(always)]
pub fn sigmoid<M: Madd>(x: f32) -> f32 {
    let e = exp::<M>(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}
