//! `Mfcc`: mel-frequency cepstral coefficients (Davis and Mermelstein 1980).
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, register_ops};

/// Below this a filter's sum is not trusted.
const FLOOR: f64 = 1e-12;

fn mel(frequency: f64) -> f64 {
    1127.0 * (frequency / 700.0).ln_1p()
}

/// Triangular filters, evenly spaced on the mel scale.
struct Filters {
    /// The filter of which each bin is on the falling side (and the next one's on the rising side); -1 before the first.
    bands: Vec<(isize, f64)>,
    first: usize,
    channels: usize,
}

impl Filters {
    fn new(bins: usize, rate: f64, channels: usize, low: f64, high: f64) -> Result<Filters> {
        if bins < 2 {
            return Err(Error::invalid(format!(
                "a spectrogram needs at least 2 frequencies, got {bins}"
            )));
        }
        let (mel_low, mel_high) = (mel(low), mel(high));
        let spacing = (mel_high - mel_low) / (channels + 1) as f64;
        let centers: Vec<f64> = (0..=channels).map(|i| mel_low + spacing * (i + 1) as f64).collect();
        let per_bin = 0.5 * rate / (bins - 1) as f64;
        let (first, last) = ((1.5 + low / per_bin) as usize, (high / per_bin) as usize);
        if last >= bins {
            return Err(Error::invalid(format!(
                "Mfcc failed: a sample rate of {rate} with {bins} frequencies does not reach the upper limit of {high}"
            )));
        }
        let mut channel = 0;
        let band = |i: usize| {
            let m = mel(i as f64 * per_bin);
            while channel < channels && centers[channel] < m {
                channel += 1;
            }
            match channel {
                0 => (-1, (centers[0] - m) / (centers[0] - mel_low)),
                c => (c as isize - 1, (centers[c] - m) / (centers[c] - centers[c - 1])),
            }
        };
        Ok(Filters {
            bands: (first..=last).map(band).collect(),
            first,
            channels,
        })
    }

    fn apply(&self, spectrum: &[f32], out: &mut [f64]) {
        out.fill(0.0);
        for (x, (band, weight)) in spectrum[self.first.min(spectrum.len())..].iter().zip(&self.bands) {
            let x = f64::from(*x).sqrt();
            let falling = x * weight;
            if *band >= 0 {
                out[*band as usize] += falling;
            }
            let next = (band + 1) as usize;
            if next < self.channels {
                out[next] += x - falling;
            }
        }
    }
}

fn positive(init: &KernelInit<'_>, name: &str) -> Result<usize> {
    let n = init.attrs.int(name)?;
    match usize::try_from(n) {
        Ok(n) if (1..=1 << 16).contains(&n) => Ok(n),
        _ => Err(Error::invalid(format!("{name} must be from 1 to 65536, got {n}"))),
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let limit = |name: &str| init.attrs.float(name).map(f64::from);
    let (high, low) = (limit("upper_frequency_limit")?, limit("lower_frequency_limit")?);
    let (channels, coefficients) = (
        positive(init, "filterbank_channel_count")?,
        positive(init, "dct_coefficient_count")?,
    );
    if !(low >= 0.0 && high > low) {
        return Err(Error::invalid(format!(
            "frequency limits must rise from 0, got {low} and {high}"
        )));
    }
    if coefficients > channels {
        return Err(Error::invalid(format!(
            "dct_coefficient_count {coefficients} must not exceed filterbank_channel_count {channels}"
        )));
    }
    let (norm, arg) = ((2.0 / channels as f64).sqrt(), std::f64::consts::PI / channels as f64);
    let cosine = move |i: usize, j: usize| norm * (i as f64 * arg * (j as f64 + 0.5)).cos();
    let cosines: Vec<f64> = (0..coefficients)
        .flat_map(|i| (0..channels).map(move |j| cosine(i, j)))
        .collect();
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let &[sounds, slices, bins] = x.shape().dims() else {
            return Err(Error::invalid(format!(
                "spectrogram must be 3-dimensional, got shape {}",
                x.shape()
            )));
        };
        let rate = cx.scalar::<i32>(1)?;
        if rate <= 0 {
            return Err(Error::invalid(format!("sample_rate must be positive, got {rate}")));
        }
        let filters = Filters::new(bins, f64::from(rate), channels, low, high)?;
        let mut out = cx.alloc(actorflow_core::DType::F32, [sounds, slices, coefficients])?;
        let to = out
            .as_mut_slice::<f32>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        let mut bank = vec![0.0; channels];
        for (spectrum, out) in x.as_slice::<f32>()?.chunks(bins).zip(to.chunks_mut(coefficients)) {
            filters.apply(spectrum, &mut bank);
            bank.iter_mut()
                .for_each(|b| *b = if *b < FLOOR { FLOOR } else { *b }.ln());
            for (o, row) in out.iter_mut().zip(cosines.chunks(channels)) {
                *o = row.iter().zip(&bank).map(|(c, b)| c * b).sum::<f64>() as f32;
            }
        }
        cx.set_output(0, out);
        Ok(())
    }))
}

fn mfcc() -> OpDef {
    OpDef::new("Mfcc", Category::Signal)
        .doc("The mel-frequency cepstral coefficients of a spectrogram of squared magnitudes.")
        .input("spectrogram: float")
        .input("sample_rate: int32")
        .output("output: float")
        .attr("upper_frequency_limit: float = 4000.0")
        .attr("lower_frequency_limit: float = 20.0")
        .attr("filterbank_channel_count: int = 40")
        .attr("dct_coefficient_count: int = 13")
        .shape(|cx| {
            let x = cx.input(0).with_rank(3)?;
            cx.input(1).with_rank(0)?;
            let n = usize::try_from(cx.attrs().int("dct_coefficient_count")?).ok();
            Ok(vec![PartialShape::from([x.dim(0), x.dim(1), n])])
        })
        .cpu(kernel)
}

register_ops!(mfcc);

#[cfg(test)]
mod tests {
    use crate::testing::fails;
    use actorflow_core::{Code, Graph, Tensor};

    #[test]
    fn spectrograms_that_do_not_reach_the_limit_are_refused() {
        let g = Graph::new();
        for (bins, rate) in [(1, 16000), (5, 100), (5, 0)] {
            let x = g.constant(Tensor::full([1, 1, bins], 1f32).unwrap()).unwrap();
            let y = g
                .op("Mfcc")
                .input(&x)
                .input(&g.constant(rate).unwrap())
                .output()
                .unwrap();
            assert_eq!(fails(&y).code(), Code::InvalidArgument);
        }
    }
}
