//! `Conv2D`, `Conv2DBackpropInput`, `Conv2DBackpropFilter`, their second versions, and `_FusedConv2D`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, register_ops};

use super::kernels::{self, Family, From, Side};

const FAMILY: Family = Family {
    forward: "Conv2D",
    input: "Conv2DBackpropInput",
    filter: "Conv2DBackpropFilter",
};

const PLAIN: (bool, bool) = (false, false);

fn attributes(def: OpDef, types: &str) -> OpDef {
    def.attr(types)
        .attr("strides: list(int)")
        .attr("use_cudnn_on_gpu: bool = true")
        .attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
        .attr("explicit_paddings: list(int) = []")
        .attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'")
        .attr("dilations: list(int) = [1, 1, 1, 1]")
}

const FLOATS: &str = "T: {half, bfloat16, float, double}";
const FLOATS_AND_INT: &str = "T: {half, bfloat16, float, double, int32}";

/// Extents and attributes of a sample: input, filter and output, strides, dilations, padding.
struct Form {
    x: [usize; 4],
    w: [usize; 4],
    y: [usize; 4],
    strides: [i64; 4],
    dilations: [i64; 4],
    padding: &'static str,
    explicit: &'static [i64],
    format: &'static str,
}

const SAME: Form = Form {
    x: [2, 5, 4, 2],
    w: [3, 2, 2, 3],
    y: [2, 3, 4, 3],
    strides: [1, 2, 1, 1],
    dilations: [1, 1, 1, 1],
    padding: "SAME",
    explicit: &[],
    format: "NHWC",
};

const GROUPS: Form = Form {
    x: [1, 4, 5, 5],
    w: [2, 2, 2, 4],
    y: [1, 4, 3, 3],
    strides: [1, 1, 1, 1],
    dilations: [1, 1, 2, 2],
    padding: "VALID",
    explicit: &[],
    format: "NCHW",
};

const EXPLICIT: Form = Form {
    x: [1, 4, 4, 1],
    w: [2, 3, 1, 2],
    y: [1, 3, 2, 2],
    strides: [1, 2, 3, 1],
    dilations: [1, 1, 1, 1],
    padding: "EXPLICIT",
    explicit: &[0, 0, 1, 1, 2, 1, 0, 0],
    format: "NHWC",
};

fn sample(s: &mut Sampler, f: &Form, side: Side) -> Result<Operation> {
    let sizes = |d: &[usize]| d.iter().map(|n| *n as i32).collect::<Vec<_>>();
    let b = match side {
        Side::Output => {
            let (x, w) = (s.normal(f.x)?, s.normal(f.w)?);
            s.op(FAMILY.forward).input(&x).input(&w)
        }
        Side::Input(_) => {
            let (w, y) = (s.normal(f.w)?, s.normal(f.y)?);
            let x = s.constant(sizes(&f.x))?;
            s.op(FAMILY.input).input(&x).input(&w).input(&y)
        }
        Side::Filter(_) => {
            let (x, y) = (s.normal(f.x)?, s.normal(f.y)?);
            let w = s.constant(sizes(&f.w))?;
            s.op(FAMILY.filter).input(&x).input(&w).input(&y)
        }
    };
    b.attr("strides", f.strides)
        .attr("dilations", f.dilations)
        .attr("padding", f.padding)
        .attr("explicit_paddings", f.explicit)
        .attr("data_format", f.format)
        .finish()
}

fn conv2d() -> OpDef {
    let def = OpDef::new("Conv2D", Category::Nn)
        .doc("The convolution (cross-correlation) of images with a filter `[height, width, in, out]`.")
        .input("input: T")
        .input("filter: T")
        .output("output: T");
    attributes(def, FLOATS_AND_INT)
        .shape(|cx| kernels::output(cx, 2))
        .gradient(|cx, dys| FAMILY.of_forward(cx, dys))
        .cpu(|init| kernels::kernel(init, 2, Side::Output, PLAIN))
        .sample(|s| sample(s, &SAME, Side::Output))
        .sample(|s| sample(s, &GROUPS, Side::Output))
        .sample(|s| sample(s, &EXPLICIT, Side::Output))
}

const INPUT: Side = Side::Input(From::Sizes);
const FILTER: Side = Side::Filter(From::Sizes);

