//! `CropAndResize`, `CropAndResizeGradImage`, `CropAndResizeGradBoxes`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Operation, PartialShape, register_ops};

use super::resample::{Real, as_f32, image, into_dtype, require_real, resized_size, size};
use crate::ops::nn::conv::number::{room, writable};
use crate::spread;

const PIXELS: &str = "T: {uint8, uint16, int8, int16, int32, int64, half, float, double}";

/// Where the samples of a crop lie along one axis.
#[derive(Clone, Copy)]
struct Axis {
    from: f32,
    to: f32,
    /// Pixels of the image.
    pixels: usize,
    /// Samples of the crop.
    samples: usize,
}

/// The two pixels next to a sample, and how far it is from the first.
struct Between {
    low: usize,
    high: usize,
    part: f32,
}

impl Axis {
    fn last(&self) -> f32 {
        self.pixels as f32 - 1.0
    }

    /// Where sample `i` lies; `None` outside of the image.
    fn sample(&self, i: usize) -> Option<f32> {
        let at = match self.samples {
            1 => 0.5 * (self.from + self.to) * self.last(),
            n => self.from * self.last() + i as f32 * ((self.to - self.from) * self.last() / (n as f32 - 1.0)),
        };
        (at >= 0.0 && at <= self.last()).then_some(at)
    }

    fn between(&self, i: usize) -> Option<Between> {
        let at = self.sample(i)?;
        Some(Between {
            low: at.floor() as usize,
            high: at.ceil() as usize,
            part: at - at.floor(),
        })
    }

    /// The pixels of sample `i` and their weights.
    fn weights(&self, i: usize, nearest: bool) -> Option<[(usize, f32); 2]> {
        if nearest {
            return Some([(self.sample(i)?.round() as usize, 1.0), (0, 0.0)]);
        }
        let b = self.between(i)?;
        Some([(b.low, 1.0 - b.part), (b.high, b.part)])
    }

    /// The derivatives of sample `i`'s place with respect to `from` and `to`.
    fn slopes(&self, i: usize) -> (f32, f32) {
        match self.samples {
            1 => (0.5 * self.last(), 0.5 * self.last()),
            n => {
                let to = i as f32 * (self.last() / (n as f32 - 1.0));
                (self.last() - to, to)
            }
        }
    }
}

/// The boxes of one run and the image that each is of.
struct Boxes {
    list: Vec<([f32; 4], usize)>,
}

impl Boxes {
    /// Reads boxes and indices from inputs `i` and `i + 1`, for `batch` images.
    fn read(cx: &OpContext<'_>, i: usize, batch: usize) -> Result<Boxes> {
        let (boxes, index) = (cx.input(i)?, cx.input(i + 1)?);
        let n = match boxes.shape().dims() {
            [n, 4] => *n,
            _ => {
                return Err(Error::invalid(format!(
                    "boxes must have shape [boxes, 4], got {}",
                    boxes.shape()
                )));
            }
        };
        if index.shape().dims() != [n] {
            return Err(Error::invalid(format!(
                "box_ind must have one element for each of the {n} boxes, got shape {}",
                index.shape()
            )));
        }
        let mut list = Vec::with_capacity(n);
        for (b, i) in boxes
            .as_slice::<f32>()?
            .as_chunks::<4>()
            .0
            .iter()
            .zip(index.as_slice::<i32>()?)
        {
            let image = usize::try_from(*i).ok().filter(|i| *i < batch).ok_or_else(|| {
                Error::out_of_range(format!("box_ind has the value {i}, which is outside of [0, {batch})"))
            })?;
            if !b.iter().all(|x| x.is_finite()) {
                return Err(Error::invalid(format!("boxes must be finite, got {b:?}")));
            }
            list.push((*b, image));
        }
        Ok(Boxes { list })
    }

    /// The axes of box `b` for images of `[h, w]` and crops of `[ch, cw]`.
    fn axes(&self, b: usize, [h, w]: [usize; 2], [ch, cw]: [usize; 2]) -> (Axis, Axis) {
        let [y1, x1, y2, x2] = self.list[b].0;
        let axis = |from, to, pixels, samples| Axis {
            from,
            to,
            pixels,
            samples,
        };
        (axis(y1, y2, h, ch), axis(x1, x2, w, cw))
    }
}

