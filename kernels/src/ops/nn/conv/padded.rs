//! `Conv`, `FusedPadConv2D`, `FusedResizeAndPadConv2D`: convolutions made of other operations.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Shape, register_ops};

use super::super::window::Slide;
use super::geometry::output_shape;
use crate::ops::compose::Part;

/// The attributes of `Conv2D` or `Conv3D` for those of a `Conv`, and the number of spatial dimensions.
fn fixed(attrs: &Attrs) -> Result<(Attrs, usize)> {
    let strides = attrs.ints("strides")?;
    let space = match strides.len() {
        4 => 2,
        5 => 3,
        n => {
            return Err(Error::invalid(format!(
                "Conv over 2 or 3 dimensions needs 4 or 5 strides, got {n}"
            )));
        }
    };
    let mut to = Attrs::default();
    let explicit = attrs.ints("explicit_paddings")?;
    match (space, attrs.str("padding")?) {
        (3, "EXPLICIT") => {
            return Err(Error::unimplemented(
                "explicit padding of three dimensions is not supported",
            ));
        }
        (_, padding) => to.set("padding", padding),
    }
    if space == 2 {
        to.set("explicit_paddings", explicit);
    }
    let dilations = attrs.ints("dilations")?;
    to.set(
        "dilations",
        if dilations.is_empty() {
            vec![1; space + 2]
        } else {
            dilations
        },
    );
    to.set("strides", strides);
    let format = match (space, attrs.str("data_format")?) {
        (2, "CHANNELS_FIRST") => "NCHW",
        (2, _) => "NHWC",
        (_, "CHANNELS_FIRST") => "NCDHW",
        _ => "NDHWC",
    };
    to.set("data_format", format);
    Ok((to, space))
}

fn batch_dims(attrs: &Attrs) -> Result<usize> {
    let n = attrs.int("batch_dims")?;
    usize::try_from(n)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Error::invalid(format!("batch_dims must be positive, got {n}")))
}

fn conv_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (attrs, space) = fixed(init.attrs)?;
    let (batch, groups) = (batch_dims(init.attrs)?, init.attrs.int("groups")?);
    let channels = if attrs.str("data_format")?.starts_with("NC") {
        batch
    } else {
        batch + space
    };
    let op = if space == 2 { "Conv2D" } else { "Conv3D" };
    let part = Part::new(init, op, attrs, init.input_types, init.output_types)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let (x, w) = (cx.input(0)?.clone(), cx.input(1)?.clone());
        let dims = x.shape().dims().to_vec();
        if dims.len() != batch + space + 1 || w.shape().rank() != space + 2 {
            return Err(Error::invalid(format!(
                "input must have {} dimensions and filter {}, got shapes {} and {}",
                batch + space + 1,
                space + 2,
                x.shape(),
                w.shape()
            )));
        }
        let depth = w.shape()[space];
        if i64::try_from(dims[channels]).ok() != i64::try_from(depth).ok().and_then(|d| d.checked_mul(groups)) {
            return Err(Error::invalid(format!(
                "input of shape {} must have {groups} (groups) times as many channels as the filter of shape {} takes",
                x.shape(),
                w.shape()
            )));
        }
        let flat = x.shape().with_replaced(0, batch, &[dims[..batch].iter().product()]);
        let y = part.run1(cx, vec![x.reshape(flat)?, w])?;
        let shape: Shape = y.shape().with_replaced(0, 1, &dims[..batch]);
        cx.set_output(0, y.reshape(shape)?);
        Ok(())
    }))
}

fn conv() -> OpDef {
    OpDef::new("Conv", Category::Nn)
        .doc("The convolution over two or three dimensions, as many as there are strides besides batch and channels.")
        .input("input: T")
        .input("filter: T")
        .output("output: T")
        .attr("T: {half, bfloat16, float, double, int32}")
        .attr("strides: list(int)")
        .attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
        .attr("explicit_paddings: list(int) = []")
        .attr("data_format: {'CHANNELS_FIRST', 'CHANNELS_LAST'} = 'CHANNELS_LAST'")
        .attr("dilations: list(int) = []")
        .attr("batch_dims: int = 1")
        .attr("groups: int = 1")
        .shape(|cx| {
            let ((attrs, space), batch) = (fixed(cx.attrs())?, batch_dims(cx.attrs())?);
            let x = cx.input(0).with_rank(batch + space + 1)?;
            let rank = batch + space + 1;
            let flat = PartialShape::vector(None).concat(&x.sub(batch, rank));
            let y = output_shape(&Slide::of(&attrs, space)?, &flat, &cx.input(1))?;
            Ok(vec![x.sub(0, batch).concat(&y.sub(1, space + 2))])
        })
        .cpu(conv_kernel)
}

fn attributes(def: OpDef, types: &str) -> OpDef {
    def.attr(types)
        .attr("mode: {'REFLECT', 'SYMMETRIC'}")
        .attr("strides: list(int)")
        .attr("padding: {'SAME', 'VALID'}")
}

