//! The cell with a memory of its own.

#![forbid(unsafe_code)]

use actorflow_core::{DType, Error, Graph, Output, Result};

use super::cells::{Cell, affine, check_state, glorot, matrix, parts, weight};
use crate::train::clip::clip_by_value;
use crate::train::init::Zeros;

/// How an [`Lstm`] differs from the plain one.
#[derive(Debug, Clone)]
pub struct LstmOptions {
    /// Added to the forget gate, so that a cell that has learnt nothing remembers.
    pub forget_bias: f64,
    /// The gates see the memory too.
    pub peepholes: bool,
    /// The memory is limited to `-clip..=clip`.
    pub cell_clip: Option<f64>,
    /// The output is projected to this width.
    pub projection: Option<usize>,
    /// The projected output is limited to `-clip..=clip`.
    pub projection_clip: Option<f64>,
}

impl Default for LstmOptions {
    fn default() -> Self {
        LstmOptions {
            forget_bias: 1.0,
            peepholes: false,
            cell_clip: None,
            projection: None,
            projection_clip: None,
        }
    }
}

/// Weights `[units]` by which the gates see the memory.
#[derive(Debug, Clone)]
pub struct Peepholes {
    /// Of the input gate, to the memory before the step.
    pub input: Output,
    /// Of the forget gate, to the memory before the step.
    pub forget: Output,
    /// Of the output gate, to the memory after the step.
    pub output: Output,
}

/// Long short-term memory: S. Hochreiter, J. Schmidhuber (1997), with forget gates (F. Gers et al., 1999), and as
/// options peepholes and projections (H. Sak et al., 2014). `TensorFlow: tf.nn.rnn_cell.LSTMCell, BasicLSTMCell`.
///
/// With `i, j, f, o = [x, h] · kernel + bias`:
/// `c' = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(j)`, `h' = sigmoid(o) * tanh(c')`. The state is `[c, h]`.
#[derive(Debug, Clone)]
pub struct Lstm {
    kernel: Output,
    bias: Output,
    peepholes: Option<Peepholes>,
    projection: Option<Output>,
    units: usize,
    outputs: usize,
    options: LstmOptions,
}

impl Lstm {
    /// A cell with trainable variables `name/kernel` (Glorot uniform) and `name/bias` (zeros); as the options say also
    /// `name/w_i_diag`, `name/w_f_diag`, `name/w_o_diag` and `name/projection/kernel`.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    pub fn new(g: &Graph, name: &str, features: usize, units: usize, options: LstmOptions) -> Result<Self> {
        let _scope = g.name_scope(name);
        let outputs = options.projection.unwrap_or(units);
        let kernel = weight(g, "kernel", [features + outputs, 4 * units], glorot())?;
        let bias = weight(g, "bias", [4 * units], Zeros)?;
        let peepholes = match options.peepholes {
            false => None,
            true => Some(Peepholes {
                forget: weight(g, "w_f_diag", [units], glorot())?,
                input: weight(g, "w_i_diag", [units], glorot())?,
                output: weight(g, "w_o_diag", [units], glorot())?,
            }),
        };
        let projection = match options.projection {
            None => None,
            Some(n) => {
                let _scope = g.name_scope("projection");
                Some(weight(g, "kernel", [units, n], glorot())?)
            }
        };
        Self::with_weights(&kernel, &bias, peepholes, projection, options)
    }

    /// A cell with these weights: `kernel` `[features + outputs, 4 * units]`, `bias` `[4 * units]` (in the order input,
    /// candidate, forget, output), `projection` `[units, outputs]`. Of the options only `forget_bias` and the limits
    /// matter; the rest is as the weights are.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if kernels are no matrices of known shape or the widths do not agree.
    pub fn with_weights(
        kernel: &Output,
        bias: &Output,
        peepholes: Option<Peepholes>,
        projection: Option<Output>,
        options: LstmOptions,
    ) -> Result<Self> {
        let wide = matrix("the kernel of a cell", kernel)?[1];
        if wide % 4 != 0 {
            return Err(Error::invalid(format!(
                "the kernel of an LSTM must be four times as wide as the cell, but {} is {wide} wide",
                kernel.name()
            )));
        }
        let units = wide / 4;
        let outputs = match &projection {
            None => units,
            Some(p) => match matrix("the projection of a cell", p)? {
                [rows, n] if rows == units => n,
                _ => {
                    return Err(Error::invalid(format!(
                        "the projection of an LSTM of {units} units must have as many rows; {} has shape {}",
                        p.name(),
                        p.shape()
                    )));
                }
            },
        };
        Ok(Lstm {
            kernel: kernel.clone(),
            bias: bias.clone(),
            peepholes,
            projection,
            units,
            outputs,
            options,
        })
    }
}

fn limited(x: Output, limit: Option<f64>) -> Result<Output> {
    match limit {
        Some(l) => clip_by_value(&x, -l, l),
        None => Ok(x),
    }
}

impl Cell for Lstm {
    fn state_sizes(&self) -> Vec<usize> {
        vec![self.units, self.outputs]
    }

    fn output_size(&self) -> usize {
        self.outputs
    }

    fn dtype(&self) -> DType {
        self.kernel.dtype()
    }

    fn step(&self, x: &Output, state: &[Output]) -> Result<(Output, Vec<Output>)> {
        check_state(self, state)?;
        let (c, h) = (&state[0], &state[1]);
        let gates = parts(&affine(x, h, &self.kernel, &self.bias)?, 4)?;
        let (i, j, f, o) = (&gates[0], &gates[1], &gates[2], &gates[3]);
        let sees = |gate: &Output, w: fn(&Peepholes) -> &Output, memory: &Output| match &self.peepholes {
            Some(p) => gate.plus(&w(p).times(memory)?),
            None => Ok(gate.clone()),
        };
        let forget = sees(&(f + self.options.forget_bias)?, |p| &p.forget, c)?.sigmoid()?;
        let input = sees(i, |p| &p.input, c)?.sigmoid()?;
        let next = forget.times(c)?.plus(&input.times(&j.tanh()?)?)?;
        let next = limited(next, self.options.cell_clip)?;
        let mut out = sees(o, |p| &p.output, &next)?.sigmoid()?.times(&next.tanh()?)?;
        if let Some(p) = &self.projection {
            out = limited(out.matmul(p)?, self.options.projection_clip)?;
        }
        Ok((out.clone(), vec![next, out]))
    }
}
