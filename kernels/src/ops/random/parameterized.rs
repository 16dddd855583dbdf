//! `ParameterizedTruncatedNormal`.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::{Philox, normal_f32, normal_f64, uniform_f16, uniform_f32};
use actorflow_core::{DType, Element, Tensor, register_ops};
use half::f16;

use super::fill::slice;
use super::stream::{Stream, shape_input, uniform_pair};
use super::uniform::given_shape;

/// Draws before a sampler gives up.
const MOST_DRAWS: u64 = 1000;
/// How far inside of the bounds the mean must be, in standard deviations, for plain normal draws to be kept often.
const INSIDE: f64 = 1.3;
/// Elements of a batch where all have the same parameters.
const BATCH: usize = 100;

/// A dtype with this distribution: its groups of draws, and rounding to it after every operation.
pub(super) trait Draws: Element {
    const GROUP: usize;
    fn uniform(block: [u32; 4]) -> [f64; 4];
    fn normal(block: [u32; 4]) -> [f64; 4];
    fn round(x: f64) -> f64;
    fn of(x: f64) -> Self;
    fn to_f64(self) -> f64;
}

fn four_normals(x: [u32; 4], round: fn(f32) -> f64) -> [f64; 4] {
    let ((a, b), (c, d)) = (normal_f32(x[0], x[1]), normal_f32(x[2], x[3]));
    [a, b, c, d].map(round)
}

