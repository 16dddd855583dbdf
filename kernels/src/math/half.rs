//! Loops over half-precision slices, which compute in f32.
//!
//! A slice is widened, computed with the f32 function's own loop and rounded back, a stage at a time, so that no function is
//! compiled again for half precision.
#![forbid(unsafe_code)]

use super::simd::{Elem, Fn1, Fn2, map1_inplace, map2, map2_inplace_left};
use half::slice::HalfFloatSliceExt;
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

impl Half for f16 {
    fn widen(x: &[Self], y: &mut [f32]) {
        x.convert_to_f32_slice(y);
    }
    fn narrow(x: &[f32], y: &mut [Self]) {
        y.convert_from_f32_slice(x);
    }
}

impl Half for bf16 {
    fn widen(x: &[Self], y: &mut [f32]) {
        x.convert_to_f32_slice(y);
    }
    fn narrow(x: &[f32], y: &mut [Self]) {
        y.convert_from_f32_slice(x);
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
    fn both_half_types_compute_in_f32_at_every_length() {
        forms(f16::from_f32);
        forms(bf16::from_f32);
    }
}
