//! From bytes to frames, as they come.
#![forbid(unsafe_code)]

use actorflow_core::tensor::human;
use actorflow_core::{DType, Tensor};
use bytes::{Bytes, BytesMut};
use rkyv::rancor::Failure as Refused;
use rkyv::{Portable, access, deserialize};

use super::archive::{
    ArchivedCreditHeader, ArchivedFailureHeader, ArchivedHelloHeader, ArchivedMessageHeader, ArchivedParcelHeader,
    ArchivedPingHeader, ArchivedStampHeader, ArchivedTensorHeader,
};
use super::arriving::Arriving;
use super::intake::Intake;
use super::tensor::{Announced, Filling, STRING, read_strings};
use super::{
    Body, CREDITED, Credit, DEAD, FAILED, Fault, Frame, Hello, Kind, MAX_TENSORS, Outcome, PREFIX, Prefix, Stamp,
    malformed,
};
use crate::limits::Limits;
use crate::message::{Message, Parcel};

/// What a piece that arrives in parts may allocate before any of it has come.
const FIRST: usize = 1 << 10;

/// Pieces of at most this many bytes are put together on the heap, so that headers and what controls a cluster still
/// pass when the pool has nothing left; larger ones are the pool's.
const ON_HEAP: usize = 64 << 10;

/// What becomes of the parts of a frame with a payload.
#[derive(Debug)]
enum Shell {
    Request { id: u64, kind: u16, step: u64 },
    Answer { id: u64, kind: u16, step: u64 },
    Notice { kind: u16, step: u64 },
    Parcel { step: u64, edge: u32, tag: u64 },
}

/// A frame whose header has come.
#[derive(Debug)]
struct Assembly {
    stamp: Stamp,
    credited: bool,
    payload: u64,
    shell: Shell,
    header: usize,
    blob: usize,
    announced: Vec<Announced>,
    parts: (Option<Bytes>, Option<Bytes>),
    tensors: Vec<Tensor>,
    filling: Option<Filling>,
    /// What it has been charged for what it holds.
    charged: u64,
}

#[derive(Debug)]
enum State {
    Prefix,
    Header(Prefix),
    Payload(Box<Assembly>),
}

/// Takes one stream apart into frames.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// The beginning of a piece that has come in part.
    partial: BytesMut,
    /// What has been charged for it.
    charged: u64,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// At the beginning of a stream.
    pub fn new() -> Decoder {
        Decoder {
            state: State::Prefix,
            partial: BytesMut::new(),
            charged: 0,
        }
    }

    /// Whether everything that came is whole frames, so that the stream may end here.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Prefix) && self.partial.is_empty()
    }

    /// Gives back what was promised to the frame that will not be completed, and charged for what it holds.
    pub fn abandon(mut self, intake: &mut Intake) {
        intake.release(&mut self.charged, u64::MAX);
        if let State::Payload(mut a) = self.state {
            intake.redeem(a.payload);
            intake.release(&mut a.charged, u64::MAX);
        }
    }

    /// Takes bytes from the front of `chunk` until a frame is complete or none are left. Call it again while there
    /// are: a chunk may hold several frames.
    ///
    /// # Errors
    /// What is wrong with the stream; nothing more can be read from it.
    pub fn push(&mut self, chunk: &mut impl Arriving, intake: &mut Intake) -> Result<Option<Frame>, Fault> {
        let frame = self.advance(chunk, intake)?;
        let (partial, charged) = (self.partial.len() as u64, self.charged);
        if partial > charged {
            intake.charge(&mut self.charged, partial - charged)?;
        } else if partial < charged {
            intake.release(&mut self.charged, charged - partial);
        }
        Ok(frame)
    }

    fn advance(&mut self, chunk: &mut impl Arriving, intake: &mut Intake) -> Result<Option<Frame>, Fault> {
        loop {
            match &mut self.state {
                State::Prefix => {
                    let Some(bytes) = take(&mut self.partial, chunk, PREFIX) else {
                        return Ok(None);
                    };
                    let fixed = bytes[..].try_into().map_err(|_| malformed("a short prefix"))?;
                    self.state = State::Header(Prefix::read(fixed)?);
                }
                State::Header(prefix) => {
                    let prefix = *prefix;
                    let Some(bytes) = take(&mut self.partial, chunk, prefix.header) else {
                        return Ok(None);
                    };
                    self.state = State::Prefix;
                    match read_header(prefix, &bytes, &intake.limits)? {
                        Read::Frame(frame) => return Ok(Some(frame)),
                        Read::Assembly(a) => {
                            intake.promise(a.payload)?;
                            self.state = State::Payload(Box::new(a));
                        }
                    }
                }
                State::Payload(a) => {
                    if !a.advance(&mut self.partial, chunk, intake)? {
                        return Ok(None);
                    }
                    let State::Payload(mut a) = std::mem::replace(&mut self.state, State::Prefix) else {
                        return Ok(None);
                    };
                    intake.redeem(a.payload);
                    intake.release(&mut a.charged, u64::MAX);
                    return Ok(Some(a.finish()));
                }
            }
        }
    }
}

