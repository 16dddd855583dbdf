//! How operands broadcast: which loops, with which strides.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::shape::Shape;

/// One loop over the elements of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dim<const K: usize> {
    /// How often it runs; at least 2.
    pub(super) len: usize,
    /// How far each operand moves, in elements; 0 where it is broadcast.
    pub(super) strides: [usize; K],
}

/// The loops over a result of which `K` operands are broadcast, innermost first.
///
/// Dimensions of length 1 are left out and neighbours along which all operands behave alike are one loop, so that
/// operands of one shape make one loop whatever their rank, and so does a scalar beside a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan<const K: usize> {
    pub(super) dims: Vec<Dim<K>>,
}

/// The most loops a plan can have: each runs at least twice, and a tensor has less than 2^63 elements.
pub(super) const MAX_LOOPS: usize = 63;

/// The dimension `i`, counted from the innermost, of a shape that is extended with 1s.
fn from_end(s: &[usize], i: usize) -> usize {
    if i < s.len() { s[s.len() - 1 - i] } else { 1 }
}

#[cold]
fn incompatible<const K: usize>(shapes: [&Shape; K]) -> Error {
    let names: Vec<String> = shapes.iter().map(ToString::to_string).collect();
    Error::invalid(format!(
        "Incompatible shapes: {}; two dimensions broadcast if they are equal or one of them is 1",
        names.join(" vs. ")
    ))
}

impl<const K: usize> Plan<K> {
    /// The shape to which the operands broadcast, and the loops over it. The loops of an empty result are meaningless.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the shapes if they do not broadcast.
    pub(super) fn new(shapes: [&Shape; K]) -> Result<(Shape, Plan<K>)> {
        let rank = shapes.iter().map(|s| s.rank()).max().unwrap_or(0);
        let mut out = vec![1; rank];
        let mut dims: Vec<Dim<K>> = Vec::with_capacity(rank.min(4));
        let mut sizes = [1usize; K];
        for i in 0..rank {
            let lens = shapes.map(|s| from_end(s, i));
            let len = lens.into_iter().find(|l| *l != 1).unwrap_or(1);
            if lens.iter().any(|l| *l != len && *l != 1) {
                return Err(incompatible(shapes));
            }
            out[rank - 1 - i] = len;
            if len == 1 {
                continue;
            }
            let mut strides = [0; K];
            for k in 0..K {
                if lens[k] != 1 {
                    strides[k] = sizes[k];
                    sizes[k] = sizes[k].saturating_mul(len);
                }
            }
            match dims.last_mut() {
                Some(inner) if (0..K).all(|k| strides[k] == inner.strides[k].saturating_mul(inner.len)) => {
                    inner.len = inner.len.saturating_mul(len);
                }
                _ => dims.push(Dim { len, strides }),
            }
        }
        let shape = Shape::from(out);
        shape.checked_count()?;
        Ok((shape, Plan { dims }))
    }

    /// Whether operand `k` has an element for each of the result's.
    pub(super) fn is_dense(&self, k: usize) -> bool {
        let mut size = 1;
        self.dims.iter().all(|d| {
            let dense = d.strides[k] == size;
            size *= d.len;
            dense
        })
    }

    /// Whether operand `k` repeats its elements with the innermost loop.
    pub(super) fn is_periodic(&self, k: usize) -> bool {
        let mut dims = self.dims.iter();
        dims.next().is_some_and(|d| d.strides[k] == 1) && dims.all(|d| d.strides[k] == 0)
    }

    /// Calls `f(i, offsets, n)` for every run of the innermost loop within elements `start..end` of the result: it
    /// starts at element `i`, the operands at `offsets`, and has `n` elements.
    pub(super) fn for_runs(&self, start: usize, end: usize, mut f: impl FnMut(usize, [usize; K], usize)) {
        let mut at = Cursor::new(self, start);
        let mut i = start;
        while i < end {
            let n = at.left_in_run(self).min(end - i);
            f(i, at.offsets, n);
            at.advance(self, n);
            i += n;
        }
    }
}

/// A place in the loops.
pub(super) struct Cursor<const K: usize> {
    index: [usize; MAX_LOOPS],
    /// Where the operands are, in elements.
    pub(super) offsets: [usize; K],
}

impl<const K: usize> Cursor<K> {
    /// The place of element `start` of the result.
    pub(super) fn new(plan: &Plan<K>, start: usize) -> Self {
        let mut c = Cursor {
            index: [0; MAX_LOOPS],
            offsets: [0; K],
        };
        let mut rest = start;
        for (index, d) in c.index.iter_mut().zip(&plan.dims) {
            // An empty result has a place before its first element too.
            let len = d.len.max(1);
            *index = rest % len;
            rest /= len;
            for k in 0..K {
                c.offsets[k] += *index * d.strides[k];
            }
        }
        c
    }