fn crop(cx: &OpContext<'_>, nearest: bool, outside: f32) -> Result<actorflow_core::Tensor> {
    let device = &*cx.step().device;
    let [n, h, w, c] = image(cx.input(0)?.shape())?;
    let boxes = Boxes::read(cx, 1, n)?;
    let [ch, cw] = size(cx, 3, "crop_size")?;
    let x = as_f32(device, cx.input(0)?)?;
    let x = x.as_slice::<f32>()?;
    let mut out = room::<f32>(device, [boxes.list.len(), ch, cw, c])?;
    spread::chunks(device.parallel(), writable::<f32>(&mut out)?, ch * cw * c, |b, out| {
        let (ys, xs) = boxes.axes(b, [h, w], [ch, cw]);
        let image = &x[boxes.list[b].1 * h * w * c..][..h * w * c];
        for (j, out) in out.chunks_mut(cw * c).enumerate() {
            let Some(y) = ys.weights(j, nearest) else {
                out.fill(outside);
                continue;
            };
            for (k, out) in out.chunks_mut(c).enumerate() {
                let Some(x) = xs.weights(k, nearest) else {
                    out.fill(outside);
                    continue;
                };
                out.fill(0.0);
                for (py, wy) in y.iter().filter(|p| p.1 != 0.0) {
                    for (px, wx) in x.iter().filter(|p| p.1 != 0.0) {
                        let pixel = &image[(py * w + px) * c..][..c];
                        out.iter_mut().zip(pixel).for_each(|(o, p)| *o += wy * wx * p);
                    }
                }
            }
        }
    });
    Ok(out)
}

/// Checks the shape of the crops' gradient, input 0, and gives height and width of a crop.
fn crops(cx: &OpContext<'_>, boxes: usize, channels: usize) -> Result<[usize; 2]> {
    match cx.input(0)?.shape().dims() {
        [n, h, w, c] if *n == boxes && *c == channels && *h > 0 && *w > 0 => Ok([*h, *w]),
        _ => Err(Error::invalid(format!(
            "grads must have shape [{boxes}, height, width, {channels}] for {boxes} boxes, got {}",
            cx.input(0)?.shape()
        ))),
    }
}

fn image_grad<T: Real>(cx: &OpContext<'_>, nearest: bool, dtype: DType) -> Result<actorflow_core::Tensor> {
    let device = &*cx.step().device;
    let shape = cx.input(3)?.to_shape()?;
    let [n, h, w, c] = image(&shape)?;
    let boxes = Boxes::read(cx, 1, n)?;
    let [ch, cw] = crops(cx, boxes.list.len(), c)?;
    let g = cx.slice::<f32>(0)?;
    let mut out = room::<T>(device, shape)?;
    spread::chunks(device.parallel(), writable::<T>(&mut out)?, h * w * c, |i, out| {
        out.fill(T::ZERO);
        for b in (0..boxes.list.len()).filter(|b| boxes.list[*b].1 == i) {
            let (ys, xs) = boxes.axes(b, [h, w], [ch, cw]);
            for j in 0..ch {
                let Some(y) = ys.weights(j, nearest) else { continue };
                for k in 0..cw {
                    let Some(x) = xs.weights(k, nearest) else { continue };
                    let g = &g[((b * ch + j) * cw + k) * c..][..c];
                    for (py, wy) in y.iter().filter(|p| p.1 != 0.0) {
                        for (px, wx) in x.iter().filter(|p| p.1 != 0.0) {
                            let pixel = &mut out[(py * w + px) * c..][..c];
                            pixel
                                .iter_mut()
                                .zip(g)
                                .for_each(|(o, g)| *o = o.plus(T::of(wy * wx * g)));
                        }
                    }
                }
            }
        }
    });
    into_dtype(device, out, dtype)
}

fn boxes_grad(cx: &OpContext<'_>) -> Result<actorflow_core::Tensor> {
    let device = &*cx.step().device;
    let [n, h, w, c] = image(cx.input(1)?.shape())?;
    let boxes = Boxes::read(cx, 2, n)?;
    let [ch, cw] = crops(cx, boxes.list.len(), c)?;
    let x = as_f32(device, cx.input(1)?)?;
    let (g, x) = (cx.slice::<f32>(0)?, x.as_slice::<f32>()?);
    let mut out = room::<f32>(device, [boxes.list.len(), 4])?;
    spread::chunks(device.parallel(), writable::<f32>(&mut out)?, 4, |b, out| {
        let (ys, xs) = boxes.axes(b, [h, w], [ch, cw]);
        let image = &x[boxes.list[b].1 * h * w * c..][..h * w * c];
        let pixel = |y: usize, x: usize, d: usize| image[(y * w + x) * c + d];
        out.fill(0.0);
        for j in 0..ch {
            let Some(y) = ys.between(j) else { continue };
            for k in 0..cw {
                let Some(x) = xs.between(k) else { continue };
                let (mut along_y, mut along_x) = (0.0, 0.0);
                for d in 0..c {
                    let top = g[((b * ch + j) * cw + k) * c + d];
                    let (tl, tr) = (pixel(y.low, x.low, d), pixel(y.low, x.high, d));
                    let (bl, br) = (pixel(y.high, x.low, d), pixel(y.high, x.high, d));
                    along_y += top * ((1.0 - x.part) * (bl - tl) + x.part * (br - tr));
                    along_x += top * ((1.0 - y.part) * (tr - tl) + y.part * (br - bl));
                }
                let ((y1, y2), (x1, x2)) = (ys.slopes(j), xs.slopes(k));
                for (o, d) in out
                    .iter_mut()
                    .zip([along_y * y1, along_x * x1, along_y * y2, along_x * x2])
                {
                    *o += d;
                }
            }
        }
    });
    Ok(out)
}

