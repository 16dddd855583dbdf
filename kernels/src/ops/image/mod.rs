//! Images: resizing, cropping, colours, boxes.
//!
//! - `taps`: resampling along one axis as lists of inputs and weights
//! - `resample`: resampling along both, and what kernels that do so share
//! - the other files define the operations

mod resample;
pub mod resize;
mod taps;
