//! `DecodePng`, `DecodeJpeg`, `DecodeBmp`, `DecodeGif`, `DecodeImage`, `DecodeAndCropJpeg`, `ExtractJpegShape`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Shape, Tensor, register_ops};
use bytes::Bytes;

use super::picture::{Format, JpegOptions, Picture, Samples, jpeg_extents};

fn contents(cx: &OpContext<'_>) -> Result<Bytes> {
    let t = cx.input(0)?;
    match t.as_strings()? {
        [s] if t.shape().is_scalar() => Ok(s.clone()),
        _ => Err(Error::invalid(format!(
            "`contents` must be scalar but got shape {}",
            t.shape()
        ))),
    }
}

/// The attribute `channels`; 0 without one.
fn channels(attrs: &Attrs) -> Result<usize> {
    match attrs.get("channels") {
        None => Ok(0),
        Some(_) => match attrs.int("channels")? {
            n @ (0 | 1 | 3 | 4) => Ok(n as usize),
            n => Err(Error::invalid(format!("`channels` must be 0, 1, 3 or 4 but got {n}"))),
        },
    }
}

/// The samples as a tensor of `dtype`. Bytes become words by `word`, numbers from 0 to 1 if they become floats.
fn tensor(p: &Picture, dtype: DType, shape: Shape, word: u16) -> Result<Tensor> {
    match (&p.samples, dtype) {
        (Samples::Bytes(v), DType::U8) => Tensor::from_slice(shape, v),
        (Samples::Words(v), DType::U16) => Tensor::from_slice(shape, v),
        (Samples::Words(v), DType::U8) => {
            let high: Vec<u8> = v.iter().map(|x| (x >> 8) as u8).collect();
            Tensor::from_slice(shape, &high)
        }
        (Samples::Bytes(v), DType::U16) => {
            let wide: Vec<u16> = v.iter().map(|x| u16::from(*x) * word).collect();
            Tensor::from_slice(shape, &wide)
        }
        (Samples::Bytes(v), DType::F32) => {
            let unit: Vec<f32> = v.iter().map(|x| f32::from(*x) * (1.0 / 255.0)).collect();
            Tensor::from_slice(shape, &unit)
        }
        (Samples::Words(v), DType::F32) => {
            let unit: Vec<f32> = v.iter().map(|x| f32::from(*x) * (1.0 / 65535.0)).collect();
            Tensor::from_slice(shape, &unit)
        }
        (_, d) => Err(Error::unimplemented(format!("images of {d} are not supported"))),
    }
}

fn decode(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (op, dtype) = (init.op.to_owned(), init.output_types[0]);
    let want = if op == "DecodeGif" { 3 } else { channels(init.attrs)? };
    let expand = op != "DecodeImage" || init.attrs.bool("expand_animations")?;
    let mut options = JpegOptions::default();
    if init.attrs.get("ratio").is_some() {
        options.ratio = match init.attrs.int("ratio")? {
            n @ (1 | 2 | 4 | 8) => n as usize,
            n => return Err(Error::invalid(format!("ratio must be 1, 2, 4, or 8, got {n}"))),
        };
        options.fancy = init.attrs.bool("fancy_upscaling")?;
        options.accurate = init.attrs.str("dct_method")? == "INTEGER_ACCURATE";
    }
    let crops = op == "DecodeAndCropJpeg";
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let file = contents(cx)?;
        let format = Format::of(&file)?;
        let refused = |why: String| Err(Error::invalid(why));
        match (format, op.as_str()) {
            (Format::Bmp, "DecodeBmp" | "DecodeImage") if want == 1 => {
                return refused("`channels` must be 0, 3 or 4 for BMP, but got 1".into());
            }
            (Format::Bmp, "DecodeBmp" | "DecodeImage") => {}
            (Format::Bmp, _) => {
                return refused(format!(
                    "Trying to decode BMP format using a wrong op. Use `decode_bmp` or `decode_image` instead. Op used: {op}"
                ));
            }
            (_, "DecodeBmp") => {
                return refused(format!(
                    "Trying to decode {format:?} format using DecodeBmp op. Use another or `decode_image` instead."
                ));
            }
            (Format::Jpeg, _) if want == 4 => {
                return refused("`channels` must be 0, 1, or 3 for JPEG, but got 4".into());
            }
            (Format::Gif, _) if !matches!(want, 0 | 3) => {
                return refused(format!("channels must be 0 or 3 for GIF, got {want}"));
            }
            (f, "DecodeAndCropJpeg") if f != Format::Jpeg => {
                return refused(format!(
                    "DecodeAndCropJpeg operation can run on JPEG images only, got {f:?}"
                ));
            }
            _ => {}
        }
        let mut picture = Picture::decoded(&file, want, options)?.with_channels(want);
        if crops {
            let window = cx.input(1)?.to_i64_vec()?;
            let sizes: Vec<usize> = window.iter().filter_map(|n| usize::try_from(*n).ok()).collect();
            let cropped = match sizes[..] {
                [y, x, h, w] if window.len() == 4 => picture.cropped([y, x], [h, w]),
                _ => None,
            };
            picture = cropped.ok_or_else(|| Error::invalid(format!("Invalid JPEG data or crop window {window:?}")))?;
        }
        let one = [picture.height, picture.width, picture.channels];
        let all = [&[picture.frames][..], &one].concat();
        let shape: Shape = match (op.as_str(), format) {
            ("DecodeGif", _) => all.into(),
            ("DecodeImage", Format::Gif) if expand => all.into(),
            ("DecodeImage", Format::Gif) => {
                if let Samples::Bytes(v) = &mut picture.samples {
                    v.truncate(one.iter().product());
                }
                one.into()
            }
            (_, Format::Gif) if picture.frames > 1 => {
                return refused(format!(
                    "Got {} frames, but animated gifs can only be decoded by tf.io.decode_gif or tf.io.decode_image",
                    picture.frames
                ));
            }
            _ => one.into(),
        };
        // As TensorFlow: PNG fills the range of words, the others leave a part of it out.
        let word = if format == Format::Png { 257 } else { 256 };
        let t = tensor(&picture, dtype, shape, word)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn image_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(0).with_rank(0)?;
    let c = channels(cx.attrs())?;
    Ok(vec![PartialShape::from([None, None, (c > 0).then_some(c)])])
}

