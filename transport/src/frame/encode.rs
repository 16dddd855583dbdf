//! From frames to bytes.
#![forbid(unsafe_code)]

use actorflow_core::{DType, Error, Result, Tensor};
use bytes::Bytes;
use rkyv::api::high::{HighSerializer, to_bytes_in};
use rkyv::rancor::Failure as Unserialisable;
use rkyv::ser::allocator::ArenaHandle;
use smallvec::SmallVec;

use super::archive::{
    CreditHeader, FailureHeader, HelloHeader, MessageHeader, ParcelHeader, PingHeader, StampHeader, TensorHeader,
};
use super::tensor::{Dense, header_of, payload_size, sendable, write_strings};
use super::{Body, CREDITED, DEAD, FAILED, Frame, Kind, MAX_HEADER, MAX_TENSORS, Outcome, PREFIX, Prefix, cut};
use crate::message::Message;

/// A payload of at most this many bytes is copied behind its header, so that a small frame is one piece of memory.
const COPIED: usize = 4096;

/// A frame's bytes, in pieces; large tensors are not copied.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// The pieces, in order.
    pub chunks: SmallVec<[Bytes; 2]>,
    /// Their length together.
    pub len: usize,
}

impl Encoded {
    fn new() -> Encoded {
        Encoded::default()
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.chunks.push(bytes);
        }
    }
}

/// The prefix and header, with `room` for a payload to be appended.
fn head<H>(kind: Kind, flags: u16, payload: u64, header: &H, room: usize) -> Result<Vec<u8>>
where
    H: for<'a> rkyv::Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Unserialisable>>,
{
    let mut out = Vec::with_capacity(PREFIX + 128 + room);
    out.extend_from_slice(&[0; PREFIX]);
    let mut out = to_bytes_in::<_, Unserialisable>(header, out)
        .map_err(|_| Error::internal("the header of a frame cannot be serialised"))?;
    let header = out.len() - PREFIX;
    if header > MAX_HEADER {
        return Err(Error::invalid(format!(
            "a frame's header of {header} bytes exceeds the limit of {MAX_HEADER}; \
             send fewer tensors in one message"
        )));
    }
    let prefix = Prefix {
        kind,
        flags,
        header,
        payload,
    };
    out[..PREFIX].copy_from_slice(&prefix.write());
    Ok(out)
}

/// Appends a tensor's payload: to `small` if it is small, else as a piece of its own.
fn append(tensor: &Tensor, small: &mut Vec<u8>, out: &mut Encoded) -> Result<()> {
    if tensor.dtype() == DType::Str {
        write_strings(tensor.as_strings()?, small);
        return Ok(());
    }
    match tensor.bytes() {
        Some(bytes) if bytes.len() <= COPIED => small.extend_from_slice(bytes),
        _ => {
            out.push(std::mem::take(small).into());
            out.push(Bytes::from_owner(Dense(tensor.clone())));
        }
    }
    Ok(())
}

/// Appends bytes: to `small` if they are few, else as a piece of their own.
fn append_bytes(bytes: &Bytes, small: &mut Vec<u8>, out: &mut Encoded) {
    if bytes.len() <= COPIED {
        small.extend_from_slice(bytes);
    } else {
        out.push(std::mem::take(small).into());
        out.push(bytes.clone());
    }
}

/// The dimensions of tensors, one after the other.
fn dims<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<u64> {
    tensors
        .flat_map(|t| t.shape().dims().iter().map(|d| *d as u64))
        .collect()
}

/// Checks that a message can be sent to a peer that accepts headers and messages of so many bytes.
///
/// # Errors
/// `INVALID_ARGUMENT` or `RESOURCE_EXHAUSTED` naming what is too large or of a dtype that is not sent.
pub(crate) fn check_message(message: &Message, header: u64, total: u64, tensor: u64) -> Result<()> {
    let kind = message.kind;
    if message.header.len() as u64 > header.min(MAX_HEADER as u64) {
        return Err(Error::invalid(format!(
            "the header of message {kind} has {} bytes, the peer accepts {}; put bulk into the blob",
            message.header.len(),
            header.min(MAX_HEADER as u64)
        )));
    }
    if message.tensors.len() > MAX_TENSORS {
        return Err(Error::invalid(format!(
            "message {kind} has {} tensors, at most {MAX_TENSORS}",
            message.tensors.len()
        )));
    }
    for t in &message.tensors {
        sendable(t).map_err(|e| e.context(format_args!("message {kind}")))?;
        check_size(payload_size(t), tensor)?;
    }
    let size = payload_of(message);
    if size > total {
        return Err(Error::exhausted(format!(
            "message {kind} has {size} bytes, the peer accepts {total}; send it in parts"
        )));
    }
    Ok(())
}

/// Checks that a tensor of `bytes` can be sent to a peer that accepts `limit`.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` naming both.
pub(crate) fn check_size(bytes: u64, limit: u64) -> Result<()> {
    if bytes > limit {
        return Err(Error::exhausted(format!(
            "a tensor of {bytes} bytes exceeds what the peer accepts, {limit} bytes; send it in parts, or raise the peer's \
             limit tensor"
        )));
    }
    Ok(())
}

