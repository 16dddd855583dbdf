//! `ExtractGlimpse`, `ExtractGlimpseV2`.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::{Philox, normal_f32, uniform_f32};
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};

use super::resample::{resized_size, size};
use crate::ops::nn::conv::number::{room, writable};
use crate::ops::random::stream::Singles;

/// What is seen where a glimpse leaves the image.
#[derive(Clone, Copy, Debug)]
enum Noise {
    /// Between the least and the largest element of the image.
    Uniform,
    /// With the mean and deviation of each channel.
    Gaussian,
    Zero,
}

struct Glimpse {
    first_version: bool,
    centered: bool,
    normalized: bool,
    noise: Noise,
}

/// The part of a glimpse along one axis that lies in the image.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// First pixel in the image.
    from: usize,
    /// First pixel in the glimpse.
    to: usize,
    len: usize,
}

impl Glimpse {
    fn of(init: &KernelInit<'_>) -> Result<Glimpse> {
        let noise = match (init.attrs.bool("uniform_noise")?, init.attrs.str("noise")?) {
            (true, "uniform" | "") | (false, "uniform") => Noise::Uniform,
            (false, "gaussian" | "") => Noise::Gaussian,
            (false, "zero") => Noise::Zero,
            (true, other) => {
                return Err(Error::invalid(format!(
                    "The uniform_noise and noise should not be specified at the same time: noise is {other:?}"
                )));
            }
            (_, other) => return Err(Error::invalid(format!("Unknown noise type: {other}"))),
        };
        Ok(Glimpse {
            first_version: init.op == "ExtractGlimpse",
            centered: init.attrs.bool("centered")?,
            normalized: init.attrs.bool("normalized")?,
            noise,
        })
    }

    /// The place of a glimpse of `size` pixels at `offset` along an axis of `input` pixels.
    fn seen(&self, offset: f32, size: usize, input: usize) -> Result<Seen> {
        let (n, half) = (input as f32, size as f32 / 2.0);
        let mut at = offset;
        if self.normalized {
            at *= n;
        }
        match (self.centered, self.normalized, self.first_version) {
            (true, _, true) | (true, true, false) => at = at / 2.0 + n / 2.0,
            (true, false, false) => at += n / 2.0,
            _ => {}
        }
        if self.first_version || (self.centered && self.normalized) {
            at -= half;
        }
        if !at.is_finite() {
            return Err(Error::invalid(format!(
                "a glimpse's offset must be finite, got {offset}"
            )));
        }
        // Cut off towards zero.
        let at = at as i64;
        let to = at.saturating_neg().clamp(0, size as i64) as usize;
        let from = at.clamp(0, input as i64) as usize;
        let len = (size - to).min(input - from);
        // A glimpse that begins before the image shows at most as much as reaches into it.
        Ok(Seen { from, to, len })
    }

