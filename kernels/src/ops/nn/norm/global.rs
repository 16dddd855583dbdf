//! `BatchNormWithGlobalNormalization` and its gradient, which TensorFlow has replaced by `FusedBatchNorm`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Operation, PartialShape, Shape, Tensor, register_ops};

use crate::ops::compose::Part;

const TYPES: &str = "T: {half, float, double}";

fn attributes(def: OpDef) -> OpDef {
    def.attr(TYPES)
        .attr("variance_epsilon: float")
        .attr("scale_after_normalization: bool")
}

/// A conversion to and from double, in which both kernels compute.
struct Wide {
    there: Part,
    back: Part,
}

impl Wide {
    fn new(init: &KernelInit<'_>) -> Result<Wide> {
        let t = init.output_types[0];
        let cast = |from: DType, to: DType| {
            let mut attrs = actorflow_core::Attrs::default();
            attrs.set("SrcT", from);
            attrs.set("DstT", to);
            Part::new(init, "Cast", attrs, &[from], &[to])
        };
        Ok(Wide {
            there: cast(t, DType::F64)?,
            back: cast(DType::F64, t)?,
        })
    }

    fn input(&self, cx: &OpContext<'_>, i: usize) -> Result<Tensor> {
        self.there.run1(cx, vec![cx.input(i)?.clone()])
    }

    fn give(&self, cx: &mut OpContext<'_>, i: usize, shape: Shape, values: &[f64]) -> Result<()> {
        let t = self.back.run1(cx, vec![Tensor::from_slice(shape, values)?])?;
        cx.set_output(i, t);
        Ok(())
    }
}

/// The number of channels, after a check that `vectors` (names of inputs) each have as many elements.
fn channels(cx: &OpContext<'_>, vectors: &[(usize, &str)]) -> Result<usize> {
    let x = cx.input(0)?.shape();
    let &[_, _, _, c] = x.dims() else {
        return Err(Error::invalid(format!("input must be 4-dimensional, got shape {x}")));
    };
    for (i, name) in vectors {
        let v = cx.input(*i)?.shape();
        if v.dims() != [c] {
            return Err(Error::invalid(format!(
                "{name} must be a vector with an element for each of the {c} channels, got shape {v}"
            )));
        }
    }
    Ok(c)
}

fn forward(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (epsilon, scale) = (
        f64::from(init.attrs.float("variance_epsilon")?),
        init.attrs.bool("scale_after_normalization")?,
    );
    let wide = Wide::new(init)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let c = channels(cx, &[(1, "mean"), (2, "var"), (3, "beta"), (4, "gamma")])?;
        let [x, m, v, beta, gamma] = [0, 1, 2, 3, 4].map(|i| wide.input(cx, i));
        let (x, m, v, beta, gamma) = (x?, m?, v?, beta?, gamma?);
        let (m, v, beta, gamma) = (
            m.as_slice::<f64>()?,
            v.as_slice::<f64>()?,
            beta.as_slice::<f64>()?,
            gamma.as_slice::<f64>()?,
        );
        let factor: Vec<f64> = (0..c)
            .map(|i| (v[i] + epsilon).sqrt().recip() * if scale { gamma[i] } else { 1.0 })
            .collect();
        let of = |(i, x): (usize, &f64)| (x - m[i % c]) * factor[i % c] + beta[i % c];
        let y: Vec<f64> = x.as_slice::<f64>()?.iter().enumerate().map(of).collect();
        wide.give(cx, 0, x.shape().clone(), &y)
    }))
}

fn backward(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (epsilon, scale) = (
        f64::from(init.attrs.float("variance_epsilon")?),
        init.attrs.bool("scale_after_normalization")?,
    );
    let wide = Wide::new(init)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let c = channels(cx, &[(1, "mean"), (2, "var"), (3, "gamma")])?;
        let (shape, dy) = (cx.input(0)?.shape().clone(), cx.input(4)?.shape());
        if *dy != shape {
            return Err(Error::invalid(format!(
                "input has shape {shape}, but its result's gradient {dy}"
            )));
        }
        let [x, m, v, gamma, dy] = [0, 1, 2, 3, 4].map(|i| wide.input(cx, i));
        let (x, m, v, gamma, dy) = (x?, m?, v?, gamma?, dy?);
        let (m, v, gamma) = (m.as_slice::<f64>()?, v.as_slice::<f64>()?, gamma.as_slice::<f64>()?);
        let (x, dy) = (x.as_slice::<f64>()?, dy.as_slice::<f64>()?);
        let inverse: Vec<f64> = v.iter().map(|v| (v + epsilon).sqrt().recip()).collect();
        let gain = |i: usize| if scale { gamma[i] } else { 1.0 };
        let (mut sum, mut product) = (vec![0.0; c], vec![0.0; c]);
        for (i, (x, dy)) in x.iter().zip(dy).enumerate() {
            sum[i % c] += dy;
            product[i % c] += dy * (x - m[i % c]);
        }
        let each = |f: &dyn Fn(usize) -> f64| (0..c).map(f).collect::<Vec<f64>>();
        let dx: Vec<f64> = dy
            .iter()
            .enumerate()
            .map(|(i, dy)| dy * gain(i % c) * inverse[i % c])
            .collect();
        wide.give(cx, 0, shape, &dx)?;
        let list = Shape::from([c]);
        wide.give(cx, 1, list.clone(), &each(&|i| -sum[i] * gain(i) * inverse[i]))?;
        wide.give(
            cx,
            2,
            list.clone(),
            &each(&|i| -0.5 * product[i] * gain(i) * inverse[i].powi(3)),
        )?;
        wide.give(cx, 3, list.clone(), &sum)?;
        wide.give(
            cx,
            4,
            list,
            &each(&|i| if scale { product[i] * inverse[i] } else { 0.0 }),
        )
    }))
}

