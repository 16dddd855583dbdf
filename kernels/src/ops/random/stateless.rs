//! Random numbers that follow from a seed, or from a key and a counter, among the inputs.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::philox::Philox;
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::fill::{self, Float};
use super::stream::shape_input;
use super::uniform::given_shape;
use crate::shapes;

/// TensorFlow's number of the Philox algorithm, and of letting the device choose.
pub(super) const PHILOX: i64 = 1;
pub(super) const AUTO: i64 = 3;

/// The stream of a seed of two numbers, which Philox itself scrambles: either may be weak.
///
/// # Errors
/// `INVALID_ARGUMENT` if the seed is no vector of two integers.
pub(in crate::ops) fn seeded(seed: &Tensor) -> Result<Philox> {
    let words = match seed.dtype() {
        // 64 unsigned bits do not all fit the signed ones.
        DType::U64 => seed.as_slice::<u64>()?.to_vec(),
        _ => seed.to_i64_vec()?.into_iter().map(|x| x as u64).collect(),
    };
    let (1, [a, b]) = (seed.shape().rank(), &words[..]) else {
        return Err(Error::invalid(format!(
            "seed must have shape [2], not {}",
            seed.shape()
        )));
    };
    let counter = [*a as u32, (a >> 32) as u32, *b as u32, (b >> 32) as u32];
    let mix = Philox::from_raw([0x3ec8_f720, 0x0246_1e29], counter).block();
    Ok(Philox::from_raw([mix[0], mix[1]], [0, 0, mix[2], mix[3]]))
}

/// The stream of a key and a counter: inputs 1, 2 and 3 are `key`, `counter` and `alg`.
pub(super) fn keyed(cx: &OpContext<'_>) -> Result<Philox> {
    let (key, counter, alg) = (cx.input(1)?, cx.input(2)?, cx.input(3)?);
    if !alg.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "alg must be a scalar, got shape {}",
            alg.shape()
        )));
    }
    let alg = alg.to_i64()?;
    if alg != PHILOX && alg != AUTO {
        return Err(Error::invalid(format!(
            "unsupported random algorithm {alg}: use {PHILOX} (Philox) or {AUTO} (automatic)"
        )));
    }
    let ([key], [low, high, ..], 1, 1) = (
        key.as_slice::<u64>()?,
        counter.as_slice::<u64>()?,
        key.shape().rank(),
        counter.shape().rank(),
    ) else {
        return Err(Error::invalid(format!(
            "Philox needs a key of shape [1] and a counter of shape [2], got {} and {}",
            key.shape(),
            counter.shape()
        )));
    };
    let words = |x: u64| [x as u32, (x >> 32) as u32];
    let ([a, b], [c, d]) = (words(*low), words(*high));
    Ok(Philox::from_raw(words(*key), [a, b, c, d]))
}

/// What is drawn.
#[derive(Clone, Copy)]
enum Draw {
    Float(Float),
    /// Integers between two bounds, inputs that follow the stream's.
    Between,
    AnyInt,
}

struct Stateless {
    draw: Draw,
    dtype: DType,
    /// Whether the stream is given by key and counter; else by a seed.
    keyed: bool,
}

impl Kernel for Stateless {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let shape = shape_input(cx, 0)?;
        let (from, next) = match self.keyed {
            true => (keyed(cx)?, 4),
            false => (seeded(cx.input(1)?)?, 2),
        };
        let t = match self.draw {
            Draw::Float(dist) => fill::floats(cx, dist, self.dtype, shape, from)?,
            Draw::Between => fill::between(cx, cx.input(next)?, cx.input(next + 1)?, shape, from)?,
            Draw::AnyInt => fill::any_ints(cx, self.dtype, shape, from)?,
        };
        cx.set_output(0, t);
        Ok(())
    }
}

fn make(init: &KernelInit<'_>, draw: Draw) -> Result<Box<dyn Kernel>> {
    let dtype = init.attrs.dtype("dtype")?;
    if matches!(draw, Draw::Between) && !matches!(dtype, DType::I32 | DType::I64) {
        return Err(init.no_kernel());
    }
    Ok(Box::new(Stateless {
        draw,
        dtype,
        keyed: init.input_types.get(1) == Some(&DType::U64) && init.op.ends_with("V2"),
    }))
}

fn seed_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(1).merge(&PartialShape::from([2]))?;
    given_shape(cx)
}

