//! Losses over very many classes, of which only some are looked at.

#![forbid(unsafe_code)]

use actorflow_core::{DType, Error, Output, Result};

use super::embedding::{PartitionStrategy, embedding_lookup};
use super::loss::{sigmoid_cross_entropy, softmax_cross_entropy};

/// Classes drawn at random, to be told from the true ones; what TensorFlow's candidate samplers give.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// The classes, int64 `[samples]`.
    pub ids: Output,
    /// How often each true class was to be expected among them, `[batch, true classes]`.
    pub true_expected: Output,
    /// How often each of them was to be expected, `[samples]`.
    pub sampled_expected: Output,
}

/// The last layer of a classifier of very many classes.
#[derive(Debug, Clone, Copy)]
pub struct Classes<'a> {
    /// The weights of each class, `[classes, features]`, whole or in parts.
    pub weights: &'a [Output],
    /// The bias of each class, `[classes]`, in as many parts.
    pub biases: &'a [Output],
    /// How the classes are divided among the parts.
    pub strategy: PartitionStrategy,
}

/// The loss of softmax regression over the true classes and the candidates alone; a vector `[batch]`. It is for
/// training only. S. Jean et al., ACL 2015. `TensorFlow: tf.nn.sampled_softmax_loss`.
///
/// `labels` are int64 `[batch, true classes]`, `inputs` `[batch, features]`. With `remove_accidental_hits`, candidates
/// that are true classes of a row do not count for it.
///
/// # Errors
/// `INVALID_ARGUMENT` if dtypes or shapes do not fit.
#[track_caller]
pub fn sampled_softmax_loss(
    classes: Classes<'_>,
    labels: &Output,
    inputs: &Output,
    candidates: &Candidates,
    remove_accidental_hits: bool,
) -> Result<Output> {
    let _name = inputs.graph().name_scope("sampled_softmax_loss");
    let (logits, labels) = sampled_logits(classes, labels, inputs, candidates, remove_accidental_hits)?;
    softmax_cross_entropy(&logits, &labels)
}

/// The noise-contrastive loss: telling the true classes from the candidates, each by itself; a vector `[batch]`. It is
/// for training only. M. Gutmann, A. Hyvärinen, AISTATS 2010. `TensorFlow: tf.nn.nce_loss`.
///
/// The arguments are those of [`sampled_softmax_loss`].
///
/// # Errors
/// `INVALID_ARGUMENT` if dtypes or shapes do not fit.
#[track_caller]
pub fn nce_loss(
    classes: Classes<'_>,
    labels: &Output,
    inputs: &Output,
    candidates: &Candidates,
    remove_accidental_hits: bool,
) -> Result<Output> {
    let _name = inputs.graph().name_scope("nce_loss");
    let (logits, labels) = sampled_logits(classes, labels, inputs, candidates, remove_accidental_hits)?;
    sigmoid_cross_entropy(&logits, &labels)?.sum(&[1], false)
}

/// The logits of true classes and candidates, side by side, corrected for how the latter were drawn, and labels for
/// them.
fn sampled_logits(
    classes: Classes<'_>,
    labels: &Output,
    inputs: &Output,
    candidates: &Candidates,
    remove_accidental_hits: bool,
) -> Result<(Output, Output)> {
    let g = inputs.graph();
    let true_classes = labels.shape().dim(1).and_then(|n| i64::try_from(n).ok());
    let (Some(n), Some(2), DType::I64) = (true_classes, labels.shape().rank(), labels.dtype()) else {
        return Err(Error::invalid(format!(
            "the labels of sampled classes must be an int64 matrix with a known number of columns; {} is {} of shape {}",
            labels.name(),
            labels.dtype(),
            labels.shape()
        )));
    };
    let sampled = candidates.ids.stop_gradient()?;
    let flat = labels.reshape(&[-1])?;
    let both = g.concat(&[flat.clone(), sampled.clone()], 0)?;
    let count = flat.size_op()?;
    let split = |x: &Output| -> Result<(Output, Output)> {
        let rest = sampled.size_op()?;
        let sizes = g.stack(&[count.clone(), rest], 0)?;
        let b = g.op("SplitV").input(x).input(&sizes).input(&g.constant(0i32)?);
        let s = b.attr("num_split", 2i64).finish()?;
        Ok((s.output(0)?, s.output(1)?))
    };
    let (true_w, sampled_w) = split(&embedding_lookup(classes.weights, &both, classes.strategy, None)?)?;
    let (true_b, sampled_b) = split(&embedding_lookup(classes.biases, &both, classes.strategy, None)?)?;
    let Some(width) = inputs.shape().dim(1).and_then(|d| i64::try_from(d).ok()) else {
        return Err(Error::invalid(format!(
            "the number of features must be known; {} has shape {}",
            inputs.name(),
            inputs.shape()
        )));
    };
    let true_w = true_w.reshape(&[-1, n, width])?;
    let true_logits = inputs.expand_dims(1)?.times(&true_w)?.sum(&[2], false)?;
    let true_logits = true_logits.plus(&true_b.reshape(&[-1, n])?)?;
    let mut sampled_logits = inputs.matmul_t(&sampled_w, false, true)?.plus(&sampled_b)?;
    if remove_accidental_hits {
        let hits = labels.expand_dims(2)?.equal(&sampled)?;
        let hits = hits.reduce_by("Any", &g.constant(vec![1i32])?, false)?;
        let never = sampled_logits.scalar_like(f64::from(f32::MIN))?;
        sampled_logits = sampled_logits.plus(&hits.cast(never.dtype())?.times(&never)?)?;
    }
    let expected = |x: &Output| x.stop_gradient()?.log();
    let true_logits = true_logits.minus(&expected(&candidates.true_expected)?)?;
    let sampled_logits = sampled_logits.minus(&expected(&candidates.sampled_expected)?)?;
    let share = (&true_logits.ones_like()? / n as f64)?;
    let labels = g.concat(&[share, sampled_logits.zeros_like()?], 1)?;
    Ok((g.concat(&[true_logits, sampled_logits], 1)?, labels))
}
