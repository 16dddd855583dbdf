//! The operations, by family.

pub mod array;
pub mod reduce;
