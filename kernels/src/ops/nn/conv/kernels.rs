//! The kernels of convolutions of two and three dimensions, and what their definitions share.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::{OpBuilder, ShapeContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::{Attrs, Output, PartialShape, Shape, Tensor, dispatch};

use super::super::window::Slide;
use super::geometry::{Geometry, output_shape};
use super::number::{Item, given, room, taken, writable};
use super::{convolve, filter_grad};
use crate::gemm::Epilogue;

/// What of a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The output, from input and filter.
    Output,
    /// The input's gradient, from the input's shape, the filter and the output's gradient.
    Input(From),
    /// The filter's gradient, from the input, the filter's shape and the output's gradient.
    Filter(From),
}

/// Where the shape of what is differentiated comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// An integer vector.
    Sizes,
    /// A tensor of that shape.
    Tensor,
}

/// A convolution that may be followed by a bias and a `Relu`.
struct Conv<T> {
    slide: Slide,
    side: Side,
    bias: bool,
    relu: bool,
    element: PhantomData<fn() -> T>,
}

/// The shape that input `i` holds or has. Two sizes alone are those of the image; the rest follows from filter and
/// gradient.
fn shape_of(cx: &OpContext<'_>, i: usize, from: From, slide: &Slide) -> Result<Shape> {
    let t = cx.input(i)?;
    if from == From::Tensor {
        return Ok(t.shape().clone());
    }
    let sizes = t.to_shape()?;
    if i == 0 && sizes.rank() == slide.space {
        let (filter, dy) = (cx.input(1)?.shape(), cx.input(2)?.shape());
        if filter.rank() == slide.rank() && dy.rank() == slide.rank() {
            let mut dims = vec![dy[0]];
            dims.extend_from_slice(&sizes);
            dims.push(filter[slide.rank() - 2]);
            return Ok(slide.layout.shape(&dims));
        }
    }
    if sizes.rank() != slide.rank() {
        return Err(Error::invalid(format!(
            "sizes must be a vector of {} numbers, got {sizes}",
            slide.rank()
        )));
    }
    Ok(sizes)
}

impl<T: Item> Conv<T> {
    fn geometry(&self, input: &Shape, filter: &Shape, dy: Option<&Shape>) -> Result<Geometry> {
        let g = Geometry::of(&self.slide, input, filter)?;
        if let Some(dy) = dy {
            g.check_output(&self.slide, dy)?;
        }
        Ok(g)
    }

    fn output(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        let g = self.geometry(x.shape(), w.shape(), None)?;
        let bias = match self.bias {
            true => Some(self.bias(cx, g.out_channels)?),
            false => None,
        };
        let epilogue = Epilogue {
            bias: bias.as_ref().map(Tensor::as_slice::<T::Number>).transpose()?,
            relu: self.relu,
        };
        let device = &*cx.step().device;
        let rank = self.slide.rank();
        let x = taken::<T>(cx, x, &self.slide.layout.to_last(rank))?;
        let w = T::widened(device, w)?;
        let mut y = room::<T::Number>(device, g.output(&self.slide))?;
        convolve::forward(
            device,
            &g,
            x.as_slice::<T::Number>()?,
            w.as_slice()?,
            epilogue,
            writable(&mut y)?,
        )?;
        given::<T>(cx, y, &self.slide.layout.back_from_last(rank))
    }

    fn bias(&self, cx: &OpContext<'_>, channels: usize) -> Result<Tensor> {
        let b = cx.input(2)?;
        if b.shape().dims() != [channels] {
            return Err(Error::invalid(format!(
                "must provide as many biases as there are output channels: {channels} channels, biases {}",
                b.shape()
            )));
        }
        T::widened(&*cx.step().device, b)
    }

    fn input(&self, cx: &OpContext<'_>, from: From) -> Result<Tensor> {
        let (w, dy) = (cx.input(1)?, cx.input(2)?);
        let shape = shape_of(cx, 0, from, &self.slide)?;
        let g = self.geometry(&shape, w.shape(), Some(dy.shape()))?;
        let device = &*cx.step().device;
        let rank = self.slide.rank();
        let to_last = self.slide.layout.to_last(rank);
        let (w, dy) = (T::widened(device, w)?, taken::<T>(cx, dy, &to_last)?);
        let dims: Shape = to_last.iter().map(|i| shape[*i]).collect();
        let mut dx = room::<T::Number>(device, dims)?;
        convolve::backward(
            device,
            &g,
            dy.as_slice::<T::Number>()?,
            w.as_slice()?,
            writable(&mut dx)?,
        )?;
        given::<T>(cx, dx, &self.slide.layout.back_from_last(rank))
    }

