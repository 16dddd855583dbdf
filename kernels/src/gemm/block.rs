//! One block of C on one thread: the loops around the microkernel.

use super::chain::{Link, Linked};
use super::micro::{Isa, Kernel, Strip, WIDE};
use super::pack::{self, Panels, Transposed};
use super::plan::{Asks, Plan};
use super::scratch;
use super::simd::Real;
use super::soon::Soon;
use std::ops::Range;

/// A whole product in raw form, in the orientation that the plan has chosen.
///
/// All pointers are valid for the extents and strides given; that is checked where one is made. `Sync` because blocks
/// that different threads compute write disjoint parts of C.
#[derive(Clone, Copy)]
pub(super) struct Product<T> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) alpha: T,
    pub(super) a: *const T,
    pub(super) a_row: usize,
    pub(super) a_col: usize,
    pub(super) b: *const T,
    pub(super) b_row: usize,
    pub(super) b_col: usize,
    pub(super) beta: T,
    pub(super) c: *mut T,
    pub(super) c_row: usize,
    /// Whether the product is that of the transposes, so that `c` takes the transposed result: its element (i, j) is
    /// at `j * c_row + i`.
    pub(super) turned: bool,
    /// One element per column of C as the caller sees it, or null.
    pub(super) bias: *const T,
    pub(super) relu: bool,
}

// SAFETY: the pointers are only dereferenced by `block`, whose callers keep to disjoint blocks of C.
unsafe impl<T: Send + Sync> Sync for Product<T> {}

impl<T> Product<T> {
    /// The same product as `C^T = B^T A^T`.
    pub(super) fn turn(self) -> Self {
        Product {
            m: self.n,
            n: self.m,
            a: self.b,
            a_row: self.b_col,
            a_col: self.b_row,
            b: self.a,
            b_row: self.a_col,
            b_col: self.a_row,
            turned: !self.turned,
            ..self
        }
    }
}

/// Columns of the buffer for a tile on its way to being transposed; rows are [`TURN_ROWS`].
const TURN_COLS: usize = 64;
/// Rows of that buffer: the tallest tile, rounded up to whole blocks of lanes.
const TURN_ROWS: usize = 16;

/// Panels of A that are packed at a time: whole cache lines side by side.
const PIECE: usize = 2;

/// Panels of A that one narrow block of B meets, and that are read again for the next one: 1 MiB at most.
const A_PANELS: usize = 8;

/// Computes rows `rows` and columns `cols` of the product.
///
/// # Safety
/// `p`'s pointers are valid, the ranges lie inside it, no one else accesses that part of C meanwhile, and the CPU has
/// `S`'s instruction set.
pub(super) unsafe fn block<S: Isa>(p: &Product<S::T>, plan: &Plan, rows: Range<usize>, cols: Range<usize>) {
    let panel = 2 * S::LANES;
    let kc = plan.kc.min(p.k);
    let nc = plan.nc.min(cols.len());
    let b_len = if plan.pack_b {
        nc.next_multiple_of(panel) * kc
    } else {
        0
    };
    let t_len = if p.turned { TURN_COLS * TURN_ROWS } else { 0 };
    let a_len = if plan.pack_a { A_PANELS * panel * kc } else { 0 };
    scratch::with(b_len + t_len + a_len, |buffer: *mut S::T| {
        let b_buffer = buffer;
        let turn = buffer.wrapping_add(b_len);
        let a_buffer = turn.wrapping_add(t_len);
        let mut k0 = 0;
        loop {
            let depth = kc.min(p.k - k0);
            let last = k0 + depth == p.k;
            for j0 in cols.clone().step_by(plan.nc) {
                let width = plan.nc.min(cols.end - j0);
                let mut b = p.b.wrapping_add(k0 * p.b_row + j0 * p.b_col);
                if plan.pack_b {
                    let panels = Panels {
                        src: b,
                        row: p.b_row,
                        col: p.b_col,
                        depth,
                        width,
                        dst: b_buffer,
                    };
                    // SAFETY: the block lies in B; the buffer was sized for it.
                    unsafe {
                        if p.b_col == 1 {
                            S::pack_rows(&panels);
                        } else if p.b_row == 1 {
                            S::pack_columns(&panels);
                        } else {
                            pack::gather(&panels, panel);
                        }
                    }
                    b = b_buffer;
                }
                let inner = Inner {
                    links: &[Link { a: 0, b: 0, k: depth }],
                    a: p.a.wrapping_add(rows.start * p.a_row + k0 * p.a_col),
                    b,
                    packed: plan.pack_b,
                    depth,
                    height: rows.len(),
                    width,
                    after: plan.nc.min(cols.end - j0 - width),
                    asks: plan.asks(p, depth, width < cols.end - j0),
                    i0: rows.start,
                    j0,
                    beta: if k0 == 0 { p.beta } else { S::T::ONE },
                    last,
                    turn,
                };
                // SAFETY: `inner` describes blocks of the operands or their copies; the buffer was sized for them.
                unsafe {
                    if plan.pack_a {
                        inner.run_packed::<S>(p, plan, a_buffer);
                    } else {
                        inner.run::<S>(p, plan);
                    }
                }
            }
            k0 += depth;
            if k0 >= p.k {
                break;
            }
        }
    });
}

