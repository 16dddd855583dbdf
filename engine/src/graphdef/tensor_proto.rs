//! Tensors between their protobuf form and plain bytes.
//!
//! A `TensorProto` holds its elements either as raw little-endian bytes in `tensor_content` or in the typed
//! field of its dtype (`float_val`, `int_val`, …). A typed field may be shorter than the tensor: its last
//! value then stands for all elements that follow (`Tensor::FromProto` of TensorFlow), and an empty one
//! means zeros. Values beyond the element count are ignored.

use super::decode::ProtoError;
use super::proto::{DataType, TensorProto, TensorShapeProto, tensor_shape_proto::Dim};
use bytes::Bytes;

/// The most dimensions that TensorFlow gives a shape.
pub const MAX_RANK: usize = 254;

/// The elements of a tensor in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorData {
    /// Fixed-width elements, little-endian; a boolean is one byte, 0 or 1; a complex number is its real
    /// part, then its imaginary part.
    Bytes(Bytes),
    /// Elements of dtype `DT_STRING`.
    Strings(Vec<Bytes>),
}

/// A tensor by value, free of the storage choices of its protobuf form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainTensor {
    /// Never `DT_INVALID` and never a reference type.
    pub dtype: DataType,
    /// The extents; their product is the number of elements.
    pub shape: Vec<usize>,
    /// As many elements as the shape says.
    pub data: TensorData,
}

/// The typed field of a `TensorProto` that holds the values of a dtype.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TypedField {
    Float,
    Double,
    Int,
    Int64,
    Bool,
    Half,
    Uint32,
    Uint64,
    Complex64,
    Complex128,
    Float8,
}

/// Width in bytes and typed field of each fixed-width dtype.
fn layout(dtype: DataType) -> Option<(usize, TypedField)> {
    use DataType::*;
    Some(match dtype {
        DtFloat => (4, TypedField::Float),
        DtDouble => (8, TypedField::Double),
        DtInt8 | DtUint8 | DtQint8 | DtQuint8 => (1, TypedField::Int),
        DtInt16 | DtUint16 | DtQint16 | DtQuint16 => (2, TypedField::Int),
        DtInt32 | DtQint32 => (4, TypedField::Int),
        DtInt64 => (8, TypedField::Int64),
        DtUint32 => (4, TypedField::Uint32),
        DtUint64 => (8, TypedField::Uint64),
        DtBool => (1, TypedField::Bool),
        DtHalf | DtBfloat16 => (2, TypedField::Half),
        DtComplex64 => (8, TypedField::Complex64),
        DtComplex128 => (16, TypedField::Complex128),
        DtFloat8E5m2 | DtFloat8E4m3fn | DtFloat8E4m3fnuz | DtFloat8E4m3b11fnuz | DtFloat8E5m2fnuz => {
            (1, TypedField::Float8)
        }
        _ => return None,
    })
}

/// Bytes per element of a dtype as tensors are stored; `None` where elements have no fixed width in bytes
/// (strings, resources, variants, types narrower than a byte).
pub fn element_width(dtype: DataType) -> Option<usize> {
    layout(dtype).map(|(width, _)| width)
}

/// The dtype of a number found in a message, without its reference bit (`DT_FLOAT_REF` gives `DT_FLOAT`).
///
/// Errors: [`ProtoError::Invalid`] for 0 and for numbers that are no dtype.
pub fn base_dtype(number: i32) -> Result<DataType, ProtoError> {
    let base = if number > 100 { number - 100 } else { number };
    match DataType::try_from(base) {
        Ok(dtype) if dtype != DataType::DtInvalid => Ok(dtype),
        _ => Err(ProtoError::Invalid(format!("{number} is no data type"))),
    }
}

