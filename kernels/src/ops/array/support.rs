//! What the array operations share: light kernels, integer inputs, constants for gradients.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::shape::MAX_RANK;
use actorflow_core::{DType, Graph, Output, PartialShape, Shape, Tensor};
use smallvec::SmallVec;

/// A kernel that is never worth handing to another worker.
pub(crate) struct Light<F>(pub(crate) F);

impl<F: Fn(&mut OpContext<'_>) -> Result<()> + Send + Sync> Kernel for Light<F> {
    #[inline]
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        (self.0)(cx)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

/// A short list of indices, axes or dimensions.
pub(crate) type Ints = SmallVec<[i64; 8]>;

/// The elements of an integer tensor.
pub(crate) fn ints(t: &Tensor) -> Result<Ints> {
    match t.dtype() {
        DType::I32 => Ok(t.as_slice::<i32>()?.iter().map(|x| i64::from(*x)).collect()),
        DType::I64 => Ok(t.as_slice::<i64>()?.iter().copied().collect()),
        _ => Ok(t.to_i64_vec()?.into()),
    }
}

/// The elements of an integer vector (a scalar counts as a vector of one).
pub(crate) fn int_vector(t: &Tensor, what: &str) -> Result<Ints> {
    if t.shape().rank() > 1 {
        return Err(Error::invalid(format!(
            "{what} must be a vector, got shape {}",
            t.shape()
        )));
    }
    ints(t)
}

/// The one element of an integer tensor.
pub(crate) fn int_scalar(t: &Tensor, what: &str) -> Result<i64> {
    match ints(t)?[..] {
        [x] => Ok(x),
        _ => Err(Error::invalid(format!(
            "{what} must be a scalar, got shape {}",
            t.shape()
        ))),
    }
}

/// An integer vector of `dtype`, int32 or int64 (or int16).
///
/// # Errors
/// `INVALID_ARGUMENT` if a value does not fit.
pub(crate) fn index_vector(dtype: DType, values: &[i64]) -> Result<Tensor> {
    let narrow = |x: &i64| {
        i32::try_from(*x).map_err(|_| Error::invalid(format!("{x} does not fit an int32; ask for int64 (out_type)")))
    };
    match dtype {
        DType::I32 => {
            let v = values.iter().map(narrow).collect::<Result<SmallVec<[i32; 8]>>>()?;
            Ok(Tensor::vector(&v[..]))
        }
        DType::I16 => {
            let v: Vec<i16> = values.iter().filter_map(|x| i16::try_from(*x).ok()).collect();
            if v.len() != values.len() {
                return Err(Error::invalid("a value does not fit an int16"));
            }
            Ok(Tensor::vector(&v))
        }
        _ => Ok(Tensor::vector(values)),
    }
}

/// A constant integer vector of `dtype` in `g`.
pub(crate) fn index_constant(g: &Graph, dtype: DType, values: &[i64]) -> Result<Output> {
    g.constant(index_vector(dtype, values)?)
}

/// A vector of the dimensions of `x`, of dtype `dtype` (int32 or int64): a constant where they are known.
pub(crate) fn shape_of(x: &Output, dtype: DType) -> Result<Output> {
    match x.shape().to_shape() {
        Some(s) => index_constant(x.graph(), dtype, &s.to_i64()),
        None => x.graph().op("Shape").input(x).attr("out_type", dtype).output(),
    }
}

/// Elements along consecutive dimensions of an existing tensor, whose products were checked when it was made.
pub(crate) fn product(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// The shape with its axis `at` of length `n` inserted.
pub(crate) fn inserted(shape: &Shape, at: usize, n: usize) -> Shape {
    shape.with_replaced(at, 0, &[n])
}

/// A partial shape with an axis inserted.
pub(crate) fn inserted_partial(shape: &PartialShape, at: usize, n: Option<usize>) -> PartialShape {
    match shape.dims() {
        Some(d) => {
            let mut d = d.to_vec();
            d.insert(at.min(d.len()), n);
            PartialShape::new(d)
        }
        None => PartialShape::UNKNOWN,
    }
}

/// A rank that follows from the length of a vector, if a tensor can have it.
pub(crate) fn checked_rank(rank: usize) -> Result<usize> {
    match rank <= MAX_RANK {
        true => Ok(rank),
        false => Err(Error::invalid(format!("rank {rank} exceeds the limit of {MAX_RANK}"))),
    }
}
