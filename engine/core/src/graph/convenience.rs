//! Short ways to add the nodes that programs and gradient functions need most.
//!
//! The vocabulary crate knows operations by name only; their kernels live elsewhere.

use super::operators::number;
use super::{Graph, Operation, Output};
use crate::attr::AttrValue;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::PartialShape;
use crate::tensor::Tensor;

impl Graph {
    /// A `Const` node with this value.
    ///
    /// # Errors
    /// As [`OpBuilder::finish`](super::OpBuilder::finish).
    #[track_caller]
    pub fn constant(&self, value: impl Into<Tensor>) -> Result<Output> {
        let value = value.into();
        self.op("Const")
            .attr("dtype", value.dtype())
            .attr("value", value)
            .output()
    }

    /// A scalar constant of the given dtype.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if `x` is not a value of an integer dtype.
    #[track_caller]
    pub fn scalar(&self, dtype: DType, x: f64) -> Result<Output> {
        self.constant(number(dtype, x)?)
    }

    /// A `Placeholder`: a tensor that every run must feed.
    ///
    /// # Errors
    /// As [`OpBuilder::finish`](super::OpBuilder::finish).
    #[track_caller]
    pub fn placeholder(&self, name: &str, dtype: DType, shape: impl Into<PartialShape>) -> Result<Output> {
        self.op("Placeholder")
            .attr("dtype", dtype)
            .attr("shape", shape.into())
            .name(name)
            .output()
    }

    /// A `NoOp` that finishes after all of `ops`.
    ///
    /// # Errors
    /// As [`OpBuilder::finish`](super::OpBuilder::finish).
    #[track_caller]
    pub fn group(&self, name: &str, ops: &[Operation]) -> Result<Operation> {
        let mut b = self.op("NoOp").name(name);
        for o in ops {
            b = b.control_input(o);
        }
        b.finish()
    }

    /// `AddN`, or the tensor itself if there is just one.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the list is empty or the shapes differ.
    #[track_caller]
    pub fn add_n(&self, xs: &[Output]) -> Result<Output> {
        match xs {
            [] => Err(Error::invalid("add_n needs at least one tensor")),
            [x] => Ok(x.clone()),
            _ => self.op("AddN").input_list(xs).output(),
        }
    }

    /// `Pack`: stacks tensors of one shape along a new axis.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the list is empty or the shapes differ.
    #[track_caller]
    pub fn stack(&self, xs: &[Output], axis: i64) -> Result<Output> {
        self.op("Pack").input_list(xs).attr("axis", axis).output()
    }

    /// `ConcatV2`: joins tensors along an axis.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the list is empty or the other dimensions differ.
    #[track_caller]
    pub fn concat(&self, xs: &[Output], axis: i64) -> Result<Output> {
        let axis = self.constant(Tensor::scalar(i32::try_from(axis).unwrap_or(i32::MAX)))?;
        self.op("ConcatV2").input_list(xs).input(&axis).output()
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $fn:ident $op:literal;)*) => {
        impl Output {
            $(
            $(#[$doc])*
            ///
            /// # Errors
            /// If the dtype is not one of the operation's.
            #[track_caller]
            pub fn $fn(&self) -> Result<Output> {
                self.unary($op)
            }
            )*
        }
    };
}

unary! {
    /// `Abs`: |x|.
    abs "Abs";
    /// `Exp`: e to the power x.
    exp "Exp";
    /// `Log`: the natural logarithm.
    log "Log";
    /// `Log1p`: log(1 + x).
    log1p "Log1p";
    /// `Neg`: -x.
    negated "Neg";
    /// `Reciprocal`: 1 / x.
    reciprocal "Reciprocal";
    /// `Sqrt`.
    sqrt "Sqrt";
    /// `Rsqrt`: 1 / sqrt(x).
    rsqrt "Rsqrt";
    /// `Square`: x².
    square "Square";
    /// `Sign`: -1, 0 or 1.
    sign "Sign";
    /// `Sin`.
    sin "Sin";
    /// `Cos`.
    cos "Cos";
    /// `Tanh`.
    tanh "Tanh";
    /// `Sigmoid`: 1 / (1 + e⁻ˣ).
    sigmoid "Sigmoid";
    /// `Relu`: max(x, 0).
    relu "Relu";
    /// `Softmax` over the last dimension.
    softmax "Softmax";
    /// `LogSoftmax` over the last dimension.
    log_softmax "LogSoftmax";
    /// `Floor`.
    floor "Floor";
    /// `Conj`: the complex conjugate (of a real tensor: the tensor).
    conj_op "Conj";
    /// `Identity`.
    identity "Identity";
    /// `StopGradient`: the tensor, through which no gradient flows.
    stop_gradient "StopGradient";
    /// `ZerosLike`: zeros of the same dtype and shape.
    zeros_like "ZerosLike";
    /// `OnesLike`: ones of the same dtype and shape.
    ones_like "OnesLike";
    /// `Shape`: the shape as an int32 vector.
    shape_op "Shape";
    /// `Rank` as an int32 scalar.
    rank_op "Rank";
    /// `Size`: the number of elements, an int32 scalar.
    size_op "Size";
}

