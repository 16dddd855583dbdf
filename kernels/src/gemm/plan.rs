//! Choosing how to compute a product: orientation, packing, blocking, and the split over threads.
//!
//! The constants were measured with `examples/gemm_bench.rs` on Zen 5 and Zen 4 cores (48 and 32 KiB of first-level, 1 MiB
//! of second-level cache, AVX-512), in `f32`; sizes are kept in bytes so that they serve `f64` too. They steer speed only: the chain of
//! additions behind an element of C depends on the depth of a pass ([`DEPTH`] or [`SHORT`]) and on nothing else here.
#![forbid(unsafe_code)]

use super::block::Product;
use super::simd::Caches;
use std::ops::Range;

/// Bytes of a row of A that one pass takes: 1024 `f32`.
///
/// C is read and written once a pass, and its lines come from memory in large products: on a Zen 4 core half of this
/// lost 2 % for squares of 1024 and more, a quarter 4 %, and twice as much won nothing.
const DEPTH: usize = 4096;

/// The same where the second-level cache has room for a packed block of B of so many rows and for what it meets,
/// [`ROOMY`] bytes. On an Emerald Rapids core, whose third level is slow, 3 % more for squares of 1024 and 2048 and for the
/// gradients of weights; half of it gave less.
const SHORT: usize = DEPTH / 2;

/// See [`SHORT`].
const ROOMY: usize = 2 << 20;

/// Bytes of a row of B that one block takes where an operand is packed: 512 `f32`.
///
/// A strip of A is read, or copied, once a block. Half of this lost 1 to 5 % where the rows of A compete for a set of the
/// cache; that a block of B (2 MiB at most) streams from the third-level cache cost nothing, thanks to the prefetches.
const WIDTH: usize = 2048;

/// The same where none is: 128 `f32`, so that a block of B (512 KiB at most) stays in the second-level cache from its
/// first strip of A to its last. With operands that other work had driven out, on a Zen 4 core, 512 gave 4 % less for
/// 1024 × 512 × 784 and squares of 512, 3 % less for 64 rows with weights of 6 MiB and 1 % more for 1024 × 256 × 512;
/// 64 and 192 gave up to 2 % less.
const NARROW: usize = 512;

/// Steps of the inner dimension between a prefetch of B and its use. Operands that other work has driven out of the
/// second-level cache want it far: on a Zen 4 core 16 steps gave 5 to 30 % more than 2 for products of 32 to 128 rows
/// with weights of 1.5 to 6 MiB; 8 gave less, 32 no more, and operands that stay in the cache did not notice.
const AHEAD: usize = 16;

/// Bytes between rows that compete for the same few sets of every cache.
const PAGE: usize = 4096;

/// Rows of A that an unpacked B is read for often enough to be packed: on a Zen 5 core packing costs 5 % of so many.
const OFTEN: usize = 192;

/// Bytes of a row of C from which that is so; a packed row takes up a whole panel of B.
const BROAD: usize = 256;

/// Least steps of the inner dimension with which it is worth asking for the next operands: every pause costs a little, up to
/// 10 % of a tile of 32 steps.
const DEEP: usize = 128;

/// Steps of the inner dimension with which it is worth asking for the next rows of C, if C has [`LARGE`] bytes and so is not
/// in the cache. On a Zen 4 core 8 % more for 3136 × 512 × 64 and × 128.
const SHALLOW: Range<usize> = 32..192;

/// See [`SHALLOW`].
const LARGE: usize = 1 << 20;

/// Multiply-adds below which a batch stays on the calling thread: about 8 microseconds, when handing half of it over
/// takes one or more.
const LEAST: f64 = 1e6;

/// Chunks per thread that a product is split into at most: more would read A and B again too often, fewer would not
/// let the threads balance.
const CHUNKS: usize = 2;

/// Costs in cycles on the same core.
mod cost {
    /// Copying an element into a panel.
    pub(super) const COPY: f64 = 0.12;
    /// Moving an element through a transposition in registers.
    pub(super) const TURN: f64 = 0.3;
    /// Moving an element one at a time.
    pub(super) const GATHER: f64 = 2.0;
    /// Reading an element of A or B for the first time, beyond what prefetching hides.
    pub(super) const READ: f64 = 0.06;
    /// Starting and storing a tile.
    pub(super) const TILE: f64 = 30.0;
    /// A row of C that two blocks share: the lines at the seam, and those fetched ahead across it, move between cores.
    pub(super) const SEAM: f64 = 80.0;
    /// Handing over a chunk of work. High, since smaller chunks were never seen to help an idle machine.
    pub(super) const CHUNK: f64 = 10_000.0;
    /// The part of a chunk by which the last thread is expected to be late.
    pub(super) const LATE: f64 = 0.05;
}

