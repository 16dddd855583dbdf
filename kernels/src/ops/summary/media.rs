//! `AudioSummary`, `AudioSummaryV2`, `ImageSummary`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Tensor, register_ops};

use super::numbers::{expected, summary, tag};
use crate::ops::audio::wav;
use crate::ops::image::codec::png;
use crate::protobuf::Message;

/// An attribute that limits how many of a batch a summary has.
fn most(init: &KernelInit<'_>, name: &str) -> Result<usize> {
    let n = init.attrs.int(name)?;
    usize::try_from(n)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Error::invalid(format!("{name} must be positive, got {n}")))
}

/// The tag of element `i` of a batch, of which at most `most` are in the summary.
fn numbered(tag: &[u8], kind: &str, i: usize, most: usize) -> Vec<u8> {
    let end = if most > 1 {
        format!("/{kind}/{i}")
    } else {
        format!("/{kind}")
    };
    [tag, end.as_bytes()].concat()
}

fn audio(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let most = most(init, "max_outputs")?;
    let fixed = match init.attrs.get("sample_rate") {
        Some(_) => Some(init.attrs.float("sample_rate")?),
        None => None,
    };
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let (tag, x) = (tag(cx, 0)?, cx.input(1)?);
        let (batch, frames, channels) = match *x.shape().dims() {
            [b, n] => (b, n, 1),
            [b, n, c] => (b, n, c),
            _ => return Err(expected("Tensor must be 3-D or 2-D", x)),
        };
        let rate = match fixed {
            Some(r) => r,
            None => cx.scalar::<f32>(2)?,
        };
        if !(rate > 0.0) {
            return Err(Error::invalid(format!("sample_rate must be > 0, got {rate}")));
        }
        let mut all = Message::default();
        let per = frames.saturating_mul(channels);
        for i in 0..batch.min(most) {
            let samples = &x.as_slice::<f32>()?[i * per..][..per];
            let sound = Message::default()
                .float(1, rate)
                .int(2, channels as u64)
                .int(3, frames as u64)
                .bytes(4, &wav::encoded(samples, channels, rate as u32)?)
                .bytes(5, b"audio/wav");
            let value = Message::default()
                .bytes(1, &numbered(tag, "audio", i, most))
                .part(6, &sound.done());
            all = all.part(1, &value.done());
        }
        cx.set_output(0, Tensor::string(all.done()));
        Ok(())
    }))
}

/// The pixels of one image as bytes. Those of floats are scaled to fit: by the largest to 255, or if any is negative by
/// the largest magnitude to 127 around 128; a pixel that is not finite gets the colour `bad`.
fn as_bytes(x: &[f64], channels: usize, bad: &[u8]) -> Vec<u8> {
    let finite = || x.iter().filter(|x| x.is_finite());
    let least = finite().fold(f64::INFINITY, |a, b| a.min(*b));
    let most = finite().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let (top, offset) = match least < 0.0 {
        true => (least.abs().max(most.abs()), 128.0),
        false => (most, 0.0),
    };
    let scale = match top < 1e-6 {
        true => 0.0,
        false if offset > 0.0 => 127.0 / top,
        false => 255.0 / top,
    };
    x.chunks_exact(channels)
        .flat_map(|p| match p.iter().all(|x| x.is_finite()) {
            true => p.iter().map(|x| (x * scale + offset) as u8).collect::<Vec<u8>>(),
            false => bad[..channels].to_vec(),
        })
        .collect()
}

fn image(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let most = most(init, "max_images")?;
    let bad = init.attrs.tensor("bad_color")?.clone();
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let (tag, x) = (tag(cx, 0)?, cx.input(1)?);
        let (batch, h, w, c) = match *x.shape().dims() {
            [b, h, w, c] if matches!(c, 1 | 3 | 4) => (b, h, w, c),
            _ => return Err(expected("Tensor must be 4-D with last dim 1, 3, or 4", x)),
        };
        let bad = bad.as_slice::<u8>()?;
        if bad.len() < c {
            return Err(Error::invalid(format!(
                "expected depth <= bad_color.size, got depth = {c}, bad_color.size = {}",
                bad.len()
            )));
        }
        let mut all = Message::default();
        let per = h.saturating_mul(w).saturating_mul(c);
        for i in 0..batch.min(most) {
            let part = x.slice_rows(i, i + 1)?;
            let pixels = match part.dtype() {
                actorflow_core::DType::U8 => part.as_slice::<u8>()?.to_vec(),
                _ => as_bytes(&super::numbers::numbers(&part)?, c, bad),
            };
            if per == 0 {
                return Err(expected("images must not be empty", x));
            }
            let file = png::encoded(&pixels, [h, w, c], ::png::BitDepth::Eight, -1)?;
            let picture = Message::default()
                .int(1, h as u64)
                .int(2, w as u64)
                .int(3, c as u64)
                .bytes(4, &file);
            let value = Message::default()
                .bytes(1, &numbered(tag, "image", i, most))
                .part(4, &picture.done());
            all = all.part(1, &value.done());
        }
        cx.set_output(0, Tensor::string(all.done()));
        Ok(())
    }))
}

fn image_summary() -> OpDef {
    summary("ImageSummary", "A summary of images.", image)
        .input("tag: string")
        .input("tensor: T")
        .attr("max_images: int >= 1 = 3")
        .attr("T: {uint8, float, half, double} = DT_FLOAT")
        .attr("bad_color: tensor")
}

fn audio_v1() -> OpDef {
    summary("AudioSummary", "A summary of sounds.", audio)
        .input("tag: string")
        .input("tensor: float")
        .attr("sample_rate: float")
        .attr("max_outputs: int >= 1 = 3")
}

fn audio_v2() -> OpDef {
    summary("AudioSummaryV2", "A summary of sounds.", audio)
        .input("tag: string")
        .input("tensor: float")
        .input("sample_rate: float")
        .attr("max_outputs: int >= 1 = 3")
}

register_ops!(audio_v1, audio_v2, image_summary);
