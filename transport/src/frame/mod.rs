//! Frames: how messages and tensors are laid out in a stream.
//!
//! A frame is a fixed prefix, a header that is a flat rkyv archive, and a payload of raw bytes:
//!
//! ```text
//! 0        4        5     6      8          12         16           24
//! | magic  | version| kind| flags| header u32| zero u32 | payload u64| header … | payload … |
//! ```
//!
//! Numbers are little-endian. The payload of a message is its own header, its blob and its tensors, one after the other;
//! that of a parcel is its tensor. A dense tensor is its bytes; a tensor of strings is a table of their lengths (u32)
//! and then their bytes. Resources and variants have no meaning in another process and are refused by the sender.
//!
//! [`Decoder`] takes a stream apart as it comes. Nothing is allocated on the word of a header before the header is
//! checked against the limits, memory is taken as bytes really come (an eighth of a tensor before its buffer is), and
//! from then on they go from the stream straight into the aligned buffer.
#![forbid(unsafe_code)]

mod archive;
mod arriving;
mod decode;
pub(crate) mod encode;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod intake;
mod tensor;
#[cfg(test)]
mod tests;

use actorflow_core::{Code, Error, Result};

use crate::message::{Message, Parcel};

pub use arriving::Arriving;
pub use decode::Decoder;
pub use encode::Encoded;
pub use intake::{Intake, Ledger};
pub use tensor::sendable;

/// The largest header in bytes: of a frame, and of a message within one.
pub const MAX_HEADER: usize = 64 << 10;

/// The largest number of tensors in a message.
pub const MAX_TENSORS: usize = 1024;

/// The largest rank of a tensor on the wire.
pub const MAX_RANK: usize = 16;

/// The version of this layout and of the protocol; both sides must have the same.
pub const VERSION: u8 = 3;

/// The length of the prefix in bytes.
pub const PREFIX: usize = 24;

const MAGIC: [u8; 4] = *b"aflo";

/// The frame counts against its receiver's window until it has been delivered.
const CREDITED: u16 = 1;

/// The answer is an error.
const FAILED: u16 = 2;

/// The parcel is a dead one.
const DEAD: u16 = 4;

/// Who sent a frame, and under which epoch of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// The cluster's epoch as the sender knows it; 0 for none.
    pub epoch: u64,
    /// The sender's incarnation.
    pub incarnation: u64,
}

/// A frame, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Who sent it.
    pub stamp: Stamp,
    /// Whether it counts against the receiver's window.
    pub credited: bool,
    /// What it is.
    pub body: Body,
}

/// What a frame is.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// The first frame in either direction.
    Hello(Hello),
    /// A request.
    Request {
        /// Chosen by the sender; repeated by the answer.
        id: u64,
        /// What is asked.
        message: Message,
    },
    /// The answer to a request.
    Answer {
        /// The request's.
        id: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// A message without an answer.
    Notice(Message),
    /// A tensor for an edge.
    Parcel(Parcel),
    /// Room at the receiver.
    Credit(Credit),
    /// A word to show that the sender is there.
    Ping {
        /// For how many milliseconds the sender has heard nothing of the receiver.
        silence: u64,
    },
}

/// Who opens a connection, and what it accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The cluster.
    pub cluster: String,
    /// The sender's subject, as in its certificate.
    pub subject: String,
    /// Bytes of a message's own header that the sender accepts.
    pub header: u64,
    /// Bytes of a message that the sender accepts.
    pub message: u64,
    /// Bytes of a tensor that the sender accepts.
    pub tensor: u64,
    /// The window towards the sender, in bytes.
    pub window_bytes: u64,
    /// The window towards the sender, in frames.
    pub window: u64,
    /// Requests without an answer that the sender accepts.
    pub pending_requests: u64,
    /// Further connections, for large tensors, that the sender accepts beside this one.
    pub stripes: u64,
    /// This is such a further connection.
    pub stripe: bool,
}

/// How much of what was sent under the window has been delivered since the connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Frames.
    pub frames: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

/// An answer, or the error that takes its place.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The answer.
    Done(Message),
    /// The error.
    Failed(Failure),
}

impl Outcome {
    /// The outcome that a result is.
    pub fn of(result: Result<Message>) -> Outcome {
        match result {
            Ok(message) => Outcome::Done(message),
            Err(error) => Outcome::Failed(Failure::of(&error)),
        }
    }

    /// The result that the outcome was.
    pub fn into_result(self) -> Result<Message> {
        match self {
            Outcome::Done(message) => Ok(message),
            Outcome::Failed(failure) => Err(failure.into_error()),
        }
    }
}

/// An error as it crosses the wire: texts are cut where they would not fit a header.
#[derive(Debug, Clone, PartialEq, Eq, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Failure {
    /// The number of the code, gRPC's.
    pub code: u8,
    /// Whether it follows from another error.
    pub derived: bool,
    /// The message.
    pub message: String,
    /// The graph node, or empty.
    pub node: String,
    /// Its operation, or empty.
    pub op: String,
    /// The device, or empty.
    pub device: String,
    /// The task, or empty.
    pub task: String,
}