/// How every block of one product is computed. It depends on the whole product alone, never on the threads, so that
/// the result does not either.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Steps of the inner dimension between two visits of C.
    pub(super) kc: usize,
    /// Columns of a block of B, a multiple of the panel.
    pub(super) nc: usize,
    /// Columns of a block of B that a group of copied rows of A meets at a time, a multiple of the panel: those that stay in
    /// the second-level cache. On Zen 4 and Zen 5 cores 1 to 2 % more for the gradients of weights.
    pub(super) narrow: usize,
    /// Whether B is packed into panels; needed unless its columns are adjacent.
    pub(super) pack_b: bool,
    /// Whether A, whose rows are adjacent, is copied into panels.
    pub(super) pack_a: bool,
    /// How many steps ahead of its use B is prefetched.
    pub(super) ahead: usize,
    /// Rows of a tile at most. Rows of A a page apart are all in one set of the first-level cache, and more of them than
    /// it has ways evict each other at every step: on a Zen 4 core (8 ways) 8 rows gave 7 % more than 12 for squares of
    /// 1024 and 2048.
    pub(super) rows: usize,
}

/// What a strip asks to be brought into the second-level cache for those after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    Nothing,
    /// Rows of A, and the next block of B.
    Operands,
    /// Rows of C, which it takes more time to read and write than to compute.
    Output,
}

impl Plan {
    /// Whether a strip asks for the rows of the next one. Where rows collide in the first-level cache they do in the second
    /// as well, and would drive out B: 1 % less for squares of 1024.
    pub(super) fn asks_for_rows<T>(&self, p: &Product<T>) -> bool {
        p.a_col == 1 && self.rows == usize::MAX
    }

    /// What the strips of a pass of `depth` steps ask for; `more` says whether another block of B follows.
    pub(super) fn asks<T>(&self, p: &Product<T>, depth: usize, more: bool) -> Asks {
        let output = p.m.saturating_mul(p.n).saturating_mul(size_of::<T>());
        if SHALLOW.contains(&depth) && output >= LARGE && !p.turned && !self.pack_a {
            Asks::Output
        } else if depth >= DEEP && (self.pack_a || self.asks_for_rows(p) || (more && !self.pack_b)) {
            Asks::Operands
        } else {
            Asks::Nothing
        }
    }
}

/// The product in the better orientation, and its plan; `lanes` and `max_rows` are those of the instruction set.
///
/// Turned, the transposes are multiplied and C is written transposed. That is better where it saves transposing a
/// larger B (few rows: the gradient with respect to a layer's input) or where C has fewer columns than a vector has
/// lanes (the weights' gradient of a small last layer).
pub(super) fn plan<T: Copy>(p: Product<T>, lanes: usize, max_rows: usize) -> (Product<T>, Plan) {
    let turned = p.turn();
    let p = if cycles(&turned, lanes, max_rows) < cycles(&p, lanes, max_rows) {
        turned
    } else {
        p
    };
    (p, layout(&p, lanes))
}

/// Blocking and packing of a product in the orientation given.
pub(super) fn layout<T>(p: &Product<T>, lanes: usize) -> Plan {
    let size = size_of::<T>();
    let caches = Caches::here();
    let depth = if caches.second_bytes >= ROOMY { SHORT } else { DEPTH };
    let passes = p.k.div_ceil(depth / size).max(1);
    // Rows a page apart cost more than packing as soon as B is read twice, and if the inner dimension is short (so
    // that a block fits the cache all the same) when it is read often.
    let row = p.b_row.wrapping_mul(size);
    let rows_collide = row.is_multiple_of(PAGE);
    let often = p.m >= OFTEN || (p.m >= 16 && p.k >= 256);
    // So do rows half a page apart, or another part of it, that a set of the first-level cache has no ways for: unpacked,
    // gradients of weights, 784 × 512 × 1024, had 10 to 25 % less on a Zen 5 core, and in small pages of memory others as
    // well, 784 × 512 × 64 15 % and 2048 × 512 × 2048 27 %; a Zen 4 core, which takes twice the time for the same
    // multiply-adds, showed nothing. Other layouts are as fast unpacked for many rows, and up to 30 % faster for few.
    let crowded = p.k.saturating_mul(period(row)) / PAGE > caches.first_ways;
    let pack_b = p.b_col != 1 || (rows_collide && often) || (crowded && p.m >= OFTEN && p.n * size >= BROAD);
    // A step of the inner dimension takes one line of such an A, far from the next one. Copies are read as one stream for
    // every panel of B: 2 to 7 % more where there are panels and steps enough, else nothing or a loss.
    let pack_a = p.m >= 12 && p.a_row == 1 && p.a_col != 1 && p.n * size >= 512 && p.k * size >= 1024;
    let width = if pack_a || pack_b { WIDTH } else { NARROW };
    Plan {
        kc: p.k.div_ceil(passes).max(1).next_multiple_of(8),
        nc: (width / size).next_multiple_of(2 * lanes),
        narrow: (NARROW / size).next_multiple_of(2 * lanes),
        pack_b,
        pack_a,
        ahead: AHEAD,
        rows: if p.a_row.wrapping_mul(size).is_multiple_of(PAGE) {
            caches.first_ways.max(4)
        } else {
            usize::MAX
        },
    }
}

