//! `ScaleAndTranslate`, `ScaleAndTranslateGrad`.
#![forbid(unsafe_code)]

use std::f32::consts::PI;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::resample::{as_f32, back_by, image, require_real, resample, resized_size, size};
use super::taps::Taps;
use crate::ops::nn::conv::number::{room, writable};

/// The kernel by which samples are weighted, a function of the distance.
#[derive(Clone, Copy, Debug)]
enum Weighting {
    Lanczos(f32),
    Gaussian,
    Box,
    Triangle,
    KeysCubic,
    MitchellCubic,
}

/// Where the Gaussian is cut off, three standard deviations.
const GAUSSIAN: f32 = 1.5;

impl Weighting {
    fn of(name: &str) -> Result<Weighting> {
        Ok(match name {
            "lanczos1" => Weighting::Lanczos(1.0),
            "lanczos3" => Weighting::Lanczos(3.0),
            "lanczos5" => Weighting::Lanczos(5.0),
            "gaussian" => Weighting::Gaussian,
            "box" => Weighting::Box,
            "triangle" => Weighting::Triangle,
            "keyscubic" => Weighting::KeysCubic,
            "mitchellcubic" => Weighting::MitchellCubic,
            _ => return Err(Error::invalid(format!("unrecognized kernel type: {name}"))),
        })
    }

    fn radius(self) -> f32 {
        match self {
            Weighting::Lanczos(r) => r,
            Weighting::Gaussian => GAUSSIAN,
            Weighting::Box | Weighting::Triangle => 1.0,
            Weighting::KeysCubic | Weighting::MitchellCubic => 2.0,
        }
    }

    /// The weight at distance `x`, not negative.
    fn at(self, x: f32) -> f32 {
        match self {
            Weighting::Lanczos(r) if x > r => 0.0,
            Weighting::Lanczos(_) if x <= 1e-3 => 1.0,
            Weighting::Lanczos(r) => r * (PI * x).sin() * (PI * x / r).sin() / (PI * PI * x * x),
            Weighting::Gaussian if x >= GAUSSIAN => 0.0,
            Weighting::Gaussian => {
                let sigma = GAUSSIAN / 3.0;
                (-x * x / (2.0 * sigma * sigma)).exp()
            }
            Weighting::Box if x < 0.5 => 1.0,
            Weighting::Box if x == 0.5 => 0.5,
            Weighting::Box => 0.0,
            Weighting::Triangle => (1.0 - x).max(0.0),
            Weighting::KeysCubic if x >= 2.0 => 0.0,
            Weighting::KeysCubic if x >= 1.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Weighting::KeysCubic => ((1.5 * x - 2.5) * x) * x + 1.0,
            Weighting::MitchellCubic if x >= 2.0 => 0.0,
            Weighting::MitchellCubic if x >= 1.0 => ((-7.0 / 18.0 * x + 2.0) * x - 10.0 / 3.0) * x + 16.0 / 9.0,
            Weighting::MitchellCubic => ((7.0 / 6.0 * x - 2.0) * x) * x + 8.0 / 9.0,
        }
    }

    /// The taps of an axis whose inputs are scaled and then moved to be outputs. With `antialias` the kernel grows
    /// where the image shrinks.
    fn taps(self, inputs: usize, outputs: usize, (scale, shift): (f32, f32), antialias: bool) -> Taps {
        let inverse = 1.0 / scale;
        let wide = if antialias { inverse.max(1.0) } else { 1.0 };
        let reach = self.radius() * wide;
        let last = inputs as i64 - 1;
        Taps::build(inputs, outputs, |o, list| {
            let sample = (o as f32 + 0.5) * inverse - inverse * shift;
            if !(0.0..=inputs as f32).contains(&sample) {
                return;
            }
            let first = ((sample - reach - 0.5).ceil() as i64).clamp(0, last);
            let end = ((sample + reach - 0.5).floor() as i64).clamp(0, last);
            let mut sum = 0.0;
            for i in first..=end {
                let weight = self.at(((i as f32 + 0.5 - sample) / wide).abs());
                sum += weight;
                list.push((i as usize, weight));
            }
            if sum.abs() >= 1000.0 * f32::MIN_POSITIVE {
                list.iter_mut().for_each(|t| t.1 /= sum);
            } else {
                list.clear();
            }
        })
    }
}

struct Scaling {
    weighting: Result<Weighting>,
    antialias: bool,
}

impl Scaling {
    fn of(init: &KernelInit<'_>) -> Result<Scaling> {
        Ok(Scaling {
            weighting: Weighting::of(init.attrs.str("kernel_type")?),
            antialias: init.attrs.bool("antialias")?,
        })
    }

    /// The taps along y and x from scale and translation in inputs 2 and 3.
    fn taps(&self, cx: &OpContext<'_>, from: [usize; 2], to: [usize; 2]) -> Result<[Taps; 2]> {
        let weighting = self.weighting.clone()?;
        let pair = |i: usize, what: &str| -> Result<[f32; 2]> {
            match *cx.slice::<f32>(i)? {
                [y, x] if y.is_finite() && x.is_finite() => Ok([y, x]),
                _ => Err(Error::invalid(format!(
                    "{what} must be two finite numbers, got a tensor of shape {}",
                    cx.input(i)?.shape()
                ))),
            }
        };
        let (scale, shift) = (pair(2, "scale")?, pair(3, "translation")?);
        if scale.iter().any(|s| *s <= 0.0) {
            return Err(Error::invalid(format!(
                "scale values must be greater than zero, got {scale:?}"
            )));
        }
        Ok([0, 1].map(|i| weighting.taps(from[i], to[i], (scale[i], shift[i]), self.antialias)))
    }

