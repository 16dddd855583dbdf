//! `EncodePng`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Shape, Tensor, register_ops};

use super::png::encoded;

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let level = init.attrs.int("compression")?;
    if !(-1..=9).contains(&level) {
        return Err(Error::invalid(format!("compression should be in [-1,9], got {level}")));
    }
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let dims = x.shape().dims();
        let Some((batch, &[h, w, c])) = dims.split_last_chunk::<3>() else {
            return Err(Error::invalid(format!(
                "image must be at least rank 3 [height, width, channels], got shape {}",
                x.shape()
            )));
        };
        let one = h * w * c;
        if one == 0 {
            return Err(Error::invalid(format!(
                "an empty image cannot be encoded: shape {}",
                x.shape()
            )));
        }
        let files = match x.dtype() {
            DType::U8 => {
                let images = x.as_slice::<u8>()?.chunks(one);
                images
                    .map(|p| encoded(p, [h, w, c], png::BitDepth::Eight, level))
                    .collect::<Result<Vec<_>>>()?
            }
            _ => {
                let bytes = |p: &[u16]| p.iter().flat_map(|x| x.to_be_bytes()).collect::<Vec<u8>>();
                let images = x.as_slice::<u16>()?.chunks(one);
                images
                    .map(|p| encoded(&bytes(p), [h, w, c], png::BitDepth::Sixteen, level))
                    .collect::<Result<Vec<_>>>()?
            }
        };
        let t = Tensor::strings(Shape::from(batch), files)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn encode_png() -> OpDef {
    OpDef::new("EncodePng", Category::Image)
        .doc("Images `[..., height, width, channels]` as PNG files.")
        .input("image: T")
        .output("contents: string")
        .attr("compression: int = -1")
        .attr("T: {uint8, uint16} = DT_UINT8")
        .not_differentiable()
        .shape(|cx| {
            let x = cx.input(0).with_rank_at_least(3)?;
            Ok(vec![match x.rank() {
                Some(r) => x.sub(0, r - 3),
                None => x,
            }])
        })
        .cpu(kernel)
}

register_ops!(encode_png);
