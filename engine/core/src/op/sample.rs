//! Building operations with random inputs, for tests that run over the whole registry.

use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, OpBuilder, Operation, Output};
use crate::philox::{Philox, uniform_f64};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Builds one node of an operation with inputs drawn from the sampler.
pub type SampleFn = fn(&mut Sampler) -> Result<Operation>;

/// A graph, a source of random inputs and what was drawn from it.
pub struct Sampler {
    graph: Graph,
    random: Philox,
    inputs: Vec<(Output, Tensor)>,
}

impl Sampler {
    /// An empty graph and the random stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Sampler {
            graph: Graph::new(),
            random: Philox::new(seed, 0x5a3b),
            inputs: Vec::new(),
        }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Starts a node.
    #[track_caller]
    pub fn op(&self, name: &str) -> OpBuilder {
        self.graph.op(name)
    }

    /// The placeholders of the inputs that were drawn and their values: what gradients are taken with respect to.
    pub fn inputs(&self) -> &[(Output, Tensor)] {
        &self.inputs
    }

    /// A uniform number in `lo..hi`.
    pub fn number(&mut self, lo: f64, hi: f64) -> f64 {
        let b = self.random.next_block();
        lo + (hi - lo) * uniform_f64(b[0], b[1])
    }

    /// A differentiable float64 input with elements drawn uniformly from `lo..hi`.
    ///
    /// # Errors
    /// If the shape is impossible.
    #[track_caller]
    pub fn uniform(&mut self, shape: impl Into<Shape>, lo: f64, hi: f64) -> Result<Output> {
        let shape = shape.into();
        let values: Vec<f64> = (0..shape.checked_count()?).map(|_| self.number(lo, hi)).collect();
        self.input(Tensor::from_slice(shape, &values)?)
    }

    /// A differentiable float64 input drawn from -2..2, no element nearer to 0 than 0.1 (where many functions
    /// have a kink), no two elements nearer to each other than about 0.01 (so that extremes are unique).
    ///
    /// # Errors
    /// If the shape is impossible.
    #[track_caller]
    pub fn normal(&mut self, shape: impl Into<Shape>) -> Result<Output> {
        let shape = shape.into();
        let n = shape.checked_count()?;
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            let j = self.number(0.0, (i + 1) as f64) as usize;
            order.swap(i, j.min(i));
        }
        let step = 3.8 / n.max(1) as f64;
        let values: Vec<f64> = order
            .into_iter()
            .map(|k| {
                let x = -1.9 + step * (k as f64 + self.number(0.3, 0.7));
                if x < 0.0 { x - 0.1 } else { x + 0.1 }
            })
            .collect();
        self.input(Tensor::from_slice(shape, &values)?)
    }

    /// A differentiable float64 input drawn from 0.5..2.
    ///
    /// # Errors
    /// If the shape is impossible.
    #[track_caller]
    pub fn positive(&mut self, shape: impl Into<Shape>) -> Result<Output> {
        self.uniform(shape, 0.5, 2.0)
    }

    /// A differentiable input of this very value.
    ///
    /// # Errors
    /// If the placeholder cannot be added.
    #[track_caller]
    pub fn input(&mut self, value: Tensor) -> Result<Output> {
        let name = format!("in{}", self.inputs.len());
        let p = self.graph.placeholder(&name, value.dtype(), value.shape())?;
        self.inputs.push((p.clone(), value));
        Ok(p)
    }

    /// A constant: indices, axes, shapes, labels.
    ///
    /// # Errors
    /// If the constant cannot be added.
    #[track_caller]
    pub fn constant(&self, value: impl Into<Tensor>) -> Result<Output> {
        self.graph.constant(value)
    }

    /// A float64 scalar constant.
    ///
    /// # Errors
    /// If the constant cannot be added.
    #[track_caller]
    pub fn scalar(&self, x: f64) -> Result<Output> {
        self.graph.scalar(DType::F64, x)
    }
}
