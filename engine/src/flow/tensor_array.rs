//! Arrays of tensors for loops.

#![forbid(unsafe_code)]

use actorflow_core::{DType, Graph, Output, PartialShape, Result, Tensor};

/// How a [`TensorArray`] behaves.
#[derive(Debug, Clone, Default)]
pub struct TensorArrayOptions {
    /// Writing behind the end makes the array longer.
    pub dynamic_size: bool,
    /// Elements stay when they are read, and may be read again.
    pub keep_after_read: bool,
    /// What is known of the elements' shape.
    pub element_shape: PartialShape,
    /// All elements have one shape, so that those that were never written are zeros of it.
    pub identical_shapes: bool,
}

/// An array of tensors of one dtype, each of which is written once.
///
/// Writing gives a new value of this type, whose use comes after the writing. In a loop, [`flow`](Self::flow) is a
/// variable, and [`with_flow`](Self::with_flow) makes the array of it again; the array itself is captured.
/// `TensorFlow: tf.TensorArray`.
#[derive(Debug, Clone)]
pub struct TensorArray {
    handle: Output,
    flow: Output,
    dtype: DType,
    element_shape: PartialShape,
}

impl TensorArray {
    /// A new array of `size` (an int32 scalar) elements.
    ///
    /// # Errors
    /// If `size` is no int32 scalar.
    #[track_caller]
    pub fn new(size: &Output, dtype: DType, options: TensorArrayOptions) -> Result<TensorArray> {
        let made = size
            .graph()
            .op("TensorArrayV3")
            .input(size)
            .attr("dtype", dtype)
            .attr("element_shape", options.element_shape.clone())
            .attr("dynamic_size", options.dynamic_size)
            .attr("clear_after_read", !options.keep_after_read)
            .attr("identical_element_shapes", options.identical_shapes)
            .finish()?;
        Ok(TensorArray {
            handle: made.output(0)?,
            flow: made.output(1)?,
            dtype,
            element_shape: options.element_shape,
        })
    }

    fn graph(&self) -> &Graph {
        self.handle.graph()
    }

    /// A scalar without meaning that comes after everything done to the array so far.
    pub fn flow(&self) -> &Output {
        &self.flow
    }

    /// The same array, to be used after `flow`.
    pub fn with_flow(&self, flow: &Output) -> TensorArray {
        TensorArray {
            flow: flow.clone(),
            ..self.clone()
        }
    }

    /// The same array, of which more is known.
    pub fn with_element_shape(&self, shape: PartialShape) -> TensorArray {
        TensorArray {
            element_shape: shape,
            ..self.clone()
        }
    }

    /// Writes an element; `index` is an int32 scalar.
    ///
    /// # Errors
    /// If dtypes or shapes do not fit.
    #[track_caller]
    pub fn write(&self, index: &Output, value: &Output) -> Result<TensorArray> {
        let b = self.graph().op("TensorArrayWriteV3").input(&self.handle).input(index);
        Ok(self.with_flow(&b.input(value).input(&self.flow).output()?))
    }

    /// Reads an element; `index` is an int32 scalar.
    ///
    /// # Errors
    /// If dtypes or shapes do not fit.
    #[track_caller]
    pub fn read(&self, index: &Output) -> Result<Output> {
        let b = self.graph().op("TensorArrayReadV3").input(&self.handle).input(index);
        let b = b.input(&self.flow).attr("dtype", self.dtype);
        match self.element_shape.rank() {
            Some(_) => b.output_shape(0, self.element_shape.clone()).output(),
            None => b.output(),
        }
    }

    /// The number of elements, an int32 scalar.
    ///
    /// # Errors
    /// If the node cannot be added.
    #[track_caller]
    pub fn size(&self) -> Result<Output> {
        let b = self.graph().op("TensorArraySizeV3").input(&self.handle);
        b.input(&self.flow).output()
    }

    /// The elements at `indices`, an int32 vector, stacked.
    ///
    /// # Errors
    /// If dtypes or shapes do not fit.
    #[track_caller]
    pub fn gather(&self, indices: &Output) -> Result<Output> {
        let b = self
            .graph()
            .op("TensorArrayGatherV3")
            .input(&self.handle)
            .input(indices);
        b.input(&self.flow)
            .attr("dtype", self.dtype)
            .attr("element_shape", self.element_shape.clone())
            .output()
    }

    /// All elements, stacked.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    #[track_caller]
    pub fn stack(&self) -> Result<Output> {
        let all = count(&self.size()?)?;
        self.gather(&all)
    }

    /// Writes the rows of `values` at `indices`, an int32 vector.
    ///
    /// # Errors
    /// If dtypes or shapes do not fit.
    #[track_caller]
    pub fn scatter(&self, indices: &Output, values: &Output) -> Result<TensorArray> {
        let b = self
            .graph()
            .op("TensorArrayScatterV3")
            .input(&self.handle)
            .input(indices);
        Ok(self.with_flow(&b.input(values).input(&self.flow).output()?))
    }

    /// Writes the rows of `values` from the first element on.
    ///
    /// # Errors
    /// If dtypes or shapes do not fit.
    #[track_caller]
    pub fn unstack(&self, values: &Output) -> Result<TensorArray> {
        let all = count(&rows(values)?)?;
        let rest = values.shape().rank().map(|r| values.shape().sub(1, r));
        let known = self.with_element_shape(rest.unwrap_or_default());
        known.scatter(&all, values)
    }

    /// All elements, joined along their first dimension.
    ///
    /// # Errors
    /// If the node cannot be added.
    #[track_caller]
    pub fn concat(&self) -> Result<Output> {
        let b = self.graph().op("TensorArrayConcatV3").input(&self.handle);
        b.input(&self.flow).attr("dtype", self.dtype).output()
    }

    /// Writes parts of `value`, of these lengths (an int64 vector) along its first dimension.
    ///
    /// # Errors
    /// If dtypes or shapes do not fit.
    #[track_caller]
    pub fn split(&self, value: &Output, lengths: &Output) -> Result<TensorArray> {
        let b = self.graph().op("TensorArraySplitV3").input(&self.handle).input(value);
        Ok(self.with_flow(&b.input(lengths).input(&self.flow).output()?))
    }
}

/// The first dimension of `x`, an int32 scalar.
pub(super) fn rows(x: &Output) -> Result<Output> {
    let g = x.graph();
    match x.shape().dim(0).and_then(|n| i32::try_from(n).ok()) {
        Some(n) => g.constant(Tensor::scalar(n)),
        None => x.shape_op()?.gather(&g.constant(0i32)?, 0),
    }
}

/// `0, 1, …` below `n`, an int32 scalar.
pub(super) fn count(n: &Output) -> Result<Output> {
    let g = n.graph();
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    g.op("Range").input(&zero).input(n).input(&one).output()
}
