//! Pools: the largest or the mean element of windows, and their gradients.
//!
//! - `extents`: the windows of one pool, checked
//! - `extremes`: largest elements, where they are, gradients to and from there
//! - `averages`: means and their gradient
//! - the other files define the operations

pub mod argmax;
mod averages;
pub mod avg_pool;
mod extents;
mod extremes;
pub mod fractional;
mod kernels;
pub mod max_pool;
pub mod max_pool3d;
pub(super) mod number;
pub mod quantized;
#[cfg(test)]
mod tests;