impl Draws for f32 {
    const GROUP: usize = 4;
    fn uniform(block: [u32; 4]) -> [f64; 4] {
        block.map(|x| f64::from(uniform_f32(x)))
    }
    fn normal(block: [u32; 4]) -> [f64; 4] {
        four_normals(block, f64::from)
    }
    fn round(x: f64) -> f64 {
        f64::from(x as f32)
    }
    fn of(x: f64) -> Self {
        x as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Draws for f64 {
    const GROUP: usize = 2;
    fn uniform(block: [u32; 4]) -> [f64; 4] {
        let (a, b) = uniform_pair(block);
        [a, b, 0.0, 0.0]
    }
    fn normal(block: [u32; 4]) -> [f64; 4] {
        let (a, b) = normal_f64(block);
        [a, b, 0.0, 0.0]
    }
    fn round(x: f64) -> f64 {
        x
    }
    fn of(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
}

impl Draws for f16 {
    const GROUP: usize = 4;
    fn uniform(block: [u32; 4]) -> [f64; 4] {
        block.map(|x| uniform_f16(x).to_f64())
    }
    fn normal(block: [u32; 4]) -> [f64; 4] {
        four_normals(block, |x| f16::from_f32(x).to_f64())
    }
    fn round(x: f64) -> f64 {
        f16::from_f64(x).to_f64()
    }
    fn of(x: f64) -> Self {
        f16::from_f64(x)
    }
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

/// The parameters of one batch.
#[derive(Clone, Copy)]
pub(super) struct Parameters {
    pub(super) mean: f64,
    pub(super) deviation: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// Fills one batch. Three samplers, by where the bounds are: normal draws, uniform draws and exponential draws, each
/// with rejection. C. P. Robert, "Simulation of truncated normal variables", Statistics and Computing 5 (1995).
pub(super) fn batch<T: Draws>(p: Parameters, from: &mut Philox, out: &mut [T]) -> Result<()> {
    let Parameters {
        mean,
        mut deviation,
        mut low,
        mut high,
    } = p;
    let bounded = low.is_finite() || high.is_finite();
    if !(deviation > 0.0 && low < high && bounded) {
        return Err(Error::invalid(format!(
            "a truncated normal distribution needs a positive standard deviation and minval < maxval, one of them \
             finite; got stdev {deviation}, minval {low}, maxval {high}"
        )));
    }
    if low == f64::NEG_INFINITY || high < mean {
        // The mirror image, so that the bound nearer to the mean is the lower one.
        (low, high) = (high, low);
        deviation = -deviation;
    }
    let r = T::round;
    let (from_low, to_high) = (r(r(low - mean) / deviation), r(r(high - mean) / deviation));
    let root = r(r(r(from_low * from_low) + 4.0).sqrt());
    let exponent = r(0.5 + r(r(from_low * r(from_low - root)) / 4.0));
    let cutoff = r(r(2.0 * r(exponent.exp())) / r(from_low + root));
    let width = r(to_high - from_low);
    let inside = r(INSIDE);
    let mut n = 0;
    let mut draws = 0;
    let mut put = |out: &mut [T], z: f64| {
        out[n] = T::of(r(r(z * deviation) + mean));
        n += 1;
        n == out.len()
    };
    if out.is_empty() {
        return Ok(());
    }
    if (from_low < -inside && to_high >= 0.0) || (to_high > inside && from_low <= 0.0) {
        loop {
            for z in &T::normal(from.next_block())[..T::GROUP] {
                if *z >= from_low && *z <= to_high {
                    draws = 0;
                    if put(out, *z) {
                        return Ok(());
                    }
                } else {
                    draws += 1;
                    if draws > MOST_DRAWS {
                        return Err(Error::internal(format!(
                            "no normal draw fell between {low} and {high} in {MOST_DRAWS} attempts"
                        )));
                    }
                }
            }
        }
    }
    if width < cutoff {
        let plus = if from_low < 0.0 { 0.0 } else { r(from_low * from_low) };
        loop {
            let z = T::uniform(from.next_block()).map(|u| r(r(u * width) + from_low));
            let u = T::uniform(from.next_block());
            for (z, u) in z.iter().zip(&u).take(T::GROUP) {
                let g = r(r(plus - r(z * z)) / 2.0);
                if *u <= r(g.exp()) || draws + 1 >= MOST_DRAWS {
                    draws = 0;
                    if put(out, *z) {
                        return Ok(());
                    }
                } else {
                    draws += 1;
                }
            }
        }
    }
    let alpha = r(r(from_low + root) / 2.0);
    loop {
        let rand = T::uniform(from.next_block());
        for pair in rand[..T::GROUP].chunks_exact(2) {
            let z = r(r(-r(pair[0].ln()) / alpha) + from_low);
            let x = if from_low < alpha {
                r(alpha - z)
            } else {
                r(from_low - alpha)
            };
            let g = r(r(r(-x * x) / 2.0).exp());
            if (pair[1] <= g && z < to_high) || draws + 1 >= MOST_DRAWS {
                draws = 0;
                if put(out, z) {
                    return Ok(());
                }
            } else {
                draws += 1;
            }
        }
    }
}

struct Truncated {
    stream: Stream,
    dtype: DType,
}

impl Truncated {
    fn draw<T: Draws>(&self, cx: &OpContext<'_>) -> Result<Tensor> {
        let shape = shape_input(cx, 0)?;
        let Some((&rows, rest)) = shape.split_first() else {
            return Err(Error::invalid("the shape must have at least one dimension"));
        };
        let mut parameters = Vec::with_capacity(4);
        for (i, name) in (1..).zip(["means", "stdevs", "minvals", "maxvals"]) {
            let p = cx.input(i)?;
            if p.shape().rank() > 1 || (p.len() != 1 && p.len() != rows) {
                return Err(Error::invalid(format!(
                    "{name} must be a scalar or a vector of 1 or {rows} elements, got shape {}",
                    p.shape()
                )));
            }
            parameters.push(p.as_slice::<T>()?);
        }
        let mut t = cx.alloc(self.dtype, shape.clone())?;
        let out = slice::<T>(&mut t)?;
        // One batch after the other from one stream; how much is reserved for them is TensorFlow's rule.
        let shared = parameters.iter().all(|p| p.len() == 1)
            && cx.input(3)?.shape().is_scalar()
            && cx.input(4)?.shape().is_scalar();
        let (batches, each) = match shared {
            true => (out.len().div_ceil(BATCH), BATCH),
            false => (rows, rest.iter().product()),
        };
        let numbers = (batches as u64).wrapping_mul(2 * MOST_DRAWS);
        let mut from = self.stream.reserve(numbers.wrapping_mul(each as u64 + 3) / 4);
        for (b, part) in out.chunks_mut(each.max(1)).enumerate() {
            let at = |p: &[T]| {
                p.get(b)
                    .filter(|_| p.len() > 1)
                    .or(p.first())
                    .map_or(0.0, |x| x.to_f64())
            };
            let p = Parameters {
                mean: at(parameters[0]),
                deviation: at(parameters[1]),
                low: at(parameters[2]),
                high: at(parameters[3]),
            };
            batch(p, &mut from, part)?;
        }
        Ok(t)
    }
}

impl Kernel for Truncated {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let t = match self.dtype {
            DType::F32 => self.draw::<f32>(cx)?,
            DType::F64 => self.draw::<f64>(cx)?,
            _ => self.draw::<f16>(cx)?,
        };
        cx.set_output(0, t);
        Ok(())
    }
}

fn parameterized_truncated_normal() -> OpDef {
    OpDef::new("ParameterizedTruncatedNormal", Category::Random)
        .doc("Normally distributed numbers between bounds; parameters are scalars or one for each row of the output.")
        .input("shape: T")
        .input("means: dtype")
        .input("stdevs: dtype")
        .input("minvals: dtype")
        .input("maxvals: dtype")
        .output("output: dtype")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr("dtype: {half, bfloat16, float, double}")
        .attr("T: {int32, int64}")
        .shape(given_shape)
        .stateful()
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.attrs.dtype("dtype")?;
            if dtype == DType::BF16 {
                return Err(init.no_kernel());
            }
            Ok(Box::new(Truncated {
                stream: Stream::new(init)?,
                dtype,
            }))
        })
}

register_ops!(parameterized_truncated_normal);
