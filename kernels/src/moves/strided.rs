//! Copies whose source and destination are affine in the index.

use std::sync::Mutex;

use actorflow_core::Shape;
use actorflow_core::error::Result;
use actorflow_core::parallel::Parallel;
use smallvec::SmallVec;

use super::{CHUNK_BYTES, Item, Shuffle, outside, transpose};

/// One dimension of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// How many steps.
    pub n: usize,
    /// Elements between steps in the source; 0 repeats an element, negative runs backwards.
    pub src: isize,
    /// Elements between steps in the destination; not 0 if there is more than one step.
    pub dst: isize,
}

/// The dimensions of a copy.
pub type Axes = SmallVec<[Axis; 6]>;

/// For every index `i` of the axes: `out[to + i·dst] = sources[source][from + i·src]`.
#[derive(Debug, Clone)]
pub struct StridedCopy {
    /// Which source.
    pub source: usize,
    /// Offset of the first element in the source.
    pub from: usize,
    /// Offset of the first element in the destination.
    pub to: usize,
    /// The dimensions, in any order.
    pub axes: Axes,
}

impl StridedCopy {
    /// A copy of `n` consecutive elements.
    pub fn block(source: usize, from: usize, to: usize, n: usize) -> Self {
        let axes = [Axis { n, src: 1, dst: 1 }].into_iter().collect();
        StridedCopy { source, from, to, axes }
    }

    /// Brings the axes into the order in which memory is written, merges those that belong together and turns
    /// those around that run backwards in the destination. `None` if nothing is to be copied.
    fn normalized(&self) -> Option<StridedCopy> {
        if self.axes.iter().any(|a| a.n == 0) {
            return None;
        }
        let (mut from, mut to) = (self.from, self.to);
        let mut axes: Axes = self.axes.iter().copied().filter(|a| a.n > 1).collect();
        for a in axes.iter_mut().filter(|a| a.dst < 0) {
            let last = (a.n - 1) as isize;
            from = from.wrapping_add_signed(a.src.wrapping_mul(last));
            to = to.wrapping_add_signed(a.dst.wrapping_mul(last));
            (a.src, a.dst) = (-a.src, -a.dst);
        }
        if !axes.is_sorted_by_key(|a| -a.dst) {
            axes.sort_by_key(|a| -a.dst);
        }
        let mut merged = Axes::new();
        for a in axes {
            match merged.last_mut() {
                Some(outer) if outer.src == a.src * a.n as isize && outer.dst == a.dst * a.n as isize => {
                    *outer = Axis { n: outer.n * a.n, ..a };
                }
                _ => merged.push(a),
            }
        }
        Some(StridedCopy {
            source: self.source,
            from,
            to,
            axes: merged,
        })
    }
}

/// Several strided copies, done in order.
#[derive(Debug, Clone)]
pub struct Copies<'a>(pub &'a [StridedCopy]);

impl Shuffle for Copies<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], par: &dyn Parallel) -> Result<()> {
        for copy in self.0 {
            let Some(c) = copy.normalized() else { continue };
            let src = *sources.get(c.source).ok_or_else(outside)?;
            check(&c, src.len(), out.len())?;
            parallel(&c, src, out, par);
        }
        Ok(())
    }
}

/// Every element that a normalised copy touches must exist.
fn check(c: &StridedCopy, src: usize, out: usize) -> Result<()> {
    let (mut low, mut high, mut end) = (c.from as i128, c.from as i128, c.to as i128);
    for a in &c.axes {
        let last = (a.n - 1) as i128;
        let reach = a.src as i128 * last;
        low += reach.min(0);
        high += reach.max(0);
        end += a.dst as i128 * last;
    }
    if low < 0 || high >= src as i128 || end >= out as i128 {
        return Err(outside());
    }
    Ok(())
}

