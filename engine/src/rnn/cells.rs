//! What a cell is, and the cells without memory beside their output.

#![forbid(unsafe_code)]

use actorflow_core::{DType, Error, Graph, Output, Result, Tensor};

use crate::train::init::{Constant, Initializer, VarianceScaling, Zeros};
use crate::train::variable::GraphVariables;

/// One step of a recurrent network.
pub trait Cell {
    /// The widths of the parts of the state; part `i` has the shape `[batch, state_sizes()[i]]`.
    fn state_sizes(&self) -> Vec<usize>;

    /// The width of the output, whose shape is `[batch, output_size()]`.
    fn output_size(&self) -> usize;

    /// The dtype of the cell's weights, and so of inputs, outputs and states.
    fn dtype(&self) -> DType;

    /// Adds the nodes of a step: from the input `[batch, features]` and the state the output and the next state.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if dtypes or shapes do not fit.
    fn step(&self, x: &Output, state: &[Output]) -> Result<(Output, Vec<Output>)>;

    /// A state of zeros for `batch` (an int32 scalar) sequences.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    fn zero_state(&self, batch: &Output) -> Result<Vec<Output>> {
        let g = batch.graph();
        let sizes = self.state_sizes();
        sizes.into_iter().map(|n| zeros(g, batch, n, self.dtype())).collect()
    }
}

/// Zeros of shape `[batch, n]`.
pub(super) fn zeros(g: &Graph, batch: &Output, n: usize, dtype: DType) -> Result<Output> {
    let n = i32::try_from(n).map_err(|_| Error::invalid(format!("a state cannot be {n} wide")))?;
    let shape = g.stack(&[batch.clone(), g.constant(n)?], 0)?;
    shape.fill_with(&g.constant(Tensor::zeros(dtype, [])?)?)
}

/// A trainable variable, in the scope that is open; its value.
pub(super) fn weight(
    g: &Graph,
    name: &str,
    shape: impl Into<actorflow_core::Shape>,
    initializer: impl Initializer,
) -> Result<Output> {
    // A cell may be made where a loop's body is being written; its weights are outside of it in any case.
    let _outside = g.context_scope(None);
    Ok(g.get_variable(name, shape, initializer)?.value().clone())
}

pub(super) fn glorot() -> VarianceScaling {
    VarianceScaling::glorot_uniform(None)
}

/// The widths of a matrix of weights.
///
/// # Errors
/// `INVALID_ARGUMENT` unless it is a matrix of known shape.
pub(super) fn matrix(what: &str, w: &Output) -> Result<[usize; 2]> {
    match w.shape().to_shape().as_ref().map(actorflow_core::Shape::dims) {
        Some([rows, columns]) => Ok([*rows, *columns]),
        _ => Err(Error::invalid(format!(
            "{what} must be a matrix of known shape; {} has shape {}",
            w.name(),
            w.shape()
        ))),
    }
}

/// Fails unless a state has as many parts as the cell's.
pub(super) fn check_state(cell: &dyn Cell, state: &[Output]) -> Result<()> {
    let sizes = cell.state_sizes();
    if state.len() != sizes.len() {
        return Err(Error::invalid(format!(
            "the cell's state has {} parts (of widths {sizes:?}), got {}",
            sizes.len(),
            state.len()
        )));
    }
    for (i, (s, n)) in state.iter().zip(sizes).enumerate() {
        let fits = match s.shape().dims() {
            None => true,
            Some([_, width]) => width.is_none_or(|w| w == n),
            Some(_) => false,
        };
        if !fits || s.dtype() != cell.dtype() {
            return Err(Error::invalid(format!(
                "part {i} of the state must be {} of shape [?,{n}]; {} is {} of shape {}",
                cell.dtype(),
                s.name(),
                s.dtype(),
                s.shape()
            )));
        }
    }
    Ok(())
}

/// `[x, h] · kernel + bias`
pub(super) fn affine(x: &Output, h: &Output, kernel: &Output, bias: &Output) -> Result<Output> {
    let both = x.graph().concat(&[x.clone(), h.clone()], 1)?;
    both.matmul(kernel)?.bias_add(bias)
}

/// `n` equal parts of a matrix, side by side.
pub(super) fn parts(x: &Output, n: i64) -> Result<Vec<Output>> {
    let g = x.graph();
    let one = g.constant(1i32)?;
    Ok(g.op("Split")
        .input(&one)
        .input(x)
        .attr("num_split", n)
        .finish()?
        .outputs())
}

/// The simplest cell: `h' = tanh([x, h] · kernel + bias)`. `TensorFlow: tf.nn.rnn_cell.BasicRNNCell`.
#[derive(Debug, Clone)]
pub struct BasicRnn {
    kernel: Output,
    bias: Output,
    units: usize,
}