/// Bytes from one place in a page that rows so far apart begin at to the next.
fn period(row: usize) -> usize {
    PAGE.min(1 << row.trailing_zeros().min(PAGE.trailing_zeros()))
}

/// Estimated cycles of a product in the orientation given, on one thread.
fn cycles<T>(p: &Product<T>, lanes: usize, max_rows: usize) -> f64 {
    let (m, n, k) = (p.m as f64, p.n as f64, p.k as f64);
    let plan = layout(p, lanes);
    let pack = match (plan.pack_b, p.b_col, p.b_row) {
        (false, ..) => 0.0,
        (true, 1, _) => cost::COPY,
        (true, _, 1) => cost::TURN,
        (true, ..) => cost::GATHER,
    };
    let vectors = p.n.div_ceil(lanes) as f64;
    let tiles = p.m.div_ceil(max_rows) as f64;
    // A step of a tile takes a cycle for two multiply-adds, and no less than their latency.
    let step = (m / tiles).max(4.0) * vectors / 2.0;
    let multiply = tiles * (step * k + vectors / 2.0 * cost::TILE);
    let passes = p.k.div_ceil(plan.kc).max(1) as f64;
    let write = if p.turned { m * n * passes * cost::TURN } else { 0.0 };
    multiply + (m + n) * k * cost::READ + k * n * pack + write
}

/// A split of C into a grid of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    m: usize,
    n: usize,
    height: usize,
    width: usize,
    across: usize,
    /// Blocks in all.
    pub(super) count: usize,
}

impl Grid {
    /// Blocks of at most `height` by `width` (both at least 1) that cover `m` by `n`.
    fn new(m: usize, n: usize, height: usize, width: usize) -> Self {
        let across = n.div_ceil(width);
        Grid {
            m,
            n,
            height,
            width,
            across,
            count: m.div_ceil(height) * across,
        }
    }

    /// Rows and columns of block `i`, which is less than `count`.
    pub(super) fn block(&self, i: usize) -> (Range<usize>, Range<usize>) {
        let (r, c) = (i / self.across * self.height, i % self.across * self.width);
        (r..(r + self.height).min(self.m), c..(c + self.width).min(self.n))
    }
}

/// The grid for one product over `threads`: the one that is estimated to be done first.
fn split<T: Copy>(p: &Product<T>, threads: usize, lanes: usize, max_rows: usize) -> Grid {
    let mut best = (f64::INFINITY, Grid::new(p.m, p.n, p.m, p.n));
    let most = threads.saturating_mul(CHUNKS);
    for down in 1..=most.min(p.m) {
        for across in 1..=most / down {
            let height = p.m.div_ceil(down);
            let width = p.n.div_ceil(across).next_multiple_of(2 * lanes).min(p.n);
            let grid = Grid::new(p.m, p.n, height, width);
            let mut one = cycles(
                &Product {
                    m: height,
                    n: width,
                    ..*p
                },
                lanes,
                max_rows,
            ) + cost::CHUNK;
            // Seams cut the rows of C as they lie in memory.
            let (cut, rows) = if p.turned { (down, width) } else { (across, height) };
            if cut > 1 {
                one += rows as f64 * cost::SEAM;
            }
            let total = one * (grid.count.div_ceil(threads) as f64 + cost::LATE);
            if total < best.0 {
                best = (total, grid);
            }
        }
    }
    best.1
}

/// The chunks of work of a batch: groups of products times blocks of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    /// The blocks of each product.
    pub(super) grid: Grid,
    /// Chunks in all.
    pub(super) count: usize,
    group: usize,
    batch: usize,
}

impl Chunks {
    /// The products of chunk `i`, and the block to compute of each.
    pub(super) fn get(&self, i: usize) -> (Range<usize>, usize) {
        let first = i / self.grid.count * self.group;
        (first..(first + self.group).min(self.batch), i % self.grid.count)
    }
}

/// Splits `batch` (at least 1) products like `p`, neither extent of which is 0, over `threads`.
pub(super) fn chunks<T: Copy>(p: &Product<T>, batch: usize, threads: usize, lanes: usize, max_rows: usize) -> Chunks {
    let whole = Grid::new(p.m, p.n, p.m, p.n);
    let one = p.m as f64 * p.n as f64 * p.k as f64;
    if threads <= 1 || one * (batch as f64) < LEAST {
        return Chunks {
            grid: whole,
            count: 1,
            group: batch,
            batch,
        };
    }
    let enough = threads.saturating_mul(4);
    if batch >= enough {
        // Whole products, several to a chunk while they are small, but enough chunks to balance.
        let small = (LEAST / 2.0 / one.max(1.0)).ceil() as usize;
        let group = small.clamp(1, batch.div_ceil(enough));
        return Chunks {
            grid: whole,
            count: batch.div_ceil(group),
            group,
            batch,
        };
    }
    let grid = if one < LEAST {
        whole
    } else {
        split(p, threads, lanes, max_rows)
    };
    Chunks {
        grid,
        count: grid.count * batch,
        group: 1,
        batch,
    }
}
