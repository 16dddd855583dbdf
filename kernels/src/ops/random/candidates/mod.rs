//! Sampling of classes, for losses over many of them.
//!
//! - `sampler`: distributions over classes, and drawing from them with TensorFlow's numbers
//! - `ops`: the operations

pub mod ops;
pub(in crate::ops) mod sampler;
