//! What the operations on checkpoints share: their inputs, checked as TensorFlow checks them.

#![forbid(unsafe_code)]

use actorflow_core::Tensor;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use bytes::Bytes;

use crate::checkpoint::Location;
use crate::checkpoint::slice::SliceSpec;

/// The one string of a tensor.
pub(super) fn one_string<'t>(t: &'t Tensor, what: &str) -> Result<&'t Bytes> {
    match t.as_strings()? {
        [s] => Ok(s),
        many => Err(Error::invalid(format!(
            "Input {what} should have a single element, got {} instead.",
            many.len()
        ))),
    }
}

/// Prefix, names and slices: the first three inputs of `SaveV2` and `RestoreV2`.
pub(super) struct Names<'t> {
    pub(super) prefix: Location,
    pub(super) names: &'t [Bytes],
    slices: &'t [Bytes],
}

impl<'t> Names<'t> {
    pub(super) fn of(cx: &'t OpContext<'_>) -> Result<Names<'t>> {
        let (names, slices) = (cx.input(1)?, cx.input(2)?);
        if names.shape().rank() != 1 || slices.shape().rank() != 1 {
            return Err(Error::invalid(format!(
                "Input tensor_names and shape_and_slices should be an 1-D tensors, got {} and {} instead.",
                names.shape(),
                slices.shape()
            )));
        }
        if names.len() != slices.len() {
            return Err(Error::invalid(format!(
                "tensor_names and shape_and_slices have different number of elements: {} vs. {}",
                names.len(),
                slices.len()
            )));
        }
        Ok(Names {
            prefix: Location::in_graph(one_string(cx.input(0)?, "prefix")?, cx.files())?,
            names: names.as_strings()?,
            slices: slices.as_strings()?,
        })
    }

    /// The part that tensor `i` is; `None` for a whole one.
    pub(super) fn slice(&self, i: usize) -> Result<Option<SliceSpec>> {
        self.slices.get(i).map_or(Ok(None), slice_of)
    }
}

/// The part that a text describes; `None` for the empty text, which stands for the whole.
pub(super) fn slice_of(text: &Bytes) -> Result<Option<SliceSpec>> {
    match std::str::from_utf8(text) {
        Ok("") => Ok(None),
        Ok(text) => SliceSpec::parse(text).map(Some),
        Err(_) => Err(Error::invalid("shape_and_slices is no text")),
    }
}

/// Checks the shapes of prefix (input 0) and of the vectors of names (1) and, if there is one, slices (2).
pub(super) fn check_names(cx: &ShapeContext<'_>, vectors: usize) -> Result<Option<usize>> {
    cx.input(0).with_rank(0)?;
    let mut names = cx.input(1).with_rank(1)?;
    if vectors > 1 {
        names = names.merge(&cx.input(2).with_rank(1)?)?;
    }
    Ok(names.dim(0))
}
