//! Matrix products, diagonals and linear algebra.

mod band;
pub mod band_part;
pub mod batch;
pub mod batch_matmul;
pub mod descent;
pub mod diag;
pub mod einsum;
pub mod factor;
pub mod fused_matmul;
pub mod matmul;
mod product;
pub mod set_diag;
pub mod sparse_matmul;
pub mod tensor_diag;
