//! Constants, placeholders, and what reshapes, slices, joins and gathers.

pub mod constant;
pub mod identity;
