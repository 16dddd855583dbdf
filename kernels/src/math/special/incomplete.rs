//! The regularised incomplete gamma and beta functions.

use super::gamma::{digamma, lgamma, stirling_rest};
use std::f64::consts::PI;
use std::ops::{Add, Div, Mul, Sub};

const EPSILON: f64 = f64::EPSILON * 0.5;
/// Enough terms for parameters up to 10^9, where a sum needs about ten times their square root.
const TERMS: u32 = 1_000_000;
/// From this parameter on the uniform asymptotic expansion is exact to rounding.
const LARGE: f64 = 2e5;

/// What the sums below run on: a number, or a number with its derivative.
trait Number: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + From<f64> {
    /// Whether adding `self` to `sum` no longer matters.
    fn vanishes_beside(self, sum: Self) -> bool;
}

impl Number for f64 {
    fn vanishes_beside(self, sum: Self) -> bool {
        self.abs() <= EPSILON * sum.abs()
    }
}

/// A value and its derivative with respect to the parameter `a`.
#[derive(Clone, Copy, Debug)]
struct Dual {
    value: f64,
    slope: f64,
}

impl From<f64> for Dual {
    fn from(value: f64) -> Self {
        Self { value, slope: 0.0 }
    }
}

impl Add for Dual {
    type Output = Self;
    fn add(self, y: Self) -> Self {
        Self {
            value: self.value + y.value,
            slope: self.slope + y.slope,
        }
    }
}

impl Sub for Dual {
    type Output = Self;
    fn sub(self, y: Self) -> Self {
        Self {
            value: self.value - y.value,
            slope: self.slope - y.slope,
        }
    }
}

impl Mul for Dual {
    type Output = Self;
    fn mul(self, y: Self) -> Self {
        Self {
            value: self.value * y.value,
            slope: self.slope * y.value + self.value * y.slope,
        }
    }
}

impl Div for Dual {
    type Output = Self;
    fn div(self, y: Self) -> Self {
        let value = self.value / y.value;
        Self {
            value,
            slope: (self.slope - value * y.slope) / y.value,
        }
    }
}

impl Number for Dual {
    fn vanishes_beside(self, sum: Self) -> bool {
        self.value.abs() <= EPSILON * sum.value.abs() && self.slope.abs() <= EPSILON * sum.slope.abs()
    }
}

/// `log(1 + d) - d` without loss near zero; `y` is `1 + d`.
fn log1p_minus(d: f64, y: f64) -> f64 {
    if d.abs() > 0.4 {
        return y.ln() - d;
    }
    // With r = d / (2 + d), log(1 + d) is 2 (r + r^3/3 + r^5/5 + ...) and 2 r - d is -r d.
    let r = d / (2.0 + d);
    let z = r * r;
    let (mut sum, mut power) = (0.0, 1.0);
    for k in 0..20 {
        let term = power / (2 * k + 3) as f64;
        sum += term;
        if term < EPSILON {
            break;
        }
        power *= z;
    }
    r * (2.0 * z * sum - d)
}

/// `x^a e^-x / Gamma(a + 1)`.
fn power_over_factorial(a: f64, x: f64) -> f64 {
    if a < 10.0 {
        // The product keeps more digits than the exponential of a sum, unless its factors leave the range.
        let power = x.powf(a);
        return if power > 1e-290 && x < 600.0 {
            power * (-x).exp() / libm::tgamma(a + 1.0)
        } else {
            (a * x.ln() - x - lgamma(a + 1.0)).exp()
        };
    }
    (a * log1p_minus((x - a) / a, x / a) - stirling_rest(a)).exp() / (2.0 * PI * a).sqrt()
}

/// The sum of `x^n / ((a + 1) ... (a + n))` over n = 0, 1, ... (DLMF 8.7.1).
fn lower_series<T: Number>(a: T, x: f64) -> T {
    let (mut sum, mut term, mut a) = (T::from(1.0), T::from(1.0), a);
    for _ in 0..TERMS {
        a = a + T::from(1.0);
        term = term * T::from(x) / a;
        sum = sum + term;
        if term.vanishes_beside(sum) {
            break;
        }
    }
    sum
}

/// The continued fraction of `Gamma(a, x) e^x x^-a` (DLMF 8.9.2), by Lentz's method.
fn upper_fraction<T: Number>(a: T, x: f64) -> T {
    let one = T::from(1.0);
    let mut b = T::from(x + 1.0) - a;
    let mut c = T::from(1e300);
    let mut d = one / b;
    let mut h = d;
    for k in 1..TERMS {
        let k = T::from(f64::from(k));
        let numerator = k * (a - k);
        b = b + T::from(2.0);
        d = one / (numerator * d + b);
        c = b + numerator / c;
        let step = c * d;
        let next = h * step;
        let done = (next - h).vanishes_beside(next);
        h = next;
        if done {
            break;
        }
    }
    h
}

/// `(P, Q)` for large `a` from the uniform expansion (DLMF 8.12), if `x` is so near `a` that sums would be long.
fn uniform(a: f64, x: f64) -> Option<(f64, f64)> {
    let d = (x - a) / a;
    if a < LARGE || d.abs() > 0.1 {
        return None;
    }
    let half_square = -log1p_minus(d, x / a);
    let eta = (2.0 * half_square).sqrt().copysign(d);
    let c0 = [
        -1.0 / 3.0,
        1.0 / 12.0,
        -2.0 / 135.0,
        1.0 / 864.0,
        1.0 / 2835.0,
        -139.0 / 777_600.0,
        1.0 / 25_515.0,
    ];
    let c1 = [-1.0 / 540.0, -1.0 / 288.0, 1.0 / 378.0, -77.0 / 77_760.0];
    let at = |c: &[f64]| c.iter().rev().fold(0.0, |sum, c| sum * eta + c);
    let rest = (-a * half_square).exp() / (2.0 * PI * a).sqrt() * (at(&c0) + at(&c1) / a);
    let z = eta * (0.5 * a).sqrt();
    Some((0.5 * libm::erfc(-z) - rest, 0.5 * libm::erfc(z) + rest))
}

