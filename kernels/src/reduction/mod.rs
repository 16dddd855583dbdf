//! Folding a tensor along some of its dimensions: sums, products, extremes.
//!
//! A [`Plan`] merges neighbouring dimensions of the same kind, so that at most rows (the last dimension is folded) and
//! columns (the last one stays) are left; [`fold`] does the innermost first. Both read the tensor once, in order, and
//! split it into chunks whose size follows from the dimensions alone: a result never depends on how many workers
//! there are.
//!
//! Floats are added in blocks, lanes of a block side by side, blocks in pairs, so that rounding errors grow with the
//! logarithm of the length and not with the length.
#![forbid(unsafe_code)]

mod folds;
mod plan;
#[cfg(test)]
mod tests;

pub use folds::{And, Largest, Or, Product, Smallest, Sum};
pub use plan::Plan;

use std::marker::PhantomData;

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::Device;
use actorflow_core::{Shape, Tensor};

use crate::math::madd::Madd;
use crate::spread::{self, GRAIN};
use crate::wide::{self, Work};

/// An associative operation with a neutral element.
pub trait Fold: 'static {
    /// What is folded.
    type T: Element;
    /// Whether it is worth code for several instruction sets.
    const WIDE: bool;
    /// The neutral element: the result of folding nothing.
    fn start() -> Self::T;
    /// The operation; `#[inline(always)]`.
    fn join(a: Self::T, b: Self::T) -> Self::T;
}

/// Lanes that are folded side by side.
const LANES: usize = 32;
/// Elements that one set of lanes folds, one after the other in each lane.
const BLOCK: usize = 128 * LANES;

fn run<F: Fold, W: Work>(work: W) -> W::Out {
    if F::WIDE {
        wide::run(work)
    } else {
        work.run::<crate::math::madd::Baseline>()
    }
}

/// Folds at most [`BLOCK`] elements.
#[inline(always)]
fn block<F: Fold>(x: &[F::T]) -> F::T {
    let (lanes, rest) = x.as_chunks::<LANES>();
    if lanes.is_empty() {
        return rest.iter().fold(F::start(), |a, b| F::join(a, *b));
    }
    let mut acc = [F::start(); LANES];
    for x in lanes {
        for (a, b) in acc.iter_mut().zip(x) {
            *a = F::join(*a, *b);
        }
    }
    for (a, b) in acc.iter_mut().zip(rest) {
        *a = F::join(*a, *b);
    }
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = acc.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(high.iter()) {
            *a = F::join(*a, *b);
        }
        half /= 2;
    }
    acc[0]
}

/// Folds any number of elements, blocks in pairs.
#[inline(always)]
fn all<F: Fold>(x: &[F::T]) -> F::T {
    if x.len() <= BLOCK {
        return block::<F>(x);
    }
    // Entry `i` is the fold of 2^i blocks where bit `i` of `count` is set, as in a binary counter.
    let mut partial = [F::start(); usize::BITS as usize];
    let mut count = 0usize;
    for part in x.chunks(BLOCK) {
        let mut sum = block::<F>(part);
        let mut i = 0;
        while count >> i & 1 == 1 {
            sum = F::join(partial[i], sum);
            i += 1;
        }
        partial[i] = sum;
        count += 1;
    }
    let mut sum = F::start();
    for (i, p) in partial.iter().enumerate() {
        if count >> i & 1 == 1 {
            sum = F::join(*p, sum);
        }
    }
    sum
}

/// Each element of `out` is the fold of `row` elements of `x`.
struct Rows<'a, F: Fold> {
    x: &'a [F::T],
    row: usize,
    out: &'a mut [F::T],
}

impl<F: Fold> Work for Rows<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        if self.row < LANES {
            for (o, x) in self.out.iter_mut().zip(self.x.chunks_exact(self.row)) {
                *o = x.iter().fold(F::start(), |a, b| F::join(a, *b));
            }
            return;
        }
        for (o, x) in self.out.iter_mut().zip(self.x.chunks(self.row)) {
            *o = all::<F>(x);
        }
    }
}

/// `out[j]` is the fold of `x[i * out.len() + j]` over `i`.
struct Columns<'a, F: Fold> {
    x: &'a [F::T],
    out: &'a mut [F::T],
    op: PhantomData<F>,
}

