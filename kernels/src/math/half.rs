//! Loops over half-precision slices, which compute in f32.
//!
//! A slice is widened, computed with the f32 function's own loop and rounded back, a stage at a time, so that no function is
//! compiled again for half precision.
#![forbid(unsafe_code)]

use super::madd::Madd;
use super::simd::{Elem, Fn1, Fn2, Wide, map1, map1_inplace, map2, map2_inplace_left};
use half::{bf16, f16};

/// Elements widened at a time.
const STAGE: usize = 512;

/// f16 or bf16.
pub trait Half: Elem {
    /// Converts a slice to f32. The lengths must agree.
    fn widen(x: &[Self], y: &mut [f32]);
    /// Rounds a slice of f32 to the nearest, ties to even. The lengths must agree.
    fn narrow(x: &[f32], y: &mut [Self]);
}

/// Between half precision and f32, without branches. Rounds to the nearest, ties to even; any NaN becomes one NaN.
struct Convert;

impl Fn1<bf16, f32> for Convert {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(x: bf16) -> f32 {
        f32::from_bits(u32::from(x.to_bits()) << 16)
    }
}

impl Fn1<f32, bf16> for Convert {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(x: f32) -> bf16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        bf16::from_bits(if x.is_nan() { 0x7fc0 } else { rounded as u16 })
    }
}

impl Fn1<f16, f32> for Convert {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(x: f16) -> f32 {
        /// How far the exponents' biases are apart, in an f32's exponent field.
        const REBIAS: u32 = (127 - 15) << 23;
        const EXPONENT: u32 = 0x7c00 << 13;
        let bits = u32::from(x.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        let exponent = magnitude & EXPONENT;
        let normal = magnitude + REBIAS;
        // A subnormal has no leading bit: one is added, and taken off again as a number.
        let subnormal = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(REBIAS + (1 << 23))).to_bits();
        let finite = if exponent == 0 { subnormal } else { normal };
        let all = if exponent == EXPONENT { normal + REBIAS } else { finite };
        f32::from_bits(all | (bits & 0x8000) << 16)
    }
}

impl Fn1<f32, f16> for Convert {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(x: f32) -> f16 {
        /// 65536, the first number beyond the range.
        const BEYOND: u32 = (127 + 16) << 23;
        /// 2^-14, the least normal number.
        const NORMAL: u32 = (127 - 14) << 23;
        /// 1/2: adding it to a subnormal rounds its last bit to that of the sum.
        const HALF: u32 = (127 - 1) << 23;
        let sign = x.to_bits() & 0x8000_0000;
        let bits = x.to_bits() ^ sign;
        let subnormal = (f32::from_bits(bits) + f32::from_bits(HALF))
            .to_bits()
            .wrapping_sub(HALF);
        // Rounding may carry into the exponent, up to infinity.
        let rounded = bits
            .wrapping_sub((127 - 15) << 23)
            .wrapping_add(0xfff + ((bits >> 13) & 1))
            >> 13;
        let finite = if bits < NORMAL { subnormal } else { rounded };
        let beyond = if x.is_nan() { 0x7e00 } else { 0x7c00 };
        let all = if bits >= BEYOND { beyond } else { finite };
        f16::from_bits((all | sign >> 16) as u16)
    }
}

impl Half for f16 {
    fn widen(x: &[Self], y: &mut [f32]) {
        map1::<Convert, f16, f32>(x, y);
    }
    fn narrow(x: &[f32], y: &mut [Self]) {
        map1::<Convert, f32, f16>(x, y);
    }
}

impl Half for bf16 {
    fn widen(x: &[Self], y: &mut [f32]) {
        map1::<Convert, bf16, f32>(x, y);
    }
    fn narrow(x: &[f32], y: &mut [Self]) {
        map1::<Convert, f32, bf16>(x, y);
    }
}

/// `y[i] = f(x[i])`. Panics if the lengths differ, as all maps here do.
pub fn map1_half<F: Fn1<f32, f32>, H: Half>(x: &[H], y: &mut [H]) {
    assert_eq!(x.len(), y.len(), "operand and result of a map differ in length");
    let mut wide = [0.0; STAGE];
    for (x, y) in x.chunks(STAGE).zip(y.chunks_mut(STAGE)) {
        let wide = &mut wide[..x.len()];
        H::widen(x, wide);
        map1_inplace::<F, f32>(wide);
        H::narrow(wide, y);
    }
}

/// `y[i] = f(y[i])`.
pub fn map1_half_inplace<F: Fn1<f32, f32>, H: Half>(y: &mut [H]) {
    let mut wide = [0.0; STAGE];
    for y in y.chunks_mut(STAGE) {
        let wide = &mut wide[..y.len()];
        H::widen(y, wide);
        map1_inplace::<F, f32>(wide);
        H::narrow(wide, y);
    }
}

/// One operand of a binary map: a slice, or one value for all elements.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a, H> {
    /// A value for each element.
    Slice(&'a [H]),
    /// One value.
    Scalar(H),
}

impl<H: Half> Operand<'_, H> {
    /// Writes the operand's elements from `at` on.
    fn widen(&self, at: usize, to: &mut [f32]) {
        match self {
            Self::Slice(x) => H::widen(&x[at..at + to.len()], to),
            Self::Scalar(x) => {
                let mut wide = [0.0];
                H::widen(&[*x], &mut wide);
                to.fill(wide[0]);
            }
        }
    }

    fn fits(&self, n: usize) -> bool {
        matches!(self, Self::Scalar(_)) || matches!(self, Self::Slice(x) if x.len() == n)
    }
}

