//! The operations, by family.

pub mod array;
