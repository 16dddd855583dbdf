//! Means of gradients whose order of addition is always the same.
//!
//! Gradients are added as a binary tree whose left part is the largest power of two that is smaller than the whole. A
//! replica that adds up 2ᵏ parts of its batch so, and replicas whose sums are added so, do the same additions as one
//! machine that adds up all parts: the results are equal bit for bit.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::parallel::Parallel;
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Shape, Tensor};
use half::{bf16, f16};

use crate::ops::state::arith::{Arith, Update};
use crate::spread;

/// A number that has a mean.
trait Float: Arith {
    fn of(x: f64) -> Self;
}

macro_rules! floats {
    ($($t:ty => $of:expr),*) => {
        $(impl Float for $t {
            fn of(x: f64) -> Self {
                $of(x)
            }
        })*
    };
}

floats!(f32 => |x| x as f32, f64 => |x| x, f16 => f16::from_f64, bf16 => bf16::from_f64);

/// Calls `$f::<T>($args)` for the float type of a dtype.
macro_rules! for_float {
    ($dtype:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $dtype {
            DType::F32 => $f::<f32>($($arg),*),
            DType::F64 => $f::<f64>($($arg),*),
            DType::F16 => $f::<f16>($($arg),*),
            DType::BF16 => $f::<bf16>($($arg),*),
            d => Err(Error::unimplemented(format!("replicas cannot agree on gradients of {d}"))),
        }
    };
}

/// Elements that are added up at a time, so that partial sums stay in the first-level cache.
const BLOCK: usize = 1024;

/// Where the left part of a sum of `n` ends: the largest power of two below `n`.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// Adds up elements `at..at + out.len()` of the parts.
fn tree<T: Float>(parts: &[&[T]], at: usize, out: &mut [T]) {
    match parts {
        [] => out.fill(T::default()),
        [a] => out.copy_from_slice(&a[at..at + out.len()]),
        _ => {
            let (left, right) = parts.split_at(split(parts.len()));
            tree(left, at, out);
            if let [b] = right {
                Update::Add.zip(out, &b[at..at + out.len()]);
                return;
            }
            let mut sum = [T::default(); BLOCK];
            let sum = &mut sum[..out.len()];
            tree(right, at, sum);
            Update::Add.zip(out, sum);
        }
    }
}

fn typed<T: Float>(parts: &[&Tensor], out: &mut Tensor, parallel: &dyn Parallel) -> Result<()> {
    let slices = parts.iter().map(|p| p.as_slice::<T>()).collect::<Result<Vec<_>>>()?;
    let out = out
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new buffer is shared"))?;
    let n = T::of(parts.len() as f64);
    spread::chunks(parallel, out, spread::GRAIN, |i, chunk| {
        for (k, block) in chunk.chunks_mut(BLOCK).enumerate() {
            tree(&slices, i * spread::GRAIN + k * BLOCK, block);
            Update::Div.fill(block, n);
        }
    });
    Ok(())
}

/// The mean of tensors of one dtype and shape.
///
/// # Errors
/// `INVALID_ARGUMENT` naming shapes or dtypes that differ, or if there is nothing; `UNIMPLEMENTED` for a dtype that has no
/// means.
pub fn dense(parts: &[&Tensor], pool: &Arc<Pool>, parallel: &dyn Parallel) -> Result<Tensor> {
    let Some((first, others)) = parts.split_first() else {
        return Err(Error::invalid("there is no mean of nothing"));
    };
    if let Some(o) = others
        .iter()
        .find(|o| o.shape() != first.shape() || o.dtype() != first.dtype())
    {
        return Err(Error::invalid(format!(
            "replicas pushed gradients of {}{} and of {}{} for one variable",
            first.dtype(),
            first.shape(),
            o.dtype(),
            o.shape()
        )));
    }
    if others.is_empty() {
        return Ok((*first).clone());
    }
    let mut out = Tensor::alloc_in(pool, first.dtype(), first.shape().clone())?;
    for_float!(first.dtype(), typed(parts, &mut out, parallel))?;
    Ok(out)
}

/// The tensor divided by `n`.
///
/// # Errors
/// `UNIMPLEMENTED` for a dtype that is no float.
pub fn divided(t: Tensor, n: f64, pool: &Arc<Pool>) -> Result<Tensor> {
    scaled(t, n, Update::Div, pool)
}

/// The tensor times `n`.
///
/// # Errors
/// `UNIMPLEMENTED` for a dtype that is no float.
pub fn times(t: Tensor, n: f64, pool: &Arc<Pool>) -> Result<Tensor> {
    scaled(t, n, Update::Mul, pool)
}

