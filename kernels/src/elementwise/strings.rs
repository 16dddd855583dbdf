//! Functions of two strings, with broadcasting.
#![forbid(unsafe_code)]

use actorflow_core::Tensor;
use actorflow_core::error::Result;
use actorflow_core::shape::Shape;
use bytes::Bytes;

use super::plan::Plan;

/// The results of `f` for all pairs of strings that broadcasting makes, and their shape.
///
/// # Errors
/// `INVALID_ARGUMENT` if a tensor holds no strings or the shapes do not broadcast.
pub fn map2_strings<R>(a: &Tensor, b: &Tensor, mut f: impl FnMut(&Bytes, &Bytes) -> R) -> Result<(Shape, Vec<R>)> {
    let (x, y) = (a.as_strings()?, b.as_strings()?);
    let (shape, plan) = Plan::new([a.shape(), b.shape()])?;
    let n = shape.checked_count()?;
    let mut out = Vec::with_capacity(n);
    let step = plan.dims.first().map_or([0, 0], |d| d.strides);
    plan.for_runs(0, n, |_, at, n| {
        out.extend((0..n).map(|i| f(&x[at[0] + i * step[0]], &y[at[1] + i * step[1]])));
    });
    Ok((shape, out))
}
