//! The headers as rkyv archives: flat structs of numbers, strings and vectors of numbers, checked before they are read.
//!
//! Archives are unaligned, so that one can be read where it lies in a datagram.
#![forbid(unsafe_code)]

use rkyv::{Archive, Deserialize, Serialize};

use super::Failure;

#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy)]
pub(super) struct StampHeader {
    pub(super) epoch: u64,
    pub(super) incarnation: u64,
    pub(super) step: u64,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
pub(super) struct HelloHeader {
    pub(super) stamp: StampHeader,
    pub(super) cluster: String,
    pub(super) subject: String,
    pub(super) header: u64,
    pub(super) message: u64,
    pub(super) tensor: u64,
    pub(super) window_bytes: u64,
    pub(super) window: u64,
    pub(super) pending_requests: u64,
    pub(super) stripes: u64,
    pub(super) stripe: bool,
}

/// A tensor without its dimensions, which are in a list that all tensors of a header share.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy)]
pub(super) struct TensorHeader {
    /// TensorFlow's number of the dtype.
    pub(super) dtype: u8,
    pub(super) rank: u8,
    /// Bytes in the payload.
    pub(super) bytes: u64,
}

/// Of a request, an answer without error and a notice.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(super) struct MessageHeader {
    pub(super) stamp: StampHeader,
    /// Of the request; 0 in a notice.
    pub(super) id: u64,
    pub(super) kind: u16,
    pub(super) header: u32,
    pub(super) blob: u64,
    pub(super) tensors: Vec<TensorHeader>,
    pub(super) dims: Vec<u64>,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
pub(super) struct FailureHeader {
    pub(super) stamp: StampHeader,
    pub(super) id: u64,
    pub(super) failure: Failure,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
pub(super) struct ParcelHeader {
    pub(super) stamp: StampHeader,
    pub(super) edge: u32,
    pub(super) tag: u64,
    /// All zero in a dead parcel.
    pub(super) tensor: TensorHeader,
    pub(super) dims: Vec<u64>,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
pub(super) struct PingHeader {
    pub(super) stamp: StampHeader,
    pub(super) silence: u64,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
pub(super) struct CreditHeader {
    pub(super) stamp: StampHeader,
    pub(super) frames: u64,
    pub(super) bytes: u64,
}
