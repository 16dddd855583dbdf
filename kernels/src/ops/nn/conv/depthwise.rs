//! Convolutions of every channel by itself: `DepthwiseConv2dNative` and its gradients.
//!
//! Input channel `c` gives output channels `c * m..(c + 1) * m`. Everything is computed on images whose channels are
//! repeated `m` times, so that outputs and inputs correspond one to one and channels are the lanes of all loops.
#![forbid(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::super::window::{Axis, Slide};
use super::kernels::{self, Family, From, Side};
use super::number::{Item, Number, given, room, taken, writable};
use super::patches::View;
use crate::math::madd::Madd;
use crate::spread;
use crate::wide::Work;

/// Channels that are computed at a time.
const LANES: usize = 32;

/// Multiply-adds that are worth handing to another worker.
const GRAIN: usize = 1 << 16;

/// Spans of lines whose contributions to the filter's gradient are added up separately, at most.
const SPANS: usize = 16;

/// The extents of one convolution.
struct Extents {
    batch: usize,
    y: Axis,
    x: Axis,
    channels: usize,
    multiplier: usize,
}

impl Extents {
    fn of(slide: &Slide, input: &Shape, filter: &Shape) -> Result<Extents> {
        for (what, s) in [("input", input), ("filter", filter)] {
            if s.rank() != 4 {
                return Err(Error::invalid(format!("{what} must be 4-dimensional: {s}")));
            }
        }
        let dims: Vec<usize> = slide.layout.to_last(4).iter().map(|i| input[*i]).collect();
        if dims[3] != filter[2] {
            return Err(Error::invalid(format!(
                "input and filter must have the same depth: {} vs {} (input {input}, filter {filter})",
                dims[3], filter[2]
            )));
        }
        let [_, y, x] = slide
            .axes(&dims[1..3], &filter[..2])
            .map_err(|e| e.context(format!("input {input}, filter {filter}")))?;
        let e = Extents {
            batch: dims[0],
            y,
            x,
            channels: filter[2],
            multiplier: filter[3],
        };
        for s in [
            input,
            filter,
            &Shape::new(&e.output()),
            &Shape::new(&e.repeated_input()),
        ] {
            s.checked_count()?;
        }
        Ok(e)
    }

    fn check_output(&self, slide: &Slide, dy: &Shape) -> Result<()> {
        let want = slide.layout.shape(&self.output());
        if *dy != want {
            return Err(Error::invalid(format!(
                "the size of out_backprop doesn't match computed: actual = {dy}, computed = {want}"
            )));
        }
        Ok(())
    }

    /// Channels of the output.
    fn lanes(&self) -> usize {
        self.channels.saturating_mul(self.multiplier)
    }

    fn output(&self) -> [usize; 4] {
        [self.batch, self.y.output, self.x.output, self.lanes()]
    }

    fn repeated_input(&self) -> [usize; 4] {
        [self.batch, self.y.input, self.x.input, self.lanes()]
    }
}

/// One pixel of the result: for each channel, the sum over some taps of source times weight.
struct Pixel<'a, T> {
    source: &'a [T],
    weights: &'a [T],
    /// Where the taps' channels begin in the source and in the weights.
    taps: &'a [(usize, usize)],
    out: &'a mut [T],
}

impl<T: Number> Work for Pixel<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let mut at = 0;
        let (blocks, rest) = self.out.as_chunks_mut::<LANES>();
        for out in blocks {
            let mut acc = [T::ZERO; LANES];
            for (s, w) in self.taps {
                let (s, w) = (&self.source[s + at..][..LANES], &self.weights[w + at..][..LANES]);
                for ((a, s), w) in acc.iter_mut().zip(s).zip(w) {
                    *a = s.madd::<M>(*w, *a);
                }
            }
            *out = acc;
            at += LANES;
        }
        rest.fill(T::ZERO);
        for (s, w) in self.taps {
            let (s, w) = (&self.source[s + at..], &self.weights[w + at..]);
            for ((a, s), w) in rest.iter_mut().zip(s).zip(w) {
                *a = s.madd::<M>(*w, *a);
            }
        }
    }
}

/// Adds to one tap of the filter's gradient, for each channel, the sum over pixels of a line of input times gradient.
struct TapGrad<'a, T> {
    x: &'a [T],
    step: usize,
    dy: &'a [T],
    pixels: usize,
    lanes: usize,
    out: &'a mut [T],
}

