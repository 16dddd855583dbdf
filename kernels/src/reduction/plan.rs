//! Which dimensions are folded, in the fewest terms.

use actorflow_core::dtype::DType;
use actorflow_core::error::{Error, Result};
use actorflow_core::shape::MAX_RANK;
use actorflow_core::{Shape, Tensor};

/// Dimensions that are stored inline.
const INLINE: usize = 8;

/// A set of axes.
#[derive(Clone, Copy, Default)]
struct Axes([u64; MAX_RANK.div_ceil(64)]);

impl Axes {
    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn add(&mut self, axis: i64, rank: usize) -> Result<()> {
        let r = rank as i64;
        if axis < -r || axis >= r {
            return Err(Error::invalid(format!(
                "invalid reduction dimension {axis} for input with {rank} dimension(s): it must be in [{}, {r})",
                -r
            )));
        }
        let i = if axis < 0 { axis + r } else { axis } as usize;
        if self.has(i) {
            return Err(Error::invalid(format!(
                "invalid reduction arguments: axes contain duplicate dimension {i}"
            )));
        }
        self.0[i / 64] |= 1 << (i % 64);
        Ok(())
    }
}

/// How a tensor is folded: alternating folded and kept dimensions, and the shape of the result.
///
/// Dimensions of length 1 are left out, neighbours of the same kind are merged.
#[derive(Debug, Clone)]
pub struct Plan {
    inline: [usize; INLINE],
    len: usize,
    heap: Vec<usize>,
    folds_last: bool,
    count: usize,
    output: Shape,
}

impl Plan {
    /// Of a tensor of this shape along `axes`, an int32 or int64 tensor of any rank; negative axes count from the
    /// end. With `keep_dims` folded dimensions have length 1 in the result, else they are left out.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for an axis that is out of range or there twice.
    pub fn new(shape: &Shape, axes: &Tensor, keep_dims: bool) -> Result<Plan> {
        let rank = shape.rank();
        let mut set = Axes::default();
        if rank > MAX_RANK {
            return Err(Error::invalid(format!("rank {rank} exceeds the limit of {MAX_RANK}")));
        }
        match axes.dtype() {
            DType::I32 => axes
                .as_slice::<i32>()?
                .iter()
                .try_for_each(|a| set.add(i64::from(*a), rank))?,
            _ => axes.as_slice::<i64>()?.iter().try_for_each(|a| set.add(*a, rank))?,
        }
        Ok(Plan::of(shape, |i| set.has(i), keep_dims))
    }

    /// Of a tensor of this shape along the axes for which `folded` is true.
    pub fn of(shape: &Shape, folded: impl Fn(usize) -> bool, keep_dims: bool) -> Plan {
        let mut plan = Plan {
            inline: [0; INLINE],
            len: 0,
            heap: Vec::new(),
            folds_last: false,
            count: 1,
            output: Shape::SCALAR,
        };
        let on_heap = shape.rank() > INLINE;
        let mut kept = [0; INLINE];
        let mut kept_len = 0;
        let mut kept_heap = Vec::new();
        let mut keep = |d: usize| {
            if on_heap {
                kept_heap.push(d);
            } else {
                kept[kept_len] = d;
                kept_len += 1;
            }
        };
        for (i, &d) in shape.dims().iter().enumerate() {
            let folds = folded(i);
            if folds {
                plan.count *= d;
                if keep_dims {
                    keep(1);
                }
            } else {
                keep(d);
            }
            if d == 1 {
                continue;
            }
            let last = if on_heap {
                plan.heap.last_mut()
            } else {
                plan.inline[..plan.len].last_mut()
            };
            match last {
                Some(last) if folds == plan.folds_last => *last *= d,
                _ if on_heap => plan.heap.push(d),
                _ => {
                    plan.inline[plan.len] = d;
                    plan.len += 1;
                }
            }
            plan.folds_last = folds;
        }
        plan.output = if on_heap {
            Shape::from(kept_heap)
        } else {
            Shape::new(&kept[..kept_len])
        };
        plan
    }

    /// The merged dimensions; they alternate between folded and kept.
    pub fn dims(&self) -> &[usize] {
        if self.heap.is_empty() {
            &self.inline[..self.len]
        } else {
            &self.heap
        }
    }

    /// Whether the last of them is folded.
    pub fn folds_last(&self) -> bool {
        self.folds_last
    }

    /// The elements that are folded into one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The shape of the result.
    pub fn output(&self) -> &Shape {
        &self.output
    }
}
