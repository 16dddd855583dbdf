//! Error functions.

use super::exp::{exp, reduced, scale};
use crate::math::madd::{Madd, horner};

/// erf(x) for |x| <= 0.94, from a fit of erf(x) / x - 1 in x^2 with error 2^-30.8.
#[inline(always)]
fn erf_near<M: Madd>(x: f32) -> f32 {
    let p = horner!(M::f32, x * x; 0.128_379_17, -0.376_126_32, 0.112_836_76, -0.026_858_345, 0.005_198_463,
        -0.000_811_404_9, 8.251_006_5e-5);
    M::f32(x, p, x)
}

/// Error function.
#[inline(always)]
pub fn erf<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let near = erf_near::<M>(x);
    // log erfc(a) for 0.92 <= a <= 4, error after the exponential 2^-29.3. Beyond 4 the result rounds to 1.
    let b = if a > 4.0 { 4.0 } else { a };
    let q = horner!(M::f32, b; -0.000_207_019_11, -1.127_627_4, -0.637_265_86, -0.103_856_295, 0.022_189_736, -0.003_033_681_3,
        0.000_194_945_56);
    let far = (1.0 - exp::<M>(q)).copysign(x);
    if a < 0.93 { near } else { far }
}

/// `1 - erf(x)`, accurate relative to the result down to the subnormals.
#[inline(always)]
pub fn erfc<M: Madd>(x: f32) -> f32 {
    let a = x.abs();
    let a = if a > 10.2 { 10.2 } else { a };
    // erfc(a) e^(a^2) (1 + 2a) in t = (a - 3) / (a + 3) for a <= 10.1, relative error 2^-29.
    let t = (a - 3.0) / (a + 3.0);
    let p = horner!(M::f32, t; 1.253_008, -0.135_621_15, -0.047_562_398, 0.129_646_42, -0.119_270_97, 0.068_295_77,
        -0.023_797_53, 0.002_567_376_2, 0.002_001_812_5, -0.000_777_582_3, -0.000_268_127_3);
    // a^2 exactly, as the square of a's leading half and the rest.
    let head = f32::from_bits(a.to_bits() & 0xffff_f000);
    let rest = (head - a) * (head + a);
    let factor = p / M::f32(2.0, a, 1.0);
    let (t, n) = reduced::<M>(-head * head, rest);
    let tail = scale(M::f32(t, factor, factor), n);
    let far = if x < 0.0 { 2.0 - tail } else { tail };
    // Near zero the fit in t is a difference of large terms.
    if a < 0.75 { 1.0 - erf_near::<M>(x) } else { far }
}
