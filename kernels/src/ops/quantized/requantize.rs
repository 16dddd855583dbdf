//! `Requantize`, `RequantizationRange`, their forms for channels, `QuantizeDownAndShrinkRange`: 32-bit results brought to
//! 8 bits in a range that they fill.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::range::{Integers, Quant, Reals, deliver, end, map, quantized, real, scalars, stored, with_range};
use crate::moves;

/// Bits behind the point of the fixed-point numbers.
const POINT: i64 = 16;

/// The numbers of `x` in another range, as bytes, in fixed-point arithmetic.
fn to_bytes(cx: &OpContext<'_>, x: &Tensor, (min, max): (f32, f32), to: (f32, f32)) -> Result<Tensor> {
    let one = f64::from(1 << POINT);
    let (from_range, range) = (max - min, to.1 - to.0);
    let (scale, offset) = match range == 0.0 {
        true => (0, 0),
        false => {
            let scale = 255.0 * one * f64::from(from_range) / f64::from(range);
            let reciprocal = (255.0 / f64::from(range)) as f32;
            let middle = (f64::from(min + max) / 2.0) as f32;
            let zero = one * (f64::from(to.0) * 255.0) / f64::from(range);
            (
                scale as i64,
                ((middle * reciprocal * one as f32) as i64).wrapping_sub(zero.round() as i64),
            )
        }
    };
    let offset = offset.wrapping_add(1 << (POINT - 1));
    map(cx, x, |x: i32| {
        let fixed = (i64::from(x).wrapping_mul(scale) >> 32).wrapping_add(offset);
        (fixed >> POINT).clamp(0, 255) as u8
    })
}

/// The numbers of `x` in another range.
fn converted<T: Quant, U: Quant>(cx: &OpContext<'_>, x: &Tensor, range: (f32, f32), to: (f32, f32)) -> Result<Tensor> {
    if (T::QUANTIZED, U::QUANTIZED) == (DType::QI32, DType::QU8) {
        return to_bytes(cx, x, range, to);
    }
    let (reals, integers) = (Reals::of::<T>(range.0, range.1), Integers::of::<U>(to.0, to.1));
    map(cx, x, |x: T| integers.at::<U>(reals.at(x)))
}

fn requantize<T: Quant, U: Quant>(cx: &mut OpContext<'_>) -> Result<()> {
    let range = (end(cx, 1, "input_min")?, end(cx, 2, "input_max")?);
    let to = (end(cx, 3, "requested_output_min")?, end(cx, 4, "requested_output_max")?);
    if !(to.0 <= 0.0 && to.1 >= 0.0) {
        return Err(Error::invalid(format!(
            "the requested range must include 0: requested_output_min is {}, requested_output_max {}",
            to.0, to.1
        )));
    }
    let y = converted::<T, U>(cx, &stored(cx, 0)?, range, to)?;
    deliver::<U>(cx, y, to)
}

/// What the elements span, with zero.
fn span<T: Quant>(cx: &OpContext<'_>, x: &Tensor) -> Result<(f32, f32)> {
    let (min, max) = (end(cx, 1, "input_min")?, end(cx, 2, "input_max")?);
    let first = (T::narrow(T::HIGHEST), T::narrow(T::LOWEST));
    let (low, high) = x
        .as_slice::<T>()?
        .iter()
        .fold(first, |(low, high), x| (low.min(*x), high.max(*x)));
    Ok((0f32.min(real(low, min, max)), real(high, min, max)))
}

fn range<T: Quant>(cx: &mut OpContext<'_>) -> Result<()> {
    let (min, max) = span::<T>(cx, &stored(cx, 0)?)?;
    cx.set_output(0, Tensor::scalar(min));
    cx.set_output(1, Tensor::scalar(max));
    Ok(())
}

fn shrink<T: Quant, U: Quant>(cx: &mut OpContext<'_>) -> Result<()> {
    let x = stored(cx, 0)?;
    let to = span::<T>(cx, &x)?;
    let range = (end(cx, 1, "input_min")?, end(cx, 2, "input_max")?);
    let y = converted::<T, U>(cx, &x, range, to)?;
    deliver::<U>(cx, y, to)
}

