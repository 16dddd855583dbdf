//! Copies that are products of runs: each dimension is cut into runs of its own, every combination is one copy.

use super::{Axes, Axis, StridedCopy};

/// A run of steps along one dimension; offsets and strides count elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What the run adds to the offset in the source.
    pub from: usize,
    /// What the run adds to the offset in the destination.
    pub to: usize,
    /// The steps.
    pub axis: Axis,
}

/// The most copies that one operation is cut into.
pub const MOST: usize = 1 << 24;

/// One copy from source 0 for every way to take one run of each dimension. None if a dimension has no run.
pub fn products(per: &[Vec<Run>]) -> Vec<StridedCopy> {
    let mut copies = vec![StridedCopy {
        source: 0,
        from: 0,
        to: 0,
        axes: Axes::new(),
    }];
    for runs in per {
        let mut next = Vec::with_capacity(copies.len() * runs.len());
        for c in &copies {
            for r in runs.iter().filter(|r| r.axis.n > 0) {
                let mut longer = c.clone();
                longer.from += r.from;
                longer.to += r.to;
                longer.axes.push(r.axis);
                next.push(longer);
            }
        }
        copies = next;
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_one_copy() {
        let run = |from, to, n| Run {
            from,
            to,
            axis: Axis { n, src: 1, dst: 1 },
        };
        let all = products(&[vec![run(0, 10, 2), run(1, 20, 0)], vec![run(3, 0, 1), run(4, 5, 1)]]);
        let offsets: Vec<_> = all.iter().map(|c| (c.from, c.to, c.axes.len())).collect();
        assert_eq!(offsets, [(3, 10, 2), (4, 15, 2)]);
        assert!(products(&[vec![run(0, 0, 1)], vec![]]).is_empty());
        assert_eq!(products(&[]).len(), 1);
    }
}
