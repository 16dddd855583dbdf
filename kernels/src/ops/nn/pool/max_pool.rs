//! `MaxPool`, `MaxPoolGrad`, `MaxPoolGradGrad` and their second versions, and `_MaxPoolGradOfRelu`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, register_ops};

use super::kernels::{self, What, node};

const TYPES: &str = "T: {half, bfloat16, float, double, int32, int64, uint8, int16, int8, uint16} = DT_FLOAT";
const REALS: &str = "T: realnumbertype = DT_FLOAT";
const REALS_WITHOUT_DEFAULT: &str = "T: realnumbertype";
const ANY_PADDING: &str = "padding: {'SAME', 'VALID', 'EXPLICIT'}";
const PADDING: &str = "padding: {'SAME', 'VALID'}";
const FORMAT: &str = "data_format: {'NHWC', 'NCHW'} = 'NHWC'";
const VECTOR_FORMAT: &str = "data_format: {'NHWC', 'NCHW', 'NCHW_VECT_C'} = 'NHWC'";

fn sizes(def: OpDef) -> OpDef {
    def.attr("ksize: list(int) >= 4").attr("strides: list(int) >= 4")
}

fn gradient_inputs(def: OpDef) -> OpDef {
    def.input("orig_input: T").input("orig_output: T").input("grad: T")
}

fn size_inputs(def: OpDef) -> OpDef {
    def.input("ksize: int32").input("strides: int32")
}

/// Zeros for the first two inputs, `third` for the third, none for `more`.
pub(super) fn only_third(cx: &GradContext, third: Grad, more: usize) -> Result<Vec<Option<Grad>>> {
    let mut all = vec![
        Some(cx.input(0)?.zeros_like()?.into()),
        Some(cx.input(1)?.zeros_like()?.into()),
        Some(third),
    ];
    all.resize(3 + more, None);
    Ok(all)
}

/// Overlapping windows with padding, or channels first without.
fn sample(s: &mut Sampler, op: &str, what: What, v2: bool, same: bool) -> Result<Operation> {
    let (x, y, k, st) = match same {
        true => ([2, 4, 5, 2], [2, 2, 3, 2], [1, 3, 2, 1], [1, 2, 2, 1]),
        false => ([1, 2, 4, 3], [1, 2, 3, 2], [1, 1, 2, 2], [1, 1, 1, 1]),
    };
    let input = s.normal(x)?;
    let mut b = s.op(op);
    let format = if same { "NHWC" } else { "NCHW" };
    let padding = if same { "SAME" } else { "VALID" };
    if what == What::Largest {
        b = b.input(&input);
    } else {
        // The gradients hold where they are linear: input and output are constants.
        let value = s.inputs()[0].1.clone();
        let fixed = s.constant(value)?;
        let ints = |d: [i32; 4]| d.map(i64::from);
        let pooled = s
            .op("MaxPool")
            .input(&fixed)
            .attr("ksize", ints(k))
            .attr("strides", ints(st))
            .attr("padding", padding)
            .attr("data_format", format)
            .output()?;
        let g = s.normal(if what == What::Gradient { y } else { x })?;
        b = b.input(&fixed).input(&pooled).input(&g);
    }
    if v2 {
        let (k, st) = (s.constant(k)?, s.constant(st)?);
        b = b.input(&k).input(&st);
    } else {
        b = b.attr("ksize", k.map(i64::from)).attr("strides", st.map(i64::from));
    }
    b.attr("padding", padding).attr("data_format", format).finish()
}

fn max_pool() -> OpDef {
    let def = OpDef::new("MaxPool", Category::Nn)
        .doc("The largest element of every window, for each channel; or of groups of channels.")
        .input("input: T")
        .output("output: T")
        .attr(TYPES);
    sizes(def)
        .attr(ANY_PADDING)
        .attr("explicit_paddings: list(int) = []")
        .attr(VECTOR_FORMAT)
        .shape(|cx| kernels::output(cx, 2))
        .gradient(|cx, dys| {
            let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dense(dys, 0)?);
            Ok(vec![Some(node(cx, "MaxPoolGrad", &[&x, &y, &dy])?.into())])
        })
        .cpu(|init| kernels::kernel(init, 2, What::Largest))
        .sample(|s| sample(s, "MaxPool", What::Largest, false, true))
        .sample(|s| sample(s, "MaxPool", What::Largest, false, false))
        .sample(|s| {
            let x = s.normal([1, 4, 3, 2])?;
            s.op("MaxPool")
                .input(&x)
                .attr("ksize", [1i64, 3, 2, 1])
                .attr("strides", [1i64, 2, 1, 1])
                .attr("padding", "EXPLICIT")
                .attr("explicit_paddings", [0i64, 0, 1, 2, 0, 1, 0, 0])
                .finish()
        })
}

