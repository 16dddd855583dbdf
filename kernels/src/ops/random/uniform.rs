//! `RandomUniform`, `RandomStandardNormal`, `TruncatedNormal`, `RandomUniformInt`.

#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::{DType, PartialShape, register_ops};

use super::fill::{self, Float};
use super::stream::{Stream, shape_input};

/// The output has the shape that input 0 holds.
pub(super) fn given_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(0).with_rank(1)?;
    Ok(vec![cx.constant_shape(0)?])
}

struct Floats {
    stream: Stream,
    dist: Float,
    dtype: DType,
}

impl Kernel for Floats {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let shape = shape_input(cx, 0)?;
        let from = self.stream.reserve_for(shape.checked_count()?);
        let t = fill::floats(cx, self.dist, self.dtype, shape, from)?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn make(init: &KernelInit<'_>, dist: Float) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Floats {
        stream: Stream::new(init)?,
        dist,
        dtype: init.attrs.dtype("dtype")?,
    }))
}

fn floats(name: &'static str, doc: &'static str, kernel: KernelFn) -> OpDef {
    OpDef::new(name, Category::Random)
        .doc(doc)
        .input("shape: T")
        .output("output: dtype")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr("dtype: {half, bfloat16, float, double}")
        .attr("T: {int32, int64}")
        .shape(given_shape)
        .stateful()
        .not_differentiable()
        .cpu(kernel)
}

fn random_uniform() -> OpDef {
    floats("RandomUniform", "Uniform numbers in [0, 1).", |init| {
        make(init, Float::Uniform)
    })
}

fn random_standard_normal() -> OpDef {
    floats(
        "RandomStandardNormal",
        "Normally distributed numbers of mean 0 and standard deviation 1.",
        |init| make(init, Float::Normal),
    )
}

fn truncated_normal() -> OpDef {
    floats(
        "TruncatedNormal",
        "Normally distributed numbers of mean 0 and standard deviation 1; those beyond 2 in size are drawn again.",
        |init| make(init, Float::Truncated),
    )
}

struct Ints(Stream);

impl Kernel for Ints {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let shape = shape_input(cx, 0)?;
        let from = self.0.reserve_for(shape.checked_count()?);
        let t = fill::between(cx, cx.input(1)?, cx.input(2)?, shape, from)?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn random_uniform_int() -> OpDef {
    OpDef::new("RandomUniformInt", Category::Random)
        .doc("Integers in [minval, maxval), uniform but for the bias of a remainder.")
        .input("shape: T")
        .input("minval: Tout")
        .input("maxval: Tout")
        .output("output: Tout")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr("Tout: {int32, int64}")
        .attr("T: {int32, int64}")
        .shape(|cx| {
            cx.input(1).with_rank(0)?;
            cx.input(2).with_rank(0)?;
            given_shape(cx)
        })
        .stateful()
        .not_differentiable()
        .cpu(|init| Ok(Box::new(Ints(Stream::new(init)?))))
}

register_ops!(
    random_uniform,
    random_standard_normal,
    truncated_normal,
    random_uniform_int
);