    fn filter(&self, cx: &OpContext<'_>, from: From) -> Result<Tensor> {
        let (x, dy) = (cx.input(0)?, cx.input(2)?);
        let shape = shape_of(cx, 1, from, &self.slide)?;
        let g = self.geometry(x.shape(), &shape, Some(dy.shape()))?;
        let device = &*cx.step().device;
        let to_last = self.slide.layout.to_last(self.slide.rank());
        let (x, dy) = (taken::<T>(cx, x, &to_last)?, taken::<T>(cx, dy, &to_last)?);
        let mut dw = room::<T::Number>(device, shape)?;
        filter_grad::filter_grad(
            device,
            &g,
            x.as_slice::<T::Number>()?,
            dy.as_slice()?,
            writable(&mut dw)?,
        )?;
        T::narrowed(device, dw)
    }
}

impl<T: Item> Kernel for Conv<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let out = match self.side {
            Side::Output => self.output(cx),
            Side::Input(from) => self.input(cx, from),
            Side::Filter(from) => self.filter(cx, from),
        }?;
        cx.set_output(0, out);
        Ok(())
    }
}

/// The kernel for one side of a convolution over `space` dimensions, followed by a bias and a `Relu` if asked for.
pub(super) fn kernel(
    init: &KernelInit<'_>,
    space: usize,
    side: Side,
    (bias, relu): (bool, bool),
) -> Result<Box<dyn Kernel>> {
    let slide = Slide::of(init.attrs, space)?.plain()?;
    dispatch!(init.output_types[0], T in [F32, F64, F16, BF16, I32] => {
        Ok(Box::new(Conv::<T> { slide, side, bias, relu, element: PhantomData }))
    }, else Err(init.no_kernel()))
}

/// The output's shape.
pub(super) fn output(cx: &ShapeContext<'_>, space: usize) -> Result<Vec<PartialShape>> {
    let slide = Slide::of(cx.attrs(), space)?;
    Ok(vec![output_shape(&slide, &cx.input(0), &cx.input(1))?])
}

/// The shape of a gradient with respect to the input.
pub(super) fn input(cx: &ShapeContext<'_>, space: usize) -> Result<Vec<PartialShape>> {
    let slide = Slide::of(cx.attrs(), space)?;
    let sizes = cx.constant_shape(0)?;
    if sizes.rank() != Some(space) {
        return Ok(vec![sizes.with_rank(space + 2)?]);
    }
    let (w, dy) = (cx.input(1).with_rank(space + 2)?, cx.input(2).with_rank(space + 2)?);
    let mut dims = vec![dy.dim(0)];
    dims.extend_from_slice(sizes.dims().unwrap_or(&[]));
    dims.push(w.dim(space));
    Ok(vec![slide.layout.arranged(&dims)])
}

/// The shape of a gradient with respect to the filter.
pub(super) fn filter(cx: &ShapeContext<'_>, space: usize) -> Result<Vec<PartialShape>> {
    Slide::of(cx.attrs(), space)?;
    Ok(vec![cx.constant_shape(1)?.with_rank(space + 2)?])
}

/// The builder with those of the attributes `from` that its operation has, too.
pub(super) fn sliding(mut to: OpBuilder, from: &Attrs) -> OpBuilder {
    for name in [
        "strides",
        "padding",
        "explicit_paddings",
        "use_cudnn_on_gpu",
        "data_format",
        "dilations",
    ] {
        if let Some(a) = from.get(name) {
            to = to.attr(name, a.clone());
        }
    }
    to
}

/// The operations of a family: convolution, gradients with respect to input and filter.
pub(super) struct Family {
    pub(super) forward: &'static str,
    pub(super) input: &'static str,
    pub(super) filter: &'static str,
}

impl Family {
    fn node(&self, cx: &GradContext, op: &str, inputs: [&Output; 3]) -> Result<Output> {
        let mut b = cx.graph().op(op);
        for i in inputs {
            b = b.input(i);
        }
        sliding(b, cx.attrs()).output()
    }

    fn convolved(&self, cx: &GradContext, x: &Output, w: &Output) -> Result<Output> {
        sliding(cx.graph().op(self.forward).input(x).input(w), cx.attrs()).output()
    }

    /// The gradients of the convolution.
    pub(super) fn of_forward(&self, cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
        let (x, w, dy) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
        let dx = self.node(cx, self.input, [&x.shape_op()?, &w, &dy])?;
        let dw = self.node(cx, self.filter, [&x, &w.shape_op()?, &dy])?;
        Ok(vec![Some(dx.into()), Some(dw.into())])
    }

    /// The gradients of the gradient with respect to the input.
    pub(super) fn of_input(&self, cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
        let (w, y, d) = (cx.input(1)?, cx.input(2)?, cx.dense(dys, 0)?);
        let dw = self.node(cx, self.filter, [&d, &w.shape_op()?, &y])?;
        let dy = self.convolved(cx, &d, &w)?;
        Ok(vec![None, Some(dw.into()), Some(dy.into())])
    }

    /// The gradients of the gradient with respect to the filter.
    pub(super) fn of_filter(&self, cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
        let (x, y, d) = (cx.input(0)?, cx.input(2)?, cx.dense(dys, 0)?);
        let dx = self.node(cx, self.input, [&x.shape_op()?, &d, &y])?;
        let dy = self.convolved(cx, &x, &d)?;
        Ok(vec![Some(dx.into()), None, Some(dy.into())])
    }
}
