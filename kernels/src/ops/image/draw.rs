//! `DrawBoundingBoxes`, `DrawBoundingBoxesV2`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::resample::{as_f32, image, into_dtype};
use crate::ops::nn::conv::number::writable;

/// Yellow, blue, red, lime, purple, olive, maroon, navy, aqua, fuchsia: red, green, blue, opacity.
const COLOURS: [[f32; 4]; 10] = [
    [1.0, 1.0, 0.0, 1.0],
    [0.0, 0.0, 1.0, 1.0],
    [1.0, 0.0, 0.0, 1.0],
    [0.0, 1.0, 0.0, 1.0],
    [0.5, 0.0, 0.5, 1.0],
    [0.5, 0.5, 0.0, 1.0],
    [0.5, 0.0, 0.0, 1.0],
    [0.0, 0.0, 0.5, 1.0],
    [0.0, 1.0, 1.0, 1.0],
    [1.0, 0.0, 1.0, 1.0],
];

/// The colours of boxes, which take them in turns.
fn colours(cx: &OpContext<'_>, depth: usize) -> Result<Vec<[f32; 4]>> {
    let mut list = match cx.num_inputs() {
        3 => {
            let t = cx.input(2)?;
            match t.shape().dims() {
                [_, n] if *n >= depth => {
                    let colour = |c: &[f32]| std::array::from_fn(|i| c.get(i).copied().unwrap_or(1.0));
                    t.as_slice::<f32>()?.chunks_exact(*n).map(colour).collect()
                }
                _ => {
                    return Err(Error::invalid(format!(
                        "colors must have shape [colors, channels] with at least {depth} channels, got {}",
                        t.shape()
                    )));
                }
            }
        }
        _ => Vec::new(),
    };
    if list.is_empty() {
        list = COLOURS.to_vec();
    }
    if depth == 1 {
        list.iter_mut().for_each(|c| c[0] = 1.0);
    }
    Ok(list)
}

fn draw(cx: &OpContext<'_>) -> Result<Tensor> {
    let device = &*cx.step().device;
    let (images, boxes) = (cx.input(0)?, cx.input(1)?);
    let [n, h, w, c] = image(images.shape())?;
    if !matches!(c, 1 | 3 | 4) {
        return Err(Error::invalid(format!(
            "channel depth should be either 1 (GRY), 3 (RGB), or 4 (RGBA), got {c}"
        )));
    }
    let per = match boxes.shape().dims() {
        [b, per, 4] if *b == n => *per,
        _ => {
            return Err(Error::invalid(format!(
                "boxes must have shape [{n}, boxes, 4] for {n} images, got {}",
                boxes.shape()
            )));
        }
    };
    let colours = colours(cx, c)?;
    let mut out = as_f32(device, images)?.into_unique(device.pool())?;
    let pixels = writable::<f32>(&mut out)?;
    for (i, b) in boxes.as_slice::<f32>()?.as_chunks::<4>().0.iter().enumerate() {
        let colour = &colours[i % per % colours.len()][..c];
        let last = [h as i64 - 1, w as i64 - 1];
        // Cut off towards zero, as is everything that lies less than a pixel outside.
        let [top, left, bottom, right] = std::array::from_fn(|k| (b[k] * last[k % 2] as f32) as i64);
        if top > bottom || left > right || top > last[0] || bottom < 0 || left > last[1] || right < 0 {
            continue;
        }
        let mut paint = |y: i64, x: i64| {
            let at = ((i / per * h + y as usize) * w + x as usize) * c;
            pixels[at..at + c].copy_from_slice(colour);
        };
        for y in [top, bottom].into_iter().filter(|y| (0..=last[0]).contains(y)) {
            (left.max(0)..=right.min(last[1])).for_each(|x| paint(y, x));
        }
        for x in [left, right].into_iter().filter(|x| (0..=last[1]).contains(x)) {
            (top.max(0)..=bottom.min(last[0])).for_each(|y| paint(y, x));
        }
    }
    into_dtype(device, out, images.dtype())
}

fn kernel(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(|cx: &mut OpContext<'_>| {
        let out = draw(cx)?;
        cx.set_output(0, out);
        Ok(())
    }))
}

fn definition(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Image)
        .doc("Draws the outlines of boxes, in coordinates from 0 to 1, into images.")
        .input("images: T")
        .input("boxes: float")
        .attr("T: {float, half} = DT_FLOAT")
        .shape(|cx| {
            let (x, boxes) = (cx.input(0).with_rank(4)?, cx.input(1).with_rank(3)?);
            boxes.merge(&PartialShape::from([None, None, Some(4)]))?;
            Ok(vec![x])
        })
        .cpu(kernel)
}

fn v1() -> OpDef {
    definition("DrawBoundingBoxes").output("output: T").not_differentiable()
}

fn v2() -> OpDef {
    definition("DrawBoundingBoxesV2")
        .input("colors: float")
        .output("output: T")
}

register_ops!(v1, v2);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, DType, Graph, Output, Tensor};

    fn drawn(boxes: &[f32], channels: usize) -> Output {
        let g = Graph::new();
        let x = g
            .constant(Tensor::zeros(DType::F32, [1, 3, 4, channels]).unwrap())
            .unwrap();
        let boxes = g
            .constant(Tensor::from_slice([1, boxes.len() / 4, 4], boxes).unwrap())
            .unwrap();
        g.op("DrawBoundingBoxes").input(&x).input(&boxes).output().unwrap()
    }

    #[test]
    fn outlines_are_drawn_and_what_lies_outside_is_not() {
        let y = eval(&drawn(&[0., 0., 1., 0.7], 1)).to_vec::<f32>().unwrap();
        assert_eq!(y, [1., 1., 1., 0., 1., 0., 1., 0., 1., 1., 1., 0.]);
        for outside in [[2., 0., 3., 1.], [0.9, 0., 0.1, 1.], [-3., 0., -2., 1.]] {
            assert!(
                eval(&drawn(&outside, 1))
                    .to_vec::<f32>()
                    .unwrap()
                    .iter()
                    .all(|x| *x == 0.)
            );
        }
        assert_eq!(fails(&drawn(&[0., 0., 1., 1.], 2)).code(), Code::InvalidArgument);
    }
}