fn max_pool_v2() -> OpDef {
    let def = OpDef::new("MaxPoolV2", Category::Nn)
        .doc("The largest element of every window, whose sizes and strides are inputs.")
        .input("input: T");
    size_inputs(def)
        .output("output: T")
        .attr(TYPES)
        .attr(PADDING)
        .attr(VECTOR_FORMAT)
        .shape(|cx| kernels::output(cx, 2))
        .gradient(|cx, dys| {
            let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dense(dys, 0)?);
            let (k, s) = (cx.input(1)?, cx.input(2)?);
            let dx = node(cx, "MaxPoolGradV2", &[&x, &y, &dy, &k, &s])?;
            Ok(vec![Some(dx.into()), None, None])
        })
        .cpu(|init| kernels::kernel(init, 2, What::Largest))
        .sample(|s| sample(s, "MaxPoolV2", What::Largest, true, true))
}

fn max_pool_grad() -> OpDef {
    let def = OpDef::new("MaxPoolGrad", Category::Nn)
        .doc("The gradient of MaxPool with respect to its input; of equal elements the first gets all.");
    sizes(gradient_inputs(def).output("output: T"))
        .attr(ANY_PADDING)
        .attr("explicit_paddings: list(int) = []")
        .attr(FORMAT)
        .attr(REALS)
        .shape(|cx| kernels::gradient(cx, 2))
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            only_third(cx, node(cx, "MaxPoolGradGrad", &[&x, &y, &g])?.into(), 0)
        })
        .cpu(|init| kernels::kernel(init, 2, What::Gradient))
        .sample(|s| sample(s, "MaxPoolGrad", What::Gradient, false, true))
        .sample(|s| sample(s, "MaxPoolGrad", What::Gradient, false, false))
}

fn max_pool_grad_of_relu() -> OpDef {
    let def = OpDef::new("_MaxPoolGradOfRelu", Category::Internal)
        .doc("MaxPoolGrad followed by ReluGrad, of a pool whose input came out of a Relu.");
    sizes(gradient_inputs(def).output("output: T"))
        .attr(ANY_PADDING)
        .attr("explicit_paddings: list(int) = []")
        .attr(FORMAT)
        .attr("T: {float, double} = DT_FLOAT")
        .shape(|cx| kernels::gradient(cx, 2))
        .cpu(|init| kernels::kernel(init, 2, What::RectifiedGradient))
}

fn max_pool_grad_v2() -> OpDef {
    let def = OpDef::new("MaxPoolGradV2", Category::Nn).doc("The gradient of MaxPoolV2 with respect to its input.");
    size_inputs(gradient_inputs(def))
        .output("output: T")
        .attr(PADDING)
        .attr(FORMAT)
        .attr(REALS)
        .shape(|cx| kernels::gradient(cx, 2))
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            let (k, s) = (cx.input(3)?, cx.input(4)?);
            only_third(cx, node(cx, "MaxPoolGradGradV2", &[&x, &y, &g, &k, &s])?.into(), 2)
        })
        .cpu(|init| kernels::kernel(init, 2, What::Gradient))
        .sample(|s| sample(s, "MaxPoolGradV2", What::Gradient, true, true))
}

fn max_pool_grad_grad() -> OpDef {
    let def = OpDef::new("MaxPoolGradGrad", Category::Nn)
        .doc("The gradient of MaxPoolGrad: for every output the element where the input equals it.");
    sizes(gradient_inputs(def).output("output: T"))
        .attr(PADDING)
        .attr(FORMAT)
        .attr(REALS_WITHOUT_DEFAULT)
        .shape(|cx| kernels::second(cx, 2))
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            only_third(cx, node(cx, "MaxPoolGrad", &[&x, &y, &g])?.into(), 0)
        })
        .cpu(|init| kernels::kernel(init, 2, What::Second))
        .sample(|s| sample(s, "MaxPoolGradGrad", What::Second, false, true))
        .sample(|s| sample(s, "MaxPoolGradGrad", What::Second, false, false))
}

fn max_pool_grad_grad_v2() -> OpDef {
    let def = OpDef::new("MaxPoolGradGradV2", Category::Nn).doc("The gradient of MaxPoolGradV2.");
    size_inputs(gradient_inputs(def))
        .output("output: T")
        .attr(PADDING)
        .attr(FORMAT)
        .attr(REALS_WITHOUT_DEFAULT)
        .shape(|cx| kernels::second(cx, 2))
        .cpu(|init| kernels::kernel(init, 2, What::Second))
}

register_ops!(
    max_pool,
    max_pool_v2,
    max_pool_grad,
    max_pool_grad_of_relu,
    max_pool_grad_v2,
    max_pool_grad_grad,
    max_pool_grad_grad_v2
);
