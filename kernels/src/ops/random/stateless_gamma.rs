//! `StatelessRandomGammaV2`, `StatelessRandomGammaV3`, `StatelessRandomPoisson`.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};

use super::gamma::{self, fill};
use super::poisson;
use super::stateless::{keyed, seeded};
use super::stream::shape_input;

/// The part of the output's shape, input 0, that comes before the parameters'.
///
/// # Errors
/// `INVALID_ARGUMENT` if the shape does not end with the parameters'.
fn samples(cx: &OpContext<'_>, params: &Tensor) -> Result<Shape> {
    let shape = shape_input(cx, 0)?;
    shape.checked_count()?;
    match shape.strip_suffix(params.shape().dims()) {
        Some(lead) => Ok(lead.into()),
        None => Err(Error::invalid(format!(
            "Shape passed in must end with broadcasted shape: {shape} does not end with {}",
            params.shape()
        ))),
    }
}

fn gamma_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let by_key = init.op == "StatelessRandomGammaV3";
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let (from, alpha) = match by_key {
            true => (keyed(cx)?, cx.input(4)?),
            false => (seeded(cx.input(1)?)?, cx.input(2)?),
        };
        let lead = samples(cx, alpha)?;
        let t = fill(cx, alpha.dtype(), (&lead, alpha), from, gamma::sample)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn poisson_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let dtype = init.attrs.dtype("dtype")?;
    let largest = poisson::largest(dtype);
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let (from, rate) = (seeded(cx.input(1)?)?, cx.input(2)?);
        let lead = samples(cx, rate)?;
        let t = fill(cx, dtype, (&lead, rate), from, |r, p| poisson::sample(r, p, largest))?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn seeded_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(1).merge(&PartialShape::from([2]))?;
    keyed_shape(cx)
}

fn keyed_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(0).with_rank(1)?;
    Ok(vec![cx.constant_shape(0)?])
}

/// Sums over the samples of each parameter.
fn gradient(cx: &GradContext, dys: &[Option<Grad>], at: usize) -> Result<Vec<Option<Grad>>> {
    let (alpha, y, g) = (cx.input(at)?, cx.output(0)?, cx.graph());
    let slope = g.op("RandomGammaGrad").input(&alpha).input(&y).output()?;
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    let lead = y.rank_op()?.minus(&alpha.rank_op()?)?;
    let axes = g.op("Range").input(&zero).input(&lead).input(&one).output()?;
    let dy = cx.dense(dys, 0)?.times(&slope)?.reduce_by("Sum", &axes, false)?;
    let mut all = cx.none()?;
    all[at] = Some(dy.into());
    Ok(all)
}

fn gamma_v2() -> OpDef {
    OpDef::new("StatelessRandomGammaV2", Category::Random)
        .doc("Gamma-distributed numbers of scale 1 that follow from the inputs alone; `shape` ends with that of `alpha`.")
        .input("shape: T")
        .input("seed: Tseed")
        .input("alpha: dtype")
        .output("output: dtype")
        .attr("dtype: {half, float, double}")
        .attr("T: {int32, int64}")
        .attr("Tseed: {int32, int64} = DT_INT64")
        .shape(seeded_shape)
        .gradient(|cx, dys| gradient(cx, dys, 2))
        .cpu(gamma_kernel)
}

fn gamma_v3() -> OpDef {
    OpDef::new("StatelessRandomGammaV3", Category::Random)
        .doc("Gamma-distributed numbers of scale 1 that follow from the inputs alone; `shape` ends with that of `alpha`.")
        .input("shape: shape_dtype")
        .input("key: uint64")
        .input("counter: uint64")
        .input("alg: int32")
        .input("alpha: dtype")
        .output("output: dtype")
        .attr("dtype: {half, float, double}")
        .attr("shape_dtype: {int32, int64} = DT_INT32")
        .shape(keyed_shape)
        .gradient(|cx, dys| gradient(cx, dys, 4))
        .cpu(gamma_kernel)
}

fn poisson_op() -> OpDef {
    OpDef::new("StatelessRandomPoisson", Category::Random)
        .doc("Poisson-distributed numbers that follow from the inputs alone; `shape` ends with that of `lam`.")
        .input("shape: T")
        .input("seed: Tseed")
        .input("lam: Rtype")
        .output("output: dtype")
        .attr("Rtype: {half, float, double, int32, int64}")
        .attr("dtype: {half, float, double, int32, int64}")
        .attr("T: {int32, int64}")
        .attr("Tseed: {int32, int64} = DT_INT64")
        .shape(seeded_shape)
        .not_differentiable()
        .cpu(poisson_kernel)
}

register_ops!(gamma_v2, gamma_v3, poisson_op);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval, fails};
    use actorflow_core::gradient::gradients;
    use actorflow_core::{Code, DType, Graph, Output, Tensor};

    fn drawn(shape: &[i32], rate: &[f64]) -> Output {
        let g = Graph::new();
        let (shape, seed) = (
            g.constant(Tensor::vector(shape)).unwrap(),
            g.constant([1i64, 2]).unwrap(),
        );
        let b = g.op("StatelessRandomPoisson").input(&shape).input(&seed);
        b.input(&g.constant(Tensor::vector(rate)).unwrap())
            .attr("dtype", DType::I64)
            .output()
            .unwrap()
    }

    #[test]
    fn gamma_samples_move_with_their_parameter_as_their_mean_does() {
        let g = Graph::new();
        let alpha = g.placeholder("alpha", DType::F64, [1]).unwrap();
        let (shape, seed) = (g.constant([4000i32, 1]).unwrap(), g.constant([1i64, 2]).unwrap());
        let y = g.op("StatelessRandomGammaV2").input(&shape).input(&seed).input(&alpha);
        let mean = y.output().unwrap().mean(&[], false).unwrap();
        let grads = gradients(&[mean], std::slice::from_ref(&alpha)).unwrap();
        let slope = grads[0].as_ref().unwrap().to_dense().unwrap();
        let feeds = [(alpha, Tensor::from([2.5f64]))];
        let out = Interpreter::default().run(&[slope], &[], &feeds).unwrap();
        // The mean is alpha.
        assert!((out[0].to_scalar::<f64>().unwrap() - 1.0).abs() < 0.05, "{out:?}");
    }

    #[test]
    fn samples_have_the_mean_asked_for_and_the_shape_must_fit() {
        let x = eval(&drawn(&[2000, 2], &[3.0, 20.0])).to_vec::<i64>().unwrap();
        for (k, want) in [(0, 3.0), (1, 20.0)] {
            let mean = x.iter().skip(k).step_by(2).sum::<i64>() as f64 / 2000.0;
            assert!((mean - want).abs() < 0.05 * want, "{mean}");
        }
        assert_eq!(fails(&drawn(&[2, 3], &[1.0, 2.0])).code(), Code::InvalidArgument);
    }
}