/// Computes a sum of products.
///
/// # Safety
/// As for [`block`], for every link.
pub(super) unsafe fn chain<S: Isa>(sum: &Linked<'_, S::T>, plan: &Plan) {
    let p = &sum.product;
    let inner = Inner {
        links: sum.links,
        a: p.a,
        b: p.b,
        packed: false,
        depth: 0,
        height: p.m,
        width: p.n,
        after: 0,
        asks: Asks::Nothing,
        i0: 0,
        j0: 0,
        beta: p.beta,
        last: true,
        turn: std::ptr::null_mut(),
    };
    // SAFETY: the caller's promise is the same.
    unsafe { inner.run::<S>(p, plan) };
}

/// Cuts `rows`, at least one, into strips of at most `most`, all nearly as high: where each begins, and its height.
fn strips(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(most);
    // The first `more` have one row more.
    let (base, more) = (rows / count, rows % count);
    (0..count).map(move |t| (t * base + t.min(more), base + usize::from(t < more)))
}

/// The [`strips`] of panels of so many rows: where the panel begins, where the strip does in it, and its height.
fn strips_of_panels(rows: usize, panel: usize, most: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let of_panel = move |at: usize| strips((rows - at).min(panel), most).map(move |(i, height)| (at, i, height));
    (0..rows).step_by(panel).flat_map(of_panel)
}

/// The operands of the two loops over tiles.
struct Inner<'a, T> {
    links: &'a [Link],
    a: *const T,
    b: *const T,
    packed: bool,
    depth: usize,
    height: usize,
    width: usize,
    i0: usize,
    j0: usize,
    /// Columns of the next block of B.
    after: usize,
    asks: Asks,
    beta: T,
    last: bool,
    turn: *mut T,
}