/// The extents of a shape that may be partial: `None` for unknown rank, -1 for an unknown extent.
///
/// Errors: [`ProtoError::Invalid`] for an extent below -1 or more than [`MAX_RANK`] dimensions.
pub fn partial_shape(shape: &TensorShapeProto) -> Result<Option<Vec<i64>>, ProtoError> {
    if shape.unknown_rank {
        return Ok(None);
    }
    if shape.dim.len() > MAX_RANK {
        return Err(ProtoError::Invalid(format!(
            "a shape of {} dimensions; at most {MAX_RANK} are possible",
            shape.dim.len()
        )));
    }
    let dims: Vec<i64> = shape.dim.iter().map(|d| d.size).collect();
    match dims.iter().find(|&&d| d < -1) {
        Some(d) => Err(ProtoError::Invalid(format!("a shape with the extent {d}"))),
        None => Ok(Some(dims)),
    }
}

/// The message for a shape; `None` is unknown rank, -1 an unknown extent.
pub fn shape_to_proto(dims: Option<&[i64]>) -> TensorShapeProto {
    TensorShapeProto {
        unknown_rank: dims.is_none(),
        dim: dims
            .unwrap_or(&[])
            .iter()
            .map(|&size| Dim {
                size,
                name: String::new(),
            })
            .collect(),
    }
}

/// Reads a tensor out of its message.
///
/// `max_bytes` bounds the memory for the elements (a few bytes of message can stand for terabytes of one
/// repeated value); it is checked before anything is allocated. Errors: [`ProtoError::Invalid`] for a shape
/// that is not fully known, a dtype that is none, or contents of the wrong length;
/// [`ProtoError::TooLarge`] beyond `max_bytes`; [`ProtoError::Unsupported`] for resources, variants and types
/// narrower than a byte.
pub fn tensor_from_proto(proto: &TensorProto, max_bytes: usize) -> Result<PlainTensor, ProtoError> {
    let dtype = match DataType::try_from(proto.dtype) {
        Ok(dtype) if dtype != DataType::DtInvalid && proto.dtype < 100 => dtype,
        _ => {
            return Err(ProtoError::Invalid(format!(
                "a tensor of the data type {}",
                proto.dtype
            )));
        }
    };
    let no_shape = TensorShapeProto::default();
    let dims = partial_shape(proto.tensor_shape.as_ref().unwrap_or(&no_shape))?;
    let shape: Option<Vec<usize>> = dims.and_then(|d| d.iter().map(|&x| usize::try_from(x).ok()).collect());
    let Some(shape) = shape else {
        return Err(ProtoError::Invalid("a tensor whose shape is not fully known".into()));
    };
    // A zero extent makes the tensor empty, whatever the product of the others would be.
    let count = if shape.contains(&0) {
        0
    } else {
        shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .ok_or_else(|| ProtoError::Invalid(format!("the shape {shape:?} has too many elements")))?
    };
    let check = |width: usize| match count.checked_mul(width) {
        Some(bytes) if bytes <= max_bytes => Ok(bytes),
        _ => Err(ProtoError::TooLarge(format!(
            "a tensor of shape {shape:?} and {width}-byte elements exceeds the limit of {max_bytes} bytes"
        ))),
    };
    let data = if dtype == DataType::DtString {
        check(size_of::<Bytes>())?;
        TensorData::Strings(strings(proto, count)?)
    } else {
        let Some((width, field)) = layout(dtype) else {
            return Err(ProtoError::Unsupported(format!(
                "a tensor of the type {}",
                dtype.as_str_name()
            )));
        };
        let bytes = check(width)?;
        TensorData::Bytes(numbers(proto, dtype, field, width, bytes)?)
    };
    Ok(PlainTensor { dtype, shape, data })
}