fn scaled(t: Tensor, n: f64, by: Update, pool: &Arc<Pool>) -> Result<Tensor> {
    fn all<T: Float>(t: &mut Tensor, n: f64, by: Update) -> Result<()> {
        let elements = t.as_mut_slice::<T>();
        by.fill(
            elements.ok_or_else(|| Error::internal("a new buffer is shared"))?,
            T::of(n),
        );
        Ok(())
    }
    let mut t = t.into_unique(pool)?;
    for_float!(t.dtype(), all(&mut t, n, by))?;
    Ok(t)
}

/// A one.
///
/// # Errors
/// `UNIMPLEMENTED` for a dtype that is no float.
pub fn ones(dtype: DType) -> Result<Tensor> {
    fn one<T: Float>() -> Result<Tensor> {
        Ok(Tensor::scalar(T::of(1.0)))
    }
    for_float!(dtype, one())
}

/// Multiplies a tensor that nobody else has by a scalar.
///
/// # Errors
/// `UNIMPLEMENTED` for a dtype that is no float.
pub fn multiply(t: &mut Tensor, by: &Tensor) -> Result<()> {
    fn all<T: Float>(t: &mut Tensor, by: &Tensor) -> Result<()> {
        let by = by.to_scalar::<T>()?;
        let elements = t.as_mut_slice::<T>();
        Update::Mul.fill(elements.ok_or_else(|| Error::internal("a value is shared"))?, by);
        Ok(())
    }
    for_float!(t.dtype(), all(t, by))
}

/// The mean of gradients that are rows with their indices, as rows and indices again, where each index is there once.
/// Rows that are missing from a part count as zeros.
///
/// # Errors
/// `INVALID_ARGUMENT` if rows and indices do not fit; `UNIMPLEMENTED` for a dtype that has no means.
pub fn rows(parts: &[(&Tensor, &Tensor)], pool: &Arc<Pool>) -> Result<(Tensor, Tensor)> {
    let Some((first, _)) = parts.first() else {
        return Err(Error::invalid("there is no mean of nothing"));
    };
    for (values, indices) in parts {
        let fits = indices.shape().rank() == 1
            && values.shape().first() == Some(&indices.len())
            && values.dtype() == first.dtype()
            && values.shape()[1..] == first.shape()[1..];
        if !fits {
            return Err(Error::invalid(format!(
                "a sparse gradient needs a vector of indices and a row for each, got shapes {} and {}, beside rows of {}",
                indices.shape(),
                values.shape(),
                first.shape()
            )));
        }
    }
    for_float!(first.dtype(), merged(parts, pool))
}

fn merged<T: Float>(parts: &[(&Tensor, &Tensor)], pool: &Arc<Pool>) -> Result<(Tensor, Tensor)> {
    let row: usize = parts[0].0.shape()[1..].iter().product();
    let mut places: BTreeMap<i64, usize> = BTreeMap::new();
    let mut sums: Vec<T> = Vec::new();
    for (values, indices) in parts {
        let values = values.as_slice::<T>()?;
        for (k, index) in indices.to_i64_vec()?.into_iter().enumerate() {
            let from = &values[k * row..(k + 1) * row];
            let next = places.len();
            let place = *places.entry(index).or_insert(next);
            match sums.get_mut(place * row..(place + 1) * row) {
                Some(to) if place < next => Update::Add.zip(to, from),
                _ => sums.extend_from_slice(from),
            }
        }
    }
    let shape = parts[0].0.shape().with_replaced(0, 1, &[places.len()]);
    let mut out = Tensor::alloc_in(pool, T::DTYPE, shape)?;
    let to = out
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new buffer is shared"))?;
    let n = T::of(parts.len() as f64);
    for (i, place) in places.values().enumerate() {
        let to = &mut to[i * row..(i + 1) * row];
        to.copy_from_slice(&sums[place * row..(place + 1) * row]);
        Update::Div.fill(to, n);
    }
    Ok((out, Tensor::vector(&places.into_keys().collect::<Vec<i64>>())))
}

