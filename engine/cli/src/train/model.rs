//! The classifiers as graphs.

use actorflow::nn::{self, Padding};
use actorflow::train::init::{VarianceScaling, Zeros};
use actorflow::train::optimizer::{
    AdaDelta, Adagrad, Adam, Ftrl, GradientDescent, Hyper, Momentum, Optimizer, ProximalGradientDescent, RmsProp,
};
use actorflow::train::schedule::polynomial_decay;
use actorflow::{DType, Error, Graph, GraphVariables, Operation, Output, PartialShape, Result};
use clap::ValueEnum;

/// The update rules that the command offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OptimizerName {
    /// Gradient descent.
    Sgd,
    /// Momentum 0.9.
    Momentum,
    /// Nesterov's momentum 0.9.
    Nesterov,
    /// Adagrad.
    Adagrad,
    /// Adadelta.
    Adadelta,
    /// Adam.
    Adam,
    /// RMSProp.
    Rmsprop,
    /// Follow the regularised leader.
    Ftrl,
    /// Proximal gradient descent with a little L2 regularisation.
    Proximal,
}

impl OptimizerName {
    /// The name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            OptimizerName::Sgd => "sgd",
            OptimizerName::Momentum => "momentum",
            OptimizerName::Nesterov => "nesterov",
            OptimizerName::Adagrad => "adagrad",
            OptimizerName::Adadelta => "adadelta",
            OptimizerName::Adam => "adam",
            OptimizerName::Rmsprop => "rmsprop",
            OptimizerName::Ftrl => "ftrl",
            OptimizerName::Proximal => "proximal",
        }
    }

    fn default_rate(self) -> f64 {
        match self {
            OptimizerName::Sgd | OptimizerName::Proximal => 0.1,
            OptimizerName::Momentum | OptimizerName::Nesterov => 0.05,
            OptimizerName::Adagrad | OptimizerName::Ftrl => 0.1,
            OptimizerName::Adadelta => 1.0,
            OptimizerName::Adam | OptimizerName::Rmsprop => 0.001,
        }
    }

    fn build(self, rate: impl Into<Hyper>) -> Optimizer {
        match self {
            OptimizerName::Sgd => GradientDescent::new(rate).into(),
            OptimizerName::Momentum => Momentum::new(rate, 0.9).into(),
            OptimizerName::Nesterov => Momentum::new(rate, 0.9).nesterov().into(),
            OptimizerName::Adagrad => Adagrad::new(rate).into(),
            OptimizerName::Adadelta => AdaDelta::new(rate).into(),
            OptimizerName::Adam => Adam::new(rate).into(),
            OptimizerName::Rmsprop => RmsProp::new(rate).into(),
            OptimizerName::Ftrl => Ftrl::new(rate).into(),
            OptimizerName::Proximal => ProximalGradientDescent::new(rate, 0.0, 1e-4).into(),
        }
    }
}

/// Which classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ModelName {
    /// One hidden layer of ReLUs.
    Mlp,
    /// Two convolutions of 5 × 5 with pooling, then a hidden layer; after Y. LeCun's LeNet. For square images.
    Lenet,
    /// Softmax regression, without a hidden layer.
    Softmax,
}

impl ModelName {
    /// The name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            ModelName::Mlp => "mlp",
            ModelName::Lenet => "lenet",
            ModelName::Softmax => "softmax",
        }
    }

    /// How often it goes over the rows unless told otherwise.
    pub(super) fn default_epochs(self) -> u32 {
        match self {
            ModelName::Lenet => 6,
            ModelName::Mlp | ModelName::Softmax => 40,
        }
    }

    /// Units of the hidden layer unless told otherwise.
    fn default_hidden(self) -> usize {
        match self {
            ModelName::Lenet => 128,
            ModelName::Mlp | ModelName::Softmax => 256,
        }
    }

    /// Whether it has a layer between the first and the last.
    pub(super) fn has_hidden_layer(self) -> bool {
        match self {
            ModelName::Mlp | ModelName::Lenet => true,
            ModelName::Softmax => false,
        }
    }

    /// Whether its learning rate falls to zero by the last step.
    pub(super) fn rate_falls(self) -> bool {
        matches!(self, ModelName::Lenet)
    }

    /// What an optimizer's own learning rate is multiplied by. LeNet's falls to zero and may begin higher.
    fn rate_factor(self) -> f64 {
        match self {
            ModelName::Lenet => 2.0,
            ModelName::Mlp | ModelName::Softmax => 1.0,
        }
    }
}

/// Filters of LeNet's two convolutions.
const FILTERS: [usize; 2] = [16, 32];

/// What to build.
pub(super) struct Setup {
    /// Which classifier.
    pub(super) model: ModelName,
    /// Pixels per row.
    pub(super) width: usize,
    /// The number of classes.
    pub(super) classes: usize,
    /// Units of the hidden layer, if not the model's own number.
    pub(super) hidden: Option<usize>,
    /// The update rule.
    pub(super) optimizer: OptimizerName,
    /// The learning rate, if not the optimizer's own.
    pub(super) rate: Option<f64>,
    /// The seed of the initial weights.
    pub(super) seed: u64,
    /// How many steps will be made.
    pub(super) steps: u64,
}

