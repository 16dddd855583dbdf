//! Attributes and tensors between their protobuf form and the engine's.

use bytes::Bytes;

use super::decode::ProtoError;
use super::proto::{self, NameAttrList, TensorProto, TensorShapeProto, attr_value};
use super::tensor_proto::{
    PlainTensor, TensorData, base_dtype, partial_shape, shape_to_proto, tensor_from_proto, tensor_to_proto,
};
use actorflow_core::op::AttrKind;
use actorflow_core::{AttrValue, Attrs, DType, Error, PartialShape, Result, Tensor};

impl From<ProtoError> for Error {
    fn from(e: ProtoError) -> Self {
        match e {
            ProtoError::Invalid(m) => Error::invalid(m),
            ProtoError::TooLarge(m) => Error::exhausted(m),
            ProtoError::Unsupported(m) => Error::unimplemented(m),
        }
    }
}

/// Reads a tensor out of its message.
///
/// `budget` is the memory in bytes that its elements may take; what they take is subtracted.
///
/// # Errors
/// `INVALID_ARGUMENT` for a message that contradicts itself, `RESOURCE_EXHAUSTED` beyond the budget,
/// `UNIMPLEMENTED` for dtypes that the engine does not have (8-bit floats, numbers narrower than a byte) and for
/// resources and variants.
pub fn tensor_from_message(message: &TensorProto, budget: &mut usize) -> Result<Tensor> {
    let PlainTensor { dtype, shape, data } = tensor_from_proto(message, *budget)?;
    let dtype = DType::from_tf(dtype as i32)?;
    let tensor = match data {
        TensorData::Strings(items) => {
            *budget = budget.saturating_sub(items.len().saturating_mul(size_of::<Bytes>()));
            Tensor::strings(shape, items)?
        }
        TensorData::Bytes(bytes) => {
            *budget = budget.saturating_sub(bytes.len());
            from_little_endian(dtype, shape, bytes)?
        }
    };
    Ok(tensor)
}

/// Writes a tensor as a message.
///
/// # Errors
/// `UNIMPLEMENTED` for resources and variants, which mean nothing outside of their session.
pub fn tensor_to_message(tensor: &Tensor) -> Result<TensorProto> {
    let data = match tensor.dtype() {
        DType::Resource | DType::Variant => {
            return Err(Error::unimplemented(format!(
                "a {} tensor cannot be written to a file; it is only meaningful in its session",
                tensor.dtype()
            )));
        }
        DType::Str => TensorData::Strings(tensor.as_strings()?.to_vec()),
        _ => TensorData::Bytes(to_little_endian(tensor)),
    };
    let plain = PlainTensor {
        dtype: base_dtype(tensor.dtype().to_tf())?,
        shape: tensor.shape().to_vec(),
        data,
    };
    Ok(tensor_to_proto(&plain)?)
}

/// The length of the units whose bytes are swapped between the byte orders.
pub(crate) fn unit(dtype: DType) -> usize {
    if dtype.is_complex() {
        dtype.size() / 2
    } else {
        dtype.size()
    }
}

fn from_little_endian(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Tensor> {
    let mut tensor = Tensor::from_bytes(dtype, shape, &bytes)?;
    if cfg!(target_endian = "big")
        && let Some(b) = tensor.bytes_mut()
    {
        b.chunks_exact_mut(unit(dtype)).for_each(<[u8]>::reverse);
    }
    Ok(tensor)
}

fn to_little_endian(tensor: &Tensor) -> Bytes {
    let mut bytes = tensor.bytes().unwrap_or(&[]).to_vec();
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(unit(tensor.dtype())).for_each(<[u8]>::reverse);
    }
    Bytes::from(bytes)
}

/// A partial shape out of its message.
///
/// # Errors
/// `INVALID_ARGUMENT` for an extent below -1 or too many dimensions.
pub fn shape_from_message(message: &TensorShapeProto) -> Result<PartialShape> {
    Ok(match partial_shape(message)? {
        Some(dims) => PartialShape::from_i64(&dims),
        None => PartialShape::UNKNOWN,
    })
}

/// The message of a partial shape.
pub fn shape_to_message(shape: &PartialShape) -> TensorShapeProto {
    let dims: Option<Vec<i64>> = shape.dims().map(|d| {
        d.iter()
            .map(|d| d.map_or(-1, |d| i64::try_from(d).unwrap_or(-1)))
            .collect()
    });
    shape_to_proto(dims.as_deref())
}

