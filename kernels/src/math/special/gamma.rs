//! The logarithm of the gamma function and its derivatives, and the Hurwitz zeta function.

use std::f64::consts::PI;

/// `B_2k / (2k)!` for k = 1, 2, ...
const EULER_MACLAURIN: [f64; 12] = [
    1.0 / 12.0,
    -1.0 / 720.0,
    1.0 / 30_240.0,
    -1.0 / 1_209_600.0,
    1.0 / 47_900_160.0,
    -691.0 / 1_307_674_368_000.0,
    1.0 / 74_724_249_600.0,
    -3617.0 / 10_670_622_842_880_000.0,
    43_867.0 / 5_109_094_217_170_944_000.0,
    -174_611.0 / 802_857_662_698_291_200_000.0,
    77_683.0 / 14_101_100_039_391_805_440_000.0,
    -236_364_091.0 / 1_693_824_136_731_743_669_452_800_000.0,
];

/// `log |Gamma(x)|`: infinite at 0 and the negative integers, and at both infinities.
pub fn lgamma(x: f64) -> f64 {
    libm::lgamma(x)
}

/// `log Gamma(a) - ((a - 1/2) log a - a + log(2 pi) / 2)` for a >= 10.
pub(super) fn stirling_rest(a: f64) -> f64 {
    const C: [f64; 7] = [
        1.0 / 12.0,
        -1.0 / 360.0,
        1.0 / 1260.0,
        -1.0 / 1680.0,
        1.0 / 1188.0,
        -691.0 / 360_360.0,
        1.0 / 156.0,
    ];
    let z = 1.0 / (a * a);
    C.iter().rev().fold(0.0, |sum, c| sum * z + c) / a
}

/// The derivative of `log Gamma`. NaN at 0 and the negative integers.
pub fn digamma(x: f64) -> f64 {
    if x <= 0.0 {
        let f = x - x.round();
        if f == 0.0 || x == f64::NEG_INFINITY {
            return f64::NAN;
        }
        return digamma(1.0 - x) - PI / (PI * f).tan();
    }
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift += 1.0 / x;
        x += 1.0;
    }
    // B_2k / 2k.
    const C: [f64; 7] = [
        1.0 / 12.0,
        -1.0 / 120.0,
        1.0 / 252.0,
        -1.0 / 240.0,
        1.0 / 132.0,
        -691.0 / 32_760.0,
        1.0 / 12.0,
    ];
    let z = 1.0 / (x * x);
    let tail = C.iter().rev().fold(0.0, |sum, c| (sum + c) * z);
    x.ln() - 0.5 / x - tail - shift
}

/// Hurwitz's zeta function, the sum of `(q + k)^-x` over k = 0, 1, ...
///
/// Infinite at x = 1 and at the poles (q = 0, -1, ...) of even x; NaN for x < 1, at the poles of odd x, and for negative q
/// unless x is an integer.
pub fn zeta(x: f64, q: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    if x.is_nan() || q.is_nan() || x < 1.0 {
        return f64::NAN;
    }
    if q <= 0.0 {
        let whole = x == x.floor();
        let odd = x.is_finite() && x % 2.0 != 0.0;
        if x == f64::INFINITY && q == f64::NEG_INFINITY {
            return f64::INFINITY;
        }
        if q == q.floor() {
            return if whole && !odd { f64::INFINITY } else { f64::NAN };
        }
        if !whole {
            return f64::NAN;
        }
        if x == f64::INFINITY {
            return f64::INFINITY;
        }
        // The terms with negative bases are a finite sum that two functions of positive argument differ by.
        let f = q - q.floor();
        let below = zeta_positive(x, 1.0 - f) - zeta_positive(x, 1.0 - q);
        return zeta_positive(x, f) + if odd { -below } else { below };
    }
    if x == f64::INFINITY {
        return if q > 1.0 {
            0.0
        } else if q == 1.0 {
            1.0
        } else {
            f64::INFINITY
        };
    }
    zeta_positive(x, q)
}

/// [`zeta`] for finite x > 1 and q > 0: leading terms, then the Euler-Maclaurin formula (DLMF 25.11.43).
fn zeta_positive(x: f64, q: f64) -> f64 {
    if q == f64::INFINITY {
        return 0.0;
    }
    let (mut sum, mut a) = (0.0, q);
    while a < 10.0 + x {
        let term = a.powf(-x);
        // All that follows is less than the integral from here.
        if term * (1.0 + a / (x - 1.0)) <= 1e-17 * sum || sum == f64::INFINITY {
            return sum;
        }
        sum += term;
        a += 1.0;
    }
    let power = a.powf(-x);
    sum += power * (a / (x - 1.0) + 0.5);
    let mut factor = power * x / a;
    for (k, c) in EULER_MACLAURIN.iter().enumerate() {
        let term = c * factor;
        sum += term;
        if term.abs() <= 1e-17 * sum {
            break;
        }
        let k = 2.0 * k as f64;
        factor *= (x + k + 1.0) / a * ((x + k + 2.0) / a);
    }
    sum
}

/// The n-th derivative of [`digamma`]; NaN unless n is a whole number from 0.
pub fn polygamma(n: f64, x: f64) -> f64 {
    if n.is_nan() || n < 0.0 || n != n.floor() {
        return f64::NAN;
    }
    if n == 0.0 {
        return digamma(x);
    }
    if n == f64::INFINITY {
        // Infinity times zeta, which is 0 beyond 1.
        return if x <= 1.0 { f64::INFINITY } else { f64::NAN };
    }
    let next = n + 1.0;
    let z = zeta(next, x);
    if n > 170.0 && z == 0.0 {
        return f64::NAN;
    }
    let size = if n <= 170.0 {
        (2..=n as u32).fold(1.0, |product, k| product * k as f64) * z
    } else {
        (lgamma(n + 1.0) + z.abs().ln()).exp().copysign(z)
    };
    // The sign is that of (-1)^(n + 1) as it is computed: even where 1 does not change n.
    if next % 2.0 == 0.0 { size } else { -size }
}