/// Splits a big copy along its outermost axis, if the parts of the destination do not interleave.
fn parallel<E: Item>(c: &StridedCopy, src: &[E], out: &mut [E], par: &dyn Parallel) {
    let total: usize = c.axes.iter().map(|a| a.n).product();
    let parts = (total.saturating_mul(size_of::<E>()) / CHUNK_BYTES).min(par.threads() * 4);
    let Some((outer, inner)) = c.axes.split_first() else {
        return walk(&[], src, c.from, out, c.to);
    };
    let step = outer.dst.unsigned_abs();
    let reach: usize = 1 + inner.iter().map(|a| (a.n - 1) * a.dst.unsigned_abs()).sum::<usize>();
    if parts < 2 || par.threads() < 2 || reach > step || outer.n < parts {
        return walk(&c.axes, src, c.from, out, c.to);
    }
    let per = outer.n.div_ceil(parts);
    let whole = outer.n.div_ceil(per);
    let first = c.to;
    let mut rest = &mut out[first..];
    let mut cells = Vec::with_capacity(whole);
    for i in 0..whole {
        let n = per.min(outer.n - i * per);
        let len = if i + 1 == whole { rest.len() } else { n * step };
        let (mine, others) = rest.split_at_mut(len);
        rest = others;
        cells.push(Mutex::new((n, mine)));
    }
    par.run(whole, &|i| {
        // Each cell is locked once, by the one call that gets its number.
        if let Ok(mut cell) = cells[i].lock() {
            let (n, mine) = &mut *cell;
            let mut axes = c.axes.clone();
            axes[0].n = *n;
            let from = c.from.wrapping_add_signed(outer.src * (i * per) as isize);
            walk(&axes, src, from, mine, 0);
        }
    });
}

fn walk<E: Item>(axes: &[Axis], src: &[E], from: usize, out: &mut [E], to: usize) {
    // An axis that is contiguous in the source goes next to the one that is contiguous in the destination: the two
    // are a matrix transpose, which is blocked.
    if let [outer @ .., last] = axes
        && outer.len() > 1
        && transposes(last)
        && let Some(at) = outer[..outer.len() - 1].iter().position(|a| a.src == 1)
    {
        let mut order: Axes = axes.iter().copied().collect();
        let moved = order.remove(at);
        order.insert(axes.len() - 2, moved);
        return steps(&order, src, from, out, to);
    }
    steps(axes, src, from, out, to);
}

fn transposes(last: &Axis) -> bool {
    last.dst == 1 && last.src > 1
}

fn steps<E: Item>(axes: &[Axis], src: &[E], from: usize, out: &mut [E], to: usize) {
    match axes {
        [] => out[to] = src[from].clone(),
        [a] => run_of(*a, src, from, out, to),
        [a, b] if a.src == 1 && transposes(b) => transpose::two(*a, *b, src, from, out, to),
        [a, rest @ ..] => {
            let (mut s, mut d) = (from, to);
            for _ in 0..a.n {
                match rest {
                    [b] => run_of(*b, src, s, out, d),
                    _ => steps(rest, src, s, out, d),
                }
                s = s.wrapping_add_signed(a.src);
                d = d.wrapping_add_signed(a.dst);
            }
        }
    }
}

/// One innermost axis.
#[inline]
fn run_of<E: Item>(a: Axis, src: &[E], from: usize, out: &mut [E], to: usize) {
    let n = a.n;
    if a.dst == 1 {
        let o = &mut out[to..to + n];
        match a.src {
            1 => o.clone_from_slice(&src[from..from + n]),
            0 => o.fill(src[from].clone()),
            s if s > 0 => each(o.iter_mut(), src[from..].iter().step_by(s as usize)),
            s => each(o.iter_mut(), src[..=from].iter().rev().step_by(s.unsigned_abs())),
        }
        return;
    }
    let o = out[to..].iter_mut().step_by(a.dst.unsigned_abs().max(1)).take(n);
    match a.src {
        0 => o.for_each(|d| d.clone_from(&src[from])),
        s if s > 0 => each(o, src[from..].iter().step_by(s as usize)),
        s => each(o, src[..=from].iter().rev().step_by(s.unsigned_abs())),
    }
}

#[inline]
fn each<'a, E: Item>(out: impl Iterator<Item = &'a mut E>, src: impl Iterator<Item = &'a E>) {
    for (d, s) in out.zip(src) {
        d.clone_from(s);
    }
}

