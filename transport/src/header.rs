//! Headers of messages: flat archived structs that are checked before they are read.
//!
//! A header is a struct that derives rkyv's `Archive`, `Serialize` and `Deserialize`; keep it flat (numbers, strings,
//! vectors of them). It is for what describes a message; bulk goes into the message's blob and tensors.
#![forbid(unsafe_code)]

use actorflow_core::{Error, Result};
use bytes::Bytes;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::MAX_HEADER;

/// The bytes of a header.
///
/// # Errors
/// `INVALID_ARGUMENT` if they are more than [`MAX_HEADER`].
pub fn encode<T>(header: &T) -> Result<Bytes>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let bytes = encode_blob(header)?;
    if bytes.len() > MAX_HEADER {
        return Err(Error::invalid(format!(
            "a message's header of {} bytes exceeds the limit of {MAX_HEADER}; put bulk into its blob",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The bytes of a struct that travels as a message's blob, of any size that its receiver allows.
///
/// # Errors
/// `INVALID_ARGUMENT` if it cannot be serialised.
pub fn encode_blob<T>(value: &T) -> Result<Bytes>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let bytes = rkyv::to_bytes::<rancor::Error>(value)
        .map_err(|e| Error::invalid(format!("a message cannot be serialised: {e}")))?;
    Ok(Bytes::copy_from_slice(&bytes))
}

/// The struct that a message's blob is, after checking all of it.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none of this type.
pub fn decode_blob<T>(bytes: &[u8]) -> Result<T>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    rkyv::from_bytes::<T, rancor::Error>(bytes)
        .map_err(|e| Error::invalid(format!("{} bytes are no such message: {e}", bytes.len())))
}

/// The header that `bytes` are, after checking all of them.
///
/// # Errors
/// `INVALID_ARGUMENT` if they are more than [`MAX_HEADER`] or no header of this type.
pub fn decode<T>(bytes: &[u8]) -> Result<T>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    if bytes.len() > MAX_HEADER {
        return Err(Error::invalid(format!(
            "a message's header of {} bytes exceeds the limit of {MAX_HEADER}",
            bytes.len()
        )));
    }
    decode_blob(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Archive, Serialize, Deserialize)]
    struct Plan {
        name: String,
        edges: Vec<u32>,
        last: bool,
    }

    fn plan() -> Plan {
        Plan {
            name: "a/b".to_owned(),
            edges: vec![1, 2, 3],
            last: true,
        }
    }

    #[test]
    fn a_header_comes_back_from_any_address() {
        let bytes = encode(&plan()).unwrap();
        let mut shifted = vec![0; 1];
        shifted.extend_from_slice(&bytes);
        assert_eq!(decode::<Plan>(&bytes).unwrap(), plan());
        assert_eq!(decode::<Plan>(&shifted[1..]).unwrap(), plan());
    }

    #[test]
    fn damaged_headers_are_errors_or_other_headers_never_panics() {
        let bytes = encode(&plan()).unwrap();
        for cut in 0..bytes.len() {
            assert!(decode::<Plan>(&bytes[..cut]).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut b = bytes.to_vec();
                b[at] ^= 1 << bit;
                let _ = decode::<Plan>(&b);
            }
        }
    }

    #[test]
    fn a_header_above_the_limit_is_refused() {
        let large = Plan {
            name: "x".repeat(MAX_HEADER + 1),
            ..plan()
        };
        assert!(encode(&large).unwrap_err().message().contains("blob"));
        assert!(decode::<Plan>(&vec![0; MAX_HEADER + 1]).is_err());
    }
}
