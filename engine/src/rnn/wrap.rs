//! Cells made of cells.

#![forbid(unsafe_code)]

use actorflow_core::{DType, Error, Output, Result};

use super::cells::{Cell, check_state};
use crate::nn::dropout;

/// Cells one above the other: the output of each is the input of the next. `TensorFlow: tf.nn.rnn_cell.MultiRNNCell`.
///
/// The state is the states of all cells, one after the other.
pub struct Stacked {
    cells: Vec<Box<dyn Cell>>,
    dtype: DType,
    outputs: usize,
}

impl Stacked {
    /// These cells, the lowest first.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` without cells, or if their dtypes differ.
    pub fn new(cells: Vec<Box<dyn Cell>>) -> Result<Self> {
        let Some(top) = cells.last() else {
            return Err(Error::invalid("a stack of cells needs at least one"));
        };
        let (dtype, outputs) = (top.dtype(), top.output_size());
        if let Some(c) = cells.iter().find(|c| c.dtype() != dtype) {
            return Err(Error::invalid(format!(
                "the cells of a stack must have one dtype, got {} and {dtype}",
                c.dtype()
            )));
        }
        Ok(Stacked { cells, dtype, outputs })
    }
}

impl Cell for Stacked {
    fn state_sizes(&self) -> Vec<usize> {
        self.cells.iter().flat_map(|c| c.state_sizes()).collect()
    }

    fn output_size(&self) -> usize {
        self.outputs
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn step(&self, x: &Output, state: &[Output]) -> Result<(Output, Vec<Output>)> {
        check_state(self, state)?;
        let (mut x, mut rest) = (x.clone(), state);
        let mut next = Vec::with_capacity(state.len());
        for c in &self.cells {
            let (own, others) = rest.split_at(c.state_sizes().len());
            let (y, s) = c.step(&x, own)?;
            next.extend(s);
            (x, rest) = (y, others);
        }
        Ok((x, next))
    }
}

/// A cell of which random inputs and outputs are left out in each step, and the others scaled up.
/// `TensorFlow: tf.nn.rnn_cell.DropoutWrapper`.
pub struct Dropout<C> {
    /// The cell.
    pub cell: C,
    /// The share of inputs that are left out.
    pub input_rate: f64,
    /// The share of outputs that are left out.
    pub output_rate: f64,
    /// The ops' seed; the graph's alone decides without one.
    pub seed: Option<i64>,
}

impl<C: Cell> Cell for Dropout<C> {
    fn state_sizes(&self) -> Vec<usize> {
        self.cell.state_sizes()
    }

    fn output_size(&self) -> usize {
        self.cell.output_size()
    }

    fn dtype(&self) -> DType {
        self.cell.dtype()
    }

    fn step(&self, x: &Output, state: &[Output]) -> Result<(Output, Vec<Output>)> {
        let x = dropout(x, self.input_rate, self.seed)?;
        let (y, next) = self.cell.step(&x, state)?;
        // Of another seed than the inputs.
        let y = dropout(&y, self.output_rate, self.seed.map(|s| s.wrapping_add(1)))?;
        Ok((y, next))
    }
}

/// A cell to whose output its input is added; both are equally wide. `TensorFlow: tf.nn.rnn_cell.ResidualWrapper`.
pub struct Residual<C>(
    /// The cell.
    pub C,
);

impl<C: Cell> Cell for Residual<C> {
    fn state_sizes(&self) -> Vec<usize> {
        self.0.state_sizes()
    }

    fn output_size(&self) -> usize {
        self.0.output_size()
    }

    fn dtype(&self) -> DType {
        self.0.dtype()
    }

    fn step(&self, x: &Output, state: &[Output]) -> Result<(Output, Vec<Output>)> {
        let (y, next) = self.0.step(x, state)?;
        if x.shape().dim(1).is_some_and(|n| n != self.output_size()) {
            return Err(Error::invalid(format!(
                "a residual cell needs inputs as wide as its outputs; {} has shape {}, the outputs are {} wide",
                x.name(),
                x.shape(),
                self.output_size()
            )));
        }
        Ok((y.plus(x)?, next))
    }
}
