//! Matrix products, diagonals and linear algebra.

pub mod batch_matmul;
pub mod fused_matmul;
pub mod matmul;
mod product;