impl<T: Real> Inner<'_, T> {
    /// The part of the next block of B that strip `n` of `count` asks for.
    fn next_b(&self, p: &Product<T>, part: (usize, usize), tiles: usize) -> Soon<T> {
        if self.packed || self.after == 0 {
            return Soon::NONE;
        }
        Soon::part(
            self.b.wrapping_add(self.width),
            (self.depth, p.b_row),
            self.after,
            part,
            tiles,
        )
    }

    /// All tiles of the block, strip by strip: a strip's rows of A stay in the first-level cache while B streams by.
    ///
    /// # Safety
    /// As for [`block`], with `self`'s operands valid for its extents.
    unsafe fn run<S: Isa<T = T>>(&self, p: &Product<T>, plan: &Plan) {
        let most = S::MAX_ROWS.min(plan.rows);
        let (count, tiles) = (self.height.div_ceil(most), self.width.div_ceil(2 * S::LANES));
        let mut next = strips(self.height, most).skip(1);
        for (n, (i, height)) in strips(self.height, most).enumerate() {
            let a = (self.a.wrapping_add(i * p.a_row), p.a_row, p.a_col);
            let soon = match (self.asks, next.next()) {
                (Asks::Output, Some((i, height))) => {
                    let c = p.c.wrapping_add((self.i0 + i) * p.c_row + self.j0);
                    Soon::below(c, (height, p.c_row), (tiles, 2 * S::LANES), self.depth)
                }
                (Asks::Operands, Some((i, height))) if plan.asks_for_rows(p) => [
                    Soon::along(self.a.wrapping_add(i * p.a_row), (height, p.a_row), tiles),
                    self.next_b(p, (n, count), tiles),
                ],
                (Asks::Operands, _) => [Soon::NONE, self.next_b(p, (n, count), tiles)],
                _ => [Soon::NONE; 2],
            };
            // SAFETY: the caller's promise is the same.
            unsafe { self.strip::<S>(p, plan, a, (i, height), &soon) };
        }
    }

    /// As [`run`](Self::run), through copies of the rows of A, which are adjacent (`a_row == 1`).
    ///
    /// A group of rows meets one narrow block of B after the other, which stays in the second-level cache meanwhile. The
    /// first one finds the rows copied a few panels at a time, just before they are used.
    ///
    /// # Safety
    /// As for [`Inner::run`], with room for [`A_PANELS`] panels in `buffer`.
    unsafe fn run_packed<S: Isa<T = T>>(&self, p: &Product<T>, plan: &Plan, buffer: *mut T) {
        let panel = 2 * S::LANES;
        let panels = self.height.div_ceil(panel);
        // Rows that meet a single block need not stay.
        let most = if self.width > plan.narrow { A_PANELS } else { PIECE };
        let group = panels.div_ceil(panels.div_ceil(most)) * panel;
        let piece = PIECE * panel;
        for first in (0..self.height).step_by(group) {
            let end = (first + group).min(self.height);
            let all = strips_of_panels(end - first, panel, S::MAX_ROWS).count();
            for j in (0..self.width).step_by(plan.narrow) {
                let width = plan.narrow.min(self.width - j);
                let left = self.width - j - width;
                let block = Inner {
                    b: self.b.wrapping_add(if self.packed { j * self.depth } else { j }),
                    width,
                    j0: self.j0 + j,
                    after: plan.narrow.min(left),
                    ..*self
                };
                let tiles = width.div_ceil(panel);
                let mut done = 0;
                for at in (first..end).step_by(piece) {
                    let height = (end - at).min(piece);
                    let copy = buffer.wrapping_add((at - first) * self.depth);
                    if j == 0 {
                        let panels = Panels {
                            src: self.a.wrapping_add(at),
                            row: p.a_col,
                            col: 1,
                            depth: self.depth,
                            width: height,
                            dst: copy,
                        };
                        // SAFETY: these rows lie in A, and the buffer has room for the group's panels.
                        unsafe { S::pack_rows(&panels) };
                    }
                    let count = strips_of_panels(height, panel, S::MAX_ROWS).count();
                    let next = at + height;
                    for (n, (panel_at, i, height)) in strips_of_panels(height, panel, S::MAX_ROWS).enumerate() {
                        let a = (copy.wrapping_add(panel_at * self.depth + i).cast_const(), 1, panel);
                        let rows = if next < end && j > 0 {
                            let panels = (end - next).min(piece).div_ceil(panel);
                            let from = buffer.wrapping_add((next - first) * self.depth);
                            Soon::part(from, (self.depth * panels, panel), panel, (n, count), tiles)
                        } else if next < self.height && (j == 0 || left == 0) {
                            let from = self.a.wrapping_add(next);
                            let width = (self.height - next).min(piece);
                            Soon::part(from, (self.depth, p.a_col), width, (n, count), tiles)
                        } else {
                            Soon::NONE
                        };
                        let soon = [rows, block.next_b(p, (done + n, all), tiles)];
                        // SAFETY: the caller's promise is the same, and the copies are those of the strip's rows.
                        unsafe { block.strip::<S>(p, plan, a, (at + panel_at + i, height), &soon) };
                    }
                    done += count;
                }
            }
        }
    }

    /// The tiles of rows `i..i + height` of this block, whose rows of A, or copies of them, are at `a` with the distances
    /// of rows and of columns given there.
    ///
    /// # Safety
    /// As for [`Inner::run`], `height` no more than a kernel's.
    unsafe fn strip<S: Isa<T = T>>(
        &self,
        p: &Product<T>,
        plan: &Plan,
        (a, a_row, a_col): (*const T, usize, usize),
        (i, height): (usize, usize),
        soon: &[Soon<T>; 2],
    ) {
        let l = S::LANES;
        let row = self.i0 + i;
        let b_row = if self.packed { 2 * l } else { p.b_row };
        let bias = if self.last && !p.turned {
            p.bias
        } else {
            std::ptr::null()
        };
        let relu = self.last && !p.turned && p.relu;
        let beta = if p.turned { T::ZERO } else { self.beta };
        let mut strip = Strip {
            panels: 0,
            links: self.links,
            a,
            a_row,
            a_col,
            b: self.b,
            b_row,
            b_panel: 0,
            ahead: plan.ahead.wrapping_mul(b_row),
            c: p.c,
            c_row: if p.turned { TURN_COLS } else { p.c_row },
            tail: l,
            plain: p.alpha == T::ONE && beta == T::ZERO && bias.is_null() && !relu,
            alpha: p.alpha,
            beta,
            bias,
            relu,
            soon,
            tile: 0,
        };
        // As many tiles of each width as fit, widest first; the narrow kernel takes a rest of one vector.
        let flat = !self.packed && height <= S::FLAT.len();
        let widths: [(usize, &[Kernel<T>]); 3] = [(WIDE, S::FLAT), (2, S::BROAD), (1, S::NARROW)];
        let mut j = 0;
        for (vectors, kernels) in &widths[usize::from(!flat)..] {
            let width = vectors * l;
            // A tile has all its vectors, the last perhaps partial.
            let panels = (self.width - j + l - 1) / width;
            if panels == 0 {
                continue;
            }
            let end = (j + panels * width).min(self.width);
            let kernel = kernels[height - 1];
            let col = self.j0 + j;
            strip.b = self.b.wrapping_add(if self.packed { j * self.depth } else { j });
            strip.b_panel = if self.packed { width * self.depth } else { width };
            // SAFETY: the operands are valid for the tiles; `turn` has room for any tile, its rows rounded up to
            // lanes.
            unsafe {
                if p.turned {
                    strip.panels = 1;
                    strip.c = self.turn;
                    for first in (j..end).step_by(width) {
                        let cols = width.min(end - first);
                        strip.tail = cols - (vectors - 1) * l;
                        kernel(&strip);
                        strip.tile += 1;
                        strip.b = strip.b.wrapping_add(strip.b_panel);
                        S::write_transposed(&Transposed {
                            src: self.turn,
                            src_row: TURN_COLS,
                            rows: height,
                            cols,
                            c: p.c.wrapping_add((self.j0 + first) * p.c_row + row),
                            c_row: p.c_row,
                            beta: self.beta,
                            bias: if self.last && !p.bias.is_null() {
                                p.bias.wrapping_add(row)
                            } else {
                                std::ptr::null()
                            },
                            relu: self.last && p.relu,
                        });
                    }
                } else {
                    strip.panels = panels;
                    strip.c = p.c.wrapping_add(row * p.c_row + col);
                    if !bias.is_null() {
                        strip.bias = bias.wrapping_add(col);
                    }
                    strip.tail = end - j - (panels * vectors - 1) * l;
                    kernel(&strip);
                    strip.tile += panels;
                }
            }
            j = end;
        }
    }
}
