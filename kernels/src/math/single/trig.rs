//! Trigonometric functions and their inverses.
//!
//! Sine, cosine and tangent reduce and evaluate in f64: the quarter turns are then removed from any argument up to
//! [`covers_angle`]'s limit with two constants and without rounding that could be seen in f32.

use crate::math::madd::{Madd, horner};
use std::f32::consts::{FRAC_PI_2, PI};
use std::f64::consts::FRAC_2_PI;

/// What pi/2 and pi lose in f32.
const HALF_REST: f32 = -4.371_139e-8;
const REST: f32 = -8.742_278e-8;

/// Whether [`sin`], [`cos`] and [`tan`] are right for `x`: |x| below 2^27, and infinities and NaN, for which they give NaN.
#[inline(always)]
pub fn covers_angle(x: f32) -> bool {
    let a = x.abs();
    (a <= 134_217_728.0) | (a == f32::INFINITY) | x.is_nan()
}

/// The sine and cosine of the rest of `x` after whole quarter turns, and the number of those modulo 4 (in the low two bits).
#[inline(always)]
fn quarter_turns<M: Madd>(x: f32) -> (f64, f64, u64) {
    /// Adding this leaves the nearest integer in the low bits of the sum.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    /// pi / 2 in two parts, the first short enough for exact products.
    const HI: f64 = 1.570_796_310_901_641_8;
    const LO: f64 = 1.589_325_477_352_819_6e-8;
    let x = x as f64;
    let shifted = M::f64(x, FRAC_2_PI, ROUNDER);
    let n = shifted - ROUNDER;
    let r = M::f64(-n, LO, M::f64(-n, HI, x));
    let z = r * r;
    // |r| <= pi/4: relative errors 2^-37 and 2^-43.
    let s = horner!(M::f64, z; -0.166_666_666_414_265_1, 0.008_333_329_362_278_817, -0.000_198_393_271_360_806_22,
        2.718_237_272_544_422_6e-6);
    let c = horner!(M::f64, z; 0.041_666_666_622_477_214, -0.001_388_888_372_263_697_3, 2.479_951_176_698_775_5e-5,
        -2.720_954_798_173_19e-7);
    (
        M::f64(r * z, s, r),
        M::f64(z * z, c, M::f64(z, -0.5, 1.0)),
        shifted.to_bits(),
    )
}

/// Sine.
#[inline(always)]
pub fn sin<M: Madd>(x: f32) -> f32 {
    let (s, c, n) = quarter_turns::<M>(x);
    let y = if n & 1 == 0 { s } else { c };
    let y = f64::from_bits(y.to_bits() ^ ((n & 2) << 62)) as f32;
    // Keeps -0 and subnormals as they are.
    if x.abs() < 1e-5 { x } else { y }
}

/// Cosine.
#[inline(always)]
pub fn cos<M: Madd>(x: f32) -> f32 {
    let (s, c, n) = quarter_turns::<M>(x);
    let y = if n & 1 == 0 { c } else { s };
    f64::from_bits(y.to_bits() ^ ((n.wrapping_add(1) & 2) << 62)) as f32
}

/// Tangent.
#[inline(always)]
pub fn tan<M: Madd>(x: f32) -> f32 {
    let (s, c, n) = quarter_turns::<M>(x);
    let (p, q) = if n & 1 == 0 { (s, c) } else { (-c, s) };
    let y = (p / q) as f32;
    if x.abs() < 1e-5 { x } else { y }
}

/// Arc tangent of `a` in [0, 1].
#[inline(always)]
fn atan_unit<M: Madd>(a: f32) -> f32 {
    let z = a * a;
    // (atan a - a) / a^3 in a^2, error relative to the result 2^-26.
    let p = horner!(M::f32, z; -0.333_331_67, 0.199_941_37, -0.142_142_1, 0.106_789_42, -0.075_805_806, 0.043_553_57,
        -0.016_581_202, 0.002_974_594_5);
    M::f32(a * z, p, a)
}

/// Arc tangent.
#[inline(always)]
pub fn atan<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let steep = a > 1.0;
    let y = atan_unit::<M>(if steep { 1.0 / a } else { a });
    (if steep { FRAC_PI_2 - (y - HALF_REST) } else { y }).copysign(x)
}

/// Angle of the point (x, y) in (-pi, pi], with IEEE 754's values at zeros and infinities.
#[inline(always)]
pub fn atan2<M: Madd>(y: f32, x: f32) -> f32 {
    let (ay, ax) = (y.abs(), x.abs());
    let steep = ay > ax;
    let (num, den) = if steep { (ax, ay) } else { (ay, ax) };
    let q = num / den;
    // 0/0 and inf/inf: the quotient is 0 for both zero, 1 for both infinite.
    let q = if num == den {
        if num == 0.0 { 0.0 } else { 1.0 }
    } else {
        q
    };
    let t = atan_unit::<M>(q);
    let t = if steep { FRAC_PI_2 - (t - HALF_REST) } else { t };
    let t = if x.is_sign_negative() { PI - (t - REST) } else { t };
    let t = t.copysign(y);
    if x.is_nan() | y.is_nan() { f32::NAN } else { t }
}

/// `asin(a) - a` over `a` for a in [0, 1/2], from a^2. Error relative to the arc sine 2^-27.6.
#[inline(always)]
fn asin_tail<M: Madd>(z: f32) -> f32 {
    z * horner!(M::f32, z; 0.166_667_54, 0.074_952_33, 0.045_478_34, 0.024_140_993, 0.042_230_54)
}

/// Arc sine; NaN outside [-1, 1].
#[inline(always)]
pub fn asin<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let steep = a > 0.5;
    let z = if steep { M::f32(-0.5, a, 0.5) } else { a * a };
    let b = if steep { z.sqrt() } else { a };
    let y = M::f32(b, asin_tail::<M>(z), b);
    (if steep { (FRAC_PI_2 - (y + y)) + HALF_REST } else { y }).copysign(x)
}

/// Arc cosine; NaN outside [-1, 1].
#[inline(always)]
pub fn acos<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let steep = a > 0.5;
    let z = if steep { M::f32(-0.5, a, 0.5) } else { a * a };
    let b = if steep { z.sqrt() } else { x };
    let y = M::f32(b, asin_tail::<M>(z), b);
    let far = if x < 0.0 { PI - (y + y) } else { y + y };
    if steep { far } else { FRAC_PI_2 - y }
}