/// Columns of a strip: its accumulators stay in the first-level cache.
const STRIP: usize = 4096;
/// Elements of a row that make the loops over it efficient; narrower tables are read several rows at a time.
const BROAD: usize = 64;

#[inline(always)]
fn join_row<F: Fold>(out: &mut [F::T], x: &[F::T]) {
    for (o, a) in out.iter_mut().zip(x) {
        *o = F::join(*o, *a);
    }
}

#[inline(always)]
fn join_eight<F: Fold>(out: &mut [F::T], x: &[F::T], stride: usize) {
    let w = out.len();
    let row = |i: usize| &x[i * stride..][..w];
    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
    let (e, f, g, h) = (row(4), row(5), row(6), row(7));
    for (j, o) in out.iter_mut().enumerate() {
        let left = F::join(F::join(a[j], b[j]), F::join(c[j], d[j]));
        let right = F::join(F::join(e[j], f[j]), F::join(g[j], h[j]));
        *o = F::join(*o, F::join(left, right));
    }
}

/// `out[j]` is joined with the fold of `x[i * stride + j]` over the rows `i` that `x` holds.
#[inline(always)]
fn join_rows<F: Fold>(out: &mut [F::T], x: &[F::T], stride: usize, rows: usize) {
    let mut i = 0;
    while i + 8 <= rows {
        join_eight::<F>(out, &x[i * stride..], stride);
        i += 8;
    }
    while i < rows {
        join_row::<F>(out, &x[i * stride..]);
        i += 1;
    }
}

impl<F: Fold> Work for Columns<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let Columns { x, out, .. } = self;
        let c = out.len();
        let rows = x.len() / c.max(1);
        out.fill(F::start());
        let group = BROAD / c.max(1);
        if group < 2 || rows < 2 * group {
            for (i, strip) in out.chunks_mut(STRIP).enumerate() {
                join_rows::<F>(strip, &x[i * STRIP..], c, rows);
            }
            return;
        }
        // Several rows side by side make a broad one; its parts are joined at the end.
        let mut broad = [F::start(); BROAD];
        let (broad, broad_rows) = (&mut broad[..group * c], rows / group);
        join_rows::<F>(broad, x, group * c, broad_rows);
        join_rows::<F>(out, broad, c, group);
        join_rows::<F>(out, &x[broad_rows * group * c..], c, rows % group);
    }
}

/// An uninitialised-in-meaning tensor of `n` elements from the device's pool.
fn scratch<T: Element>(device: &dyn Device, n: usize) -> Result<Tensor> {
    Tensor::alloc_in(device.pool(), T::DTYPE, Shape::new(&[n]))
}

fn elements<T: Element>(t: &mut Tensor) -> Result<&mut [T]> {
    t.as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))
}

/// `out[i]` is the fold of row `i` of `x`, a table of `out.len()` rows of `row` elements.
fn rows<F: Fold>(device: &dyn Device, x: &[F::T], row: usize, out: &mut [F::T]) -> Result<()> {
    if row == 0 {
        out.fill(F::start());
        return Ok(());
    }
    if row >= 2 * GRAIN {
        let pieces = row.div_ceil(GRAIN);
        let mut partial = scratch::<F::T>(device, out.len() * pieces)?;
        let partial = elements::<F::T>(&mut partial)?;
        spread::chunks(device.parallel(), partial, 1, |i, o| {
            let (row_of, piece) = (i / pieces, i % pieces);
            let x = &x[row_of * row..][..row];
            let begin = piece * GRAIN;
            let x = &x[begin..(begin + GRAIN).min(row)];
            run::<F, _>(Rows::<F> {
                x,
                row: x.len(),
                out: o,
            });
        });
        return rows::<F>(device, partial, pieces, out);
    }
    let group = spread::rows_of(row);
    spread::chunks(device.parallel(), out, group, |i, o| {
        let x = &x[i * group * row..];
        run::<F, _>(Rows::<F> { x, row, out: o });
    });
    Ok(())
}

