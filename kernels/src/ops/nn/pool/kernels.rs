//! The kernels of pools of two and three dimensions, and what their definitions share.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::GradContext;
use actorflow_core::graph::{OpBuilder, ShapeContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::{Attrs, Output, PartialShape, Shape, Tensor, dispatch};

use super::super::conv::number::{room, writable};
use super::averages::{self, Real};
use super::extents::{Extents, Windows};
use super::extremes;
use super::number::{Item, Number, given, taken};
use crate::spread;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The largest elements.
    Largest,
    /// Their gradient, from input, output and the output's gradient.
    Gradient,
    /// Their gradient, and after it that of the `Relu` which the input came out of.
    RectifiedGradient,
    /// The gradient of the gradient, from input, output and what is like the input.
    Second,
    /// The means.
    Mean,
    /// Their gradient, from the input's shape and the output's gradient.
    MeanGradient,
}

impl What {
    /// The inputs before the sizes of windows, where these are inputs.
    fn inputs(self) -> usize {
        match self {
            What::Largest | What::Mean => 1,
            What::MeanGradient => 2,
            What::Gradient | What::RectifiedGradient | What::Second => 3,
        }
    }

    fn windows(self, w: Windows) -> Result<Windows> {
        if self == What::Largest { Ok(w) } else { w.spatial() }
    }
}

/// Where the sizes of windows come from.
enum Sizes {
    Attributes(Windows),
    Inputs(Attrs),
}

struct Pool<T> {
    what: What,
    sizes: Sizes,
    element: PhantomData<fn() -> T>,
}

impl<T> Pool<T> {
    /// Calls `body` with the windows.
    fn with<R>(&self, cx: &OpContext<'_>, body: impl FnOnce(&Windows) -> Result<R>) -> Result<R> {
        match &self.sizes {
            Sizes::Attributes(w) => body(w),
            Sizes::Inputs(attrs) => body(&self.what.windows(Windows::of_inputs(cx, attrs, self.what.inputs())?)?),
        }
    }
}

/// Checks that two shapes agree.
pub(super) fn same(what: &str, a: &Shape, b: &Shape) -> Result<()> {
    if a == b {
        return Ok(());
    }
    Err(Error::invalid(format!("expected {what} of shape {b}, but got {a}")))
}

impl<T: Item> Pool<T> {
    fn largest(&self, cx: &OpContext<'_>, w: &Windows) -> Result<Tensor> {
        let x = cx.input(0)?;
        let e = w.over(x.shape())?;
        let device = &*cx.step().device;
        let x = taken::<T>(cx, x, &w.to_last())?;
        let mut y = room::<T::Number>(device, e.output(w))?;
        let (x, out) = (x.as_slice::<T::Number>()?, writable::<T::Number>(&mut y)?);
        match w.depth {
            _ if out.is_empty() => {}
            1 => extremes::largest(device.parallel(), &e, x, out),
            depth => extremes::largest_of_channels(device.parallel(), x, depth, out),
        }
        given::<T>(cx, y, &w.back())
    }

    /// The places of the largest elements.
    fn places(&self, cx: &OpContext<'_>, e: &Extents, x: &Tensor, y: Option<&Tensor>, n: usize) -> Result<Tensor> {
        let device = &*cx.step().device;
        let mut places = room::<u32>(device, [n])?;
        let out = writable::<u32>(&mut places)?;
        if !out.is_empty() {
            let y = y.map(Tensor::as_slice::<T::Number>).transpose()?;
            extremes::places(device.parallel(), e, x.as_slice::<T::Number>()?, y, out);
        }
        Ok(places)
    }

