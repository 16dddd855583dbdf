//! The inner loop of the microkernel: the steps of a link, four at a time.
//!
//! Beside its loads and multiply-adds a step should cost nothing. Every other instruction may take the place of a
//! multiply-add: on Intel cores two of the five ports for integers are those that multiply vectors. So the addresses of
//! four steps are the sums of few pointers, a distance held in a register, and constants; and only a partial vector is
//! masked, since a masked load takes such a port too. On an Emerald Rapids core this gave 5 % more for squares of 256 to
//! 2048 than one step at a time with masks, and 10 % more for the gradients of weights.

use super::simd::{Real, Simd};
use super::soon::Soon;

/// Steps that the loop takes at once.
const STEPS: usize = 4;

/// The places of four steps, a distance apart. x86 addresses reach a pointer and one distance from it.
#[derive(Clone, Copy)]
struct Four<T> {
    first: *const T,
    third: *const T,
    step: usize,
}

impl<T> Four<T> {
    #[inline(always)]
    fn new(first: *const T, step: usize) -> Self {
        Four {
            first,
            third: first,
            step,
        }
    }

    /// Makes the two pointers the only ones that the compiler knows of.
    #[inline(always)]
    fn begin<S: Simd<T = T>>(&mut self) {
        self.first = S::opaque(self.first);
        self.third = S::opaque(self.first.wrapping_add(2 * self.step));
    }

    #[inline(always)]
    fn at(&self, step: usize) -> *const T {
        let pair = if step < 2 { self.first } else { self.third };
        pair.wrapping_add(step % 2 * self.step)
    }

    #[inline(always)]
    fn end(&mut self) {
        self.first = self.third.wrapping_add(2 * self.step);
    }

    #[inline(always)]
    fn one(&mut self) {
        self.first = self.first.wrapping_add(self.step);
    }
}

/// Where a strip's rows of A are, step by step.
pub(super) trait Rows<S: Simd> {
    /// Called before each four steps.
    fn begin(&mut self);
    /// The element of row `i` for the next step but `step`.
    fn at(&self, i: usize, step: usize) -> *const S::T;
    /// Called after each four steps.
    fn end(&mut self);
    /// Goes one step on.
    fn one(&mut self);
}

/// Pointers to so many rows serve the tallest tile.
const TRIPLES: usize = 4;

/// Rows whose elements lie side by side. A pointer reaches three rows: itself and one or two distances from it.
#[derive(Clone, Copy)]
pub(super) struct Along<T, const ROWS: usize> {
    rows: [*const T; TRIPLES],
    row: usize,
}

impl<T, const ROWS: usize> Along<T, ROWS> {
    #[inline(always)]
    pub(super) fn new(a: *const T, row: usize) -> Self {
        const { assert!(ROWS <= 3 * TRIPLES) };
        let mut rows = [a; TRIPLES];
        for (g, first) in rows.iter_mut().enumerate() {
            *first = a.wrapping_add(3 * g * row);
        }
        Along { rows, row }
    }
}

impl<S: Simd, const ROWS: usize> Rows<S> for Along<S::T, ROWS> {
    #[inline(always)]
    fn begin(&mut self) {
        for first in &mut self.rows[..ROWS.div_ceil(3)] {
            *first = S::opaque(*first);
        }
    }

    #[inline(always)]
    fn at(&self, i: usize, step: usize) -> *const S::T {
        self.rows[i / 3].wrapping_add(i % 3 * self.row + step)
    }

    #[inline(always)]
    fn end(&mut self) {
        for first in &mut self.rows[..ROWS.div_ceil(3)] {
            *first = first.wrapping_add(STEPS);
        }
    }

    #[inline(always)]
    fn one(&mut self) {
        for first in &mut self.rows[..ROWS.div_ceil(3)] {
            *first = first.wrapping_add(1);
        }
    }
}

/// Rows that lie side by side themselves: a copied A, or a transposed one.
#[derive(Clone, Copy)]
pub(super) struct Down<T>(Four<T>);

impl<T> Down<T> {
    #[inline(always)]
    pub(super) fn new(a: *const T, column: usize) -> Self {
        Down(Four::new(a, column))
    }
}

impl<S: Simd> Rows<S> for Down<S::T> {
    #[inline(always)]
    fn begin(&mut self) {
        self.0.begin::<S>();
    }

    #[inline(always)]
    fn at(&self, i: usize, step: usize) -> *const S::T {
        self.0.at(step).wrapping_add(i)
    }

    #[inline(always)]
    fn end(&mut self) {
        self.0.end();
    }

    #[inline(always)]
    fn one(&mut self) {
        self.0.one();
    }
}

/// Rows of any layout.
#[derive(Clone, Copy)]
pub(super) struct Anyhow<T> {
    a: *const T,
    row: usize,
    column: usize,
}

impl<T> Anyhow<T> {
    #[inline(always)]
    pub(super) fn new(a: *const T, row: usize, column: usize) -> Self {
        Anyhow { a, row, column }
    }
}

impl<S: Simd> Rows<S> for Anyhow<S::T> {
    #[inline(always)]
    fn begin(&mut self) {}

    #[inline(always)]
    fn at(&self, i: usize, step: usize) -> *const S::T {
        self.a.wrapping_add(i * self.row + step * self.column)
    }

