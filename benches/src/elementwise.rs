//! A chain of element-wise operations over 10 million floats, softmax, and sums along both axes. The same subjects
//! as the peers' `elementwise.py`.

use actorflow::{Graph, GraphVariables, Output, Result, Session, Tensor};

use crate::matmul::noise;
use crate::measure::Settings;
use crate::report::Report;

const ELEMENTS: usize = 10_000_000;

type Build = fn(&Graph, &Output) -> Result<Output>;

/// Measures everything of this subject.
///
/// # Errors
/// If a graph cannot be built or run.
pub(crate) fn run(m: &Settings, out: &mut Report) -> Result<()> {
    let chain: Build = |g, x| {
        let (a, b) = (g.variable("a", 1.5f32)?, g.variable("b", 0.5f32)?);
        let inner = (&a.times(x)? + b.value())?.sigmoid()?;
        &inner.times(x)? + x.tanh()?
    };
    let subjects: [(&str, Vec<usize>, f64, Build); 4] = [
        ("chain_10m", vec![ELEMENTS], ELEMENTS as f64 * 8.0, chain),
        ("softmax_1024x1000", vec![1024, 1000], 1024.0 * 1000.0 * 8.0, |_, x| {
            x.softmax()
        }),
        (
            "reduce_sum_axis0_4096",
            vec![4096, 4096],
            4096.0 * 4096.0 * 4.0,
            |_, x| x.sum(&[0], false),
        ),
        (
            "reduce_sum_axis1_4096",
            vec![4096, 4096],
            4096.0 * 4096.0 * 4.0,
            |_, x| x.sum(&[1], false),
        ),
    ];
    for (name, shape, bytes, build) in subjects {
        if !out.wants(name) {
            continue;
        }
        let g = Graph::new();
        let n: usize = shape.iter().product();
        let x = g.variable("x", Tensor::from_slice(shape, &noise(n, 3))?)?;
        let y = build(&g, &x)?;
        let s = Session::with_options(&g, m.session())?;
        s.execute(&[&g.global_variables_initializer()?])?;
        let run = s.callable(&[], &[], &[&y.op()])?;
        let rates = m.rates(|| run.call(&[]).map(drop))?;
        let ms: Vec<f64> = rates.iter().map(|r| 1e3 / r).collect();
        let gb: Vec<f64> = rates.iter().map(|r| r * bytes / 1e9).collect();
        let traffic = if name.starts_with("reduce") {
            "one read"
        } else {
            "one read, one write"
        };
        out.row(name, m.threads, &ms, "ms", "prepared callable, result not fetched")?;
        out.row(name, m.threads, &gb, "GB/s", &format!("ideal traffic only: {traffic}"))?;
    }
    Ok(())
}
