//! `StatelessParameterizedTruncatedNormal`.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::fill::slice;
use super::parameterized::{Draws, Parameters, batch};
use super::stateless::seeded;
use super::stream::shape_input;
use super::uniform::given_shape;

/// The element of a tensor of shape `own` that element `i` of its broadcast to `all` shows.
fn shown(own: &Shape, all: &Shape, mut i: usize) -> usize {
    let (mut at, mut stride) = (0, 1);
    let mut inner = own.iter().rev();
    for d in all.iter().rev() {
        if let Some(n) = inner.next() {
            if *n != 1 {
                at += i % d * stride;
            }
            stride *= n;
        }
        i /= d;
    }
    at
}

fn draw<T: Draws>(cx: &OpContext<'_>) -> Result<Tensor> {
    let shape = shape_input(cx, 0)?;
    let mut from = seeded(cx.input(1)?)?;
    let mut all = Shape::new(&[]);
    let mut inputs = Vec::with_capacity(4);
    for i in 2..6 {
        let t = cx.input(i)?;
        all = Shape::broadcast(&all, t.shape()).map_err(|_| {
            Error::invalid(format!(
                "means, stddevs, minvals and maxvals must have compatible shapes; {} does not go with {all}",
                t.shape()
            ))
        })?;
        inputs.push((t.shape(), t.as_slice::<T>()?));
    }
    if !shape.ends_with(&all) {
        return Err(Error::invalid(format!(
            "the shape must end with that of the parameters, {all}, but is {shape}"
        )));
    }
    let mut t = cx.alloc(T::DTYPE, &shape)?;
    let out = slice::<T>(&mut t)?;
    let distributions = all.count();
    if out.is_empty() {
        return Ok(t);
    }
    // One distribution after the other from one stream, all its samples at once.
    let mut samples = vec![T::default(); out.len() / distributions];
    for i in 0..distributions {
        let at = |p: usize| {
            let (own, values): (&Shape, &[T]) = inputs[p];
            values[shown(own, &all, i)].to_f64()
        };
        let parameters = Parameters {
            mean: at(0),
            deviation: at(1),
            low: at(2),
            high: at(3),
        };
        batch(parameters, &mut from, &mut samples)?;
        for (out, x) in out[i..].iter_mut().step_by(distributions).zip(&samples) {
            *out = *x;
        }
    }
    Ok(t)
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let draw = match init.attrs.dtype("dtype")? {
        DType::F16 => draw::<half::f16>,
        DType::F32 => draw::<f32>,
        DType::F64 => draw::<f64>,
        _ => return Err(init.no_kernel()),
    };
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let t = draw(cx)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn stateless_parameterized_truncated_normal() -> OpDef {
    OpDef::new("StatelessParameterizedTruncatedNormal", Category::Random)
        .doc("Normally distributed numbers between bounds that follow from the inputs alone; the parameters broadcast to the last dimensions.")
        .input("shape: S")
        .input("seed: Tseed")
        .input("means: dtype")
        .input("stddevs: dtype")
        .input("minvals: dtype")
        .input("maxvals: dtype")
        .output("output: dtype")
        .attr("S: {int32, int64}")
        .attr("Tseed: {int32, int64} = DT_INT64")
        .attr("dtype: {half, float, double}")
        .shape(|cx| {
            cx.input(1).merge(&PartialShape::from([2]))?;
            given_shape(cx)
        })
        .not_differentiable()
        .cpu(kernel)
}

register_ops!(stateless_parameterized_truncated_normal);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Output, Tensor};

    fn node(g: &Graph, shape: Tensor, parameters: [Tensor; 4]) -> Output {
        let node = g
            .op("StatelessParameterizedTruncatedNormal")
            .input(&g.constant(shape).unwrap())
            .input(&g.constant([1i64, 2]).unwrap());
        let node = parameters
            .into_iter()
            .fold(node, |node, t| node.input(&g.constant(t).unwrap()));
        node.output().unwrap()
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn each_distribution_has_its_samples() {
        let g = Graph::new();
        let f = |x: f32| Tensor::from(x);
        let y = node(&g, Tensor::from([5i32]), [f(0.), f(1.), f(-1.), f(1.)]);
        let want = [0.688_120_84, -0.615_909_34, 0.992_446_4, -0.679_225_2, -0.121_297_12];
        assert_eq!(eval(&y).to_vec::<f32>().unwrap(), want);
        let means = Tensor::from([0f32, 1.]);
        let y = node(&g, Tensor::from([3i32, 2]), [means, f(1.), f(-5.), f(10.)]);
        let want = [
            0.544_110_1,
            -0.301_589_85,
            0.207_380_3,
            0.046_143_472,
            0.073_564_32,
            1.841_728_6,
        ];
        for (a, b) in eval(&y).to_vec::<f32>().unwrap().iter().zip(want) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        let y = node(&g, Tensor::from([0i32]), [f(0.), f(1.), f(-1.), f(1.)]);
        assert!(eval(&y).is_empty());
    }

    #[test]
    fn shapes_and_parameters_are_checked() {
        let g = Graph::new();
        let f = |x: f32| Tensor::from(x);
        let bad = node(&g, Tensor::from([5i32]), [Tensor::from([0f32]), f(1.), f(-1.), f(1.)]);
        assert!(fails(&bad).message().contains("must end with"));
        let bad = node(&g, Tensor::from([5i32]), [f(0.), f(-1.), f(-1.), f(1.)]);
        assert!(fails(&bad).message().contains("positive standard deviation"));
        let two = Tensor::from([0f32, 1.]);
        let bad = node(
            &g,
            Tensor::from([3i32, 2]),
            [two, Tensor::from([1f32, 1., 1.]), f(-1.), f(1.)],
        );
        assert!(fails(&bad).message().contains("compatible"));
    }
}
