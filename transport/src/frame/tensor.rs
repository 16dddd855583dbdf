//! Tensors on the wire: what may be sent, what may arrive, and how arriving bytes become one.
#![forbid(unsafe_code)]

use actorflow_core::tensor::human;
use actorflow_core::{DType, Error, Result, Shape, Tensor};
use bytes::Bytes;

use super::archive::TensorHeader;
use super::arriving::Arriving;
use super::intake::Intake;
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

/// The bytes of a dense tensor, kept alive by it.
pub(super) struct Dense(pub(super) Tensor);

impl AsRef<[u8]> for Dense {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes().unwrap_or(&[])
    }
}

/// A tensor's buffer is taken when one part in so many of it has come.
///
/// What a peer makes this side hold is then at most so many times what it has really sent, however much it announces.
/// What comes before is put aside in pieces and copied, which for large tensors is an eighth of what is copied anyhow;
/// waiting for a half would make that a half. Up to eight times the largest datagram (480 KB on loopback) a tensor's
/// first bytes suffice, and nothing is put aside.
const SHARE: usize = 8;

/// A dense tensor that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    announced: Announced,
    /// What came before the buffer was taken, in order; each as large as all before it together, or as what came.
    aside: Vec<Tensor>,
    /// What is free in the last of them.
    free: usize,
    /// What they have been charged.
    charged: u64,
    whole: Option<Tensor>,
    filled: usize,
}

fn no_memory(e: &Error) -> Fault {
    Fault::Exhausted(format!("no memory for an arriving tensor: {}", e.message()))
}

impl Filling {
    pub(super) fn new(announced: Announced) -> Filling {
        Filling {
            announced,
            aside: Vec::new(),
            free: 0,
            charged: 0,
            whole: None,
            filled: 0,
        }
    }

    /// So many bytes that are no tensor.
    pub(super) fn of_bytes(n: usize) -> Filling {
        Filling::new(Announced {
            dtype: DType::U8,
            shape: Shape::from([n]),
            bytes: n,
        })
    }

    /// Takes what belongs to the tensor from the front of `chunk`; whether it is complete. What it comes to hold is
    /// charged to `account`.
    ///
    /// # Errors
    /// There is no memory, in the pool or in what the peer may hold.
    pub(super) fn fill(
        &mut self,
        chunk: &mut impl Arriving,
        intake: &mut Intake,
        account: &mut u64,
    ) -> Result<bool, Fault> {
        if self.whole.is_none() {
            let coming = chunk.len().min(self.announced.bytes - self.filled);
            if self.filled.saturating_add(coming).saturating_mul(SHARE) < self.announced.bytes {
                self.put_aside(chunk, coming, intake, account)?;
                return Ok(false);
            }
            self.gather(intake, account)?;
        }
        // The tensor has no other owner, so its bytes can be written.
        let bytes = self.whole.as_mut().and_then(Tensor::bytes_mut);
        let Some(rest) = bytes.and_then(|b| b.get_mut(self.filled..)) else {
            return Ok(true);
        };
        let n = rest.len().min(chunk.len());
        chunk.copy_to(&mut rest[..n]);
        self.filled += n;
        Ok(n == rest.len())
    }

    fn put_aside(
        &mut self,
        chunk: &mut impl Arriving,
        mut coming: usize,
        intake: &mut Intake,
        account: &mut u64,
    ) -> Result<(), Fault> {
        while coming > 0 {
            if self.free == 0 {
                let most = self.announced.bytes.div_ceil(SHARE) - self.filled;
                let size = self.filled.min(most).max(coming);
                intake.charge(account, size as u64)?;
                self.charged += size as u64;
                let piece =
                    Tensor::alloc_in(&intake.pool, DType::U8, Shape::from([size])).map_err(|e| no_memory(&e))?;
                self.aside.push(piece);
                self.free = size;
            }
            let Some(bytes) = self.aside.last_mut().and_then(Tensor::bytes_mut) else {
                return Ok(());
            };
            let at = bytes.len() - self.free;
            let n = self.free.min(coming);
            chunk.copy_to(&mut bytes[at..at + n]);
            coming -= n;
            self.free -= n;
            self.filled += n;
        }
        Ok(())
    }

    /// Takes the whole buffer, and moves there what was put aside.
    fn gather(&mut self, intake: &mut Intake, account: &mut u64) -> Result<(), Fault> {
        intake.charge(account, self.announced.bytes as u64)?;
        let shape = self.announced.shape.clone();
        let mut whole = Tensor::alloc_in(&intake.pool, self.announced.dtype, shape).map_err(|e| no_memory(&e))?;
        if let Some(bytes) = whole.bytes_mut() {
            let mut rest = &mut bytes[..self.filled];
            for piece in &self.aside {
                let come = piece.bytes().unwrap_or(&[]);
                let (here, after) = rest.split_at_mut(come.len().min(rest.len()));
                here.copy_from_slice(&come[..here.len()]);
                rest = after;
            }
        }
        self.aside.clear();
        intake.release(account, std::mem::take(&mut self.charged));
        self.whole = Some(whole);
        Ok(())
    }

    /// The tensor, once it is complete.
    pub(super) fn finish(self) -> Result<Tensor, Fault> {
        let whole = self.whole.ok_or_else(|| malformed("a tensor is cut off"))?;
        let bad = whole.dtype() == DType::Bool && whole.bytes().is_some_and(|b| b.iter().any(|b| *b > 1));
        if bad {
            return Err(malformed("a bool tensor has a byte that is neither 0 nor 1"));
        }
        Ok(whole)
    }

    /// The bytes, once they are complete; they keep the buffer.
    pub(super) fn into_bytes(self) -> Result<Bytes, Fault> {
        Ok(Bytes::from_owner(Dense(self.finish()?)))
    }
}

/// What a string takes beside its bytes.
pub(super) const STRING: usize = size_of::<Bytes>();

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
