//! Functions of complex numbers, with the branch cuts and the limits of C99 (annex G): signed zeros tell the sides of a cut
//! apart, and nothing overflows that has a finite value.
//!
//! Source: W. Kahan, Branch Cuts for Complex Elementary Functions, 1987. All is computed in double precision.
#![forbid(unsafe_code)]

use std::f64::consts::{FRAC_PI_2, LN_2};

use num_complex::Complex;

type Z = Complex<f64>;

/// A real or an imaginary part.
pub trait Part: Copy {
    /// In double precision.
    fn wide(self) -> f64;
    /// Rounded from double precision.
    fn narrow(x: f64) -> Self;
}

impl Part for f32 {
    fn wide(self) -> f64 {
        self.into()
    }
    fn narrow(x: f64) -> f32 {
        x as f32
    }
}

impl Part for f64 {
    fn wide(self) -> f64 {
        self
    }
    fn narrow(x: f64) -> f64 {
        x
    }
}

/// Beyond this, squares come close to overflow.
const LARGE: f64 = f64::MAX / 4.0;

/// The square root of `LARGE`, about.
const ROOT_LARGE: f64 = 6.703_903_964_971_298_5e153;

/// The square root of the smallest normal number.
const ROOT_TINY: f64 = 1.491_668_146_240_041_3e-154;

/// From here on, tanh is ±1 in double precision.
const FLAT: f64 = 22.0;

/// sinh x · cos y + i cosh x · sin y, where an infinite x meets a y of zero.
fn product(re: f64, re_of: f64, im: f64, im_of: f64) -> Z {
    let times = |a: f64, b: f64| if b == 0.0 { b * a.signum() } else { a * b };
    Z::new(times(re, re_of), times(im, im_of))
}

fn sinh_z(z: Z) -> Z {
    let (s, c) = z.im.sin_cos();
    if z.re.abs() > 709.0 && z.re.is_finite() && z.im.is_finite() {
        // e^|x| / 2 overflows before its product with a small sine does.
        let half = (z.re.abs() / 2.0).exp();
        return Z::new((half * c / 2.0 * half).copysign(z.re * c), half * s / 2.0 * half);
    }
    product(z.re.sinh(), c, z.re.cosh(), s)
}

fn cosh_z(z: Z) -> Z {
    let (s, c) = z.im.sin_cos();
    if z.re.abs() > 709.0 && z.re.is_finite() && z.im.is_finite() {
        let half = (z.re.abs() / 2.0).exp();
        return Z::new(half * c / 2.0 * half, (half * s / 2.0 * half).copysign(z.re * s));
    }
    product(z.re.cosh(), c, z.re.sinh(), s)
}

fn tanh_z(z: Z) -> Z {
    if !z.re.is_finite() || !z.im.is_finite() {
        return tanh_at_the_edge(z);
    }
    if z.re.abs() >= FLAT {
        let (s, c) = z.im.sin_cos();
        let small = (-z.re.abs()).exp();
        return Z::new(1f64.copysign(z.re), 4.0 * s * c * small * small);
    }
    // With t = tan y and s = sinh x, without a difference of large numbers.
    let (t, s) = (z.im.tan(), z.re.sinh());
    let beta = 1.0 + t * t;
    let rho = (1.0 + s * s).sqrt();
    let below = 1.0 + beta * s * s;
    Z::new(beta * rho * s / below, t / below)
}

fn tanh_at_the_edge(z: Z) -> Z {
    if z.re.is_infinite() {
        let sign = if z.im.is_finite() { (2.0 * z.im).sin() } else { 1.0 };
        return Z::new(1f64.copysign(z.re), 0f64.copysign(sign));
    }
    if z.re.is_nan() && z.im == 0.0 {
        return z;
    }
    if z.re == 0.0 {
        return Z::new(z.re, f64::NAN);
    }
    Z::new(f64::NAN, f64::NAN)
}

fn sqrt_z(z: Z) -> Z {
    if z.re == 0.0 && z.im == 0.0 {
        return Z::new(0.0, z.im);
    }
    // Half of |z| + |x|, without underflow of what is tiny.
    let scale = if z.re.abs().max(z.im.abs()) < 1e-290 {
        2f64.powi(108)
    } else {
        1.0
    };
    let (x, y) = (z.re * scale, z.im * scale);
    let t = ((x.abs() / 2.0) + x.hypot(y) / 2.0).sqrt();
    let (big, small) = (t / scale.sqrt(), (y.abs() / (2.0 * t)) / scale.sqrt());
    if z.re >= 0.0 {
        Z::new(big, small.copysign(z.im))
    } else {
        Z::new(small, big.copysign(z.im))
    }
}

/// log(2 |z|) of a large z.
fn log_of_twice(z: Z) -> f64 {
    (z.re / 2.0).hypot(z.im / 2.0).ln() + 2.0 * LN_2
}

fn is_large(z: Z) -> bool {
    z.re.abs() > LARGE || z.im.abs() > LARGE
}

