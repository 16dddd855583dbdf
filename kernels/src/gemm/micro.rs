//! The microkernel: one tile of C held in vector registers while the whole inner dimension streams by.
//!
//! A tile is up to [`Isa::MAX_ROWS`] rows by two vectors. For every step of the inner dimension it loads two vectors of
//! B and broadcasts one element of A per row straight from memory, so A needs no packing for its layout's sake: any
//! pair of strides will do. 12 by 2 tiles keep 24 of the 32 AVX-512 accumulators busy (two fused multiply-adds of
//! latency 4 in flight need 8) with 14 loads for 24 multiply-adds, where the ports would take 24.
//! Kernels exist for every height, so an edge is spread over several tiles of nearly equal height and costs little.

use super::chain::Link;
use super::simd::{Portable, Real, Simd};
use super::soon::Soon;
use super::walk::{self, Along, Anyhow, Asks, Down, Stream};

/// The operands of a strip: tiles side by side, all of a kernel's size except that the last vector may be partial.
pub(super) struct Strip<'a, T> {
    /// Tiles in the strip, at least 1.
    pub(super) panels: usize,
    /// The stretches of the inner dimension, relative to `a` and `b`.
    pub(super) links: &'a [Link],
    /// Top left element of the rows of A.
    pub(super) a: *const T,
    /// Distance between rows of A.
    pub(super) a_row: usize,
    /// Distance between columns of A.
    pub(super) a_col: usize,
    /// Top left element of the columns of B, whose columns are adjacent.
    pub(super) b: *const T,
    /// Distance between rows of B.
    pub(super) b_row: usize,
    /// Distance between the columns of B of one tile and those of the next.
    pub(super) b_panel: usize,
    /// How far ahead of its use B is prefetched, in elements.
    pub(super) ahead: usize,
    /// Top left element of the strip of C.
    pub(super) c: *mut T,
    /// Distance between rows of C.
    pub(super) c_row: usize,
    /// Valid lanes of the last vector of the last tile, `1..=LANES`.
    pub(super) tail: usize,
    /// Whether the product is stored as it is: alpha is 1, beta is 0 and there is no epilogue.
    pub(super) plain: bool,
    /// Factor of the product.
    pub(super) alpha: T,
    /// Factor of C's old value; C is not read when it is zero.
    pub(super) beta: T,
    /// Added to every row afterwards, one element per column; null for none.
    pub(super) bias: *const T,
    /// Whether negative results become zero, after the bias.
    pub(super) relu: bool,
    /// What is asked for meanwhile.
    pub(super) soon: &'a [Soon<T>; 2],
    /// Tiles of the same rows that came before.
    pub(super) tile: usize,
}

