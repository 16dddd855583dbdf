//! Reading serialized records and tensors.
#![forbid(unsafe_code)]

pub mod tensor;
pub(crate) mod wire;
