//! Moving blocks of operands into layouts that the microkernel streams well, and tiles back out transposed.
//!
//! B is packed into panels as wide as a broad tile, zero-padded, each a contiguous stream, where its own layout does
//! not serve. The microkernel takes any strides of A; an A that is transposed is packed in the same way, with its rows for
//! columns, where it is read often. Other copies of A lost 1 to 12 % for every shape from 256 to 2048.

use super::simd::{Real, Simd};

/// A block of B to pack, or of A with its rows for columns.
pub(super) struct Panels<T> {
    /// Top left element.
    pub(super) src: *const T,
    /// Distance between rows.
    pub(super) row: usize,
    /// Distance between columns.
    pub(super) col: usize,
    /// Rows of the block.
    pub(super) depth: usize,
    /// Columns of the block.
    pub(super) width: usize,
    /// Room for `depth` times the width rounded up to whole panels.
    pub(super) dst: *mut T,
}

/// Packs a block of B whose columns are adjacent (`col == 1`).
///
/// # Safety
/// The block is readable, `dst` has room and does not overlap it, and the CPU has `S`'s instruction set.
#[inline(always)]
pub(super) unsafe fn rows<S: Simd>(p: &Panels<S::T>) {
    let l = S::LANES;
    let panel = 2 * l;
    let full = p.width / panel;
    let rest = p.width % panel;
    // SAFETY: row `k` of the block has `width` readable elements; panel `j` of `dst` starts at `j * depth * panel`
    // and its row `k` has `panel` elements.
    unsafe {
        let first = S::mask(rest.min(l));
        let second = S::mask(rest.saturating_sub(l));
        for k in 0..p.depth {
            let src = p.src.add(k * p.row);
            let dst = p.dst.add(k * panel);
            for j in 0..full {
                let out = dst.add(j * p.depth * panel);
                S::store(out, S::load(src.add(j * panel)));
                S::store(out.add(l), S::load(src.add(j * panel + l)));
            }
            if rest > 0 {
                let src = src.add(full * panel);
                let out = dst.add(full * p.depth * panel);
                S::store(out, S::load_masked(src, first));
                S::store(out.add(l), S::load_masked(src.wrapping_add(l), second));
            }
        }
    }
}

/// Packs a block of B whose rows are adjacent (`row == 1`): the case that needs a transposition.
///
/// # Safety
/// As for [`rows`].
#[inline(always)]
pub(super) unsafe fn columns<S: Simd>(p: &Panels<S::T>) {
    let l = S::LANES;
    let panel = 2 * l;
    let halves = p.width.div_ceil(panel) * 2;
    for half in 0..halves {
        let first = half * l;
        let valid = p.width.saturating_sub(first).min(l);
        // SAFETY: columns `first..first + valid` are readable for `depth` rows; the half panel has room for `depth`
        // rows of `l` elements at distance `panel`.
        unsafe {
            let src = p.src.wrapping_add(first * p.col);
            let dst = p.dst.add((half / 2) * p.depth * panel + (half % 2) * l);
            for k in (0..p.depth).step_by(l) {
                let (from, to, depth) = (src.wrapping_add(k), dst.add(k * panel), l.min(p.depth - k));
                if valid == l && depth == l {
                    S::transpose::<true>(from, p.col, (l, l), to, panel);
                } else {
                    S::transpose::<false>(from, p.col, (valid, depth), to, panel);
                }
            }
        }
    }
}

/// Packs a block of B with any strides, element by element.
///
/// # Safety
/// The block is readable and `dst` has room and does not overlap it; `panel` is the width of a panel.
pub(super) unsafe fn gather<T: Real>(p: &Panels<T>, panel: usize) {
    for first in (0..p.width).step_by(panel) {
        let valid = (p.width - first).min(panel);
        for k in 0..p.depth {
            for j in 0..panel {
                // SAFETY: element (k, first + j) is read only when it is inside the block; the panel has room.
                unsafe {
                    let x = if j < valid {
                        *p.src.add(k * p.row + (first + j) * p.col)
                    } else {
                        T::ZERO
                    };
                    *p.dst.add(first * p.depth + k * panel + j) = x;
                }
            }
        }
    }
}

/// A finished tile to be written to C transposed: its rows are columns of C.
pub(super) struct Transposed<T> {
    /// The tile; readable to whole vectors and, downwards, to a multiple of the lanes.
    pub(super) src: *const T,
    /// Distance between rows of the tile.
    pub(super) src_row: usize,
    /// Rows of the tile, columns of C.
    pub(super) rows: usize,
    /// Columns of the tile, rows of C.
    pub(super) cols: usize,
    /// Top left element of the block of C.
    pub(super) c: *mut T,
    /// Distance between rows of C.
    pub(super) c_row: usize,
    /// Factor of C's old value; C is not read when it is zero.
    pub(super) beta: T,
    /// One element per column of C, or null.
    pub(super) bias: *const T,
    /// Whether negative results become zero, after the bias.
    pub(super) relu: bool,
}

/// Writes a tile to C transposed, with what [`super::micro`] does at the end of a tile.
///
/// # Safety
/// `t`'s tile is readable as described and its block of C writable by this call alone; the CPU has `S`'s
/// instruction set.
#[inline(always)]
pub(super) unsafe fn write_transposed<S: Simd>(t: &Transposed<S::T>) {
    let l = S::LANES;
    let mut turned = [S::T::ZERO; 256];
    // SAFETY: the caller vouches for the tile, padded to whole blocks, and for rows `0..cols` and columns `0..rows` of
    // C; `turned` holds a block of `l * l <= 256` elements.
    unsafe {
        for i in (0..t.rows).step_by(l) {
            let mask = S::mask((t.rows - i).min(l));
            for j in (0..t.cols).step_by(l) {
                S::transpose::<true>(t.src.add(i * t.src_row + j), t.src_row, (l, l), turned.as_mut_ptr(), l);
                for r in 0..(t.cols - j).min(l) {
                    let c = t.c.add((j + r) * t.c_row + i);
                    let mut x = S::load(turned.as_ptr().add(r * l));
                    if t.beta != S::T::ZERO {
                        x = S::mul_add(S::splat(t.beta), S::load_masked(c, mask), x);
                    }
                    if !t.bias.is_null() {
                        x = S::add(x, S::load_masked(t.bias.add(i), mask));
                    }
                    if t.relu {
                        x = S::relu(x);
                    }
                    S::store_masked(c, x, mask);
                }
            }
        }
    }
}