macro_rules! binary {
    ($($(#[$doc:meta])* $fn:ident $op:literal;)*) => {
        impl Output {
            $(
            $(#[$doc])*
            ///
            /// # Errors
            /// If dtypes differ or shapes do not fit.
            #[track_caller]
            pub fn $fn(&self, other: &Output) -> Result<Output> {
                self.graph().op($op).input(self).input(other).output()
            }
            )*
        }
    };
}

binary! {
    /// `AddV2`: element-wise sum, with broadcasting.
    plus "AddV2";
    /// `Sub`: element-wise difference, with broadcasting.
    minus "Sub";
    /// `Mul`: element-wise product, with broadcasting.
    times "Mul";
    /// `RealDiv`: element-wise quotient, with broadcasting.
    divided_by "RealDiv";
    /// `FloorMod`: element-wise remainder with the divisor's sign, with broadcasting.
    modulo "FloorMod";
    /// `FloorDiv`: element-wise quotient rounded down, with broadcasting.
    floor_div "FloorDiv";
    /// `Pow`, with broadcasting.
    pow "Pow";
    /// `Maximum`, with broadcasting.
    maximum "Maximum";
    /// `Minimum`, with broadcasting.
    minimum "Minimum";
    /// `Less`, with broadcasting.
    less "Less";
    /// `LessEqual`, with broadcasting.
    less_equal "LessEqual";
    /// `Greater`, with broadcasting.
    greater "Greater";
    /// `GreaterEqual`, with broadcasting.
    greater_equal "GreaterEqual";
    /// `Equal`, with broadcasting.
    equal "Equal";
    /// `NotEqual`, with broadcasting.
    not_equal "NotEqual";
    /// `LogicalAnd`, with broadcasting.
    logical_and "LogicalAnd";
    /// `LogicalOr`, with broadcasting.
    logical_or "LogicalOr";
    /// `SquaredDifference`: (x − y)², with broadcasting.
    squared_difference "SquaredDifference";
    /// `MatMul` of two matrices.
    matmul "MatMul";
    /// `Reshape` to the shape that `other`, an integer vector, holds.
    reshape_to "Reshape";
    /// `Fill`: a tensor of this shape (an integer vector) filled with a scalar.
    fill_with "Fill";
    /// `BiasAdd`: adds a vector to the last dimension.
    bias_add "BiasAdd";
}

impl Output {
    /// A node of operation `op` with this as its only input.
    ///
    /// # Errors
    /// As [`OpBuilder::finish`](super::OpBuilder::finish).
    #[track_caller]
    pub fn unary(&self, op: &str) -> Result<Output> {
        self.graph().op(op).input(self).output()
    }

    /// `MatMul` with either side transposed.
    ///
    /// # Errors
    /// If dtypes differ or shapes do not fit.
    #[track_caller]
    pub fn matmul_t(&self, other: &Output, transpose_a: bool, transpose_b: bool) -> Result<Output> {
        self.graph()
            .op("MatMul")
            .input(self)
            .input(other)
            .attr("transpose_a", transpose_a)
            .attr("transpose_b", transpose_b)
            .output()
    }

    /// `Cast` to another dtype; the tensor itself if it has it already.
    ///
    /// # Errors
    /// If there is no such cast.
    #[track_caller]
    pub fn cast(&self, to: DType) -> Result<Output> {
        if self.dtype() == to {
            return Ok(self.clone());
        }
        self.graph().op("Cast").input(self).attr("DstT", to).output()
    }

    /// `Reshape`; one dimension may be -1, which stands for what is left.
    ///
    /// # Errors
    /// If the number of elements cannot agree.
    #[track_caller]
    pub fn reshape(&self, dims: &[i64]) -> Result<Output> {
        let shape = self.graph().constant(index_vector(dims))?;
        self.reshape_to(&shape)
    }

    /// `Transpose` by a permutation of the axes; reverses them if `perm` is empty and the rank known.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the permutation does not fit.
    #[track_caller]
    pub fn transpose(&self, perm: &[i64]) -> Result<Output> {
        let perm = match (perm, self.shape().rank()) {
            ([], Some(r)) => (0..r as i64).rev().collect::<Vec<_>>(),
            ([], None) => {
                return Err(Error::invalid(
                    "transpose of a tensor of unknown rank needs a permutation",
                ));
            }
            (p, _) => p.to_vec(),
        };
        let perm = self.graph().constant(index_vector(&perm))?;
        self.graph().op("Transpose").input(self).input(&perm).output()
    }

    /// `ExpandDims`: a new axis of length 1.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the axis is out of range.
    #[track_caller]
    pub fn expand_dims(&self, axis: i64) -> Result<Output> {
        let axis = self.graph().scalar(DType::I32, axis as f64)?;
        self.graph().op("ExpandDims").input(self).input(&axis).output()
    }

    /// `Squeeze`: removes axes of length 1, all of them if `axes` is empty.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if one of them is longer.
    #[track_caller]
    pub fn squeeze(&self, axes: &[i64]) -> Result<Output> {
        self.graph()
            .op("Squeeze")
            .input(self)
            .attr("squeeze_dims", axes.to_vec())
            .output()
    }

    #[track_caller]
    fn reduce(&self, op: &str, axes: &[i64], keep_dims: bool) -> Result<Output> {
        let g = self.graph();
        let axes = if !axes.is_empty() {
            g.constant(index_vector(axes))?
        } else if let Some(r) = self.shape().rank() {
            g.constant(index_vector(&(0..r as i64).collect::<Vec<_>>()))?
        } else {
            let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
            g.op("Range")
                .input(&zero)
                .input(&self.rank_op()?)
                .input(&one)
                .output()?
        };
        self.reduce_by(op, &axes, keep_dims)
    }

    /// A reduction `op` (`Sum`, `Max`, …) over the axes that `axes`, an integer vector, holds.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if an axis is known and out of range.
    #[track_caller]
    pub fn reduce_by(&self, op: &str, axes: &Output, keep_dims: bool) -> Result<Output> {
        self.graph()
            .op(op)
            .input(self)
            .input(axes)
            .attr("keep_dims", keep_dims)
            .output()
    }

    /// `Sum` over `axes`, over all if empty.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if an axis is out of range.
    #[track_caller]
    pub fn sum(&self, axes: &[i64], keep_dims: bool) -> Result<Output> {
        self.reduce("Sum", axes, keep_dims)
    }

    /// `Mean` over `axes`, over all if empty.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if an axis is out of range.
    #[track_caller]
    pub fn mean(&self, axes: &[i64], keep_dims: bool) -> Result<Output> {
        self.reduce("Mean", axes, keep_dims)
    }

    /// `Max` over `axes`, over all if empty.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if an axis is out of range.
    #[track_caller]
    pub fn max(&self, axes: &[i64], keep_dims: bool) -> Result<Output> {
        self.reduce("Max", axes, keep_dims)
    }

    /// `Min` over `axes`, over all if empty.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if an axis is out of range.
    #[track_caller]
    pub fn min(&self, axes: &[i64], keep_dims: bool) -> Result<Output> {
        self.reduce("Min", axes, keep_dims)
    }

    /// `ArgMax` along an axis, as int64.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the axis is out of range.
    #[track_caller]
    pub fn argmax(&self, axis: i64) -> Result<Output> {
        let axis = self.graph().scalar(DType::I32, axis as f64)?;
        self.graph().op("ArgMax").input(self).input(&axis).output()
    }

    /// `GatherV2`: the slices along `axis` that `indices` names.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the axis is out of range.
    #[track_caller]
    pub fn gather(&self, indices: &Output, axis: i64) -> Result<Output> {
        let axis = self.graph().scalar(DType::I32, axis as f64)?;
        self.graph()
            .op("GatherV2")
            .input(self)
            .input(indices)
            .input(&axis)
            .output()
    }

    /// `SelectV2`: where this (a bool tensor) is true from `a`, elsewhere from `b`, with broadcasting.
    ///
    /// # Errors
    /// If dtypes differ or shapes do not broadcast.
    #[track_caller]
    pub fn select(&self, a: &Output, b: &Output) -> Result<Output> {
        self.graph().op("SelectV2").input(self).input(a).input(b).output()
    }

    /// A scalar constant of this output's dtype, in its graph.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if `x` is not a value of the dtype.
    #[track_caller]
    pub fn scalar_like(&self, x: f64) -> Result<Output> {
        self.graph().scalar(self.dtype(), x)
    }

    /// An attribute of the operation that makes this output.
    pub fn op_attr(&self, name: &str) -> Option<AttrValue> {
        self.op().attr(name)
    }
}

/// An int32 vector (int64 where a value needs it).
fn index_vector(v: &[i64]) -> Tensor {
    match v
        .iter()
        .map(|x| i32::try_from(*x))
        .collect::<std::result::Result<Vec<_>, _>>()
    {
        Ok(small) => Tensor::vector(&small),
        Err(_) => Tensor::vector(v),
    }
}
