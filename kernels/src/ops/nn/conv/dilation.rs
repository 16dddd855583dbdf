//! `Dilation2D`, `Dilation2DBackpropInput`, `Dilation2DBackpropFilter`: grey-scale morphological dilation, a
//! convolution in which sums are products and maxima are sums.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::super::pool::number::{Item, Number};
use super::super::window::{Axis, Slide};
use super::number::{room, writable};
use crate::spread;

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Output,
    Input,
    Filter,
}

/// The extents of one dilation.
struct Extents {
    batch: usize,
    y: Axis,
    x: Axis,
    channels: usize,
}

impl Extents {
    fn of(slide: &Slide, input: &Shape, filter: &Shape) -> Result<Extents> {
        if input.rank() != 4 || filter.rank() != 3 {
            return Err(Error::invalid(format!(
                "input must be 4-dimensional and filter 3-dimensional: {input}, {filter}"
            )));
        }
        if input[3] != filter[2] {
            return Err(Error::invalid(format!(
                "input and filter must have the same depth: {} vs {} (input {input}, filter {filter})",
                input[3], filter[2]
            )));
        }
        let [_, y, x] = slide
            .axes(&input[1..3], &filter[..2])
            .map_err(|e| e.context(format!("input {input}, filter {filter}")))?;
        let e = Extents {
            batch: input[0],
            y,
            x,
            channels: input[3],
        };
        Shape::new(&e.output()).checked_count()?;
        Ok(e)
    }

    fn output(&self) -> [usize; 4] {
        [self.batch, self.y.output, self.x.output, self.channels]
    }

    /// The tap of output (`oy`, `ox`) of image `n` whose sum is largest for channel `c`, the first of equals: the sum,
    /// the input's index and the filter's. `None` for the indices if no tap lies in the input.
    fn largest<T: Number>(
        &self,
        (x, w): (&[T], &[T]),
        (n, oy, ox, c): (usize, usize, usize, usize),
    ) -> (T, Option<(usize, usize)>) {
        let mut best = (T::LEAST, None);
        let place = |a: &Axis, o: usize, k: usize| {
            let at = (o * a.stride + k * a.dilation).checked_sub(a.before);
            at.filter(|i| *i < a.input)
        };
        for ky in 0..self.y.window {
            let Some(iy) = place(&self.y, oy, ky) else { continue };
            for kx in 0..self.x.window {
                let Some(ix) = place(&self.x, ox, kx) else { continue };
                let i = ((n * self.y.input + iy) * self.x.input + ix) * self.channels + c;
                let k = (ky * self.x.window + kx) * self.channels + c;
                let sum = x[i].plus(w[k]);
                if sum > best.0 {
                    best = (sum, Some((i, k)));
                }
            }
        }
        best
    }

    /// Calls `body` for every output of image `n`, in order.
    fn each(&self, n: usize, mut body: impl FnMut(usize, (usize, usize, usize, usize))) {
        let per = self.y.output * self.x.output * self.channels;
        for i in 0..per {
            let (c, pixel) = (i % self.channels, i / self.channels);
            body(n * per + i, (n, pixel / self.x.output, pixel % self.x.output, c));
        }
    }
}

struct Dilation<T> {
    slide: Slide,
    side: Side,
    element: PhantomData<fn() -> T>,
}

