//! Images: resizing, cropping, colours, boxes.
//!
//! - `taps`: resampling along one axis as lists of inputs and weights
//! - `resample`: resampling along both, and what kernels that do so share
//! - the other files define the operations

pub mod codec;
pub mod color;
mod color_grad;
pub mod crop;
pub mod distort;
pub mod draw;
pub mod glimpse;
pub mod nms;
pub(crate) mod resample;
pub mod resize;
mod taps;
pub mod transform;
pub mod translate;
