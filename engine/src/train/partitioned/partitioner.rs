//! Into how many parts a variable is divided.

use actorflow_core::{DType, Error, Result, Shape};

/// How many bytes an element takes; strings are counted as 16.
pub(super) fn element_size(dtype: DType) -> usize {
    match dtype {
        DType::Str => 16,
        d => d.size().max(1),
    }
}

/// How many bytes a tensor takes.
///
/// # Errors
/// `INVALID_ARGUMENT` if no computer has so many.
pub(super) fn byte_size(shape: &Shape, dtype: DType) -> Result<usize> {
    let n = shape.checked_count()?.checked_mul(element_size(dtype));
    n.ok_or_else(|| Error::invalid(format!("a tensor of shape {shape} and dtype {dtype} is too large")))
}

/// Says into how many parts a variable is divided, and along which axis.
pub trait Partitioner {
    /// The axis, and the number of parts: at least one, and at most the length of the axis (one if that is zero).
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if such a variable cannot be divided so.
    fn partition(&self, shape: &Shape, dtype: DType) -> Result<(usize, usize)>;
}

/// The length of an axis, and `number` once it is known to be positive.
fn checked(shape: &Shape, axis: usize, what: &str, number: usize) -> Result<usize> {
    if number == 0 {
        return Err(Error::invalid(format!("{what} must be positive")));
    }
    let dim = shape.dims().get(axis).copied();
    dim.ok_or_else(|| {
        Error::invalid(format!(
            "a variable of shape {shape} has no axis {axis} to be divided along"
        ))
    })
}

/// So many parts. `TensorFlow: tf.fixed_size_partitioner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedSize {
    /// The number of parts; an axis that is shorter has as many as it is long.
    pub parts: usize,
    /// The axis.
    pub axis: usize,
}

impl Partitioner for FixedSize {
    fn partition(&self, shape: &Shape, _: DType) -> Result<(usize, usize)> {
        let dim = checked(shape, self.axis, "the number of parts", self.parts)?;
        Ok((self.axis, self.parts.min(dim).max(1)))
    }
}

/// As many parts as keep each at a least size. `TensorFlow: tf.min_max_variable_partitioner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinMax {
    /// The most parts.
    pub max_parts: usize,
    /// The axis.
    pub axis: usize,
    /// The least bytes of a part; 256 KiB by default.
    pub min_bytes: usize,
}

impl MinMax {
    /// At most so many parts along the first axis.
    pub fn new(max_parts: usize) -> MinMax {
        MinMax {
            max_parts,
            axis: 0,
            min_bytes: 256 << 10,
        }
    }
}

impl Partitioner for MinMax {
    fn partition(&self, shape: &Shape, dtype: DType) -> Result<(usize, usize)> {
        checked(shape, self.axis, "the least bytes of a part", self.min_bytes)?;
        let dim = checked(shape, self.axis, "the most parts", self.max_parts)?;
        let wanted = byte_size(shape, dtype)?.div_ceil(self.min_bytes);
        Ok((self.axis, wanted.min(self.max_parts).min(dim).max(1)))
    }
}

/// As few parts as keep each below a most size. `TensorFlow: tf.variable_axis_size_partitioner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AxisSize {
    /// The most bytes of a part; a single slice may have more.
    pub max_bytes: usize,
    /// The axis.
    pub axis: usize,
    /// The most parts, whatever their size.
    pub max_parts: Option<usize>,
}

impl Partitioner for AxisSize {
    fn partition(&self, shape: &Shape, dtype: DType) -> Result<(usize, usize)> {
        checked(shape, self.axis, "the most parts", self.max_parts.unwrap_or(1))?;
        let dim = checked(shape, self.axis, "the most bytes of a part", self.max_bytes)?;
        let slice = byte_size(shape, dtype)? / dim.max(1);
        let slices = (self.max_bytes / slice.max(1)).max(1);
        let parts = dim.div_ceil(slices).max(1);
        Ok((self.axis, self.max_parts.map_or(parts, |most| parts.min(most))))
    }
}