/// Both forms of an operation: with a seed, and with a key and a counter.
fn both(
    [with_seed, with_key]: [&'static str; 2],
    doc: &'static str,
    dtypes: [&str; 2],
    bounds: bool,
    kernel: KernelFn,
) -> Vec<OpDef> {
    let finish = |mut def: OpDef| {
        if bounds {
            def = def.input("minval: dtype").input("maxval: dtype");
        }
        def.output("output: dtype").not_differentiable().cpu(kernel)
    };
    let seeds = match with_seed {
        "StatelessRandomUniformFullInt" => "Tseed: {int32, int64, uint32, uint64} = DT_INT64",
        _ => "Tseed: {int32, int64} = DT_INT64",
    };
    let default = if bounds {
        "T: {int32, int64}"
    } else {
        "T: {int32, int64} = DT_INT32"
    };
    vec![
        finish(
            OpDef::new(with_seed, Category::Random)
                .doc(doc)
                .input("shape: T")
                .input("seed: Tseed"),
        )
        .attr(dtypes[0])
        .attr(default)
        .attr(seeds)
        .shape(seed_shape),
        finish(
            OpDef::new(with_key, Category::Random)
                .doc(doc)
                .input("shape: Tshape")
                .input("key: uint64")
                .input("counter: uint64")
                .input("alg: int32"),
        )
        .attr(dtypes[1])
        .attr("Tshape: {int32, int64} = DT_INT32")
        .shape(given_shape),
    ]
}

const FLOATS: [&str; 2] = ["dtype: {half, bfloat16, float, double} = DT_FLOAT"; 2];

fn uniform() -> Vec<OpDef> {
    both(
        ["StatelessRandomUniform", "StatelessRandomUniformV2"],
        "Uniform numbers in [0, 1) that follow from the inputs alone.",
        FLOATS,
        false,
        |init| make(init, Draw::Float(Float::Uniform)),
    )
}

fn normal() -> Vec<OpDef> {
    both(
        ["StatelessRandomNormal", "StatelessRandomNormalV2"],
        "Normally distributed numbers that follow from the inputs alone.",
        FLOATS,
        false,
        |init| make(init, Draw::Float(Float::Normal)),
    )
}

fn truncated() -> Vec<OpDef> {
    both(
        ["StatelessTruncatedNormal", "StatelessTruncatedNormalV2"],
        "Normally distributed numbers of at most 2 in size that follow from the inputs alone.",
        FLOATS,
        false,
        |init| make(init, Draw::Float(Float::Truncated)),
    )
}

fn ints() -> Vec<OpDef> {
    both(
        ["StatelessRandomUniformInt", "StatelessRandomUniformIntV2"],
        "Integers in [minval, maxval) that follow from the inputs alone.",
        ["dtype: {int32, int64}", "dtype: {int32, int64, uint32, uint64}"],
        true,
        |init| make(init, Draw::Between),
    )
}

fn full_ints() -> Vec<OpDef> {
    both(
        ["StatelessRandomUniformFullInt", "StatelessRandomUniformFullIntV2"],
        "Integers of any value that follow from the inputs alone.",
        ["dtype: {int32, int64, uint32, uint64} = DT_UINT64"; 2],
        false,
        |init| make(init, Draw::AnyInt),
    )
}

fn key_counter(cx: &mut OpContext<'_>) -> Result<()> {
    let p = seeded(cx.input(0)?)?;
    let ([k0, k1], [c0, c1, c2, c3]) = (p.key(), p.counter());
    let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    cx.set_output(0, Tensor::vector(&[word(k0, k1)]));
    cx.set_output(1, Tensor::vector(&[word(c0, c1), word(c2, c3)]));
    if cx.num_outputs() > 2 {
        cx.set_output(2, Tensor::scalar(PHILOX as i32));
    }
    Ok(())
}

fn key_counter_shapes(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(0).merge(&PartialShape::from([2]))?;
    let all = [PartialShape::from([1]), PartialShape::from([2]), PartialShape::scalar()];
    Ok(all[..cx.num_outputs()].to_vec())
}

fn get_key_counter() -> OpDef {
    OpDef::new("StatelessRandomGetKeyCounter", Category::Random)
        .doc("The key and counter of a seed.")
        .input("seed: Tseed")
        .output("key: uint64")
        .output("counter: uint64")
        .attr("Tseed: {int32, int64} = DT_INT64")
        .shape(key_counter_shapes)
        .not_differentiable()
        .cpu(|_| Ok(Box::new(key_counter)))
}

fn get_key_counter_alg() -> OpDef {
    OpDef::new("StatelessRandomGetKeyCounterAlg", Category::Random)
        .doc("The key and counter of a seed, and the number of the algorithm they are for.")
        .input("seed: Tseed")
        .output("key: uint64")
        .output("counter: uint64")
        .output("alg: int32")
        .attr("Tseed: {int32, int64} = DT_INT64")
        .shape(key_counter_shapes)
        .not_differentiable()
        .cpu(|_| Ok(Box::new(key_counter)))
}

fn get_alg() -> OpDef {
    OpDef::new("StatelessRandomGetAlg", Category::Random)
        .doc("The number of the algorithm that the device prefers.")
        .output("alg: int32")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                cx.set_output(0, Tensor::scalar(PHILOX as i32));
                Ok(())
            }))
        })
}

register_ops!(all uniform);
register_ops!(all normal);
register_ops!(all truncated);
register_ops!(all ints);
register_ops!(all full_ints);
register_ops!(get_key_counter, get_key_counter_alg, get_alg);
