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
mod tests {
    use super::*;
    use DataType::*;

    fn proto(dtype: DataType, dims: &[i64]) -> TensorProto {
        TensorProto {
            dtype: dtype as i32,
            tensor_shape: Some(shape_to_proto(Some(dims))),
            ..Default::default()
        }
    }

    fn read(p: &TensorProto) -> PlainTensor {
        tensor_from_proto(p, 1 << 20).expect("a valid tensor")
    }

    fn floats(t: &PlainTensor) -> Vec<f32> {
        let TensorData::Bytes(b) = &t.data else {
            panic!("numbers")
        };
        b.as_chunks::<4>().0.iter().map(|&c| f32::from_le_bytes(c)).collect()
    }

    #[test]
    fn the_last_typed_value_stands_for_the_rest() {
        let p = TensorProto {
            float_val: vec![1.0, 2.5],
            ..proto(DtFloat, &[2, 2])
        };
        assert_eq!(floats(&read(&p)), [1.0, 2.5, 2.5, 2.5]);
        assert_eq!(floats(&read(&proto(DtFloat, &[2]))), [0.0, 0.0], "no value means zeros");
        let p = TensorProto {
            float_val: vec![1.0, 2.0, 3.0],
            ..proto(DtFloat, &[2])
        };
        assert_eq!(floats(&read(&p)), [1.0, 2.0], "values beyond the shape are ignored");
    }

    #[test]
    fn each_typed_field_becomes_the_bytes_of_its_dtype() {
        let check = |p: TensorProto, expect: &[u8]| {
            let t = read(&p);
            assert_eq!(
                t.data,
                TensorData::Bytes(Bytes::copy_from_slice(expect)),
                "{:?}",
                t.dtype
            );
            assert_eq!(read(&tensor_to_proto(&t).expect("writable")), t);
        };
        check(
            TensorProto {
                double_val: vec![1.0],
                ..proto(DtDouble, &[])
            },
            &1f64.to_le_bytes(),
        );
        check(
            TensorProto {
                int_val: vec![-2],
                ..proto(DtInt8, &[1])
            },
            &[0xfe],
        );
        check(
            TensorProto {
                int_val: vec![200],
                ..proto(DtUint8, &[2])
            },
            &[200, 200],
        );
        check(
            TensorProto {
                int_val: vec![-2],
                ..proto(DtInt16, &[1])
            },
            &[0xfe, 0xff],
        );
        check(
            TensorProto {
                int_val: vec![65535],
                ..proto(DtUint16, &[1])
            },
            &[0xff, 0xff],
        );
        check(
            TensorProto {
                int_val: vec![-1],
                ..proto(DtInt32, &[1])
            },
            &[0xff; 4],
        );
        check(
            TensorProto {
                int64_val: vec![-1],
                ..proto(DtInt64, &[1])
            },
            &[0xff; 8],
        );
        check(
            TensorProto {
                uint32_val: vec![u32::MAX],
                ..proto(DtUint32, &[1])
            },
            &[0xff; 4],
        );
        check(
            TensorProto {
                uint64_val: vec![u64::MAX],
                ..proto(DtUint64, &[1])
            },
            &[0xff; 8],
        );
        check(
            TensorProto {
                bool_val: vec![true, false],
                ..proto(DtBool, &[3])
            },
            &[1, 0, 0],
        );
        check(
            TensorProto {
                half_val: vec![0x3c00],
                ..proto(DtHalf, &[1])
            },
            &[0x00, 0x3c],
        );
        check(
            TensorProto {
                half_val: vec![0x3f80],
                ..proto(DtBfloat16, &[1])
            },
            &[0x80, 0x3f],
        );
        check(
            TensorProto {
                scomplex_val: vec![1.0, 2.0],
                ..proto(DtComplex64, &[1])
            },
            &[1f32.to_le_bytes(), 2f32.to_le_bytes()].concat(),
        );
        check(
            TensorProto {
                dcomplex_val: vec![1.0, 2.0],
                ..proto(DtComplex128, &[1])
            },
            &[1f64.to_le_bytes(), 2f64.to_le_bytes()].concat(),
        );
        check(
            TensorProto {
                float8_val: vec![7].into(),
                ..proto(DtFloat8E5m2, &[2])
            },
            &[7, 7],
        );
    }

    #[test]
    fn raw_contents_must_have_exactly_the_length_of_the_shape() {
        let p = TensorProto {
            tensor_content: vec![0; 8].into(),
            ..proto(DtFloat, &[2])
        };
        assert_eq!(floats(&read(&p)), [0.0, 0.0]);
        for dims in [&[1][..], &[3], &[2, 2]] {
            let p = TensorProto {
                tensor_content: vec![0; 8].into(),
                ..proto(DtFloat, dims)
            };
            assert!(
                matches!(tensor_from_proto(&p, 1 << 20), Err(ProtoError::Invalid(_))),
                "{dims:?}"
            );
        }
        let p = TensorProto {
            tensor_content: vec![0, 7, 1].into(),
            ..proto(DtBool, &[3])
        };
        assert_eq!(read(&p).data, TensorData::Bytes(Bytes::from_static(&[0, 1, 1])));
    }

