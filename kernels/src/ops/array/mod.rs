//! Constants, placeholders, and what reshapes, slices, joins and gathers.

pub mod concat;
pub mod constant;
pub mod fill;
pub mod identity;
pub mod pack;
pub mod range;
pub mod reshape;
pub mod shape;
pub mod slice;
pub mod split;
pub mod strided_slice;
mod support;
pub mod tile;
pub mod transpose;
