//! `MaxPoolWithArgmax`, `MaxPoolGradWithArgmax`, `MaxPoolGradGradWithArgmax`.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, dispatch, register_ops};

use super::super::conv::number::{room, writable};
use super::extents::{Extents, Windows};
use super::extremes;
use super::kernels::{self, same};
use super::number::{Item, Number};

#[derive(Clone, Copy, PartialEq)]
enum What {
    Largest,
    Gradient,
    Second,
}

struct Argmax<T> {
    what: What,
    windows: Windows,
    /// Whether indices count the whole batch.
    batch: bool,
    element: PhantomData<fn() -> T>,
}

impl<T: Item> Argmax<T> {
    /// The largest elements and their indices.
    fn largest(&self, cx: &OpContext<'_>) -> Result<(Tensor, Tensor)> {
        let e = self.windows.over(cx.input(0)?.shape())?;
        let device = &*cx.step().device;
        let x = T::widened(device, cx.input(0)?)?;
        let x = x.as_slice::<T::Number>()?;
        let dims = e.output(&self.windows);
        let (mut y, mut index) = (room::<T::Number>(device, dims.clone())?, room::<i64>(device, dims)?);
        let (out, index_out) = (writable::<T::Number>(&mut y)?, writable::<i64>(&mut index)?);
        if !out.is_empty() {
            let mut places = room::<u32>(device, [out.len()])?;
            extremes::places(device.parallel(), &e, x, None, writable(&mut places)?);
            let places = places.as_slice::<u32>()?;
            extremes::gather(device.parallel(), &e, places, x, out);
            let (image, c) = (e.lines_in() * e.line_in(), e.channels);
            let per = e.lines_out() * e.line_out();
            for (i, (o, p)) in index_out.iter_mut().zip(places).enumerate() {
                let base = if self.batch { i / per * image } else { 0 };
                *o = (base + *p as usize * c + i % c) as i64;
            }
        }
        Ok((T::narrowed(device, y)?, index))
    }

    fn gradient(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let (x, g, argmax) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let e: Extents = self.windows.over(x.shape())?;
        e.check_output(&self.windows, "argmax", argmax.shape())?;
        match self.what {
            What::Gradient => e.check_output(&self.windows, "a gradient", g.shape())?,
            _ => same("a gradient", g.shape(), x.shape())?,
        }
        let device = &*cx.step().device;
        let (g, indices) = (T::widened(device, g)?, argmax.to_i64_vec()?);
        let (g, at) = (g.as_slice::<T::Number>()?, (&indices[..], self.batch));
        let back = self.what == What::Gradient;
        let dims = if back {
            e.input(&self.windows)
        } else {
            e.output(&self.windows)
        };
        let mut out = room::<T::Number>(device, dims)?;
        let to = writable::<T::Number>(&mut out)?;
        match back {
            _ if to.is_empty() => {}
            _ if indices.is_empty() => to.fill(T::Number::ZERO),
            true => extremes::scatter_at(device.parallel(), &e, at, g, to)?,
            false => extremes::gather_at(device.parallel(), &e, at, g, to)?,
        }
        T::narrowed(device, out)
    }
}

impl<T: Item> Kernel for Argmax<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        if self.what != What::Largest {
            let out = self.gradient(cx)?;
            cx.set_output(0, out);
            return Ok(());
        }
        let (y, index) = self.largest(cx)?;
        cx.set_output(0, y);
        cx.set_output(1, index);
        Ok(())
    }
}

/// Turns output 1 into int32.
struct Short(Box<dyn Kernel>);

impl Kernel for Short {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let mut outs = [None, None];
        let mut ins: Vec<_> = cx.inputs().to_vec();
        let mut inner = OpContext::new(&mut ins, &mut outs, cx.step(), cx.held(), None);
        self.0.compute(&mut inner)?;
        let [y, index] = outs;
        if let (Some(y), Some(index)) = (y, index) {
            let mut short = cx.alloc(DType::I32, index.shape())?;
            for (o, i) in writable::<i32>(&mut short)?.iter_mut().zip(index.as_slice::<i64>()?) {
                *o = *i as i32;
            }
            cx.set_output(0, y);
            cx.set_output(1, short);
        }
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>, what: What) -> Result<Box<dyn Kernel>> {
    let windows = Windows::of(init.attrs, 2)?.spatial()?;
    let batch = init.attrs.bool("include_batch_in_index")?;
    let kernel: Box<dyn Kernel> = dispatch!(init.output_types[0], T in reals => {
        Box::new(Argmax::<T> { what, windows, batch, element: PhantomData })
    }, else return Err(init.no_kernel()));
    Ok(match init.output_types {
        [_, DType::I32] => Box::new(Short(kernel)),
        _ => kernel,
    })
}

fn attributes(def: OpDef) -> OpDef {
    def.attr("ksize: list(int) >= 4")
        .attr("strides: list(int) >= 4")
        .attr("padding: {'SAME', 'VALID'}")
        .attr("include_batch_in_index: bool = false")
}

fn with_argmax() -> OpDef {
    let def = OpDef::new("MaxPoolWithArgmax", Category::Nn)
        .doc("The largest element of every window, and its index in the flattened image (or batch).")
        .input("input: T")
        .output("output: T")
        .output("argmax: Targmax");
    attributes(def)
        .attr("Targmax: {int32, int64} = DT_INT64")
        .attr("T: realnumbertype")
        .shape(|cx| kernels::output(cx, 2))
        .gradient(|cx, dys| {
            let (x, argmax, dy) = (cx.input(0)?, cx.output(1)?, cx.dense(dys, 0)?);
            let b = cx
                .graph()
                .op("MaxPoolGradWithArgmax")
                .input(&x)
                .input(&dy)
                .input(&argmax);
            let batch = cx.attrs().bool("include_batch_in_index")?;
            let b = kernels::sliding(b, cx.attrs())?.attr("include_batch_in_index", batch);
            Ok(vec![Some(b.output()?.into())])
        })
        .cpu(|init| kernel(init, What::Largest))
        .sample(|s| {
            let x = s.normal([2, 4, 5, 2])?;
            s.op("MaxPoolWithArgmax")
                .input(&x)
                .attr("ksize", [1i64, 3, 2, 1])
                .attr("strides", [1i64, 2, 2, 1])
                .attr("padding", "SAME")
                .attr("include_batch_in_index", true)
                .finish()
        })
}

fn gradient_op(name: &'static str) -> OpDef {
    let def = OpDef::new(name, Category::Nn)
        .input("input: T")
        .input("grad: T")
        .input("argmax: Targmax")
        .output("output: T");
    attributes(def)
        .attr("Targmax: {int32, int64}")
        .attr("T: realnumbertype")
}

fn grad_with_argmax() -> OpDef {
    gradient_op("MaxPoolGradWithArgmax")
        .doc("The gradient of MaxPoolWithArgmax: every output's gradient added to the element that `argmax` names.")
        .shape(|cx| kernels::gradient(cx, 2))
        .cpu(|init| kernel(init, What::Gradient))
}

fn grad_grad_with_argmax() -> OpDef {
    gradient_op("MaxPoolGradGradWithArgmax")
        .doc("The gradient of MaxPoolGradWithArgmax: for every output the element that `argmax` names.")
        .shape(|cx| Ok(vec![kernels::output(cx, 2)?.remove(0).merge(&cx.input(2))?]) as Result<Vec<PartialShape>>)
        .cpu(|init| kernel(init, What::Second))
}

register_ops!(with_argmax, grad_with_argmax, grad_grad_with_argmax);
