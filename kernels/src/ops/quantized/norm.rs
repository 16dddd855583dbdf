//! `QuantizedInstanceNorm`, `QuantizedBatchNormWithGlobalNormalization`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, register_ops};

use super::range::{Integers, deliver, end, ends, map, nearest, real, scalars, stored, with_range};

/// The attributes of an instance normalisation.
#[derive(Clone, Copy)]
struct Instance {
    /// The range of the results, if it is given.
    range: Option<(f32, f32)>,
    epsilon: f32,
    separation: f32,
}

fn instance_norm(cx: &mut OpContext<'_>, form: Instance) -> Result<()> {
    let (min, max) = (end(cx, 1, "x_min")?, end(cx, 2, "x_max")?);
    if min >= max {
        return Err(Error::invalid(format!(
            "x_min must be less than x_max, got {min} and {max}"
        )));
    }
    let step = (max - min) / 255.0;
    let x = stored(cx, 0)?;
    let &[images, height, width, channels] = x.shape().dims() else {
        return Err(Error::invalid(format!("x must be 4-dimensional, got {}", x.shape())));
    };
    let x = x.as_slice::<u8>()?;
    let (pixels, n) = (height * width, images * channels);
    let place = |i: usize| i / (pixels * channels).max(1) * channels + i % channels.max(1);
    let (mut means, mut variances) = (vec![0f32; n], vec![0f32; n]);
    x.iter().enumerate().for_each(|(i, x)| means[place(i)] += f32::from(*x));
    means.iter_mut().for_each(|m| *m /= pixels as f32);
    for (i, x) in x.iter().enumerate() {
        let d = step * (f32::from(*x) - means[place(i)]);
        variances[place(i)] += d * d;
    }
    let inverse: Vec<f32> = variances
        .iter()
        .map(|v| 1.0 / (v / pixels as f32 + form.epsilon).sqrt())
        .collect();
    let mut normed = cx.alloc(DType::F32, [images, height, width, channels])?;
    let to = normed.as_mut_slice::<f32>().unwrap_or(&mut []);
    for (i, (o, x)) in to.iter_mut().zip(x).enumerate() {
        let p = place(i);
        *o = step * (f32::from(*x) - means[p]) * inverse[p];
    }
    let (low, mut high) = form.range.unwrap_or_else(|| {
        let ends = (f32::INFINITY, f32::NEG_INFINITY);
        to.iter().fold(ends, |(low, high), x| (low.min(*x), high.max(*x)))
    });
    if high - low < form.separation {
        high = low + form.separation;
    }
    let integers = Integers::of::<u8>(low, high);
    let y = map(cx, &normed, |x: f32| integers.at::<u8>(x))?;
    deliver::<u8>(cx, y, (low, high))
}

