//! `EncodeJpeg`, `EncodeJpegVariableQuality`, and what decoding JPEG files takes.
//!
//! Files are those of the Independent JPEG Group's library, byte for byte, as TensorFlow writes them: `coefficients` are
//! computed from pixels, and `scans` code them. Pixels are that library's too, bit for bit: `file` reads the coefficients
//! of sequential and progressive files, and `restore` makes pixels of them.
#![forbid(unsafe_code)]

mod coefficients;
mod file;
mod restore;
mod scans;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

pub(super) use file::{Refusal, read};
pub(super) use restore::pixels;

use coefficients::{ZIGZAG, components, divisors};
use scans::{Scan, code_of, coded};

/// The most pixels on a side, and the most bytes of a marker's content.
const MOST_PIXELS: usize = 65_500;
const MOST_BYTES: usize = 65_533;

/// What comes before the metadata in its marker.
const METADATA: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// How images are written.
#[derive(Clone)]
struct Options {
    quality: u32,
    progressive: bool,
    /// Huffman codes that fit the image instead of the standard's.
    optimal: bool,
    /// A quarter of the samples for colours.
    halve: bool,
    /// 1 for inches, 2 for centimetres, and pixels for each of them.
    unit: u8,
    density: [u16; 2],
    metadata: Vec<u8>,
    /// The channels that images must have; 0 for 1 or 3.
    channels: usize,
}

/// Markers.
const START: u8 = 0xd8;
const END: u8 = 0xd9;
const JFIF: u8 = 0xe0;
const APPLICATION: u8 = 0xe1;
const DIVISORS: u8 = 0xdb;
const BASELINE: u8 = 0xc0;
const PROGRESSIVE: u8 = 0xc2;
const CODE: u8 = 0xc4;
const SCAN: u8 = 0xda;

fn marker(file: &mut Vec<u8>, kind: u8, content: &[u8]) {
    file.extend([0xff, kind]);
    file.extend((content.len() as u16 + 2).to_be_bytes());
    file.extend(content);
}

/// The file of an image `[height, width, channels]`, whose extents were checked.
fn encoded(pixels: &[u8], dims: [usize; 3], options: &Options) -> Vec<u8> {
    let [height, width, channels] = dims;
    let tables = divisors(options.quality);
    let all = components(pixels, dims, &tables, options.halve);
    let mut file = vec![0xff, START];
    let [x, y] = options.density.map(u16::to_be_bytes);
    let jfif = [b"JFIF\0\x01\x01", &[options.unit][..], &x, &y, &[0, 0]].concat();
    marker(&mut file, JFIF, &jfif);
    if !options.metadata.is_empty() {
        marker(&mut file, APPLICATION, &[METADATA, &options.metadata].concat());
    }
    for (i, table) in tables.iter().enumerate().take(channels.min(2)) {
        let zigzag = ZIGZAG.iter().map(|at| table[*at] as u8);
        marker(
            &mut file,
            DIVISORS,
            &Vec::from_iter([i as u8].into_iter().chain(zigzag)),
        );
    }
    let mut frame = vec![8];
    frame.extend((height as u16).to_be_bytes());
    frame.extend((width as u16).to_be_bytes());
    frame.push(channels as u8);
    for (i, c) in all.iter().enumerate() {
        frame.extend([i as u8 + 1, c.unit as u8 * 0x11, u8::from(i > 0)]);
    }
    let kind = if options.progressive { PROGRESSIVE } else { BASELINE };
    marker(&mut file, kind, &frame);
    let scans = match options.progressive {
        true => Scan::progressive(channels),
        false => Scan::whole(channels),
    };
    for scan in &scans {
        let coded = coded(scan, &all, options.optimal || options.progressive);
        for (number, code) in &coded.codes {
            // Whether it is for other coefficients than the means, and its table.
            let table = ((number % 2) << 4) | (number / 2);
            marker(&mut file, CODE, &[&[table][..], &code.counts, &code.symbols].concat());
        }
        let mut header = vec![scan.components.len() as u8];
        for i in &scan.components {
            let table = code_of(*i, false) / 2;
            let means = if scan.first == 0 && !scan.refines { table } else { 0 };
            let others = if scan.last > 0 { table } else { 0 };
            header.extend([*i as u8 + 1, means << 4 | others]);
        }
        let bits = if scan.refines { scan.low as u8 + 1 } else { 0 };
        header.extend([scan.first as u8, scan.last as u8, bits << 4 | scan.low as u8]);
        marker(&mut file, SCAN, &header);
        file.extend(&coded.bytes);
    }
    file.extend([0xff, END]);
    file
}

