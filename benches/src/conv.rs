//! A LeNet on images of 28 × 28: training steps a second with batches of 64, and the forward pass of 64 images and of
//! one. The same model as the peers' `conv_train.py`.

use actorflow::nn::{self, Padding};
use actorflow::train::optimizer::{GradientDescent, Optimizer};
use actorflow::{DType, Graph, GraphVariables, Operation, Output, Result, Session, Tensor};

use crate::matmul::noise;
use crate::measure::Settings;
use crate::report::Report;

const SIDE: usize = 28;
const FILTERS: [usize; 3] = [1, 32, 64];
const WINDOW: usize = 5;
const DENSE: [usize; 3] = [7 * 7 * 64, 512, 10];

/// A layer's weights of this shape, and its biases.
fn layer(g: &Graph, name: &str, shape: &[usize]) -> Result<(Output, Output)> {
    let size: usize = shape.iter().product();
    let to = shape[shape.len() - 1];
    let scale = (2.0 / (size / to) as f32).sqrt();
    let values: Vec<f32> = noise(size, size as u64).into_iter().map(|v| v * scale).collect();
    let w = g.variable(&format!("{name}_weights"), Tensor::from_slice(shape, &values)?)?;
    let b = g.variable(&format!("{name}_biases"), Tensor::zeros(DType::F32, [to])?)?;
    Ok((w.value().clone(), b.value().clone()))
}

/// The graph, with the batch in a variable; what trains, or else computes the logits.
fn model(batch: usize, train: bool) -> Result<(Graph, Operation)> {
    let g = Graph::new();
    let pixels: Vec<f32> = noise(batch * SIDE * SIDE, 3).into_iter().map(f32::abs).collect();
    let labels: Vec<i32> = noise(batch, 4).into_iter().map(|v| (v.abs() * 9.999) as i32).collect();
    let images = Tensor::from_slice([batch, SIDE, SIDE, 1], &pixels)?;
    let x = g.variable_builder("x").not_trainable().build(images)?;
    let labels = Tensor::from_slice([batch], &labels)?;
    let y = g.variable_builder("y").not_trainable().build(labels)?;
    let mut h = x.value().clone();
    for (i, f) in FILTERS.windows(2).enumerate() {
        let (w, b) = layer(&g, &format!("c{}", i + 1), &[WINDOW, WINDOW, f[0], f[1]])?;
        h = nn::conv2d(&h, &w, [1, 1], Padding::Same)?.bias_add(&b)?.relu()?;
        h = nn::max_pool(&h, [2, 2], [2, 2], Padding::Same)?;
    }
    h = h.reshape(&[batch as i64, DENSE[0] as i64])?;
    for (i, d) in DENSE.windows(2).enumerate() {
        let (w, b) = layer(&g, &format!("d{}", i + 1), d)?;
        h = h.matmul(&w)?.bias_add(&b)?;
        if i + 2 < DENSE.len() {
            h = h.relu()?;
        }
    }
    let target = if train {
        let loss = nn::sparse_softmax_cross_entropy(&h, y.value())?.mean(&[], false)?;
        Optimizer::from(GradientDescent::new(0.01)).minimize(&loss)?
    } else {
        h.op()
    };
    Ok((g, target))
}

/// Measures everything of this subject.
///
/// # Errors
/// If a graph cannot be built or run.
pub(crate) fn run(m: &Settings, out: &mut Report) -> Result<()> {
    for (batch, train) in [(64, true), (64, false), (1, false)] {
        let bench = format!("cnn_{}_b{batch}", if train { "train" } else { "forward" });
        if !out.wants(&bench) {
            continue;
        }
        let (g, target) = model(batch, train)?;
        let s = Session::with_options(&g, m.session())?;
        s.execute(&[&g.global_variables_initializer()?])?;
        let step = s.callable(&[], &[], &[&target])?;
        let rates = m.rates(|| step.call(&[]).map(drop))?;
        let note = "NHWC, batch in a variable, prepared callable";
        out.row(&bench, m.threads, &rates, "steps/s", note)?;
        out.nodes(&step.costs());
    }
    Ok(())
}
