//! `Conv3D`, `Conv3DBackpropInputV2`, `Conv3DBackpropFilterV2` and their first versions.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, register_ops};

use super::kernels::{self, Family, From, Side};

const FAMILY: Family = Family {
    forward: "Conv3D",
    input: "Conv3DBackpropInputV2",
    filter: "Conv3DBackpropFilterV2",
};

const PLAIN: (bool, bool) = (false, false);

fn attributes(def: OpDef) -> OpDef {
    def.attr("T: {half, bfloat16, float, double}")
        .attr("strides: list(int) >= 5")
        .attr("padding: {'SAME', 'VALID'}")
        .attr("data_format: {'NDHWC', 'NCDHW'} = 'NDHWC'")
        .attr("dilations: list(int) = [1, 1, 1, 1, 1]")
}

fn first_attributes(def: OpDef) -> OpDef {
    def.attr("T: {half, float, double}")
        .attr("strides: list(int) >= 5")
        .attr("padding: {'SAME', 'VALID'}")
        .attr("dilations: list(int) = [1, 1, 1, 1, 1]")
}

fn sample(s: &mut Sampler, side: Side, same: bool) -> Result<Operation> {
    // Channels last with stride and SAME, or channels first with dilation and VALID.
    let (x, w, y) = match same {
        true => ([1, 3, 4, 3, 2], [2, 2, 3, 2, 2], [1, 2, 2, 3, 2]),
        false => ([1, 2, 3, 4, 3], [2, 2, 2, 2, 1], [1, 1, 2, 2, 2]),
    };
    let sizes = |d: [usize; 5]| d.map(|n| n as i32);
    let b = match side {
        Side::Output => {
            let (x, w) = (s.normal(x)?, s.normal(w)?);
            s.op(FAMILY.forward).input(&x).input(&w)
        }
        Side::Input(_) => {
            let (w, y) = (s.normal(w)?, s.normal(y)?);
            let x = s.constant(sizes(x))?;
            s.op(FAMILY.input).input(&x).input(&w).input(&y)
        }
        Side::Filter(_) => {
            let (x, y) = (s.normal(x)?, s.normal(y)?);
            let w = s.constant(sizes(w))?;
            s.op(FAMILY.filter).input(&x).input(&w).input(&y)
        }
    };
    match same {
        true => b.attr("strides", [1i64, 2, 2, 1, 1]).attr("padding", "SAME"),
        false => b
            .attr("strides", [1i64, 1, 1, 1, 1])
            .attr("dilations", [1i64, 1, 1, 2, 1])
            .attr("padding", "VALID")
            .attr("data_format", "NCDHW"),
    }
    .finish()
}

fn conv3d() -> OpDef {
    let def = OpDef::new("Conv3D", Category::Nn)
        .doc("The convolution (cross-correlation) of volumes with a filter `[depth, height, width, in, out]`.")
        .input("input: T")
        .input("filter: T")
        .output("output: T");
    attributes(def)
        .shape(|cx| kernels::output(cx, 3))
        .gradient(|cx, dys| FAMILY.of_forward(cx, dys))
        .cpu(|init| kernels::kernel(init, 3, Side::Output, PLAIN))
        .sample(|s| sample(s, Side::Output, true))
        .sample(|s| sample(s, Side::Output, false))
}

const INPUT: Side = Side::Input(From::Sizes);
const FILTER: Side = Side::Filter(From::Sizes);

fn backprop_input() -> OpDef {
    let def = OpDef::new("Conv3DBackpropInputV2", Category::Nn)
        .doc("The gradient of Conv3D with respect to its input, whose shape is `input_sizes`: the transposed convolution.")
        .input("input_sizes: Tshape")
        .input("filter: T")
        .input("out_backprop: T")
        .output("output: T");
    attributes(def)
        .attr("Tshape: {int32, int64} = DT_INT32")
        .shape(|cx| kernels::input(cx, 3))
        .gradient(|cx, dys| FAMILY.of_input(cx, dys))
        .cpu(|init| kernels::kernel(init, 3, INPUT, PLAIN))
        .sample(|s| sample(s, INPUT, true))
        .sample(|s| sample(s, INPUT, false))
}

fn backprop_filter() -> OpDef {
    let def = OpDef::new("Conv3DBackpropFilterV2", Category::Nn)
        .doc("The gradient of Conv3D with respect to its filter, whose shape is `filter_sizes`.")
        .input("input: T")
        .input("filter_sizes: int32")
        .input("out_backprop: T")
        .output("output: T");
    attributes(def)
        .shape(|cx| kernels::filter(cx, 3))
        .gradient(|cx, dys| FAMILY.of_filter(cx, dys))
        .cpu(|init| kernels::kernel(init, 3, FILTER, PLAIN))
        .sample(|s| sample(s, FILTER, true))
        .sample(|s| sample(s, FILTER, false))
}

fn backprop_input_v1() -> OpDef {
    let def = OpDef::new("Conv3DBackpropInput", Category::Nn)
        .doc("The gradient of Conv3D with respect to its input, which is given for its shape only.")
        .input("input: T")
        .input("filter: T")
        .input("out_backprop: T")
        .output("output: T");
    first_attributes(def)
        .shape(|cx| Ok(vec![cx.input(0).with_rank(5)?]))
        .cpu(|init| kernels::kernel(init, 3, Side::Input(From::Tensor), PLAIN))
}

fn backprop_filter_v1() -> OpDef {
    let def = OpDef::new("Conv3DBackpropFilter", Category::Nn)
        .doc("The gradient of Conv3D with respect to its filter, which is given for its shape only.")
        .input("input: T")
        .input("filter: T")
        .input("out_backprop: T")
        .output("output: T");
    first_attributes(def)
        .shape(|cx| Ok(vec![cx.input(1).with_rank(5)?]))
        .cpu(|init| kernels::kernel(init, 3, Side::Filter(From::Tensor), PLAIN))
}

register_ops!(
    conv3d,
    backprop_input,
    backprop_filter,
    backprop_input_v1,
    backprop_filter_v1
);
