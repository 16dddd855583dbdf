//! Gradients of what nothing depends on.

#![forbid(unsafe_code)]

use crate::dtype::DType;
use crate::error::Result;
use crate::graph::Output;
use crate::tensor::Tensor;

/// The shape of `x` as a vector: a constant if it is known.
pub(super) fn shape_of(x: &Output) -> Result<Output> {
    match x.shape().to_shape() {
        Some(s) => x.graph().constant(Tensor::vector(&s.to_i64())),
        None => x.shape_op(),
    }
}

/// Zeros of the dtype of `like` and the shape that `shape`, a vector, holds.
pub(super) fn zeros(like: &Output, shape: &Output) -> Result<Output> {
    let zero = like.graph().constant(Tensor::zeros(like.dtype(), [])?)?;
    shape.fill_with(&zero)
}

/// Zeros of the dtype and shape of `x`, of which no more than the shape is kept in a loop. Of a resource handle, of
/// its variable's value.
pub(super) fn zeros_of(x: &Output) -> Result<Output> {
    match x.dtype() {
        DType::Variant => x.zeros_like(),
        _ if x.shape().is_fully_known() || x.graph().context().is_some() => zeros(x, &shape_of(x)?),
        _ => x.zeros_like(),
    }
}