/// A microkernel for a fixed number of rows and vectors.
pub(super) type Kernel<T> = unsafe fn(&Strip<'_, T>);

/// An instruction set for one element type: the functions that enable its target features.
pub(super) trait Isa: Simd {
    /// The tallest tile.
    const MAX_ROWS: usize;
    /// Kernels of one vector, by height less one.
    const NARROW: &'static [Kernel<Self::T>];
    /// Kernels of two vectors, by height less one.
    const BROAD: &'static [Kernel<Self::T>];
    /// Kernels of [`WIDE`] vectors for products of very few rows, by height less one.
    const FLAT: &'static [Kernel<Self::T>];

    /// [`super::pack::rows`] with the target features.
    unsafe fn pack_rows(panel: &crate::gemm::pack::Panels<Self::T>);
    /// [`super::pack::columns`] with the target features.
    unsafe fn pack_columns(panel: &crate::gemm::pack::Panels<Self::T>);
    /// [`super::pack::write_transposed`] with the target features.
    unsafe fn write_transposed(tile: &crate::gemm::pack::Transposed<Self::T>);
}

/// Vectors of the [`Isa::FLAT`] kernels.
pub(super) const WIDE: usize = 4;

/// Computes a strip of tiles of `ROWS` rows and `VECS` vectors each.
///
/// # Safety
/// `t` describes readable rows and columns and a writable strip, the CPU has `S`'s instruction set, and nothing else
/// accesses the strip meanwhile.
#[inline(always)]
unsafe fn strip<S: Simd, const ROWS: usize, const VECS: usize>(t: &Strip<'_, S::T>) {
    // SAFETY: all accesses are inside the operands that the caller describes: rows of A `0..ROWS`, the links' steps, and
    // the vectors of B and C whose lanes past `tail` are masked off. Prefetches may be anywhere.
    unsafe {
        let l = S::LANES;
        let (mut panel, mut c, mut bias) = (t.b, t.c, t.bias);
        for (tile, left) in (t.tile..).zip((0..t.panels).rev()) {
            let mask = S::mask(if left == 0 { t.tail } else { l });
            // The tile of C is wanted at the end; asked for only then, it would be waited for.
            for i in 0..ROWS {
                for v in 0..VECS {
                    S::prefetch_write(c.wrapping_add(i * t.c_row + v * l));
                }
            }
            let mut acc = [[S::splat(S::T::ZERO); VECS]; ROWS];
            let mut asks = Asks::of(t.soon, tile);
            // Narrow tiles, the last ones of a strip, are masked always, broad ones only if they are partial.
            let partial = left == 0 && t.tail < l;
            for link in t.links {
                let a = t.a.wrapping_add(link.a);
                let stream = Stream {
                    b: panel.wrapping_add(link.b),
                    row: t.b_row,
                    ahead: t.ahead,
                    k: link.k,
                };
                let (along, down) = (Along::new(a, t.a_row), Down::new(a, t.a_col));
                let (acc, asks) = (&mut acc, &mut asks);
                match (t.a_col, t.a_row) {
                    (1, _) if VECS == 1 => {
                        walk::link::<S, Along<S::T, ROWS>, ROWS, VECS, true>(acc, along, stream, mask, asks)
                    }
                    (_, 1) if VECS == 1 => walk::link::<S, Down<S::T>, ROWS, VECS, true>(acc, down, stream, mask, asks),
                    (1, _) if !partial => {
                        walk::link::<S, Along<S::T, ROWS>, ROWS, VECS, false>(acc, along, stream, mask, asks)
                    }
                    (_, 1) if !partial => walk::link::<S, Down<S::T>, ROWS, VECS, false>(acc, down, stream, mask, asks),
                    (column, row) => walk::link::<S, Anyhow<S::T>, ROWS, VECS, true>(
                        acc,
                        Anyhow::new(a, row, column),
                        stream,
                        mask,
                        asks,
                    ),
                }
            }
            finish::<S, ROWS, VECS>(t, acc, mask, c, bias);
            panel = panel.wrapping_add(t.b_panel);
            c = c.wrapping_add(VECS * l);
            if !bias.is_null() {
                bias = bias.wrapping_add(VECS * l);
            }
        }
    }
}

/// Scales a tile, adds what C held, applies the epilogue and stores.
///
/// # Safety
/// As for [`strip`], with `c` and `bias` at the tile's columns.
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "indices that unroll completely keep the accumulators in registers"
)]
unsafe fn finish<S: Simd, const ROWS: usize, const VECS: usize>(
    t: &Strip<'_, S::T>,
    mut acc: [[S::V; VECS]; ROWS],
    mask: S::M,
    c: *mut S::T,
    bias: *const S::T,
) {
    let l = S::LANES;
    // SAFETY: the caller vouches for the tile of C and, where there is one, for the bias of its columns.
    unsafe {
        let at = |i: usize, v: usize| c.add(i * t.c_row + v * l);
        let load = |p: *const S::T, v: usize| {
            if v + 1 < VECS {
                S::load(p)
            } else {
                S::load_masked(p, mask)
            }
        };
        if !t.plain {
            let alpha = S::splat(t.alpha);
            for i in 0..ROWS {
                for v in 0..VECS {
                    acc[i][v] = S::mul(alpha, acc[i][v]);
                }
            }
            if t.beta != S::T::ZERO {
                let beta = S::splat(t.beta);
                for i in 0..ROWS {
                    for v in 0..VECS {
                        acc[i][v] = S::mul_add(beta, load(at(i, v), v), acc[i][v]);
                    }
                }
            }
            if !bias.is_null() {
                for v in 0..VECS {
                    let bias = load(bias.add(v * l), v);
                    for i in 0..ROWS {
                        acc[i][v] = S::add(acc[i][v], bias);
                    }
                }
            }
            if t.relu {
                for i in 0..ROWS {
                    for v in 0..VECS {
                        acc[i][v] = S::relu(acc[i][v]);
                    }
                }
            }
        }
        for i in 0..ROWS {
            for v in 0..VECS {
                if v + 1 < VECS {
                    S::store(at(i, v), acc[i][v]);
                } else {
                    S::store_masked(at(i, v), acc[i][v], mask);
                }
            }
        }
    }
}

