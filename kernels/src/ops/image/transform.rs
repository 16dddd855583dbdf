//! `ImageProjectiveTransformV2`, `ImageProjectiveTransformV3`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Output, PartialShape, Tensor, register_ops};

use super::resample::{as_f64, into_dtype, resized_size, size};
use crate::ops::nn::conv::number::{room, writable};
use crate::spread;

/// What lies outside of the image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fill {
    /// One value.
    Constant,
    /// The image mirrored: `dcba|abcd|dcba`.
    Reflect,
    /// The image again: `abcd|abcd|abcd`.
    Wrap,
    /// The nearest pixel: `aaaa|abcd|dddd`.
    Nearest,
}

impl Fill {
    /// The coordinate in an image with `len` pixels that stands for `x`; one outside stays so for a constant.
    fn map(self, x: f64, len: usize) -> f64 {
        let n = len as f64;
        let inside = |x: f64| x.clamp(0.0, n - 1.0);
        match self {
            Fill::Constant => x,
            Fill::Nearest => inside(x),
            Fill::Reflect if len > 1 => {
                let two = 2.0 * n;
                inside(if x < 0.0 {
                    let x = if x < two { two * (-x / two).trunc() + x } else { x };
                    if x < -n { x + two } else { -x - 1.0 }
                } else if x > n - 1.0 {
                    let x = x - two * (x / two).trunc();
                    if x >= n { two - x - 1.0 } else { x }
                } else {
                    x
                })
            }
            Fill::Wrap if len > 1 => inside(if x < 0.0 {
                x + n * ((-x / (n - 1.0)).trunc() + 1.0)
            } else if x > n - 1.0 {
                x - n * (x / (n - 1.0)).trunc()
            } else {
                x
            }),
            Fill::Reflect | Fill::Wrap => 0.0,
        }
    }
}

struct Transform {
    linear: bool,
    fill: Fill,
    dtype: DType,
}

/// One image, with zeros or the fill value around it.
struct Image<'a> {
    pixels: &'a [f64],
    height: usize,
    width: usize,
    channels: usize,
    outside: f64,
}

impl Image<'_> {
    fn at(&self, y: f64, x: f64, c: usize) -> f64 {
        if y >= 0.0 && y < self.height as f64 && x >= 0.0 && x < self.width as f64 {
            self.pixels[(y as usize * self.width + x as usize) * self.channels + c]
        } else {
            self.outside
        }
    }
}

impl Transform {
    fn run(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let device = &*cx.step().device;
        let (images, transforms) = (cx.input(0)?, cx.input(1)?);
        let [n, h, w, c] = <[usize; 4]>::try_from(images.shape().dims())
            .map_err(|_| Error::invalid(format!("images must have rank 4, got {}", images.shape())))?;
        let count = match transforms.shape().dims() {
            [m, 8] if *m == 1 || *m == n => *m,
            _ => {
                return Err(Error::invalid(format!(
                    "input transform should be num_images x 8 or 1 x 8, got {} for {n} images",
                    transforms.shape()
                )));
            }
        };
        let [oh, ow] = size(cx, 2, "output_shape")?;
        let outside = match cx.num_inputs() {
            4 => f64::from(cx.input(3)?.to_scalar::<f32>()?),
            _ => 0.0,
        };
        let wide = as_f64(device, images)?;
        let (from, matrices) = (wide.as_slice::<f64>()?, transforms.as_slice::<f32>()?);
        let mut out = room::<f64>(device, [n, oh, ow, c])?;
        let line = ow * c;
        spread::chunks(device.parallel(), writable::<f64>(&mut out)?, line, |i, out| {
            let (image, y) = (i / oh, i % oh);
            let m: Vec<f32> = matrices[if count == 1 { 0 } else { image * 8 }..][..8].to_vec();
            let image = Image {
                pixels: &from[image * h * w * c..][..h * w * c],
                height: h,
                width: w,
                channels: c,
                outside,
            };
            for (x, out) in out.chunks_mut(c).enumerate() {
                let (fx, fy) = (x as f32, y as f32);
                let projection = m[6] * fx + m[7] * fy + 1.0;
                if projection == 0.0 {
                    out.fill(outside);
                    continue;
                }
                let at_x = (m[0] * fx + m[1] * fy + m[2]) / projection;
                let at_y = (m[3] * fx + m[4] * fy + m[5]) / projection;
                let (at_y, at_x) = (self.fill.map(at_y.into(), h), self.fill.map(at_x.into(), w));
                for (c, o) in out.iter_mut().enumerate() {
                    *o = self.sample(&image, at_y, at_x, c);
                }
            }
        });
        into_dtype(device, out, self.dtype)
    }