fn fused_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (t, resizes) = (init.output_types[0], init.op == "FusedResizeAndPadConv2D");
    let mut attrs = Attrs::default();
    let resize = match resizes {
        true => {
            attrs.set("align_corners", init.attrs.bool("resize_align_corners")?);
            let resize = Part::new(init, "ResizeBilinear", attrs, &[t, DType::I32], &[DType::F32])?;
            let mut attrs = Attrs::default();
            attrs.set("SrcT", DType::F32);
            attrs.set("DstT", t);
            Some((resize, Part::new(init, "Cast", attrs, &[DType::F32], &[t])?))
        }
        false => None,
    };
    let mut attrs = Attrs::default();
    attrs.set("mode", init.attrs.str("mode")?);
    let pad = Part::new(init, "MirrorPad", attrs, &[t, DType::I32], &[t])?;
    let mut attrs = Attrs::default();
    attrs.set("strides", init.attrs.ints("strides")?);
    attrs.set("padding", init.attrs.str("padding")?);
    let conv = Part::new(init, "Conv2D", attrs, &[t, t], &[t])?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let mut x = cx.input(0)?.clone();
        let last = cx.num_inputs() - 1;
        if let Some((resize, cast)) = &resize {
            x = resize.run1(cx, vec![x, cx.input(1)?.clone()])?;
            x = cast.run1(cx, vec![x])?;
        }
        let pads = cx.input(last - 1)?;
        let (p, dims) = (pads.to_i64_vec()?, pads.shape());
        if dims.dims() != [4, 2] || p[..2] != [0, 0] || p[6..] != [0, 0] {
            return Err(Error::invalid(format!(
                "paddings must be a 4x2 matrix that pads neither the batch nor the channels, got {p:?} of shape {dims}"
            )));
        }
        x = pad.run1(cx, vec![x, pads.clone()])?;
        let y = conv.run1(cx, vec![x, cx.input(last)?.clone()])?;
        cx.set_output(0, y);
        Ok(())
    }))
}

/// The shape of the convolution of an image that is (resized and) padded first.
fn fused_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let x = cx.input(0).with_rank(4)?;
    let last = cx.num_inputs() - 1;
    let mut size = [x.dim(1), x.dim(2)];
    if last == 3 {
        let s = cx.constant_shape(1)?.with_rank(2)?;
        size = [s.dim(0), s.dim(1)];
    }
    let pads = cx.constant_i64s(last - 1).filter(|p| p.len() == 8);
    for (i, n) in size.iter_mut().enumerate() {
        *n = match (&pads, *n) {
            (Some(p), Some(n)) => [p[2 + 2 * i], p[3 + 2 * i]]
                .iter()
                .try_fold(n, |n, p| n.checked_add(usize::try_from(*p).ok()?)),
            _ => None,
        };
    }
    let padded = PartialShape::from([x.dim(0), size[0], size[1], x.dim(3)]);
    let mut attrs = cx.attrs().clone();
    attrs.set("data_format", "NHWC");
    Ok(vec![output_shape(&Slide::of(&attrs, 2)?, &padded, &cx.input(last))?])
}

fn fused_pad() -> OpDef {
    let def = OpDef::new("FusedPadConv2D", Category::Nn)
        .doc("Conv2D of images with a mirrored border.")
        .input("input: T")
        .input("paddings: int32")
        .input("filter: T")
        .output("output: T");
    attributes(def, "T: {half, bfloat16, float, double}")
        .shape(fused_shape)
        .cpu(fused_kernel)
}

fn fused_resize() -> OpDef {
    let def = OpDef::new("FusedResizeAndPadConv2D", Category::Nn)
        .doc("Conv2D of images that are resized bilinearly and get a mirrored border first.")
        .input("input: T")
        .input("size: int32")
        .input("paddings: int32")
        .input("filter: T")
        .output("output: T")
        .attr("resize_align_corners: bool = false");
    attributes(def, "T: {half, float, double}")
        .shape(fused_shape)
        .cpu(fused_kernel)
}

register_ops!(conv, fused_pad, fused_resize);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Tensor};

    fn image(g: &Graph) -> actorflow_core::Output {
        let x: Vec<f32> = (0..9).map(|x| x as f32).collect();
        g.constant(Tensor::from_slice([1, 3, 3, 1], &x).unwrap()).unwrap()
    }

    #[test]
    fn borders_are_mirrored_before_the_convolution() {
        let g = Graph::new();
        let (x, w) = (
            image(&g),
            g.constant(Tensor::full([1, 1, 1, 1], 2f32).unwrap()).unwrap(),
        );
        let op = |pads: [[i32; 2]; 4]| {
            let p = g.constant(pads).unwrap();
            let b = g
                .op("FusedPadConv2D")
                .input(&x)
                .input(&p)
                .input(&w)
                .attr("mode", "REFLECT");
            b.attr("strides", [1i64; 4]).attr("padding", "VALID").output().unwrap()
        };
        let y = eval(&op([[0, 0], [1, 0], [0, 0], [0, 0]]));
        assert_eq!(y.to_vec::<f32>().unwrap()[..4], [6., 8., 10., 0.]);
        assert_eq!(
            fails(&op([[1, 0], [0, 0], [0, 0], [0, 0]])).code(),
            Code::InvalidArgument
        );
    }

    #[test]
    fn leading_dimensions_are_a_batch() {
        let g = Graph::new();
        let x = g.constant(Tensor::full([2, 3, 4, 4, 2], 1f32).unwrap()).unwrap();
        let w = g.constant(Tensor::full([2, 2, 2, 5], 1f32).unwrap()).unwrap();
        let b = g
            .op("Conv")
            .input(&x)
            .input(&w)
            .attr("strides", [1i64; 4])
            .attr("padding", "VALID");
        let y = eval(&b.attr("batch_dims", 2i64).output().unwrap());
        assert_eq!(y.shape().dims(), [2, 3, 3, 3, 5]);
        assert_eq!(y.to_vec::<f32>().unwrap()[7], 8.0);
    }
}