impl<T: Number> Work for TapGrad<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let mut at = 0;
        let (blocks, rest) = self.out.as_chunks_mut::<LANES>();
        for out in blocks {
            let mut acc = *out;
            for p in 0..self.pixels {
                let x = &self.x[p * self.step + at..][..LANES];
                let dy = &self.dy[p * self.lanes + at..][..LANES];
                for ((a, x), d) in acc.iter_mut().zip(x).zip(dy) {
                    *a = x.madd::<M>(*d, *a);
                }
            }
            *out = acc;
            at += LANES;
        }
        if !rest.is_empty() {
            for p in 0..self.pixels {
                let (x, dy) = (&self.x[p * self.step + at..], &self.dy[p * self.lanes + at..]);
                for ((a, x), d) in rest.iter_mut().zip(x).zip(dy) {
                    *a = x.madd::<M>(*d, *a);
                }
            }
        }
    }
}

/// `out[n, y, x, :] = sum over taps of source[n, y', x', :] * weights[tap, :]` as the views say.
fn gather<T: Number>(
    device: &dyn Device,
    source: &[T],
    weights: &[T],
    (views_y, views_x): (&[View], &[View]),
    [_, lines, across, lanes]: [usize; 4],
    window: usize,
    out: &mut [T],
) {
    let line = across * lanes;
    let (Some(vy), Some(vx)) = (views_y.first(), views_x.first()) else {
        return out.fill(T::ZERO);
    };
    let (ny, nx) = (vy.source, vx.source);
    let taps = vy.taps.len() * vx.taps.len();
    let per = (GRAIN / (line * taps).max(1)).max(1);
    spread::chunks(device.parallel(), out, per * line, |i, out| {
        let mut list = Vec::with_capacity(taps);
        for (j, out) in out.chunks_mut(line).enumerate() {
            let at = i * per + j;
            let (image, y) = (at / lines, at % lines);
            out.fill(T::ZERO);
            let Some(vy) = views_y.iter().find(|v| y % v.every == v.first) else {
                continue;
            };
            let ty = (y / vy.every * vy.step) as isize;
            for vx in views_x {
                for t in 0..vx.count {
                    list.clear();
                    for (ky, dy) in &vy.taps {
                        let sy = ty + dy;
                        if sy < 0 || sy >= ny as isize {
                            continue;
                        }
                        for (kx, dx) in &vx.taps {
                            let sx = (t * vx.step) as isize + dx;
                            if sx >= 0 && sx < nx as isize {
                                let s = ((image * ny + sy as usize) * nx + sx as usize) * lanes;
                                list.push((s, (ky * window + kx) * lanes));
                            }
                        }
                    }
                    let x = vx.first + t * vx.every;
                    T::run(Pixel {
                        source,
                        weights,
                        taps: &list,
                        out: &mut out[x * lanes..][..lanes],
                    });
                }
            }
        }
    });
}

/// The gradient with respect to the filter over some lines of the output, all images counted.
fn filter_grad<T: Number>(e: &Extents, x: &[T], dy: &[T], lines: Range<usize>, dw: &mut [T]) {
    dw.fill(T::ZERO);
    let lanes = e.lanes();
    let (vy, vx) = (View::forward(&e.y), View::forward(&e.x));
    for line in lines {
        let (image, y) = (line / e.y.output, line % e.y.output);
        for (ky, oy) in &vy.taps {
            let sy = (y * vy.step) as isize + oy;
            if sy < 0 || sy >= e.y.input as isize {
                continue;
            }
            let source = &x[(image * e.y.input + sy as usize) * e.x.input * lanes..];
            for (kx, ox) in &vx.taps {
                // Outputs `lo..hi` of the line see the input at this tap.
                let lo = (-ox).max(0) as usize;
                let lo = lo.div_ceil(vx.step);
                let hi = (e.x.input as isize - ox).max(0) as usize;
                let hi = hi.div_ceil(vx.step).min(e.x.output);
                if lo >= hi {
                    continue;
                }
                T::run(TapGrad {
                    x: &source[((lo * vx.step) as isize + ox) as usize * lanes..],
                    step: vx.step * lanes,
                    dy: &dy[(line * e.x.output + lo) * lanes..],
                    pixels: hi - lo,
                    lanes,
                    out: &mut dw[(ky * e.x.window + kx) * lanes..][..lanes],
                });
            }
        }
    }
}

/// The images with every channel `m` times.
fn repeated<T: Number>(device: &dyn Device, x: &Tensor, m: usize, shape: [usize; 4]) -> Result<Tensor> {
    if m == 1 {
        return Ok(x.clone());
    }
    let from = x.as_slice::<T>()?;
    let mut out = room::<T>(device, shape)?;
    spread::chunks(
        device.parallel(),
        writable::<T>(&mut out)?,
        spread::rows_of(m) * m,
        |i, out| {
            for (out, x) in out.chunks_mut(m).zip(&from[i * spread::rows_of(m)..]) {
                out.fill(*x);
            }
        },
    );
    Ok(out)
}