/// `out[o, j]` is the fold of `x[o, i, j]` over `i` in `0..depth`; `j` is in `0..c`.
fn columns<F: Fold>(device: &dyn Device, x: &[F::T], depth: usize, c: usize, out: &mut [F::T]) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    if depth == 0 {
        out.fill(F::start());
        return Ok(());
    }
    let par = device.parallel();
    let outer = out.len() / c;
    let most = 1024 * (BROAD / c).max(1);
    let tall = (4 * GRAIN / c).clamp(64, most);
    if depth > tall {
        let pieces = depth.div_ceil(tall);
        let mut partial = scratch::<F::T>(device, outer * pieces * c)?;
        let partial = elements::<F::T>(&mut partial)?;
        spread::chunks(par, partial, c, |i, o| {
            let (block, piece) = (i / pieces, i % pieces);
            let rows = tall.min(depth - piece * tall);
            let x = &x[(block * depth + piece * tall) * c..][..rows * c];
            run::<F, _>(Columns::<F> {
                x,
                out: o,
                op: PhantomData,
            });
        });
        return columns::<F>(device, partial, pieces, c, out);
    }
    if depth * c > 4 * GRAIN {
        // Few long rows: split along them.
        for (x, out) in x.chunks(depth * c).zip(out.chunks_mut(c)) {
            spread::chunks(par, out, 2 * STRIP, |i, o| {
                o.fill(F::start());
                run::<F, _>(Strip::<F> {
                    x: &x[i * 2 * STRIP..],
                    stride: c,
                    rows: depth,
                    out: o,
                });
            });
        }
        return Ok(());
    }
    let group = spread::rows_of(depth * c);
    spread::chunks(par, out, group * c, |i, o| {
        let x = x[i * group * depth * c..].chunks(depth * c);
        for (x, o) in x.zip(o.chunks_mut(c)) {
            run::<F, _>(Columns::<F> {
                x,
                out: o,
                op: PhantomData,
            });
        }
    });
    Ok(())
}

/// Some of the columns of a table with rows of `stride` elements, joined into `out`.
struct Strip<'a, F: Fold> {
    x: &'a [F::T],
    stride: usize,
    rows: usize,
    out: &'a mut [F::T],
}

impl<F: Fold> Work for Strip<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        join_rows::<F>(self.out, self.x, self.stride, self.rows);
    }
}

/// `out[j]` is the fold of column `j` of `x`, a table of rows of `out.len()` elements.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no memory for partial results.
pub fn fold_columns<F: Fold>(device: &dyn Device, x: &[F::T], out: &mut [F::T]) -> Result<()> {
    let c = out.len();
    columns::<F>(device, x, x.len() / c.max(1), c, out)
}

/// Folds all of `x`.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no memory for partial results.
pub fn fold_all<F: Fold>(device: &dyn Device, x: &[F::T]) -> Result<F::T> {
    let mut out = [F::start()];
    rows::<F>(device, x, x.len(), &mut out)?;
    Ok(out[0])
}

/// Folds `x` along the dimensions that the plan says; `x` and `out` have the numbers of elements that it says.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no memory for partial results.
pub fn fold<F: Fold>(device: &dyn Device, x: &[F::T], plan: &Plan, out: &mut [F::T]) -> Result<()> {
    steps::<F>(device, x, plan.dims(), plan.folds_last(), out)
}

fn steps<F: Fold>(device: &dyn Device, x: &[F::T], dims: &[usize], folds_last: bool, out: &mut [F::T]) -> Result<()> {
    match (dims, folds_last) {
        ([] | [_], false) => {
            out.copy_from_slice(x);
            Ok(())
        }
        ([r] | [_, r], true) => rows::<F>(device, x, *r, out),
        ([r, c] | [_, r, c], false) => columns::<F>(device, x, *r, *c, out),
        ([rest @ .., r], true) => {
            let mut partial = scratch::<F::T>(device, rest.iter().product())?;
            let partial = elements::<F::T>(&mut partial)?;
            rows::<F>(device, x, *r, partial)?;
            steps::<F>(device, partial, rest, false, out)
        }
        ([rest @ .., k, r, c], false) => {
            let mut dims = rest.to_vec();
            dims.push(k * c);
            let mut partial = scratch::<F::T>(device, dims.iter().product())?;
            let partial = elements::<F::T>(&mut partial)?;
            columns::<F>(device, x, *r, *c, partial)?;
            steps::<F>(device, partial, &dims, false, out)
        }
        ([], true) => Err(Error::internal("a fold along no dimension")),
    }
}
