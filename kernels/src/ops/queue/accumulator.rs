//! Conditional accumulators: gradients are added up until enough of them have come. The state and its arithmetic.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, PartialShape, Tensor};
use half::{bf16, f16};

use super::room::{Counter, Served};
use crate::ops::state::arith::{Arith, Update};

/// What never changes about an accumulator.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The dtype of the gradients.
    pub dtype: DType,
    /// Their shape, as far as it is prescribed.
    pub shape: PartialShape,
    /// Whether the mean is taken; else the sum.
    pub mean: bool,
    /// Whether gradients are rows with their indices.
    pub sparse: bool,
}

/// Rows that were added up.
pub struct Rows {
    indices: Vec<i64>,
    /// How many gradients had each row.
    counts: Vec<usize>,
    values: Tensor,
}

/// What was added up so far.
enum Sum {
    Nothing,
    Dense(Tensor),
    Sparse(Rows),
}

/// Asks for the mean (or sum) of at least so many gradients.
pub struct Take {
    /// How many.
    pub required: usize,
    /// Where results are allocated.
    pub pool: Arc<Pool>,
}

/// The state of an accumulator.
pub struct Accumulator {
    spec: Spec,
    sum: Sum,
    count: usize,
    step: i64,
}

/// Calls `$f::<T>($args)` for the float type of a dtype.
macro_rules! for_float {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            DType::F32 => $f::<f32>($($arg),*),
            DType::F64 => $f::<f64>($($arg),*),
            DType::F16 => $f::<f16>($($arg),*),
            DType::BF16 => $f::<bf16>($($arg),*),
            d => Err(Error::invalid(format!("accumulators of {d} are not supported"))),
        }
    };
}

/// A float that a count can be converted to.
trait Float: Arith {
    fn of(n: usize) -> Self;
}

impl Float for f32 {
    fn of(n: usize) -> Self {
        n as f32
    }
}

impl Float for f64 {
    fn of(n: usize) -> Self {
        n as f64
    }
}

impl Float for f16 {
    fn of(n: usize) -> Self {
        f16::from_f64(n as f64)
    }
}

impl Float for bf16 {
    fn of(n: usize) -> Self {
        bf16::from_f64(n as f64)
    }
}

fn elements<T: Float>(t: &mut Tensor) -> Result<&mut [T]> {
    t.as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("an accumulator's buffer is shared"))
}

fn add<T: Float>(to: &mut Tensor, by: &Tensor) -> Result<()> {
    Update::Add.zip(elements::<T>(to)?, by.as_slice::<T>()?);
    Ok(())
}

/// Divides each row by its count; `row` elements belong to one.
fn divide<T: Float>(t: &mut Tensor, row: usize, counts: &[usize]) -> Result<()> {
    for (r, n) in elements::<T>(t)?.chunks_mut(row.max(1)).zip(counts) {
        Update::Div.fill(r, T::of(*n));
    }
    Ok(())
}

/// The rows of both lists in one, where rows of one index that meet are added. Both are walked once, as if sorted.
fn merge<T: Float>(a: &Rows, b: &Rows, pool: &Arc<Pool>) -> Result<Rows> {
    let (x, y) = (a.values.as_slice::<T>()?, b.values.as_slice::<T>()?);
    let row: usize = a.values.shape()[1..].iter().product();
    let (mut i, mut j) = (0, 0);
    let (mut indices, mut counts) = (Vec::new(), Vec::new());
    let mut values: Vec<T> = Vec::with_capacity(x.len() + y.len());
    while i < a.indices.len() || j < b.indices.len() {
        let from_a = j >= b.indices.len() || (i < a.indices.len() && a.indices[i] <= b.indices[j]);
        let from_b = i >= a.indices.len() || (j < b.indices.len() && b.indices[j] <= a.indices[i]);
        let start = values.len();
        let mut count = 0;
        if from_a {
            values.extend_from_slice(&x[i * row..(i + 1) * row]);
            indices.push(a.indices[i]);
            count += a.counts[i];
            i += 1;
        }
        if from_b {
            let r = &y[j * row..(j + 1) * row];
            match from_a {
                true => Update::Add.zip(&mut values[start..], r),
                false => {
                    values.extend_from_slice(r);
                    indices.push(b.indices[j]);
                }
            }
            count += b.counts[j];
            j += 1;
        }
        counts.push(count);
    }
    let shape = a.values.shape().with_replaced(0, 1, &[indices.len()]);
    let mut t = Tensor::alloc_in(pool, T::DTYPE, shape)?;
    elements::<T>(&mut t)?.copy_from_slice(&values);
    Ok(Rows {
        indices,
        counts,
        values: t,
    })
}

impl Accumulator {
    /// An empty accumulator at step 0.
    pub fn new(spec: Spec) -> Self {
        Accumulator {
            spec,
            sum: Sum::Nothing,
            count: 0,
            step: 0,
        }
    }