/// The next `n` bytes, once they have come: as they lie in `chunk` if they are all there, else put together.
fn take(partial: &mut BytesMut, chunk: &mut impl Arriving, n: usize) -> Option<Bytes> {
    if partial.is_empty() && chunk.len() >= n {
        return Some(chunk.take(n));
    }
    let (have, missing) = (partial.len(), n.saturating_sub(partial.len()));
    if partial.is_empty() {
        partial.reserve(n.min(FIRST));
    }
    partial.resize(have + missing.min(chunk.len()), 0);
    chunk.copy_to(&mut partial[have..]);
    (partial.len() >= n).then(|| partial.split().freeze())
}

impl Assembly {
    /// Takes what it can from `chunk`; whether the payload is complete.
    fn advance(
        &mut self,
        partial: &mut BytesMut,
        chunk: &mut impl Arriving,
        intake: &mut Intake,
    ) -> Result<bool, Fault> {
        if self.parts.0.is_none() {
            self.parts.0 = self.piece(self.header, partial, chunk, intake)?;
            if self.parts.0.is_none() {
                return Ok(false);
            }
        }
        if self.parts.1.is_none() {
            self.parts.1 = self.piece(self.blob, partial, chunk, intake)?;
            if self.parts.1.is_none() {
                return Ok(false);
            }
        }
        while let Some(next) = self.announced.get(self.tensors.len()) {
            if next.dtype == DType::Str {
                let next = next.clone();
                let Some(payload) = self.piece(next.bytes, partial, chunk, intake)? else {
                    return Ok(false);
                };
                let strings = next.shape.checked_count().map_err(|e| malformed(e.message()))?;
                intake.charge(&mut self.charged, strings.saturating_mul(STRING) as u64)?;
                self.tensors.push(read_strings(&next, &payload)?);
                continue;
            }
            let mut filling = self.filling.take().unwrap_or_else(|| Filling::new(next.clone()));
            if !filling.fill(chunk, intake, &mut self.charged)? {
                self.filling = Some(filling);
                return Ok(false);
            }
            self.tensors.push(filling.finish()?);
        }
        Ok(true)
    }

    /// The next `n` bytes of the payload, once they have come, and charged for.
    fn piece(
        &mut self,
        n: usize,
        partial: &mut BytesMut,
        chunk: &mut impl Arriving,
        intake: &mut Intake,
    ) -> Result<Option<Bytes>, Fault> {
        if n <= ON_HEAP || (self.filling.is_none() && chunk.len() >= n) {
            let piece = take(partial, chunk, n);
            if piece.is_some() {
                intake.charge(&mut self.charged, n as u64)?;
            }
            return Ok(piece);
        }
        let mut filling = self.filling.take().unwrap_or_else(|| Filling::of_bytes(n));
        if !filling.fill(chunk, intake, &mut self.charged)? {
            self.filling = Some(filling);
            return Ok(None);
        }
        Ok(Some(filling.into_bytes()?))
    }

    fn finish(self) -> Frame {
        let (header, blob) = (self.parts.0.unwrap_or_default(), self.parts.1.unwrap_or_default());
        let mut tensors = self.tensors;
        let message = |kind, step, tensors| Message {
            kind,
            step,
            header,
            blob,
            tensors,
        };
        let body = match self.shell {
            Shell::Request { id, kind, step } => Body::Request {
                id,
                message: message(kind, step, tensors),
            },
            Shell::Answer { id, kind, step } => Body::Answer {
                id,
                outcome: Outcome::Done(message(kind, step, tensors)),
            },
            Shell::Notice { kind, step } => Body::Notice(message(kind, step, tensors)),
            Shell::Parcel { step, edge, tag } => Body::Parcel(Parcel {
                step,
                edge,
                tag,
                value: tensors.pop(),
            }),
        };
        Frame {
            stamp: self.stamp,
            credited: self.credited,
            body,
        }
    }
}

/// What a header says: the whole frame, or what to wait for.
enum Read {
    Frame(Frame),
    Assembly(Assembly),
}

/// The archive that `bytes` are, checked.
fn checked<A>(bytes: &[u8]) -> Result<&A, Fault>
where
    A: Portable + for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, Refused>>,
{
    access::<A, Refused>(bytes).map_err(|_| malformed("a header that is no archive of its kind"))
}

fn stamp(s: &ArchivedStampHeader) -> Stamp {
    Stamp {
        epoch: s.epoch.to_native(),
        incarnation: s.incarnation.to_native(),
    }
}