/// The sums of `m` neighbouring channels each.
fn summed<T: Number>(device: &dyn Device, x: Tensor, m: usize, shape: [usize; 4]) -> Result<Tensor> {
    if m == 1 {
        return Ok(x);
    }
    let from = x.as_slice::<T>()?;
    let mut out = room::<T>(device, shape)?;
    spread::chunks(device.parallel(), writable::<T>(&mut out)?, spread::GRAIN, |i, out| {
        for (j, out) in out.iter_mut().enumerate() {
            let x = &from[(i * spread::GRAIN + j) * m..][..m];
            *out = x.iter().fold(T::ZERO, |a, x| a.plus(*x));
        }
    });
    Ok(out)
}

struct Depthwise<T> {
    slide: Slide,
    side: Side,
    element: PhantomData<fn() -> T>,
}

impl<T: Item> Depthwise<T> {
    fn output(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let e = Extents::of(&self.slide, cx.input(0)?.shape(), cx.input(1)?.shape())?;
        let device = &*cx.step().device;
        let x = taken::<T>(cx, cx.input(0)?, &self.slide.layout.to_last(4))?;
        let w = T::widened(device, cx.input(1)?)?;
        let mut y = room::<T::Number>(device, e.output())?;
        let out = writable::<T::Number>(&mut y)?;
        if !out.is_empty() {
            let x = repeated::<T::Number>(device, &x, e.multiplier, e.repeated_input())?;
            let views = ([View::forward(&e.y)], [View::forward(&e.x)]);
            let (views, x) = ((&views.0[..], &views.1[..]), x.as_slice()?);
            gather(device, x, w.as_slice()?, views, e.output(), e.x.window, out);
        }
        given::<T>(cx, y, &self.slide.layout.back_from_last(4))
    }

    fn input(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let (w, dy) = (cx.input(1)?, cx.input(2)?);
        let shape = cx.input(0)?.to_shape()?;
        let e = Extents::of(&self.slide, &shape, w.shape())?;
        e.check_output(&self.slide, dy.shape())?;
        let device = &*cx.step().device;
        let (w, dy) = (
            T::widened(device, w)?,
            taken::<T>(cx, dy, &self.slide.layout.to_last(4))?,
        );
        let mut dx = room::<T::Number>(device, e.repeated_input())?;
        let out = writable::<T::Number>(&mut dx)?;
        if !out.is_empty() {
            let views = (View::backward(&e.y), View::backward(&e.x));
            let views = (&views.0[..], &views.1[..]);
            gather(
                device,
                dy.as_slice()?,
                w.as_slice()?,
                views,
                e.repeated_input(),
                e.x.window,
                out,
            );
        }
        let [n, h, w, _] = e.repeated_input();
        let dx = summed::<T::Number>(device, dx, e.multiplier, [n, h, w, e.channels])?;
        given::<T>(cx, dx, &self.slide.layout.back_from_last(4))
    }

    fn filter(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let (x, dy) = (cx.input(0)?, cx.input(2)?);
        let shape = cx.input(1)?.to_shape()?;
        let e = Extents::of(&self.slide, x.shape(), &shape)?;
        e.check_output(&self.slide, dy.shape())?;
        let device = &*cx.step().device;
        let to_last = self.slide.layout.to_last(4);
        let (x, dy) = (taken::<T>(cx, x, &to_last)?, taken::<T>(cx, dy, &to_last)?);
        let x = repeated::<T::Number>(device, &x, e.multiplier, e.repeated_input())?;
        let (x, dy) = (x.as_slice::<T::Number>()?, dy.as_slice::<T::Number>()?);
        let mut dw = room::<T::Number>(device, shape)?;
        let out = writable::<T::Number>(&mut dw)?;
        if !out.is_empty() {
            let lines = e.batch * e.y.output;
            let work = out.len() as f64 * (lines * e.x.output) as f64 / GRAIN as f64;
            let spans = (work.min(SPANS as f64) as usize).clamp(1, lines.max(1));
            let per = lines.div_ceil(spans).max(1);
            let mut all = room::<T::Number>(device, [spans * out.len()])?;
            let all = writable::<T::Number>(&mut all)?;
            spread::chunks(device.parallel(), all, out.len(), |i, part| {
                filter_grad(&e, x, dy, (i * per).min(lines)..((i + 1) * per).min(lines), part);
            });
            let (first, rest) = all.split_at(out.len());
            out.copy_from_slice(first);
            for part in rest.chunks(out.len()) {
                out.iter_mut().zip(part).for_each(|(a, b)| *a = a.plus(*b));
            }
        }
        T::narrowed(device, dw)
    }
}

