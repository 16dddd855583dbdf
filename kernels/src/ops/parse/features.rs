//! `tf.train.Example` and `tf.train.SequenceExample`: their features read from bytes, and put together as dense, sparse
//! and ragged tensors.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::{DType, Shape, Tensor};
use bytes::Bytes;

use crate::moves;
use crate::ops::sparse::indices_tensor;
use crate::protobuf::{Value, fields, fixed32s, varints};

/// The values of one feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    Str(Vec<Bytes>),
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Values {
    /// No values of a dtype.
    pub(super) fn none(dtype: DType) -> Values {
        match dtype {
            DType::F32 => Values::F32(Vec::new()),
            DType::I64 => Values::I64(Vec::new()),
            _ => Values::Str(Vec::new()),
        }
    }

    /// The elements of a tensor.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is of none of the three dtypes.
    pub(super) fn of(t: &Tensor) -> Result<Values> {
        Ok(match t.dtype() {
            DType::F32 => Values::F32(t.to_vec()?),
            DType::I64 => Values::I64(t.to_vec()?),
            _ => Values::Str(t.as_strings()?.to_vec()),
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Values::Str(v) => v.len(),
            Values::F32(v) => v.len(),
            Values::I64(v) => v.len(),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Values::Str(_) => DType::Str,
            Values::F32(_) => DType::F32,
            Values::I64(_) => DType::I64,
        }
    }

    /// The value with which short rows are filled up if nobody says: zero, or the empty string.
    pub(super) fn zero(dtype: DType) -> Values {
        match dtype {
            DType::F32 => Values::F32(vec![0.0]),
            DType::I64 => Values::I64(vec![0]),
            _ => Values::Str(vec![Bytes::new()]),
        }
    }
}

/// The values of a `Feature`; `Some(None)` if it has none of any kind. Strings share the bytes of `whole`.
fn feature(message: &[u8], whole: &Bytes) -> Option<Option<Values>> {
    let mut out: Option<Values> = None;
    fields(message, |n, v| {
        let (Value::Bytes(list), 1..=3) = (v, n) else {
            return Some(());
        };
        let kind = [DType::Str, DType::F32, DType::I64][n as usize - 1];
        // Of a `oneof` the last kind counts; two messages of one kind are one.
        let mut values = match out.take() {
            Some(v) if v.dtype() == kind => v,
            _ => Values::none(kind),
        };
        fields(list, |n, v| {
            match (&mut values, n, v) {
                (Values::Str(to), 1, Value::Bytes(b)) => to.push(whole.slice_ref(b)),
                (Values::F32(to), 1, v) => fixed32s(v, |x| to.push(f32::from_bits(x)))?,
                (Values::I64(to), 1, v) => varints(v, |x| to.push(x as i64))?,
                (_, 1, _) => return None,
                _ => {}
            }
            Some(())
        })?;
        out = Some(values);
        Some(())
    })?;
    Some(out)
}

/// The entries of a map from names to messages that is field 1 of a message; of two of one name the last counts.
fn entries<'a>(message: &'a [u8], to: &mut HashMap<&'a [u8], &'a [u8]>) -> Option<()> {
    fields(message, |n, v| {
        if let (1, Value::Bytes(entry)) = (n, v) {
            let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
            fields(entry, |n, v| {
                match (n, v) {
                    (1, Value::Bytes(b)) => key = b,
                    (2, Value::Bytes(b)) => value = b,
                    _ => {}
                }
                Some(())
            })?;
            to.insert(key, value);
        }
        Some(())
    })
}

/// A serialized example: where the messages of its features and lists of features are.
pub(super) struct Record<'a> {
    bytes: &'a Bytes,
    name: String,
    features: HashMap<&'a [u8], &'a [u8]>,
    lists: HashMap<&'a [u8], &'a [u8]>,
}

