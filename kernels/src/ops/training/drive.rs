//! Runs an update rule over slices at the width of the processor.

#![forbid(unsafe_code)]

use actorflow_core::Element;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use num_complex::Complex;

use super::rule::{Field, MOST, Rule};
use crate::math::madd::Madd;
use crate::wide::{self, Work};

struct Update<'a, F, R> {
    rule: R,
    state: [&'a mut [F]; MOST],
    grad: &'a [F],
}

/// Each number of slices has a loop of its own over slices that are arguments of a function: those are known not to
/// overlap, and a loop over more than a few slices that might is not vectorised.
impl<F: Field, R: Rule<F>> Work for Update<'_, F, R> {
    type Out = ();

    #[inline(always)]
    fn run<M: Madd>(self) {
        let [a, b, c, d] = self.state;
        match R::N {
            1 => one(self.rule, a, self.grad),
            2 => two(self.rule, a, b, self.grad),
            3 => three(self.rule, a, b, c, self.grad),
            _ => four(self.rule, a, b, c, d, self.grad),
        }
    }
}

#[inline(always)]
fn one<F: Field, R: Rule<F>>(r: R, a: &mut [F], g: &[F]) {
    let z = F::default();
    for (a, g) in a.iter_mut().zip(g) {
        [*a, _, _, _] = r.step([*a, z, z, z], *g);
    }
}

#[inline(always)]
fn two<F: Field, R: Rule<F>>(r: R, a: &mut [F], b: &mut [F], g: &[F]) {
    let z = F::default();
    for ((a, b), g) in a.iter_mut().zip(b).zip(g) {
        [*a, *b, _, _] = r.step([*a, *b, z, z], *g);
    }
}

#[inline(always)]
fn three<F: Field, R: Rule<F>>(r: R, a: &mut [F], b: &mut [F], c: &mut [F], g: &[F]) {
    let z = F::default();
    for (((a, b), c), g) in a.iter_mut().zip(b).zip(c).zip(g) {
        [*a, *b, *c, _] = r.step([*a, *b, *c, z], *g);
    }
}

#[inline(always)]
fn four<F: Field, R: Rule<F>>(r: R, a: &mut [F], b: &mut [F], c: &mut [F], d: &mut [F], g: &[F]) {
    for ((((a, b), c), d), g) in a.iter_mut().zip(b).zip(c).zip(d).zip(g) {
        [*a, *b, *c, *d] = r.step([*a, *b, *c, *d], *g);
    }
}

/// How elements are stored, and what they are computed in.
pub trait Storage: Element {
    /// The type of the computation.
    type Compute: Field;

    /// The value of a scalar input.
    fn widen(self) -> Self::Compute;

    /// Moves every element of the first [`Rule::N`] slices, all as long as `grad`, by the rule; the others are ignored.
    fn run<R: Rule<Self::Compute>>(rule: R, state: [&mut [Self]; MOST], grad: &[Self]);
}

macro_rules! direct {
    ($($t:ty),*) => {
        $(impl Storage for $t {
            type Compute = $t;

            fn widen(self) -> $t {
                self
            }

            #[inline]
            fn run<R: Rule<$t>>(rule: R, state: [&mut [$t]; MOST], grad: &[$t]) {
                wide::run(Update { rule, state, grad });
            }
        })*
    };
}

direct!(f32, f64, Complex<f32>, Complex<f64>);

macro_rules! through_f32 {
    ($($t:ty),*) => {
        $(impl Storage for $t {
            type Compute = f32;

            fn widen(self) -> f32 {
                self.to_f32()
            }

            fn run<R: Rule<f32>>(rule: R, state: [&mut [$t]; MOST], grad: &[$t]) {
                const BLOCK: usize = 256;
                let (mut s, mut g) = ([[0f32; BLOCK]; MOST], [0f32; BLOCK]);
                let mut state = state;
                for (i, part) in grad.chunks(BLOCK).enumerate() {
                    let (at, n) = (i * BLOCK, part.len());
                    part.convert_to_f32_slice(&mut g[..n]);
                    for (s, t) in s.iter_mut().zip(&state).take(R::N) {
                        t[at..at + n].convert_to_f32_slice(&mut s[..n]);
                    }
                    let block = s.each_mut().map(|s| &mut s[..n]);
                    wide::run(Update {
                        rule,
                        state: block,
                        grad: &g[..n],
                    });
                    for (s, t) in s.iter().zip(&mut state).take(R::N) {
                        t[at..at + n].convert_from_f32_slice(&s[..n]);
                    }
                }
            }
        })*
    };
}

through_f32!(f16, bf16);
