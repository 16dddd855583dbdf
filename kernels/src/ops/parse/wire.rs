//! Tensors as `TensorProto`s.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use actorflow_core::error::{Error, Result};
use actorflow_core::{DType, Shape, Tensor};
use bytes::Bytes;
use num_complex::Complex;

use crate::protobuf::{Message, Value, fields, fixed32s, fixed64s, put_varint, take, varint, varints};

/// Elements that a message may have without their bytes being in it.
const LISTED: usize = 1 << 26;

/// A tensor as a `TensorProto` with its content in one field.
///
/// # Errors
/// `INVALID_ARGUMENT` for handles and variants.
pub(crate) fn encode(t: &Tensor) -> Result<Vec<u8>> {
    let content = match (t.bytes(), t.dtype()) {
        (Some(b), _) => Cow::Borrowed(b),
        (None, DType::Str) => {
            let mut content = Vec::new();
            for s in t.as_strings()? {
                put_varint(&mut content, s.len() as u64);
            }
            for s in t.as_strings()? {
                content.extend_from_slice(s);
            }
            Cow::Owned(content)
        }
        (None, d) => return Err(Error::invalid(format!("tensors of dtype {d} cannot be serialized"))),
    };
    Ok(head(t).bytes(4, &content).done())
}

/// A tensor of strings as a `TensorProto` that lists them one by one.
pub(super) fn listed_strings(t: &Tensor, strings: &[Bytes]) -> Vec<u8> {
    strings.iter().fold(head(t), |m, s| m.part(8, s)).done()
}

/// A `TensorProto` that so far has the dtype and the shape of a tensor.
pub(crate) fn head(t: &Tensor) -> Message {
    let shape = t
        .shape()
        .iter()
        .fold(Message::default(), |m, d| {
            m.part(2, &Message::default().int(1, *d as u64).done())
        })
        .done();
    Message::default().int(1, t.dtype().to_tf() as u64).part(2, &shape)
}

fn shape(from: &[u8]) -> Option<Vec<i64>> {
    let mut dims = Vec::new();
    fields(from, |n, v| {
        match (n, v) {
            (2, Value::Bytes(dim)) => {
                let mut size = 0;
                fields(dim, |n, v| {
                    if let (1, Value::Varint(x)) = (n, v) {
                        size = x as i64;
                    }
                    Some(())
                })?;
                dims.push(size);
            }
            // Unknown rank.
            (3, Value::Varint(x)) if x != 0 => return None,
            _ => {}
        }
        Some(())
    })?;
    Some(dims)
}

/// The fields of a `TensorProto`.
#[derive(Default)]
struct Parts<'a> {
    dtype: i32,
    dims: Vec<i64>,
    content: &'a [u8],
    /// Of half_val, int_val, int64_val, bool_val, uint32_val, uint64_val.
    integers: Vec<u64>,
    floats: Vec<f32>,
    doubles: Vec<f64>,
    strings: Vec<&'a [u8]>,
}

fn parts(from: &[u8]) -> Option<Parts<'_>> {
    let mut p = Parts::default();
    fields(from, |n, v| {
        match n {
            1 => varints(v, |x| p.dtype = x as i32)?,
            2 => match v {
                Value::Bytes(b) => p.dims = shape(b)?,
                _ => return None,
            },
            4 => match v {
                Value::Bytes(b) => p.content = b,
                _ => return None,
            },
            5 | 9 => fixed32s(v, |x| p.floats.push(f32::from_bits(x)))?,
            6 | 12 => fixed64s(v, |x| p.doubles.push(f64::from_bits(x)))?,
            7 | 10 | 11 | 13 | 16 | 17 => varints(v, |x| p.integers.push(x))?,
            8 => match v {
                Value::Bytes(b) => p.strings.push(b),
                _ => return None,
            },
            _ => {}
        }
        Some(())
    })?;
    Some(p)
}

/// The tensor of a `TensorProto`.
///
/// # Errors
/// `INVALID_ARGUMENT` if the bytes are none, or what they say contradicts itself.
pub(crate) fn decode(from: &[u8]) -> Result<Tensor> {
    let bad = |why: &str| Error::invalid(format!("could not parse a serialized tensor: {why}"));
    let p = parts(from).ok_or_else(|| bad("the bytes are no TensorProto"))?;
    let dtype = DType::from_tf(p.dtype).map_err(|_| bad("its dtype is unknown"))?;
    let shape = Shape::from_i64(&p.dims)?;
    let count = shape.checked_count()?;
    if dtype == DType::Str {
        return strings(&p, shape, count).ok_or_else(|| bad("its strings do not fit its shape"));
    }
    if !dtype.is_plain() {
        return Err(bad("its dtype has no content"));
    }
    if !p.content.is_empty() {
        if Some(p.content.len()) != count.checked_mul(dtype.size()) {
            return Err(bad("the length of its content does not fit its shape"));
        }
        return Tensor::from_bytes(dtype, shape, p.content);
    }
    // One listed element may stand for many, but not for any number of them.
    if count > LISTED {
        return Err(bad("its shape is too large for listed elements"));
    }
    listed(&p, dtype, shape, count)?.ok_or_else(|| bad("it has more elements than its shape"))
}

