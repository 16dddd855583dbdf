//! The models, and how good their values are.

use std::collections::HashMap;

use actorflow::nn::sparse_softmax_cross_entropy;
use actorflow::train::init::{VarianceScaling, Zeros};
use actorflow::train::parallel::Model;
use actorflow::{DType, Error, Graph, GraphVariables, Output, Result, Session, SessionOptions, Tensor};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::data::Split;
use super::probe::probe;

/// A model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModelName {
    /// A perceptron with one hidden layer.
    Mlp,
    /// Softmax regression, without a hidden layer.
    Softmax,
}

/// What a network is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Which model.
    pub(super) model: ModelName,
    /// Numbers per row.
    pub(super) width: usize,
    /// Units of the hidden layer.
    pub(super) hidden: usize,
    /// How many classes there are.
    pub(super) classes: usize,
    /// The seed of the first weights.
    pub(super) seed: i64,
}

impl Shape {
    /// How many numbers are trained.
    pub(super) fn parameters(&self) -> usize {
        let dense = |from: usize, to: usize| (from + 1) * to;
        match self.model {
            ModelName::Softmax => dense(self.width, self.classes),
            ModelName::Mlp => dense(self.width, self.hidden) + dense(self.hidden, self.classes),
        }
    }

    /// Builds it; with a slot, the time is taken when a replica's gradients are there. Gives the logits, too.
    ///
    /// # Errors
    /// As any node's.
    pub(super) fn build(&self, g: &Graph, slot: Option<usize>) -> Result<(Model, Output)> {
        g.set_seed(self.seed);
        let x = g.placeholder("x", DType::F32, [None, Some(self.width)])?;
        let y = g.placeholder("y", DType::I32, [None])?;
        let timed = |v: &Output| match slot {
            Some(slot) => probe(v, slot),
            None => Ok(v.clone()),
        };
        let dense = |name: &str, x: &Output, from: usize, to: usize, seed: i64| {
            let _scope = g.name_scope(name);
            let init = VarianceScaling::glorot_uniform(Some(self.seed.wrapping_add(seed)));
            let w = g.get_variable("weights", [from, to], init)?;
            let b = g.get_variable("biases", [to], Zeros)?;
            x.matmul(&timed(w.value())?)?.bias_add(&timed(b.value())?)
        };
        let logits = match self.model {
            ModelName::Softmax => dense("classes", &x, self.width, self.classes, 1)?,
            ModelName::Mlp => {
                let hidden = dense("hidden", &x, self.width, self.hidden, 1)?.relu()?;
                dense("classes", &hidden, self.hidden, self.classes, 2)?
            }
        };
        let loss = sparse_softmax_cross_entropy(&logits, &y)?.mean(&[], false)?;
        let model = Model {
            inputs: vec![x, y],
            loss,
            metrics: Vec::new(),
        };
        Ok((model, logits))
    }
}

/// Values of a model's parameters, by name.
pub(super) type Values = Vec<(String, Tensor)>;

/// Loss and accuracy of values, on rows that are trained on and on rows that are not.
pub(super) struct Judge {
    session: Session,
    inputs: Vec<Output>,
    variables: HashMap<String, Output>,
    answers: [Output; 2],
    test: [Tensor; 2],
    train: [Tensor; 2],
}

impl Judge {
    /// Judges values of networks of this shape.
    ///
    /// # Errors
    /// As any graph's and session's.
    pub(super) fn new(shape: &Shape, data: &Split) -> Result<Judge> {
        let g = Graph::new();
        let (model, logits) = shape.build(&g, None)?;
        let right = logits.argmax(1)?.cast(DType::I32)?.equal(&model.inputs[1])?;
        let accuracy = right.cast(DType::F32)?.mean(&[], false)?;
        let variables = g.trainable_variables()?;
        Ok(Judge {
            session: Session::with_options(&g, SessionOptions::with_threads(1))?,
            inputs: model.inputs,
            variables: variables.iter().map(|v| (v.name(), v.value().clone())).collect(),
            answers: [model.loss, accuracy],
            test: data.test.select(0..data.test.len())?,
            train: data.train.select(0..data.train.len())?,
        })
    }

    fn on(&self, rows: &[Tensor; 2], values: &Values) -> Result<(f64, f64)> {
        let mut feeds: Vec<(&Output, Tensor)> = self.inputs.iter().zip(rows.iter().cloned()).collect();
        for (name, value) in values {
            let to = self
                .variables
                .get(name)
                .ok_or_else(|| Error::internal(format!("the model has no variable {name}")))?;
            feeds.push((to, value.clone()));
        }
        let [loss, accuracy] = &self.answers;
        let out = self.session.run(&feeds, &[loss, accuracy])?;
        Ok((
            f64::from(out[0].to_scalar::<f32>()?),
            f64::from(out[1].to_scalar::<f32>()?),
        ))
    }

    /// Mean cross-entropy and accuracy on the test rows.
    ///
    /// # Errors
    /// If the values are not those of such a network.
    pub(super) fn test(&self, values: &Values) -> Result<(f64, f64)> {
        self.on(&self.test, values)
    }

    /// Mean cross-entropy and accuracy on the training rows.
    ///
    /// # Errors
    /// As [`test`](Self::test).
    pub(super) fn train(&self, values: &Values) -> Result<(f64, f64)> {
        self.on(&self.train, values)
    }
}