/// Implements [`Isa`]: each function is the generic one compiled with `$features`.
macro_rules! isa {
    ($ty:ty, $(#[$attr:meta])? $max:literal: $($rows:literal)*) => {
        impl Isa for $ty {
            const MAX_ROWS: usize = $max;
            const NARROW: &'static [Kernel<Self::T>] = {
                $(#[$attr])?
                unsafe fn kernel<const ROWS: usize>(t: &Strip<'_, <$ty as Simd>::T>) {
                    // SAFETY: the caller's promise is the same.
                    unsafe { strip::<$ty, ROWS, 1>(t) }
                }
                &[$(kernel::<$rows>),*]
            };
            const BROAD: &'static [Kernel<Self::T>] = {
                $(#[$attr])?
                unsafe fn kernel<const ROWS: usize>(t: &Strip<'_, <$ty as Simd>::T>) {
                    // SAFETY: the caller's promise is the same.
                    unsafe { strip::<$ty, ROWS, 2>(t) }
                }
                &[$(kernel::<$rows>),*]
            };
            const FLAT: &'static [Kernel<Self::T>] = {
                $(#[$attr])?
                unsafe fn kernel<const ROWS: usize>(t: &Strip<'_, <$ty as Simd>::T>) {
                    // SAFETY: the caller's promise is the same.
                    unsafe { strip::<$ty, ROWS, WIDE>(t) }
                }
                &[kernel::<1>, kernel::<2>, kernel::<3>]
            };

            $(#[$attr])?
            unsafe fn pack_rows(panel: &crate::gemm::pack::Panels<Self::T>) {
                // SAFETY: the caller's promise is the same.
                unsafe { crate::gemm::pack::rows::<Self>(panel) }
            }

            $(#[$attr])?
            unsafe fn pack_columns(panel: &crate::gemm::pack::Panels<Self::T>) {
                // SAFETY: the caller's promise is the same.
                unsafe { crate::gemm::pack::columns::<Self>(panel) }
            }

            $(#[$attr])?
            unsafe fn write_transposed(tile: &crate::gemm::pack::Transposed<Self::T>) {
                // SAFETY: the caller's promise is the same.
                unsafe { crate::gemm::pack::write_transposed::<Self>(tile) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::x86::{Avx2F32, Avx2F64, Avx512F32, Avx512F64};
    use super::*;

    isa!(Avx512F32, #[target_feature(enable = "avx512f")] 12: 1 2 3 4 5 6 7 8 9 10 11 12);
    isa!(Avx512F64, #[target_feature(enable = "avx512f")] 12: 1 2 3 4 5 6 7 8 9 10 11 12);
    isa!(Avx2F32, #[target_feature(enable = "avx2,fma")] 6: 1 2 3 4 5 6);
    isa!(Avx2F64, #[target_feature(enable = "avx2,fma")] 6: 1 2 3 4 5 6);
}

isa!(Portable<f32, 4>, 4: 1 2 3 4);
isa!(Portable<f64, 2>, 4: 1 2 3 4);
