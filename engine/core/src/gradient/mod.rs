//! Symbolic gradients: nodes that compute derivatives are added to the graph.
//!
//! [`gradients`] walks backwards from `ys` to `xs`, as TensorFlow 1's `tf.gradients` does: each operation's
//! registered [`GradFn`] turns the gradients of its outputs into gradients of its inputs, contributions to the
//! same tensor are added up. The result is ordinary graph, so gradients can be differentiated again.
//!
//! - `path`: the nodes between xs and ys
//! - `walk`: the order in which they are visited
//! - `structure`: loops and conditionals, recovered from the nodes
//! - `choice`: gradients of conditionals
//! - `iteration`: gradients of loops, which are loops that run backwards
//! - `history`: what nodes in the gradient of a loop see of the loop
//! - `slices`, `zeros`: sparse gradients, and those of what nothing depends on

mod choice;
mod history;
mod iteration;
mod path;
mod slices;
mod structure;
mod walk;
mod zeros;

pub use slices::{Grad, IndexedSlices};
pub use walk::{GradientOptions, gradients, gradients_with};

use std::sync::Arc;

use crate::attr::Attrs;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Operation, Output};

/// The gradient of an operation: from the gradients of its outputs (`None` where nothing depends on an output) to
/// those of its inputs (`None` where there is none), in order.
pub type GradFn = fn(&GradContext, &[Option<Grad>]) -> Result<Vec<Option<Grad>>>;

/// What a gradient function sees of the operation that is differentiated.
pub struct GradContext {
    op: Operation,
    node: Arc<Node>,
}

impl GradContext {
    pub(crate) fn new(op: Operation) -> Self {
        let node = op.node();
        GradContext { op, node }
    }

    /// The graph, to which the gradient's nodes are added.
    pub fn graph(&self) -> &Graph {
        self.op.graph()
    }

    /// The operation that is differentiated.
    pub fn op(&self) -> &Operation {
        &self.op
    }

    /// Its node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its attributes.
    pub fn attrs(&self) -> &Attrs {
        self.node.attrs()
    }

    /// The number of inputs.
    pub fn num_inputs(&self) -> usize {
        self.node.inputs().len()
    }

    /// Input `i`.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such input.
    pub fn input(&self, i: usize) -> Result<Output> {
        self.op.input(i)
    }

    /// Output `i`.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such output.
    pub fn output(&self, i: usize) -> Result<Output> {
        self.op.output(i)
    }

    /// The gradient of output `i` as a dense tensor; zeros if nothing depends on it.
    ///
    /// # Errors
    /// If the zeros cannot be built.
    pub fn dense(&self, grads: &[Option<Grad>], i: usize) -> Result<Output> {
        match grads.get(i) {
            Some(Some(g)) => g.to_dense(),
            _ => self.output(i)?.zeros_like(),
        }
    }

    /// No gradient for any input.
    pub fn none(&self) -> Result<Vec<Option<Grad>>> {
        Ok(vec![None; self.num_inputs()])
    }

    /// The error of a gradient that does not exist for this form of the operation.
    pub fn unsupported(&self, why: &str) -> Error {
        Error::unimplemented(format!("the gradient of {} is not defined {why}", self.node.op_name()))
            .at_node(self.node.name(), self.node.op_name())
    }
}

/// Sums `grad` over the dimensions along which an operand was broadcast, so that it gets the operand's shape.
///
/// `x` is the operand, `y` the result's other operand (or the result itself).
///
/// # Errors
/// If the nodes cannot be added.
pub fn unbroadcast(grad: &Output, x: &Output, y: &Output) -> Result<Output> {
    let (sx, sy) = (x.shape(), y.shape());
    if let (Some(a), Some(b)) = (sx.to_shape(), sy.to_shape()) {
        if a == b {
            return Ok(grad.clone());
        }
        let rank = a.rank().max(b.rank());
        let dim = |s: &[usize], i: usize| if i + s.len() >= rank { s[i + s.len() - rank] } else { 1 };
        let axes: Vec<i64> = (0..rank)
            .filter(|&i| dim(&a, i) == 1 && dim(&b, i) != 1)
            .map(|i| i as i64)
            .collect();
        let leading = rank - a.rank();
        let mut axes_all: Vec<i64> = (0..leading as i64).collect();
        axes_all.extend(axes.into_iter().filter(|i| *i >= leading as i64));
        if axes_all.is_empty() {
            return Ok(grad.clone());
        }
        let summed = grad.sum(&axes_all, false)?;
        return summed.reshape(&a.to_i64());
    }
    let g = grad.graph();
    let (nx, ny) = (x.shape_op()?, y.shape_op()?);
    let axes = g.op("BroadcastGradientArgs").input(&nx).input(&ny).output()?;
    grad.reduce_by("Sum", &axes, false)?.reshape_to(&nx)
}
