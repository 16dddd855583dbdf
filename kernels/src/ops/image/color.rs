//! `RGBToHSV`, `HSVToRGB`, `AdjustContrastv2`, `AdjustHue`, `AdjustSaturation`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::resample::{as_f32, as_f64, into_dtype};
use crate::ops::nn::conv::number::{room, writable};
use crate::spread;

type Pixel = [f64; 3];

fn rgb_to_hsv([r, g, b]: Pixel) -> Pixel {
    let v = r.max(g).max(b);
    let range = v - r.min(g).min(b);
    let s = if v > 0.0 { range / v } else { 0.0 };
    if range <= 0.0 {
        return [0.0, s, v];
    }
    let norm = 1.0 / (6.0 * range);
    let h = if r == v {
        norm * (g - b)
    } else if g == v {
        norm * (b - r) + 2.0 / 6.0
    } else {
        norm * (r - g) + 4.0 / 6.0
    };
    [if h < 0.0 { h + 1.0 } else { h }, s, v]
}

fn hsv_to_rgb([h, s, v]: Pixel) -> Pixel {
    let h = h * 6.0;
    let channel = |x: f64| (1.0 - s + s * x.clamp(0.0, 1.0)) * v;
    [
        channel((h - 3.0).abs() - 1.0),
        channel(2.0 - (h - 2.0).abs()),
        channel(2.0 - (h - 4.0).abs()),
    ]
}

/// Turns the hue by `delta`, whole turns being 1; keeps the largest and the smallest channel.
fn turn_hue([r, g, b]: Pixel, delta: f64) -> Pixel {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    let h = if max == min { 0.0 } else { rgb_hue([r, g, b], max, min) };
    let h = (h + delta * 6.0).rem_euclid(6.0);
    // A tiny negative number may be rounded up to 6.
    let h = if h >= 6.0 { 0.0 } else { h };
    let (sixth, part) = (h as usize, h.fract());
    let part = if sixth.is_multiple_of(2) { part } else { 1.0 - part };
    let mid = min + part * (max - min);
    match sixth {
        0 => [max, mid, min],
        1 => [mid, max, min],
        2 => [min, max, mid],
        3 => [min, mid, max],
        4 => [mid, min, max],
        _ => [max, min, mid],
    }
}

/// The hue in sixths of a turn.
fn rgb_hue([r, g, b]: Pixel, max: f64, min: f64) -> f64 {
    let range = max - min;
    if r == max && g >= b {
        (g - b) / range
    } else if r == max {
        6.0 - (b - g) / range
    } else if g == max {
        2.0 + (b - r) / range
    } else {
        4.0 + (r - g) / range
    }
}

/// Applies `f` to every pixel of input 0.
fn pixels(cx: &OpContext<'_>, dtype: DType, f: impl Fn(Pixel) -> Pixel + Sync) -> Result<Tensor> {
    let device = &*cx.step().device;
    let x = as_f64(device, cx.input(0)?)?;
    let from = x.as_slice::<f64>()?;
    let mut out = room::<f64>(device, x.shape())?;
    let per = 3 * 4096;
    spread::chunks(device.parallel(), writable::<f64>(&mut out)?, per, |i, out| {
        let from = from[i * per..].as_chunks::<3>().0;
        for (o, x) in out.as_chunks_mut::<3>().0.iter_mut().zip(from) {
            *o = f(*x);
        }
    });
    into_dtype(device, out, dtype)
}

fn three_channels(cx: &OpContext<'_>, rank: usize, wrong: fn(String) -> Error) -> Result<()> {
    let shape = cx.input(0)?.shape();
    if shape.rank() < rank {
        return Err(Error::invalid(format!(
            "input must be at least {rank}-D, got shape {shape}"
        )));
    }
    match shape[shape.rank() - 1] {
        3 => Ok(()),
        n => Err(wrong(format!(
            "input must have 3 channels but instead has {n} channels: {shape}"
        ))),
    }
}

fn scalar(cx: &OpContext<'_>, what: &str) -> Result<f64> {
    let t = cx.input(1)?;
    if t.shape().rank() != 0 {
        return Err(Error::invalid(format!("{what} must be scalar: {}", t.shape())));
    }
    Ok(f64::from(t.to_scalar::<f32>()?))
}

