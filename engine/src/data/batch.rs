//! Examples joined to batches, and batches cut into examples.

use actorflow_core::{Error, Result, Shape, Tensor};
use bytes::Bytes;

use super::dataset::Example;

/// Row `i` of a tensor, without the outermost dimension.
///
/// # Errors
/// `INVALID_ARGUMENT` for a scalar, or beyond the last row.
pub(super) fn row(t: &Tensor, i: usize) -> Result<Tensor> {
    let end = i
        .checked_add(1)
        .ok_or_else(|| Error::invalid(format!("there is no row {i}")))?;
    let rest = Shape::new(t.shape().dims().get(1..).unwrap_or(&[]));
    t.slice_rows(i, end)?.reshape(rest)
}

/// How many rows each of the tensors has.
///
/// # Errors
/// `INVALID_ARGUMENT` without tensors, for a scalar, or if they differ.
pub(super) fn rows(tensors: &[Tensor]) -> Result<usize> {
    let of = |t: &Tensor| t.shape().dims().first().copied();
    let Some(first) = tensors.first() else {
        return Err(Error::invalid("examples need at least one tensor"));
    };
    let n = of(first).ok_or_else(|| Error::invalid("a scalar has no rows that could be examples"))?;
    match tensors.iter().find(|t| of(t) != Some(n)) {
        None => Ok(n),
        Some(t) => Err(Error::invalid(format!(
            "all tensors must have equally many rows, but the first has {n} and another one has shape {}",
            t.shape()
        ))),
    }
}

/// Tensors of one dtype and shape, as one with a new outermost dimension.
fn stack(items: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = items.first() else {
        return Err(Error::invalid("a batch needs at least one example"));
    };
    let alike = |t: &&&Tensor| t.dtype() != first.dtype() || t.shape() != first.shape();
    if let Some(other) = items.iter().find(alike) {
        return Err(Error::invalid(format!(
            "examples of one batch must be alike, but one is {} of shape {} and another one {} of shape {}",
            first.dtype(),
            first.shape(),
            other.dtype(),
            other.shape()
        )));
    }
    let shape = first.shape().with_replaced(0, 0, &[items.len()]);
    if first.bytes().is_none() {
        let mut all: Vec<Bytes> = Vec::with_capacity(items.len());
        for t in items {
            all.extend_from_slice(t.as_strings()?);
        }
        return Tensor::strings(shape, all);
    }
    let mut out = Tensor::zeros(first.dtype(), shape)?;
    let size = first.byte_size();
    if let (Some(to), true) = (out.bytes_mut(), size > 0) {
        for (to, t) in to.chunks_exact_mut(size).zip(items) {
            to.copy_from_slice(t.bytes().unwrap_or(&[]));
        }
    }
    Ok(out)
}

/// Examples as one batch: each component with a new outermost dimension.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the dtypes and shapes that differ, or for tensors of resources.
pub(super) fn join(examples: &[Example]) -> Result<Example> {
    let width = examples.first().map_or(0, Vec::len);
    if let Some(other) = examples.iter().find(|e| e.len() != width) {
        return Err(Error::invalid(format!(
            "examples of one batch must be alike, but one has {width} tensors and another one {}",
            other.len()
        )));
    }
    (0..width)
        .map(|c| stack(&examples.iter().map(|e| &e[c]).collect::<Vec<_>>()))
        .collect()
}
