//! Sums of products whose operands are stretches of two arrays: "batch-reduce" products (Georganas et al., "Harnessing
//! Deep Learning via a Single Building Block", 2020).
//!
//! A tile of C stays in the vector registers over all links, so that a convolution can read its images in place, tap
//! by tap, and leave out the taps that lie in the padding.

use super::block::{self, Product};
use super::{Element, Epilogue, GemmError, MatMut};

/// One product of a sum: `k` columns of A and as many rows of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where A's first column begins, relative to the array.
    pub a: usize,
    /// Where B's first row begins, relative to the array.
    pub b: usize,
    /// Length of the inner dimension.
    pub k: usize,
}

/// The arrays that the links of a sum of products lie in.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a, T> {
    /// Holds every A.
    pub a: &'a [T],
    /// Distance between rows of A.
    pub a_row: usize,
    /// Distance between columns of A.
    pub a_col: usize,
    /// Holds every B, whose columns are adjacent.
    pub b: &'a [T],
    /// Distance between rows of B.
    pub b_row: usize,
}

/// The index after the last of a block, if that can be counted.
fn end(first: usize, rows: usize, row: usize, columns: usize, column: usize) -> Option<usize> {
    let down = rows.saturating_sub(1).checked_mul(row)?;
    let across = columns.saturating_sub(1).checked_mul(column)?;
    first.checked_add(down)?.checked_add(across)?.checked_add(1)
}

/// `C = epilogue(beta * C + A_1 B_1 + A_2 B_2 + …)` over the links, on the calling thread.
///
/// Every element is one chain of multiply-adds in the order of the links (`f16` and `bf16` are rounded after each
/// link). With `beta` zero C is not read; without links the sum is zero.
///
/// # Errors
/// [`GemmError::OutOfBounds`] if a link reaches beyond its array, [`GemmError::Mismatch`] if the bias is not as long as
/// C has columns.
pub fn gemm_chain<T: Element>(
    chain: Chain<'_, T>,
    links: &[Link],
    beta: T,
    c: MatMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<(), GemmError> {
    let (m, n) = (c.rows, c.cols);
    if epilogue.bias.is_some_and(|bias| bias.len() != n) {
        return Err(GemmError::Mismatch);
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let inside = |l: &Link| {
        l.k == 0
            || (end(l.a, m, chain.a_row, l.k, chain.a_col).is_some_and(|e| e <= chain.a.len())
                && end(l.b, l.k, chain.b_row, n, 1).is_some_and(|e| e <= chain.b.len()))
    };
    if !links.iter().all(inside) {
        return Err(GemmError::OutOfBounds);
    }
    let product = Product {
        m,
        n,
        k: 0,
        alpha: T::UNIT,
        a: chain.a.as_ptr(),
        a_row: chain.a_row,
        a_col: chain.a_col,
        b: chain.b.as_ptr(),
        b_row: chain.b_row,
        b_col: 1,
        beta,
        c: c.data.as_mut_ptr(),
        c_row: c.row_stride,
        turned: false,
        bias: epilogue.bias.map_or(std::ptr::null(), <[T]>::as_ptr),
        relu: epilogue.relu,
    };
    T::chain(&Linked { product, links });
    Ok(())
}

/// A checked sum of products in raw form; the product's own `k` means nothing.
#[doc(hidden)]
pub struct Linked<'a, T> {
    pub(super) product: block::Product<T>,
    pub(super) links: &'a [Link],
}