    fn sample(&self, image: &Image<'_>, y: f64, x: f64, c: usize) -> f64 {
        if !self.linear {
            return image.at(y.round(), x.round(), c);
        }
        let (y0, x0) = (y.floor(), x.floor());
        let (py, px) = (y - y0, x - x0);
        let line = |y: f64| (1.0 - px) * image.at(y, x0, c) + px * image.at(y, x0 + 1.0, c);
        (1.0 - py) * line(y0) + py * line(y0 + 1.0)
    }
}

impl Kernel for Transform {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let out = self.run(cx)?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let linear = match init.attrs.str("interpolation")? {
        "NEAREST" => false,
        "BILINEAR" => true,
        i => {
            return Err(Error::invalid(format!(
                "invalid interpolation {i}. Supported types: NEAREST, BILINEAR"
            )));
        }
    };
    let fill = match init.attrs.str("fill_mode")? {
        "CONSTANT" => Fill::Constant,
        "REFLECT" => Fill::Reflect,
        "WRAP" => Fill::Wrap,
        "NEAREST" => Fill::Nearest,
        f => {
            return Err(Error::invalid(format!(
                "invalid fill_mode {f}. Supported modes: REFLECT, WRAP, CONSTANT, NEAREST"
            )));
        }
    };
    Ok(Box::new(Transform {
        linear,
        fill,
        dtype: init.output_types[0],
    }))
}

/// The transforms that undo `transforms`, rows of eight.
fn inverted(transforms: &Output) -> Result<Output> {
    let g = transforms.graph();
    let rows = transforms.reshape(&[-1, 8])?;
    let (first, one) = (g.constant([0i32, 0])?, g.constant([-1i32, 1])?);
    let column = g.op("Slice").input(&rows).input(&first).input(&one).output()?;
    let matrices = g.concat(&[rows, column.ones_like()?], 1)?.reshape(&[-1, 3, 3])?;
    let flat = matrices.unary("MatrixInverse")?.reshape(&[-1, 9])?;
    let slice = |from: [i32; 2], n: [i32; 2]| {
        let (from, n) = (g.constant(from)?, g.constant(n)?);
        g.op("Slice").input(&flat).input(&from).input(&n).output()
    };
    slice([0, 0], [-1, 8])?.divided_by(&slice([0, 8], [-1, 1])?)
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let (images, g) = (cx.input(0)?, cx.graph());
    let (from, n) = (g.constant([1i32])?, g.constant([2i32])?);
    let shape = g
        .op("Slice")
        .input(&images.shape_op()?)
        .input(&from)
        .input(&n)
        .output()?;
    let mut b = g
        .op(op)
        .input(&cx.dense(dys, 0)?)
        .input(&inverted(&cx.input(1)?)?)
        .input(&shape);
    let zero = g.constant(0f32)?;
    if cx.num_inputs() > 3 {
        b = b.input(&zero);
    }
    for name in ["interpolation", "fill_mode"] {
        if let Some(a) = cx.attrs().get(name) {
            b = b.attr(name, a.clone());
        }
    }
    let mut all = vec![None; cx.num_inputs()];
    all[0] = Some(b.output()?.into());
    Ok(all)
}

