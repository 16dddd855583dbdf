//! The other end of a connection, and answers to its requests.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Instant;

use actorflow_core::{Error, Result};

use crate::identity::Subject;
use crate::message::{Message, Parcel};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// The subject of its certificate.
    pub subject: Subject,
    /// Which run of it this is.
    pub incarnation: u64,
    /// Its UDP address.
    pub addr: SocketAddr,
}

/// Called once with the answer to a request, or with why there is none.
pub type AnswerThen = Box<dyn FnOnce(Result<Message>) + Send>;

/// Called once when a parcel has been taken for sending, or with why it never will be.
pub type SentThen = Box<dyn FnOnce(Result<()>) + Send>;

fn unimplemented<T>() -> Result<T> {
    Err(Error::unimplemented("the endpoint is not built in this version"))
}

/// The other end of a connection. Clones are the same connection.
#[derive(Clone)]
pub struct Peer {
    info: PeerInfo,
}

impl Peer {
    /// Who it is.
    pub fn info(&self) -> &PeerInfo {
        &self.info
    }

    /// Sends a request; `then` is called exactly once, with the answer, with the peer's error, or with
    /// `DEADLINE_EXCEEDED` or `UNAVAILABLE`. Never blocks.
    pub fn request(&self, message: Message, deadline: Instant, then: AnswerThen) {
        let _ = (message, deadline);
        then(unimplemented());
    }

    /// Sends a request and waits for its answer; not for the endpoint's own threads.
    ///
    /// # Errors
    /// As passed to `then` of [`request`](Self::request).
    pub fn call(&self, message: Message, deadline: Instant) -> Result<Message> {
        let _ = (message, deadline);
        unimplemented()
    }

    /// Sends a message without an answer.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the connection is lost, `INVALID_ARGUMENT` if the message cannot be sent.
    pub fn notify(&self, message: Message) -> Result<()> {
        let _ = message;
        unimplemented()
    }

    /// Sends a tensor to an edge. Never blocks: without room at the receiver the parcel waits, and `then` is called
    /// when it has been taken for sending.
    pub fn send(&self, parcel: Parcel, then: Option<SentThen>) {
        let _ = parcel;
        if let Some(then) = then {
            then(unimplemented());
        }
    }

    /// Whether the connection is up.
    pub fn is_alive(&self) -> bool {
        false
    }

    /// Closes the connection, telling the peer why.
    pub fn close(&self, why: &str) {
        let _ = why;
    }
}

/// The way to answer one request, from any thread. Dropping it answers `INTERNAL`.
pub struct Reply {}

impl Reply {
    /// Answers.
    pub fn send(self, answer: Result<Message>) {
        let _ = answer;
    }
}