/// Sets output 0 to the file of input 0.
fn encode(cx: &mut OpContext<'_>, options: &Options) -> Result<()> {
    let x = cx.input(0)?;
    let &[height, width, channels] = x.shape().dims() else {
        return Err(Error::invalid(format!(
            "image must be 3-dimensional [height, width, channels], got shape {}",
            x.shape()
        )));
    };
    match options.channels {
        0 if !matches!(channels, 1 | 3) => {
            return Err(Error::invalid(format!(
                "image must have 1 or 3 channels, got shape {}",
                x.shape()
            )));
        }
        wanted if wanted != 0 && wanted != channels => {
            return Err(Error::invalid(format!(
                "the format expects {wanted} channels, got shape {}",
                x.shape()
            )));
        }
        _ => {}
    }
    if [height, width].iter().any(|n| !(1..=MOST_PIXELS).contains(n)) {
        return Err(Error::internal(format!(
            "JPEG encoding failed: an image has 1 to {MOST_PIXELS} pixels on a side, got shape {}",
            x.shape()
        )));
    }
    let file = encoded(x.as_slice::<u8>()?, [height, width, channels], options);
    cx.set_output(0, Tensor::string(file));
    Ok(())
}

fn quality(n: i64) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) if n <= 100 => Ok(n),
        _ => Err(Error::invalid(format!("quality must be in [0,100], got {n}"))),
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (int, flag) = (|name| init.attrs.int(name), |name| init.attrs.bool(name));
    let metadata = init.attrs.str("xmp_metadata")?.as_bytes().to_vec();
    if METADATA.len() + metadata.len() > MOST_BYTES {
        return Err(Error::invalid(format!(
            "xmp_metadata of {} bytes does not fit a JPEG file, at most {} do",
            metadata.len(),
            MOST_BYTES - METADATA.len()
        )));
    }
    let options = Options {
        quality: quality(int("quality")?)?,
        progressive: flag("progressive")?,
        optimal: flag("optimize_size")?,
        halve: flag("chroma_downsampling")?,
        unit: if init.attrs.str("density_unit")? == "cm" { 2 } else { 1 },
        // As in TensorFlow, the low 16 bits.
        density: [int("x_density")? as u16, int("y_density")? as u16],
        metadata,
        channels: match init.attrs.str("format")? {
            "grayscale" => 1,
            "rgb" => 3,
            _ => 0,
        },
    };
    Ok(Box::new(move |cx: &mut OpContext<'_>| encode(cx, &options)))
}

fn variable_kernel(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(|cx: &mut OpContext<'_>| {
        let q = cx.input(1)?;
        if !q.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "quality must be scalar, got shape {}",
                q.shape()
            )));
        }
        let options = Options {
            quality: quality(q.to_i64()?)?,
            progressive: false,
            optimal: false,
            halve: true,
            unit: 1,
            density: [300; 2],
            metadata: Vec::new(),
            channels: 0,
        };
        encode(cx, &options)
    }))
}

fn encode_jpeg() -> OpDef {
    OpDef::new("EncodeJpeg", Category::Image)
        .doc("An image `[height, width, channels]` as a JPEG file.")
        .input("image: uint8")
        .output("contents: string")
        .attr("format: {'', 'grayscale', 'rgb'} = ''")
        .attr("quality: int = 95")
        .attr("progressive: bool = false")
        .attr("optimize_size: bool = false")
        .attr("chroma_downsampling: bool = true")
        .attr("density_unit: {'in', 'cm'} = 'in'")
        .attr("x_density: int = 300")
        .attr("y_density: int = 300")
        .attr("xmp_metadata: string = ''")
        .not_differentiable()
        .shape(|cx| {
            cx.input(0).with_rank(3)?;
            Ok(vec![PartialShape::scalar()])
        })
        .cpu(kernel)
}