fn attributes(def: OpDef) -> OpDef {
    def.output("transformed_images: dtype")
        .attr("dtype: {uint8, int32, int64, half, bfloat16, float, double}")
        .attr("interpolation: string")
        .attr("fill_mode: string = 'CONSTANT'")
        .shape(|cx| {
            let x = cx.input(0).with_rank(4)?;
            let [h, w] = resized_size(cx, 2);
            Ok(vec![PartialShape::from([x.dim(0), h, w, x.dim(3)])])
        })
        .cpu(kernel)
}

fn inputs(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Image)
        .doc(
            "Pixel (x, y) of the result is the image's at ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k) with \
             k = c0 x + c1 y + 1. The gradient is the transform by the inverse, as in TensorFlow.",
        )
        .input("images: dtype")
        .input("transforms: float")
        .input("output_shape: int32")
}

/// A shift by whole pixels, for which the transform by the inverse is the true gradient.
const SHIFT: [[f32; 8]; 1] = [[1.0, 0.0, 1.0, 0.0, 1.0, -1.0, 0.0, 0.0]];

fn v2() -> OpDef {
    attributes(inputs("ImageProjectiveTransformV2"))
        .gradient(|cx, dys| gradient(cx, dys, "ImageProjectiveTransformV2"))
        .sample(|s| {
            let x = s.normal([2, 3, 4, 2])?;
            let (t, size) = (s.constant(SHIFT)?, s.constant([3i32, 4])?);
            s.op("ImageProjectiveTransformV2")
                .input(&x)
                .input(&t)
                .input(&size)
                .attr("interpolation", "BILINEAR")
                .finish()
        })
}

fn v3() -> OpDef {
    attributes(inputs("ImageProjectiveTransformV3").input("fill_value: float"))
        .gradient(|cx, dys| gradient(cx, dys, "ImageProjectiveTransformV3"))
        .sample(|s| {
            let x = s.normal([1, 3, 4, 2])?;
            let (t, size, fill) = (s.constant(SHIFT)?, s.constant([3i32, 4])?, s.constant(0.5f32)?);
            s.op("ImageProjectiveTransformV3")
                .input(&x)
                .input(&t)
                .input(&size)
                .input(&fill)
                .attr("interpolation", "NEAREST")
                .finish()
        })
}

register_ops!(v2, v3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph};

    fn shifted(by: f32, interpolation: &str, fill: &str) -> Output {
        let g = Graph::new();
        let x = g
            .constant(Tensor::from_slice([1, 1, 4, 1], &[1f32, 2., 3., 4.]).unwrap())
            .unwrap();
        let t = g.constant([[1f32, 0., by, 0., 1., 0., 0., 0.]]).unwrap();
        let (size, value) = (g.constant([1i32, 6]).unwrap(), g.constant(9f32).unwrap());
        g.op("ImageProjectiveTransformV3")
            .input(&x)
            .input(&t)
            .input(&size)
            .input(&value)
            .attr("interpolation", interpolation)
            .attr("fill_mode", fill)
            .output()
            .unwrap()
    }

    #[test]
    fn what_lies_outside_is_filled() {
        let run = |fill| eval(&shifted(-1.0, "NEAREST", fill)).to_vec::<f32>().unwrap();
        assert_eq!(run("CONSTANT"), [9., 1., 2., 3., 4., 9.]);
        assert_eq!(run("REFLECT"), [1., 1., 2., 3., 4., 4.]);
        assert_eq!(run("WRAP"), [4., 1., 2., 3., 4., 1.]);
        assert_eq!(run("NEAREST"), [1., 1., 2., 3., 4., 4.]);
    }

    #[test]
    fn pixels_are_interpolated() {
        let y = eval(&shifted(0.5, "BILINEAR", "CONSTANT")).to_vec::<f32>().unwrap();
        assert_eq!(y[..4], [1.5, 2.5, 3.5, 6.5]);
        assert_eq!(fails(&shifted(0.0, "CUBIC", "CONSTANT")).code(), Code::InvalidArgument);
        assert_eq!(fails(&shifted(0.0, "NEAREST", "NOTHING")).code(), Code::InvalidArgument);
    }
}