fn is_nearest(init: &KernelInit<'_>) -> Result<bool> {
    Ok(init.attrs.str("method")? == "nearest")
}

fn sample(s: &mut Sampler, method: &str, size: [i32; 2]) -> Result<Operation> {
    // The output is float32: small pixels have small rounding errors, and so have the gradients of the boxes.
    let x = s.uniform([2, 3, 4, 1], -1e-4, 1e-4)?;
    let boxes = s.constant([[0.1f32, 0.2, 0.7, 0.9], [-0.2, 0.8, 0.95, 0.3]])?;
    let (index, size) = (s.constant([1i32, 0])?, s.constant(size)?);
    s.op("CropAndResize")
        .input(&x)
        .input(&boxes)
        .input(&index)
        .input(&size)
        .attr("method", method)
        .finish()
}

fn crop_and_resize() -> OpDef {
    OpDef::new("CropAndResize", Category::Image)
        .doc("Cuts boxes, in coordinates from 0 to 1, out of images and resizes them to one size.")
        .input("image: T")
        .input("boxes: float")
        .input("box_ind: int32")
        .input("crop_size: int32")
        .output("crops: float")
        .attr(PIXELS)
        .attr("method: {'bilinear', 'nearest'} = 'bilinear'")
        .attr("extrapolation_value: float = 0")
        .shape(|cx| {
            let (x, boxes) = (cx.input(0).with_rank(4)?, cx.input(1).with_rank(2)?);
            boxes.merge(&PartialShape::from([None, Some(4)]))?;
            let n = boxes.sub(0, 1).merge(&cx.input(2).with_rank(1)?)?;
            let [h, w] = resized_size(cx, 3);
            Ok(vec![PartialShape::from([n.dim(0), h, w, x.dim(3)])])
        })
        .gradient(|cx, dys| {
            let (x, dy, method) = (cx.input(0)?, cx.dense(dys, 0)?, cx.attrs().str("method")?.to_owned());
            let (boxes, index) = (cx.input(1)?, cx.input(2)?);
            let g = cx.graph();
            let dx = match x.dtype() {
                DType::F16 | DType::F32 | DType::F64 => {
                    let b = g.op("CropAndResizeGradImage").input(&dy).input(&boxes).input(&index);
                    let b = b
                        .input(&x.shape_op()?)
                        .attr("T", x.dtype())
                        .attr("method", method.as_str());
                    Some(b.output()?.into())
                }
                _ => None,
            };
            // TensorFlow takes the slope of the interpolation for the nearest pixel, too.
            let b = g
                .op("CropAndResizeGradBoxes")
                .input(&dy)
                .input(&x)
                .input(&boxes)
                .input(&index);
            Ok(vec![dx, Some(b.output()?.into()), None, None])
        })
        .cpu(|init| {
            let (nearest, outside) = (is_nearest(init)?, init.attrs.float("extrapolation_value")?);
            require_real(init, 0)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let out = crop(cx, nearest, outside)?;
                cx.set_output(0, out);
                Ok(())
            }) as Box<dyn Kernel>)
        })
        .sample(|s| sample(s, "bilinear", [3, 2]))
        .sample(|s| sample(s, "bilinear", [1, 4]))
        .sample(|s| sample(s, "nearest", [2, 3]))
}

