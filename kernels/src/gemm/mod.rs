//! Dense matrix products: `C = epilogue(beta * C + alpha * A * B)`, alone or in batches, over a device's workers.
//!
//! `f32` and `f64` go through a microkernel in vector registers (AVX-512, AVX2 or portable code, chosen when the
//! program runs); the other element types go through plain blocked loops. A and B may have any strides, so transposes
//! are free, and C is row-major.
//!
//! A result does not depend on the number of threads or on how the work is split: every element is one chain of
//! multiply-adds over the inner dimension, cut into lengths that only that dimension and the CPU decide. It may differ in
//! the last bits between kinds of CPU: by their instruction sets, and by the size of their second-level caches.
//!
//! * `matrix`: the operands and their checks.
//! * `chain`: sums of products whose operands are stretches of two arrays.
//! * `plan`: orientation, packing, blocking, and the split over threads.
//! * `block`: the loops around the microkernel for one block of C.
//! * `micro`, `walk`, `simd`, `x86`: the microkernel, its inner loop, and the vector operations it is written in.
//! * `soon`: asking for memory before it is needed.
//! * `pack`, `scratch`: layouts that the microkernel streams well, and the buffers for them.
//! * `plain`: every other element type.

mod block;
mod chain;
mod matrix;
mod micro;
mod pack;
mod plain;
mod plan;
mod scratch;
mod simd;
mod soon;
#[cfg(test)]
mod tests;
mod vector;
mod walk;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use chain::{Chain, Link, gemm_chain};
pub use matrix::{Epilogue, GemmError, Mat, MatMut, Offsets};

use actorflow_core::parallel::Parallel;
use block::Product;

/// An element type that matrices can be multiplied in: `f32`, `f64`, `f16` and `bf16` (accumulated in `f32`), `i32`
/// and `i64` (wrapping), and both complex types.
pub trait Element: sealed::Multiply {}

mod sealed {
    use super::chain::Linked;
    use super::{Batch, Parallel};

    /// What the engine needs of an element type.
    pub trait Multiply: Copy + Send + Sync + 'static {
        /// Multiplicative identity.
        const UNIT: Self;
        /// Computes every product of the batch.
        fn multiply(par: &dyn Parallel, batch: &Batch<'_, Self>);
        /// Computes a sum of products.
        fn chain(sum: &Linked<'_, Self>);
    }
}

/// Checked products of equal extents, in raw form.
#[doc(hidden)]
pub struct Batch<'a, T> {
    product: Product<T>,
    conj_a: bool,
    conj_b: bool,
    count: usize,
    a: Offsets<'a>,
    b: Offsets<'a>,
    c: usize,
}

impl<T: Copy> Batch<'_, T> {
    /// Product `i` of the batch, `i < count`.
    fn get(&self, i: usize) -> Product<T> {
        Product {
            a: self.product.a.wrapping_add(self.a.get(i)),
            b: self.product.b.wrapping_add(self.b.get(i)),
            c: self.product.c.wrapping_add(i * self.c),
            ..self.product
        }
    }
}

/// `C = epilogue(beta * C + alpha * A * B)` for A `[m, k]`, B `[k, n]` and C `[m, n]`.
///
/// With `beta` zero C is not read, so it may hold anything, NaN included. With `k` zero the product is zero.
/// The work is split over `par` when there is enough of it; the result is the same for any number of threads.
///
/// # Errors
/// [`GemmError::Mismatch`] if the extents (or the bias's length and `n`) do not fit together.
pub fn gemm<T: Element>(
    par: &dyn Parallel,
    alpha: T,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    beta: T,
    c: MatMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<(), GemmError> {
    gemm_batched(
        par,
        1,
        alpha,
        (a, Offsets::Every(0)),
        (b, Offsets::Every(0)),
        beta,
        (c, 0),
        epilogue,
    )
}

/// [`gemm`] for `batch` products of equal extents: matrix `i` of A and of B begins at its offset into the view's slice,
/// matrix `i` of C at `i` times C's step. The epilogue is the same for all.
///
/// Splits over the batch first and over blocks of each product where the batch alone is too small.
///
/// # Errors
/// [`GemmError::Mismatch`] as for [`gemm`], [`GemmError::OutOfBounds`] if a matrix of the batch would reach beyond its
/// slice, [`GemmError::Overlap`] if two matrices of C would overlap.
#[expect(
    clippy::too_many_arguments,
    reason = "the operands of the operation, in its customary order"
)]
pub fn gemm_batched<T: Element>(
    par: &dyn Parallel,
    batch: usize,
    alpha: T,
    (a, a_offsets): (Mat<'_, T>, Offsets<'_>),
    (b, b_offsets): (Mat<'_, T>, Offsets<'_>),
    beta: T,
    (c, c_step): (MatMut<'_, T>, usize),
    epilogue: Epilogue<'_, T>,
) -> Result<(), GemmError> {
    let (m, n, k) = (c.rows, c.cols, a.cols);
    if a.rows != m || b.rows != k || b.cols != n || epilogue.bias.is_some_and(|bias| bias.len() != n) {
        return Err(GemmError::Mismatch);
    }
    if m == 0 || n == 0 || batch == 0 {
        return Ok(());
    }
    // `MatMut` has checked this sum for one matrix.
    let c_len = (m - 1) * c.row_stride + n;
    if batch > 1 && c_step < c_len {
        return Err(GemmError::Overlap);
    }
    let c_end = (batch - 1)
        .checked_mul(c_step)
        .and_then(|offset| offset.checked_add(c_len));
    let c_fits = c_end.is_some_and(|end| end <= c.data.len());
    if !c_fits || !a_offsets.fits(batch, &a) || !b_offsets.fits(batch, &b) {
        return Err(GemmError::OutOfBounds);
    }
    // The stride of a single row or column means nothing and may be any number; 1 serves every layout.
    let stride = |extent: usize, stride: usize| if extent > 1 { stride } else { 1 };
    let product = Product {
        m,
        n,
        k,
        alpha,
        a: a.data.as_ptr(),
        a_row: stride(m, a.row_stride),
        a_col: stride(k, a.col_stride),
        b: b.data.as_ptr(),
        b_row: stride(k, b.row_stride),
        b_col: stride(n, b.col_stride),
        beta,
        c: c.data.as_mut_ptr(),
        c_row: stride(m, c.row_stride),
        turned: false,
        bias: epilogue.bias.map_or(std::ptr::null(), <[T]>::as_ptr),
        relu: epilogue.relu,
    };
    let batch = Batch {
        product,
        conj_a: a.conj,
        conj_b: b.conj,
        count: batch,
        a: a_offsets,
        b: b_offsets,
        c: c_step,
    };
    T::multiply(par, &batch);
    Ok(())
}
