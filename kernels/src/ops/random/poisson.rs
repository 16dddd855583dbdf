//! `RandomPoisson`, `RandomPoissonV2`.

#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::Philox;
use actorflow_core::{DType, register_ops};

use super::gamma::{fill, sampled_shape};
use super::stream::{Doubles, Stream, shape_input, uniform_pair};
use crate::math::special::lgamma;

/// One Poisson-distributed number of mean `rate`, at most `largest`, from a stretch of a stream of its own.
///
/// Below 10, D. E. Knuth's product of uniforms (TAOCP vol. 2); from there on W. Hörmann, "The transformed rejection
/// method for generating Poisson random variables", Insurance: Mathematics and Economics 12 (1993).
pub(super) fn sample(rate: f64, mut from: Philox, largest: f64) -> f64 {
    let mut uniforms = Doubles::default();
    let mut uniform = || uniforms.next(&mut from, uniform_pair);
    if rate.is_nan() {
        return rate;
    }
    if rate < 10.0 {
        let end = (-rate).exp();
        let (mut product, mut x) = (1.0, 0.0);
        loop {
            product *= uniform();
            if product <= end && x <= largest {
                return x;
            }
            x += 1.0;
        }
    }
    if rate.is_infinite() {
        return f64::INFINITY;
    }
    let log_rate = rate.ln();
    let b = 0.931 + 2.53 * rate.sqrt();
    let a = -0.059 + 0.02483 * b;
    let inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
    loop {
        let u = uniform() - 0.5;
        let v = uniform();
        let shifted = 0.5 - u.abs();
        let k = ((2.0 * a / shifted + b) * u + rate + 0.43).floor();
        if k > largest {
            if rate > 2.0 * largest {
                // Nearly all draws are larger than the dtype holds.
                return largest;
            }
            continue;
        }
        if shifted >= 0.07 && v <= 0.9277 - 3.6224 / (b - 2.0) {
            return k;
        }
        if k < 0.0 || (shifted < 0.013 && v > shifted) {
            continue;
        }
        let s = (v * inverse_alpha / (a / (shifted * shifted) + b)).ln();
        let t = -rate + k * log_rate - lgamma(k + 1.0);
        if s <= t {
            return k;
        }
    }
}

/// The largest number that a dtype holds.
pub(super) fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 65504.0,
        DType::F32 => f64::from(f32::MAX),
        DType::I32 => f64::from(i32::MAX),
        DType::I64 => i64::MAX as f64,
        _ => f64::MAX,
    }
}

struct Poisson {
    stream: Stream,
    dtype: DType,
}

impl Kernel for Poisson {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (shape, rate) = (shape_input(cx, 0)?, cx.input(1)?);
        let outputs = shape.checked_count()?.saturating_mul(rate.len());
        let largest = largest(self.dtype);
        let from = self.stream.reserve_for(outputs);
        let draw = |rate: f64, from: Philox| sample(rate, from, largest);
        let t = fill(cx, self.dtype, (&shape, rate), from, draw)?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Poisson {
        stream: Stream::new(init)?,
        dtype: init.attrs.dtype("dtype")?,
    }))
}

fn random_poisson() -> OpDef {
    OpDef::new("RandomPoisson", Category::Random)
        .doc("Poisson-distributed numbers: `shape` samples for each element of `rate`. Use RandomPoissonV2.")
        .input("shape: S")
        .input("rate: dtype")
        .output("output: dtype")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr("S: {int32, int64}")
        .attr("dtype: {half, float, double}")
        .shape(sampled_shape)
        .stateful()
        .not_differentiable()
        .cpu(make)
}

fn random_poisson_v2() -> OpDef {
    OpDef::new("RandomPoissonV2", Category::Random)
        .doc("Poisson-distributed numbers: `shape` samples for each element of `rate`.")
        .input("shape: S")
        .input("rate: R")
        .output("output: dtype")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr("S: {int32, int64}")
        .attr("R: {half, float, double, int32, int64} = DT_DOUBLE")
        .attr("dtype: {half, float, double, int32, int64} = DT_INT64")
        .shape(sampled_shape)
        .stateful()
        .not_differentiable()
        .cpu(make)
}

register_ops!(random_poisson, random_poisson_v2);
