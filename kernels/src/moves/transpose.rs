//! The two-dimensional transpose, blocked for the caches.

use super::{Axis, Item};

/// Rows and columns of a tile: a tile of 4-byte elements is one cache line wide.
const TILE: usize = 16;

/// `out[to + i·a.dst + j] = src[from + i + j·b.src]` for `i < a.n`, `j < b.n`.
///
/// A tile's source lines stay in the first-level cache while the tile's rows are written.
pub(super) fn two<E: Item>(a: Axis, b: Axis, src: &[E], from: usize, out: &mut [E], to: usize) {
    let (rows, cols) = (a.n, b.n);
    let (sd, ss) = (a.dst.unsigned_abs(), b.src.unsigned_abs());
    let mut i = 0;
    while i < rows {
        let h = TILE.min(rows - i);
        let mut j = 0;
        while j < cols {
            let w = TILE.min(cols - j);
            if h == TILE && w == TILE {
                tile(src, from + i + j * ss, ss, out, to + i * sd + j, sd);
            } else {
                for r in 0..h {
                    let d = to + (i + r) * sd + j;
                    let s = from + i + r + j * ss;
                    for (k, o) in out[d..d + w].iter_mut().enumerate() {
                        o.clone_from(&src[s + k * ss]);
                    }
                }
            }
            j += TILE;
        }
        i += TILE;
    }
}

/// One whole tile.
#[inline]
fn tile<E: Item>(src: &[E], s: usize, ss: usize, out: &mut [E], d: usize, sd: usize) {
    let columns: [&[E]; TILE] = std::array::from_fn(|k| {
        let at = s + k * ss;
        &src[at..at + TILE]
    });
    for r in 0..TILE {
        let at = d + r * sd;
        for (o, c) in out[at..at + TILE].iter_mut().zip(&columns) {
            o.clone_from(&c[r]);
        }
    }
}