fn encode_jpeg_variable_quality() -> OpDef {
    OpDef::new("EncodeJpegVariableQuality", Category::Image)
        .doc("An image `[height, width, channels]` as a JPEG file of a quality, from 0 to 100, that an input gives.")
        .input("images: uint8")
        .input("quality: int32")
        .output("contents: string")
        .not_differentiable()
        .shape(|cx| {
            cx.input(0).with_rank(3)?;
            cx.input(1).with_rank(0)?;
            Ok(vec![PartialShape::scalar()])
        })
        .cpu(variable_kernel)
}

register_ops!(encode_jpeg, encode_jpeg_variable_quality);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{AttrValue, Graph, Output, Tensor};

    fn image(dims: [usize; 3]) -> Tensor {
        let smooth = |i: usize| (i * 3 % 200) as u8;
        let pixels: Vec<u8> = (0..dims.iter().product()).map(smooth).collect();
        Tensor::from_slice(dims, &pixels).unwrap()
    }

    fn file(g: &Graph, x: Tensor, attrs: &[(&str, AttrValue)]) -> Output {
        let node = g.op("EncodeJpeg").input(&g.constant(x).unwrap());
        let node = attrs
            .iter()
            .fold(node, |node, (name, value)| node.attr(name, value.clone()));
        node.output().unwrap()
    }

    #[test]
    fn what_was_encoded_is_decoded_to_nearly_the_same() {
        let g = Graph::new();
        for dims in [[16, 24, 3], [5, 9, 3], [17, 33, 1]] {
            let x = image(dims);
            for name in ["quality", "progressive", "optimize_size"] {
                let value = if name == "quality" {
                    AttrValue::from(100i64)
                } else {
                    true.into()
                };
                let attrs = [(name, value), ("chroma_downsampling", false.into())];
                let y = file(&g, x.clone(), &attrs).unary_decoded();
                let (x, y) = (x.to_vec::<u8>().unwrap(), y.to_vec::<u8>().unwrap());
                assert_eq!(x.len(), y.len());
                let far = x.iter().zip(&y).map(|(a, b)| a.abs_diff(*b)).max();
                assert!(far < Some(40), "{dims:?} {name}: {far:?}");
            }
        }
    }

    trait Decoded {
        fn unary_decoded(&self) -> Tensor;
    }

    impl Decoded for Output {
        fn unary_decoded(&self) -> Tensor {
            eval(&self.graph().op("DecodeJpeg").input(self).output().unwrap())
        }
    }

    #[test]
    fn headers_have_densities_and_metadata() {
        let g = Graph::new();
        let attrs = [
            ("density_unit", "cm".into()),
            ("x_density", 7i64.into()),
            ("xmp_metadata", "hello".into()),
        ];
        let t = eval(&file(&g, image([2, 3, 3]), &attrs));
        let bytes = &t.as_strings().unwrap()[0];
        assert_eq!(
            bytes[..20],
            *b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x02\x00\x07\x01,\x00\x00"
        );
        assert_eq!(bytes[53..58], *b"hello");
    }

    #[test]
    fn impossible_images_and_qualities_are_refused() {
        let g = Graph::new();
        let e = |x: Tensor, attrs: &[(&str, AttrValue)]| fails(&file(&g, x, attrs)).message().to_owned();
        assert!(e(image([2, 3, 4]), &[]).contains("1 or 3 channels"));
        assert!(e(image([2, 3, 1]), &[("format", "rgb".into())]).contains("expects 3"));
        assert!(e(image([0, 3, 1]), &[]).contains("pixels on a side"));
        assert!(e(image([1, 65_501, 1]), &[]).contains("pixels on a side"));
        assert!(e(image([2, 3, 3]), &[("quality", 101i64.into())]).contains("101"));
        assert!(
            e(
                image([2, 3, 3]),
                &[("xmp_metadata", "x".repeat(70_000).as_str().into())]
            )
            .contains("70000")
        );
        let (x, q) = (g.constant(image([2, 3, 3])).unwrap(), g.constant(-1i32).unwrap());
        let bad = g.op("EncodeJpegVariableQuality").input(&x).input(&q).output().unwrap();
        assert!(fails(&bad).message().contains("-1"));
    }
}
