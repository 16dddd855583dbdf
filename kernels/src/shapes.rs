//! Shape functions that many operations share.

use actorflow_core::PartialShape;
use actorflow_core::error::Result;
use actorflow_core::graph::ShapeContext;

/// Output `i` has the shape of input `i`.
///
/// # Errors
/// Never.
pub fn unchanged(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok((0..cx.num_outputs()).map(|i| cx.input(i)).collect())
}

/// Every output has the shape of input 0.
///
/// # Errors
/// Never.
pub fn like_first(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok(vec![cx.input(0); cx.num_outputs()])
}

/// Every output is a scalar.
///
/// # Errors
/// Never.
pub fn scalar(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok(vec![PartialShape::scalar(); cx.num_outputs()])
}

/// Nothing is known of the outputs.
///
/// # Errors
/// Never.
pub fn unknown(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok(vec![PartialShape::UNKNOWN; cx.num_outputs()])
}

/// There is no output.
///
/// # Errors
/// Never.
pub fn none(_: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok(Vec::new())
}

/// The outputs have the shape to which the first two inputs broadcast.
///
/// # Errors
/// `INVALID_ARGUMENT` naming both shapes if they do not.
pub fn broadcast(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let s = PartialShape::broadcast(&cx.input(0), &cx.input(1))?;
    Ok(vec![s; cx.num_outputs()])
}

/// All inputs have one shape, and so has every output.
///
/// # Errors
/// `INVALID_ARGUMENT` naming two shapes that differ.
pub fn merged(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let mut s = PartialShape::UNKNOWN;
    for i in cx.inputs() {
        s = s.merge(i)?;
    }
    Ok(vec![s; cx.num_outputs()])
}
