//! Folding rows that belong to the same segment.
//!
//! Rows of a segment are joined in their order, whatever the number of workers: each worker owns some segments.
#![forbid(unsafe_code)]

mod folds;
pub mod sorted;
pub mod sparse;
pub mod unsorted;

use actorflow_core::dtype::DType;
use actorflow_core::error::Result;
use actorflow_core::kernel::Device;
use actorflow_core::{Shape, Tensor};

use super::shared::elements;
use crate::math::madd::{Baseline, Madd};
use crate::reduction::Fold;
use crate::spread::{self, GRAIN};
use crate::wide::{self, Work};

/// The rows of some segments, joined into `out`, whose first row is that of segment `first`.
struct Rows<'a, F: Fold> {
    data: &'a [F::T],
    ids: &'a [i64],
    inner: usize,
    first: usize,
    out: &'a mut [F::T],
}

impl<F: Fold> Work for Rows<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let Rows {
            data,
            ids,
            inner,
            first,
            out,
        } = self;
        let segments = out.len() / inner;
        for (id, x) in ids.iter().zip(data.chunks_exact(inner)) {
            // A negative id becomes a large number, which no worker owns.
            let at = (*id as usize).wrapping_sub(first);
            if at < segments {
                for (o, x) in out[at * inner..][..inner].iter_mut().zip(x) {
                    *o = F::join(*o, *x);
                }
            }
        }
    }
}

/// Joins row `i` of `data` (rows of `inner` elements) into row `ids[i]` of `out`; rows with negative ids are dropped.
/// Ids are less than the number of rows of `out`.
fn join<F: Fold>(device: &dyn Device, data: &[F::T], ids: &[i64], inner: usize, out: &mut [F::T]) {
    if inner == 0 || out.is_empty() {
        return;
    }
    let par = device.parallel();
    let workers = if data.len() < 4 * GRAIN { 1 } else { par.threads() };
    let rows = (out.len() / inner).div_ceil(workers);
    spread::chunks(par, out, rows * inner, |i, out| {
        let first = i * rows;
        let work = Rows::<F> {
            data,
            ids,
            inner,
            first,
            out,
        };
        if F::WIDE {
            wide::run(work)
        } else {
            work.run::<Baseline>()
        }
    });
}

/// The operands of a segment operation, checked.
struct Segments<'a> {
    data: &'a Tensor,
    /// The segment of each row.
    ids: &'a [i64],
    /// Elements of a row.
    inner: usize,
    /// The shape of the result, segments first.
    shape: Shape,
}

/// Folds rows by segment into a new tensor.
type Run = fn(&dyn Device, &Segments<'_>) -> Result<Tensor>;

/// Folds rows of the fold's own type; segments start as `start`.
fn direct<F: Fold>(device: &dyn Device, data: &Tensor, s: &Segments<'_>, start: F::T) -> Result<Tensor> {
    use actorflow_core::dtype::Element;
    let mut out = Tensor::alloc_in(device.pool(), F::T::DTYPE, s.shape.clone())?;
    let to = elements::<F::T>(&mut out)?;
    to.fill(start);
    join::<F>(device, data.as_slice::<F::T>()?, s.ids, s.inner, to);
    Ok(out)
}

/// The ids as int64.
fn wide_ids(device: &dyn Device, ids: &Tensor) -> Result<Tensor> {
    use super::shared::map;
    match ids.dtype() {
        DType::I16 => map::<i16, i64>(device, ids, i64::from),
        DType::I32 => map::<i32, i64>(device, ids, i64::from),
        _ => Ok(ids.clone()),
    }
}