impl BasicRnn {
    /// A cell with trainable variables `name/kernel` (Glorot uniform) and `name/bias` (zeros).
    ///
    /// # Errors
    /// If the nodes cannot be added.
    pub fn new(g: &Graph, name: &str, features: usize, units: usize) -> Result<Self> {
        let _scope = g.name_scope(name);
        let kernel = weight(g, "kernel", [features + units, units], glorot())?;
        Self::with_weights(&kernel, &weight(g, "bias", [units], Zeros)?)
    }

    /// A cell with these weights: `kernel` `[features + units, units]`, `bias` `[units]`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the kernel is no matrix of known shape.
    pub fn with_weights(kernel: &Output, bias: &Output) -> Result<Self> {
        Ok(BasicRnn {
            units: matrix("the kernel of a cell", kernel)?[1],
            kernel: kernel.clone(),
            bias: bias.clone(),
        })
    }
}

impl Cell for BasicRnn {
    fn state_sizes(&self) -> Vec<usize> {
        vec![self.units]
    }

    fn output_size(&self) -> usize {
        self.units
    }

    fn dtype(&self) -> DType {
        self.kernel.dtype()
    }

    fn step(&self, x: &Output, state: &[Output]) -> Result<(Output, Vec<Output>)> {
        check_state(self, state)?;
        let h = affine(x, &state[0], &self.kernel, &self.bias)?.tanh()?;
        Ok((h.clone(), vec![h]))
    }
}

/// The gated recurrent unit of K. Cho et al. (EMNLP 2014). `TensorFlow: tf.nn.rnn_cell.GRUCell`.
///
/// With `r, u = sigmoid([x, h] · gates + …)` and `c = tanh([x, r * h] · candidate + …)`: `h' = u * h + (1 - u) * c`.
#[derive(Debug, Clone)]
pub struct Gru {
    gates: [Output; 2],
    candidate: [Output; 2],
    units: usize,
}

impl Gru {
    /// A cell with trainable variables `name/gates/kernel`, `name/gates/bias` (ones), `name/candidate/kernel`,
    /// `name/candidate/bias` (zeros); kernels start Glorot uniform.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    pub fn new(g: &Graph, name: &str, features: usize, units: usize) -> Result<Self> {
        let _scope = g.name_scope(name);
        let wide = features + units;
        let gates = {
            let _scope = g.name_scope("gates");
            let kernel = weight(g, "kernel", [wide, 2 * units], glorot())?;
            [kernel, weight(g, "bias", [2 * units], Constant(1.0))?]
        };
        let _scope = g.name_scope("candidate");
        let kernel = weight(g, "kernel", [wide, units], glorot())?;
        Self::with_weights(gates, [kernel, weight(g, "bias", [units], Zeros)?])
    }

    /// A cell with these weights, each a kernel and a bias: the gates' `[features + units, 2 * units]` and
    /// `[2 * units]` (first reset, then update), the candidate's `[features + units, units]` and `[units]`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if a kernel is no matrix of known shape or the widths do not agree.
    pub fn with_weights(gates: [Output; 2], candidate: [Output; 2]) -> Result<Self> {
        let units = matrix("the candidate's kernel", &candidate[0])?[1];
        let wide = matrix("the gates' kernel", &gates[0])?[1];
        if Some(wide) != units.checked_mul(2) {
            return Err(Error::invalid(format!(
                "the gates' kernel of a GRU must be twice as wide as the candidate's, but they are {wide} and {units} \
                 wide"
            )));
        }
        Ok(Gru {
            gates,
            candidate,
            units,
        })
    }
}

impl Cell for Gru {
    fn state_sizes(&self) -> Vec<usize> {
        vec![self.units]
    }

    fn output_size(&self) -> usize {
        self.units
    }

    fn dtype(&self) -> DType {
        self.candidate[0].dtype()
    }

    fn step(&self, x: &Output, state: &[Output]) -> Result<(Output, Vec<Output>)> {
        check_state(self, state)?;
        let h = &state[0];
        let gates = affine(x, h, &self.gates[0], &self.gates[1])?.sigmoid()?;
        let gates = parts(&gates, 2)?;
        let (reset, update) = (&gates[0], &gates[1]);
        let c = affine(x, &reset.times(h)?, &self.candidate[0], &self.candidate[1])?.tanh()?;
        let kept = update.times(h)?;
        let next = kept.plus(&update.scalar_like(1.0)?.minus(update)?.times(&c)?)?;
        Ok((next.clone(), vec![next]))
    }
}