fn backprop_input() -> OpDef {
    let def = OpDef::new("Conv2DBackpropInput", Category::Nn)
        .doc(
            "The gradient of Conv2D with respect to its input, also known as the transposed convolution. \
             `input_sizes` is the input's shape, or its height and width.",
        )
        .input("input_sizes: int32")
        .input("filter: T")
        .input("out_backprop: T")
        .output("output: T");
    attributes(def, FLOATS_AND_INT)
        .shape(|cx| kernels::input(cx, 2))
        .gradient(|cx, dys| FAMILY.of_input(cx, dys))
        .cpu(|init| kernels::kernel(init, 2, INPUT, PLAIN))
        .sample(|s| sample(s, &SAME, INPUT))
        .sample(|s| sample(s, &GROUPS, INPUT))
        .sample(|s| sample(s, &EXPLICIT, INPUT))
}

fn backprop_filter() -> OpDef {
    let def = OpDef::new("Conv2DBackpropFilter", Category::Nn)
        .doc("The gradient of Conv2D with respect to its filter, whose shape is `filter_sizes`.")
        .input("input: T")
        .input("filter_sizes: int32")
        .input("out_backprop: T")
        .output("output: T");
    attributes(def, FLOATS)
        .shape(|cx| kernels::filter(cx, 2))
        .gradient(|cx, dys| FAMILY.of_filter(cx, dys))
        .cpu(|init| kernels::kernel(init, 2, FILTER, PLAIN))
        .sample(|s| sample(s, &SAME, FILTER))
        .sample(|s| sample(s, &GROUPS, FILTER))
        .sample(|s| sample(s, &EXPLICIT, FILTER))
}

fn backprop_input_v2() -> OpDef {
    let def = OpDef::new("Conv2DBackpropInputV2", Category::Nn)
        .doc("The gradient of Conv2D with respect to its input, which is given for its shape only.")
        .input("input: T")
        .input("filter: T")
        .input("out_backprop: T")
        .output("output: T");
    attributes(def, FLOATS_AND_INT)
        .shape(|cx| Ok(vec![cx.input(0).with_rank(4)?]))
        .cpu(|init| kernels::kernel(init, 2, Side::Input(From::Tensor), PLAIN))
}

fn backprop_filter_v2() -> OpDef {
    let def = OpDef::new("Conv2DBackpropFilterV2", Category::Nn)
        .doc("The gradient of Conv2D with respect to its filter, which is given for its shape only.")
        .input("input: T")
        .input("filter: T")
        .input("out_backprop: T")
        .output("output: T");
    attributes(def, FLOATS)
        .shape(|cx| Ok(vec![cx.input(1).with_rank(4)?]))
        .cpu(|init| kernels::kernel(init, 2, Side::Filter(From::Tensor), PLAIN))
}

fn fused_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let fused = init.attrs.strs("fused_ops")?;
    let what = match fused[..] {
        [] => (false, false),
        ["BiasAdd"] => (true, false),
        ["BiasAdd", "Relu"] => (true, true),
        ["Relu"] => (false, true),
        _ => {
            return Err(Error::unimplemented(format!(
                "_FusedConv2D fuses BiasAdd and Relu, in this order, not {fused:?}"
            )));
        }
    };
    let args = init.attrs.int("num_args")?;
    if args != i64::from(what.0) {
        return Err(Error::invalid(format!(
            "_FusedConv2D of {fused:?} takes {} further inputs, got {args}",
            i64::from(what.0)
        )));
    }
    kernels::kernel(init, 2, Side::Output, what)
}

fn fused_conv2d() -> OpDef {
    let def = OpDef::new("_FusedConv2D", Category::Internal)
        .doc("Conv2D followed by what `fused_ops` names: BiasAdd, whose bias is the only argument, and Relu.")
        .input("input: T")
        .input("filter: T")
        .input("args: num_args * T")
        .output("output: T")
        .attr("num_args: int >= 0")
        .attr("fused_ops: list(string) = []")
        .attr("epsilon: float = 0.0001")
        .attr("leakyrelu_alpha: float = 0.2");
    attributes(def, FLOATS)
        .shape(|cx| {
            let y = kernels::output(cx, 2)?.remove(0);
            let layout = super::super::window::Layout::of(cx.attrs())?;
            match y.rank() {
                Some(rank) if cx.num_inputs() > 2 => {
                    let c = layout.channels(rank);
                    let channels = PartialShape::vector(y.dim(c)).merge(&cx.input(2))?;
                    Ok(vec![y.with_dim(c, channels.dim(0))])
                }
                _ => Ok(vec![y]),
            }
        })
        .cpu(fused_kernel)
}

register_ops!(
    conv2d,
    backprop_input,
    backprop_filter,
    backprop_input_v2,
    backprop_filter_v2,
    fused_conv2d
);