fn read_header(prefix: Prefix, bytes: &[u8], limits: &Limits) -> Result<Read, Fault> {
    let credited = prefix.flags & CREDITED != 0;
    let bare = |stamp: Stamp, body: Body| {
        if prefix.payload != 0 {
            return Err(malformed("a payload where there is none"));
        }
        Ok(Read::Frame(Frame { stamp, credited, body }))
    };
    match prefix.kind {
        Kind::Hello => {
            let h = checked::<ArchivedHelloHeader>(bytes)?;
            let body = Body::Hello(Hello {
                cluster: h.cluster.as_str().to_owned(),
                subject: h.subject.as_str().to_owned(),
                header: h.header.to_native(),
                message: h.message.to_native(),
                tensor: h.tensor.to_native(),
                window_bytes: h.window_bytes.to_native(),
                window: h.window.to_native(),
                pending_requests: h.pending_requests.to_native(),
                stripes: h.stripes.to_native(),
                stripe: h.stripe,
            });
            bare(stamp(&h.stamp), body)
        }
        Kind::Credit => {
            let h = checked::<ArchivedCreditHeader>(bytes)?;
            let body = Body::Credit(Credit {
                frames: h.frames.to_native(),
                bytes: h.bytes.to_native(),
            });
            bare(stamp(&h.stamp), body)
        }
        Kind::Ping => {
            let h = checked::<ArchivedPingHeader>(bytes)?;
            let silence = h.silence.to_native();
            bare(stamp(&h.stamp), Body::Ping { silence })
        }
        Kind::Answer if prefix.flags & FAILED != 0 => {
            let h = checked::<ArchivedFailureHeader>(bytes)?;
            let failure = deserialize::<_, Refused>(&h.failure).map_err(|_| malformed("an error that is none"))?;
            let body = Body::Answer {
                id: h.id.to_native(),
                outcome: Outcome::Failed(failure),
            };
            bare(stamp(&h.stamp), body)
        }
        Kind::Parcel => read_parcel(prefix, checked(bytes)?, limits),
        Kind::Request | Kind::Answer | Kind::Notice => read_message(prefix, checked(bytes)?, limits),
    }
}

fn announced(t: &ArchivedTensorHeader, dims: &mut &[u64], limits: &Limits) -> Result<Announced, Fault> {
    let (own, rest) = dims
        .split_at_checked(usize::from(t.rank))
        .ok_or_else(|| malformed("fewer dimensions than the ranks say"))?;
    *dims = rest;
    Announced::check(t.dtype, own, t.bytes.to_native(), limits.tensor)
}

fn read_parcel(prefix: Prefix, h: &ArchivedParcelHeader, limits: &Limits) -> Result<Read, Fault> {
    let dims: Vec<u64> = h.dims.iter().map(|d| d.to_native()).collect();
    let (step, edge, tag) = (h.stamp.step.to_native(), h.edge.to_native(), h.tag.to_native());
    let mut rest = &dims[..];
    let tensors = if prefix.flags & DEAD != 0 {
        Vec::new()
    } else {
        vec![announced(&h.tensor, &mut rest, limits)?]
    };
    let payload: u64 = tensors.iter().map(|t| t.bytes as u64).sum();
    if !rest.is_empty() || payload != prefix.payload {
        return Err(malformed("a parcel whose header and payload disagree"));
    }
    Ok(Read::Assembly(Assembly {
        stamp: stamp(&h.stamp),
        credited: prefix.flags & CREDITED != 0,
        payload,
        shell: Shell::Parcel { step, edge, tag },
        header: 0,
        blob: 0,
        announced: tensors,
        parts: (None, None),
        tensors: Vec::new(),
        filling: None,
        charged: 0,
    }))
}

fn read_message(prefix: Prefix, h: &ArchivedMessageHeader, limits: &Limits) -> Result<Read, Fault> {
    let (id, kind, step) = (h.id.to_native(), h.kind.to_native(), h.stamp.step.to_native());
    let header = h.header.to_native() as usize;
    if header > limits.header {
        return Err(Fault::Oversized(format!(
            "message {kind} with a header of {header} bytes, at most {}",
            limits.header
        )));
    }
    if prefix.payload > limits.message as u64 {
        return Err(Fault::Oversized(format!(
            "message {kind} of {} bytes, at most {}",
            prefix.payload,
            human(limits.message)
        )));
    }
    if h.tensors.len() > MAX_TENSORS {
        return Err(Fault::Oversized(format!(
            "message {kind} with {} tensors, at most {MAX_TENSORS}",
            h.tensors.len()
        )));
    }
    let dims: Vec<u64> = h.dims.iter().map(|d| d.to_native()).collect();
    let mut rest = &dims[..];
    let tensors = h.tensors.iter().map(|t| announced(t, &mut rest, limits));
    let tensors = tensors.collect::<Result<Vec<_>, Fault>>()?;
    let own = h.blob.to_native().checked_add(header as u64);
    let payload = tensors
        .iter()
        .try_fold(own.unwrap_or(u64::MAX), |n, t| n.checked_add(t.bytes as u64));
    if !rest.is_empty() || payload != Some(prefix.payload) {
        return Err(malformed("a message whose header and payload disagree"));
    }
    Ok(Read::Assembly(Assembly {
        stamp: stamp(&h.stamp),
        credited: prefix.flags & CREDITED != 0,
        payload: prefix.payload,
        shell: match prefix.kind {
            Kind::Request => Shell::Request { id, kind, step },
            Kind::Answer => Shell::Answer { id, kind, step },
            _ => Shell::Notice { kind, step },
        },
        header,
        blob: h.blob.to_native() as usize,
        announced: tensors,
        parts: (None, None),
        tensors: Vec::new(),
        filling: None,
        charged: 0,
    }))
}
