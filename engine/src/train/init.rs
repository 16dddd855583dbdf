//! Initial values of variables.

use actorflow_core::error::{Error, Result};
use actorflow_core::{DType, Graph, Output, Shape, Tensor};

use super::partitioned::Part;

/// Makes the initial value of a variable. Names and defaults are those of TensorFlow's `*_initializer`s.
pub trait Initializer {
    /// Adds the nodes that compute a value of this shape and dtype.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is no such value of the shape or dtype.
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output>;

    /// Adds the nodes that compute a part of a partitioned variable's value. An initialiser whose values depend on the
    /// shape, or on a seed, has to see the whole.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn build_part(&self, graph: &Graph, part: &Part, dtype: DType) -> Result<Output> {
        self.build(graph, &part.shape(), dtype)
    }
}

/// The op's seed of a part: parts of one seed would be copies of each other.
fn part_seed(seed: Option<i64>, part: &Part) -> Option<i64> {
    seed.map(|s| s.wrapping_add(part.index as i64))
}

/// The value that a tensor has: of its shape and dtype.
#[derive(Debug, Clone)]
pub struct Whole(
    /// The value.
    pub Tensor,
);

impl Initializer for Whole {
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output> {
        if self.0.dtype() != dtype || self.0.shape() != shape {
            return Err(Error::invalid(format!(
                "the initial value is {} of shape {}, the variable {dtype} of shape {shape}",
                self.0.dtype(),
                self.0.shape()
            )));
        }
        graph.constant(self.0.clone())
    }

    fn build_part(&self, graph: &Graph, part: &Part, dtype: DType) -> Result<Output> {
        let whole = self.build(graph, &part.whole, dtype)?;
        let (begin, size) = (Shape::new(&part.start), part.shape());
        let (begin, size) = (dims(graph, &begin)?, dims(graph, &size)?);
        graph.op("Slice").input(&whole).input(&begin).input(&size).output()
    }
}

fn dims(graph: &Graph, shape: &Shape) -> Result<Output> {
    let dims = shape
        .dims()
        .iter()
        .map(|d| i32::try_from(*d))
        .collect::<std::result::Result<Vec<_>, _>>();
    match dims {
        Ok(d) => graph.constant(Tensor::vector(&d)),
        Err(_) => graph.constant(Tensor::vector(&shape.to_i64())),
    }
}

/// Every element the same.
#[derive(Debug, Clone, Copy)]
pub struct Constant(
    /// The value.
    pub f64,
);

impl Initializer for Constant {
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output> {
        dims(graph, shape)?.fill_with(&graph.scalar(dtype, self.0)?)
    }
}

/// All zeros.
#[derive(Debug, Clone, Copy)]
pub struct Zeros;

impl Initializer for Zeros {
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output> {
        Constant(0.0).build(graph, shape, dtype)
    }
}

/// All ones.
#[derive(Debug, Clone, Copy)]
pub struct Ones;

impl Initializer for Ones {
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output> {
        Constant(1.0).build(graph, shape, dtype)
    }
}

fn random(graph: &Graph, op: &str, shape: &Shape, dtype: DType, seed: Option<i64>) -> Result<Output> {
    let (seed, seed2) = graph.op_seeds(seed);
    graph
        .op(op)
        .input(&dims(graph, shape)?)
        .attr("dtype", dtype)
        .attr("seed", seed)
        .attr("seed2", seed2)
        .output()
}

/// Uniform in `[min, max)`.
#[derive(Debug, Clone, Copy)]
pub struct RandomUniform {
    /// The least value.
    pub min: f64,
    /// The bound above.
    pub max: f64,
    /// The op's seed; the graph's alone decides without one.
    pub seed: Option<i64>,
}

impl Initializer for RandomUniform {
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output> {
        let u = random(graph, "RandomUniform", shape, dtype, self.seed)?;
        &(&u * (self.max - self.min))? + self.min
    }

    fn build_part(&self, graph: &Graph, part: &Part, dtype: DType) -> Result<Output> {
        let seed = part_seed(self.seed, part);
        RandomUniform { seed, ..*self }.build(graph, &part.shape(), dtype)
    }
}

/// Normal with this mean and standard deviation.
#[derive(Debug, Clone, Copy)]
pub struct RandomNormal {
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub stddev: f64,
    /// The op's seed; the graph's alone decides without one.
    pub seed: Option<i64>,
}

impl Initializer for RandomNormal {
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output> {
        let n = random(graph, "RandomStandardNormal", shape, dtype, self.seed)?;
        &(&n * self.stddev)? + self.mean
    }

    fn build_part(&self, graph: &Graph, part: &Part, dtype: DType) -> Result<Output> {
        let seed = part_seed(self.seed, part);
        RandomNormal { seed, ..*self }.build(graph, &part.shape(), dtype)
    }
}

/// Normal, drawn again where it is more than two standard deviations from the mean.
#[derive(Debug, Clone, Copy)]
pub struct TruncatedNormal {
    /// The mean.
    pub mean: f64,
    /// The standard deviation before truncation.
    pub stddev: f64,
    /// The op's seed; the graph's alone decides without one.
    pub seed: Option<i64>,
}

