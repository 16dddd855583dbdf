//! `UniformQuantize`, `UniformDequantize`, `UniformRequantize`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Shape, register_ops};

use super::{Bounds, Rescale, Scales, Slices, axis, quantized, read};
use crate::ops::quantized::range::{self, Quant, stored};
use crate::{moves, shapes};

/// Sets output 0 to integers of `T`, of which `f` computes number `i`.
pub(super) fn fill<T: Quant>(cx: &mut OpContext<'_>, shape: Shape, f: impl Fn(usize) -> i32 + Sync) -> Result<()> {
    let mut t = cx.alloc(T::DTYPE, shape)?;
    let out = t
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    moves::par_chunks(cx.parallel(), out, |at, out| {
        out.iter_mut()
            .enumerate()
            .for_each(|(i, o)| *o = T::narrow(f(at + i).into()));
    });
    cx.set_output(0, t.bitcast(T::QUANTIZED)?);
    Ok(())
}

fn quantize_all<T: Quant>(cx: &mut OpContext<'_>, along: Option<usize>, bounds: Bounds) -> Result<()> {
    let x = cx.input(0)?.clone();
    let scales = Scales::read(cx, 1, x.shape(), along)?;
    let inverse: Vec<f32> = scales.scales.iter().map(|s| 1.0 / s).collect();
    let (slices, from) = (Slices::along(x.shape(), along), x.as_slice::<f32>()?);
    fill::<T>(cx, x.shape().clone(), |i| {
        let k = slices.at(i);
        quantized(from[i], inverse[k], scales.zeros[k], bounds)
    })
}

fn quantize(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let bounds = Bounds::of(init.attrs, "")?;
    let along = axis(init.attrs, "quantization_axis")?;
    range::quantized!(init.output_types[0], T => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| quantize_all::<T>(cx, along, bounds)))
    }, else Err(init.no_kernel()))
}

fn dequantize_all<T: Quant>(cx: &mut OpContext<'_>, along: Option<usize>) -> Result<()> {
    let x = stored(cx, 0)?;
    let scales = Scales::read(cx, 1, x.shape(), along)?;
    let (slices, from) = (Slices::along(x.shape(), along), x.as_slice::<T>()?);
    let mut t = cx.alloc(DType::F32, x.shape())?;
    let out = t
        .as_mut_slice::<f32>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    moves::par_chunks(cx.parallel(), out, |at, out| {
        for (i, o) in out.iter_mut().enumerate() {
            let (scale, zero) = scales.at(slices.at(at + i));
            *o = read(from[at + i]).wrapping_sub(zero) as f32 * scale;
        }
    });
    cx.set_output(0, t);
    Ok(())
}

fn dequantize(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let along = axis(init.attrs, "quantization_axis")?;
    range::quantized!(init.input_types[0], T => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| dequantize_all::<T>(cx, along)))
    }, else Err(init.no_kernel()))
}

fn requantize_all<T: Quant>(
    cx: &mut OpContext<'_>,
    (before, after): (Option<usize>, Option<usize>),
    bounds: Bounds,
) -> Result<()> {
    let x = stored(cx, 0)?;
    let from = Scales::read(cx, 1, x.shape(), before)?;
    let to = Scales::read(cx, 3, x.shape(), after)?;
    from.positive("input")?;
    to.positive("output")?;
    let rescale = Rescale::new(&from, &to)?;
    let slices = Slices::along(x.shape(), before.or(after));
    let from = x.as_slice::<T>()?;
    fill::<i8>(cx, x.shape().clone(), |i| {
        rescale.whole(slices.at(i), read(from[i]), bounds)
    })
}

fn requantize(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let bounds = Bounds::of(init.attrs, "output_")?;
    let before = axis(init.attrs, "input_quantization_axis")?;
    let after = axis(init.attrs, "output_quantization_axis")?;
    if let (Some(a), Some(b)) = (before, after)
        && a != b
    {
        return Err(Error::invalid(format!(
            "if both input and output are quantized along an axis, it must be the same one, but these are {a} and {b}"
        )));
    }
    if init.output_types[0] != DType::QI8 {
        return Err(init.no_kernel());
    }
    range::quantized!(init.input_types[0], T => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| requantize_all::<T>(cx, (before, after), bounds)))
    }, else Err(init.no_kernel()))
}

/// Adds the attributes of a tensor's quantisation.
pub(super) fn with_attrs(def: OpDef, prefix: &str) -> OpDef {
    def.attr(&format!("{prefix}quantization_axis: int = -1"))
        .attr(&format!("{prefix}quantization_min_val: int"))
        .attr(&format!("{prefix}quantization_max_val: int"))
}

pub(super) fn operation(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Nn).not_differentiable()
}

fn uniform_quantize() -> OpDef {
    let def = operation("UniformQuantize")
        .doc("Real numbers as quantised integers: input / scale + zero point, rounded.")
        .input("input: Tin")
        .input("scales: float")
        .input("zero_points: int32")
        .output("output: Tout")
        .attr("Tin: {float}")
        .attr("Tout: {qint8, quint8, qint32}");
    with_attrs(def, "").shape(shapes::like_first).cpu(quantize)
}

fn uniform_dequantize() -> OpDef {
    let def = operation("UniformDequantize")
        .doc("Quantised integers as real numbers: (input - zero point) * scale.")
        .input("input: Tin")
        .input("scales: float")
        .input("zero_points: int32")
        .output("output: Tout")
        .attr("Tin: {qint8, quint8, qint32}")
        .attr("Tout: {float}");
    with_attrs(def, "").shape(shapes::like_first).cpu(dequantize)
}

fn uniform_requantize() -> OpDef {
    let def = operation("UniformRequantize")
        .doc("Quantised integers on another scale; the output is of qint8.")
        .input("input: Tin")
        .input("input_scales: float")
        .input("input_zero_points: int32")
        .input("output_scales: float")
        .input("output_zero_points: int32")
        .output("output: Tout")
        .attr("Tin: {qint8, qint32}")
        .attr("Tout: {qint8, qint32}");
    with_attrs(with_attrs(def, "input_"), "output_")
        .shape(shapes::like_first)
        .cpu(requantize)
}

register_ops!(uniform_quantize, uniform_dequantize, uniform_requantize);