fn asinh_z(z: Z) -> Z {
    if is_large(z) {
        return Z::new(log_of_twice(z).copysign(z.re), z.im.atan2(z.re.abs()));
    }
    let a = sqrt_z(Z::new(1.0 + z.im, -z.re));
    let b = sqrt_z(Z::new(1.0 - z.im, z.re));
    Z::new(
        (a.re * b.im - b.re * a.im).asinh(),
        z.im.atan2(a.re * b.re - a.im * b.im),
    )
}

fn acosh_z(z: Z) -> Z {
    if is_large(z) {
        return Z::new(log_of_twice(z), z.im.atan2(z.re));
    }
    let a = sqrt_z(Z::new(z.re - 1.0, z.im));
    let b = sqrt_z(Z::new(z.re + 1.0, z.im));
    Z::new((a.re * b.re + a.im * b.im).asinh(), 2.0 * a.im.atan2(b.re))
}

fn acos_z(z: Z) -> Z {
    if is_large(z) {
        let l = log_of_twice(z);
        return Z::new(z.im.abs().atan2(z.re), -l.copysign(z.im));
    }
    let a = sqrt_z(Z::new(1.0 - z.re, -z.im));
    let b = sqrt_z(Z::new(1.0 + z.re, z.im));
    Z::new(2.0 * a.re.atan2(b.re), (b.re * a.im - b.im * a.re).asinh())
}

fn atanh_z(z: Z) -> Z {
    if z.re.is_sign_negative() {
        return -atanh_z(-z);
    }
    let y = z.im.abs();
    if z.re > ROOT_LARGE || y > ROOT_LARGE {
        let h = (z.re / 2.0).hypot(z.im / 2.0);
        let re = if h.is_infinite() { 0.0 } else { z.re / 4.0 / h / h };
        return Z::new(re, FRAC_PI_2.copysign(z.im));
    }
    if z.re == 1.0 && y < ROOT_TINY {
        if y == 0.0 {
            return Z::new(f64::INFINITY, z.im);
        }
        let re = -(y.sqrt() / y.hypot(2.0).sqrt()).ln();
        return Z::new(re, (2f64.atan2(-y) / 2.0).copysign(z.im));
    }
    let less = 1.0 - z.re;
    Z::new(
        (4.0 * z.re / (less * less + y * y)).ln_1p() / 4.0,
        -(-2.0 * z.im).atan2(less * (1.0 + z.re) - y * y) / 2.0,
    )
}

/// f(iz), for the functions of an angle in terms of the hyperbolic ones.
fn turned(z: Z) -> Z {
    Z::new(-z.im, z.re)
}

/// -i z.
fn turned_back(z: Z) -> Z {
    Z::new(z.im, -z.re)
}

fn log1p_z(z: Z) -> Z {
    // log |1 + z|² = log(1 + 2x + |z|²), which keeps small z exact; near -1 it would cancel.
    let re = if z.re.abs() < 0.5 && z.im.abs() < 1.0 {
        0.5 * (z.re * (2.0 + z.re) + z.im * z.im).ln_1p()
    } else {
        (1.0 + z.re).hypot(z.im).ln()
    };
    Z::new(re, z.im.atan2(1.0 + z.re))
}

fn expm1_z(z: Z) -> Z {
    let (s, c) = z.im.sin_cos();
    let half = (z.im / 2.0).sin();
    if z.im == 0.0 {
        return Z::new(z.re.exp_m1(), z.im);
    }
    Z::new(z.re.exp_m1() * c - 2.0 * half * half, z.re.exp() * s)
}

fn sigmoid_z(z: Z) -> Z {
    // The exponential of what has a negative real part never overflows.
    if z.re >= 0.0 {
        ((-z).exp() + 1.0).inv()
    } else {
        let e = z.exp();
        e / (e + 1.0)
    }
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = |$z:ident| $value:expr;)*) => {
        $($(#[$doc])*
        pub fn $name<T: Part>(z: Complex<T>) -> Complex<T> {
            let $z = Z::new(z.re.wide(), z.im.wide());
            let value: Z = $value;
            Complex::new(T::narrow(value.re), T::narrow(value.im))
        })*
    };
}