    fn background(&self, image: &[f32], channels: usize, random: &mut Singles, out: &mut [f32]) {
        match self.noise {
            Noise::Zero => out.fill(0.0),
            Noise::Uniform => {
                let (low, high) = image
                    .iter()
                    .fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
                let range = if high > low { high - low } else { 0.0 };
                let low = if low.is_finite() { low } else { 0.0 };
                out.iter_mut()
                    .for_each(|o| *o = low + uniform_f32(random.next()) * range);
            }
            Noise::Gaussian => {
                let n = (image.len() / channels.max(1)).max(1) as f64;
                for c in 0..channels {
                    let values = || image.iter().skip(c).step_by(channels).map(|x| f64::from(*x));
                    let mean = values().sum::<f64>() / n;
                    let deviation = (values().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
                    for o in out.iter_mut().skip(c).step_by(channels) {
                        let (x0, x1) = (random.next(), random.next());
                        *o = (mean + deviation * f64::from(normal_f32(x0, x1).0)) as f32;
                    }
                }
            }
        }
    }

    fn run(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let (x, offsets) = (cx.input(0)?, cx.input(2)?);
        let [n, h, w, c] = <[usize; 4]>::try_from(x.shape().dims()).map_err(|_| {
            Error::invalid(format!(
                "input must be 4-dimensional (batch_size, height, width, depth), got shape {}",
                x.shape()
            ))
        })?;
        let [gh, gw] = size(cx, 1, "the size of a glimpse")?;
        if offsets.shape().dims() != [n, 2] {
            return Err(Error::invalid(format!(
                "input should have shape ({n}, 2), one offset for each image, got {}",
                offsets.shape()
            )));
        }
        let mut out = room::<f32>(&*cx.step().device, Shape::from([n, gh, gw, c]))?;
        let (image, glimpse) = (h * w * c, gh * gw * c);
        let keys = RandomState::new();
        let mut random = Singles::new(Philox::new(keys.hash_one(0u8), keys.hash_one(1u8)));
        let (x, offsets) = (x.as_slice::<f32>()?, offsets.as_slice::<f32>()?);
        for (b, out) in writable::<f32>(&mut out)?.chunks_mut(glimpse.max(1)).enumerate() {
            let x = &x[b * image..][..image];
            let [y, z] = [self.seen(offsets[2 * b], gh, h)?, self.seen(offsets[2 * b + 1], gw, w)?];
            if (y.len, z.len) != (gh, gw) {
                self.background(x, c, &mut random, out);
            }
            for i in 0..y.len {
                let from = ((y.from + i) * w + z.from) * c;
                let to = ((y.to + i) * gw + z.to) * c;
                out[to..to + z.len * c].copy_from_slice(&x[from..from + z.len * c]);
            }
        }
        Ok(out)
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let g = Glimpse::of(init)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let out = g.run(cx)?;
        cx.set_output(0, out);
        Ok(())
    }))
}

fn definition(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Image)
        .doc("Rectangles cut out of images at offsets; what lies outside of an image is noise.")
        .input("input: float")
        .input("size: int32")
        .input("offsets: float")
        .output("glimpse: float")
        .attr("centered: bool = true")
        .attr("normalized: bool = true")
        .attr("uniform_noise: bool = true")
        .attr("noise: string = 'uniform'")
        // The noise differs from run to run.
        .stateful()
        .shape(|cx| {
            let (x, offsets) = (cx.input(0).with_rank(4)?, cx.input(2).with_rank(2)?);
            let n = x.sub(0, 1).merge(&offsets.sub(0, 1))?.dim(0);
            let [h, w] = resized_size(cx, 1);
            Ok(vec![PartialShape::from([n, h, w, x.dim(3)])])
        })
        .cpu(kernel)
}

fn v1() -> OpDef {
    definition("ExtractGlimpse").not_differentiable()
}

fn v2() -> OpDef {
    definition("ExtractGlimpseV2")
}

register_ops!(v1, v2);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output, Tensor};

    fn glimpse(op: &str, offset: [f32; 2], centered: bool, normalized: bool) -> Output {
        let g = Graph::new();
        let x: Vec<f32> = (1..=16).map(|x| x as f32).collect();
        let x = g.constant(Tensor::from_slice([1, 4, 4, 1], &x).unwrap()).unwrap();
        let (size, at) = (g.constant([2i32, 2]).unwrap(), g.constant([offset]).unwrap());
        let b = g.op(op).input(&x).input(&size).input(&at).attr("uniform_noise", false);
        let b = b.attr("centered", centered).attr("normalized", normalized);
        b.attr("noise", "zero").output().unwrap()
    }

    #[test]
    fn glimpses_are_cut_out_and_filled_outside() {
        let of = |op: &str, at, c, n| eval(&glimpse(op, at, c, n)).to_vec::<f32>().unwrap();
        assert_eq!(of("ExtractGlimpseV2", [0., 0.], true, true), [6., 7., 10., 11.]);
        assert_eq!(of("ExtractGlimpseV2", [1., 2.], false, false), [7., 8., 11., 12.]);
        assert_eq!(of("ExtractGlimpseV2", [-1., 3.], false, false), [0., 0., 4., 0.]);
        assert_eq!(of("ExtractGlimpse", [0., 0.], true, false), [6., 7., 10., 11.]);
        assert_eq!(of("ExtractGlimpseV2", [9., 9.], false, false), [0.; 4]);
        let e = fails(&glimpse("ExtractGlimpse", [f32::NAN, 0.], true, true));
        assert_eq!(e.code(), Code::InvalidArgument);
    }
}
