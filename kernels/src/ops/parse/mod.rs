//! Reading serialized records and tensors.
#![forbid(unsafe_code)]

pub mod example;
mod features;
pub mod json;
pub mod sequence;
pub mod tensor;
#[cfg(test)]
mod tests;
pub(crate) mod wire;
