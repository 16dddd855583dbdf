//! The processor's measured peak of fused multiply-adds: independent chains in registers.

use std::sync::Barrier;
use std::time::Instant;

/// How it was measured.
pub(crate) const NOTE: &str = "independent FMA chains in the widest registers, pinned threads, summed";

/// Iterations of one measurement: some 50 ms.
const ROUNDS: u64 = 12_000_000;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// 16 chains of 16 lanes; the flops done.
    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(rounds: u64) -> f64 {
        let (m, c) = (_mm512_set1_ps(0.999), _mm512_set1_ps(0.001));
        let mut a = [c; 16];
        for _ in 0..rounds {
            for x in &mut a {
                *x = _mm512_fmadd_ps(*x, m, c);
            }
        }
        let mut sum = _mm512_setzero_ps();
        for x in a {
            sum = _mm512_add_ps(sum, x);
        }
        std::hint::black_box(_mm512_reduce_add_ps(sum));
        rounds as f64 * 16.0 * 32.0
    }

    /// 12 chains of 8 lanes; the flops done.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(rounds: u64) -> f64 {
        let (m, c) = (_mm256_set1_ps(0.999), _mm256_set1_ps(0.001));
        let mut a = [c; 12];
        for _ in 0..rounds {
            for x in &mut a {
                *x = _mm256_fmadd_ps(*x, m, c);
            }
        }
        let mut sum = _mm256_setzero_ps();
        for x in a {
            sum = _mm256_add_ps(sum, x);
        }
        let mut lanes = [0f32; 8];
        // SAFETY: the array has room for the eight lanes.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        std::hint::black_box(lanes);
        rounds as f64 * 12.0 * 16.0
    }
}

/// Flops done by `rounds` iterations on this thread.
fn chains(rounds: u64) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return unsafe { x86::avx512(rounds) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            return unsafe { x86::avx2(rounds) };
        }
    }
    let mut a = [0.5f32; 32];
    for _ in 0..rounds {
        for x in &mut a {
            *x = *x * 0.999 + 0.001;
        }
    }
    std::hint::black_box(a);
    rounds as f64 * 64.0
}

/// GFLOP/s of `threads` pinned threads together, several times.
pub(crate) fn gflops(threads: usize, samples: usize) -> Vec<f64> {
    let cores = crate::measure::cores();
    (0..samples)
        .map(|_| {
            let barrier = Barrier::new(threads);
            let one = |i: usize| {
                if let Some(c) = cores.get(cores.len().wrapping_sub(1 + i)) {
                    core_affinity::set_for_current(*c);
                }
                barrier.wait();
                let t = Instant::now();
                let flops = chains(ROUNDS);
                flops / t.elapsed().as_secs_f64() * 1e-9
            };
            std::thread::scope(|s| {
                let one = &one;
                let runs: Vec<_> = (0..threads).map(|i| s.spawn(move || one(i))).collect();
                runs.into_iter().filter_map(|h| h.join().ok()).sum()
            })
        })
        .collect()
}
