//! Activation functions that need an exponential. Those that do not are in [`crate::math::real`].

use super::{erf, exp::expm1, tanh};
use crate::math::madd::Madd;
use std::f32::consts::FRAC_1_SQRT_2;

/// `x`, or `e^x - 1` below zero.
#[inline(always)]
pub fn elu<M: Madd>(x: f32) -> f32 {
    let y = expm1::<M>(x);
    if x < 0.0 { y } else { x }
}

/// Scaled exponential linear unit with the constants of Klambauer et al. 2017, as TensorFlow's `Selu`.
#[inline(always)]
pub fn selu<M: Madd>(x: f32) -> f32 {
    const SCALE: f32 = 1.050_701;
    const SCALE_ALPHA: f32 = 1.758_099_3;
    let y = SCALE_ALPHA * expm1::<M>(x);
    if x < 0.0 { y } else { SCALE * x }
}

/// `x * Phi(x)` with the normal distribution function (Hendrycks and Gimpel 2016).
#[inline(always)]
pub fn gelu<M: Madd>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<M>(x * FRAC_1_SQRT_2))
}

/// The usual approximation of [`gelu`] by a hyperbolic tangent.
#[inline(always)]
pub fn gelu_tanh<M: Madd>(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh::<M>(SQRT_2_OVER_PI * M::f32(0.044_715 * x * x, x, x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::madd::Fused;

    #[test]
    fn known_values() {
        assert_eq!((elu::<Fused>(2.0), elu::<Fused>(-1.0)), (2.0, -0.632_120_55));
        assert!((selu::<Fused>(-1.0) + 1.111_330_7).abs() < 2e-7);
        assert!((selu::<Fused>(2.5) - 2.626_752_6).abs() < 4e-7);
        assert!((gelu::<Fused>(1.0) - 0.841_344_7).abs() < 2e-7);
        assert!((gelu_tanh::<Fused>(1.0) - 0.841_192).abs() < 2e-7);
        assert!(elu::<Fused>(f32::NAN).is_nan() && selu::<Fused>(f32::NAN).is_nan());
    }
}
