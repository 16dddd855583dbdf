//! Sums, means, extremes and other folds along dimensions, and segments.

pub mod arg;
pub mod extremes;
pub mod logic;
pub mod segment;
mod shared;
pub mod sums;
