//! Resolving strided slices: from bounds, strides and masks to a range of every dimension.

use actorflow_core::error::{Error, Result};
use actorflow_core::{Attrs, PartialShape, Shape};
use smallvec::SmallVec;

use crate::moves::{Axes, Axis};

/// The five bit masks; bit `i` speaks about element `i` of `begin`, `end` and `strides`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Masks {
    begin: i64,
    end: i64,
    ellipsis: i64,
    new_axis: i64,
    shrink: i64,
}

pub(crate) const MASKS: [&str; 5] = [
    "begin_mask",
    "end_mask",
    "ellipsis_mask",
    "new_axis_mask",
    "shrink_axis_mask",
];

impl Masks {
    /// The attributes' values.
    pub(crate) fn of(attrs: &Attrs) -> Result<Masks> {
        Ok(Masks {
            begin: attrs.int(MASKS[0])?,
            end: attrs.int(MASKS[1])?,
            ellipsis: attrs.int(MASKS[2])?,
            new_axis: attrs.int(MASKS[3])?,
            shrink: attrs.int(MASKS[4])?,
        })
    }
}

/// What the slice does with one dimension of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first index.
    pub(crate) begin: i64,
    /// The step, never 0.
    pub(crate) stride: i64,
    /// How many; `None` if it is not known yet.
    pub(crate) len: Option<usize>,
    /// Whether the dimension disappears from the result.
    pub(crate) shrink: bool,
}

/// A slice resolved against the dimensions of its input.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// One for each dimension of the input.
    pub(crate) ranges: SmallVec<[Range; 6]>,
    /// The result: `Some(i)` is dimension `i` of the input, `None` a new axis.
    pub(crate) result: SmallVec<[Option<usize>; 6]>,
}

/// `begin`, `end` or `strides`; `None` where the values are not known yet.
pub(crate) type Bounds<'a> = Option<&'a [i64]>;