fn conversion(init: &KernelInit<'_>, f: fn(Pixel) -> Pixel) -> Result<Box<dyn Kernel>> {
    let dtype = init.output_types[0];
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        three_channels(cx, 1, Error::failed_precondition)?;
        let out = pixels(cx, dtype, f)?;
        cx.set_output(0, out);
        Ok(())
    }))
}

fn adjustment(init: &KernelInit<'_>, what: &'static str, f: fn(Pixel, f64) -> Pixel) -> Result<Box<dyn Kernel>> {
    let dtype = init.output_types[0];
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        three_channels(cx, 3, Error::invalid)?;
        let by = scalar(cx, what)?;
        let out = pixels(cx, dtype, |p| f(p, by))?;
        cx.set_output(0, out);
        Ok(())
    }))
}

fn colours(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Image)
        .input("images: T")
        .output("output: T")
        .attr("T: {half, bfloat16, float, double} = DT_FLOAT")
        .shape(|cx| {
            let x = cx.input(0).with_rank_at_least(1)?;
            if let Some(r) = x.rank() {
                x.sub(r - 1, r).merge(&PartialShape::vector(Some(3)))?;
                return Ok(vec![x.with_dim(r - 1, Some(3))]);
            }
            Ok(vec![x])
        })
}

fn hsv_from_rgb() -> OpDef {
    colours("RGBToHSV")
        .doc("Converts pixels from red, green, blue to hue, saturation, value.")
        .gradient(super::color_grad::gradient)
        .cpu(|init| conversion(init, rgb_to_hsv))
        .sample(|s| {
            let x = s.input(Tensor::from([
                [0.9f64, 0.5, 0.2],
                [0.3, 0.8, 0.6],
                [0.7, 0.9, 0.1],
                [0.2, 0.4, 0.75],
                [0.6, 0.15, 0.85],
                [0.95, 0.3, 0.55],
            ]))?;
            s.op("RGBToHSV").input(&x).finish()
        })
}

fn rgb_from_hsv() -> OpDef {
    colours("HSVToRGB")
        .doc("Converts pixels from hue, saturation, value to red, green, blue.")
        .not_differentiable()
        .cpu(|init| conversion(init, hsv_to_rgb))
}

fn adjust(name: &'static str, by: &str) -> OpDef {
    OpDef::new(name, Category::Image)
        .input("images: T")
        .input(&format!("{by}: float"))
        .output("output: T")
        .attr("T: {half, float} = DT_FLOAT")
        .shape(|cx| Ok(vec![cx.input(0).with_rank_at_least(3)?]))
}

fn adjust_hue() -> OpDef {
    adjust("AdjustHue", "delta")
        .doc("Turns the hue of every pixel by `delta` turns.")
        .cpu(|init| adjustment(init, "delta", turn_hue))
}

fn adjust_saturation() -> OpDef {
    adjust("AdjustSaturation", "scale")
        .doc("Multiplies the saturation of every pixel, within 0 and 1.")
        .cpu(|init| {
            adjustment(init, "scale", |p, by| {
                let [h, s, v] = rgb_to_hsv(p);
                hsv_to_rgb([h, (s * by).clamp(0.0, 1.0), v])
            })
        })
}

/// Moves every channel of every image away from its mean.
fn contrast(cx: &OpContext<'_>, dtype: DType) -> Result<Tensor> {
    let device = &*cx.step().device;
    let shape = cx.input(0)?.shape();
    if shape.rank() < 3 {
        return Err(Error::invalid(format!("input must be at least 3-D, got shape {shape}")));
    }
    let factor = scalar(cx, "contrast_factor")? as f32;
    let x = as_f32(device, cx.input(0)?)?;
    let from = x.as_slice::<f32>()?;
    let mut out = room::<f32>(device, x.shape())?;
    let dims = &x.shape()[x.shape().rank() - 3..];
    let (pixels, channels) = (dims[0] * dims[1], dims[2]);
    spread::chunks(
        device.parallel(),
        writable::<f32>(&mut out)?,
        pixels * channels,
        |i, out| {
            let from = &from[i * pixels * channels..][..out.len()];
            let mut mean = vec![0f64; channels];
            for p in from.chunks(channels) {
                mean.iter_mut().zip(p).for_each(|(m, p)| *m += f64::from(*p));
            }
            for (o, p) in out.chunks_mut(channels).zip(from.chunks(channels)) {
                for ((o, p), m) in o.iter_mut().zip(p).zip(&mean) {
                    let m = (m / pixels as f64) as f32;
                    *o = (p - m) * factor + m;
                }
            }
        },
    );
    into_dtype(device, out, dtype)
}