impl<'a> Record<'a> {
    /// An `Example`, or a `SequenceExample`, whose features are its context.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the bytes are none.
    pub(super) fn read(bytes: &'a Bytes, name: Option<&Bytes>) -> Result<Record<'a>> {
        let name = match name {
            Some(n) if !n.is_empty() => String::from_utf8_lossy(n).into_owned(),
            _ => "<unknown>".to_owned(),
        };
        let mut r = Record {
            bytes,
            name,
            features: HashMap::new(),
            lists: HashMap::new(),
        };
        let mut within = "the fields";
        let read = fields(bytes, |n, v| match (n, v) {
            (1, Value::Bytes(m)) => {
                within = "its features";
                entries(m, &mut r.features)
            }
            (2, Value::Bytes(m)) => {
                within = "its lists of features";
                entries(m, &mut r.lists)
            }
            (1 | 2, _) => None,
            _ => Some(()),
        });
        match read {
            Some(()) => Ok(r),
            None => Err(Error::invalid(format!(
                "Name: {}: could not parse the example: {within} in {} bytes are cut off or no such message",
                r.name,
                bytes.len()
            ))),
        }
    }

    fn corrupt(&self, key: &[u8]) -> Error {
        self.error(
            key,
            "could not parse the feature: its bytes are cut off or no such message",
        )
    }

    /// An error about one of the features.
    pub(super) fn error(&self, key: &[u8], what: impl std::fmt::Display) -> Error {
        let key = String::from_utf8_lossy(key);
        Error::invalid(format!("Name: {}, Key: {key}: {what}", self.name))
    }

    fn checked(&self, key: &[u8], dtype: DType, message: &[u8]) -> Result<Option<Values>> {
        let values = feature(message, self.bytes).ok_or_else(|| self.corrupt(key))?;
        match values {
            Some(v) if v.dtype() != dtype => Err(self.error(
                key,
                format!(
                    "data types don't match: expected {dtype} but the example has {}",
                    v.dtype()
                ),
            )),
            v => Ok(v),
        }
    }

    /// The values of a feature; `None` if it is missing or empty.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if they have another dtype.
    pub(super) fn values(&self, key: &[u8], dtype: DType) -> Result<Option<Values>> {
        match self.features.get(key) {
            Some(m) => self.checked(key, dtype, m),
            None => Ok(None),
        }
    }

    /// The values of a list of features, step by step; `None` if it is missing.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if some have another dtype.
    pub(super) fn list(&self, key: &[u8], dtype: DType) -> Result<Option<Vec<Values>>> {
        let Some(message) = self.lists.get(key) else {
            return Ok(None);
        };
        let mut steps = Vec::new();
        fields(message, |n, v| {
            if let (1, Value::Bytes(m)) = (n, v) {
                steps.push(m);
            }
            Some(())
        })
        .ok_or_else(|| self.corrupt(key))?;
        let read = |m: &&[u8]| Ok(self.checked(key, dtype, m)?.unwrap_or_else(|| Values::none(dtype)));
        steps.iter().map(read).collect::<Result<_>>().map(Some)
    }
}

/// One dtype of values.
trait Kind: Clone {
    fn of(values: &Values) -> &[Self];
}

macro_rules! kinds {
    ($($variant:ident $t:ty),*) => {$(
        impl Kind for $t {
            fn of(values: &Values) -> &[$t] {
                match values {
                    Values::$variant(v) => v,
                    _ => &[],
                }
            }
        }
    )*};
}

kinds!(Str Bytes, F32 f32, I64 i64);

/// Rows one after the other, each of them filled up to `width` with the one value of `pad`.
fn lay<T: Kind>(to: &mut Vec<T>, rows: &[&Values], width: usize, pad: &Values) {
    for row in rows {
        let row = T::of(row);
        to.extend_from_slice(row);
        if let [pad, ..] = T::of(pad) {
            to.extend(std::iter::repeat_n(pad.clone(), width.saturating_sub(row.len())));
        }
    }
}

/// A tensor of rows, each filled up to `width`.
pub(super) fn dense(
    cx: &OpContext<'_>,
    dtype: DType,
    shape: Shape,
    rows: &[&Values],
    width: usize,
    pad: &Values,
) -> Result<Tensor> {
    let count = shape.checked_count()?;
    match dtype {
        DType::F32 => {
            let mut out = moves::list::<f32>(cx, count)?;
            lay(&mut out, rows, width, pad);
            Tensor::from_slice(shape, &out)
        }
        DType::I64 => {
            let mut out = moves::list::<i64>(cx, count)?;
            lay(&mut out, rows, width, pad);
            Tensor::from_slice(shape, &out)
        }
        _ => {
            let mut out = moves::list::<Bytes>(cx, count)?;
            lay(&mut out, rows, width, pad);
            Tensor::strings(shape, out)
        }
    }
}

/// All values in one vector.
pub(super) fn flat(cx: &OpContext<'_>, dtype: DType, rows: &[&Values]) -> Result<Tensor> {
    let count = rows.iter().map(|r| r.len()).sum::<usize>();
    dense(cx, dtype, Shape::new(&[count]), rows, 0, &Values::none(dtype))
}

/// Indices, values and dense shape of a sparse tensor: the values of row `i` begin at `prefixes[i]`, and the leading
/// dimensions are `leading`.
pub(super) fn sparse(
    cx: &OpContext<'_>,
    dtype: DType,
    leading: &[i64],
    prefixes: &[Vec<i64>],
    rows: &[&Values],
) -> Result<[Tensor; 3]> {
    let (rank, count) = (leading.len() + 1, rows.iter().map(|r| r.len()).sum::<usize>());
    let mut indices = moves::list::<i64>(cx, count.saturating_mul(rank))?;
    for (prefix, row) in prefixes.iter().zip(rows) {
        for k in 0..row.len() {
            indices.extend_from_slice(prefix);
            indices.push(k as i64);
        }
    }
    let longest = rows.iter().map(|r| r.len()).max().unwrap_or(0);
    let shape: Vec<i64> = leading.iter().copied().chain([longest as i64]).collect();
    Ok([
        indices_tensor(count, rank, &indices)?,
        flat(cx, dtype, rows)?,
        Tensor::vector(&shape),
    ])
}

/// Where rows of these lengths begin and end, as int32 or int64.
///
/// # Errors
/// `INVALID_ARGUMENT` if an end is no int32.
pub(super) fn splits(lengths: impl Iterator<Item = usize>, dtype: DType) -> Result<Tensor> {
    let mut ends = vec![0i64];
    for n in lengths {
        ends.push(ends.last().copied().unwrap_or(0) + n as i64);
    }
    if dtype == DType::I64 {
        return Ok(Tensor::vector(&ends));
    }
    let short: std::result::Result<Vec<i32>, _> = ends.iter().map(|e| i32::try_from(*e)).collect();
    short
        .map(|s| Tensor::vector(&s))
        .map_err(|_| Error::invalid("there are more values than int32 row splits can count"))
}
