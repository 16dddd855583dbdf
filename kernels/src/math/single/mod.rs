//! Functions of f32, accurate to about one unit in the last place, without branches, calls or tables.
//!
//! Every function takes the multiply-add to use as its type parameter (see [`crate::math::madd`]). All follow IEEE 754 at zeros,
//! subnormals, infinities and NaN. The polynomials are minimax fits made by `kernels/fits/minimax.py` (Remez exchange on the
//! stated interval); the error of each fit is noted beside it.
#![forbid(unsafe_code)]

mod activation;
mod erf;
mod exp;
mod hyperbolic;
mod log;
mod pow;
mod trig;

pub use activation::{elu, gelu, gelu_tanh, selu};
pub use erf::{erf, erfc};
pub use exp::{exp, exp2, expm1, sigmoid, tanh};
pub use hyperbolic::{acosh, asinh, atanh, cosh, sinh, softplus};
pub use log::{log, log1p, log2, xlog1py, xlogy};
pub use pow::pow;
pub use trig::{acos, asin, atan, atan2, cos, covers_angle, sin, tan};

/// `1 / sqrt(x)`, each step correctly rounded.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

#[cfg(test)]
mod tests;