    fn gradient(&self, cx: &OpContext<'_>, w: &Windows) -> Result<Tensor> {
        let (x, y, dy) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let e = w.over(x.shape())?;
        e.check_output(w, "orig_output", y.shape())?;
        e.check_output(w, "a gradient", dy.shape())?;
        let device = &*cx.step().device;
        let rectified = self.what == What::RectifiedGradient;
        let (x, dy) = (taken::<T>(cx, x, &w.to_last())?, taken::<T>(cx, dy, &w.to_last())?);
        if e.is_apart() && (e.batch >= device.parallel().threads() || x.len() < spread::GRAIN) {
            let mut dx = room::<T::Number>(device, e.input(w))?;
            let (x, dy, out) = (x.as_slice()?, dy.as_slice()?, writable::<T::Number>(&mut dx)?);
            if !out.is_empty() {
                extremes::spread_back(device.parallel(), &e, x, dy, rectified, out);
            }
            return given::<T>(cx, dx, &w.back());
        }
        let places = self.places(cx, &e, &x, None, dy.len())?;
        let mut dx = room::<T::Number>(device, e.input(w))?;
        let (dy, out) = (dy.as_slice::<T::Number>()?, writable::<T::Number>(&mut dx)?);
        if !out.is_empty() {
            extremes::scatter(device.parallel(), &e, places.as_slice()?, dy, out);
            if rectified {
                extremes::rectify(device.parallel(), x.as_slice::<T::Number>()?, out);
            }
        }
        given::<T>(cx, dx, &w.back())
    }

    fn second(&self, cx: &OpContext<'_>, w: &Windows) -> Result<Tensor> {
        let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let e = w.over(x.shape())?;
        e.check_output(w, "orig_output", y.shape())?;
        same("a gradient", g.shape(), x.shape())?;
        let device = &*cx.step().device;
        let to_last = w.to_last();
        let (x, y) = (taken::<T>(cx, x, &to_last)?, taken::<T>(cx, y, &to_last)?);
        let places = self.places(cx, &e, &x, Some(&y), y.len())?;
        let g = taken::<T>(cx, g, &to_last)?;
        let mut out = room::<T::Number>(device, e.output(w))?;
        let (g, to) = (g.as_slice::<T::Number>()?, writable::<T::Number>(&mut out)?);
        if !to.is_empty() {
            extremes::gather(device.parallel(), &e, places.as_slice()?, g, to);
        }
        given::<T>(cx, out, &w.back())
    }
}

impl<T: Item> Kernel for Pool<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let out = self.with(cx, |w| match self.what {
            What::Largest => self.largest(cx, w),
            What::Gradient | What::RectifiedGradient => self.gradient(cx, w),
            _ => self.second(cx, w),
        })?;
        cx.set_output(0, out);
        Ok(())
    }
}

/// A pool that averages.
struct Averages<T>(Pool<T>);

impl<T: Item<Number: Real>> Kernel for Averages<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let device = &*cx.step().device;
        let out = self.0.with(cx, |w| {
            let mean = self.0.what == What::Mean;
            let (given_to, shape) = match mean {
                true => (cx.input(0)?, cx.input(0)?.shape().clone()),
                false => (cx.input(1)?, cx.input(0)?.to_shape()?),
            };
            let e = w.over(&shape)?;
            if !mean {
                e.check_output(w, "a gradient", given_to.shape())?;
            }
            let x = taken::<T>(cx, given_to, &w.to_last())?;
            let mut out = room::<T::Number>(device, if mean { e.output(w) } else { e.input(w) })?;
            let (x, to) = (x.as_slice::<T::Number>()?, writable::<T::Number>(&mut out)?);
            match mean {
                _ if to.is_empty() => {}
                _ if x.is_empty() => to.fill(T::Number::ZERO),
                true => averages::means(device.parallel(), &e, x, to),
                false => averages::shares(device.parallel(), &e, x, to),
            }
            given::<T>(cx, out, &w.back())
        })?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn pool<T>(init: &KernelInit<'_>, space: usize, what: What) -> Result<Pool<T>> {
    let sizes = match init.attrs.get("ksize") {
        Some(_) => Sizes::Attributes(what.windows(Windows::of(init.attrs, space)?)?),
        None => Sizes::Inputs(init.attrs.clone()),
    };
    Ok(Pool {
        what,
        sizes,
        element: PhantomData,
    })
}