impl<T: Item> Dilation<T> {
    fn run(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let device = &*cx.step().device;
        let par = device.parallel();
        let e = Extents::of(&self.slide, cx.input(0)?.shape(), cx.input(1)?.shape())?;
        let (x, w) = (T::widened(device, cx.input(0)?)?, T::widened(device, cx.input(1)?)?);
        let both = (x.as_slice::<T::Number>()?, w.as_slice::<T::Number>()?);
        let dims = e.output();
        let dy = match self.side {
            Side::Output => None,
            _ => {
                let dy = cx.input(2)?;
                if dy.shape().dims() != dims {
                    return Err(Error::invalid(format!(
                        "out_backprop must have the output's shape {}, got {}",
                        Shape::new(&dims),
                        dy.shape()
                    )));
                }
                Some(T::widened(device, dy)?)
            }
        };
        let dy = dy.as_ref().map_or(Ok(&[][..]), |d| d.as_slice::<T::Number>())?;
        let shape: Shape = match self.side {
            Side::Output => Shape::new(&dims),
            Side::Input => x.shape().clone(),
            Side::Filter => w.shape().clone(),
        };
        let mut out = room::<T::Number>(device, shape)?;
        let to = writable::<T::Number>(&mut out)?;
        let image_in = e.y.input * e.x.input * e.channels;
        match self.side {
            Side::Output => {
                let line = e.x.output * e.channels;
                spread::chunks(par, to, line, |i, out| {
                    for (j, o) in out.iter_mut().enumerate() {
                        let at = (i / e.y.output, i % e.y.output, j / e.channels, j % e.channels);
                        *o = e.largest(both, at).0;
                    }
                });
            }
            Side::Input => spread::chunks(par, to, image_in, |n, dx| {
                dx.fill(T::Number::ZERO);
                e.each(n, |o, at| {
                    if let Some((i, _)) = e.largest(both, at).1 {
                        let d = &mut dx[i - n * image_in];
                        *d = d.plus(dy[o]);
                    }
                });
            }),
            Side::Filter => {
                to.fill(T::Number::ZERO);
                for n in 0..e.batch {
                    e.each(n, |o, at| {
                        if let Some((_, k)) = e.largest(both, at).1 {
                            to[k] = to[k].plus(dy[o]);
                        }
                    });
                }
            }
        }
        T::narrowed(device, out)
    }
}

impl<T: Item> Kernel for Dilation<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let out = self.run(cx)?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>, side: Side) -> Result<Box<dyn Kernel>> {
    let slide = Slide::of(init.attrs, 2)?.plain()?;
    dispatch!(init.output_types[0], T in reals => {
        Ok(Box::new(Dilation::<T> { slide, side, element: PhantomData }))
    }, else Err(init.no_kernel()))
}

fn attributes(def: OpDef) -> OpDef {
    def.attr("T: realnumbertype")
        .attr("strides: list(int) >= 4")
        .attr("rates: list(int) >= 4")
        .attr("padding: {'SAME', 'VALID'}")
}

fn sample(s: &mut Sampler, same: bool) -> Result<Operation> {
    let x = s.normal([2, 4, 5, 2])?;
    // Steps that keep the largest sum of every window apart from the others.
    let w = s.constant(Tensor::from_slice(
        [2, 3, 2],
        &(0..12).map(|i| f64::from(i * 7 % 12) * 0.003).collect::<Vec<_>>(),
    )?)?;
    let zero = s.uniform([2, 3, 2], -1e-4, 1e-4)?;
    let w: Output = w.plus(&zero)?;
    let b = s.op("Dilation2D").input(&x).input(&w);
    match same {
        true => b
            .attr("strides", [1i64, 2, 1, 1])
            .attr("rates", [1i64, 1, 1, 1])
            .attr("padding", "SAME"),
        false => b
            .attr("strides", [1i64, 1, 1, 1])
            .attr("rates", [1i64, 2, 2, 1])
            .attr("padding", "VALID"),
    }
    .finish()
}

