//! `DecodeRaw`, `DecodePaddedRaw`, `DecodeCompressed`: bytes that are numbers, or compressed.

use std::io::Read;

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};
use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};

use super::support::map;
use crate::ops::array::support::int_scalar;
use crate::shapes;

/// Every string's first `len` bytes (zeros where it is shorter) as numbers of `dtype`.
fn numbers(cx: &OpContext<'_>, input: &Tensor, dtype: DType, len: usize, little: bool) -> Result<Tensor> {
    let size = dtype.size();
    let shape = input.shape().with_replaced(input.shape().rank(), 0, &[len / size]);
    shape.checked_count()?;
    let mut t = cx.alloc(dtype, shape)?;
    let out = t.bytes_mut().ok_or_else(|| Error::internal("the output is shared"))?;
    if len > 0 {
        for (o, s) in out.chunks_exact_mut(len).zip(input.as_strings()?) {
            let n = s.len().min(len);
            o[..n].copy_from_slice(&s[..n]);
            o[n..].fill(0);
        }
    }
    if dtype == DType::Bool {
        // Any bits that are not zero are true.
        out.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    let part = if dtype.is_complex() { size / 2 } else { size };
    if little != cfg!(target_endian = "little") && part > 1 {
        out.chunks_exact_mut(part).for_each(<[u8]>::reverse);
    }
    Ok(t)
}

fn appended(cx: &ShapeContext<'_>, n: Option<usize>) -> Result<Vec<PartialShape>> {
    Ok(vec![cx.input(0).concat(&PartialShape::vector(n))])
}

fn decode_raw() -> OpDef {
    OpDef::new("DecodeRaw", Category::String)
        .doc("The bytes of strings, all of one length, as numbers.")
        .input("bytes: string")
        .output("output: out_type")
        .attr(
            "out_type: {half, float, double, int32, uint16, uint8, int16, int8, int64, complex64, complex128, bool, \
             bfloat16}",
        )
        .attr("little_endian: bool = true")
        .shape(|cx| appended(cx, None))
        .not_differentiable()
        .cpu(|init| {
            let (dtype, little) = (init.attrs.dtype("out_type")?, init.attrs.bool("little_endian")?);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let input = cx.input(0)?;
                let list = input.as_strings()?;
                let len = list.first().map_or(0, Bytes::len);
                if let Some((i, s)) = list.iter().enumerate().find(|(_, s)| s.len() != len) {
                    return Err(Error::invalid(format!(
                        "DecodeRaw requires input strings to all be the same size, but element {i} has size {}, \
                         element 0 {len}",
                        s.len()
                    )));
                }
                if len % dtype.size() != 0 {
                    return Err(Error::invalid(format!(
                        "input to DecodeRaw has length {len} that is not a multiple of {}, the size of {dtype}",
                        dtype.size()
                    )));
                }
                let t = numbers(cx, input, dtype, len, little)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

/// The length in bytes as a number of elements.
fn fixed(len: i64, dtype: DType) -> Result<usize> {
    let n = usize::try_from(len).ok().filter(|n| *n > 0);
    let n = n.ok_or_else(|| Error::invalid(format!("fixed_length ({len}) must be greater than zero")))?;
    if n % dtype.size() != 0 {
        return Err(Error::invalid(format!(
            "fixed_length ({n}) must be a multiple of {}, the size of {dtype}",
            dtype.size()
        )));
    }
    Ok(n)
}

fn decode_padded_raw() -> OpDef {
    OpDef::new("DecodePaddedRaw", Category::String)
        .doc("The bytes of strings, cut or filled with zeros to one length, as numbers.")
        .input("input_bytes: string")
        .input("fixed_length: int32")
        .output("output: out_type")
        .attr("out_type: {half, float, double, int32, uint16, uint8, int16, int8, int64, bfloat16}")
        .attr("little_endian: bool = true")
        .shape(|cx| {
            let dtype = cx.attrs().dtype("out_type")?;
            match cx.constant_i64(1).filter(|n| *n > 0) {
                Some(n) => appended(cx, Some(fixed(n, dtype)? / dtype.size())),
                None => appended(cx, None),
            }
        })
        .not_differentiable()
        .cpu(|init| {
            let (dtype, little) = (init.attrs.dtype("out_type")?, init.attrs.bool("little_endian")?);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let len = fixed(int_scalar(cx.input(1)?, "fixed_length")?, dtype)?;
                let t = numbers(cx, cx.input(0)?, dtype, len, little)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

/// The most bytes that one compressed string may unpack to.
const LARGEST: u64 = 1 << 32;

fn unpacked(s: &[u8], method: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    if s.is_empty() {
        return Ok(out);
    }
    let read = match method {
        "ZLIB" => ZlibDecoder::new(s).take(LARGEST).read_to_end(&mut out),
        _ => MultiGzDecoder::new(s).take(LARGEST).read_to_end(&mut out),
    };
    match read {
        Ok(n) if n as u64 == LARGEST => Err(Error::exhausted("a compressed string unpacks to more than 4 GiB")),
        Ok(_) => Ok(out),
        // What comes before the end of a cut-off stream counts.
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof && !out.is_empty() => Ok(out),
        Err(e) => Err(Error::data_loss(format!("cannot unpack a {method} string: {e}"))),
    }
}

fn decode_compressed() -> OpDef {
    OpDef::new("DecodeCompressed", Category::String)
        .doc("Strings unpacked from zlib or gzip format.")
        .input("bytes: string")
        .output("output: string")
        .attr("compression_type: string = ''")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            let method = init.attrs.str("compression_type")?.to_owned();
            if !matches!(&method[..], "" | "NONE" | "ZLIB" | "GZIP") {
                return Err(Error::invalid(format!(
                    "only ZLIB, GZIP or NONE are supported compressions, not {method:?}"
                )));
            }
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = match &method[..] {
                    "" | "NONE" => cx.input(0)?.clone(),
                    m => map(cx, 0, |s| Ok(unpacked(s, m)?.into()))?,
                };
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(decode_raw, decode_padded_raw, decode_compressed);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph};
    use std::io::Write;

    #[test]
    fn bytes_are_numbers_of_either_order() {
        let g = Graph::new();
        let x = g.constant(Tensor::strings([2], vec!["abcd", "efgh"]).unwrap()).unwrap();
        let raw = |little: bool| {
            let b = g.op("DecodeRaw").input(&x).attr("out_type", DType::I16);
            eval(&b.attr("little_endian", little).output().unwrap())
        };
        assert_eq!(raw(true), Tensor::from([[25185i16, 25699], [26213, 26727]]));
        assert_eq!(raw(false), Tensor::from([[24930i16, 25444], [25958, 26472]]));
        let odd = g
            .op("DecodeRaw")
            .input(&x)
            .attr("out_type", DType::C64)
            .output()
            .unwrap();
        assert!(fails(&odd).message().contains("multiple of 8"));
        let n = g.constant(2i32).unwrap();
        let padded = g
            .op("DecodePaddedRaw")
            .input(&x)
            .input(&n)
            .attr("out_type", DType::I16)
            .output()
            .unwrap();
        assert_eq!(eval(&padded), Tensor::from([[25185i16], [26213]]));
    }

    #[test]
    fn compressed_strings_are_unpacked() {
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(b"hello hello hello").unwrap();
        let packed = z.finish().unwrap();
        assert_eq!(unpacked(&packed, "ZLIB").unwrap(), b"hello hello hello");
        assert_eq!(unpacked(b"abc", "ZLIB").unwrap_err().code(), Code::DataLoss);
        assert_eq!(unpacked(b"", "GZIP").unwrap(), b"");
    }
}
