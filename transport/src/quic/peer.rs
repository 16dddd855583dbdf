//! The other end of a connection, and answers to its requests.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use actorflow_core::{Error, Result};

use super::link::Link;
use super::reactor;
use super::state::Wish;
use super::stripes;
use crate::frame::encode::check_message;
use crate::frame::sendable;
use crate::identity::Subject;
use crate::message::{Message, Parcel};
use crate::proto::VISITOR;

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

impl PeerInfo {
    /// Whether it only looks: see [`VISITOR`].
    pub fn is_visitor(&self) -> bool {
        self.incarnation == VISITOR
    }
}

/// Called once with the answer to a request, or with why there is none.
pub type AnswerThen = Box<dyn FnOnce(Result<Message>) + Send>;

/// Called once when a parcel has been taken for sending, or with why it never will be.
pub type SentThen = Box<dyn FnOnce(Result<()>) + Send>;

/// Beyond a deadline, how long a blocking call waits for the endpoint to say so.
const GRACE: Duration = Duration::from_secs(5);

/// Waits for what `start` passes to its continuation.
pub(super) fn wait<T: Send + 'static>(
    what: &str,
    deadline: Instant,
    start: impl FnOnce(Box<dyn FnOnce(Result<T>) + Send>),
) -> Result<T> {
    if reactor::is_this_thread() {
        return Err(Error::failed_precondition(format!(
            "{what} would wait on the endpoint's own thread, which has to go on; pass a continuation instead"
        )));
    }
    let (tell, told) = sync_channel(1);
    start(Box::new(move |result| {
        // Nobody listens any more only after the wait below has given up.
        let _ = tell.send(result);
    }));
    let patience = deadline.saturating_duration_since(Instant::now()).saturating_add(GRACE);
    told.recv_timeout(patience)
        .unwrap_or_else(|_| Err(Error::deadline(format!("{what} got no outcome from its endpoint"))))
}

/// The other end of a connection. Clones are the same connection.
#[derive(Clone)]
pub struct Peer {
    link: Arc<Link>,
    info: Arc<PeerInfo>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = &self.info;
        write!(f, "{} (incarnation {}) at {}", i.subject, i.incarnation, i.addr)
    }
}

/// Whether both are the same connection.
impl PartialEq for Peer {
    fn eq(&self, other: &Peer) -> bool {
        Arc::ptr_eq(&self.link, &other.link)
    }
}

impl Peer {
    pub(super) fn new(link: Arc<Link>, info: Arc<PeerInfo>) -> Peer {
        Peer { link, info }
    }

    /// Who it is.
    pub fn info(&self) -> &PeerInfo {
        &self.info
    }

    /// Sends a request; `then` is called exactly once, with the answer, with the peer's error, or with
    /// `DEADLINE_EXCEEDED` or `UNAVAILABLE`. Never blocks; `then` may be called before this returns.
    pub fn request(&self, message: Message, deadline: Instant, then: AnswerThen) {
        let deadline = self.link.time(deadline);
        self.link.wish(Wish::Request(message, deadline, then));
    }

    /// Sends a request and waits for its answer; not for the endpoint's own threads.
    ///
    /// # Errors
    /// As passed to `then` of [`request`](Self::request); `FAILED_PRECONDITION` on a thread of the endpoint.
    pub fn call(&self, message: Message, deadline: Instant) -> Result<Message> {
        let what = "a call of a peer";
        wait(what, deadline, |then| self.request(message, deadline, then))
    }

    /// Sends a message without an answer. Messages below [`BULK`](crate::proto::BULK) arrive in the order in which they
    /// were sent; larger ones have streams of their own and may be overtaken.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the connection is lost, `INVALID_ARGUMENT` if the message cannot be sent to anybody. If the
    /// peer does not accept one of its size, the connection is closed, so that nobody waits for it in vain.
    pub fn notify(&self, message: Message) -> Result<()> {
        if !self.is_alive() {
            let gone = Error::unavailable(format!("{self:?} is not connected any more"));
            return Err(gone.in_task(&self.info.subject.to_string()));
        }
        check_message(&message, u64::MAX, u64::MAX, u64::MAX)?;
        self.link.wish(Wish::Notice(message));
        Ok(())
    }