impl Spec {
    /// Resolves `begin`, `end` and `strides`, all of length `n`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a stride of 0, more than one ellipsis, more indices than dimensions, and a single index
    /// outside of its dimension.
    pub(crate) fn new(
        n: usize,
        [begin, end, strides]: [Bounds<'_>; 3],
        masks: Masks,
        dims: &[Option<usize>],
    ) -> Result<Spec> {
        if n > 32 {
            return Err(Error::invalid(format!(
                "a strided slice has at most 32 indices, not {n}"
            )));
        }
        let has = |mask: i64, i: usize| mask & (1i64 << i) != 0;
        let mut ellipsis = None;
        let mut new_after = 0;
        for i in 0..n {
            if has(masks.ellipsis, i) {
                if ellipsis.replace(i).is_some() {
                    return Err(Error::invalid("multiple ellipses in a strided slice are not allowed"));
                }
            } else if ellipsis.is_some() && has(masks.new_axis, i) {
                new_after += 1;
            }
        }
        // Without one, an ellipsis follows at the end.
        let total = if ellipsis.is_some() { n } else { n + 1 };
        let ellipsis = ellipsis.unwrap_or(n);
        let mut spec = Spec {
            ranges: SmallVec::new(),
            result: SmallVec::new(),
        };
        for i in 0..total {
            let at = spec.ranges.len();
            if i == ellipsis {
                let next = (dims.len() + 1 + new_after).saturating_sub(total - i).min(dims.len());
                for (k, len) in dims.iter().enumerate().take(next).skip(at) {
                    spec.result.push(Some(k));
                    spec.ranges.push(Range {
                        begin: 0,
                        stride: 1,
                        len: *len,
                        shrink: false,
                    });
                }
            } else if has(masks.new_axis, i) {
                spec.result.push(None);
            } else {
                let Some(&dim) = dims.get(at) else {
                    return Err(Error::invalid(format!(
                        "too many indices: the input has only {} dimensions",
                        dims.len()
                    )));
                };
                let value = |b: Bounds<'_>| b.and_then(|b| b.get(i).copied());
                let range = Range::new(
                    i,
                    [value(begin), value(end), value(strides)],
                    [has(masks.begin, i), has(masks.end, i), has(masks.shrink, i)],
                    dim,
                )?;
                spec.ranges.push(range);
                if !range.shrink {
                    spec.result.push(Some(at));
                }
            }
        }
        Ok(spec)
    }

    /// The shape of the result.
    pub(crate) fn shape(&self) -> PartialShape {
        let dim = |r: &Option<usize>| r.map_or(Some(1), |i| self.ranges[i].len);
        PartialShape::new(self.result.iter().map(dim).collect::<Vec<_>>())
    }

    /// The copy between the input (of shape `dims`) and the row-major slice: its offset in the input, and the axes
    /// with the input's strides as `src` and the slice's as `dst`.
    pub(crate) fn copy(&self, dims: &[usize]) -> (usize, Axes) {
        let lens: SmallVec<[usize; 6]> = self.ranges.iter().map(|r| r.len.unwrap_or(0)).collect();
        let (outer, inner) = (Shape::new(dims).strides(), Shape::new(&lens).strides());
        let mut from = 0usize;
        let mut axes = Axes::new();
        for (i, r) in self.ranges.iter().enumerate() {
            from = from.wrapping_add_signed((r.begin as isize).wrapping_mul(outer[i] as isize));
            axes.push(Axis {
                n: lens[i],
                src: r.stride.saturating_mul(outer[i] as i64) as isize,
                dst: inner[i] as isize,
            });
        }
        // The stride of an axis of one step is never taken, and may be absurd.
        axes.iter_mut().filter(|a| a.n <= 1).for_each(|a| a.src = 0);
        (from, axes)
    }
}

impl Range {
    fn new(
        i: usize,
        [begin, end, stride]: [Option<i64>; 3],
        [open_begin, open_end, shrink]: [bool; 3],
        dim: Option<usize>,
    ) -> Result<Range> {
        let unknown = Range {
            begin: 0,
            stride: 1,
            len: if shrink { Some(1) } else { None },
            shrink,
        };
        let Some(stride) = stride else {
            return Ok(unknown);
        };
        if stride == 0 {
            return Err(Error::invalid(format!("strides[{i}] must not be 0")));
        }
        if shrink && stride <= 0 {
            return Err(Error::invalid(format!(
                "strides[{i}] of a single index must be positive, got {stride}"
            )));
        }
        if shrink {
            let (Some(begin), Some(dim)) = (begin, dim) else {
                return Ok(unknown);
            };
            let n = dim as i64;
            let at = if begin < 0 { begin.saturating_add(n) } else { begin };
            if at < 0 || at >= n {
                return Err(Error::invalid(format!(
                    "slice index {begin} of dimension {i} is out of bounds [{}, {n})",
                    -n
                )));
            }
            return Ok(Range {
                begin: at,
                stride: 1,
                len: Some(1),
                shrink,
            });
        }
        let Some(dim) = dim else {
            // The length follows from bounds of one sign alone.
            let len = match (begin.filter(|_| !open_begin), end.filter(|_| !open_end)) {
                (_, Some(0)) if stride > 0 => Some(0),
                _ => None,
            };
            return Ok(Range {
                begin: 0,
                stride,
                len,
                shrink,
            });
        };
        let n = dim as i64;
        let (low, high) = if stride > 0 { (0, n) } else { (-1, n - 1) };
        let bound = |x: i64| (if x < 0 { x.saturating_add(n) } else { x }).clamp(low, high);
        let first = match (open_begin, begin) {
            (true, _) => Some(if stride > 0 { low } else { high }),
            (false, b) => b.map(bound),
        };
        let last = match (open_end, end) {
            (true, _) => Some(if stride > 0 { high } else { low }),
            (false, e) => e.map(bound),
        };
        let (Some(first), Some(last)) = (first, last) else {
            return Ok(unknown);
        };
        let span = if stride > 0 { last - first } else { first - last };
        let len = u64::try_from(span).unwrap_or(0).div_ceil(stride.unsigned_abs());
        Ok(Range {
            begin: if len == 0 { 0 } else { first },
            stride,
            len: Some(len as usize),
            shrink,
        })
    }
}
