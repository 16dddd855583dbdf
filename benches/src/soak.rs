//! A small training step, very often: resident memory must stay flat.

use std::time::Instant;

use actorflow::train::optimizer::{Adam, Optimizer};
use actorflow::{DType, Graph, GraphVariables, Result, Session, Tensor};

use crate::matmul::noise;
use crate::measure::Settings;

/// Resident bytes of this process, where the platform tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Runs `runs` training steps of a 16-32-4 perceptron on fed batches of 8 and prints memory ten times on the way.
///
/// # Errors
/// If a step fails; `RESOURCE_EXHAUSTED` if memory has grown by more than a tenth (and 4 MiB) since the first tenth.
pub(crate) fn run(m: &Settings, runs: u64) -> Result<()> {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, [8, 16])?;
    let y = g.placeholder("y", DType::I32, [8])?;
    let w1 = g.variable("w1", Tensor::from_slice([16, 32], &noise(512, 1))?)?;
    let w2 = g.variable("w2", Tensor::from_slice([32, 4], &noise(128, 2))?)?;
    let logits = x.matmul(&w1)?.relu()?.matmul(&w2)?;
    let loss = g
        .op("SparseSoftmaxCrossEntropyWithLogits")
        .input(&logits)
        .input(&y)
        .output()?
        .mean(&[], false)?;
    let train = Optimizer::from(Adam::new(1e-3)).minimize(&loss)?;
    let s = Session::with_options(&g, m.session())?;
    s.execute(&[&g.global_variables_initializer()?])?;
    let step = s.callable(&[&x, &y], &[&loss], &[&train])?;
    let batches = (0..64u64)
        .map(|i| {
            let labels: Vec<i32> = (0..8).map(|j| ((i + j) % 4) as i32).collect();
            Ok([
                Tensor::from_slice([8, 16], &noise(128, i + 3))?,
                Tensor::from_slice([8], &labels)?,
            ])
        })
        .collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let mut first = None;
    let tenth = (runs / 10).max(1);
    for i in 1..=runs {
        step.call(&batches[(i % 64) as usize])?;
        if i % tenth == 0 {
            let rss = resident().unwrap_or(0);
            let from = *first.get_or_insert(rss);
            crate::tell::line(format_args!(
                "{i:>9} runs  {:>8.1} s  resident {:>8.2} MiB  ({:+.2} MiB)",
                begun.elapsed().as_secs_f64(),
                rss as f64 / f64::from(1 << 20),
                (rss as f64 - from as f64) / f64::from(1 << 20)
            ))?;
            if rss > from + from / 10 + (4 << 20) {
                return Err(actorflow::Error::exhausted(
                    "resident memory grows with the number of runs",
                ));
            }
        }
    }
    Ok(())
}