impl Initializer for TruncatedNormal {
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output> {
        let n = random(graph, "TruncatedNormal", shape, dtype, self.seed)?;
        &(&n * self.stddev)? + self.mean
    }

    fn build_part(&self, graph: &Graph, part: &Part, dtype: DType) -> Result<Output> {
        let seed = part_seed(self.seed, part);
        TruncatedNormal { seed, ..*self }.build(graph, &part.shape(), dtype)
    }
}

/// Which of a weight's sides [`VarianceScaling`] scales by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fan {
    /// The number of inputs.
    In,
    /// The number of outputs.
    Out,
    /// Their mean.
    Average,
}

/// The distribution of [`VarianceScaling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Truncated normal.
    TruncatedNormal,
    /// Normal.
    Normal,
    /// Uniform.
    Uniform,
}

/// Values with variance `scale / n`, `n` the number of a weight's inputs or outputs.
#[derive(Debug, Clone, Copy)]
pub struct VarianceScaling {
    /// The factor.
    pub scale: f64,
    /// What `n` counts.
    pub fan: Fan,
    /// The distribution.
    pub distribution: Distribution,
    /// The op's seed; the graph's alone decides without one.
    pub seed: Option<i64>,
}

impl VarianceScaling {
    /// Glorot (Xavier) uniform: X. Glorot, Y. Bengio, AISTATS 2010.
    pub fn glorot_uniform(seed: Option<i64>) -> Self {
        VarianceScaling {
            scale: 1.0,
            fan: Fan::Average,
            distribution: Distribution::Uniform,
            seed,
        }
    }

    /// Glorot (Xavier) normal.
    pub fn glorot_normal(seed: Option<i64>) -> Self {
        VarianceScaling {
            scale: 1.0,
            fan: Fan::Average,
            distribution: Distribution::TruncatedNormal,
            seed,
        }
    }

    /// He normal, for layers that end in ReLU: K. He et al., ICCV 2015.
    pub fn he_normal(seed: Option<i64>) -> Self {
        VarianceScaling {
            scale: 2.0,
            fan: Fan::In,
            distribution: Distribution::TruncatedNormal,
            seed,
        }
    }

    /// He uniform.
    pub fn he_uniform(seed: Option<i64>) -> Self {
        VarianceScaling {
            scale: 2.0,
            fan: Fan::In,
            distribution: Distribution::Uniform,
            seed,
        }
    }

    /// LeCun normal.
    pub fn lecun_normal(seed: Option<i64>) -> Self {
        VarianceScaling {
            scale: 1.0,
            fan: Fan::In,
            distribution: Distribution::TruncatedNormal,
            seed,
        }
    }
}

/// The numbers of inputs and outputs of a weight: the last two dimensions, times the others (a convolution's).
fn fans(shape: &Shape) -> (f64, f64) {
    match shape.dims() {
        [] => (1.0, 1.0),
        [n] => (*n as f64, *n as f64),
        [receptive @ .., i, o] => {
            let r: f64 = receptive.iter().map(|d| *d as f64).product();
            (r * *i as f64, r * *o as f64)
        }
    }
}

impl Initializer for VarianceScaling {
    fn build(&self, graph: &Graph, shape: &Shape, dtype: DType) -> Result<Output> {
        self.scaled(graph, shape, shape, dtype)
    }

    fn build_part(&self, graph: &Graph, part: &Part, dtype: DType) -> Result<Output> {
        let seed = part_seed(self.seed, part);
        let of_part = VarianceScaling { seed, ..*self };
        of_part.scaled(graph, &part.whole, &part.shape(), dtype)
    }
}

impl VarianceScaling {
    /// Values of a shape, scaled for a weight of shape `weight`.
    fn scaled(&self, graph: &Graph, weight: &Shape, shape: &Shape, dtype: DType) -> Result<Output> {
        let (fan_in, fan_out) = fans(weight);
        let n = match self.fan {
            Fan::In => fan_in,
            Fan::Out => fan_out,
            Fan::Average => (fan_in + fan_out) / 2.0,
        };
        let variance = self.scale / n.max(1.0);
        if !(variance.is_finite() && variance > 0.0) {
            return Err(Error::invalid(format!(
                "the scale of an initializer must be positive, got {}",
                self.scale
            )));
        }
        let (mean, seed) = (0.0, self.seed);
        match self.distribution {
            // A normal distribution cut at two deviations has 0.8796… of the deviation.
            Distribution::TruncatedNormal => {
                let stddev = variance.sqrt() / 0.879_625_661_034_239_8;
                TruncatedNormal { mean, stddev, seed }.build(graph, shape, dtype)
            }
            Distribution::Normal => RandomNormal {
                mean,
                stddev: variance.sqrt(),
                seed,
            }
            .build(graph, shape, dtype),
            Distribution::Uniform => {
                let limit = (3.0 * variance).sqrt();
                RandomUniform {
                    min: -limit,
                    max: limit,
                    seed,
                }
                .build(graph, shape, dtype)
            }
        }
    }
}
