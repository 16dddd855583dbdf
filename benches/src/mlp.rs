//! Training steps a second of the perceptron 784-512-256-10, on data in memory: batches of 32, 128 and 1024, plain
//! gradient descent and Adam. The same model as the peers' `mlp_train.py`.

use actorflow::train::optimizer::{Adam, GradientDescent, Optimizer};
use actorflow::{DType, Graph, GraphVariables, Operation, Output, Result, Session, Tensor};

use crate::matmul::noise;
use crate::measure::Settings;
use crate::report::Report;

pub(crate) const LAYERS: [usize; 4] = [784, 512, 256, 10];
const BATCHES: [usize; 3] = [32, 128, 1024];
/// Rows of data; steps walk over them.
pub(crate) const POOL: usize = 8192;

/// Floating-point operations of the matrix products of one step: forward, and backward to weights and layers (the
/// input's gradient is not needed).
fn step_flop(batch: usize) -> f64 {
    let products: usize = LAYERS.windows(2).map(|w| w[0] * w[1]).sum();
    let backward_to_layers: usize = LAYERS.windows(2).skip(1).map(|w| w[0] * w[1]).sum();
    2.0 * batch as f64 * (2 * products + backward_to_layers) as f64
}

struct Model {
    graph: Graph,
    train: Operation,
    loss: Output,
}

/// Pixels and labels.
pub(crate) fn data() -> Result<(Tensor, Tensor)> {
    let pixels: Vec<f32> = noise(POOL * LAYERS[0], 7).into_iter().map(f32::abs).collect();
    let labels: Vec<i32> = noise(POOL, 9).into_iter().map(|v| (v.abs() * 9.999) as i32).collect();
    Ok((
        Tensor::from_slice([POOL, LAYERS[0]], &pixels)?,
        Tensor::from_slice([POOL], &labels)?,
    ))
}

/// The perceptron's mean loss.
pub(crate) fn loss(x: &Output, y: &Output) -> Result<Output> {
    let g = x.graph().clone();
    let mut h = x.clone();
    for (i, w) in LAYERS.windows(2).enumerate() {
        let scale = (2.0 / w[0] as f32).sqrt();
        let values: Vec<f32> = noise(w[0] * w[1], i as u64 + 1)
            .into_iter()
            .map(|v| v * scale)
            .collect();
        let weights = g.variable(&format!("w{i}"), Tensor::from_slice([w[0], w[1]], &values)?)?;
        let biases = g.variable(&format!("b{i}"), Tensor::zeros(DType::F32, [w[1]])?)?;
        h = h.matmul(&weights)?.bias_add(&biases)?;
        if i + 2 < LAYERS.len() {
            h = h.relu()?;
        }
    }
    let xent = g
        .op("SparseSoftmaxCrossEntropyWithLogits")
        .input(&h)
        .input(y)
        .output()?;
    xent.mean(&[], false)
}

fn model(x: &Output, y: &Output, optimizer: &Optimizer) -> Result<Model> {
    let graph = x.graph().clone();
    let loss = loss(x, y)?;
    let train = optimizer.minimize(&loss)?;
    Ok(Model { graph, train, loss })
}

/// Measures everything of this subject.
///
/// # Errors
/// If a graph cannot be built or run.
pub(crate) fn run(m: &Settings, out: &mut Report) -> Result<()> {
    let (xs, ys) = data()?;
    for (name, optimizer) in [
        ("sgd", Optimizer::from(GradientDescent::new(0.01))),
        ("adam", Optimizer::from(Adam::new(0.001))),
    ] {
        for batch in BATCHES {
            let bench = format!("mlp_{name}_b{batch}");
            if !out.wants(&bench) {
                continue;
            }
            let share = |rates: &[f64]| {
                let best = rates.iter().copied().fold(0.0, f64::max);
                format!("best {:.1} GFLOP/s", best * step_flop(batch) * 1e-9)
            };
            {
                let g = Graph::new();
                let x = g.placeholder("x", DType::F32, [batch, LAYERS[0]])?;
                let y = g.placeholder("y", DType::I32, [batch])?;
                let model = model(&x, &y, &optimizer)?;
                let s = Session::with_options(&g, m.session())?;
                s.execute(&[&model.graph.global_variables_initializer()?])?;
                let step = s.callable(&[&x, &y], &[], &[&model.train])?;
                let mut at = 0;
                let rates = m.rates(|| {
                    // Rows of the pool are views, as a batch of a NumPy array is.
                    let feeds = [xs.slice_rows(at, at + batch)?, ys.slice_rows(at, at + batch)?];
                    at = (at + batch) % POOL;
                    step.call(&feeds).map(drop)
                })?;
                let note = format!("prepared callable, batch fed each step; {}", share(&rates));
                out.row(&bench, m.threads, &rates, "steps/s", &note)?;
                out.nodes(&step.costs());
                if batch == 128 {
                    let mut at = 0;
                    let rates = m.rates(|| {
                        let (a, b) = (xs.slice_rows(at, at + batch)?, ys.slice_rows(at, at + batch)?);
                        at = (at + batch) % POOL;
                        s.runner()
                            .feed(&x, a)
                            .feed(&y, b)
                            .fetch(&model.loss)
                            .target(&model.train)
                            .run()
                            .map(drop)
                    })?;
                    out.row(
                        &bench,
                        m.threads,
                        &rates,
                        "steps/s",
                        "session run with feeds, loss fetched",
                    )?;
                }
            }
            let g = Graph::new();
            let x = g
                .variable_builder("x")
                .not_trainable()
                .build(xs.slice_rows(0, batch)?)?;
            let y = g
                .variable_builder("y")
                .not_trainable()
                .build(ys.slice_rows(0, batch)?)?;
            let model = model(&x, &y, &optimizer)?;
            let s = Session::with_options(&g, m.session())?;
            s.execute(&[&g.global_variables_initializer()?])?;
            let step = s.callable(&[], &[], &[&model.train])?;
            let rates = m.rates(|| step.call(&[]).map(drop))?;
            out.row(
                &bench,
                m.threads,
                &rates,
                "steps/s",
                &format!("batch in a variable, no feed; {}", share(&rates)),
            )?;
        }
    }
    Ok(())
}
