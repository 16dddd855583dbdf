//! `RandomGamma`, `RandomGammaGrad`.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::{Philox, normal_f64};
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};
use half::{bf16, f16};

use super::fill::slice;
use super::stream::{Doubles, RESERVED, Stream, doubles, shape_input, uniform_pair};
use crate::math::special;
use crate::spread;

/// One gamma-distributed number of shape `alpha` and scale 1, from a stretch of a stream of its own.
///
/// G. Marsaglia, W. W. Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000).
pub(super) fn sample(alpha: f64, mut from: Philox) -> f64 {
    let (mut normals, mut uniforms) = (Doubles::default(), Doubles::default());
    if alpha == 1.0 {
        let u = uniforms.next(&mut from, uniform_pair);
        return -(-u).ln_1p();
    }
    let small = alpha < 1.0;
    let d = alpha + if small { 2.0 / 3.0 } else { -1.0 / 3.0 };
    let c = 1.0 / 3.0 / d.sqrt();
    loop {
        let x = normals.next(&mut from, normal_f64);
        let v = 1.0 + c * x;
        if v <= 0.0 {
            continue;
        }
        let v = v * v * v;
        let u = uniforms.next(&mut from, uniform_pair);
        let squeezed = u < 1.0 - 0.0331 * (x * x) * (x * x);
        if squeezed || u.ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
            let mut r = d * v;
            if small {
                r *= uniforms.next(&mut from, uniform_pair).powf(1.0 / alpha);
            }
            return r;
        }
        if !d.is_finite() || d <= 0.0 {
            // No draw is ever accepted for a parameter that has no distribution.
            return f64::NAN;
        }
    }
}

/// Samples for each element of `params` of shape `shape`, which the output's shape ends with; those of one parameter are
/// drawn from consecutive stretches.
pub(super) fn fill(
    cx: &OpContext<'_>,
    dtype: DType,
    (shape, params): (&Shape, &Tensor),
    from: Philox,
    draw: impl Fn(f64, Philox) -> f64 + Sync,
) -> Result<Tensor> {
    fill_by(cx, dtype, (shape, params), from, (|_| RESERVED, draw))
}

/// As [`fill`] with stretches of as many blocks as `reserved` says for a parameter.
pub(super) fn fill_by(
    cx: &OpContext<'_>,
    dtype: DType,
    (shape, params): (&Shape, &Tensor),
    from: Philox,
    (reserved, draw): (impl Fn(f64) -> u64 + Sync, impl Fn(f64, Philox) -> f64 + Sync),
) -> Result<Tensor> {
    let each = shape.checked_count()?;
    let values = doubles(params)?;
    let all: Shape = shape.iter().chain(params.shape().iter()).copied().collect();
    let mut t = cx.alloc(dtype, all)?;
    let count = values.len();
    let at = |i: usize| {
        // Element i is sample i / count of parameter i % count.
        let mut from = from;
        let value = values[i % count];
        from.skip(((i % count * each + i / count) as u64).wrapping_mul(reserved(value)));
        draw(value, from)
    };
    const CHUNK: usize = 1024;
    fn run<T: Send>(cx: &OpContext<'_>, out: &mut [T], at: impl Fn(usize) -> T + Sync) {
        spread::chunks(cx.parallel(), out, CHUNK, |c, part| {
            for (k, o) in part.iter_mut().enumerate() {
                *o = at(c * CHUNK + k);
            }
        });
    }
    match dtype {
        DType::F64 => run(cx, slice(&mut t)?, at),
        DType::F32 => run(cx, slice(&mut t)?, |i| at(i) as f32),
        DType::F16 => run(cx, slice(&mut t)?, |i| f16::from_f64(at(i))),
        DType::BF16 => run(cx, slice(&mut t)?, |i| bf16::from_f64(at(i))),
        DType::I32 => run(cx, slice(&mut t)?, |i| at(i) as i32),
        DType::I64 => run(cx, slice(&mut t)?, |i| at(i) as i64),
        _ => return Err(Error::invalid(format!("random numbers cannot be {dtype}"))),
    }
    Ok(t)
}

