//! Single-precision matrix products, and what share of the measured peak they reach.

use actorflow::{Graph, GraphVariables, Passes, Result, Session, SessionOptions, Tensor};

use crate::measure::Settings;
use crate::peak;
use crate::report::Report;

const SHAPES: [(usize, usize, usize); 8] = [
    (64, 64, 64),
    (128, 128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (128, 784, 512),
    (128, 512, 10),
];

/// Deterministic numbers in -1..1.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Measures everything of this subject.
///
/// # Errors
/// If a graph cannot be built or run.
pub(crate) fn run(m: &Settings, out: &mut Report) -> Result<()> {
    let mut peak = 0f64;
    if out.wants("cpu_fma_peak") || out.wants("sgemm") {
        let samples = peak::gflops(m.threads, m.samples);
        peak = samples.iter().copied().fold(0.0, f64::max);
        out.row("cpu_fma_peak", m.threads, &samples, "GFLOP/s", peak::NOTE)?;
    }
    for (r, k, c) in SHAPES {
        let name = format!("sgemm_{r}x{k}x{c}");
        if !out.wants(&name) {
            continue;
        }
        let flop = 2.0 * (r * k * c) as f64;
        for many in [false, true] {
            // Enough products in one run to hide what a run costs.
            let count = if many { ((2e9 / flop) as usize).clamp(2, 100) } else { 1 };
            let g = Graph::new();
            let a = g.variable("a", Tensor::from_slice([r, k], &noise(r * k, 1))?)?;
            let b = g.variable("b", Tensor::from_slice([k, c], &noise(k * c, 2))?)?;
            let mut last = a.matmul(&b)?.op();
            for _ in 1..count {
                let _after = g.control_dependencies(&[last]);
                last = a.matmul(&b)?.op();
            }
            let s = Session::with_options(
                &g,
                SessionOptions {
                    passes: Passes::NONE,
                    ..m.session()
                },
            )?;
            s.execute(&[&g.global_variables_initializer()?])?;
            let run = s.callable(&[], &[], &[&last])?;
            let rates = m.rates(|| run.call(&[]).map(drop))?;
            let gf: Vec<f64> = rates.iter().map(|x| x * flop * count as f64 * 1e-9).collect();
            let best = gf.iter().copied().fold(0.0, f64::max);
            let share = if peak > 0.0 {
                format!("; best {:.0} % of the peak", 100.0 * best / peak)
            } else {
                String::new()
            };
            let note = if many {
                format!("{count} products in a control chain per run{share}")
            } else {
                format!("one product per run{share}")
            };
            out.row(&name, m.threads, &gf, "GFLOP/s", &note)?;
        }
    }
    Ok(())
}