/// The copy that fills a row-major output of shape `dims` from a source that is stepped through by `strides`, one
/// for each dimension, starting at `from`.
pub fn view_copy(dims: &[usize], strides: &[isize], from: usize) -> StridedCopy {
    let mut axes = Axes::with_capacity(dims.len());
    for ((&n, &src), dst) in dims.iter().zip(strides).zip(Shape::new(dims).strides()) {
        axes.push(Axis {
            n,
            src,
            dst: dst as isize,
        });
    }
    StridedCopy {
        source: 0,
        from,
        to: 0,
        axes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::parallel::Serial;
    use actorflow_core::philox::Philox;

    /// Two threads, so that the parallel path runs (in order, on the caller).
    struct Two;
    impl Parallel for Two {
        fn threads(&self) -> usize {
            2
        }
        fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
            (0..chunks).for_each(body);
        }
    }

    fn naive(c: &StridedCopy, src: &[u32], out: &mut [u32]) {
        let mut index = vec![0usize; c.axes.len()];
        if c.axes.iter().any(|a| a.n == 0) {
            return;
        }
        loop {
            let at = |f: fn(&Axis) -> isize, base: usize| {
                let moved: isize = index.iter().zip(&c.axes).map(|(i, a)| *i as isize * f(a)).sum();
                base.wrapping_add_signed(moved)
            };
            out[at(|a| a.dst, c.to)] = src[at(|a| a.src, c.from)];
            let Some(k) = (0..index.len()).rev().find(|k| index[*k] + 1 < c.axes[*k].n) else {
                return;
            };
            index[k] += 1;
            index[k + 1..].fill(0);
        }
    }

    #[test]
    fn any_strided_copy_is_that_of_nested_loops() {
        let mut random = Philox::new(1, 2);
        let mut below = move |n: u32| (random.next_block()[0] % n) as usize;
        for _ in 0..300 {
            let rank = below(5);
            let dims: Vec<usize> = (0..rank).map(|_| below(7)).collect();
            let count: usize = dims.iter().product();
            // The source holds the axes in another order, some backwards, some repeated, some with gaps.
            let mut order: Vec<usize> = (0..rank).collect();
            order.sort_by_key(|_| below(1000));
            let (mut size, mut from) = (1usize, 0usize);
            let mut strides = vec![0isize; rank];
            for &i in order.iter().rev() {
                let gap = 1 + below(2);
                match below(4) {
                    0 => {}
                    1 => {
                        strides[i] = -((size * gap) as isize);
                        from += dims[i].saturating_sub(1) * size * gap;
                        size *= dims[i].max(1) * gap;
                    }
                    _ => {
                        strides[i] = (size * gap) as isize;
                        size *= dims[i].max(1) * gap;
                    }
                }
            }
            let src: Vec<u32> = (0..size as u32 + 10).collect();
            let c = view_copy(&dims, &strides, from);
            let (mut want, mut got) = (vec![9; count], vec![9; count]);
            naive(&c, &src, &mut want);
            Copies(std::slice::from_ref(&c))
                .run(&[&src], &mut got, &Serial)
                .unwrap();
            assert_eq!(got, want, "{c:?}");
        }
    }

    #[test]
    fn big_copies_are_split_and_agree() {
        let (n, m) = (700usize, 513usize);
        let src: Vec<u32> = (0..(n * m) as u32).collect();
        let c = view_copy(&[m, n], &[1, m as isize], 0);
        let mut got = vec![0; n * m];
        Copies(&[c]).run(&[&src], &mut got, &Two).unwrap();
        for i in 0..m {
            for j in 0..n {
                assert_eq!(got[i * n + j], src[j * m + i]);
            }
        }
    }

    #[test]
    fn a_copy_outside_of_its_tensor_is_refused() {
        let c = view_copy(&[3], &[2], 0);
        let mut out = [0u8; 3];
        assert!(Copies(&[c]).run(&[&[1u8, 2, 3, 4][..]], &mut out, &Serial).is_err());
    }
}