/// The shape that input 0 holds, followed by that of input 1.
pub(super) fn sampled_shape(cx: &actorflow_core::graph::ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(0).with_rank(1)?;
    Ok(vec![cx.constant_shape(0)?.concat(&cx.input(1))])
}

struct Gamma(Stream);

impl Kernel for Gamma {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (shape, alpha) = (shape_input(cx, 0)?, cx.input(1)?);
        let outputs = shape.checked_count()?.saturating_mul(alpha.len());
        let from = self.0.reserve_for(outputs);
        let t = fill(cx, alpha.dtype(), (&shape, alpha), from, sample)?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn random_gamma() -> OpDef {
    OpDef::new("RandomGamma", Category::Random)
        .doc("Gamma-distributed numbers of scale 1: `shape` samples for each element of `alpha`.")
        .input("shape: S")
        .input("alpha: T")
        .output("output: T")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr("S: {int32, int64}")
        .attr("T: {half, float, double}")
        .shape(sampled_shape)
        .stateful()
        .gradient(|cx, dys| {
            let (shape, alpha, y) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
            let g = cx.graph();
            let slope = g.op("RandomGammaGrad").input(&alpha).input(&y).output()?;
            let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
            let rank = shape.size_op()?;
            let samples = g.op("Range").input(&zero).input(&rank).input(&one).output()?;
            let dy = cx.dense(dys, 0)?.times(&slope)?.reduce_by("Sum", &samples, false)?;
            Ok(vec![None, Some(dy.into())])
        })
        .cpu(|init| Ok(Box::new(Gamma(Stream::new(init)?))))
}

/// How a gamma-distributed `x` moves with its parameter when its place in the distribution stays.
fn slope(alpha: f64, x: f64) -> f64 {
    if x == 0.0 && alpha > 0.0 {
        return 0.0;
    }
    let density = ((alpha - 1.0) * x.ln() - x - special::lgamma(alpha)).exp();
    -special::igamma_grad_a(alpha, x) / density
}

fn gamma_grad(cx: &mut OpContext<'_>) -> Result<()> {
    let (alpha, x) = (cx.input(0)?, cx.input(1)?);
    let shape = Shape::broadcast(alpha.shape(), x.shape())?;
    let index = |of: &Shape| {
        let strides = of.strides();
        let missing = shape.rank() - of.rank();
        let dims = of.clone();
        let all = shape.clone();
        move |mut i: usize| {
            let mut at = 0;
            for k in (0..all.rank()).rev() {
                let (q, r) = (i / all[k], i % all[k]);
                if k >= missing && dims[k - missing] > 1 {
                    at += r * strides[k - missing];
                }
                i = q;
            }
            at
        }
    };
    let (ia, ix) = (index(alpha.shape()), index(x.shape()));
    let (a, v) = (doubles(alpha)?, doubles(x)?);
    let mut t = cx.alloc(x.dtype(), shape.clone())?;
    let at = |i: usize| slope(a[ia(i)], v[ix(i)]);
    match x.dtype() {
        DType::F64 => slice::<f64>(&mut t)?
            .iter_mut()
            .enumerate()
            .for_each(|(i, o)| *o = at(i)),
        _ => slice::<f32>(&mut t)?
            .iter_mut()
            .enumerate()
            .for_each(|(i, o)| *o = at(i) as f32),
    }
    cx.set_output(0, t);
    Ok(())
}

fn random_gamma_grad() -> OpDef {
    OpDef::new("RandomGammaGrad", Category::Random)
        .doc("The derivative of a gamma-distributed sample with respect to its parameter, by implicit differentiation.")
        .input("alpha: T")
        .input("sample: T")
        .output("output: T")
        .attr("T: {float, double}")
        .shape(crate::shapes::broadcast)
        .cpu(|_: &KernelInit<'_>| Ok(Box::new(gamma_grad)))
}

register_ops!(random_gamma, random_gamma_grad);