    #[inline(always)]
    fn end(&mut self) {
        self.a = self.a.wrapping_add(STEPS * self.column);
    }

    #[inline(always)]
    fn one(&mut self) {
        self.a = self.a.wrapping_add(self.column);
    }
}

/// The rows of B that a link goes through.
#[derive(Clone, Copy)]
pub(super) struct Stream<T> {
    /// Elements for the first step.
    pub(super) b: *const T,
    /// Distance between rows.
    pub(super) row: usize,
    /// How far ahead of its use B is prefetched, in elements.
    pub(super) ahead: usize,
    /// Steps.
    pub(super) k: usize,
}

/// Adds the products of a link to a tile's accumulators. With `MASKED` the last vector of B is `mask`ed.
///
/// # Safety
/// The elements of A of rows `0..ROWS` and the (masked) vectors of B are readable for every step, and the CPU has `S`'s
/// instruction set.
#[inline(always)]
pub(super) unsafe fn link<S: Simd, A: Rows<S>, const ROWS: usize, const VECS: usize, const MASKED: bool>(
    acc: &mut [[S::V; VECS]; ROWS],
    mut a: A,
    stream: Stream<S::T>,
    mask: S::M,
    asks: &mut Asks<'_, S::T>,
) {
    let mut b = Four::new(stream.b, stream.row);
    let mut soon = Four::new(stream.b.wrapping_add(stream.ahead), stream.row);
    let mut left = stream.k;
    // SAFETY: the caller's promise is the same; `left` counts the steps that remain.
    unsafe {
        while left >= STEPS {
            let fours = asks.next::<S>(left) / STEPS;
            for _ in 0..fours {
                a.begin();
                b.begin::<S>();
                soon.begin::<S>();
                for u in 0..STEPS {
                    step::<S, ROWS, VECS, MASKED>(acc, |i| a.at(i, u), b.at(u), soon.at(u), mask);
                }
                a.end();
                b.end();
                soon.end();
            }
            left -= fours * STEPS;
        }
        for _ in 0..left {
            a.begin();
            step::<S, ROWS, VECS, MASKED>(acc, |i| a.at(i, 0), b.first, soon.first, mask);
            a.one();
            b.one();
            soon.one();
        }
    }
}

/// One step: the vectors of a row of B, times an element of each row of A.
///
/// # Safety
/// As for [`link`].
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "indices that unroll completely keep the accumulators in registers"
)]
unsafe fn step<S: Simd, const ROWS: usize, const VECS: usize, const MASKED: bool>(
    acc: &mut [[S::V; VECS]; ROWS],
    a: impl Fn(usize) -> *const S::T,
    b: *const S::T,
    soon: *const S::T,
    mask: S::M,
) {
    let l = S::LANES;
    // SAFETY: the caller's promise is the same. Prefetches may be anywhere.
    unsafe {
        let mut x = [S::splat(S::T::ZERO); VECS];
        for v in 0..VECS {
            x[v] = if MASKED && v + 1 == VECS {
                S::load_masked(b.wrapping_add(v * l), mask)
            } else {
                S::load(b.wrapping_add(v * l))
            };
        }
        for v in 0..VECS {
            S::prefetch(soon.wrapping_add(v * l));
        }
        for i in 0..ROWS {
            let y = S::splat(*a(i));
            for v in 0..VECS {
                acc[i][v] = S::mul_add(y, x[v], acc[i][v]);
            }
        }
    }
}

/// What is still to be asked for while one tile is computed.
pub(super) struct Asks<'a, T> {
    soon: &'a [Soon<T>; 2],
    /// Chunks that remain, of both parts.
    chunks: [usize; 2],
    /// The next lines.
    at: [*const T; 2],
}

impl<'a, T: Real> Asks<'a, T> {
    /// What the given tile of a strip asks for.
    #[inline(always)]
    pub(super) fn of(soon: &'a [Soon<T>; 2], tile: usize) -> Self {
        let mut asks = Asks {
            soon,
            chunks: [0; 2],
            at: [std::ptr::null(); 2],
        };
        for (e, soon) in soon.iter().enumerate() {
            if tile < soon.tiles {
                asks.chunks[e] = soon.chunks;
                asks.at[e] = soon.at.wrapping_add(tile * soon.tile);
            }
        }
        asks
    }

    /// Asks for the lines of a chunk, and returns after how many steps of the inner dimension to do so again: no more than
    /// the `left` ones.
    ///
    /// # Safety
    /// The CPU has `S`'s instruction set.
    #[inline(always)]
    pub(super) unsafe fn next<S: Simd<T = T>>(&mut self, left: usize) -> usize {
        if self.chunks == [0; 2] {
            return left;
        }
        for (e, soon) in self.soon.iter().enumerate() {
            if self.chunks[e] > 0 {
                self.chunks[e] -= 1;
                let mut line = self.at[e];
                for _ in 0..soon.lines {
                    // SAFETY: the caller vouches for the CPU; a prefetch may be anywhere.
                    unsafe { S::prefetch_later(line) };
                    line = line.wrapping_add(soon.line);
                }
                self.at[e] = self.at[e].wrapping_add(soon.chunk);
            }
        }
        left.min(Soon::<T>::CHUNK)
    }
}
