//! `QuantizedMaxPool`, `QuantizedAvgPool`: pools of quantised images, whose range stays as it is.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Tensor, register_ops};

use super::super::conv::number::{room, writable};
use super::extents::Windows;
use super::number::{Item, given, taken};
use super::{averages, extremes, kernels};
use crate::ops::quantized::range::{Quant, deliver, ends, map, scalars, stored, with_range};

fn largest<T: Quant + Item>(cx: &OpContext<'_>, w: &Windows, x: &Tensor) -> Result<Tensor> {
    let e = w.over(x.shape())?;
    let device = &*cx.step().device;
    let x = taken::<T>(cx, x, &w.to_last())?;
    let mut y = room::<T::Number>(device, e.output(w))?;
    let out = writable::<T::Number>(&mut y)?;
    if !out.is_empty() {
        extremes::largest(device.parallel(), &e, x.as_slice::<T::Number>()?, out);
    }
    given::<T>(cx, y, &w.back())
}

/// Means without their fraction. Sums of bytes are exact in double.
fn means<T: Quant>(cx: &OpContext<'_>, w: &Windows, x: &Tensor) -> Result<Tensor> {
    let e = w.over(x.shape())?;
    let device = &*cx.step().device;
    let x = map(cx, x, |x: T| x.wide() as f64)?;
    let mut y = room::<f64>(device, e.output(w))?;
    let out = writable::<f64>(&mut y)?;
    if !out.is_empty() {
        averages::means(device.parallel(), &e, x.as_slice::<f64>()?, out);
    }
    map(cx, &y, |y: f64| T::narrow(y as i64))
}

fn run<T: Quant + Item>(cx: &mut OpContext<'_>, w: &Windows, mean: bool) -> Result<()> {
    let range = ends(cx, 1, "input")?;
    let x = stored(cx, 0)?;
    let y = match mean {
        true => means::<T>(cx, w, &x)?,
        false => largest::<T>(cx, w, &x)?,
    };
    deliver::<T>(cx, y, range)
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let mean = init.op == MEAN;
    let w = Windows::of(init.attrs, 2)?.spatial()?;
    match init.input_types[0] {
        DType::QU8 => Ok(Box::new(move |cx: &mut OpContext<'_>| run::<u8>(cx, &w, mean))),
        DType::QI8 => Ok(Box::new(move |cx: &mut OpContext<'_>| run::<i8>(cx, &w, mean))),
        _ => Err(init.no_kernel()),
    }
}

/// The operation that averages.
const MEAN: &str = "QuantizedAvgPool";

fn pool(name: &'static str, doc: &'static str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .doc(doc)
        .input("input: T")
        .input("min_input: float")
        .input("max_input: float")
        .output("output: T")
        .output("min_output: float")
        .output("max_output: float")
        .attr("T: quantizedtype")
        .attr("ksize: list(int)")
        .attr("strides: list(int)")
        .attr("padding: {'SAME', 'VALID'}")
        .shape(|cx| {
            scalars(cx, &[1, 2])?;
            Ok(with_range(kernels::output(cx, 2)?.swap_remove(0)))
        })
        .not_differentiable()
        .cpu(kernel)
}

fn max_pool() -> OpDef {
    pool("QuantizedMaxPool", "The largest element of every window, quantised.")
}

fn avg_pool() -> OpDef {
    pool(MEAN, "The mean of every window, quantised, its fraction dropped.")
}

register_ops!(max_pool, avg_pool);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Tensor};

    #[test]
    fn windows_are_pooled_as_integers() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let x = Tensor::from_slice([1, 2, 3, 1], &[1u8, 255, 9, 4, 7, 20]).unwrap();
        let x = c(x.bitcast(DType::QU8).unwrap());
        let ends = [c((-1f32).into()), c(1f32.into())];
        let pooled = |op: &str| {
            let b = g.op(op).input(&x).input(&ends[0]).input(&ends[1]);
            let b = b.attr("ksize", [1i64, 2, 2, 1]).attr("strides", [1i64, 2, 2, 1]);
            let op = b.attr("padding", "SAME").finish().unwrap();
            assert_eq!(eval(&op.output(1).unwrap()).to_scalar::<f32>().unwrap(), -1.0);
            let y = eval(&op.output(0).unwrap()).bitcast(DType::U8).unwrap();
            (y.shape().dims().to_vec(), y.to_vec::<u8>().unwrap())
        };
        assert_eq!(pooled("QuantizedMaxPool"), (vec![1, 1, 2, 1], vec![255, 20]));
        assert_eq!(pooled("QuantizedAvgPool"), (vec![1, 1, 2, 1], vec![66, 14]));
    }
}