    /// Sends a tensor to an edge. Never blocks: without room at the receiver the parcel waits, and `then` is called
    /// when it has been taken for sending, which may be before this returns. Without `then`, a parcel that can never
    /// be sent (a resource, say) closes the connection, so that nobody waits for it in vain, and so does one beyond
    /// [`Limits::parked`](crate::Limits::parked): without it, send what is bounded, or [offer](Self::offer) it.
    pub fn send(&self, parcel: Parcel, then: Option<SentThen>) {
        let other = stripes::carrier(&self.link, parcel.size());
        other.as_ref().unwrap_or(&self.link).wish(Wish::Parcel(parcel, then));
    }

    /// Sends a tensor to an edge without a continuation, if it need not wait: for small ones, of which a step may have many.
    /// Never blocks.
    ///
    /// # Errors
    /// The parcel comes back if something waits already for room at the receiver or to be handed to the network, if it can
    /// be sent to nobody, or if the connection is gone. [Send](Self::send) it then with a continuation, and produce no more
    /// before that is called: so a slow receiver slows down its senders, and neither memory nor tensors are lost to it.
    pub fn offer(&self, parcel: Parcel) -> std::result::Result<(), Box<Parcel>> {
        let sound = parcel.value.as_ref().is_none_or(|t| sendable(t).is_ok());
        if !sound || self.link.is_crowded() || !self.is_alive() {
            return Err(Box::new(parcel));
        }
        self.send(parcel, None);
        Ok(())
    }

    /// Whether the connection is up.
    pub fn is_alive(&self) -> bool {
        self.link.is_up()
    }

    /// When the connection ended, if it has.
    pub fn ended_at(&self) -> Option<Instant> {
        self.link.ended_at()
    }

    /// Whether nothing has come from the peer for more than half of [`Timing::idle`](crate::Timing::idle), now or when
    /// the connection ended. A peer that is there says a word every [`Timing::keep_alive`](crate::Timing::keep_alive).
    pub fn is_silent(&self) -> bool {
        self.link.is_silent()
    }

    /// Whether the peer says that it has heard nothing of this side for more than half of
    /// [`Timing::idle`](crate::Timing::idle): what goes to it does not arrive, though what comes from it does.
    pub fn is_deaf(&self) -> bool {
        self.link.is_deaf()
    }

    /// Whether the connection ended because another one has taken its place (a side has renewed its certificate) and
    /// nothing was pending on it.
    pub fn was_replaced(&self) -> bool {
        self.link.was_replaced()
    }

    /// Whether what is sent goes through memory that is shared with the peer, which is on the same machine.
    pub fn shares_memory(&self) -> bool {
        self.link.shares()
    }

    /// Closes the connection, telling the peer why.
    pub fn close(&self, why: &str) {
        self.give_up(Error::cancelled(why));
    }

    /// Closes the connection to a peer that somebody else knows to be gone; what is pending on it fails with `why`.
    pub fn give_up(&self, why: Error) {
        self.link.wish(Wish::Close(why));
    }
}

/// The way to answer one request, from any thread. Dropping it answers `INTERNAL`.
pub struct Reply {
    link: Arc<Link>,
    id: u64,
    answered: bool,
}

impl Reply {
    pub(super) fn new(link: Arc<Link>, id: u64) -> Reply {
        Reply {
            link,
            id,
            answered: false,
        }
    }

    /// Answers. Never blocks; if the connection is gone, the answer is dropped.
    pub fn send(mut self, answer: Result<Message>) {
        self.answered = true;
        self.link.wish(Wish::Answer(self.id, answer));
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({})", self.id)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.answered {
            let error = Error::internal("the request was dropped without an answer");
            self.link.wish(Wish::Answer(self.id, Err(error)));
        }
    }
}