/// `y[i] = f(a[i], b[i])` with half-precision results.
pub fn map2_half<F: Fn2<f32, f32, f32>, H: Half>(a: Operand<'_, H>, b: Operand<'_, H>, y: &mut [H]) {
    assert!(
        a.fits(y.len()) && b.fits(y.len()),
        "operands and result of a map differ in length"
    );
    let (mut wide_a, mut wide_b) = ([0.0; STAGE], [0.0; STAGE]);
    for (i, y) in y.chunks_mut(STAGE).enumerate() {
        let (wide_a, wide_b) = (&mut wide_a[..y.len()], &mut wide_b[..y.len()]);
        a.widen(i * STAGE, wide_a);
        b.widen(i * STAGE, wide_b);
        map2_inplace_left::<F, f32, f32>(wide_a, wide_b);
        H::narrow(wide_a, y);
    }
}

/// `y[i] = f(a[i], b[i])` with results of another type, such as the outcome of a comparison.
pub fn map2_half_to<F: Fn2<f32, f32, C>, H: Half, C: Elem>(a: Operand<'_, H>, b: Operand<'_, H>, y: &mut [C]) {
    assert!(
        a.fits(y.len()) && b.fits(y.len()),
        "operands and result of a map differ in length"
    );
    let (mut wide_a, mut wide_b) = ([0.0; STAGE], [0.0; STAGE]);
    for (i, y) in y.chunks_mut(STAGE).enumerate() {
        let (wide_a, wide_b) = (&mut wide_a[..y.len()], &mut wide_b[..y.len()]);
        a.widen(i * STAGE, wide_a);
        b.widen(i * STAGE, wide_b);
        map2::<F, f32, f32, C>(wide_a, wide_b, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::madd::Madd;
    use crate::math::simd::Wide;

    struct Halve;
    impl Fn1<f32, f32> for Halve {
        type Loop = Wide;
        #[inline(always)]
        fn call<M: Madd>(a: f32) -> f32 {
            a * 0.5
        }
    }

    struct Less;
    impl Fn2<f32, f32, bool> for Less {
        type Loop = Wide;
        #[inline(always)]
        fn call<M: Madd>(a: f32, b: f32) -> bool {
            a < b
        }
    }

    struct Take;
    impl Fn2<f32, f32, f32> for Take {
        type Loop = Wide;
        #[inline(always)]
        fn call<M: Madd>(a: f32, b: f32) -> f32 {
            a - b
        }
    }

    fn forms<H: Half + PartialEq + std::fmt::Debug>(of: impl Fn(f32) -> H) {
        for n in [0, 1, 5, 512, 1300] {
            let x: Vec<H> = (0..n).map(|i| of((i % 100) as f32)).collect();
            let mut y = vec![H::default(); n];
            map1_half::<Halve, H>(&x, &mut y);
            assert!((0..n).all(|i| y[i] == of((i % 100) as f32 * 0.5)));
            let mut y = x.clone();
            map1_half_inplace::<Halve, H>(&mut y);
            assert!((0..n).all(|i| y[i] == of((i % 100) as f32 * 0.5)));
            map2_half::<Take, H>(Operand::Scalar(of(3.0)), Operand::Slice(&x), &mut y);
            assert!((0..n).all(|i| y[i] == of(3.0 - (i % 100) as f32)));
            let mut y = vec![false; n];
            map2_half_to::<Less, H, bool>(Operand::Slice(&x), Operand::Scalar(of(20.0)), &mut y);
            assert!((0..n).all(|i| y[i] == (i % 100 < 20)));
        }
    }

    #[test]
    fn conversions_agree_with_the_half_crate_for_every_number() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let f16s: Vec<f16> = all.iter().map(|b| f16::from_bits(*b)).collect();
        let bf16s: Vec<bf16> = all.iter().map(|b| bf16::from_bits(*b)).collect();
        let mut wide = vec![0.0f32; all.len()];
        f16::widen(&f16s, &mut wide);
        assert!(
            f16s.iter()
                .zip(&wide)
                .all(|(h, w)| w.to_bits() == h.to_f32().to_bits() || h.is_nan() && w.is_nan())
        );
        bf16::widen(&bf16s, &mut wide);
        assert!(
            bf16s
                .iter()
                .zip(&wide)
                .all(|(h, w)| w.to_bits() == h.to_f32().to_bits() || h.is_nan() && w.is_nan())
        );
        // Every number of half precision, its neighbours in f32, and those half way to the next one.
        let near: Vec<f32> = f16s
            .iter()
            .map(|h| h.to_f32())
            .chain(bf16s.iter().map(|h| h.to_f32()))
            .flat_map(|x| {
                [0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001].map(|d| f32::from_bits(x.to_bits() ^ d))
            })
            .collect();
        let (mut f16s, mut bf16s) = (vec![f16::ZERO; near.len()], vec![bf16::ZERO; near.len()]);
        f16::narrow(&near, &mut f16s);
        bf16::narrow(&near, &mut bf16s);
        for ((x, h), b) in near.iter().zip(&f16s).zip(&bf16s) {
            assert!(
                h.to_bits() == f16::from_f32(*x).to_bits() || x.is_nan() && h.is_nan(),
                "{x:e} {h:?}"
            );
            assert!(
                b.to_bits() == bf16::from_f32(*x).to_bits() || x.is_nan() && b.is_nan(),
                "{x:e} {b:?}"
            );
        }
    }

    #[test]
    fn both_half_types_compute_in_f32_at_every_length() {
        forms(f16::from_f32);
        forms(bf16::from_f32);
    }
}
