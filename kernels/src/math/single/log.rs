//! Logarithms.

use crate::math::madd::{Madd, horner};
use std::f32::consts::LOG2_E;

const LN2_HI: f32 = 355.0 / 512.0;
const LN2_LO: f32 = -2.121_944_4e-4;
/// Bits of sqrt(1/2): mantissas are taken from the octave that starts there.
const OCTAVE: i32 = 0x3f35_04f3;

/// `log(1 + f) - f` for 1 + f in [sqrt(1/2), sqrt(2)]. Error of the fit relative to the logarithm 2^-27.3.
#[inline(always)]
fn log1p_minus<M: Madd>(f: f32) -> f32 {
    let p = horner!(M::f32, f; 0.333_333_16, -0.250_008_1, 0.200_022_86, -0.166_245_54, 0.141_811_92, -0.131_287_56,
        0.128_816_47, -0.078_596_09);
    let z = f * f;
    M::f32(-0.5, z, f * z * p)
}

/// `x = (1 + f) * 2^e` with 1 + f in [sqrt(1/2), sqrt(2)): the bits of 1 + f and e, for positive normal `x`.
#[inline(always)]
fn split(x: f32) -> (f32, i32) {
    let bits = x.to_bits() as i32;
    let e = bits.wrapping_sub(OCTAVE) >> 23;
    (f32::from_bits(bits.wrapping_sub(e << 23) as u32), e)
}

/// `log(1 + f) + e * ln 2`.
#[inline(always)]
fn log_of<M: Madd>(f: f32, e: f32) -> f32 {
    let y = M::f32(e, LN2_LO, log1p_minus::<M>(f));
    M::f32(e, LN2_HI, f + y)
}

/// Puts the values at 0, below 0, at infinity and for NaN into the result `y` of a logarithm of `x`.
#[inline(always)]
fn edges(x: f32, y: f32) -> f32 {
    let y = if x < f32::INFINITY { y } else { x };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 { f32::NAN } else { y }
}

/// As [`split`], for positive subnormal `x` too; the exponent as a float.
#[inline(always)]
fn split_any(x: f32) -> (f32, f32) {
    let tiny = x < f32::MIN_POSITIVE;
    let (m, e) = split(if tiny { x * 8_388_608.0 } else { x });
    (m, e as f32 - if tiny { 23.0 } else { 0.0 })
}

/// Natural logarithm.
#[inline(always)]
pub fn log<M: Madd>(x: f32) -> f32 {
    let (m, e) = split_any(x);
    edges(x, log_of::<M>(m - 1.0, e))
}

/// Logarithm to base 2.
#[inline(always)]
pub fn log2<M: Madd>(x: f32) -> f32 {
    // log2 e in two parts: the first 1, the second small, so that f itself enters unrounded.
    const REST: f32 = LOG2_E - 1.0;
    let (m, e) = split_any(x);
    let f = m - 1.0;
    let y = log1p_minus::<M>(f);
    let rest = M::f32(f, REST, M::f32(y, LOG2_E, f * 1.925_963e-8));
    edges(x, e + (f + rest))
}

/// `log(1 + x)`, accurate near zero.
#[inline(always)]
pub fn log1p<M: Madd>(x: f32) -> f32 {
    let u = 1.0 + x;
    // What the sum lost.
    let c = if x < 1.0 { x - (u - 1.0) } else { 1.0 - (u - x) };
    let (m, e) = split(u);
    let scale = f32::from_bits((127_i32.wrapping_sub(e) as u32) << 23);
    // Beyond 2^100 the scale would be subnormal, and nothing was lost that matters.
    let c = if x < 1e30 { c * scale } else { 0.0 };
    let y = log_of::<M>((m - 1.0) + c, e as f32);
    let y = edges(u, y);
    if x.abs() < 1e-8 { x } else { y }
}

/// `x * log(y)`, but `x` where it is 0, even if `y` is NaN.
#[inline(always)]
pub fn xlogy<M: Madd>(x: f32, y: f32) -> f32 {
    let product = x * log::<M>(y);
    if x == 0.0 { x } else { product }
}

/// `x * log(1 + y)`, but `x` where it is 0, even if `y` is NaN.
#[inline(always)]
pub fn xlog1py<M: Madd>(x: f32, y: f32) -> f32 {
    let product = x * log1p::<M>(y);
    if x == 0.0 { x } else { product }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::madd::Fused;

    #[test]
    fn the_octave_of_mantissas_is_around_one() {
        for x in [1.0_f32, 1.41, 1.42, 0.708, 0.707, 3.0e38, 1.2e-38] {
            let (m, e) = split(x);
            assert!((0.707..1.415).contains(&m), "{x}: {m}");
            assert_eq!(m as f64 * (e as f64).exp2(), x as f64);
        }
        assert_eq!(log::<Fused>(1.0), 0.0);
    }

    #[test]
    fn zero_times_a_logarithm_is_zero() {
        assert_eq!((xlogy::<Fused>(0.0, f32::NAN), xlog1py::<Fused>(0.0, -2.0)), (0.0, 0.0));
        assert_eq!(xlogy::<Fused>(2.0, 0.0), f32::NEG_INFINITY);
        assert!(xlogy::<Fused>(f32::NAN, 1.0).is_nan() && xlog1py::<Fused>(1.0, -1.5).is_nan());
    }
}
