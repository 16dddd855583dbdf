//! Functions of f64 beyond the standard library's. See [`super::special`] for gamma, Bessel and further special functions.
#![forbid(unsafe_code)]

use std::f64::consts::FRAC_1_SQRT_2;

pub use libm::{erf, erfc};

/// `1 / sqrt(x)`, each step correctly rounded.
#[inline(always)]
pub fn rsqrt(x: f64) -> f64 {
    1.0 / x.sqrt()
}

/// `1 / (1 + e^-x)`, accurate in both tails.
#[inline]
pub fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// `log(1 + e^x)`, accurate in both tails.
#[inline]
pub fn softplus(x: f64) -> f64 {
    let tail = (-x.abs()).exp().ln_1p();
    (if x < 0.0 { 0.0 } else { x }) + tail
}

/// `x`, or `e^x - 1` below zero.
#[inline]
pub fn elu(x: f64) -> f64 {
    if x < 0.0 { x.exp_m1() } else { x }
}

/// Scaled exponential linear unit with the constants of Klambauer et al. 2017, as TensorFlow's `Selu`.
#[inline]
pub fn selu(x: f64) -> f64 {
    const SCALE: f64 = 1.050_700_987_355_480_5;
    const SCALE_ALPHA: f64 = 1.758_099_340_847_376_8;
    if x < 0.0 { SCALE_ALPHA * x.exp_m1() } else { SCALE * x }
}

/// `x * Phi(x)` with the normal distribution function (Hendrycks and Gimpel 2016).
#[inline]
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// The usual approximation of [`gelu`] by a hyperbolic tangent.
#[inline]
pub fn gelu_tanh(x: f64) -> f64 {
    const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)).tanh())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_tails() {
        assert_eq!(selu(-1.0), -1.111_330_737_812_562_8);
        assert_eq!(selu(2.5), 2.626_752_468_388_701);
        assert_eq!(elu(-1.0), -0.632_120_558_828_557_7);
        assert_eq!(softplus(20.0), 20.000_000_002_061_153);
        assert_eq!(softplus(-100.0), (-100.0_f64).exp());
        assert_eq!(softplus(f64::INFINITY), f64::INFINITY);
        assert_eq!(sigmoid(-700.0), (-700.0_f64).exp());
        assert!((sigmoid(1.0) - 0.731_058_578_630_004_9).abs() < 1e-16);
        assert!((gelu(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((gelu_tanh(1.0) - 0.841_191_990_607_477_3).abs() < 1e-9);
        assert!(sigmoid(f64::NAN).is_nan() && softplus(f64::NAN).is_nan() && elu(f64::NAN).is_nan());
    }
}
