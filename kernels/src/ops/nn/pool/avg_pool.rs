//! `AvgPool`, `AvgPoolGrad`, `AvgPool3D`, `AvgPool3DGrad`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, register_ops};

use super::kernels::{self, What, node};

const TYPES: &str = "T: {half, bfloat16, float, double}";

fn attributes(def: OpDef, space: usize) -> OpDef {
    match space {
        2 => def
            .attr("ksize: list(int) >= 4")
            .attr("strides: list(int) >= 4")
            .attr("padding: {'SAME', 'VALID'}")
            .attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'"),
        _ => def
            .attr("ksize: list(int) >= 5")
            .attr("strides: list(int) >= 5")
            .attr("padding: {'SAME', 'VALID'}")
            .attr("data_format: {'NDHWC', 'NCDHW'} = 'NDHWC'"),
    }
    .attr(TYPES)
}

fn of_mean(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let (shape, dy) = (cx.input(0)?.shape_op()?, cx.dense(dys, 0)?);
    Ok(vec![Some(node(cx, op, &[&shape, &dy])?.into())])
}

fn of_gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    Ok(vec![None, Some(node(cx, op, &[&cx.dense(dys, 0)?])?.into())])
}

/// Overlapping windows with padding, or channels first without.
fn sample(s: &mut Sampler, op: &str, space: usize, gradient: bool, same: bool) -> Result<Operation> {
    let (x, y, k, st): (&[usize], &[usize], &[i64], &[i64]) = match (space, same) {
        (2, true) => (&[2, 4, 5, 2], &[2, 2, 3, 2], &[1, 3, 2, 1], &[1, 2, 2, 1]),
        (2, false) => (&[1, 2, 4, 3], &[1, 2, 3, 2], &[1, 1, 2, 2], &[1, 1, 1, 1]),
        (_, true) => (&[1, 3, 4, 3, 2], &[1, 2, 2, 3, 2], &[1, 2, 3, 2, 1], &[1, 2, 2, 1, 1]),
        (_, false) => (&[1, 2, 2, 3, 4], &[1, 2, 1, 2, 3], &[1, 1, 2, 2, 2], &[1, 1, 1, 1, 1]),
    };
    let b = if gradient {
        let sizes: Vec<i32> = x.iter().map(|n| *n as i32).collect();
        let (sizes, y) = (s.constant(sizes)?, s.normal(y)?);
        s.op(op).input(&sizes).input(&y)
    } else {
        let x = s.normal(x)?;
        s.op(op).input(&x)
    };
    let format = match (space, same) {
        (2, true) => "NHWC",
        (2, false) => "NCHW",
        (_, true) => "NDHWC",
        (_, false) => "NCDHW",
    };
    b.attr("ksize", k)
        .attr("strides", st)
        .attr("padding", if same { "SAME" } else { "VALID" })
        .attr("data_format", format)
        .finish()
}

fn avg_pool() -> OpDef {
    let def = OpDef::new("AvgPool", Category::Nn)
        .doc("The mean of every window, for each channel; padding does not count.")
        .input("value: T")
        .output("output: T");
    attributes(def, 2)
        .shape(|cx| kernels::output(cx, 2))
        .gradient(|cx, dys| of_mean(cx, dys, "AvgPoolGrad"))
        .cpu(|init| kernels::kernel(init, 2, What::Mean))
        .sample(|s| sample(s, "AvgPool", 2, false, true))
        .sample(|s| sample(s, "AvgPool", 2, false, false))
}

fn avg_pool_grad() -> OpDef {
    let def = OpDef::new("AvgPoolGrad", Category::Nn)
        .doc("The gradient of AvgPool with respect to its input, whose shape is `orig_input_shape`.")
        .input("orig_input_shape: int32")
        .input("grad: T")
        .output("output: T");
    attributes(def, 2)
        .shape(|cx| kernels::mean_gradient(cx, 2))
        .gradient(|cx, dys| of_gradient(cx, dys, "AvgPool"))
        .cpu(|init| kernels::kernel(init, 2, What::MeanGradient))
        .sample(|s| sample(s, "AvgPoolGrad", 2, true, true))
        .sample(|s| sample(s, "AvgPoolGrad", 2, true, false))
}

fn avg_pool3d() -> OpDef {
    let def = OpDef::new("AvgPool3D", Category::Nn)
        .doc("The mean of every window of volumes, for each channel; padding does not count.")
        .input("input: T")
        .output("output: T");
    attributes(def, 3)
        .shape(|cx| kernels::output(cx, 3))
        .gradient(|cx, dys| of_mean(cx, dys, "AvgPool3DGrad"))
        .cpu(|init| kernels::kernel(init, 3, What::Mean))
        .sample(|s| sample(s, "AvgPool3D", 3, false, true))
        .sample(|s| sample(s, "AvgPool3D", 3, false, false))
}

fn avg_pool3d_grad() -> OpDef {
    let def = OpDef::new("AvgPool3DGrad", Category::Nn)
        .doc("The gradient of AvgPool3D with respect to its input, whose shape is `orig_input_shape`.")
        .input("orig_input_shape: int32")
        .input("grad: T")
        .output("output: T");
    attributes(def, 3)
        .shape(|cx| kernels::mean_gradient(cx, 3))
        .gradient(|cx, dys| of_gradient(cx, dys, "AvgPool3D"))
        .cpu(|init| kernels::kernel(init, 3, What::MeanGradient))
        .sample(|s| sample(s, "AvgPool3DGrad", 3, true, true))
        .sample(|s| sample(s, "AvgPool3DGrad", 3, true, false))
}

register_ops!(avg_pool, avg_pool_grad, avg_pool3d, avg_pool3d_grad);
