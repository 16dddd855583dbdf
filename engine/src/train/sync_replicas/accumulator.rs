//! Conditional accumulators of a graph, dense and sparse.

use actorflow_core::gradient::{Grad, IndexedSlices};
use actorflow_core::{DType, Error, Graph, Operation, Output, PartialShape, Result, Tensor};

use crate::train::variable::Variable;

/// An accumulator, which adds up what is pushed until it is taken.
#[derive(Debug, Clone)]
pub(super) struct Accumulator {
    handle: Output,
    dtype: DType,
    shape: PartialShape,
    sparse: bool,
}

impl Accumulator {
    fn new(g: &Graph, name: &str, dtype: DType, shape: PartialShape, sparse: bool) -> Result<Accumulator> {
        let op = match sparse {
            true => "SparseConditionalAccumulator",
            false => "ConditionalAccumulator",
        };
        let b = g.op(op).attr("dtype", dtype).attr("shape", shape.clone());
        let b = b.attr("shared_name", name).attr("reduction_type", "SUM");
        Ok(Accumulator {
            handle: b.output()?,
            dtype,
            shape,
            sparse,
        })
    }

    /// One of numbers, which counts.
    pub(super) fn counter(g: &Graph, name: &str) -> Result<Accumulator> {
        Accumulator::new(g, name, DType::F32, PartialShape::scalar(), false)
    }

    /// One for the gradients of a variable, beside it.
    pub(super) fn of(variable: &Variable, grad: &Grad, name: &str) -> Result<Accumulator> {
        let g = variable.handle().graph();
        let _place = g.colocate_with(&variable.handle().op())?;
        let sparse = matches!(grad, Grad::Slices(_));
        Accumulator::new(g, name, variable.dtype(), variable.shape().clone(), sparse)
    }

    fn graph(&self) -> &Graph {
        self.handle.graph()
    }

    /// An operation that sets the step, so that what was computed at an earlier one is dropped.
    pub(super) fn set_step(&self, step: &Output) -> Result<Operation> {
        let _place = self.graph().colocate_with(&self.handle.op())?;
        let b = self.graph().op("AccumulatorSetGlobalStep").input(&self.handle);
        b.input(&step.cast(DType::I64)?).finish()
    }

    /// The gradient where the accumulator is.
    pub(super) fn brought(&self, grad: &Grad) -> Result<Grad> {
        let _place = self.graph().colocate_with(&self.handle.op())?;
        match (grad, self.sparse) {
            (Grad::Dense(x), false) => Ok(Grad::Dense(x.identity()?)),
            (Grad::Slices(s), true) => Ok(Grad::Slices(IndexedSlices {
                values: s.values.identity()?,
                indices: s.indices.cast(DType::I64)?.identity()?,
                dense_shape: s.dense_shape.clone(),
            })),
            _ => Err(Error::invalid(format!(
                "the gradient for accumulator {} is sparse for one replica and dense for another one",
                self.handle.name()
            ))),
        }
    }

    /// An operation that adds a gradient which was computed at a step (int64), unless that is past.
    pub(super) fn push(&self, grad: &Grad, step: &Output) -> Result<Operation> {
        let _place = self.graph().colocate_with(&self.handle.op())?;
        let g = self.graph();
        match grad {
            Grad::Dense(x) => {
                let b = g.op("AccumulatorApplyGradient").input(&self.handle);
                b.input(step).input(x).finish()
            }
            Grad::Slices(s) => {
                let unknown = g.constant(Tensor::from_slice([0], &[] as &[i64])?)?;
                let b = g.op("SparseAccumulatorApplyGradient").input(&self.handle);
                let b = b.input(step).input(&s.indices).input(&s.values).input(&unknown);
                b.attr("has_known_shape", false).finish()
            }
        }
    }

    /// Counts one.
    pub(super) fn count(&self, step: &Output) -> Result<Operation> {
        let one = self.graph().constant(1f32)?;
        self.push(&Grad::Dense(one), step)
    }

    /// How many have been pushed since the last were taken, an int32.
    pub(super) fn pushed(&self) -> Result<Output> {
        let _place = self.graph().colocate_with(&self.handle.op())?;
        let b = self.graph().op("AccumulatorNumAccumulated").input(&self.handle);
        b.output()
    }

    /// The sum, once there are at least so many; waits until then.
    pub(super) fn take(&self, required: usize) -> Result<Grad> {
        let _place = self.graph().colocate_with(&self.handle.op())?;
        let g = self.graph();
        let n = g.constant(i32::try_from(required).unwrap_or(i32::MAX))?;
        let op = match self.sparse {
            true => "SparseAccumulatorTakeGradient",
            false => "AccumulatorTakeGradient",
        };
        let b = g.op(op).input(&self.handle).input(&n).attr("dtype", self.dtype);
        if !self.sparse {
            return Ok(Grad::Dense(b.output_shape(0, self.shape.clone()).output()?));
        }
        let rows = self.shape.with_dim(0, None);
        let taken = b.output_shape(1, rows).finish()?;
        Ok(Grad::Slices(IndexedSlices {
            indices: taken.output(0)?,
            values: taken.output(1)?,
            dense_shape: taken.output(2)?,
        }))
    }
}