fn sample(s: &mut Sampler, scale: bool) -> Result<Operation> {
    let (x, m, v) = (s.normal([2, 2, 1, 3])?, s.normal([3])?, s.positive([3])?);
    let (beta, gamma) = (s.normal([3])?, s.normal([3])?);
    let b = s.op("BatchNormWithGlobalNormalization").input(&x).input(&m).input(&v);
    b.input(&beta)
        .input(&gamma)
        .attr("variance_epsilon", 0.01f32)
        .attr("scale_after_normalization", scale)
        .finish()
}

fn norm() -> OpDef {
    let def = OpDef::new("BatchNormWithGlobalNormalization", Category::Nn)
        .doc(
            "(t - m) / sqrt(v + epsilon) * gamma + beta for each channel; gamma only with `scale_after_normalization`.",
        )
        .input("t: T")
        .input("m: T")
        .input("v: T")
        .input("beta: T")
        .input("gamma: T")
        .output("result: T");
    attributes(def)
        .shape(|cx| {
            let x = cx.input(0).with_rank(4)?;
            let mut c = PartialShape::vector(x.dim(3));
            for i in 1..5 {
                c = c.merge(&cx.input(i).with_rank(1)?)?;
            }
            Ok(vec![x.with_dim(3, c.dim(0))])
        })
        .gradient(|cx, dys| {
            let mut b = cx.graph().op("BatchNormWithGlobalNormalizationGrad");
            for i in [0, 1, 2, 4] {
                b = b.input(&cx.input(i)?);
            }
            let b = b
                .input(&cx.dense(dys, 0)?)
                .attr("variance_epsilon", cx.attrs().float("variance_epsilon")?);
            let op = b
                .attr(
                    "scale_after_normalization",
                    cx.attrs().bool("scale_after_normalization")?,
                )
                .finish()?;
            (0..5).map(|i| Ok(Some(op.output(i)?.into()))).collect()
        })
        .cpu(forward)
        .sample(|s| sample(s, true))
        .sample(|s| sample(s, false))
}

fn norm_grad() -> OpDef {
    let def = OpDef::new("BatchNormWithGlobalNormalizationGrad", Category::Nn)
        .doc("The gradients of BatchNormWithGlobalNormalization with respect to t, m, v, beta and gamma.")
        .input("t: T")
        .input("m: T")
        .input("v: T")
        .input("gamma: T")
        .input("backprop: T")
        .output("dx: T")
        .output("dm: T")
        .output("dv: T")
        .output("db: T")
        .output("dg: T");
    attributes(def)
        .shape(|cx| {
            let x = cx.input(0).with_rank(4)?.merge(&cx.input(4))?;
            let c = PartialShape::vector(x.dim(3)).merge(&cx.input(3))?;
            Ok(vec![x, c.clone(), c.clone(), c.clone(), c])
        })
        .cpu(backward)
}

register_ops!(norm, norm_grad);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn channels_are_normalised() {
        let g = Graph::new();
        let x = g
            .constant(Tensor::from_slice([1, 1, 2, 1], &[1f32, 5.0]).unwrap())
            .unwrap();
        let [m, v, beta, gamma] = [3f32, 4.0, 10.0, 0.5].map(|x| g.constant([x]).unwrap());
        let b = g
            .op("BatchNormWithGlobalNormalization")
            .input(&x)
            .input(&m)
            .input(&v)
            .input(&beta)
            .input(&gamma);
        let y = b
            .attr("variance_epsilon", 0f32)
            .attr("scale_after_normalization", true)
            .output()
            .unwrap();
        assert_eq!(eval(&y).to_vec::<f32>().unwrap(), [9.5, 10.5]);
    }
}