fn grad_image() -> OpDef {
    OpDef::new("CropAndResizeGradImage", Category::Image)
        .doc("The gradient of CropAndResize with respect to the images, whose shape is `image_size`.")
        .input("grads: float")
        .input("boxes: float")
        .input("box_ind: int32")
        .input("image_size: int32")
        .output("output: T")
        .attr("T: {float, half, double}")
        .attr("method: {'bilinear', 'nearest'} = 'bilinear'")
        .shape(|cx| Ok(vec![cx.constant_shape(3)?.with_rank(4)?]))
        .cpu(|init| {
            let (nearest, dtype) = (is_nearest(init)?, init.output_types[0]);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let out = match dtype {
                    DType::F64 => image_grad::<f64>(cx, nearest, dtype)?,
                    _ => image_grad::<f32>(cx, nearest, dtype)?,
                };
                cx.set_output(0, out);
                Ok(())
            }) as Box<dyn Kernel>)
        })
}

fn grad_boxes() -> OpDef {
    OpDef::new("CropAndResizeGradBoxes", Category::Image)
        .doc("The gradient of CropAndResize with respect to the boxes.")
        .input("grads: float")
        .input("image: T")
        .input("boxes: float")
        .input("box_ind: int32")
        .output("output: float")
        .attr(PIXELS)
        .attr("method: {'bilinear'} = 'bilinear'")
        .shape(|cx| Ok(vec![cx.input(2).merge(&PartialShape::from([None, Some(4)]))?]))
        .cpu(|init| {
            require_real(init, 1)?;
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let out = boxes_grad(cx)?;
                cx.set_output(0, out);
                Ok(())
            }) as Box<dyn Kernel>)
        })
}

register_ops!(crop_and_resize, grad_image, grad_boxes);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output, Tensor};

    fn crop(g: &Graph, boxes: &Output, index: &[i32], size: [i32; 2]) -> Output {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let x = g.constant(Tensor::from_slice([1, 2, 3, 2], &x).unwrap()).unwrap();
        let (index, size) = (g.constant(Tensor::vector(index)).unwrap(), g.constant(size).unwrap());
        g.op("CropAndResize")
            .input(&x)
            .input(boxes)
            .input(&index)
            .input(&size)
            .output()
            .unwrap()
    }

    #[test]
    fn boxes_are_cut_out() {
        let g = Graph::new();
        let boxes = g.constant([[0f32, 0., 1., 1.], [0.5, -0.5, 2.0, 0.5]]).unwrap();
        let y = eval(&crop(&g, &boxes, &[0, 0], [2, 2])).to_vec::<f32>().unwrap();
        assert_eq!(y, [0., 1., 4., 5., 6., 7., 10., 11., 0., 0., 5., 6., 0., 0., 0., 0.]);
    }

    #[test]
    fn boxes_have_gradients() {
        let g = Graph::new();
        let at = |b: [f32; 4]| -> (f32, Vec<f32>) {
            let boxes = g.constant(Tensor::from_slice([1, 4], &b).unwrap()).unwrap();
            let y = crop(&g, &boxes, &[0], [2, 3]);
            let d = actorflow_core::gradient::gradients(std::slice::from_ref(&y), &[boxes]).unwrap()[0]
                .clone()
                .unwrap();
            let sum = eval(&y).to_vec::<f32>().unwrap().iter().sum();
            (sum, eval(&d.to_dense().unwrap()).to_vec().unwrap())
        };
        let b = [0.1, 0.2, 0.8, 0.9];
        let (_, d) = at(b);
        for i in 0..4 {
            let moved = |by: f32| {
                let mut b = b;
                b[i] += by;
                at(b).0
            };
            let numeric = (moved(0.01) - moved(-0.01)) / 0.02;
            assert!(
                (numeric - d[i]).abs() < 1e-2 * numeric.abs().max(1.0),
                "{i}: {numeric} {}",
                d[i]
            );
        }
    }

    #[test]
    fn boxes_of_no_image_are_out_of_range() {
        let g = Graph::new();
        let boxes = g.constant([[0f32, 0., 1., 1.]]).unwrap();
        assert_eq!(fails(&crop(&g, &boxes, &[1], [1, 1])).code(), Code::OutOfRange);
        assert_eq!(fails(&crop(&g, &boxes, &[0], [0, 1])).code(), Code::InvalidArgument);
        let nan = g.constant([[f32::NAN, 0., 1., 1.]]).unwrap();
        assert_eq!(fails(&crop(&g, &nan, &[0], [1, 1])).code(), Code::InvalidArgument);
    }

    #[test]
    fn shapes_are_known() {
        let g = Graph::new();
        let boxes = g.constant([[0f32, 0., 1., 1.]]).unwrap();
        assert_eq!(crop(&g, &boxes, &[0], [4, 5]).shape(), PartialShape::from([1, 4, 5, 2]));
    }
}