fn adjust_contrast() -> OpDef {
    adjust("AdjustContrastv2", "contrast_factor")
        .doc("Moves every channel of every image away from its mean by a factor.")
        .cpu(|init| {
            let dtype = init.output_types[0];
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let out = contrast(cx, dtype)?;
                cx.set_output(0, out);
                Ok(())
            }) as Box<dyn Kernel>)
        })
}

register_ops!(
    hsv_from_rgb,
    rgb_from_hsv,
    adjust_hue,
    adjust_saturation,
    adjust_contrast
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph};

    const COLOURS: [f32; 15] = [0.1, 0.5, 0.9, -0.2, 0.5, 1.5, 0., 0., 0., 1., 1., 1., 0.3, 0.2, 0.2];

    fn run(op: &str, by: Option<f32>) -> Vec<f32> {
        let g = Graph::new();
        let x = g.constant(Tensor::from_slice([1, 5, 3], &COLOURS).unwrap()).unwrap();
        let mut b = g.op(op).input(&x);
        let by = by.map(|by| g.constant(by).unwrap());
        if let Some(by) = &by {
            b = b.input(by);
        }
        eval(&b.output().unwrap()).to_vec().unwrap()
    }

    fn near(got: &[f32], want: &[f32]) {
        assert!(
            got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5),
            "{got:?} {want:?}"
        );
    }

    #[test]
    fn colours_are_converted() {
        near(
            &run("RGBToHSV", None),
            &[
                0.583_333_4,
                0.888_888_8,
                0.9,
                0.598_039_3,
                1.133_333_3,
                1.5,
                0.,
                0.,
                0.,
                0.,
                0.,
                1.,
            ],
        );
        near(
            &run("HSVToRGB", None),
            &[0.9, 0.72, 0.45, 1.5, 0.75, 0.75, 0., 0., 0., 1., 0., 0.],
        );
    }

    #[test]
    fn colours_are_adjusted() {
        near(
            &run("AdjustHue", Some(0.3)),
            &[0.9, 0.1, 0.66, 1.5, -0.2, 0.84, 0., 0., 0., 1., 1., 1.],
        );
        near(&run("AdjustHue", Some(-1.1)), &[0.1, 0.9, 0.82, -0.2, 1.5, 1.48]);
        near(&run("AdjustSaturation", Some(0.3)), &[0.66, 0.78, 0.9, 0.99, 1.2, 1.5]);
        near(
            &run("AdjustSaturation", Some(3.0)),
            &[0., 0.45, 0.9, 0., 0.617_646_9, 1.5],
        );
        near(
            &run("AdjustContrastv2", Some(2.0)),
            &[-0.04, 0.56, 1.08, -0.64, 0.56, 2.28],
        );
    }

    #[test]
    fn pixels_of_other_channels_are_refused() {
        let g = Graph::new();
        let x = g.placeholder("x", DType::F32, PartialShape::UNKNOWN).unwrap();
        let run = |y: actorflow_core::Output, shape: &[usize]| {
            let t = Tensor::zeros(DType::F32, shape).unwrap();
            crate::testing::Interpreter::default()
                .run(&[y], &[], &[(x.clone(), t)])
                .unwrap_err()
                .code()
        };
        assert_eq!(run(x.unary("RGBToHSV").unwrap(), &[2, 2]), Code::FailedPrecondition);
        let by = g.constant(1f32).unwrap();
        let hue = |by| g.op("AdjustHue").input(&x).input(by).output().unwrap();
        assert_eq!(run(hue(&by), &[2, 2, 2]), Code::InvalidArgument);
        assert_eq!(run(hue(&by), &[3]), Code::InvalidArgument);
        let two = g.constant([1f32, 2.]).unwrap();
        let image = g.constant(Tensor::zeros(DType::F32, [1, 1, 3]).unwrap()).unwrap();
        let y = g.op("AdjustHue").input(&image).input(&two).output().unwrap();
        assert_eq!(fails(&y).code(), Code::InvalidArgument);
    }
}
