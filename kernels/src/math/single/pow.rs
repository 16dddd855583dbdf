//! Powers.

use crate::math::madd::{Madd, horner};

/// `x^y` with IEEE 754's values at all special operands. Computed in f64, so it is nearly always correctly rounded.
#[inline(always)]
pub fn pow<M: Madd>(x: f32, y: f32) -> f32 {
    let r = exp2_wide::<M>(y as f64 * log2_wide::<M>(x.abs())) as f32;
    // |x| = 1 and y = 0 give 1 even against infinities and NaN; otherwise NaN stays.
    let whole = whole(y);
    let odd = whole & is_odd(y);
    let r = if (x < 0.0) & !whole & (x != f32::NEG_INFINITY) {
        f32::NAN
    } else {
        r
    };
    let r = if x.is_nan() | y.is_nan() { f32::NAN } else { r };
    let r = if odd { r.copysign(x) } else { r };
    let r = if (x == -1.0) & (y.abs() == f32::INFINITY) {
        1.0
    } else {
        r
    };
    if (y == 0.0) | (x == 1.0) { 1.0 } else { r }
}

/// Whether `y` is an integer; true for infinities.
#[inline(always)]
fn whole(y: f32) -> bool {
    let a = y.abs();
    // Beyond 2^23 every value is an integer; below, adding and taking off 2^23 rounds to one.
    (a >= 8_388_608.0) | ((a + 8_388_608.0) - 8_388_608.0 == a)
}

/// Whether the integer `y` is odd. Values from 2^24 on are even.
#[inline(always)]
fn is_odd(y: f32) -> bool {
    let a = y.abs();
    let small = if a < 16_777_216.0 { a } else { 0.0 };
    let half = small * 0.5;
    (half + 8_388_608.0) - 8_388_608.0 != half
}

/// `log2(a)` for a >= 0 with a relative error below 2^-40: -inf at 0, inf at inf.
#[inline(always)]
fn log2_wide<M: Madd>(a: f32) -> f64 {
    /// Bits of sqrt(1/2).
    const OCTAVE: i64 = 0x3fe6_a09e_667f_3bcd;
    /// 2^52 + 2^51: an exponent added to its low bits can be read back as a float.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let bits = (a as f64).to_bits() as i64;
    // The shift is logical: the octave is taken off after adding a multiple of 2^52 that keeps the difference positive.
    let biased = (bits.wrapping_sub(OCTAVE).wrapping_add(1023 << 52) as u64) >> 52;
    let e = f64::from_bits(ROUNDER.to_bits().wrapping_add(biased)) - ROUNDER - 1023.0;
    let m = f64::from_bits(bits.wrapping_sub((biased as i64).wrapping_sub(1023) << 52) as u64);
    let s = (m - 1.0) / (m + 1.0);
    // log2((1 + s) / (1 - s)) / s in s^2, error 2^-43.6.
    let p = horner!(M::f64, s * s; 2.885_390_081_777_849_5, 0.961_796_694_113_958_9, 0.577_077_942_199_592_4,
        0.412_209_267_905_079_2, 0.319_905_100_996_270_25, 0.282_908_168_297_866_36);
    let y = M::f64(s, p, e);
    let y = if a < f32::INFINITY { y } else { f64::INFINITY };
    if a == 0.0 { f64::NEG_INFINITY } else { y }
}

/// `2^x` in f64 with a relative error of 2^-34, from 2^-200 to 2^200, which is beyond what f32 holds.
#[inline(always)]
fn exp2_wide<M: Madd>(x: f64) -> f64 {
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let x = if x > 200.0 { 200.0 } else { x };
    let x = if x < -200.0 { -200.0 } else { x };
    let shifted = x + ROUNDER;
    let r = x - (shifted - ROUNDER);
    let p = horner!(M::f64, r; 0.999_999_999_961_681_5, 0.693_147_180_728_447, 0.240_226_511_981_588_7, 0.055_504_103_534_496_73,
        0.009_618_027_253_517_68, 0.001_333_392_256_128_011_2, 0.000_154_692_911_866_864_4, 1.520_192_224_872_053_1e-5);
    // The low bits of the sum hold the exponent; what lies above them is shifted out.
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    p * scale
}