/// The greatest numbers of the ranges of channels.
fn channel_ends(cx: &OpContext<'_>) -> Result<Vec<f32>> {
    let (min, max) = (cx.input(1)?, cx.input(2)?);
    if min.len() != max.len() {
        return Err(Error::invalid(format!(
            "input_min and input_max must have as many elements, got shapes {} and {}",
            min.shape(),
            max.shape()
        )));
    }
    let both = min.as_slice::<f32>()?.iter().zip(max.as_slice::<f32>()?);
    Ok(both.map(|(a, b)| a.abs().max(b.abs())).collect())
}

/// Checks that the last dimension of input 0 is that of the channels, and gives it.
fn channels(x: &Tensor, ends: &[f32]) -> Result<usize> {
    match x.shape().dims() {
        [.., n] if *n == ends.len() => Ok(*n),
        _ => Err(Error::invalid(format!(
            "input of shape {} must have as many channels as there are ranges, {}",
            x.shape(),
            ends.len()
        ))),
    }
}

/// 2^31, which the ends of 32-bit ranges stand for.
const HALF: f32 = 2_147_483_648.0;

fn requantize_channels<U: Quant>(cx: &mut OpContext<'_>) -> Result<()> {
    let ends = channel_ends(cx)?;
    let to = (end(cx, 3, "requested_output_min")?, end(cx, 4, "requested_output_max")?);
    if U::LOWEST < 0 && to.0 >= 0.0 {
        return Err(Error::invalid(format!(
            "with qint8 results requested_output_min must be negative, got {}",
            to.0
        )));
    }
    let x = stored(cx, 0)?;
    let n = channels(&x, &ends)?;
    let most = to.0.abs().max(to.1.abs());
    let scales: Vec<f32> = ends.iter().map(|e| U::HIGHEST as f32 * (e / most / HALF)).collect();
    let (from, shape) = (x.as_slice::<i32>()?, x.shape().clone());
    let mut y = cx.alloc(U::DTYPE, &shape)?;
    let out = y.as_mut_slice::<U>().unwrap_or(&mut []);
    moves::par_chunks(cx.parallel(), out, |at, out| {
        for (i, (o, x)) in out.iter_mut().zip(&from[at..]).enumerate() {
            let x = *x as f32 * scales[(at + i) % n];
            *o = U::narrow((x.round_ties_even() as i64).clamp(U::LOWEST, U::HIGHEST));
        }
    });
    deliver::<U>(cx, y, to)
}

fn range_of_channels(cx: &mut OpContext<'_>, clip: f32) -> Result<()> {
    let ends = channel_ends(cx)?;
    let x = stored(cx, 0)?;
    if x.is_empty() || x.shape().rank() != 4 {
        return Err(Error::invalid(format!(
            "input must be images in NHWC format, not empty, got shape {}",
            x.shape()
        )));
    }
    let n = channels(&x, &ends)?;
    let x = x.as_slice::<i32>()?;
    let mut most = f32::MIN_POSITIVE;
    for (c, end) in ends.iter().enumerate() {
        let greatest = x[c..].iter().step_by(n).map(|x| x.unsigned_abs()).max().unwrap_or(0);
        most = most.max(end * greatest as f32 / HALF);
    }
    let most = if most > clip { clip } else { most };
    let min = if x.iter().any(|x| *x < 0) { -most } else { 0.0 };
    cx.set_output(0, Tensor::scalar(min));
    cx.set_output(1, Tensor::scalar(most));
    Ok(())
}

/// A kernel for the types of the input and of output 0.
macro_rules! between {
    ($init:expr, $run:ident) => {
        quantized!($init.input_types[0], T => quantized!($init.output_types[0], U => Ok(Box::new($run::<T, U>)),
            else Err($init.no_kernel())), else Err($init.no_kernel()))
    };
}

