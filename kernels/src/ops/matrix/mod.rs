//! Matrix products, diagonals and linear algebra.

pub mod batch_matmul;
pub mod descent;
pub mod fused_matmul;
pub mod matmul;
mod product;