impl<T: Item> Kernel for Depthwise<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let out = match self.side {
            Side::Output => self.output(cx),
            Side::Input(_) => self.input(cx),
            Side::Filter(_) => self.filter(cx),
        }?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>, side: Side) -> Result<Box<dyn Kernel>> {
    let slide = Slide::of(init.attrs, 2)?.plain()?;
    dispatch!(init.output_types[0], T in floats => {
        Ok(Box::new(Depthwise::<T> { slide, side, element: PhantomData }))
    }, else Err(init.no_kernel()))
}

const FAMILY: Family = Family {
    forward: "DepthwiseConv2dNative",
    input: "DepthwiseConv2dNativeBackpropInput",
    filter: "DepthwiseConv2dNativeBackpropFilter",
};

fn attributes(def: OpDef) -> OpDef {
    def.attr("T: {half, bfloat16, float, double}")
        .attr("strides: list(int)")
        .attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
        .attr("explicit_paddings: list(int) = []")
        .attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'")
        .attr("dilations: list(int) = [1, 1, 1, 1]")
}

fn sample(s: &mut Sampler, side: Side, same: bool) -> Result<Operation> {
    let (x, w, y) = match same {
        true => ([2, 4, 5, 3], [3, 2, 3, 2], [2, 2, 3, 6]),
        false => ([1, 2, 4, 6], [2, 3, 2, 1], [1, 2, 3, 3]),
    };
    let sizes = |d: [usize; 4]| d.map(|n| n as i32);
    let b = match side {
        Side::Output => {
            let (x, w) = (s.normal(x)?, s.normal(w)?);
            s.op(FAMILY.forward).input(&x).input(&w)
        }
        Side::Input(_) => {
            let (w, y) = (s.normal(w)?, s.normal(y)?);
            let x = s.constant(sizes(x))?;
            s.op(FAMILY.input).input(&x).input(&w).input(&y)
        }
        Side::Filter(_) => {
            let (x, y) = (s.normal(x)?, s.normal(y)?);
            let w = s.constant(sizes(w))?;
            s.op(FAMILY.filter).input(&x).input(&w).input(&y)
        }
    };
    match same {
        true => b.attr("strides", [1i64, 2, 2, 1]).attr("padding", "SAME"),
        false => b
            .attr("strides", [1i64, 1, 1, 1])
            .attr("dilations", [1i64, 1, 1, 2])
            .attr("padding", "EXPLICIT")
            .attr("explicit_paddings", [0i64, 0, 0, 0, 0, 0, 1, 0])
            .attr("data_format", "NCHW"),
    }
    .finish()
}

fn output_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let slide = Slide::of(cx.attrs(), 2)?;
    let (x, w) = (
        slide.layout.dims_last(&cx.input(0).with_rank(4)?),
        cx.input(1).with_rank(4)?,
    );
    let (n, f) = (x.dims().unwrap_or(&[]), w.dims().unwrap_or(&[]));
    if let (Some(c), Some(d)) = (n[3], f[2])
        && c != d
    {
        return Err(Error::invalid(format!(
            "input and filter must have the same depth: {c} vs {d}"
        )));
    }
    let mut dims = vec![n[0]];
    dims.extend(slide.outputs(&n[1..3], &f[..2])?);
    let channels = n[3].or(f[2]);
    dims.push(channels.zip(f[3]).and_then(|(c, m)| c.checked_mul(m)));
    Ok(vec![slide.layout.arranged(&dims)])
}

const INPUT: Side = Side::Input(From::Sizes);
const FILTER: Side = Side::Filter(From::Sizes);

fn depthwise() -> OpDef {
    let def = OpDef::new("DepthwiseConv2dNative", Category::Nn)
        .doc("The convolution of each channel with filters of its own, `[height, width, in, multiplier]`.")
        .input("input: T")
        .input("filter: T")
        .output("output: T");
    attributes(def)
        .shape(output_shape)
        .gradient(|cx, dys| FAMILY.of_forward(cx, dys))
        .cpu(|init| kernel(init, Side::Output))
        .sample(|s| sample(s, Side::Output, true))
        .sample(|s| sample(s, Side::Output, false))
}