/// The bytes of a message's payload.
pub(crate) fn payload_of(message: &Message) -> u64 {
    let tensors = message.tensors.iter().map(payload_size);
    let own = message.header.len().saturating_add(message.blob.len()) as u64;
    tensors.fold(own, u64::saturating_add)
}

impl Body {
    /// The step that it belongs to, 0 for none.
    pub fn step(&self) -> u64 {
        match self {
            Body::Request { message, .. } | Body::Notice(message) => message.step,
            Body::Answer {
                outcome: Outcome::Done(message),
                ..
            } => message.step,
            Body::Parcel(parcel) => parcel.step,
            _ => 0,
        }
    }

    /// The bytes of its payload.
    pub fn payload(&self) -> u64 {
        match self {
            Body::Request { message, .. } | Body::Notice(message) => payload_of(message),
            Body::Answer {
                outcome: Outcome::Done(message),
                ..
            } => payload_of(message),
            Body::Parcel(parcel) => parcel.value.as_ref().map_or(0, payload_size),
            _ => 0,
        }
    }
}

impl Frame {
    /// The frame's bytes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a tensor that cannot be sent or a header above the limit.
    pub fn encode(&self) -> Result<Encoded> {
        let stamp = StampHeader {
            epoch: self.stamp.epoch,
            incarnation: self.stamp.incarnation,
            step: self.body.step(),
        };
        let credited = if self.credited { CREDITED } else { 0 };
        let mut out = Encoded::new();
        match &self.body {
            Body::Hello(h) => {
                let header = HelloHeader {
                    stamp,
                    cluster: cut(&h.cluster, 1 << 10).to_owned(),
                    subject: cut(&h.subject, 1 << 10).to_owned(),
                    header: h.header,
                    message: h.message,
                    tensor: h.tensor,
                    window_bytes: h.window_bytes,
                    window: h.window,
                    pending_requests: h.pending_requests,
                    stripes: h.stripes,
                    stripe: h.stripe,
                };
                out.push(head(Kind::Hello, 0, 0, &header, 0)?.into());
            }
            Body::Request { id, message } => encode_message(Kind::Request, credited, stamp, *id, message, &mut out)?,
            Body::Notice(message) => encode_message(Kind::Notice, credited, stamp, 0, message, &mut out)?,
            Body::Answer { id, outcome } => match outcome {
                Outcome::Done(message) => encode_message(Kind::Answer, credited, stamp, *id, message, &mut out)?,
                Outcome::Failed(failure) => {
                    let header = FailureHeader {
                        stamp,
                        id: *id,
                        failure: failure.clone(),
                    };
                    out.push(head(Kind::Answer, credited | FAILED, 0, &header, 0)?.into());
                }
            },
            Body::Parcel(parcel) => {
                let none = TensorHeader {
                    dtype: 0,
                    rank: 0,
                    bytes: 0,
                };
                if let Some(t) = &parcel.value {
                    sendable(t)?;
                }
                let header = ParcelHeader {
                    stamp,
                    edge: parcel.edge,
                    tag: parcel.tag,
                    tensor: parcel.value.as_ref().map_or(none, header_of),
                    dims: dims(parcel.value.iter()),
                };
                let dead = if parcel.value.is_none() { DEAD } else { 0 };
                let payload = self.body.payload();
                let room = if payload <= COPIED as u64 { payload as usize } else { 0 };
                let mut small = head(Kind::Parcel, credited | dead, payload, &header, room)?;
                if let Some(t) = &parcel.value {
                    append(t, &mut small, &mut out)?;
                }
                out.push(small.into());
            }
            Body::Credit(credit) => {
                let header = CreditHeader {
                    stamp,
                    frames: credit.frames,
                    bytes: credit.bytes,
                };
                out.push(head(Kind::Credit, 0, 0, &header, 0)?.into());
            }
            Body::Ping { silence } => {
                let silence = *silence;
                out.push(head(Kind::Ping, 0, 0, &PingHeader { stamp, silence }, 0)?.into());
            }
        }
        Ok(out)
    }
}

fn encode_message(
    kind: Kind,
    flags: u16,
    stamp: StampHeader,
    id: u64,
    message: &Message,
    out: &mut Encoded,
) -> Result<()> {
    check_message(message, u64::MAX, u64::MAX, u64::MAX)?;
    let header = MessageHeader {
        stamp,
        id,
        kind: message.kind,
        header: message.header.len() as u32,
        blob: message.blob.len() as u64,
        tensors: message.tensors.iter().map(header_of).collect(),
        dims: dims(message.tensors.iter()),
    };
    let room = message.size().min(COPIED);
    let mut small = head(kind, flags, payload_of(message), &header, room)?;
    append_bytes(&message.header, &mut small, out);
    append_bytes(&message.blob, &mut small, out);
    for t in &message.tensors {
        append(t, &mut small, out)?;
    }
    out.push(small.into());
    Ok(())
}
