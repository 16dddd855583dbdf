//! Runs an update rule over slices at the width of the processor.

use actorflow_core::Element;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use num_complex::Complex;

use super::rule::{Field, MOST, Rule};

/// The loops of one instruction set.
///
/// Each number of slices has a function of its own: slices that are arguments are known not to overlap, which slices
/// in an array are not, and a loop over more than a few slices that may overlap is not vectorised.
macro_rules! loops {
    ($name:ident, $(#[$feature:meta])*) => {
        mod $name {
            use super::*;

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run1<F: Field, R: Rule<F>>(r: R, a: &mut [F], g: &[F]) {
                let z = F::default();
                for (a, g) in a.iter_mut().zip(g) {
                    [*a, _, _, _] = r.step([*a, z, z, z], *g);
                }
            }

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run2<F: Field, R: Rule<F>>(r: R, a: &mut [F], b: &mut [F], g: &[F]) {
                let z = F::default();
                for ((a, b), g) in a.iter_mut().zip(b).zip(g) {
                    [*a, *b, _, _] = r.step([*a, *b, z, z], *g);
                }
            }

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run3<F: Field, R: Rule<F>>(r: R, a: &mut [F], b: &mut [F], c: &mut [F], g: &[F]) {
                let z = F::default();
                for (((a, b), c), g) in a.iter_mut().zip(b).zip(c).zip(g) {
                    [*a, *b, *c, _] = r.step([*a, *b, *c, z], *g);
                }
            }

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run4<F: Field, R: Rule<F>>(
                r: R,
                a: &mut [F],
                b: &mut [F],
                c: &mut [F],
                d: &mut [F],
                g: &[F],
            ) {
                for ((((a, b), c), d), g) in a.iter_mut().zip(b).zip(c).zip(d).zip(g) {
                    [*a, *b, *c, *d] = r.step([*a, *b, *c, *d], *g);
                }
            }

            $(#[$feature])*
            pub(super) unsafe fn run<F: Field, R: Rule<F>>(r: R, [a, b, c, d]: [&mut [F]; MOST], g: &[F]) {
                // SAFETY: the caller has the instructions, which is all that the loops ask for.
                #[allow(unused_unsafe)]
                unsafe {
                    match R::N {
                        1 => run1(r, a, g),
                        2 => run2(r, a, b, g),
                        3 => run3(r, a, b, c, g),
                        _ => run4(r, a, b, c, d, g),
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
loops!(avx512, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2")]);
#[cfg(target_arch = "x86_64")]
loops!(avx2, #[target_feature(enable = "avx2,fma,bmi1,bmi2")]);
loops!(baseline,);

fn run<F: Field, R: Rule<F>>(rule: R, state: [&mut [F]; MOST], grad: &[F]) {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx2 && avx512 {
            // SAFETY: the processor has the instructions.
            return unsafe { avx512::run(rule, state, grad) };
        }
        if avx2 {
            // SAFETY: the processor has the instructions.
            return unsafe { avx2::run(rule, state, grad) };
        }
    }
    // SAFETY: the loops need nothing that the build's target does not have.
    #[allow(unused_unsafe)]
    unsafe {
        baseline::run(rule, state, grad)
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
                run(rule, state, grad);
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
                    run(rule, s.each_mut().map(|s| &mut s[..n]), &g[..n]);
                    for (s, t) in s.iter().zip(&mut state).take(R::N) {
                        t[at..at + n].convert_from_f32_slice(&s[..n]);
                    }
                }
            }
        })*
    };
}

through_f32!(f16, bf16);
