//! `AudioSummary`, `AudioSummaryV2`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Tensor, register_ops};

use super::numbers::{expected, summary, tag};
use super::wire::Message;
use crate::ops::audio::wav;

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

register_ops!(audio_v1, audio_v2);