    #[test]
    fn strings_come_from_string_val_or_from_length_prefixed_contents() {
        let s = |v: &[&'static str]| TensorData::Strings(v.iter().map(|s| Bytes::from_static(s.as_bytes())).collect());
        let p = TensorProto {
            string_val: vec!["a".into(), "bc".into()],
            ..proto(DtString, &[3])
        };
        let t = read(&p);
        assert_eq!(t.data, s(&["a", "bc", "bc"]));
        assert_eq!(read(&tensor_to_proto(&t).expect("writable")), t);
        assert_eq!(read(&proto(DtString, &[])).data, s(&[""]));
        let p = TensorProto {
            tensor_content: Bytes::from_static(b"\x01\x02abc"),
            ..proto(DtString, &[2])
        };
        assert_eq!(read(&p).data, s(&["a", "bc"]));
        for bad in [
            &b"\x01\x02ab"[..],
            b"\x01\x02abcd",
            b"\x01",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a",
        ] {
            let p = TensorProto {
                tensor_content: Bytes::from_static(bad),
                ..proto(DtString, &[2])
            };
            assert!(
                matches!(tensor_from_proto(&p, 1 << 20), Err(ProtoError::Invalid(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn huge_or_malformed_shapes_are_refused_before_allocating() {
        let error = |dims: &[i64]| tensor_from_proto(&proto(DtFloat, dims), 1 << 30).expect_err("refused");
        assert!(matches!(error(&[1 << 40]), ProtoError::TooLarge(_)));
        assert!(matches!(error(&[i64::MAX, 2]), ProtoError::TooLarge(_)));
        assert!(matches!(error(&[i64::MAX, i64::MAX]), ProtoError::Invalid(_)));
        assert!(matches!(error(&[-1]), ProtoError::Invalid(_)));
        assert!(matches!(error(&[-7]), ProtoError::Invalid(_)));
        assert!(matches!(error(&[1; 255]), ProtoError::Invalid(_)));
        let p = TensorProto {
            tensor_shape: Some(shape_to_proto(None)),
            ..proto(DtFloat, &[])
        };
        assert!(matches!(tensor_from_proto(&p, 1 << 30), Err(ProtoError::Invalid(_))));
        let empty = tensor_from_proto(&proto(DtFloat, &[i64::MAX, i64::MAX, 0]), 0).expect("no element");
        assert_eq!(empty.data, TensorData::Bytes(Bytes::new()));
    }

    #[test]
    fn dtypes_that_are_none_or_have_no_bytes_are_named() {
        for n in [0, 77, 101, -3] {
            let p = TensorProto {
                dtype: n,
                ..Default::default()
            };
            assert!(matches!(tensor_from_proto(&p, 100), Err(ProtoError::Invalid(m)) if m.contains(&n.to_string())));
        }
        let e = tensor_from_proto(&proto(DtResource, &[]), 100).expect_err("a resource");
        assert_eq!(e, ProtoError::Unsupported("a tensor of the type DT_RESOURCE".into()));
        assert_eq!(base_dtype(101), Ok(DtFloat));
        assert!(base_dtype(100).is_err() && base_dtype(0).is_err() && base_dtype(i32::MIN).is_err());
    }

    #[test]
    fn equal_elements_are_written_once() {
        let bytes: Bytes = [1.5f32; 1000]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
            .into();
        let t = PlainTensor {
            dtype: DtFloat,
            shape: vec![10, 100],
            data: TensorData::Bytes(bytes),
        };
        let p = tensor_to_proto(&t).expect("writable");
        assert_eq!((p.float_val.as_slice(), p.tensor_content.len()), (&[1.5][..], 0));
        assert_eq!(read(&p), t);
        let zeros = PlainTensor {
            dtype: DtFloat,
            shape: vec![2],
            data: TensorData::Bytes(vec![0, 0, 0, 0x80, 0, 0, 0, 0].into()),
        };
        let p = tensor_to_proto(&zeros).expect("writable");
        assert_eq!(p.tensor_content.len(), 8, "-0.0 and 0.0 are different elements");
    }

    #[test]
    fn data_that_does_not_fit_the_shape_is_not_written() {
        let t = PlainTensor {
            dtype: DtFloat,
            shape: vec![3],
            data: TensorData::Bytes(vec![0; 8].into()),
        };
        assert!(matches!(tensor_to_proto(&t), Err(ProtoError::Invalid(_))));
        let t = PlainTensor {
            dtype: DtFloat,
            shape: vec![1],
            data: TensorData::Strings(vec![Bytes::new()]),
        };
        assert!(matches!(tensor_to_proto(&t), Err(ProtoError::Invalid(_))));
    }

    #[test]
    fn partial_shapes_keep_what_is_unknown() {
        assert_eq!(partial_shape(&shape_to_proto(None)), Ok(None));
        assert_eq!(partial_shape(&shape_to_proto(Some(&[2, -1]))), Ok(Some(vec![2, -1])));
        assert!(partial_shape(&shape_to_proto(Some(&[-2]))).is_err());
    }
}
