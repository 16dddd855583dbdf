//! How a tensor's elements are laid out in a shard.
//!
//! | dtype | in safetensors |
//! |---|---|
//! | numbers and bool | the same dtype and shape |
//! | quantised integers | the integer dtype of the same width, the same shape |
//! | complex64 | `C64` |
//! | complex128 | `F64` with one more dimension of 2: real part, imaginary part |
//! | string | `U8`, one dimension: the lengths of all strings, 8 bytes each (little-endian), then their bytes |

use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Shape, Tensor};
use bytes::Bytes;
use safetensors::Dtype;

/// Tensors are written as they lie in memory, and the format is little-endian.
const _: () = assert!(cfg!(target_endian = "little"));

/// Bytes that belong to a tensor.
struct Owned(Tensor);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes().unwrap_or(&[])
    }
}

/// What a shard holds of a tensor.
pub(super) struct Stored {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Bytes,
}

/// The dtype in a shard.
///
/// # Errors
/// `INVALID_ARGUMENT` for handles of resources and variants, which have no bytes.
pub(super) fn stored_dtype(dtype: DType) -> Result<Dtype> {
    Ok(match dtype.storage() {
        DType::Bool => Dtype::BOOL,
        DType::U8 | DType::Str => Dtype::U8,
        DType::I8 => Dtype::I8,
        DType::I16 => Dtype::I16,
        DType::U16 => Dtype::U16,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::F32 => Dtype::F32,
        DType::C64 => Dtype::C64,
        DType::F64 | DType::C128 => Dtype::F64,
        DType::I64 => Dtype::I64,
        DType::U64 => Dtype::U64,
        // `storage` gives no quantised type.
        DType::Resource | DType::Variant | DType::QI8 | DType::QU8 | DType::QI32 | DType::QI16 | DType::QU16 => {
            return Err(Error::invalid(format!("a {dtype} tensor cannot be saved")));
        }
    })
}

/// Lays out a tensor; the bytes of numbers are shared, not copied.
///
/// # Errors
/// As [`stored_dtype`].
pub(super) fn store(t: &Tensor) -> Result<Stored> {
    let dtype = stored_dtype(t.dtype())?;
    let mut shape = t.shape().dims().to_vec();
    let bytes = match t.dtype() {
        DType::Str => {
            let items = t.as_strings()?;
            let mut out = Vec::with_capacity(8 * items.len() + t.byte_size());
            for s in items {
                out.extend_from_slice(&(s.len() as u64).to_le_bytes());
            }
            for s in items {
                out.extend_from_slice(s);
            }
            shape = vec![out.len()];
            Bytes::from(out)
        }
        d => {
            if d == DType::C128 {
                shape.push(2);
            }
            Bytes::from_owner(Owned(t.clone()))
        }
    };
    Ok(Stored { dtype, shape, bytes })
}

/// The number of bytes that a shard holds of a tensor; for strings at least that many.
///
/// # Errors
/// `INVALID_ARGUMENT` if there are too many to count.
pub(super) fn stored_size(dtype: DType, shape: &Shape) -> Result<u64> {
    let each = if dtype == DType::Str { 8 } else { dtype.size() };
    shape
        .checked_count()?
        .checked_mul(each)
        .map(|n| n as u64)
        .ok_or_else(|| Error::invalid(format!("a {dtype} tensor of shape {shape} is too large")))
}

/// Makes the tensor out of its bytes, of which there are as many as [`stored_size`] says.
///
/// # Errors
/// `DATA_LOSS` if the bytes cannot be such a tensor; `RESOURCE_EXHAUSTED` if the pool's budget refuses it.
pub(super) fn load(dtype: DType, shape: Shape, bytes: &Bytes, pool: &Arc<Pool>) -> Result<Tensor> {
    let lost = |what: &str| Error::data_loss(format!("{what} (dtype {dtype}, shape {shape})"));
    if dtype == DType::Str {
        let n = shape.checked_count()?;
        let table = n
            .checked_mul(8)
            .filter(|t| *t <= bytes.len())
            .ok_or_else(|| lost("the table of string lengths is cut off"))?;
        let mut items = Vec::with_capacity(n);
        let mut at = table;
        for length in bytes[..table].chunks_exact(8) {
            let length = length.iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
            let end = usize::try_from(length).ok().and_then(|l| at.checked_add(l));
            let end = end
                .filter(|end| *end <= bytes.len())
                .ok_or_else(|| lost("a string is longer than what there is"))?;
            items.push(Bytes::copy_from_slice(&bytes[at..end]));
            at = end;
        }
        if at != bytes.len() {
            return Err(lost("there are bytes after the last string"));
        }
        return Tensor::strings(shape, items);
    }
    if stored_size(dtype, &shape)? != bytes.len() as u64 {
        return Err(lost("the number of bytes is wrong"));
    }
    if dtype == DType::Bool && bytes.iter().any(|b| *b > 1) {
        return Err(lost("a truth value is neither 0 nor 1"));
    }
    let mut t = Tensor::alloc_in(pool, dtype, shape)?;
    if let Some(out) = t.bytes_mut() {
        out.copy_from_slice(bytes);
    }
    Ok(t)
}
