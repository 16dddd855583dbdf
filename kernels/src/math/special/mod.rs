//! Special functions in f64: gamma, zeta, incomplete gamma and beta, Bessel, normal quantile, and a few integrals.
//!
//! Each has the domain and the special values of TensorFlow's op of the same name; where TensorFlow gives NaN at an infinity only
//! because its formula multiplies 0 by infinity, the limit is given. For f32, compute in f64 and round. The Chebyshev series were
//! made by `kernels/fits/chebyshev.py`.
#![forbid(unsafe_code)]

mod bessel;
mod gamma;
mod incomplete;
mod integrals;
mod quantile;

pub use bessel::{i0, i0e, i1, i1e, j0, j1, k0, k0e, k1, k1e, y0, y1};
pub use gamma::{digamma, lgamma, polygamma, zeta};
pub use incomplete::{betainc, igamma, igamma_grad_a, igammac};
pub use integrals::{dawsn, expint, fresnel_cos, fresnel_sin, spence};
pub use quantile::{erfinv, ndtri};

/// The sum of `c[k] T_k(t)` with `x` in [a, b] mapped to `t` in [-1, 1] (Clenshaw's recurrence).
fn chebyshev(c: &[f64], a: f64, b: f64, x: f64) -> f64 {
    let t = 2.0 * ((x - a) - (b - x)) / (b - a);
    let (mut u, mut v) = (0.0, 0.0);
    for k in c[1..].iter().rev() {
        (u, v) = (t * u - v + k, u);
    }
    0.5 * t * u - v + c[0]
}

#[cfg(test)]
mod tests;