/// Rows in the places that their indices say, each there once, with zeros everywhere else.
///
/// # Errors
/// `INVALID_ARGUMENT` if rows and indices do not fit the shape; `UNIMPLEMENTED` for a dtype that is no float.
pub fn whole(rows: &Tensor, indices: &Tensor, shape: Shape, pool: &Arc<Pool>) -> Result<Tensor> {
    fn fill<T: Float>(rows: &Tensor, indices: &[i64], out: &mut Tensor) -> Result<()> {
        let (rows, row) = (rows.as_slice::<T>()?, out.shape()[1..].iter().product::<usize>());
        let out = out
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a new buffer is shared"))?;
        out.fill(T::default());
        for (k, i) in indices.iter().enumerate() {
            let place = usize::try_from(*i)
                .ok()
                .and_then(|i| Some((i.checked_mul(row)?, i.checked_add(1)?.checked_mul(row)?)));
            let to = place.and_then(|(from, to)| out.get_mut(from..to));
            let to = to.ok_or_else(|| Error::invalid(format!("there is no row {i}")))?;
            to.copy_from_slice(&rows[k * row..(k + 1) * row]);
        }
        Ok(())
    }
    let fits = indices.shape().rank() == 1
        && shape.rank() > 0
        && rows.shape().split_first() == Some((&indices.len(), &shape[1..]));
    if !fits {
        return Err(Error::invalid(format!(
            "rows of shape {} for indices of shape {} do not fit a variable of shape {shape}",
            rows.shape(),
            indices.shape()
        )));
    }
    let mut out = Tensor::alloc_in(pool, rows.dtype(), shape)?;
    for_float!(rows.dtype(), fill(rows, &indices.to_i64_vec()?, &mut out))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::parallel::Serial;

    fn mean(parts: &[Tensor]) -> Tensor {
        dense(&parts.iter().collect::<Vec<_>>(), &Pool::unbounded(), &Serial).unwrap()
    }

    fn parts(n: usize) -> Vec<Tensor> {
        let value = |k: usize, i: usize| 1.0 / ((k * 3001 + i) as f32 + 0.7);
        let part = |k: usize| Tensor::vector(&(0..3000).map(|i| value(k, i)).collect::<Vec<f32>>());
        (0..n).map(part).collect()
    }

    #[test]
    fn means_of_means_are_the_mean_of_all_bit_for_bit() {
        for (n, sizes) in [(8, [1, 2, 4, 8].as_slice()), (12, &[1, 2, 4])] {
            let all = parts(n);
            let whole = mean(&all);
            for size in sizes {
                let some: Vec<Tensor> = all.chunks(*size).map(mean).collect();
                assert_eq!(mean(&some).bytes(), whole.bytes(), "{n} in chunks of {size}");
            }
        }
    }

    #[test]
    fn gradients_that_differ_in_shape_or_have_no_mean_are_refused() {
        let (a, b) = (Tensor::vector(&[1f32]), Tensor::vector(&[1f32, 2.]));
        let pool = Pool::unbounded();
        assert!(dense(&[&a, &b], &pool, &Serial).is_err());
        assert!(dense(&[], &pool, &Serial).is_err());
        let i = Tensor::vector(&[1i32]);
        assert!(dense(&[&i, &i], &pool, &Serial).is_err());
    }

    #[test]
    fn rows_of_one_index_meet_and_missing_ones_count_as_zeros() {
        let a = (
            Tensor::from_slice([2, 2], &[1f32, 2., 3., 4.]).unwrap(),
            Tensor::vector(&[5i32, 1]),
        );
        let b = (
            Tensor::from_slice([1, 2], &[10f32, 20.]).unwrap(),
            Tensor::vector(&[5i32]),
        );
        let (values, indices) = rows(&[(&a.0, &a.1), (&b.0, &b.1)], &Pool::unbounded()).unwrap();
        assert_eq!(indices.to_vec::<i64>().unwrap(), [1, 5]);
        assert_eq!(values.to_vec::<f32>().unwrap(), [1.5, 2., 5.5, 11.]);
        assert!(rows(&[(&a.0, &b.1)], &Pool::unbounded()).is_err());
    }

    #[test]
    fn rows_in_their_places_are_the_whole_with_zeros_elsewhere() {
        let rows = Tensor::from_slice([2, 2], &[1f32, 2., 3., 4.]).unwrap();
        let pool = Pool::unbounded();
        let at = |indices: &[i64]| whole(&rows, &Tensor::vector(indices), Shape::new(&[4, 2]), &pool);
        let expected = [3f32, 4., 0., 0., 0., 0., 1., 2.];
        assert_eq!(at(&[3, 0]).unwrap().to_vec::<f32>().unwrap(), expected);
        for wrong in [&[0i64, 4][..], &[0, -1], &[0]] {
            assert!(at(wrong).is_err(), "{wrong:?}");
        }
    }
}