fn backprop_input() -> OpDef {
    let def = OpDef::new("DepthwiseConv2dNativeBackpropInput", Category::Nn)
        .doc("The gradient of DepthwiseConv2dNative with respect to its input, whose shape is `input_sizes`.")
        .input("input_sizes: int32")
        .input("filter: T")
        .input("out_backprop: T")
        .output("output: T");
    attributes(def)
        .shape(|cx| {
            Slide::of(cx.attrs(), 2)?;
            Ok(vec![cx.constant_shape(0)?.with_rank(4)?])
        })
        .gradient(|cx, dys| FAMILY.of_input(cx, dys))
        .cpu(|init| kernel(init, INPUT))
        .sample(|s| sample(s, INPUT, true))
        .sample(|s| sample(s, INPUT, false))
}

fn backprop_filter() -> OpDef {
    let def = OpDef::new("DepthwiseConv2dNativeBackpropFilter", Category::Nn)
        .doc("The gradient of DepthwiseConv2dNative with respect to its filter, whose shape is `filter_sizes`.")
        .input("input: T")
        .input("filter_sizes: int32")
        .input("out_backprop: T")
        .output("output: T");
    attributes(def)
        .shape(|cx| kernels::filter(cx, 2))
        .gradient(|cx, dys| FAMILY.of_filter(cx, dys))
        .cpu(|init| kernel(init, FILTER))
        .sample(|s| sample(s, FILTER, true))
        .sample(|s| sample(s, FILTER, false))
}

register_ops!(depthwise, backprop_input, backprop_filter);

#[cfg(test)]
mod tests {
    use super::super::tests::Workers;
    use super::*;
    use actorflow_core::Attrs;

    fn slide(stride: [i64; 2], dilation: [i64; 2], padding: &str) -> Slide {
        let mut a = Attrs::new();
        a.set("strides", vec![1, stride[0], stride[1], 1]);
        a.set("dilations", vec![1, dilation[0], dilation[1], 1]);
        a.set("padding", padding);
        Slide::of(&a, 2).unwrap()
    }

    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        (0..n)
            .map(|i| ((i * 7919 + seed * 104_729) % 61) as f64 - 30.0)
            .collect()
    }

    #[test]
    fn every_channel_is_convolved_by_itself() {
        for (c, stride, dilation, padding) in [
            (3, [1, 1], [1, 1], "SAME"),
            (40, [2, 3], [1, 1], "SAME"),
            (33, [1, 2], [2, 3], "VALID"),
            (64, [3, 1], [1, 2], "VALID"),
        ] {
            let s = slide(stride, dilation, padding);
            let (input, filter) = (Shape::new(&[2, 9, 8, c]), Shape::new(&[3, 2, c, 1]));
            let e = Extents::of(&s, &input, &filter).unwrap();
            let (x, w) = (numbers(input.count(), 1), numbers(filter.count(), 2));
            let dy = numbers(e.output().iter().product(), 3);
            let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
            for at in 0..dy.len() {
                let (ch, ox) = (at % c, at / c % e.x.output);
                let (oy, n) = (at / c / e.x.output % e.y.output, at / c / e.x.output / e.y.output);
                for ky in 0..3 {
                    for kx in 0..2 {
                        let place = |a: &Axis, o, k| {
                            let i: usize = o * a.stride + k * a.dilation;
                            i.checked_sub(a.before).filter(|i| *i < a.input)
                        };
                        let (Some(iy), Some(ix)) = (place(&e.y, oy, ky), place(&e.x, ox, kx)) else {
                            continue;
                        };
                        let (i, k) = (((n * 9 + iy) * 8 + ix) * c + ch, (ky * 2 + kx) * c + ch);
                        y[at] += x[i] * w[k];
                        dx[i] += dy[at] * w[k];
                        dw[k] += dy[at] * x[i];
                    }
                }
            }
            for device in [Workers::one(), Workers::several()] {
                let mut got = vec![f64::NAN; y.len()];
                let views = ([View::forward(&e.y)], [View::forward(&e.x)]);
                gather(&device, &x, &w, (&views.0, &views.1), e.output(), 2, &mut got);
                assert_eq!(got, y);
                let mut got = vec![f64::NAN; x.len()];
                let views = (View::backward(&e.y), View::backward(&e.x));
                gather(&device, &dy, &w, (&views.0, &views.1), e.repeated_input(), 2, &mut got);
                assert_eq!(got, dx);
            }
            let mut got = vec![f64::NAN; w.len()];
            filter_grad(&e, &x, &dy, 0..2 * e.y.output, &mut got);
            assert_eq!(got, dw);
        }
    }
}
