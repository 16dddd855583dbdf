//! Driving the vector engine for `f32` and `f64`: instruction set, plan, and chunks of work for the device's workers.

use super::block::{self, block};
use super::chain::Linked;
use super::micro::Isa;
use super::plan;
use super::simd::{Portable, Real};
use super::{Batch, Element, sealed::Multiply};
use actorflow_core::parallel::Parallel;

/// Computes a batch with the instruction set of `S`.
///
/// # Safety
/// The CPU has that instruction set, and the batch's pointers are valid for its extents.
unsafe fn run<S: Isa>(par: &dyn Parallel, batch: &Batch<'_, S::T>) {
    let (product, plan) = plan::plan(batch.product, S::LANES, S::MAX_ROWS);
    let chunks = plan::chunks(&product, batch.count, par.threads(), S::LANES, S::MAX_ROWS);
    let body = |chunk: usize| {
        assert!(chunk < chunks.count, "only the chunks asked for are run");
        let (products, part) = chunks.get(chunk);
        let (rows, cols) = chunks.grid.block(part);
        for i in products {
            let mut one = batch.get(i);
            if product.turned {
                one = one.turn();
            }
            // SAFETY: the caller vouches for CPU and pointers; blocks of a grid and products of a batch are disjoint.
            unsafe { block::<S>(&one, &plan, rows.clone(), cols.clone()) };
        }
    };
    if chunks.count == 1 {
        body(0);
    } else {
        par.run(chunks.count, &body);
    }
}

/// Computes a sum of products with the instruction set of `S`.
///
/// # Safety
/// As for [`run`].
unsafe fn chain<S: Isa>(sum: &Linked<'_, S::T>) {
    // SAFETY: the caller's promise is the same.
    unsafe { block::chain::<S>(sum, &plan::layout(&sum.product, S::LANES)) }
}

macro_rules! multiply {
    ($t:ty, $avx512:ident, $avx2:ident, $lanes:literal) => {
        impl Element for $t {}

        impl Multiply for $t {
            const UNIT: $t = <$t as Real>::ONE;

            fn multiply(par: &dyn Parallel, batch: &Batch<'_, $t>) {
                #[cfg(target_arch = "x86_64")]
                {
                    if std::arch::is_x86_feature_detected!("avx512f") {
                        // SAFETY: the feature was just detected; a batch is made with checked pointers only.
                        return unsafe { run::<super::x86::$avx512>(par, batch) };
                    }
                    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                        // SAFETY: the features were just detected; a batch is made with checked pointers only.
                        return unsafe { run::<super::x86::$avx2>(par, batch) };
                    }
                }
                // SAFETY: portable code runs everywhere; a batch is made with checked pointers only.
                unsafe { run::<Portable<$t, $lanes>>(par, batch) }
            }

            fn chain(sum: &Linked<'_, $t>) {
                #[cfg(target_arch = "x86_64")]
                {
                    if std::arch::is_x86_feature_detected!("avx512f") {
                        // SAFETY: the feature was just detected; a sum is made with checked pointers only.
                        return unsafe { chain::<super::x86::$avx512>(sum) };
                    }
                    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                        // SAFETY: the features were just detected; a sum is made with checked pointers only.
                        return unsafe { chain::<super::x86::$avx2>(sum) };
                    }
                }
                // SAFETY: portable code runs everywhere; a sum is made with checked pointers only.
                unsafe { chain::<Portable<$t, $lanes>>(sum) }
            }
        }
    };
}

multiply!(f32, Avx512F32, Avx2F32, 4);
multiply!(f64, Avx512F64, Avx2F64, 2);
