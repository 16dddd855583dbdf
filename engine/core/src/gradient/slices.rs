//! Gradients, dense or as slices.

use crate::error::Result;
use crate::graph::Output;

/// A sparse gradient of a tensor: `values[i]` belongs to row `indices[i]`; rows may repeat and then add up.
/// TensorFlow's `IndexedSlices`.
#[derive(Debug, Clone)]
pub struct IndexedSlices {
    /// The rows: shape `[n, ...]`.
    pub values: Output,
    /// Which rows: `[n]`, int32 or int64.
    pub indices: Output,
    /// The shape of the whole tensor: an integer vector.
    pub dense_shape: Output,
}

/// The gradient of something with respect to one tensor.
#[derive(Debug, Clone)]
pub enum Grad {
    /// A tensor of the same shape.
    Dense(Output),
    /// Only some rows are not zero.
    Slices(IndexedSlices),
}

impl Grad {
    /// The gradient as a dense tensor; slices are summed into zeros.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    pub fn to_dense(&self) -> Result<Output> {
        match self {
            Grad::Dense(x) => Ok(x.clone()),
            Grad::Slices(s) => {
                let g = s.values.graph();
                let zero = g.scalar(crate::dtype::DType::I32, 0.0)?;
                let rows = s.dense_shape.gather(&zero, 0)?;
                let sum = g
                    .op("UnsortedSegmentSum")
                    .input(&s.values)
                    .input(&s.indices)
                    .input(&rows)
                    .output()?;
                sum.reshape_to(&s.dense_shape)
            }
        }
    }

    /// The tensor with the values: the dense gradient, or the rows.
    pub fn values(&self) -> &Output {
        match self {
            Grad::Dense(x) => x,
            Grad::Slices(s) => &s.values,
        }
    }

    /// The same gradient with the values replaced.
    pub fn with_values(&self, values: Output) -> Grad {
        match self {
            Grad::Dense(_) => Grad::Dense(values),
            Grad::Slices(s) => Grad::Slices(IndexedSlices { values, ..s.clone() }),
        }
    }
}

impl From<Output> for Grad {
    fn from(x: Output) -> Self {
        Grad::Dense(x)
    }
}

impl From<IndexedSlices> for Grad {
    fn from(x: IndexedSlices) -> Self {
        Grad::Slices(x)
    }
}