fn numbers(
    proto: &TensorProto,
    dtype: DataType,
    field: TypedField,
    width: usize,
    bytes: usize,
) -> Result<Bytes, ProtoError> {
    let content = &proto.tensor_content;
    if !content.is_empty() && bytes > 0 {
        if content.len() != bytes {
            return Err(ProtoError::Invalid(format!(
                "{} bytes of tensor_content where the shape and {} need {bytes}",
                content.len(),
                dtype.as_str_name()
            )));
        }
        if dtype == DataType::DtBool && content.iter().any(|&b| b > 1) {
            return Ok(content.iter().map(|&b| u8::from(b != 0)).collect::<Vec<u8>>().into());
        }
        return Ok(content.clone());
    }
    let count = bytes / width;
    let p = proto;
    Ok(match field {
        TypedField::Float => spread(&p.float_val, count, |v| v.to_le_bytes()),
        TypedField::Double => spread(&p.double_val, count, |v| v.to_le_bytes()),
        // Narrow integers are the low bytes of the 32-bit field.
        TypedField::Int => match width {
            1 => spread(&p.int_val, count, |v| [v as u8]),
            2 => spread(&p.int_val, count, |v| (v as u16).to_le_bytes()),
            _ => spread(&p.int_val, count, |v| v.to_le_bytes()),
        },
        TypedField::Int64 => spread(&p.int64_val, count, |v| v.to_le_bytes()),
        TypedField::Bool => spread(&p.bool_val, count, |v| [u8::from(v)]),
        TypedField::Half => spread(&p.half_val, count, |v| (v as u16).to_le_bytes()),
        TypedField::Uint32 => spread(&p.uint32_val, count, |v| v.to_le_bytes()),
        TypedField::Uint64 => spread(&p.uint64_val, count, |v| v.to_le_bytes()),
        TypedField::Complex64 => spread(pairs(&p.scomplex_val)?, count, |[re, im]| {
            (u64::from(re.to_bits()) | (u64::from(im.to_bits()) << 32)).to_le_bytes()
        }),
        TypedField::Complex128 => spread(pairs(&p.dcomplex_val)?, count, |[re, im]| {
            (u128::from(re.to_bits()) | (u128::from(im.to_bits()) << 64)).to_le_bytes()
        }),
        TypedField::Float8 => spread(&p.float8_val, count, |v| [v]),
    })
}

/// Real and imaginary parts alternate in the field of a complex type.
fn pairs<T>(values: &[T]) -> Result<&[[T; 2]], ProtoError> {
    let (pairs, rest) = values.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs)
    } else {
        Err(ProtoError::Invalid(format!(
            "{} numbers are no whole complex numbers",
            values.len()
        )))
    }
}

/// `count` elements from a typed field, the last value repeated as needed, zeros if there is none.
fn spread<T: Copy, const W: usize>(values: &[T], count: usize, encode: impl Fn(T) -> [u8; W]) -> Bytes {
    let mut out = Vec::with_capacity(count * W);
    for &v in values.iter().take(count) {
        out.extend_from_slice(&encode(v));
    }
    let last = values.last().map_or([0; W], |&v| encode(v));
    while out.len() < count * W {
        out.extend_from_slice(&last);
    }
    out.into()
}

/// String elements: `string_val` by the rule of typed fields, or all lengths as varints followed by all
/// characters in `tensor_content`.
fn strings(proto: &TensorProto, count: usize) -> Result<Vec<Bytes>, ProtoError> {
    let content = &proto.tensor_content;
    if content.is_empty() || count == 0 {
        let mut out: Vec<Bytes> = proto.string_val.iter().take(count).cloned().collect();
        out.resize(count, proto.string_val.last().cloned().unwrap_or_default());
        return Ok(out);
    }
    let malformed = || ProtoError::Invalid(format!("tensor_content does not hold {count} strings"));
    // Every length takes a byte, so a count beyond the contents is refused before allocating for it.
    if count > content.len() {
        return Err(malformed());
    }
    let mut rest = content.clone();
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        let len = prost::encoding::decode_varint(&mut rest).map_err(|_| malformed())?;
        lengths.push(usize::try_from(len).map_err(|_| malformed())?);
    }
    let mut out = Vec::with_capacity(count);
    for len in lengths {
        if len > rest.len() {
            return Err(malformed());
        }
        out.push(rest.split_to(len));
    }
    if rest.is_empty() { Ok(out) } else { Err(malformed()) }
}

