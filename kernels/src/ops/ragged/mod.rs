//! Ragged tensors: a tensor of values, and for each ragged dimension where its rows begin and end (row splits).
#![forbid(unsafe_code)]

pub mod gather;
pub mod range;
#[cfg(test)]
mod tests;
pub mod to_sparse;
pub mod to_tensor;
pub mod variant;

use actorflow_core::error::{Error, Result};
use actorflow_core::{Shape, Tensor};

/// The splits that a tensor holds, held against each other: they do not decrease, and none is negative.
fn splits_of(t: &Tensor) -> Result<Vec<i64>> {
    if t.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "ragged splits must be a vector, not of shape {}",
            t.shape()
        )));
    }
    let s = t.to_i64_vec()?;
    if s.first().is_some_and(|f| *f < 0) {
        return Err(Error::invalid("ragged splits must be non-negative"));
    }
    if let Some(w) = s.windows(2).find(|w| w[0] > w[1]) {
        return Err(Error::invalid(format!(
            "ragged splits must not decrease, but {} is followed by {}",
            w[0], w[1]
        )));
    }
    Ok(s)
}

/// Splits that begin with 0 and end with the number of rows below them.
fn exact_splits(t: &Tensor, below: impl FnOnce() -> Option<usize>) -> Result<Vec<i64>> {
    let s = splits_of(t)?;
    let (Some(first), Some(last)) = (s.first(), s.last()) else {
        return Err(Error::invalid("ragged splits may not be empty"));
    };
    if *first != 0 {
        return Err(Error::invalid(format!(
            "the first of the ragged splits must be 0, not {first}"
        )));
    }
    if let Some(n) = below()
        && *last != n as i64
    {
        return Err(Error::invalid(format!(
            "the last of the ragged splits must be the number of ragged values, {n}, but is {last}"
        )));
    }
    Ok(s)
}

/// All splits of a ragged tensor, each held against the one below it, the last against the values.
fn nested(splits: &[Tensor], values: &Tensor) -> Result<Vec<Vec<i64>>> {
    let rows = values
        .shape()
        .dims()
        .first()
        .copied()
        .ok_or_else(|| Error::invalid("the values of a ragged tensor must be at least a vector"))?;
    (0..splits.len())
        .map(|i| {
            exact_splits(&splits[i], || match splits.get(i + 1) {
                Some(next) => next.len().checked_sub(1),
                None => Some(rows),
            })
        })
        .collect()
}

/// The elements of one row of values.
fn inner(values: &Tensor) -> Shape {
    Shape::new(values.shape().get(1..).unwrap_or(&[]))
}
