//! Losses.

#![forbid(unsafe_code)]

use actorflow_core::{Output, Result};

/// The cross-entropy of independent classes: elementwise `-z log sigmoid(x) - (1 - z) log(1 - sigmoid(x))` of logits
/// `x` and labels `z`, without overflow. `TensorFlow: tf.nn.sigmoid_cross_entropy_with_logits`.
///
/// # Errors
/// `INVALID_ARGUMENT` if dtypes or shapes differ.
#[track_caller]
pub fn sigmoid_cross_entropy(logits: &Output, labels: &Output) -> Result<Output> {
    let zeros = logits.zeros_like()?;
    let positive = logits.greater_equal(&zeros)?;
    // Not `Relu` and `Abs`: their derivatives at 0 would be wrong here.
    let part = positive.select(logits, &zeros)?;
    let down = positive.select(&logits.negated()?, logits)?;
    part.minus(&logits.times(labels)?)?.plus(&down.exp()?.log1p()?)
}

/// The cross-entropy of exclusive classes with labels that are distributions, of shape `[rows, classes]` as the
/// logits; a vector `[rows]`. `TensorFlow: tf.nn.softmax_cross_entropy_with_logits`.
///
/// # Errors
/// `INVALID_ARGUMENT` if dtypes or shapes differ.
#[track_caller]
pub fn softmax_cross_entropy(logits: &Output, labels: &Output) -> Result<Output> {
    let b = logits.graph().op("SoftmaxCrossEntropyWithLogits");
    b.input(logits).input(labels).output()
}

/// The cross-entropy of exclusive classes with labels that are numbers: logits `[rows, classes]`, integer labels
/// `[rows]`; a vector `[rows]`. `TensorFlow: tf.nn.sparse_softmax_cross_entropy_with_logits`.
///
/// # Errors
/// `INVALID_ARGUMENT` if dtypes or shapes do not fit.
#[track_caller]
pub fn sparse_softmax_cross_entropy(logits: &Output, labels: &Output) -> Result<Output> {
    let b = logits.graph().op("SparseSoftmaxCrossEntropyWithLogits");
    b.input(logits).input(labels).output()
}
