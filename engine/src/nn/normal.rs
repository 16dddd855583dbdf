//! Normalisation and regularisation.

#![forbid(unsafe_code)]

use actorflow_core::{Error, Output, Result};

/// The mean and the variance of `x` over `axes` (over all if empty). `TensorFlow: tf.nn.moments`.
///
/// # Errors
/// `INVALID_ARGUMENT` if an axis is out of range.
#[track_caller]
pub fn moments(x: &Output, axes: &[i64], keep_dims: bool) -> Result<(Output, Output)> {
    let _name = x.graph().name_scope("moments");
    let mean = x.mean(axes, true)?;
    // The derivative of the variance through the mean is zero.
    let variance = x.squared_difference(&mean.stop_gradient()?)?.mean(axes, keep_dims)?;
    let mean = match keep_dims {
        true => mean,
        // Not `Squeeze`, whose axes would have to be positive.
        false => mean.reshape_to(&variance.shape_op()?)?,
    };
    Ok((mean, variance))
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + offset`, with broadcasting. `TensorFlow: tf.nn.batch_normalization`.
///
/// # Errors
/// `INVALID_ARGUMENT` if dtypes differ or shapes do not broadcast.
#[track_caller]
pub fn batch_normalization(
    x: &Output,
    mean: &Output,
    variance: &Output,
    offset: Option<&Output>,
    scale: Option<&Output>,
    epsilon: f64,
) -> Result<Output> {
    let _name = x.graph().name_scope("batchnorm");
    let mut factor = (variance + epsilon)?.rsqrt()?;
    if let Some(s) = scale {
        factor = factor.times(s)?;
    }
    let shift = mean.times(&factor)?;
    let shift = match offset {
        Some(o) => o.minus(&shift)?,
        None => shift.negated()?,
    };
    x.times(&factor)?.plus(&shift)
}

/// `x` scaled to the L2 norm 1 along `axes` (`sqrt(epsilon)` at least). `TensorFlow: tf.nn.l2_normalize`.
///
/// # Errors
/// `INVALID_ARGUMENT` if an axis is out of range.
#[track_caller]
pub fn l2_normalize(x: &Output, axes: &[i64], epsilon: f64) -> Result<Output> {
    let sum = x.square()?.sum(axes, true)?;
    let least = x.scalar_like(epsilon)?;
    x.times(&sum.maximum(&least)?.rsqrt()?)
}

/// `x` with each element set to zero with probability `rate`, and the others divided by `1 - rate`.
/// `TensorFlow: tf.nn.dropout`.
///
/// # Errors
/// `INVALID_ARGUMENT` unless `rate` is at least 0 and less than 1 and `x` is of a floating-point dtype.
#[track_caller]
pub fn dropout(x: &Output, rate: f64, seed: Option<i64>) -> Result<Output> {
    if !(0.0..1.0).contains(&rate) {
        return Err(Error::invalid(format!(
            "the rate of dropout must be at least 0 and less than 1, got {rate}"
        )));
    }
    if rate == 0.0 {
        return Ok(x.clone());
    }
    let g = x.graph();
    let _name = g.name_scope("dropout");
    let shape = match x.shape().to_shape() {
        Some(s) => {
            let dims: Option<Vec<i32>> = s.dims().iter().map(|d| i32::try_from(*d).ok()).collect();
            match dims {
                Some(d) => g.constant(d)?,
                None => x.shape_op()?,
            }
        }
        None => x.shape_op()?,
    };
    let (seed, seed2) = g.op_seeds(seed);
    let b = g.op("RandomUniform").input(&shape).attr("dtype", x.dtype());
    let uniform = b.attr("seed", seed).attr("seed2", seed2).output()?;
    let kept = uniform.greater_equal(&uniform.scalar_like(rate)?)?;
    let scaled = (x * (1.0 / (1.0 - rate)))?;
    scaled.times(&kept.cast(x.dtype())?)
}
