//! `DecodeWav`, `EncodeWav`: sounds of 16-bit samples.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use crate::shapes;

/// A sound `[frames, channels]` from -1 to 1 as a WAV file.
///
/// # Errors
/// `INVALID_ARGUMENT` if rate, channels or length do not fit into the file's header.
pub(crate) fn encoded(samples: &[f32], channels: usize, rate: u32) -> Result<Vec<u8>> {
    let wrong = |what: &str| Error::invalid(format!("a WAV file cannot have {what}"));
    if rate == 0 {
        return Err(wrong("a sample rate of 0"));
    }
    let bytes = channels.checked_mul(2).and_then(|n| u16::try_from(n).ok());
    let per_frame = bytes
        .filter(|n| *n > 0)
        .ok_or_else(|| wrong(&format!("{channels} channels")))?;
    let len = samples.len().checked_mul(2).and_then(|n| u32::try_from(n).ok());
    let data = len.and_then(|n| Some((n, n.checked_add(36)?)));
    let (data, whole) = data.ok_or_else(|| wrong("4 GiB of samples"))?;
    let speed = rate
        .checked_mul(u32::from(per_frame))
        .ok_or_else(|| wrong(&format!("a sample rate of {rate}")))?;
    let mut out = Vec::with_capacity(44 + 2 * samples.len());
    out.extend_from_slice(b"RIFF");
    out.extend(whole.to_le_bytes());
    out.extend_from_slice(b"WAVEfmt ");
    out.extend(16u32.to_le_bytes());
    out.extend(1u16.to_le_bytes());
    out.extend((per_frame / 2).to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend(speed.to_le_bytes());
    out.extend(per_frame.to_le_bytes());
    out.extend(16u16.to_le_bytes());
    out.extend_from_slice(b"data");
    out.extend(data.to_le_bytes());
    // Saturates; NaN is silence.
    out.extend(
        samples
            .iter()
            .flat_map(|x| ((x * 32768.0).round() as i16).to_le_bytes()),
    );
    Ok(out)
}

/// A decoded file: 16-bit samples, `[frames, channels]`.
struct Wav<'a> {
    channels: usize,
    rate: u32,
    data: &'a [u8],
}

/// Reads a file from its beginning.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (a, b) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| Error::invalid("Data too short when trying to read a WAV file"))?;
        self.0 = b;
        Ok(a)
    }

    fn expect(&mut self, what: &[u8]) -> Result<()> {
        match self.take(what.len())? {
            got if got == what => Ok(()),
            _ => Err(Error::invalid(format!(
                "Header mismatch: Expected {} in a WAV file",
                String::from_utf8_lossy(what)
            ))),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<u32> {
        let b = self.take(N)?;
        Ok(b.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)))
    }
}

