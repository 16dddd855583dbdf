//! Hyperbolic functions, their inverses and softplus.

use super::exp::{exp, exp_scaled};
use super::log::log1p;
use crate::math::madd::{Madd, horner};
use std::f32::consts::LN_2;

/// Hyperbolic sine.
#[inline(always)]
pub fn sinh<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    // (sinh x - x) / x^3 in x^2 for |x| <= 1, error 2^-34.
    let p = horner!(M::f32, z; 0.166_666_67, 0.008_333_35, 0.000_198_360_66, 2.817_439_5e-6);
    let near = M::f32(x * z, p, x);
    let half = exp_scaled::<M>(a, 0.0, -1);
    let far = (half - 0.25 / half).copysign(x);
    if a < 1.0 { near } else { far }
}

/// Hyperbolic cosine.
#[inline(always)]
pub fn cosh<M: Madd>(x: f32) -> f32 {
    let half = exp_scaled::<M>(x.abs(), 0.0, -1);
    half + 0.25 / half
}

/// Inverse hyperbolic sine.
#[inline(always)]
pub fn asinh<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let z = a * a;
    let big = a > 1e6;
    let near = a + z / (1.0 + (1.0 + z).sqrt());
    let y = log1p::<M>(if big { a } else { near });
    (if big { y + LN_2 } else { y }).copysign(x)
}

/// Inverse hyperbolic cosine; NaN below 1.
#[inline(always)]
pub fn acosh<M: Madd>(x: f32) -> f32 {
    let t = x - 1.0;
    let big = x > 1e6;
    let near = t + (t * (x + 1.0)).sqrt();
    let y = log1p::<M>(if big { x } else { near });
    let y = if big { y + LN_2 } else { y };
    if x < 1.0 { f32::NAN } else { y }
}

/// Inverse hyperbolic tangent; NaN outside [-1, 1], infinite at the ends.
#[inline(always)]
pub fn atanh<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let y = 0.5 * log1p::<M>((a + a) / (1.0 - a));
    // Halving would lose a bit of subnormal arguments.
    if a < 1e-8 { x } else { y.copysign(x) }
}

/// `log(1 + e^x)`, accurate in both tails.
#[inline(always)]
pub fn softplus<M: Madd>(x: f32) -> f32 {
    let tail = log1p::<M>(exp::<M>(-x.abs()));
    (if x < 0.0 { 0.0 } else { x }) + tail
}
