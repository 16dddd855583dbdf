//! How exactly a tensor crosses between processes, edge by edge.

use actorflow_core::error::{Error, Result};
use actorflow_core::{DType, Output};

/// `x` for those in other processes who can do with less: to them it goes as bfloat16, half the bytes, rounded to 8 of 24 bits of
/// its mantissa (TensorFlow white paper, §5.5).
///
/// The result is `x` itself, of the same shape and on the same device; only what takes it in another process sees rounded numbers, and
/// what takes `x` there still gets exact ones. It decides for its edges whatever
/// [`SessionOptions::lossy_edges`](crate::SessionOptions::lossy_edges) says. Its gradient comes back as the session has it.
///
/// ```
/// use actorflow::placement::lossy;
/// use actorflow::{Graph, Result};
///
/// fn main() -> Result<()> {
///     let g = Graph::new();
///     let activations = {
///         let _here = g.device_scope("/job:worker/task:0");
///         g.constant([[1.0f32, 2.0]])?.tanh()?
///     };
///     let sent = lossy(&activations)?;
///     let _there = g.device_scope("/job:worker/task:1");
///     let logits = sent.relu()?;
///     assert_eq!(logits.shape(), activations.shape());
///     Ok(())
/// }
/// ```
///
/// # Errors
/// `INVALID_ARGUMENT` if `x` is not of single precision, or is a reference to a variable, which is read first.
pub fn lossy(x: &Output) -> Result<Output> {
    crossing(x, "lossy", true)
}

/// `x` for those in other processes who need it exactly, though
/// [`SessionOptions::lossy_edges`](crate::SessionOptions::lossy_edges) rounds what else crosses: a learning rate, a loss, an index.
///
/// The result is `x` itself, of the same shape and on the same device.
///
/// # Errors
/// As [`lossy`].
pub fn lossless(x: &Output) -> Result<Output> {
    crossing(x, "lossless", false)
}

fn crossing(x: &Output, what: &str, rounded: bool) -> Result<Output> {
    let op = x.op();
    let name = op.name();
    if x.is_ref() {
        return Err(Error::invalid(format!(
            "{what}: output {}:{} is a reference to a variable; take what is read from it, as Identity does",
            name,
            x.index()
        )));
    }
    if x.dtype() != DType::F32 {
        return Err(Error::invalid(format!(
            "{what}: output {}:{} is of dtype {}; only float32 is ever rounded on its way",
            name,
            x.index(),
            x.dtype()
        )));
    }
    let graph = op.graph();
    let same = graph.op("Identity").input(x).attr("_lossy", rounded);
    same.colocate_with(&name).name(what).output()
}
