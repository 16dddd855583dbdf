//! `MaxPool3D`, `MaxPool3DGrad`, `MaxPool3DGradGrad`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, register_ops};

use super::kernels::{self, What, node};
use super::max_pool::only_third;

fn attributes(def: OpDef) -> OpDef {
    def.attr("ksize: list(int) >= 5")
        .attr("strides: list(int) >= 5")
        .attr("padding: {'SAME', 'VALID'}")
        .attr("data_format: {'NDHWC', 'NCDHW'} = 'NDHWC'")
}

const SAME: ([i64; 5], [i64; 5]) = ([1, 2, 3, 2, 1], [1, 2, 2, 1, 1]);

fn pooled(s: &Sampler, op: &str, inputs: &[&actorflow_core::Output]) -> Result<Operation> {
    let mut b = s.op(op);
    for i in inputs {
        b = b.input(i);
    }
    b.attr("ksize", SAME.0)
        .attr("strides", SAME.1)
        .attr("padding", "SAME")
        .finish()
}

/// A gradient, which is linear in its last input only: the others are constants.
fn sample(s: &mut Sampler, op: &str, like_output: bool) -> Result<Operation> {
    s.normal([1, 3, 4, 3, 2])?;
    let fixed = s.constant(s.inputs()[0].1.clone())?;
    let y = pooled(s, "MaxPool3D", &[&fixed])?.output(0)?;
    let g = if like_output {
        s.normal([1, 2, 2, 3, 2])?
    } else {
        s.normal([1, 3, 4, 3, 2])?
    };
    pooled(s, op, &[&fixed, &y, &g])
}

fn max_pool3d() -> OpDef {
    let def = OpDef::new("MaxPool3D", Category::Nn)
        .doc("The largest element of every window of volumes, for each channel.")
        .input("input: T")
        .output("output: T");
    // TensorFlow has no kernel for double; it costs nothing here and serves the gradient check.
    attributes(def)
        .attr("T: {half, bfloat16, float, double}")
        .shape(|cx| kernels::output(cx, 3))
        .gradient(|cx, dys| {
            let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dense(dys, 0)?);
            Ok(vec![Some(node(cx, "MaxPool3DGrad", &[&x, &y, &dy])?.into())])
        })
        .cpu(|init| kernels::kernel(init, 3, What::Largest))
        .sample(|s| {
            let x = s.normal([1, 3, 4, 3, 2])?;
            pooled(s, "MaxPool3D", &[&x])
        })
}

fn max_pool3d_grad() -> OpDef {
    let def = OpDef::new("MaxPool3DGrad", Category::Nn)
        .doc("The gradient of MaxPool3D with respect to its input; of equal elements the first gets all.")
        .input("orig_input: TInput")
        .input("orig_output: TInput")
        .input("grad: T")
        .output("output: T");
    attributes(def)
        .attr("T: {half, bfloat16, float, double} = DT_FLOAT")
        .attr("TInput: {half, bfloat16, float, double} = DT_FLOAT")
        .shape(|cx| kernels::gradient(cx, 3))
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            only_third(cx, node(cx, "MaxPool3DGradGrad", &[&x, &y, &g])?.into(), 0)
        })
        .cpu(|init| match init.input_types {
            [a, _, b] if a == b => kernels::kernel(init, 3, What::Gradient),
            _ => Err(init.no_kernel()),
        })
        .sample(|s| sample(s, "MaxPool3DGrad", true))
}

fn max_pool3d_grad_grad() -> OpDef {
    let def = OpDef::new("MaxPool3DGradGrad", Category::Nn)
        .doc("The gradient of MaxPool3DGrad: for every output the element where the input equals it.")
        .input("orig_input: T")
        .input("orig_output: T")
        .input("grad: T")
        .output("output: T");
    attributes(def)
        .attr("T: realnumbertype")
        .shape(|cx| kernels::second(cx, 3))
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            only_third(cx, node(cx, "MaxPool3DGrad", &[&x, &y, &g])?.into(), 0)
        })
        .cpu(|init| kernels::kernel(init, 3, What::Second))
        .sample(|s| sample(s, "MaxPool3DGradGrad", false))
}

register_ops!(max_pool3d, max_pool3d_grad, max_pool3d_grad_grad);
