//! Convolutions and their gradients.
//!
//! - `geometry`: the extents of one convolution, checked
//! - `patches`: what outputs see, written as the rows of a matrix
//! - `convolve`: forward and with respect to the input, by matrix products over tiles of lines
//! - `direct`: the same where there are many images, without writing patches
//! - `filter_grad`: with respect to the filter
//! - `winograd`: all three by minimal filtering, where there are many channels and pixels
//! - `depthwise`: every channel by itself, without matrices
//! - the other files define the operations

pub mod conv2d;
pub mod conv3d;
mod convolve;
pub mod depthwise;
pub mod dilation;
mod direct;
mod filter_grad;
pub(crate) mod geometry;
mod kernels;
pub(crate) mod number;
pub mod padded;
mod patches;
#[cfg(test)]
pub(crate) mod tests;
mod winograd;