/// Reads the value of an attribute; `None` if the message holds none, which is as if the attribute were not set.
///
/// `budget` is the memory in bytes that tensors may take, as in [`tensor_from_message`].
///
/// # Errors
/// `INVALID_ARGUMENT` for a value that contradicts itself or is a placeholder of a function's body,
/// `UNIMPLEMENTED` for dtypes that the engine does not have, `RESOURCE_EXHAUSTED` beyond the budget.
pub fn attr_from_message(message: &proto::AttrValue, budget: &mut usize) -> Result<Option<AttrValue>> {
    use attr_value::Value;
    let Some(value) = &message.value else {
        return Ok(None);
    };
    Ok(Some(match value {
        Value::S(s) => AttrValue::Str(s.clone()),
        Value::I(i) => AttrValue::Int(*i),
        Value::F(x) => AttrValue::Float(*x),
        Value::B(b) => AttrValue::Bool(*b),
        Value::Type(t) => AttrValue::Type(DType::from_tf(*t)?),
        Value::Shape(s) => AttrValue::Shape(shape_from_message(s)?),
        Value::Tensor(t) => AttrValue::Tensor(tensor_from_message(t, budget)?),
        Value::Func(f) => func(f, budget)?,
        Value::List(l) => AttrValue::List(list(l, budget)?),
        Value::Placeholder(name) => {
            return Err(Error::invalid(format!(
                "the value is the placeholder ${name}, which only a function's body may have"
            )));
        }
    }))
}

fn func(f: &NameAttrList, budget: &mut usize) -> Result<AttrValue> {
    let mut attrs = Attrs::new();
    for (name, value) in &f.attr {
        if let Some(v) = attr_from_message(value, budget)? {
            attrs.set(name, v);
        }
    }
    Ok(AttrValue::Func(f.name.clone(), attrs))
}

fn list(l: &attr_value::ListValue, budget: &mut usize) -> Result<Vec<AttrValue>> {
    let lengths = [
        l.s.len(),
        l.i.len(),
        l.f.len(),
        l.b.len(),
        l.r#type.len(),
        l.shape.len(),
        l.tensor.len(),
        l.func.len(),
    ];
    if lengths.iter().filter(|n| **n > 0).count() > 1 {
        return Err(Error::invalid("a list has elements of several kinds"));
    }
    let mut out = Vec::with_capacity(lengths.iter().sum());
    out.extend(l.s.iter().cloned().map(AttrValue::Str));
    out.extend(l.i.iter().copied().map(AttrValue::Int));
    out.extend(l.f.iter().copied().map(AttrValue::Float));
    out.extend(l.b.iter().copied().map(AttrValue::Bool));
    for t in &l.r#type {
        out.push(AttrValue::Type(DType::from_tf(*t)?));
    }
    for s in &l.shape {
        out.push(AttrValue::Shape(shape_from_message(s)?));
    }
    for t in &l.tensor {
        out.push(AttrValue::Tensor(tensor_from_message(t, budget)?));
    }
    for f in &l.func {
        out.push(func(f, budget)?);
    }
    Ok(out)
}

/// Writes the value of an attribute. `kind` is the kind that the operation declares (of a list's elements); it
/// says how a list without elements is written and is otherwise not needed.
///
/// # Errors
/// `INVALID_ARGUMENT` for a list of several kinds or of lists, `UNIMPLEMENTED` for tensors that have no file form.
pub fn attr_to_message(value: &AttrValue, kind: Option<AttrKind>) -> Result<proto::AttrValue> {
    use attr_value::Value;
    let value = match value {
        AttrValue::Str(s) => Value::S(s.clone()),
        AttrValue::Int(i) => Value::I(*i),
        AttrValue::Float(x) => Value::F(*x),
        AttrValue::Bool(b) => Value::B(*b),
        AttrValue::Type(t) => Value::Type(t.to_tf()),
        AttrValue::Shape(s) => Value::Shape(shape_to_message(s)),
        AttrValue::Tensor(t) => Value::Tensor(Box::new(tensor_to_message(t)?)),
        AttrValue::Func(name, attrs) => Value::Func(func_to_message(name, attrs)?),
        AttrValue::List(items) => Value::List(Box::new(list_to_message(items, kind)?)),
    };
    Ok(proto::AttrValue { value: Some(value) })
}

fn func_to_message(name: &str, attrs: &Attrs) -> Result<NameAttrList> {
    let attr = attrs
        .iter()
        .map(|(k, v)| Ok((k.to_owned(), attr_to_message(v, None)?)))
        .collect::<Result<_>>()?;
    Ok(NameAttrList {
        name: name.to_owned(),
        attr,
    })
}

