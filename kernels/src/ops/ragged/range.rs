//! `RaggedRange`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, dispatch, register_ops};

use crate::moves;
use crate::ops::array::support::index_vector;
use crate::ops::sparse::number::{Number, Ordered};

/// How many numbers there are from `start` to `limit` by steps of `delta`.
trait Steps: Ordered + Number {
    fn steps(start: Self, limit: Self, delta: Self) -> Option<usize>;
}

macro_rules! steps {
    (integers $($t:ty)*) => {
        $(impl Steps for $t {
            fn steps(start: Self, limit: Self, delta: Self) -> Option<usize> {
                let gap = (i128::from(limit) - i128::from(start)) * i128::from(delta.signum());
                match gap {
                    0.. => usize::try_from((gap + i128::from(delta.unsigned_abs()) - 1) / i128::from(delta.unsigned_abs())).ok(),
                    _ => Some(0),
                }
            }
        })*
    };
    (floats $($t:ty)*) => {
        $(impl Steps for $t {
            fn steps(start: Self, limit: Self, delta: Self) -> Option<usize> {
                let n = ((limit.to_f64() - start.to_f64()) / delta.to_f64()).ceil();
                // NaN is neither.
                if n <= 0.0 { Some(0) } else if n < 9e15 { Some(n as usize) } else { None }
            }
        })*
    };
}

steps!(integers i32 i64);
steps!(floats f32 f64 half::bf16);

fn run<T: Steps>(cx: &mut OpContext<'_>, splits: actorflow_core::DType) -> Result<()> {
    let names = ["starts", "limits", "deltas"];
    let (mut rows, mut all) = (None, Vec::new());
    for (i, name) in names.iter().enumerate() {
        let t = cx.input(i)?;
        match t.shape().dims() {
            [] => {}
            [n] if rows.is_none_or(|r| r == *n) => rows = Some(*n),
            [_] => return Err(Error::invalid("starts, limits, and deltas must have the same shape")),
            _ => {
                return Err(Error::invalid(format!(
                    "{name} must be a scalar or vector, not of shape {}",
                    t.shape()
                )));
            }
        }
        all.push(t.as_slice::<T>()?);
    }
    let rows = rows.unwrap_or(1);
    let at = |i: usize, row: usize| {
        if all[i].len() == 1 && cx.input(i).is_ok_and(|t| t.shape().is_scalar()) {
            all[i][0]
        } else {
            all[i][row]
        }
    };
    let (mut ends, mut total) = (moves::list::<i64>(cx, rows + 1)?, 0usize);
    ends.push(0);
    for row in 0..rows {
        let delta = at(2, row);
        if delta == T::default() {
            return Err(Error::invalid("requires delta != 0"));
        }
        total = T::steps(at(0, row), at(1, row), delta)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(|| Error::invalid("the ranges have too many elements"))?;
        ends.push(total as i64);
    }
    let mut values: Vec<T> = moves::list(cx, total)?;
    for row in 0..rows {
        let (mut x, delta) = (at(0, row), at(2, row));
        for _ in ends[row]..ends[row + 1] {
            values.push(x);
            x = x.plus(delta);
        }
    }
    let ends = index_vector(splits, &ends)?;
    cx.set_output(0, ends);
    cx.set_output(1, Tensor::vector(&values));
    Ok(())
}

fn ragged_range() -> OpDef {
    OpDef::new("RaggedRange", Category::Sparse)
        .doc("Ranges of numbers as the rows of a ragged tensor.")
        .input("starts: T")
        .input("limits: T")
        .input("deltas: T")
        .output("rt_nested_splits: Tsplits")
        .output("rt_dense_values: T")
        .attr("T: {bfloat16, float, double, int32, int64} = DT_INT32")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .shape(|cx| {
            let mut rows = PartialShape::vector(None);
            let mut scalars = 0;
            for i in 0..3 {
                match cx.input(i).rank() {
                    Some(0) => scalars += 1,
                    Some(_) => rows = rows.merge(&cx.input(i).with_rank(1)?)?,
                    None => {}
                }
            }
            let n = if scalars == 3 {
                Some(2)
            } else {
                rows.dim(0).map(|n| n + 1)
            };
            Ok(vec![PartialShape::vector(n), PartialShape::vector(None)])
        })
        .not_differentiable()
        .cpu(|init| {
            let splits = init.output_types[0];
            dispatch!(init.input_types[0], T in [BF16, F32, F64, I32, I64] => {
                Ok(Box::new(move |cx: &mut OpContext<'_>| run::<T>(cx, splits)))
            }, else Err(init.no_kernel()))
        })
}

register_ops!(ragged_range);
