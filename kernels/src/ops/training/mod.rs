//! The update rules of optimizers: the `Apply…`, `ResourceApply…`, `SparseApply…` and `ResourceSparseApply…` operations.
//!
//! A rule says how one element of the variable and of its slots moves ([`rule::Rule`]); [`drive`] runs it over slices
//! at the width of the processor, [`dense`] and [`sparse`] make the operations of it. Formulas are TensorFlow's.

pub mod adagrad;
pub mod adam;
pub mod define;
pub mod dense;
pub mod drive;
pub mod ftrl;
pub mod gradient_descent;
pub mod momentum;
pub mod rms_prop;
pub mod rule;
pub mod sign;
pub mod sparse;
#[cfg(test)]
mod tests;
