//! `TensorArrayV3` and what is done with it: an array of tensors that is written once and read, in loops above all.
//!
//! - `array`: the array itself
//! - `ops`: the operations
//! - `grad`: their gradients, which read and write an array of gradients beside the array

mod array;
mod grad;
mod ops;

pub use array::TensorArray;