/// Writes a tensor as a message.
///
/// Elements that are all the same are written once into the typed field of the dtype, any others as
/// `tensor_content` (shared, not copied), strings as `string_val`. Errors: [`ProtoError::Invalid`] if data,
/// dtype and shape do not fit together; [`ProtoError::Unsupported`] for dtypes without a fixed width.
pub fn tensor_to_proto(tensor: &PlainTensor) -> Result<TensorProto, ProtoError> {
    let dtype = tensor.dtype;
    let count = if tensor.shape.contains(&0) {
        Some(0)
    } else {
        tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    };
    let dims: Option<Vec<i64>> = tensor.shape.iter().map(|&d| i64::try_from(d).ok()).collect();
    let (Some(count), Some(dims)) = (count, dims) else {
        return Err(ProtoError::Invalid(format!(
            "the shape {:?} has too many elements",
            tensor.shape
        )));
    };
    let mut proto = TensorProto {
        dtype: dtype as i32,
        tensor_shape: Some(shape_to_proto(Some(&dims))),
        ..Default::default()
    };
    match &tensor.data {
        TensorData::Strings(values) if dtype == DataType::DtString && values.len() == count => {
            proto.string_val = match values.split_first() {
                Some((first, rest)) if rest.iter().all(|v| v == first) => vec![first.clone()],
                _ => values.clone(),
            };
        }
        TensorData::Bytes(bytes) => {
            let Some((width, field)) = layout(dtype) else {
                return Err(ProtoError::Unsupported(format!(
                    "a tensor of the type {}",
                    dtype.as_str_name()
                )));
            };
            if count.checked_mul(width) != Some(bytes.len()) {
                return Err(mismatch(tensor));
            }
            match bytes.get(..width) {
                None => {}
                Some(first) if bytes.chunks_exact(width).all(|v| v == first) => set_only(&mut proto, field, first),
                Some(_) => proto.tensor_content = bytes.clone(),
            }
        }
        TensorData::Strings(_) => return Err(mismatch(tensor)),
    }
    Ok(proto)
}

fn mismatch(tensor: &PlainTensor) -> ProtoError {
    ProtoError::Invalid(format!(
        "the data of a tensor does not fit its type {} and shape {:?}",
        tensor.dtype.as_str_name(),
        tensor.shape
    ))
}

/// Sets the typed field to the one element `e`, whose length is the width of the dtype.
fn set_only(proto: &mut TensorProto, field: TypedField, e: &[u8]) {
    // Little-endian, the missing high bytes being zero; a width is at most 16.
    let bits = e.iter().rev().fold(0u128, |n, &b| (n << 8) | u128::from(b));
    match field {
        TypedField::Float => proto.float_val = vec![f32::from_bits(bits as u32)],
        TypedField::Double => proto.double_val = vec![f64::from_bits(bits as u64)],
        // TensorFlow sign-extends int8 and int16, which makes no difference to a reader of the low bytes,
        // but keeps the text form of the message readable.
        TypedField::Int => {
            let signed = matches!(
                DataType::try_from(proto.dtype),
                Ok(DataType::DtInt8 | DataType::DtQint8)
            );
            let signed16 = matches!(
                DataType::try_from(proto.dtype),
                Ok(DataType::DtInt16 | DataType::DtQint16)
            );
            proto.int_val = vec![if signed {
                i32::from(bits as u8 as i8)
            } else if signed16 {
                i32::from(bits as u16 as i16)
            } else {
                bits as u32 as i32
            }];
        }
        TypedField::Int64 => proto.int64_val = vec![bits as u64 as i64],
        TypedField::Bool => proto.bool_val = vec![bits != 0],
        TypedField::Half => proto.half_val = vec![bits as i32],
        TypedField::Uint32 => proto.uint32_val = vec![bits as u32],
        TypedField::Uint64 => proto.uint64_val = vec![bits as u64],
        TypedField::Complex64 => {
            proto.scomplex_val = vec![f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)];
        }
        TypedField::Complex128 => {
            proto.dcomplex_val = vec![f64::from_bits(bits as u64), f64::from_bits((bits >> 64) as u64)];
        }
        TypedField::Float8 => proto.float8_val = Bytes::copy_from_slice(e),
    }
}

#[cfg(test)]
mod tests;