fn strings(p: &Parts<'_>, shape: Shape, count: usize) -> Option<Tensor> {
    let mut out: Vec<Bytes> = Vec::new();
    if !p.content.is_empty() {
        let mut rest = p.content;
        // Each length takes a byte at least.
        if count > rest.len() {
            return None;
        }
        let lengths = (0..count).map(|_| varint(&mut rest)).collect::<Option<Vec<_>>>()?;
        for n in lengths {
            out.push(Bytes::copy_from_slice(take(&mut rest, usize::try_from(n).ok()?)?));
        }
        if !rest.is_empty() {
            return None;
        }
    } else {
        if p.strings.len() > count || count > LISTED / 16 {
            return None;
        }
        out.extend(p.strings.iter().map(|s| Bytes::copy_from_slice(s)));
        out.resize(count, out.last().cloned().unwrap_or_default());
    }
    Tensor::strings(shape, out).ok()
}

/// A tensor of listed elements, of which the last stands for all that are left out; `None` if there are too many.
fn listed(p: &Parts<'_>, dtype: DType, shape: Shape, count: usize) -> Result<Option<Tensor>> {
    let mut out = Tensor::zeros(dtype, shape)?;
    let size = dtype.size();
    let mut bytes: Vec<u8> = Vec::new();
    match dtype {
        DType::F32 => p.floats.iter().for_each(|x| bytes.extend(x.to_ne_bytes())),
        DType::F64 => p.doubles.iter().for_each(|x| bytes.extend(x.to_ne_bytes())),
        DType::C64 => {
            for c in p.floats.chunks_exact(2) {
                let c = Complex::new(c[0], c[1]);
                bytes.extend(c.re.to_ne_bytes());
                bytes.extend(c.im.to_ne_bytes());
            }
        }
        DType::C128 => p
            .doubles
            .chunks_exact(2)
            .flatten()
            .for_each(|x| bytes.extend(x.to_ne_bytes())),
        DType::Bool => p.integers.iter().for_each(|x| bytes.push(u8::from(*x != 0))),
        _ => {
            for x in &p.integers {
                match size {
                    1 => bytes.push(*x as u8),
                    2 => bytes.extend((*x as u16).to_ne_bytes()),
                    4 => bytes.extend((*x as u32).to_ne_bytes()),
                    _ => bytes.extend(x.to_ne_bytes()),
                }
            }
        }
    }
    if bytes.len() > count * size {
        return Ok(None);
    }
    if let (Some(to), Some(last)) = (out.bytes_mut(), bytes.len().checked_sub(size)) {
        to[..bytes.len()].copy_from_slice(&bytes);
        to[bytes.len()..]
            .chunks_exact_mut(size)
            .for_each(|c| c.copy_from_slice(&bytes[last..]));
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back() {
        let c = Complex::new(1f32, 2.0);
        let all = [
            Tensor::from([[1f32, 2.], [3., 4.]]),
            Tensor::from(7i64),
            Tensor::vector::<i32>(&[]),
            Tensor::from([true, false]),
            Tensor::from([c, c]),
            Tensor::strings([3], vec!["ab", "", "c"]).unwrap(),
            Tensor::strings([0, 2], Vec::<&str>::new()).unwrap(),
        ];
        for t in all {
            let bytes = encode(&t).unwrap();
            assert_eq!(decode(&bytes).unwrap(), t);
            for n in 0..bytes.len() {
                let _ = decode(&bytes[..n]);
                let mut flipped = bytes.clone();
                flipped[n] ^= 0x55;
                let _ = decode(&flipped);
            }
        }
        let strings = Tensor::strings([3], vec!["ab", "", "c"]).unwrap();
        let listed = listed_strings(&strings, strings.as_strings().unwrap());
        assert_eq!(listed, b"\x08\x07\x12\x04\x12\x02\x08\x03B\x02abB\x00B\x01c");
        assert_eq!(decode(&listed).unwrap(), strings);
        let p: &[u8] = b"\x08\x07\x12\x04\x12\x02\x08\x03\"\x06\x01\x01\x01abc";
        assert_eq!(decode(p).unwrap(), Tensor::strings([3], vec!["a", "b", "c"]).unwrap());
    }

    #[test]
    fn the_last_listed_element_stands_for_the_rest() {
        // DT_INT32, shape [3], int_val: 4, -1 (as ten bytes).
        let p = b"\x08\x03\x12\x04\x12\x02\x08\x03\x38\x04\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(decode(p).unwrap(), Tensor::from([4i32, -1, -1]));
        // More than there is room for.
        let p = b"\x08\x03\x12\x04\x12\x02\x08\x01\x38\x04\x38\x04";
        assert!(decode(p).is_err());
        // DT_FLOAT, shape [2^40, 2^40].
        let p = b"\x08\x01\x12\x10\x12\x06\x08\x80\x80\x80\x80\x80\x20\x12\x06\x08\x80\x80\x80\x80\x80\x20";
        assert!(decode(p).is_err());
    }
}