    fn forward(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let ([n, h, w, c], [oh, ow]) = (image(cx.input(0)?.shape())?, size(cx, 1, "output dimensions")?);
        let device = &*cx.step().device;
        let mut out = room::<f32>(device, [n, oh, ow, c])?;
        let [y, x] = self.taps(cx, [h, w], [oh, ow])?;
        let images = as_f32(device, cx.input(0)?)?;
        resample(
            device.parallel(),
            images.as_slice::<f32>()?,
            c,
            &y,
            &x,
            writable(&mut out)?,
        );
        Ok(out)
    }

    fn backward(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let ([_, h, w, _], [_, oh, ow, _]) = (image(cx.input(1)?.shape())?, image(cx.input(0)?.shape())?);
        let [y, x] = self.taps(cx, [h, w], [oh, ow])?;
        back_by(cx, &y.turned(), &x.turned(), cx.input(1)?.dtype())
    }
}

fn attributes(def: OpDef) -> OpDef {
    def.attr("kernel_type: string = 'lanczos3'")
        .attr("antialias: bool = true")
}

fn scale_and_translate() -> OpDef {
    let def = OpDef::new("ScaleAndTranslate", Category::Image)
        .doc("Images scaled, then moved, then cut to height and width `size`, sampled with a kernel.")
        .input("images: T")
        .input("size: int32")
        .input("scale: float")
        .input("translation: float")
        .output("resized_images: float")
        .attr("T: {int8, uint8, int16, uint16, int32, int64, bfloat16, half, float, double}");
    attributes(def)
        .shape(|cx| {
            let x = cx.input(0).with_rank(4)?;
            let [h, w] = resized_size(cx, 1);
            Ok(vec![PartialShape::from([x.dim(0), h, w, x.dim(3)])])
        })
        .gradient(|cx, dys| {
            let mut b = cx.graph().op("ScaleAndTranslateGrad").input(&cx.dense(dys, 0)?);
            for i in [0, 2, 3] {
                b = b.input(&cx.input(i)?);
            }
            for name in ["kernel_type", "antialias"] {
                if let Some(a) = cx.attrs().get(name) {
                    b = b.attr(name, a.clone());
                }
            }
            Ok(vec![Some(b.output()?.into()), None, None, None])
        })
        .cpu(|init| {
            let s = Scaling::of(init)?;
            require_real(init, 0)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let out = s.forward(cx)?;
                cx.set_output(0, out);
                Ok(())
            }) as Box<dyn Kernel>)
        })
        .sample(|s| sample(s, "lanczos3", true))
        .sample(|s| sample(s, "keyscubic", false))
        .sample(|s| sample(s, "box", true))
}

fn sample(s: &mut actorflow_core::op::Sampler, kernel: &str, antialias: bool) -> Result<actorflow_core::Operation> {
    // The output is float32: small numbers have small rounding errors.
    let x = s.uniform([1, 3, 4, 1], -1e-4, 1e-4)?;
    let (size, scale, shift) = (
        s.constant([2i32, 6])?,
        s.constant([0.6f32, 1.4])?,
        s.constant([0.2f32, -0.3])?,
    );
    s.op("ScaleAndTranslate")
        .input(&x)
        .input(&size)
        .input(&scale)
        .input(&shift)
        .attr("kernel_type", kernel)
        .attr("antialias", antialias)
        .finish()
}

fn scale_and_translate_grad() -> OpDef {
    let def = OpDef::new("ScaleAndTranslateGrad", Category::Image)
        .doc("The gradient of ScaleAndTranslate with respect to the images. Double is allowed beyond TensorFlow's float.")
        .input("grads: float")
        .input("original_image: T")
        .input("scale: float")
        .input("translation: float")
        .output("output: T")
        .attr("T: {float, double, half, bfloat16}");
    attributes(def)
        .shape(|cx| Ok(vec![cx.input(1).with_rank(4)?]))
        .cpu(|init| {
            let s = Scaling::of(init)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let out = s.backward(cx)?;
                cx.set_output(0, out);
                Ok(())
            }) as Box<dyn Kernel>)
        })
}

register_ops!(scale_and_translate, scale_and_translate_grad);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output};

    fn scaled(scale: f32, shift: f32, kernel: &str) -> Output {
        let g = Graph::new();
        let x = g
            .constant(Tensor::from_slice([1, 1, 4, 1], &[1f32, 2., 3., 4.]).unwrap())
            .unwrap();
        let (size, scale) = (g.constant([1i32, 4]).unwrap(), g.constant([1.0f32, scale]).unwrap());
        let shift = g.constant([0f32, shift]).unwrap();
        let b = g
            .op("ScaleAndTranslate")
            .input(&x)
            .input(&size)
            .input(&scale)
            .input(&shift);
        b.attr("kernel_type", kernel).output().unwrap()
    }

    #[test]
    fn images_are_moved_and_scaled() {
        assert_eq!(
            eval(&scaled(1.0, 1.0, "triangle")).to_vec::<f32>().unwrap(),
            [0., 1., 2., 3.]
        );
        assert_eq!(
            eval(&scaled(2.0, 0.0, "box")).to_vec::<f32>().unwrap(),
            [1., 1., 2., 2.]
        );
        assert_eq!(
            eval(&scaled(0.5, 0.0, "box")).to_vec::<f32>().unwrap(),
            [1.5, 3.5, 0., 0.]
        );
        assert_eq!(fails(&scaled(0.0, 0.0, "box")).code(), Code::InvalidArgument);
        assert_eq!(fails(&scaled(1.0, 0.0, "sphere")).code(), Code::InvalidArgument);
    }
}
