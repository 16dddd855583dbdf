//! Normalisation: over batches and over neighbouring channels.
//!
//! - `channels`: the passes over images, seen as matrices of pixels and channels
//! - `batch_norm`: the kernels of `FusedBatchNorm` and its gradient
//! - the other files define the operations

mod batch_norm;
mod channels;
pub mod fused;
pub mod global;
pub mod lrn;
#[cfg(test)]
mod tests;
