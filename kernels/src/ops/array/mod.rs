//! Constants, placeholders, and what reshapes, slices, joins and gathers.

pub mod broadcast;
pub mod concat;
pub mod constant;
pub mod fill;
pub mod gather;
pub mod gather_nd;
pub mod identity;
pub mod mirror_pad;
mod number;
pub mod one_hot;
pub mod pack;
pub mod pad;
pub mod range;
pub mod reshape;
pub mod reverse;
pub mod scatter;
pub mod shape;
pub mod slice;
pub(crate) mod slicing;
pub mod split;
pub mod strided_slice;
pub(crate) mod support;
pub mod tile;
pub mod transpose;
pub mod where_;
