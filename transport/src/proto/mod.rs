//! The protocol of one connection, as a pure state machine: frames and the time go in, actions come out.
//!
//! A [`Connection`] has no sockets and no clock. Whoever drives it hands it decoded frames ([`Connection::receive`]),
//! its users' wishes ([`Connection::request`], [`Connection::send`], …) and the time, and carries out the
//! [`Action`]s that [`Connection::poll`] gives out: frames to put on a class of streams, deliveries to the user, the end
//! of the connection. So the same code runs over QUIC and in a simulated network.
//!
//! What it keeps:
//!
//! - **Hello.** The first frame in each direction names cluster, subject, incarnation, epoch and limits. Nothing else is
//!   read before it.
//! - **Fences.** Every frame carries its sender's incarnation and epoch. One of another incarnation, or of an epoch
//!   before this side's, is dropped and counted; a request of an old epoch is answered with `ABORTED`. A later
//!   incarnation of a subject closes the connections of earlier ones; a [`VISITOR`] has no part in that.
//! - **Requests** have deadlines and exactly one answer. What is pending when the connection is lost fails at once. Small
//!   ones take no room at their receiver; those that it is not known to have read have a bound in bytes at their sender.
//! - **Windows.** Parcels and large messages take room at their receiver until they are delivered there. Without room
//!   they are parked at the sender, in order; nobody waits on a thread. A sender that is told that it has to wait (see
//!   [`Connection::offer`]) waits with a continuation, so that what is parked is bounded by those who wait, and what nobody
//!   waits for by a limit. A receiver that takes
//!   nothing for [`Timing::stall`](crate::limits::Timing::stall) is lost.
//! - **Life.** A word after [`keep_alive`](crate::limits::Timing::keep_alive) of silence; the end after
//!   [`idle`](crate::limits::Timing::idle) without hearing anything. The word says for how long nothing was heard, so
//!   that each side knows when only what it sends is lost.
#![forbid(unsafe_code)]

mod connection;
mod fence;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod receive;
mod requests;
#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

use actorflow_core::{Error, Result};

use crate::frame::Frame;
use crate::limits::{Limits, Timing};
use crate::message::{Message, Parcel};

pub use connection::Connection;
pub use fence::{Fences, VISITOR, Verdict};

/// A point in time: since an origin that is the same in all calls on a connection.
pub type Time = Duration;

/// Payloads of at least this many bytes have a stream of their own, so that nothing small waits behind them.
/// At 2 GB/s, this many take 130 µs, a few round trips on loopback.
pub const BULK: u64 = 256 << 10;

/// The streams of a connection by what they carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// One ordered stream in each direction: hellos, messages, credit. It goes first.
    Control,
    /// One ordered stream in each direction for parcels below [`BULK`].
    Small,
    /// A stream for each large frame.
    Bulk,
}

/// What this side is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The cluster.
    pub cluster: String,
    /// The subject of this side's certificate.
    pub subject: String,
    /// Which run of it this is.
    pub incarnation: u64,
    /// The cluster's epoch, 0 for unknown.
    pub epoch: u64,
    /// Whether this side dials a further connection to a peer, for large tensors.
    pub stripe: bool,
    /// What the peer may use.
    pub limits: Limits,
    /// How long anything may take.
    pub timing: Timing,
}

/// What is to be done. `K` is a caller's continuation: whatever was passed with a request or parcel.
#[derive(Debug)]
pub enum Action<K> {
    /// Put a frame on a stream.
    Send {
        /// On which.
        class: Class,
        /// The frame.
        frame: Frame,
    },
    /// The peer's hello has come and is right. The side that did not dial calls [`Connection::welcome`], or closes.
    Connected {
        /// The peer's incarnation.
        incarnation: u64,
        /// The peer's epoch.
        epoch: u64,
        /// Whether it is a further connection of the peer, for large tensors.
        stripe: bool,
        /// How many of those the peer accepts.
        stripes: u64,
    },
    /// Hand a request up; [`Connection::answer`] takes the answer.
    Request {
        /// To be repeated by the answer.
        id: u64,
        /// What is asked.
        message: Message,
    },
    /// Hand a message up.
    Notice(Message),
    /// Hand a tensor up.
    Parcel(Parcel),
    /// A request is over.
    Answered(K, Result<Message>),
    /// A parcel has been taken for sending, or never will be.
    Sent(K, Result<()>),
    /// Close the connection, telling the peer why. Nothing follows but the failures of what was pending.
    Close(Error),
}