/// `Q` for x <= 1, where `1 - P` would lose digits for small `a` (DLMF 8.7.3).
fn upper_near_zero(a: f64, x: f64) -> f64 {
    let (mut sum, mut power) = (0.0, 1.0);
    for n in 1..60 {
        let n = f64::from(n);
        power *= -x / n;
        let term = power / (a + n);
        sum += term;
        if term.abs() <= EPSILON * f64::abs(sum) {
            break;
        }
    }
    let exponent = a * x.ln() - lgamma(a + 1.0);
    -exponent.exp_m1() - a * exponent.exp() * sum
}

/// The regularised lower incomplete gamma function P(a, x). 0 at x = 0; NaN for a <= 0 or x < 0.
pub fn igamma(a: f64, x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    if a.is_nan() || x.is_nan() || a <= 0.0 || x < 0.0 {
        return f64::NAN;
    }
    if a == f64::INFINITY {
        return 0.0;
    }
    if x == f64::INFINITY {
        return 1.0;
    }
    if let Some((lower, _)) = uniform(a, x) {
        return lower;
    }
    if x > 1.0 && x > a {
        1.0 - igammac(a, x)
    } else {
        power_over_factorial(a, x) * lower_series(a, x)
    }
}

/// The regularised upper incomplete gamma function Q(a, x) = 1 - P(a, x). NaN for a <= 0 or x < 0.
pub fn igammac(a: f64, x: f64) -> f64 {
    if a.is_nan() || x.is_nan() || a <= 0.0 || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return 1.0;
    }
    if x == f64::INFINITY {
        return 0.0;
    }
    if a == f64::INFINITY {
        return 1.0;
    }
    if let Some((_, upper)) = uniform(a, x) {
        return upper;
    }
    if x <= 1.0 && a <= 1.0 {
        upper_near_zero(a, x)
    } else if x <= 1.0 || x <= a {
        1.0 - igamma(a, x)
    } else {
        a * power_over_factorial(a, x) * upper_fraction(a, x)
    }
}

/// The derivative of [`igamma`] with respect to `a`, by differentiating its sums term by term.
pub fn igamma_grad_a(a: f64, x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    if a.is_nan() || x.is_nan() || a <= 0.0 || x < 0.0 {
        return f64::NAN;
    }
    if a == f64::INFINITY || x == f64::INFINITY {
        return 0.0;
    }
    let value = power_over_factorial(a, x);
    let front = Dual {
        value,
        slope: value * (x.ln() - digamma(a + 1.0)),
    };
    let a = Dual { value: a, slope: 1.0 };
    if x > 1.0 && x > a.value {
        -(a * front * upper_fraction(a, x)).slope
    } else {
        (front * lower_series(a, x)).slope
    }
}

/// `x^a (1 - x)^b / B(a, b)`; `y` is `1 - x`.
fn power_over_beta(a: f64, b: f64, x: f64, y: f64) -> f64 {
    let powers = a * x.ln() + b * (-x).ln_1p();
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if large < 10.0 {
        return (powers + lgamma(a + b) - lgamma(a) - lgamma(b)).exp();
    }
    if small < 10.0 {
        // log Gamma(a + b) - log Gamma(large) by Stirling's formula, where the logarithms themselves would cancel.
        let sum = a + b;
        let rise = (large - 0.5) * (small / large).ln_1p() + small * sum.ln() - small;
        return (powers + rise + stirling_rest(sum) - stirling_rest(large) - lgamma(small)).exp();
    }
    // The powers relative to their greatest value, at x = a / (a + b), and Stirling's formula for that.
    let sum = a + b;
    let excess = b * x - a * y;
    let exponent = a * log1p_minus(excess / a, x * (sum / a)) + b * log1p_minus(-excess / b, y * (sum / b));
    let rest = stirling_rest(sum) - stirling_rest(a) - stirling_rest(b);
    (exponent + rest).exp() * (a / (2.0 * PI) * (b / sum)).sqrt()
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let nudge = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / nudge(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    for m in 1..TERMS {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / nudge(1.0 + even * d);
        c = nudge(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / nudge(1.0 + odd * d);
        c = nudge(1.0 + odd / c);
        let step = d * c;
        h *= step;
        if (step - 1.0).abs() <= EPSILON {
            break;
        }
    }
    h
}

/// The regularised incomplete beta function I_x(a, b). NaN for a <= 0, b <= 0 or x outside [0, 1], or where one is infinite.
pub fn betainc(a: f64, b: f64, x: f64) -> f64 {
    if a.is_nan() || b.is_nan() || a <= 0.0 || b <= 0.0 || a.is_infinite() || b.is_infinite() {
        return f64::NAN;
    }
    if x == 0.0 || x == 1.0 {
        return x;
    }
    if !(0.0..=1.0).contains(&x) {
        return f64::NAN;
    }
    let y = 1.0 - x;
    let front = power_over_beta(a, b, x, y);
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, y) / b
    }
}
