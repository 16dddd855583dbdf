//! The classifiers as graphs.

use actorflow::train::init::{VarianceScaling, Zeros};
use actorflow::train::optimizer::{
    AdaDelta, Adagrad, Adam, Ftrl, GradientDescent, Momentum, Optimizer, ProximalGradientDescent, RmsProp,
};
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

    fn build(self, rate: f64) -> Optimizer {
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
    /// The learning rate.
    pub(super) rate: f64,
}

impl Model {
    /// Builds the graph; `hidden` units between input and classes, or none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a learning rate that is no positive number.
    pub(super) fn build(
        width: usize,
        classes: usize,
        hidden: Option<usize>,
        optimizer: OptimizerName,
        rate: Option<f64>,
        seed: u64,
    ) -> Result<Model> {
        let rate = rate.unwrap_or(optimizer.default_rate());
        if !(rate.is_finite() && rate > 0.0) {
            return Err(Error::invalid(format!(
                "the learning rate must be a positive number, got {rate}"
            )));
        }
        let g = Graph::new();
        g.set_seed((seed & 0x7fff_ffff_ffff_ffff) as i64);
        let x = g.placeholder("x", DType::F32, [None, Some(width)])?;
        let y = g.placeholder("y", DType::I32, PartialShape::vector(None))?;
        let mut parameters = 0;
        let mut layer = |name: &str, input: &Output, from: usize, to: usize| -> Result<Output> {
            let _scope = g.name_scope(name);
            let w = g.get_variable(
                "weights",
                [from, to],
                VarianceScaling::he_normal(Some(parameters as i64 + 1)),
            )?;
            let b = g.get_variable("biases", [to], Zeros)?;
            parameters += from * to + to;
            input.matmul(&w)?.bias_add(&b)
        };
        let logits = match hidden {
            Some(h) => {
                let relu = layer("hidden", &x, width, h)?.relu()?;
                layer("classes", &relu, h, classes)?
            }
            None => layer("classes", &x, width, classes)?,
        };
        let cross_entropy = g
            .op("SparseSoftmaxCrossEntropyWithLogits")
            .input(&logits)
            .input(&y)
            .output()?;
        let loss = cross_entropy.mean(&[], false)?;
        let train = optimizer.build(rate).minimize(&loss)?;
        let found = logits.argmax(1)?.cast(DType::I32)?.equal(&y)?;
        let accuracy = found.cast(DType::F32)?.mean(&[], false)?;
        Ok(Model {
            x,
            y,
            loss,
            train,
            accuracy,
            parameters,
            rate,
            graph: g.clone(),
        })
    }
}