fn dilation() -> OpDef {
    let def = OpDef::new("Dilation2D", Category::Nn)
        .doc("The largest sum of window and filter, for each channel: grey-scale morphological dilation.")
        .input("input: T")
        .input("filter: T")
        .output("output: T");
    attributes(def)
        .shape(|cx| {
            let slide = Slide::of(cx.attrs(), 2)?;
            let (x, w) = (cx.input(0).with_rank(4)?, cx.input(1).with_rank(3)?);
            let depth = x.sub(3, 4).merge(&w.sub(2, 3))?;
            let (n, f) = (x.dims().unwrap_or(&[]), w.dims().unwrap_or(&[]));
            let mut dims = vec![n[0]];
            dims.extend(slide.outputs(&n[1..3], &f[..2])?);
            dims.push(depth.dim(0));
            Ok(vec![PartialShape::new(dims)])
        })
        .gradient(|cx, dys| {
            let (x, w, dy) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            let node = |op: &str| {
                let mut b = cx.graph().op(op).input(&x).input(&w).input(&dy);
                for name in ["strides", "rates", "padding"] {
                    if let Some(a) = cx.attrs().get(name) {
                        b = b.attr(name, a.clone());
                    }
                }
                b.output()
            };
            let dx = node("Dilation2DBackpropInput")?;
            let dw = node("Dilation2DBackpropFilter")?;
            Ok(vec![Some(dx.into()), Some(dw.into())])
        })
        .cpu(|init| kernel(init, Side::Output))
        .sample(|s| sample(s, true))
        .sample(|s| sample(s, false))
}

fn backprop(name: &'static str, output: &str) -> OpDef {
    let def = OpDef::new(name, Category::Nn)
        .input("input: T")
        .input("filter: T")
        .input("out_backprop: T")
        .output(&format!("{output}: T"));
    attributes(def)
}

fn backprop_input() -> OpDef {
    backprop("Dilation2DBackpropInput", "in_backprop")
        .doc("The gradient of Dilation2D with respect to its input.")
        .shape(|cx| Ok(vec![cx.input(0).with_rank(4)?]))
        .cpu(|init| kernel(init, Side::Input))
}

fn backprop_filter() -> OpDef {
    backprop("Dilation2DBackpropFilter", "filter_backprop")
        .doc("The gradient of Dilation2D with respect to its filter.")
        .shape(|cx| Ok(vec![cx.input(1).with_rank(3)?]))
        .cpu(|init| kernel(init, Side::Filter))
}

register_ops!(dilation, backprop_input, backprop_filter);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output, Tensor};

    fn dilate(x: &[i32], w: [usize; 3], format: [i64; 2]) -> actorflow_core::error::Result<Output> {
        let g = Graph::new();
        let filter = Tensor::from_slice(w, &(0..w.iter().product::<usize>() as i32).collect::<Vec<_>>())?;
        let (x, w) = (g.constant(Tensor::from_slice([1, 2, 2, 1], x)?)?, g.constant(filter)?);
        let b = g.op("Dilation2D").input(&x).input(&w);
        let b = b
            .attr("strides", [1, format[0], format[0], 1])
            .attr("rates", [1, format[1], format[1], 1]);
        b.attr("padding", "SAME").output()
    }

    #[test]
    fn windows_give_their_largest_sum() {
        let y = eval(&dilate(&[1, 2, 3, 4], [2, 2, 1], [1, 1]).unwrap());
        assert_eq!(y.to_vec::<i32>().unwrap(), [7, 6, 5, 4]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(dilate(&[1, 2, 3, 4], [2, 2, 2], [1, 1]).is_err());
        assert!(dilate(&[1, 2, 3, 4], [2, 2, 1], [0, 1]).is_err());
        let g = Graph::new();
        let x = g
            .constant(Tensor::from_slice([1, 2, 2, 1], &[0i32; 4]).unwrap())
            .unwrap();
        let w = g.constant(Tensor::from_slice([1, 1, 1], &[0i32]).unwrap()).unwrap();
        let dy = g.constant(Tensor::from_slice([1, 1, 1, 1], &[0i32]).unwrap()).unwrap();
        let b = g.op("Dilation2DBackpropInput").input(&x).input(&w).input(&dy);
        let b = b
            .attr("strides", [1i64; 4])
            .attr("rates", [1i64; 4])
            .attr("padding", "SAME");
        assert_eq!(fails(&b.output().unwrap()).code(), Code::InvalidArgument);
    }
}