fn list_to_message(items: &[AttrValue], kind: Option<AttrKind>) -> Result<attr_value::ListValue> {
    let mut l = attr_value::ListValue::default();
    for v in items {
        match v {
            AttrValue::Str(s) => l.s.push(s.clone()),
            AttrValue::Int(i) => l.i.push(*i),
            AttrValue::Float(x) => l.f.push(*x),
            AttrValue::Bool(b) => l.b.push(*b),
            AttrValue::Type(t) => l.r#type.push(t.to_tf()),
            AttrValue::Shape(s) => l.shape.push(shape_to_message(s)),
            AttrValue::Tensor(t) => l.tensor.push(tensor_to_message(t)?),
            AttrValue::Func(name, attrs) => l.func.push(func_to_message(name, attrs)?),
            AttrValue::List(_) => return Err(Error::invalid("a list of lists has no protobuf form")),
        }
        if v.kind() != items[0].kind() || kind.is_some_and(|k| k.name() != v.kind()) {
            return Err(Error::invalid("a list has elements of several kinds"));
        }
    }
    Ok(l)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(v: AttrValue) {
        let message = attr_to_message(&v, None).unwrap();
        assert_eq!(attr_from_message(&message, &mut 1000).unwrap(), Some(v));
    }

    #[test]
    fn every_kind_of_attribute_round_trips() {
        let inner: Attrs = [("T", AttrValue::Type(DType::F16)), ("n", AttrValue::Int(-1))]
            .into_iter()
            .collect();
        let tensor = Tensor::from([[1.5f32, -0.0], [f32::INFINITY, 3.0]]);
        let all = [
            AttrValue::from("loc:@a"),
            AttrValue::Str(Bytes::from_static(b"\xff\x00")),
            AttrValue::Int(i64::MIN),
            AttrValue::Float(0.1),
            AttrValue::Bool(true),
            AttrValue::Type(DType::Resource),
            AttrValue::Shape(PartialShape::UNKNOWN),
            AttrValue::Shape(PartialShape::new([Some(2), None, Some(0)])),
            AttrValue::Shape(PartialShape::scalar()),
            AttrValue::Tensor(tensor.clone()),
            AttrValue::Tensor(Tensor::strings([2], vec!["a", ""]).unwrap()),
            AttrValue::Func("f".into(), inner.clone()),
        ];
        for v in all {
            round_trip(AttrValue::List(vec![v.clone(), v.clone()]));
            round_trip(v);
        }
        round_trip(AttrValue::List(vec![]));
    }

    #[test]
    fn every_plain_dtype_survives_the_message() {
        for d in DType::ALL.into_iter().filter(|d| d.is_plain()) {
            let bytes: Vec<u8> = (0..3 * d.size()).map(|i| (i % 2) as u8).collect();
            let t = Tensor::from_bytes(d, [3], &bytes).unwrap();
            let mut budget = 100;
            let back = tensor_from_message(&tensor_to_message(&t).unwrap(), &mut budget).unwrap();
            assert_eq!(back, t);
            assert_eq!(budget, 100 - bytes.len());
        }
    }

    #[test]
    fn lists_of_several_kinds_and_placeholders_are_refused() {
        let l = attr_value::ListValue {
            i: vec![1],
            b: vec![true],
            ..Default::default()
        };
        let v = proto::AttrValue {
            value: Some(attr_value::Value::List(Box::new(l))),
        };
        assert!(attr_from_message(&v, &mut 0).is_err());
        let v = proto::AttrValue {
            value: Some(attr_value::Value::Placeholder("T".into())),
        };
        assert!(attr_from_message(&v, &mut 0).unwrap_err().message().contains("$T"));
        assert!(attr_to_message(&AttrValue::List(vec![1i64.into(), true.into()]), None).is_err());
        assert_eq!(
            attr_from_message(&proto::AttrValue { value: None }, &mut 0).unwrap(),
            None
        );
    }

    #[test]
    fn constants_together_may_not_exceed_the_budget() {
        let t = tensor_to_message(&Tensor::full([100], 1.0f32).unwrap()).unwrap();
        let mut budget = 1000;
        assert!(tensor_from_message(&t, &mut budget).is_ok());
        assert!(tensor_from_message(&t, &mut budget).is_ok());
        let e = tensor_from_message(&t, &mut budget).unwrap_err();
        assert_eq!(e.code(), actorflow_core::Code::ResourceExhausted);
    }
}