    /// How many gradients were added since the last were taken.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Sets the step: gradients of earlier ones are dropped.
    pub fn set_step(&mut self, step: i64) {
        self.step = step;
    }

    /// Adds a gradient that was computed at `step`, unless that is past.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if its shape differs from what is prescribed or from those before it.
    pub fn add(&mut self, step: i64, gradient: &Tensor, pool: &Arc<Pool>) -> Result<()> {
        if !self.spec.shape.accepts(gradient.shape()) {
            return Err(Error::invalid(format!(
                "Shape mismatch: expected a gradient of shape {}, got {}",
                self.spec.shape,
                gradient.shape()
            )));
        }
        if step < self.step {
            return Ok(());
        }
        match &mut self.sum {
            Sum::Dense(sum) => {
                if sum.shape() != gradient.shape() {
                    return Err(Error::invalid(format!(
                        "Shape mismatch: expected a gradient of shape {}, as those before, got {}",
                        sum.shape(),
                        gradient.shape()
                    )));
                }
                if !sum.is_unique() {
                    *sum = sum.deep_copy_in(pool)?;
                }
                for_float!(sum.dtype(), add(sum, gradient))?;
            }
            _ => self.sum = Sum::Dense(gradient.clone()),
        }
        self.count += 1;
        Ok(())
    }

    /// Adds rows of a gradient that was computed at `step`, unless that is past.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if shapes do not fit.
    pub fn add_rows(&mut self, step: i64, [indices, values, shape]: [&Tensor; 3], pool: &Arc<Pool>) -> Result<()> {
        let rows = indices.as_slice::<i64>()?;
        if indices.shape().rank() != 1 || values.shape().first() != Some(&rows.len()) || rows.is_empty() {
            return Err(Error::invalid(format!(
                "a sparse gradient needs a vector of indices, not empty, and a row of values for each; got shapes {} \
                 and {}",
                indices.shape(),
                values.shape()
            )));
        }
        let row = PartialShape::from(values.shape()).with_dim(0, None);
        let wrong = |e: Error| e.context("Shape mismatch of a sparse gradient");
        self.spec.shape.merge(&row).map_err(wrong)?;
        if !shape.is_empty() {
            let whole = PartialShape::from_i64(&shape.to_i64_vec()?);
            self.spec
                .shape
                .merge(&whole.merge(&row).map_err(wrong)?)
                .map_err(wrong)?;
        }
        if let Some(i) = rows.iter().find(|i| **i < 0) {
            return Err(Error::invalid(format!("index {i} of a sparse gradient is negative")));
        }
        if step < self.step {
            return Ok(());
        }
        let new = Rows {
            indices: rows.to_vec(),
            counts: vec![1; rows.len()],
            values: values.clone(),
        };
        self.sum = Sum::Sparse(match &self.sum {
            Sum::Sparse(old) => {
                if old.values.shape()[1..] != values.shape()[1..] {
                    return Err(Error::invalid(format!(
                        "Shape mismatch: rows have shape {}, those before {}",
                        values.shape(),
                        old.values.shape()
                    )));
                }
                for_float!(values.dtype(), merge(old, &new, pool))?
            }
            _ => new,
        });
        self.count += 1;
        Ok(())
    }

    /// Takes what was added up; the step moves on.
    fn take(&mut self, pool: &Arc<Pool>) -> Result<Vec<Tensor>> {
        let count = std::mem::take(&mut self.count);
        self.step += 1;
        match std::mem::replace(&mut self.sum, Sum::Nothing) {
            Sum::Dense(t) if self.spec.mean => {
                let mut t = t.into_unique(pool)?;
                let n = t.len();
                for_float!(t.dtype(), divide(&mut t, n, &[count]))?;
                Ok(vec![t])
            }
            Sum::Dense(t) => Ok(vec![t]),
            Sum::Sparse(rows) => {
                let mut values = rows.values;
                if self.spec.mean {
                    values = values.into_unique(pool)?;
                    let row = values.shape()[1..].iter().product();
                    for_float!(values.dtype(), divide(&mut values, row, &rows.counts))?;
                }
                let mut shape = values.shape().to_i64();
                shape[0] = self.spec.shape.dim(0).map_or(-1, |d| d as i64);
                Ok(vec![Tensor::vector(&rows.indices), values, Tensor::vector(&shape)])
            }
            Sum::Nothing => Err(Error::internal("an accumulator has gradients but no sum")),
        }
    }
}

impl Counter for Accumulator {
    type Request = Take;
    type Info = Spec;
    const KIND: &'static str = "accumulator";

    fn line(_: &Take) -> usize {
        0
    }

    fn serve(&mut self, request: &mut Take, _: bool) -> Served {
        match self.count >= request.required {
            true => Served::Done(self.take(&request.pool)),
            false => Served::Waits,
        }
    }

    fn withdraw(&mut self, _: Take) {}
}