    /// Elements until the innermost loop ends.
    pub(super) fn left_in_run(&self, plan: &Plan<K>) -> usize {
        plan.dims.first().map_or(1, |d| d.len - self.index[0])
    }

    /// Whole rounds of the innermost loop until the second one ends, from the start of a round.
    pub(super) fn rounds_left(&self, plan: &Plan<K>) -> usize {
        match plan.dims.get(1) {
            Some(d) if self.index[0] == 0 => d.len - self.index[1],
            _ => 0,
        }
    }

    /// Moves `n` elements on, at most to the end of the innermost loop.
    pub(super) fn advance(&mut self, plan: &Plan<K>, n: usize) {
        self.advance_loop(plan, 0, n);
    }

    /// Moves `n` whole rounds of the innermost loop on, at most to the end of the second one.
    pub(super) fn advance_rounds(&mut self, plan: &Plan<K>, n: usize) {
        self.advance_loop(plan, 1, n);
    }

    fn advance_loop(&mut self, plan: &Plan<K>, first: usize, n: usize) {
        let mut step = n;
        for (index, d) in self.index.iter_mut().zip(&plan.dims).skip(first) {
            *index += step;
            for k in 0..K {
                self.offsets[k] += step * d.strides[k];
            }
            if *index < d.len {
                return;
            }
            *index = 0;
            for k in 0..K {
                self.offsets[k] -= d.len * d.strides[k];
            }
            step = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(a: &[usize], b: &[usize]) -> (Shape, Vec<(usize, [usize; 2])>) {
        let (s, p) = Plan::new([&Shape::new(a), &Shape::new(b)]).unwrap();
        (s, p.dims.iter().map(|d| (d.len, d.strides)).collect())
    }

    #[test]
    fn neighbouring_dimensions_become_one_loop() {
        assert_eq!(plan(&[2, 3, 4], &[2, 3, 4]).1, [(24, [1, 1])]);
        assert_eq!(plan(&[2, 3, 4], &[]).1, [(24, [1, 0])]);
        assert_eq!(plan(&[1, 1], &[5, 1, 7]).1, [(35, [0, 1])]);
        assert_eq!(plan(&[2, 3, 4, 5], &[4, 5]).1, [(20, [1, 1]), (6, [20, 0])]);
        assert_eq!(plan(&[2, 3, 4, 5], &[2, 3, 1, 1]).1, [(20, [1, 0]), (6, [20, 1])]);
        assert_eq!(
            plan(&[3, 1], &[1, 4]),
            (Shape::new(&[3, 4]), vec![(4, [0, 1]), (3, [1, 0])])
        );
        assert_eq!(plan(&[1], &[1, 1]), (Shape::new(&[1, 1]), vec![]));
    }

    #[test]
    fn shapes_that_do_not_broadcast_are_named() {
        let e = Plan::new([&Shape::new(&[2, 3]), &Shape::new(&[4, 3])]).unwrap_err();
        assert!(e.message().starts_with("Incompatible shapes: [2,3] vs. [4,3]"), "{e}");
        let huge = Shape::new(&[1 << 40, 1]);
        assert!(Plan::new([&huge, &Shape::new(&[1 << 40])]).is_err());
        assert_eq!(plan(&[0, 1], &[3]).0, Shape::new(&[0, 3]));
    }

    #[test]
    fn runs_visit_every_element_from_any_start() {
        let (s, p) = Plan::new([&Shape::new(&[2, 1, 3, 1]), &Shape::new(&[1, 4, 1, 5])]).unwrap();
        let want: Vec<[usize; 2]> = (0..2)
            .flat_map(|i| {
                (0..4).flat_map(move |j| (0..3).flat_map(move |k| (0..5).map(move |l| [i * 3 + k, j * 5 + l])))
            })
            .collect();
        assert_eq!(want.len(), s.count());
        for (start, end) in [(0, 120), (7, 120), (13, 14), (59, 101)] {
            let mut next = start;
            p.for_runs(start, end, |i, at, n| {
                assert_eq!(i, next);
                for j in 0..n {
                    let d = p.dims[0].strides;
                    assert_eq!([at[0] + j * d[0], at[1] + j * d[1]], want[i + j]);
                }
                next += n;
            });
            assert_eq!(next, end);
        }
    }
}
