//! `QuantizedReshape`, `QuantizedConcat`: other shapes, and one tensor of several.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::range::{Integers, Quant, Reals, deliver, end, map, quantized, scalars, stored, with_range};
use crate::ops::array::concat::{join, joined_shape};
use crate::ops::array::reshape::{requested, reshape_shape};
use crate::ops::array::support::int_scalar;

fn reshape(cx: &mut OpContext<'_>) -> Result<()> {
    let shape = requested(cx)?;
    let (min, max) = (end(cx, 2, "input_min")?, end(cx, 3, "input_max")?);
    let x = cx.take_input(0)?.reshape(shape)?;
    cx.set_output(0, x);
    cx.set_output(1, Tensor::scalar(min));
    cx.set_output(2, Tensor::scalar(max));
    Ok(())
}

fn quantized_reshape() -> OpDef {
    OpDef::new("QuantizedReshape", Category::Array)
        .doc("Reshape of a quantised tensor; its range stays as it is.")
        .input("tensor: T")
        .input("shape: Tshape")
        .input("input_min: float")
        .input("input_max: float")
        .output("output: T")
        .output("output_min: float")
        .output("output_max: float")
        .attr("T: type")
        .attr("Tshape: {int32, int64} = DT_INT32")
        .shape(|cx| {
            scalars(cx, &[2, 3])?;
            let shape = reshape_shape(cx)?.swap_remove(0);
            Ok(with_range(shape))
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(reshape)))
}

/// A range that includes all of the given ones.
fn common<T: Quant>(ranges: &[(f32, f32)]) -> (f32, f32) {
    let min = ranges.iter().fold(f32::MAX, |a, r| a.min(r.0));
    let max = ranges.iter().fold(f32::MIN, |a, r| a.max(r.1));
    match T::LOWEST < 0 {
        // Zero stays in the middle of signed integers.
        true => (-min.abs().max(max.abs()), min.abs().max(max.abs())),
        false => (min, max),
    }
}

fn concat<T: Quant>(cx: &mut OpContext<'_>) -> Result<()> {
    let n = (cx.num_inputs() - 1) / 3;
    let axis = int_scalar(cx.input(0)?, "concat_dim")?;
    let ranges = (1..=n)
        .map(|i| Ok((end(cx, n + i, "input_mins")?, end(cx, 2 * n + i, "input_maxes")?)))
        .collect::<Result<Vec<_>>>()?;
    let all = common::<T>(&ranges);
    let (to, mut parts) = (Integers::of::<T>(all.0, all.1), Vec::with_capacity(n));
    for (i, range) in ranges.iter().enumerate() {
        let x = stored(cx, i + 1)?;
        let from = Reals::of::<T>(range.0, range.1);
        parts.push(match *range == all {
            true => x,
            false => map(cx, &x, |x: T| to.at::<T>(from.at(x)))?,
        });
    }
    let rank = parts[0].shape().rank();
    if axis < 0 {
        return Err(Error::invalid(format!("concat_dim must be in [0, {rank}), got {axis}")));
    }
    let sources: Vec<&Tensor> = parts.iter().collect();
    let y = join(cx, &sources, resolve_axis(axis, rank)?)?;
    deliver::<T>(cx, y, all)
}

fn concat_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    quantized!(init.output_types[0], T => Ok(Box::new(concat::<T>)), else Err(init.no_kernel()))
}

fn quantized_concat() -> OpDef {
    OpDef::new("QuantizedConcat", Category::Array)
        .doc("Joins quantised tensors along an axis, in a range that includes all of theirs.")
        .input("concat_dim: int32")
        .input("values: N * T")
        .input("input_mins: N * float32")
        .input("input_maxes: N * float32")
        .output("output: T")
        .output("output_min: float")
        .output("output_max: float")
        .attr("N: int >= 2")
        .attr("T: type")
        .shape(|cx| {
            let n = (cx.num_inputs() - 1) / 3;
            let ends: Vec<usize> = (n + 1..=3 * n).collect();
            scalars(cx, &ends)?;
            let shape: PartialShape = joined_shape(&cx.inputs()[1..=n], cx.constant_i64(0))?;
            Ok(with_range(shape))
        })
        .not_differentiable()
        .cpu(concat_kernel)
}

register_ops!(quantized_reshape, quantized_concat);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Operation, Tensor};

    fn bytes<const N: usize>(x: [u8; N]) -> Tensor {
        Tensor::from(x).bitcast(DType::QU8).unwrap()
    }

    fn concat(axis: i32) -> Operation {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let axis = c(axis.into());
        let x = [c(bytes([0, 255])), c(bytes([0, 51, 255]))];
        let b = g.op("QuantizedConcat").input(&axis).input_list(&x);
        let b = b.input_list(&[c(0f32.into()), c(0f32.into())]);
        b.input_list(&[c(255f32.into()), c(51f32.into())]).finish().unwrap()
    }

    #[test]
    fn parts_are_brought_to_a_common_range() {
        let op = concat(0);
        let y = eval(&op.output(0).unwrap()).bitcast(DType::U8).unwrap();
        assert_eq!(y.to_vec::<u8>().unwrap(), [0, 255, 0, 10, 51]);
        assert_eq!(eval(&op.output(2).unwrap()).to_scalar::<f32>().unwrap(), 255.0);
        assert!(fails(&concat(-1).output(0).unwrap()).message().contains("concat_dim"));
    }

    #[test]
    fn a_reshaped_tensor_keeps_its_range() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let b = g.op("QuantizedReshape").input(&c(bytes([1, 2, 3, 4])));
        let b = b
            .input(&c([2i32, -1].into()))
            .input(&c((-1f32).into()))
            .input(&c(1f32.into()));
        let op = b.finish().unwrap();
        let y = eval(&op.output(0).unwrap());
        assert_eq!((y.dtype(), y.shape().dims()), (DType::QU8, &[2, 2][..]));
        assert_eq!(eval(&op.output(1).unwrap()).to_scalar::<f32>().unwrap(), -1.0);
    }
}