impl<'a> Wav<'a> {
    fn of(file: &'a [u8]) -> Result<Wav<'a>> {
        let mut c = Cursor(file);
        c.expect(b"RIFF")?;
        c.number::<4>()?;
        c.expect(b"WAVE")?;
        c.expect(b"fmt ")?;
        let size = c.number::<4>()?;
        if size != 16 && size != 18 {
            return Err(Error::invalid(format!(
                "Bad format chunk size for WAV: Expected 16 or 18, but got {size}"
            )));
        }
        let (format, channels, rate) = (c.number::<2>()?, c.number::<2>()?, c.number::<4>()?);
        let (speed, per_frame, bits) = (c.number::<4>()?, c.number::<2>()?, c.number::<2>()?);
        if format != 1 {
            return Err(Error::invalid(format!(
                "Bad audio format for WAV: Expected 1 (PCM), but got {format}"
            )));
        }
        if bits != 16 {
            return Err(Error::invalid(format!(
                "Can only read 16-bit WAV files, but received {bits}"
            )));
        }
        if channels == 0 || per_frame != 2 * channels || rate.checked_mul(per_frame) != Some(speed) {
            return Err(Error::invalid(format!(
                "Bad WAV header: {channels} channels at a rate of {rate}, {per_frame} bytes per sample, {speed} per second"
            )));
        }
        if size == 18 {
            c.number::<2>()?;
        }
        let mut found = None;
        while !c.0.is_empty() {
            let id = c.take(4)?;
            let size = c.number::<4>()? as usize;
            if id == b"data" && found.is_none() {
                let frames = size / per_frame as usize;
                found = Some(c.take(frames * per_frame as usize)?);
            } else {
                c.take(size)?;
            }
        }
        Ok(Wav {
            channels: channels as usize,
            rate,
            data: found.ok_or_else(|| Error::invalid("No data chunk found in WAV"))?,
        })
    }
}

/// An attribute for which -1 means as many as there are.
fn desired(init: &KernelInit<'_>, name: &str) -> Result<Option<usize>> {
    match init.attrs.int(name)? {
        -1 => Ok(None),
        n => match usize::try_from(n) {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => Err(Error::invalid(format!("{name} must be -1 or positive, got {n}"))),
        },
    }
}

fn decode(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (channels, samples) = (desired(init, "desired_channels")?, desired(init, "desired_samples")?);
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let t = cx.input(0)?;
        let file = match t.as_strings()? {
            [f] if t.shape().is_scalar() => f,
            _ => {
                return Err(Error::invalid(format!(
                    "contents must be scalar, got shape {}",
                    t.shape()
                )));
            }
        };
        let wav = Wav::of(file)?;
        let has = wav.data.len() / 2 / wav.channels;
        let (frames, columns) = (samples.unwrap_or(has), channels.unwrap_or(wav.channels));
        let rate =
            i32::try_from(wav.rate).map_err(|_| Error::invalid(format!("sample rate {} is too large", wav.rate)))?;
        let mut out = cx.zeros(actorflow_core::DType::F32, [frames, columns])?;
        let to = out
            .as_mut_slice::<f32>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        for (i, row) in to.chunks_mut(columns.max(1)).take(has).enumerate() {
            for (k, x) in row.iter_mut().enumerate() {
                // Further channels repeat the last.
                let at = 2 * (i * wav.channels + k.min(wav.channels - 1));
                *x = f32::from(i16::from_le_bytes([wav.data[at], wav.data[at + 1]])) / 32768.0;
            }
        }
        cx.set_output(0, out);
        cx.set_output(1, Tensor::scalar(rate));
        Ok(())
    }))
}

fn encode(cx: &mut OpContext<'_>) -> Result<()> {
    let (audio, rate) = (cx.input(0)?, cx.input(1)?);
    let &[_, channels] = audio.shape().dims() else {
        return Err(Error::invalid(format!(
            "audio must be 2-dimensional, got shape {}",
            audio.shape()
        )));
    };
    let n = rate.to_scalar::<i32>()?;
    let rate = u32::try_from(n).map_err(|_| Error::invalid(format!("sample_rate must be positive, got {n}")))?;
    let file = encoded(audio.as_slice()?, channels, rate)?;
    cx.set_output(0, Tensor::string(file));
    Ok(())
}

fn decode_wav() -> OpDef {
    OpDef::new("DecodeWav", Category::Signal)
        .doc("The samples of a 16-bit WAV file, from -1 to 1, and the sample rate.")
        .input("contents: string")
        .output("audio: float")
        .output("sample_rate: int32")
        .attr("desired_channels: int = -1")
        .attr("desired_samples: int = -1")
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            let known = |name: &str| Ok::<_, Error>(usize::try_from(cx.attrs().int(name)?).ok());
            let audio = [known("desired_samples")?, known("desired_channels")?];
            Ok(vec![PartialShape::from(audio), PartialShape::scalar()])
        })
        .cpu(decode)
}

fn encode_wav() -> OpDef {
    OpDef::new("EncodeWav", Category::Signal)
        .doc("A sound `[frames, channels]` from -1 to 1 as a 16-bit WAV file.")
        .input("audio: float")
        .input("sample_rate: int32")
        .output("contents: string")
        .shape(|cx| {
            cx.input(0).with_rank(2)?;
            cx.input(1).with_rank(0)?;
            shapes::scalar(cx)
        })
        .cpu(|_| Ok(Box::new(encode)))
}

register_ops!(decode_wav, encode_wav);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sounds_survive_files_and_torn_files_are_refused() {
        let file = encoded(&[0.0, 0.5, -1.0, 1.0], 2, 8000).unwrap();
        let w = Wav::of(&file).unwrap();
        assert_eq!((w.channels, w.rate, w.data.len()), (2, 8000, 8));
        for cut in 0..file.len() {
            assert!(Wav::of(&file[..cut]).is_err(), "{cut}");
        }
        let mut no_channels = file.clone();
        no_channels[22] = 0;
        assert!(Wav::of(&no_channels).is_err());
        assert!(encoded(&[0.0], 1, 0).is_err() && encoded(&[], 0, 1).is_err());
    }
}