fn decoder(name: &'static str, doc: &'static str) -> OpDef {
    let def = OpDef::new(name, Category::Image)
        .doc(doc)
        .input("contents: string")
        .shape(image_shape)
        .not_differentiable()
        .cpu(decode);
    match name {
        "DecodePng" => def
            .output("image: dtype")
            .attr("channels: int = 0")
            .attr("dtype: {uint8, uint16} = DT_UINT8"),
        "DecodeImage" => def
            .output("image: dtype")
            .attr("channels: int = 0")
            .attr("dtype: {uint8, uint16, float} = DT_UINT8")
            .attr("expand_animations: bool = true")
            .shape(|cx| Ok(vec![PartialShape::UNKNOWN; cx.num_outputs()])),
        "DecodeGif" => def
            .output("image: uint8")
            .shape(|_| Ok(vec![PartialShape::from([None, None, None, Some(3)])])),
        "DecodeBmp" => def.output("image: uint8").attr("channels: int = 0"),
        _ => {
            let def = match name {
                "DecodeAndCropJpeg" => def.input("crop_window: int32"),
                _ => def,
            };
            def.output("image: uint8")
                .attr("channels: int = 0")
                .attr("ratio: int = 1")
                .attr("fancy_upscaling: bool = true")
                .attr("try_recover_truncated: bool = false")
                .attr("acceptable_fraction: float = 1.0")
                .attr("dct_method: string = ''")
        }
    }
}

fn decoders() -> Vec<OpDef> {
    [
        ("DecodePng", "The image of a PNG (or JPEG, or still GIF) file."),
        ("DecodeJpeg", "The image of a JPEG (or PNG, or still GIF) file."),
        ("DecodeAndCropJpeg", "A part of the image of a JPEG file."),
        ("DecodeBmp", "The image of a BMP file without compression."),
        (
            "DecodeGif",
            "The frames of a GIF file (or the one of a PNG or JPEG file).",
        ),
        (
            "DecodeImage",
            "The image of a file of any of these formats, the frames of a GIF file.",
        ),
    ]
    .map(|(name, doc)| decoder(name, doc))
    .into()
}

fn jpeg_shape() -> OpDef {
    OpDef::new("ExtractJpegShape", Category::Image)
        .doc("Height, width and channels of a JPEG file, from its header alone.")
        .input("contents: string")
        .output("image_shape: output_type")
        .attr("output_type: {int32, int64} = DT_INT32")
        .not_differentiable()
        .shape(|_| Ok(vec![PartialShape::from([3])]))
        .cpu(|init| {
            let short = init.output_types[0] == DType::I32;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let dims = jpeg_extents(&contents(cx)?)?;
                let t = match short {
                    true => Tensor::vector(&dims.map(|n| n as i32)),
                    false => Tensor::vector(&dims.map(|n| n as i64)),
                };
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(all decoders);
register_ops!(jpeg_shape);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::image::codec::png::encoded;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output};

    fn file() -> Vec<u8> {
        let pixels: Vec<u8> = (0..24).map(|x| x * 9).collect();
        encoded(&pixels, [2, 4, 3], png::BitDepth::Eight, -1).unwrap()
    }

    fn decoded(op: &str, file: Vec<u8>, channels: Option<i64>) -> Output {
        let g = Graph::new();
        let f = g.constant(Tensor::string(file)).unwrap();
        let b = g.op(op).input(&f);
        match channels {
            Some(c) => b.attr("channels", c).output().unwrap(),
            None => b.output().unwrap(),
        }
    }

    #[test]
    fn files_are_decoded_to_the_channels_asked_for() {
        assert_eq!(
            eval(&decoded("DecodePng", file(), None)).to_vec::<u8>().unwrap()[..4],
            [0, 9, 18, 27]
        );
        assert_eq!(
            eval(&decoded("DecodeImage", file(), Some(4))).to_vec::<u8>().unwrap()[..5],
            [0, 9, 18, 255, 27]
        );
        assert_eq!(
            eval(&decoded("DecodePng", file(), Some(1))).to_vec::<u8>().unwrap()[..2],
            [7, 34]
        );
        assert_eq!(eval(&decoded("DecodeGif", file(), None)).shape().dims(), [1, 2, 4, 3]);
    }

    #[test]
    fn torn_files_and_wrong_formats_are_refused() {
        let whole = file();
        for cut in 0..whole.len() - 20 {
            assert_eq!(
                fails(&decoded("DecodePng", whole[..cut].to_vec(), None)).code(),
                Code::InvalidArgument,
                "{cut}"
            );
        }
        for (op, file) in [
            ("DecodeBmp", whole),
            ("DecodePng", b"BMxx".to_vec()),
            ("DecodeImage", b"nonsense".to_vec()),
        ] {
            assert_eq!(fails(&decoded(op, file, None)).code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn files_cannot_ask_for_more_memory_than_there_is() {
        let mut huge = b"BM".to_vec();
        huge.resize(54, 0);
        huge[10] = 54;
        huge[18..26].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]);
        huge[28] = 24;
        assert_eq!(fails(&decoded("DecodeBmp", huge, None)).code(), Code::InvalidArgument);
    }
}
