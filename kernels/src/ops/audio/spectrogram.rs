//! `AudioSpectrogram`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, PartialShape, register_ops};
use realfft::RealFftPlanner;

/// Samples of a window, and from one window's beginning to the next's.
fn sliding(attrs: &Attrs) -> Result<(usize, usize)> {
    let (window, stride) = (attrs.int("window_size")?, attrs.int("stride")?);
    if !(2..=1 << 24).contains(&window) {
        return Err(Error::invalid(format!(
            "window size must be > 1 and at most 2^24, got {window}"
        )));
    }
    match usize::try_from(stride) {
        Ok(s) if s > 0 => Ok((window as usize, s)),
        _ => Err(Error::invalid(format!(
            "stride must be strictly positive, got {stride}"
        ))),
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let ((window, stride), squared) = (sliding(init.attrs)?, init.attrs.bool("magnitude_squared")?);
    let length = window.next_power_of_two();
    let fft = RealFftPlanner::<f64>::new().plan_fft_forward(length);
    let turn = |i: usize| 2.0 * std::f64::consts::PI * i as f64 / window as f64;
    let hann: Vec<f64> = (0..window).map(|i| 0.5 - 0.5 * turn(i).cos()).collect();
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let &[samples, channels] = x.shape().dims() else {
            return Err(Error::invalid(format!(
                "input must be 2-dimensional, got shape {}",
                x.shape()
            )));
        };
        let slices = if samples >= window {
            (samples - window) / stride + 1
        } else {
            0
        };
        let bins = length / 2 + 1;
        let mut out = cx.alloc(actorflow_core::DType::F32, [channels, slices, bins])?;
        let x = x.as_slice::<f32>()?;
        let to = out
            .as_mut_slice::<f32>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        let (mut line, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
        for (row, out) in to.chunks_mut(bins).enumerate() {
            let (channel, begin) = (row / slices, row % slices * stride);
            line.fill(0.0);
            for (i, w) in hann.iter().enumerate() {
                line[i] = w * f64::from(x[(begin + i) * channels + channel]);
            }
            fft.process(&mut line, &mut spectrum)
                .map_err(|e| Error::internal(e.to_string()))?;
            for (o, z) in out.iter_mut().zip(&spectrum) {
                let square = z.norm_sqr();
                *o = if squared { square } else { square.sqrt() } as f32;
            }
        }
        cx.set_output(0, out);
        Ok(())
    }))
}

fn audio_spectrogram() -> OpDef {
    OpDef::new("AudioSpectrogram", Category::Signal)
        .doc("How strong each frequency is in windows of a sound `[samples, channels]`: `[channels, windows, frequencies]`.")
        .input("input: float")
        .output("spectrogram: float")
        .attr("window_size: int")
        .attr("stride: int")
        .attr("magnitude_squared: bool = false")
        .shape(|cx| {
            let (x, (window, stride)) = (cx.input(0).with_rank(2)?, sliding(cx.attrs())?);
            let slices = x.dim(0).map(|n| if n >= window { (n - window) / stride + 1 } else { 0 });
            Ok(vec![PartialShape::from([x.dim(1), slices, Some(window.next_power_of_two() / 2 + 1)])])
        })
        .cpu(kernel)
}

register_ops!(audio_spectrogram);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn constant_sounds_have_the_lowest_frequency() {
        let g = Graph::new();
        let x = g.constant(Tensor::full([9, 1], 1f32).unwrap()).unwrap();
        let b = g
            .op("AudioSpectrogram")
            .input(&x)
            .attr("window_size", 4i64)
            .attr("stride", 3i64);
        let y = eval(&b.output().unwrap());
        assert_eq!(y.shape().dims(), [1, 2, 3]);
        assert_eq!(y.to_vec::<f32>().unwrap(), [2., 1., 0., 2., 1., 0.]);
    }
}
