//! Compiles a piece of work for the instruction sets that a processor may have, and runs the widest.
//!
//! [`math::simd`](crate::math::simd) does this for functions of single elements; this is for loops with a shape of
//! their own, such as sums. A [`Work`] is written in plain Rust that compilers vectorise: fixed-size arrays of lanes,
//! no branches and no calls in the innermost loop, everything `#[inline(always)]`.

use crate::math::madd::{Baseline, Madd};
use crate::math::simd::{Level, level};

/// A piece of work that gains from wide registers: its operands, and the loop over them.
pub trait Work {
    /// What it computes.
    type Out;

    /// The loop. Must be `#[inline(always)]`, as must be whatever it calls in its innermost loop.
    fn run<M: Madd>(self) -> Self::Out;
}

/// Runs `work` with the widest instructions that this processor has.
#[inline]
pub fn run<W: Work>(work: W) -> W::Out {
    match level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` found the instruction set, which is all that the function asks for.
        Level::Avx512 => unsafe { avx512(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2(work) },
        _ => work.run::<Baseline>(),
    }
}

/// # Safety
/// The processor has the features named.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
unsafe fn avx512<W: Work>(work: W) -> W::Out {
    work.run::<crate::math::madd::Fused>()
}

/// # Safety
/// The processor has the features named.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
unsafe fn avx2<W: Work>(work: W) -> W::Out {
    work.run::<crate::math::madd::Fused>()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dot<'a>(&'a [f32], &'a [f32]);

    impl Work for Dot<'_> {
        type Out = f32;
        #[inline(always)]
        fn run<M: Madd>(self) -> f32 {
            self.0.iter().zip(self.1).fold(0.0, |s, (a, b)| M::f32(*a, *b, s))
        }
    }

    #[test]
    fn work_runs_with_what_the_processor_has() {
        assert_eq!(run(Dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0])), 32.0);
    }
}