/// A classifier with its loss, its training step and its accuracy.
pub(super) struct Model {
    /// The graph.
    pub(super) graph: Graph,
    /// Pixels `[rows, width]`, float32.
    pub(super) x: Output,
    /// Labels `[rows]`, int32.
    pub(super) y: Output,
    /// The mean cross-entropy, a scalar.
    pub(super) loss: Output,
    /// One step of training.
    pub(super) train: Operation,
    /// The share of rows whose class is found, a scalar.
    pub(super) accuracy: Output,
    /// How many numbers are trained.
    pub(super) parameters: usize,
    /// The learning rate, at the beginning.
    pub(super) rate: f64,
}

/// Layers with variables; counts their numbers.
struct Layers {
    graph: Graph,
    parameters: usize,
}

impl Layers {
    /// Weights of this shape and as many biases as it has columns.
    fn weights(&mut self, name: &str, shape: &[usize]) -> Result<(Output, Output)> {
        let _scope = self.graph.name_scope(name);
        let outputs = shape.last().copied().unwrap_or(1);
        let init = VarianceScaling::he_normal(Some(self.parameters as i64 + 1));
        let w = self.graph.get_variable("weights", shape.to_vec(), init)?;
        let b = self.graph.get_variable("biases", [outputs], Zeros)?;
        self.parameters += shape.iter().product::<usize>() + outputs;
        Ok((w.value().clone(), b.value().clone()))
    }

    fn dense(&mut self, name: &str, x: &Output, from: usize, to: usize) -> Result<Output> {
        let (w, b) = self.weights(name, &[from, to])?;
        x.matmul(&w)?.bias_add(&b)
    }

    /// A convolution of 5 × 5, ReLU, and the maxima of 2 × 2.
    fn convolution(&mut self, name: &str, x: &Output, from: usize, to: usize) -> Result<Output> {
        let (w, b) = self.weights(name, &[5, 5, from, to])?;
        let y = nn::conv2d(x, &w, [1, 1], Padding::Same)?.bias_add(&b)?.relu()?;
        nn::max_pool(&y, [2, 2], [2, 2], Padding::Same)
    }
}

/// The side of square images of so many pixels.
fn side(pixels: usize) -> Result<usize> {
    let side = pixels.isqrt();
    if side > 0 && side * side == pixels {
        return Ok(side);
    }
    Err(Error::invalid(format!(
        "lenet needs square images, but the rows have {pixels} pixels; use --model mlp"
    )))
}

impl Model {
    /// Builds the graph.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a learning rate that is no positive number, or images that the model is not for.
    pub(super) fn build(setup: &Setup) -> Result<Model> {
        let (width, classes) = (setup.width, setup.classes);
        let rate = setup.optimizer.default_rate() * setup.model.rate_factor();
        let rate = setup.rate.unwrap_or(rate);
        if !(rate.is_finite() && rate > 0.0) {
            return Err(Error::invalid(format!(
                "the learning rate must be a positive number, got {rate}"
            )));
        }
        let g = Graph::new();
        g.set_seed((setup.seed & 0x7fff_ffff_ffff_ffff) as i64);
        let x = g.placeholder("x", DType::F32, [None, Some(width)])?;
        let y = g.placeholder("y", DType::I32, PartialShape::vector(None))?;
        let mut layers = Layers {
            graph: g.clone(),
            parameters: 0,
        };
        let hidden = setup.hidden.unwrap_or(setup.model.default_hidden());
        let logits = match setup.model {
            ModelName::Softmax => layers.dense("classes", &x, width, classes)?,
            ModelName::Mlp => {
                let h = layers.dense("hidden", &x, width, hidden)?.relu()?;
                layers.dense("classes", &h, hidden, classes)?
            }
            ModelName::Lenet => {
                let n = side(width)?;
                let image = x.reshape(&[-1, n as i64, n as i64, 1])?;
                let h = layers.convolution("conv1", &image, 1, FILTERS[0])?;
                let h = layers.convolution("conv2", &h, FILTERS[0], FILTERS[1])?;
                let n = n.div_ceil(2).div_ceil(2);
                let flat = n * n * FILTERS[1];
                let h = h.reshape(&[-1, flat as i64])?;
                let h = layers.dense("hidden", &h, flat, hidden)?.relu()?;
                layers.dense("classes", &h, hidden, classes)?
            }
        };
        let loss = nn::sparse_softmax_cross_entropy(&logits, &y)?.mean(&[], false)?;
        let train = match setup.model {
            ModelName::Lenet => {
                let step = g.global_step()?;
                let falling = polynomial_decay(rate, &step, setup.steps as f64, 0.0, 1.0, false)?;
                setup.optimizer.build(falling).minimize_counting(&loss, &step)?
            }
            ModelName::Mlp | ModelName::Softmax => setup.optimizer.build(rate).minimize(&loss)?,
        };
        let found = logits.argmax(1)?.cast(DType::I32)?.equal(&y)?;
        let accuracy = found.cast(DType::F32)?.mean(&[], false)?;
        Ok(Model {
            x,
            y,
            loss,
            train,
            accuracy,
            parameters: layers.parameters,
            rate,
            graph: g,
        })
    }
}