fn requantize_op() -> OpDef {
    OpDef::new("Requantize", Category::Math)
        .doc("Quantised numbers in another range, which includes zero, and another type.")
        .input("input: Tinput")
        .input("input_min: float")
        .input("input_max: float")
        .input("requested_output_min: float")
        .input("requested_output_max: float")
        .output("output: out_type")
        .output("output_min: float")
        .output("output_max: float")
        .attr("Tinput: quantizedtype")
        .attr("out_type: quantizedtype")
        .shape(|cx| {
            scalars(cx, &[1, 2, 3, 4])?;
            Ok(with_range(cx.input(0)))
        })
        .not_differentiable()
        .cpu(|init: &KernelInit<'_>| -> Result<Box<dyn Kernel>> { between!(init, requantize) })
}

fn requantization_range() -> OpDef {
    OpDef::new("RequantizationRange", Category::Math)
        .doc("The range that quantised numbers fill, zero included at its lower end.")
        .input("input: Tinput")
        .input("input_min: float")
        .input("input_max: float")
        .output("output_min: float")
        .output("output_max: float")
        .attr("Tinput: quantizedtype")
        .shape(|cx| {
            scalars(cx, &[1, 2])?;
            Ok(vec![PartialShape::scalar(); 2])
        })
        .not_differentiable()
        .cpu(|init| quantized!(init.input_types[0], T => Ok(Box::new(range::<T>)), else Err(init.no_kernel())))
}

fn quantize_down() -> OpDef {
    OpDef::new("QuantizeDownAndShrinkRange", Category::Math)
        .doc("Quantised numbers in the range that they fill, and another type.")
        .input("input: Tinput")
        .input("input_min: float")
        .input("input_max: float")
        .output("output: out_type")
        .output("output_min: float")
        .output("output_max: float")
        .attr("Tinput: quantizedtype")
        .attr("out_type: quantizedtype")
        .shape(|cx| {
            scalars(cx, &[1, 2])?;
            Ok(with_range(cx.input(0)))
        })
        .not_differentiable()
        .cpu(|init: &KernelInit<'_>| -> Result<Box<dyn Kernel>> { between!(init, shrink) })
}

/// Checks the ranges of channels, one for each.
fn channel_shapes(cx: &ShapeContext<'_>) -> Result<()> {
    let x = cx.input(0);
    let last = x.rank().and_then(|r| x.dim(r.checked_sub(1)?));
    for i in [1, 2] {
        cx.input(i).with_rank(1)?.merge(&PartialShape::vector(last))?;
    }
    Ok(())
}

fn requantize_per_channel() -> OpDef {
    OpDef::new("RequantizePerChannel", Category::Math)
        .doc("32-bit quantised numbers, every channel in a range of its own, in one range of 8 bits.")
        .input("input: T")
        .input("input_min: float")
        .input("input_max: float")
        .input("requested_output_min: float")
        .input("requested_output_max: float")
        .output("output: out_type")
        .output("output_min: float")
        .output("output_max: float")
        .attr("T: quantizedtype = DT_QINT32")
        .attr("out_type: quantizedtype = DT_QUINT8")
        .shape(|cx| {
            channel_shapes(cx)?;
            scalars(cx, &[3, 4])?;
            Ok(with_range(cx.input(0)))
        })
        .not_differentiable()
        .cpu(|init| match (init.input_types[0], init.output_types[0]) {
            (DType::QI32, DType::QU8) => Ok(Box::new(requantize_channels::<u8>)),
            (DType::QI32, DType::QI8) => Ok(Box::new(requantize_channels::<i8>)),
            _ => Err(init.no_kernel()),
        })
}

fn range_per_channel() -> OpDef {
    OpDef::new("RequantizationRangePerChannel", Category::Math)
        .doc("The range, up to `clip_value_max`, that images fill whose channels have ranges of their own.")
        .input("input: T")
        .input("input_min: float")
        .input("input_max: float")
        .output("output_min: float")
        .output("output_max: float")
        .attr("T: quantizedtype = DT_QINT32")
        .attr("clip_value_max: float")
        .shape(|cx| {
            channel_shapes(cx)?;
            Ok(vec![PartialShape::scalar(); 2])
        })
        .not_differentiable()
        .cpu(|init| {
            let clip = init.attrs.float("clip_value_max")?;
            match init.input_types[0] {
                DType::QI32 => Ok(Box::new(move |cx: &mut OpContext<'_>| range_of_channels(cx, clip))),
                _ => Err(init.no_kernel()),
            }
        })
}

register_ops!(
    requantize_op,
    requantization_range,
    quantize_down,
    requantize_per_channel,
    range_per_channel
);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Operation, Output, Tensor};

    /// 32-bit numbers in a range of -2^31 to 2^31: integers stand for themselves.
    fn wide(g: &Graph, shape: &[usize], values: &[i32]) -> [Output; 3] {
        let x = Tensor::from_slice(shape, values).unwrap().bitcast(DType::QI32).unwrap();
        let end = 2_147_483_648f32;
        [x, (-end).into(), end.into()].map(|t| g.constant(t).unwrap())
    }

    fn scalar(op: &Operation, i: usize) -> f32 {
        eval(&op.output(i).unwrap()).to_scalar().unwrap()
    }

    #[test]
    fn results_fill_the_range_that_they_are_brought_to() {
        let g = Graph::new();
        let x = wide(&g, &[4], &[-(1 << 24), 0, 1 << 24, 3 << 24]);
        let with = |op: &str| x.iter().fold(g.op(op), |b, i| b.input(i));
        let range = with("RequantizationRange").finish().unwrap();
        let (low, high) = (scalar(&range, 0), scalar(&range, 1));
        assert!(
            (low + 16777216.0).abs() < 2.0 && (high - 50331648.0).abs() < 4.0,
            "{low} {high}"
        );
        let b = with("Requantize")
            .input(&range.output(0).unwrap())
            .input(&range.output(1).unwrap());
        let y = b.attr("out_type", DType::QU8).finish().unwrap();
        let shrunk = with("QuantizeDownAndShrinkRange")
            .attr("out_type", DType::QU8)
            .finish()
            .unwrap();
        for op in [y, shrunk] {
            let y = eval(&op.output(0).unwrap()).bitcast(DType::U8).unwrap();
            assert_eq!(y.to_vec::<u8>().unwrap(), [0, 64, 128, 255]);
        }
    }

    #[test]
    fn a_requested_range_includes_zero() {
        let g = Graph::new();
        let x = wide(&g, &[1], &[5]);
        let one = g.constant(1f32).unwrap();
        let b = x
            .iter()
            .fold(g.op("Requantize"), |b, i| b.input(i))
            .input(&one)
            .input(&one);
        let e = fails(&b.attr("out_type", DType::QI8).finish().unwrap().output(0).unwrap());
        assert!(e.message().contains("must include 0"), "{e}");
    }

    #[test]
    fn channels_have_ranges_of_their_own() {
        let g = Graph::new();
        let values = [1 << 30, 1 << 30, -(1 << 30), 1 << 29];
        let x = wide(&g, &[1, 1, 2, 2], &values)[0].clone();
        let c = |t: Tensor| g.constant(t).unwrap();
        let (min, max) = (c([-1f32, -2.0].into()), c([1f32, 2.0].into()));
        let range = g.op("RequantizationRangePerChannel").input(&x).input(&min).input(&max);
        let range = range.attr("clip_value_max", 100f32).finish().unwrap();
        assert_eq!((scalar(&range, 0), scalar(&range, 1)), (-1.0, 1.0));
        let b = g.op("RequantizePerChannel").input(&x).input(&min).input(&max);
        let b = b.input(&range.output(0).unwrap()).input(&range.output(1).unwrap());
        let y = b.attr("out_type", DType::QI8).finish().unwrap().output(0).unwrap();
        let y = eval(&y).bitcast(DType::I8).unwrap();
        assert_eq!(y.to_vec::<i8>().unwrap(), [64, 127, -64, 64]);
    }
}
