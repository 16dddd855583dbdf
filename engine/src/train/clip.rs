//! Clipping of tensors and gradients.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::Grad;
use actorflow_core::{Graph, Output};

/// Every element limited to `min..=max`. TensorFlow: `clip_by_value`.
///
/// # Errors
/// If the nodes cannot be added.
#[track_caller]
pub fn clip_by_value(x: &Output, min: f64, max: f64) -> Result<Output> {
    x.minimum(&x.scalar_like(max)?)?.maximum(&x.scalar_like(min)?)
}

/// The tensor, scaled down to the L2 norm `norm` if it is longer. TensorFlow: `clip_by_norm` over all axes.
///
/// # Errors
/// If the nodes cannot be added.
#[track_caller]
pub fn clip_by_norm(x: &Output, norm: f64) -> Result<Output> {
    let sum = x.square()?.sum(&[], false)?;
    // The root of zero has an infinite derivative: take it of one where the norm is zero.
    let positive = sum.greater(&sum.zeros_like()?)?;
    let safe = positive.select(&sum, &sum.ones_like()?)?;
    let length = positive.select(&safe.sqrt()?, &sum)?;
    let limit = x.scalar_like(norm)?;
    x.times(&limit)?.divided_by(&length.maximum(&limit)?)
}

/// The L2 norm of all tensors together; slices count by their rows. TensorFlow: `global_norm`.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no gradient.
#[track_caller]
pub fn global_norm(grads: &[Option<Grad>]) -> Result<Output> {
    let squares = grads
        .iter()
        .flatten()
        .map(|g| g.values().square()?.sum(&[], false))
        .collect::<Result<Vec<_>>>()?;
    let Some(first) = squares.first() else {
        return Err(Error::invalid("there is no gradient to take a norm of"));
    };
    first.graph().add_n(&squares)?.sqrt()
}

/// All gradients, scaled by one factor so that their global norm is at most `norm`; and that norm before.
/// A norm that is not finite makes every gradient NaN. TensorFlow: `clip_by_global_norm`.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no gradient.
#[track_caller]
pub fn clip_by_global_norm(grads: &[Option<Grad>], norm: f64) -> Result<(Vec<Option<Grad>>, Output)> {
    let total = global_norm(grads)?;
    let g: &Graph = total.graph();
    let _scope = g.name_scope("clip_by_global_norm");
    let limit = total.scalar_like(norm)?;
    let scale = limit.times(&total.reciprocal()?.minimum(&limit.reciprocal()?)?)?;
    // Infinity minus itself is NaN, which then spreads to every gradient.
    let scale = scale.plus(&total.minus(&total)?)?;
    let clipped = grads
        .iter()
        .map(|g| match g {
            Some(g) => Ok(Some(g.with_values(g.values().times(&scale.cast(g.values().dtype())?)?))),
            None => Ok(None),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((clipped, total))
}
