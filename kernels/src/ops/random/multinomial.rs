//! `Multinomial`, `StatelessMultinomial`.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::Philox;
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::fill::slice;
use super::stateless::seeded;
use super::stream::{Singles, Stream, doubles};

/// Draws `num_samples` classes for each row of unnormalised log-probabilities.
///
/// Sample `j` of row `i` takes the numbers `2 (i * num_samples + j)` and the next of the stream.
fn draw(cx: &OpContext<'_>, dtype: DType, start: impl FnOnce(u64) -> Philox) -> Result<Tensor> {
    let (logits, count) = (cx.input(0)?, cx.input(1)?);
    if !count.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "num_samples must be a scalar, got shape {}",
            count.shape()
        )));
    }
    let count = count.to_i64()?;
    let samples =
        usize::try_from(count).map_err(|_| Error::invalid(format!("num_samples must not be negative, got {count}")))?;
    let [rows, classes] = *logits.shape().dims() else {
        return Err(Error::invalid(format!(
            "logits must be a matrix, got shape {}",
            logits.shape()
        )));
    };
    if classes == 0 {
        return Err(Error::invalid("logits must have at least one class"));
    }
    if dtype == DType::I32 && i32::try_from(classes).is_err() {
        return Err(Error::invalid(format!("{classes} classes exceed int32")));
    }
    let mut t = cx.alloc(dtype, [rows, samples])?;
    if t.is_empty() {
        return Ok(t);
    }
    // Twice a row's samples rounded up, 256 blocks for each.
    let reserved = (rows as u64)
        .wrapping_mul(samples.next_multiple_of(4) as u64)
        .wrapping_mul(2);
    let from = start(reserved);
    let logits = doubles(logits)?;
    let mut numbers = Singles::new(from);
    let mut sums = vec![0f64; classes];
    let mut sample = |row: usize| {
        if row.is_multiple_of(samples) {
            let row = &logits[row / samples * classes..][..classes];
            let largest = row.iter().copied().filter(|x| x.is_finite()).fold(f64::MIN, f64::max);
            let mut total = 0.0;
            for (sum, x) in sums.iter_mut().zip(row) {
                if x.is_finite() {
                    total += (x - largest).exp();
                }
                *sum = total;
            }
        }
        let at = numbers.next_f64() * sums[classes - 1];
        sums.partition_point(|s| *s <= at)
    };
    match dtype {
        DType::I32 => {
            for (i, o) in slice::<i32>(&mut t)?.iter_mut().enumerate() {
                *o = sample(i) as i32;
            }
        }
        _ => {
            for (i, o) in slice::<i64>(&mut t)?.iter_mut().enumerate() {
                *o = sample(i) as i64;
            }
        }
    }
    Ok(t)
}

fn sampled_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let logits = cx.input(0).with_rank(2)?;
    cx.input(1).with_rank(0)?;
    let samples = cx.constant_i64(1).and_then(|n| usize::try_from(n).ok());
    Ok(vec![PartialShape::new([logits.dim(0), samples])])
}

const LOGITS: &str = "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}";

struct Multinomial {
    stream: Stream,
    dtype: DType,
}

impl Kernel for Multinomial {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let t = draw(cx, self.dtype, |outputs| {
            self.stream.reserve(outputs.wrapping_mul(super::stream::RESERVED))
        })?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn only_floats(init: &KernelInit<'_>) -> Result<DType> {
    match init.attrs.dtype("T")?.is_float() {
        true => init.attrs.dtype("output_dtype"),
        false => Err(init.no_kernel()),
    }
}

fn multinomial() -> OpDef {
    OpDef::new("Multinomial", Category::Random)
        .doc("For each row of unnormalised log-probabilities, num_samples classes drawn with replacement.")
        .input("logits: T")
        .input("num_samples: int32")
        .output("output: output_dtype")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr(LOGITS)
        .attr("output_dtype: {int32, int64} = DT_INT64")
        .shape(sampled_shape)
        .stateful()
        .not_differentiable()
        .cpu(|init| {
            Ok(Box::new(Multinomial {
                dtype: only_floats(init)?,
                stream: Stream::new(init)?,
            }))
        })
}

fn stateless_multinomial() -> OpDef {
    OpDef::new("StatelessMultinomial", Category::Random)
        .doc("As Multinomial, from a seed that is an input.")
        .input("logits: T")
        .input("num_samples: int32")
        .input("seed: Tseed")
        .output("output: output_dtype")
        .attr(LOGITS)
        .attr("Tseed: {int32, int64} = DT_INT64")
        .attr("output_dtype: {int32, int64} = DT_INT64")
        .shape(sampled_shape)
        .not_differentiable()
        .cpu(|init| {
            let dtype = only_floats(init)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let from = seeded(cx.input(2)?)?;
                let t = draw(cx, dtype, |_| from)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(multinomial, stateless_multinomial);