functions! {
    /// The hyperbolic sine.
    sinh = |z| sinh_z(z);
    /// The hyperbolic cosine.
    cosh = |z| cosh_z(z);
    /// The hyperbolic tangent.
    tanh = |z| tanh_z(z);
    /// The number whose hyperbolic sine is z; cut along the imaginary axis beyond ±i.
    asinh = |z| asinh_z(z);
    /// The number whose hyperbolic cosine is z; cut along the real axis below 1.
    acosh = |z| acosh_z(z);
    /// The number whose hyperbolic tangent is z; cut along the real axis beyond ±1.
    atanh = |z| atanh_z(z);
    /// The sine.
    sin = |z| turned_back(sinh_z(turned(z)));
    /// The cosine.
    cos = |z| cosh_z(turned(z));
    /// The tangent.
    tan = |z| turned_back(tanh_z(turned(z)));
    /// The angle whose sine is z; cut along the real axis beyond ±1.
    asin = |z| turned_back(asinh_z(turned(z)));
    /// The angle whose cosine is z; cut along the real axis beyond ±1.
    acos = |z| acos_z(z);
    /// The angle whose tangent is z; cut along the imaginary axis beyond ±i.
    atan = |z| turned_back(atanh_z(turned(z)));
    /// The logarithm of 1 + z, without loss near zero.
    log1p = |z| log1p_z(z);
    /// e to the power z, less 1, without loss near zero.
    expm1 = |z| expm1_z(z);
    /// 1 / (1 + e⁻ᶻ).
    sigmoid = |z| sigmoid_z(z);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: Z, want: Z, what: &str) {
        let part = |a: f64, b: f64| {
            (a - b).abs() <= 1e-13 * b.abs().max(1e-300)
                || (a == b)
                || (a.is_nan() && b.is_nan())
                || (a - b).abs() < 1e-15
        };
        assert!(
            part(got.re, want.re) && part(got.im, want.im),
            "{what}: {got}, want {want}"
        );
    }

    /// Values of C's functions (glibc), at ordinary points, far out, and on both sides of the cuts.
    #[test]
    fn they_are_those_of_c99() {
        let z = Z::new;
        near(tanh(z(-50.0, 0.0)), z(-1.0, 0.0), "tanh -50");
        near(
            tanh(z(0.5, -0.25)),
            z(0.485_487_281_024_135_3, -0.198_055_449_951_349_58),
            "tanh",
        );
        near(tan(z(0.0, 100.0)), z(0.0, 1.0), "tan 100i");
        near(sigmoid(z(-1000.0, 1.0)), z(0.0, 0.0), "sigmoid -1000");
        near(acos(z(30.0, 0.0)), z(0.0, -4.094_066_668_632_085), "acos 30");
        near(acos(z(30.0, -0.0)), z(0.0, 4.094_066_668_632_085), "acos 30 - 0i");
        near(atanh(z(30.0, 0.0)), z(0.033_345_687_249_336_106, FRAC_PI_2), "atanh 30");
        near(
            atanh(z(30.0, -0.0)),
            z(0.033_345_687_249_336_106, -FRAC_PI_2),
            "atanh 30 - 0i",
        );
        near(
            asinh(z(0.0, -2.5)),
            z(1.566_799_236_972_411_1, -FRAC_PI_2),
            "asinh -2.5i",
        );
        near(
            asinh(z(-0.0, -2.5)),
            z(-1.566_799_236_972_411_1, -FRAC_PI_2),
            "asinh -0 - 2.5i",
        );
        near(
            acosh(z(-2.0, 0.0)),
            z(1.316_957_896_924_816_6, std::f64::consts::PI),
            "acosh -2",
        );
        near(asin(z(0.0, 1e10)), z(0.0, 23.718_998_110_500_4), "asin 1e10i");
        near(asin(z(2.0, 0.0)), z(FRAC_PI_2, 1.316_957_896_924_816_6), "asin 2");
        near(log1p(z(1e-20, 0.0)), z(1e-20, 0.0), "log1p 1e-20");
        near(log1p(z(-1.0, 1e-20)), z(-46.051_701_859_880_914, FRAC_PI_2), "log1p -1");
        near(expm1(z(1e-20, 1e-20)), z(1e-20, 1e-20), "expm1 1e-20");
        near(cosh(z(f64::INFINITY, 0.0)), z(f64::INFINITY, 0.0), "cosh inf");
        near(sinh(z(f64::NEG_INFINITY, 0.0)), z(f64::NEG_INFINITY, 0.0), "sinh -inf");
        near(tanh(z(f64::INFINITY, 3.0)), z(1.0, 0.0), "tanh inf");
    }

    /// The inverses undo the functions, everywhere.
    #[test]
    fn inverses_undo() {
        for i in -8..=8 {
            for k in -8..=8 {
                let z = Z::new(f64::from(i) * 0.77 + 0.01, f64::from(k) * 0.61 - 0.02);
                let back =
                    |got: Z, what: &str| assert!((got - z).norm() < 1e-12 * z.norm().max(1.0), "{what} {z}: {got}");
                back(sinh(asinh(z)), "asinh");
                back(cosh(acosh(z)), "acosh");
                back(tanh(atanh(z)), "atanh");
                back(sin(asin(z)), "asin");
                back(cos(acos(z)), "acos");
                back(tan(atan(z)), "atan");
                back(expm1(log1p(z)), "log1p");
                assert!((tanh(z) - sinh(z) / cosh(z)).norm() < 1e-13, "tanh {z}");
                assert!((tan(z) - sin(z) / cos(z)).norm() < 1e-11, "tan {z}");
            }
        }
    }
}