/// The canonical codes by gRPC's numbers.
const CODES: [(Code, u8); 16] = [
    (Code::Cancelled, 1),
    (Code::Unknown, 2),
    (Code::InvalidArgument, 3),
    (Code::DeadlineExceeded, 4),
    (Code::NotFound, 5),
    (Code::AlreadyExists, 6),
    (Code::PermissionDenied, 7),
    (Code::ResourceExhausted, 8),
    (Code::FailedPrecondition, 9),
    (Code::Aborted, 10),
    (Code::OutOfRange, 11),
    (Code::Unimplemented, 12),
    (Code::Internal, 13),
    (Code::Unavailable, 14),
    (Code::DataLoss, 15),
    (Code::Unauthenticated, 16),
];

/// The number of a code, gRPC's.
pub(crate) fn code_number(code: Code) -> u8 {
    CODES.iter().find(|(c, _)| *c == code).map_or(2, |(_, n)| *n)
}

/// The code of a number; unknown ones are `UNKNOWN`.
pub(crate) fn code_of(number: u64) -> Code {
    let found = CODES.iter().find(|(_, n)| u64::from(*n) == number);
    found.map_or(Code::Unknown, |(code, _)| *code)
}

/// The longest prefix of `text` with at most `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Failure {
    /// What crosses the wire of `error`.
    pub fn of(error: &Error) -> Failure {
        let short = |text: Option<&str>| cut(text.unwrap_or(""), 4 << 10).to_owned();
        Failure {
            code: code_number(error.code()),
            derived: error.is_derived(),
            message: cut(error.message(), 32 << 10).to_owned(),
            node: short(error.node()),
            op: short(error.op()),
            device: short(error.device()),
            task: short(error.task()),
        }
    }

    /// The error on this side.
    pub fn into_error(self) -> Error {
        let mut error = Error::new(code_of(self.code.into()), self.message);
        if !self.node.is_empty() {
            error = error.at_node(&self.node, &self.op);
        }
        if !self.device.is_empty() {
            error = error.on_device(&self.device);
        }
        if !self.task.is_empty() {
            error = error.in_task(&self.task);
        }
        if self.derived { error.derived() } else { error }
    }
}

/// Why a stream cannot be read on. Its connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is not made of frames.
    Malformed(String),
    /// A frame exceeds a limit.
    Oversized(String),
    /// There is no memory for a tensor.
    Exhausted(String),
}

impl Fault {
    /// The fault as an error.
    pub fn to_error(&self) -> Error {
        match self {
            Fault::Malformed(what) => Error::invalid(format!("malformed frame: {what}")),
            Fault::Oversized(what) => Error::exhausted(format!("oversized frame: {what}")),
            Fault::Exhausted(what) => Error::exhausted(what.clone()),
        }
    }
}

fn malformed(what: impl Into<String>) -> Fault {
    Fault::Malformed(what.into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Hello = 1,
    Request = 2,
    Answer = 3,
    Notice = 4,
    Parcel = 5,
    Credit = 6,
    Ping = 7,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix {
    kind: Kind,
    flags: u16,
    header: usize,
    payload: u64,
}

impl Prefix {
    fn write(&self) -> [u8; PREFIX] {
        let mut out = [0; PREFIX];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&(self.header as u32).to_le_bytes());
        out[16..].copy_from_slice(&self.payload.to_le_bytes());
        out
    }

    fn read(bytes: &[u8; PREFIX]) -> Result<Prefix, Fault> {
        let [
            m0,
            m1,
            m2,
            m3,
            version,
            kind,
            f0,
            f1,
            h0,
            h1,
            h2,
            h3,
            z0,
            z1,
            z2,
            z3,
            payload @ ..,
        ] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(malformed("no magic number"));
        }
        if version != VERSION {
            return Err(malformed(format!(
                "protocol version {version}, this side has {VERSION}"
            )));
        }
        let kind = match kind {
            1 => Kind::Hello,
            2 => Kind::Request,
            3 => Kind::Answer,
            4 => Kind::Notice,
            5 => Kind::Parcel,
            6 => Kind::Credit,
            7 => Kind::Ping,
            other => return Err(malformed(format!("unknown kind {other}"))),
        };
        let allowed = match kind {
            Kind::Request | Kind::Notice => CREDITED,
            Kind::Answer => CREDITED | FAILED,
            Kind::Parcel => CREDITED | DEAD,
            Kind::Hello | Kind::Credit | Kind::Ping => 0,
        };
        let flags = u16::from_le_bytes([f0, f1]);
        if flags & !allowed != 0 || [z0, z1, z2, z3] != [0; 4] {
            return Err(malformed("reserved bits are set"));
        }
        let header = u32::from_le_bytes([h0, h1, h2, h3]) as usize;
        if header > MAX_HEADER {
            return Err(Fault::Oversized(format!(
                "a header of {header} bytes, at most {MAX_HEADER}"
            )));
        }
        Ok(Prefix {
            kind,
            flags,
            header,
            payload: u64::from_le_bytes(payload),
        })
    }
}