fn instance_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let float = |name: &str| init.attrs.float(name);
    let range = match init.attrs.bool("output_range_given")? {
        true => Some((float("given_y_min")?, float("given_y_max")?)),
        false => None,
    };
    if let Some((min, max)) = range
        && min >= max
    {
        return Err(Error::invalid(format!(
            "given_y_min must be less than given_y_max, got {min} and {max}"
        )));
    }
    let form = Instance {
        range,
        epsilon: float("variance_epsilon")?,
        separation: float("min_separation")?,
    };
    match init.input_types[0] {
        DType::QU8 => Ok(Box::new(move |cx: &mut OpContext<'_>| instance_norm(cx, form))),
        _ => Err(init.no_kernel()),
    }
}

fn quantized_instance_norm() -> OpDef {
    OpDef::new("QuantizedInstanceNorm", Category::Nn)
        .doc("Every channel of every image brought to mean 0 and variance 1, in 8 bits.")
        .input("x: T")
        .input("x_min: float")
        .input("x_max: float")
        .output("y: T")
        .output("y_min: float")
        .output("y_max: float")
        .attr("T: quantizedtype")
        .attr("output_range_given: bool = false")
        .attr("given_y_min: float = 0")
        .attr("given_y_max: float = 0")
        .attr("variance_epsilon: float = 1e-5")
        .attr("min_separation: float = 1e-3")
        .shape(|cx| {
            scalars(cx, &[1, 2])?;
            Ok(with_range(cx.input(0).with_rank(4)?))
        })
        .not_differentiable()
        .cpu(instance_kernel)
}

/// The range of the results: 20 bits before the point, 11 behind it.
const WIDE: (f32, f32) = (-1_048_576.0, 1_048_576.0);

fn batch_norm(cx: &mut OpContext<'_>, epsilon: f32, scaled: bool) -> Result<()> {
    let x = stored(cx, 0)?;
    let range = ends(cx, 1, "t")?;
    if x.shape().rank() != 4 {
        return Err(Error::invalid(format!("t must be 4-dimensional, got {}", x.shape())));
    }
    let depth = x.shape()[3];
    let parameter = |i: usize, what: &str| -> Result<Vec<f32>> {
        let (v, (min, max)) = (stored(cx, i)?, ends(cx, i + 1, what)?);
        if v.shape().dims() != [depth] {
            return Err(Error::invalid(format!(
                "{what} must have one element for each of {depth} channels, got shape {}",
                v.shape()
            )));
        }
        Ok(v.as_slice::<u8>()?.iter().map(|q| real(*q, min, max)).collect())
    };
    let (mean, variance) = (parameter(3, "m")?, parameter(6, "v")?);
    let (beta, gamma) = (parameter(9, "beta")?, parameter(12, "gamma")?);
    let fixed = |x: f32| nearest::<i32>(x, WIDE.0, WIDE.1);
    let lines: Vec<(i32, i32)> = (0..depth)
        .map(|c| {
            let scale = 1.0 / (variance[c] + epsilon).sqrt();
            let scale = if scaled { scale * gamma[c] } else { scale };
            (fixed(scale), fixed(-mean[c] * scale + beta[c]))
        })
        .collect();
    let one = fixed(1.0);
    // Every byte as a fixed-point number.
    let table: Vec<i32> = (0..=u8::MAX).map(|q| fixed(real(q, range.0, range.1))).collect();
    let from = x.as_slice::<u8>()?;
    let mut y = cx.alloc(DType::I32, x.shape())?;
    let out = y.as_mut_slice::<i32>().unwrap_or(&mut []);
    for (i, (o, x)) in out.iter_mut().zip(from).enumerate() {
        let (scale, offset) = lines[i % depth];
        *o = (table[usize::from(*x)].wrapping_mul(scale) / one).wrapping_add(offset);
    }
    deliver::<i32>(cx, y, WIDE)
}

fn quantized_batch_norm() -> OpDef {
    let mut def = OpDef::new("QuantizedBatchNormWithGlobalNormalization", Category::Nn)
        .doc("BatchNormWithGlobalNormalization of quantised numbers, in fixed-point arithmetic.");
    for name in ["t", "m", "v", "beta", "gamma"] {
        def = def
            .input(&format!("{name}: Tinput"))
            .input(&format!("{name}_min: float"))
            .input(&format!("{name}_max: float"));
    }
    def.output("result: out_type")
        .output("result_min: float")
        .output("result_max: float")
        .attr("Tinput: quantizedtype")
        .attr("out_type: quantizedtype")
        .attr("variance_epsilon: float")
        .attr("scale_after_normalization: bool")
        .shape(|cx| {
            let x = cx.input(0).with_rank(4)?;
            let mut depth = PartialShape::vector(x.dim(3));
            for i in [3, 6, 9, 12] {
                depth = depth.merge(&cx.input(i))?;
            }
            scalars(cx, &[1, 2, 4, 5, 7, 8, 10, 11, 13, 14])?;
            Ok(with_range(x.with_dim(3, depth.dim(0))))
        })
        .not_differentiable()
        .cpu(|init| {
            let (epsilon, scaled) = (
                init.attrs.float("variance_epsilon")?,
                init.attrs.bool("scale_after_normalization")?,
            );
            match (init.input_types[0], init.output_types[0]) {
                (DType::QU8, DType::QI32) => {
                    Ok(Box::new(move |cx: &mut OpContext<'_>| batch_norm(cx, epsilon, scaled)))
                }
                _ => Err(init.no_kernel()),
            }
        })
}

register_ops!(quantized_instance_norm, quantized_batch_norm);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Output, Tensor};

    fn bytes(g: &Graph, shape: &[usize], values: &[u8]) -> Output {
        let t = Tensor::from_slice(shape, values).unwrap().bitcast(DType::QU8).unwrap();
        g.constant(t).unwrap()
    }

    #[test]
    fn channels_get_mean_0_and_variance_1() {
        let g = Graph::new();
        let x = bytes(&g, &[1, 2, 2, 2], &[0, 9, 0, 9, 100, 9, 100, 9]);
        let c = |x: f32| g.constant(x).unwrap();
        let norm = |low: f32| {
            let b = g.op("QuantizedInstanceNorm").input(&x).input(&c(low)).input(&c(255.0));
            b.finish().unwrap()
        };
        let op = norm(0.0);
        let y = eval(&op.output(0).unwrap()).bitcast(DType::U8).unwrap();
        let y = y.to_vec::<u8>().unwrap();
        let first: Vec<u8> = y.iter().copied().step_by(2).collect();
        assert_eq!(first, [0, 0, 255, 255]);
        assert!(y.iter().skip(1).step_by(2).all(|x| (127..=128).contains(x)), "{y:?}");
        let low = eval(&op.output(1).unwrap()).to_scalar::<f32>().unwrap();
        assert!((low + 1.0).abs() < 1e-4, "{low}");
        assert!(fails(&norm(255.0).output(0).unwrap()).message().contains("x_min"));
    }

    #[test]
    fn batches_are_normalised_by_given_statistics() {
        let g = Graph::new();
        let mut b = g.op("QuantizedBatchNormWithGlobalNormalization");
        // Mean 1, variance 4, beta 3, gamma 2: the result is x + 2.
        for (shape, value) in [
            (&[1, 1, 1, 1][..], 7),
            (&[1][..], 1),
            (&[1][..], 4),
            (&[1][..], 3),
            (&[1][..], 2),
        ] {
            let ends = [0f32, 255.0].map(|x| g.constant(x).unwrap());
            b = b.input(&bytes(&g, shape, &[value])).input(&ends[0]).input(&ends[1]);
        }
        let b = b.attr("out_type", DType::QI32).attr("variance_epsilon", 0f32);
        let op = b.attr("scale_after_normalization", true).finish().unwrap();
        let y = eval(&op.output(0).unwrap()).bitcast(DType::I32).unwrap();
        assert_eq!(y.to_vec::<i32>().unwrap(), [9 << 11]);
    }
}
