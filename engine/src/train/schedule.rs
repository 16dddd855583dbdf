//! Learning rates that follow a step counter. Names and formulas are TensorFlow's `tf.train.*_decay`.

use actorflow_core::error::{Error, Result};
use actorflow_core::{DType, Output};

fn float(step: &Output) -> Result<Output> {
    step.cast(DType::F32)
}

/// `rate · decay^(step / steps)`, with `step / steps` rounded down if `staircase`.
///
/// # Errors
/// If the nodes cannot be added.
#[track_caller]
pub fn exponential_decay(rate: f64, step: &Output, steps: f64, decay: f64, staircase: bool) -> Result<Output> {
    let _scope = step.graph().name_scope("ExponentialDecay");
    let mut p = (&float(step)? / steps)?;
    if staircase {
        p = p.floor()?;
    }
    rate * &p.scalar_like(decay)?.pow(&p)?
}

/// `rate · exp(-decay · step / steps)`, with `step / steps` rounded down if `staircase`.
///
/// # Errors
/// If the nodes cannot be added.
#[track_caller]
pub fn natural_exp_decay(rate: f64, step: &Output, steps: f64, decay: f64, staircase: bool) -> Result<Output> {
    exponential_decay(rate, step, steps, (-decay).exp(), staircase)
}

/// `rate / (1 + decay · step / steps)`, with `step / steps` rounded down if `staircase`.
///
/// # Errors
/// If the nodes cannot be added.
#[track_caller]
pub fn inverse_time_decay(rate: f64, step: &Output, steps: f64, decay: f64, staircase: bool) -> Result<Output> {
    let _scope = step.graph().name_scope("InverseTimeDecay");
    let mut p = (&float(step)? / steps)?;
    if staircase {
        p = p.floor()?;
    }
    rate / &(&(&p * decay)? + 1.0)?
}

/// From `rate` to `end` in `steps` steps: `(rate - end) · (1 - step / steps)^power + end`; then, if `cycle`, again
/// over a multiple of `steps`.
///
/// # Errors
/// If the nodes cannot be added.
#[track_caller]
pub fn polynomial_decay(rate: f64, step: &Output, steps: f64, end: f64, power: f64, cycle: bool) -> Result<Output> {
    let g = step.graph();
    let _scope = g.name_scope("PolynomialDecay");
    let step = float(step)?;
    let all = step.scalar_like(steps)?;
    let (now, all) = if cycle {
        let times = g.op("Ceil").input(&step.divided_by(&all)?).output()?;
        let one = times.scalar_like(1.0)?;
        (step, all.times(&times.maximum(&one)?)?)
    } else {
        (step.minimum(&all)?, all)
    };
    let left = (1.0f64 - &now.divided_by(&all)?)?;
    let part: Output = ((rate - end) * &left.pow(&left.scalar_like(power)?)?)?;
    &part + end
}

/// `rate · ((1 - alpha) · (1 + cos(π · step / steps)) / 2 + alpha)`, constant after `steps`.
/// I. Loshchilov, F. Hutter, ICLR 2017.
///
/// # Errors
/// If the nodes cannot be added.
#[track_caller]
pub fn cosine_decay(rate: f64, step: &Output, steps: f64, alpha: f64) -> Result<Output> {
    let _scope = step.graph().name_scope("CosineDecay");
    let step = float(step)?;
    let done = (&step.minimum(&step.scalar_like(steps)?)? / steps)?;
    let wave = (&(&(&done * std::f64::consts::PI)?.cos()? + 1.0)? * 0.5)?;
    rate * &(&(&wave * (1.0 - alpha))? + alpha)?
}

/// `values[0]` up to and including step `boundaries[0]`, then `values[1]` up to `boundaries[1]`, and so on.
///
/// # Errors
/// `INVALID_ARGUMENT` unless there is one value more than boundaries and these increase.
#[track_caller]
pub fn piecewise_constant(step: &Output, boundaries: &[i64], values: &[f64]) -> Result<Output> {
    let g = step.graph();
    if values.len() != boundaries.len() + 1 {
        return Err(Error::invalid(format!(
            "{} boundaries need {} values, got {}",
            boundaries.len(),
            boundaries.len() + 1,
            values.len()
        )));
    }
    if boundaries.windows(2).any(|w| w[0] >= w[1]) {
        return Err(Error::invalid("the boundaries must increase"));
    }
    let _scope = g.name_scope("PiecewiseConstant");
    let step = step.cast(DType::I64)?;
    let mut rate = g.scalar(DType::F32, *values.last().unwrap_or(&0.0))?;
    for (b, v) in boundaries.iter().zip(values).rev() {
        let before = step.less_equal(&g.constant(*b)?)?;
        rate = before.select(&g.scalar(DType::F32, *v)?, &rate)?;
    }
    Ok(rate)
}
