//! Lists and maps of tensors: immutable values of dtype `variant` that flow along edges, as TensorFlow 2's loops use
//! them.
#![forbid(unsafe_code)]

pub mod grads;
pub mod items;
pub mod join;
pub mod map;
pub mod map_ops;
pub mod rows;
pub mod value;
pub mod variants;

#[cfg(test)]
mod tests;
