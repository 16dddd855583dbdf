//! Sums, means, extremes and other folds along dimensions, and segments.

pub mod extremes;
pub mod logic;
mod shared;
pub mod sums;
