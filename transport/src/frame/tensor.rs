//! Tensors on the wire: what may be sent, what may arrive, and how arriving bytes become one.
#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::tensor::{Pool, human};
use actorflow_core::{DType, Error, Result, Shape, Tensor};
use bytes::{Buf, Bytes};

use super::archive::TensorHeader;
use super::{Fault, MAX_RANK, malformed};

/// Bytes of a string's length in the table before the strings.
const LENGTH: usize = 4;

/// Checks that a tensor can be sent.
///
/// # Errors
/// `INVALID_ARGUMENT` for a resource, a variant, a rank above [`MAX_RANK`] or a string of 4 GiB.
pub fn sendable(tensor: &Tensor) -> Result<()> {
    if tensor.shape().rank() > MAX_RANK {
        return Err(Error::invalid(format!(
            "a tensor of rank {} cannot be sent to another process, at most {MAX_RANK}",
            tensor.shape().rank()
        )));
    }
    match tensor.dtype() {
        dtype @ (DType::Resource | DType::Variant) => Err(Error::invalid(format!(
            "a {dtype} tensor means nothing in another process and cannot be sent there; \
             keep its producer and consumer on one task, or send what it holds"
        ))),
        DType::Str if tensor.as_strings()?.iter().any(|s| u32::try_from(s.len()).is_err()) => Err(Error::invalid(
            "a string of 4 GiB or more cannot be sent to another process",
        )),
        _ => Ok(()),
    }
}

/// The bytes of a tensor's payload.
pub(super) fn payload_size(tensor: &Tensor) -> u64 {
    let table = match tensor.dtype() {
        DType::Str => tensor.len().saturating_mul(LENGTH),
        _ => 0,
    };
    tensor.byte_size().saturating_add(table) as u64
}

pub(super) fn header_of(tensor: &Tensor) -> TensorHeader {
    TensorHeader {
        dtype: tensor.dtype() as u8,
        rank: tensor.shape().rank() as u8,
        bytes: payload_size(tensor),
    }
}

/// Appends the payload of a tensor of strings.
pub(super) fn write_strings(strings: &[Bytes], out: &mut Vec<u8>) {
    for s in strings {
        out.extend_from_slice(&(s.len() as u32).to_le_bytes());
    }
    for s in strings {
        out.extend_from_slice(s);
    }
}

/// A tensor that a header announces, checked: its payload is as long as its shape says, within the limit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Announced {
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    pub(super) bytes: usize,
}

impl Announced {
    /// Checks what a header says against itself and against `limit`, the bytes of a tensor that are accepted.
    pub(super) fn check(dtype: u8, dims: &[u64], bytes: u64, limit: usize) -> Result<Announced, Fault> {
        let known = DType::ALL.into_iter().find(|d| *d as u8 == dtype);
        let dtype = match known {
            Some(d) if d.is_plain() || d == DType::Str => d,
            _ => return Err(malformed(format!("dtype number {dtype} is no dtype that is sent"))),
        };
        if dims.len() > MAX_RANK {
            return Err(malformed(format!("rank {}, at most {MAX_RANK}", dims.len())));
        }
        let dims: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let shape = Shape::from(dims.ok_or_else(|| malformed("a dimension exceeds the address space"))?);
        let count = shape.checked_count().map_err(|e| malformed(e.message()))?;
        let bytes = usize::try_from(bytes)
            .ok()
            .filter(|b| *b <= limit)
            .ok_or_else(|| Fault::Oversized(format!("a tensor of {bytes} bytes, at most {}", human(limit))))?;
        let each = if dtype == DType::Str { LENGTH } else { dtype.size() };
        let least = count.checked_mul(each);
        let fits = match dtype {
            DType::Str => least.is_some_and(|n| n <= bytes),
            _ => least == Some(bytes),
        };
        if !fits {
            return Err(malformed(format!(
                "{bytes} bytes for a {dtype} tensor of shape {shape}"
            )));
        }
        Ok(Announced { dtype, shape, bytes })
    }
}

/// A dense tensor that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    tensor: Tensor,
    filled: usize,
}

impl Filling {
    pub(super) fn new(announced: &Announced, pool: &Arc<Pool>) -> Result<Filling, Fault> {
        let tensor = Tensor::alloc_in(pool, announced.dtype, announced.shape.clone())
            .map_err(|e| Fault::Exhausted(format!("no memory for an arriving tensor: {}", e.message())))?;
        Ok(Filling { tensor, filled: 0 })
    }