/// The kernel of a pool over `space` dimensions.
pub(super) fn kernel(init: &KernelInit<'_>, space: usize, what: What) -> Result<Box<dyn Kernel>> {
    let dtype = init.output_types[0];
    if matches!(what, What::Mean | What::MeanGradient) {
        return dispatch!(dtype, T in floats => Ok(Box::new(Averages(pool::<T>(init, space, what)?))),
            else Err(init.no_kernel()));
    }
    dispatch!(dtype, T in reals => Ok(Box::new(pool::<T>(init, space, what)?)), else Err(init.no_kernel()))
}

/// The windows as far as they are known when the graph is built. Only kernels refuse what they cannot do.
fn known(cx: &ShapeContext<'_>, space: usize, at: usize) -> Result<Option<Windows>> {
    let attrs = cx.attrs();
    let (sizes, strides) = match attrs.get("ksize") {
        Some(_) => (attrs.ints("ksize")?, attrs.ints("strides")?),
        None => match (cx.constant_i64s(at), cx.constant_i64s(at + 1)) {
            (Some(k), Some(s)) => (k, s),
            _ => return Ok(None),
        },
    };
    match Windows::new(attrs, space, &sizes, &strides) {
        Ok(w) => Ok(Some(w)),
        Err(e) if e.code() == actorflow_core::Code::Unimplemented => Ok(None),
        Err(e) => Err(e),
    }
}

/// The shape of a pool's output.
pub(super) fn output(cx: &ShapeContext<'_>, space: usize) -> Result<Vec<PartialShape>> {
    let shape = match known(cx, space, 1)? {
        Some(w) => w.shape(&cx.input(0))?,
        None => {
            cx.input(0).with_rank(space + 2)?;
            PartialShape::of_rank(space + 2)
        }
    };
    Ok(vec![shape; cx.num_outputs()])
}

/// The shape of a gradient of a gradient: that of input 1, the output.
pub(super) fn second(cx: &ShapeContext<'_>, space: usize) -> Result<Vec<PartialShape>> {
    known(cx, space, 3)?;
    Ok(vec![cx.input(1).with_rank(space + 2)?])
}

/// The shape of a gradient with respect to the input, which is input 0.
pub(super) fn gradient(cx: &ShapeContext<'_>, space: usize) -> Result<Vec<PartialShape>> {
    known(cx, space, 3)?;
    Ok(vec![cx.input(0).with_rank(space + 2)?])
}

/// The shape that input 0 holds.
pub(super) fn mean_gradient(cx: &ShapeContext<'_>, space: usize) -> Result<Vec<PartialShape>> {
    known(cx, space, 2)?;
    Ok(vec![cx.constant_shape(0)?.with_rank(space + 2)?])
}

/// The builder with those of the attributes `from` that say how windows slide; `explicit_paddings` only where they
/// are used.
pub(super) fn sliding(mut to: OpBuilder, from: &Attrs) -> Result<OpBuilder> {
    for name in ["ksize", "strides", "padding", "data_format"] {
        if let Some(a) = from.get(name) {
            to = to.attr(name, a.clone());
        }
    }
    if from.str("padding")? == "EXPLICIT"
        && let Some(a) = from.get("explicit_paddings")
    {
        to = to.attr("explicit_paddings", a.clone());
    }
    Ok(to)
}

/// A node of operation `op` with some inputs and the attributes of the operation that is differentiated.
pub(super) fn node(cx: &GradContext, op: &str, inputs: &[&Output]) -> Result<Output> {
    let mut b = cx.graph().op(op);
    for i in inputs {
        b = b.input(i);
    }
    sliding(b, cx.attrs())?.output()
}