    /// Takes what belongs to the tensor from the front of `chunk`; whether it is complete.
    pub(super) fn fill(&mut self, chunk: &mut Bytes) -> bool {
        // The tensor has no other owner, so its bytes can be written.
        let Some(rest) = self.tensor.bytes_mut().and_then(|b| b.get_mut(self.filled..)) else {
            return true;
        };
        let n = rest.len().min(chunk.len());
        rest[..n].copy_from_slice(&chunk[..n]);
        chunk.advance(n);
        self.filled += n;
        n == rest.len()
    }

    /// The tensor, once it is complete.
    pub(super) fn finish(self) -> Result<Tensor, Fault> {
        let bad = self.tensor.dtype() == DType::Bool && self.tensor.bytes().is_some_and(|b| b.iter().any(|b| *b > 1));
        if bad {
            return Err(malformed("a bool tensor has a byte that is neither 0 nor 1"));
        }
        Ok(self.tensor)
    }
}

/// The tensor of strings that a complete payload is; the strings share it.
pub(super) fn read_strings(announced: &Announced, payload: &Bytes) -> Result<Tensor, Fault> {
    let count = announced.shape.checked_count().map_err(|e| malformed(e.message()))?;
    let table = count
        .checked_mul(LENGTH)
        .filter(|n| *n <= payload.len())
        .ok_or_else(|| malformed("a table of strings is cut off"))?;
    let mut at = table;
    let mut strings = Vec::with_capacity(count);
    for length in payload[..table].chunks_exact(LENGTH) {
        let length = length.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
        let end = at
            .checked_add(length)
            .filter(|end| *end <= payload.len())
            .ok_or_else(|| malformed("a string is cut off"))?;
        strings.push(payload.slice(at..end));
        at = end;
    }
    if at != payload.len() {
        return Err(malformed("bytes after the last string"));
    }
    Tensor::strings(announced.shape.clone(), strings).map_err(|e| malformed(e.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_says_must_fit_itself_and_the_limit() {
        let check = |dtype: DType, dims: &[u64], bytes| Announced::check(dtype as u8, dims, bytes, 1000);
        assert!(check(DType::F32, &[2, 3], 24).is_ok());
        assert!(matches!(check(DType::F32, &[2, 3], 23), Err(Fault::Malformed(_))));
        assert!(matches!(check(DType::F32, &[2, 300], 2400), Err(Fault::Oversized(_))));
        assert!(matches!(
            check(DType::F32, &[1 << 62, 1 << 62, 0], 0),
            Err(Fault::Malformed(_))
        ));
        assert!(matches!(check(DType::U8, &[1; 17], 1), Err(Fault::Malformed(_))));
        assert!(matches!(check(DType::Resource, &[], 0), Err(Fault::Malformed(_))));
        assert!(matches!(check(DType::Str, &[1 << 40], 8), Err(Fault::Malformed(_))));
        assert!(Announced::check(0, &[], 0, 1000).is_err() && Announced::check(255, &[], 0, 1000).is_err());
    }

    #[test]
    fn handles_and_high_ranks_are_refused_by_the_sender() {
        let variant = Tensor::variants([0], Vec::new()).unwrap();
        assert!(sendable(&variant).unwrap_err().message().contains("variant"));
        assert!(sendable(&Tensor::zeros(DType::F32, [1; 17]).unwrap()).is_err());
        assert!(sendable(&Tensor::string("x")).is_ok());
    }

    #[test]
    fn tables_of_strings_that_do_not_add_up_are_refused() {
        let announced = |bytes| Announced::check(DType::Str as u8, &[2], bytes, 1000).unwrap();
        let mut good = Vec::new();
        write_strings(&[Bytes::from_static(b"ab"), Bytes::new()], &mut good);
        let read = |b: &[u8]| read_strings(&announced(b.len() as u64), &Bytes::copy_from_slice(b));
        assert_eq!(read(&good).unwrap(), Tensor::strings([2], vec!["ab", ""]).unwrap());
        good.push(0);
        assert!(read(&good).is_err());
        good[0] = 200;
        assert!(read(&good).is_err());
    }
}
