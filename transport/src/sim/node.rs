//! What a node can do, and how what happens to it is written down.
#![forbid(unsafe_code)]

use actorflow_core::{Error, Result};

use super::network::Network;
use super::random::Random;
use super::{Event, LinkId, NodeId};
use crate::message::{Message, Parcel};
use crate::proto::{Connection, Time};

/// An event in a word, for the trace.
pub(super) fn describe(event: &Event) -> String {
    let outcome = |failed: Option<&Error>| failed.map_or_else(|| "ok".to_owned(), |e| e.code().to_string());
    match event {
        Event::Started => "started".to_owned(),
        Event::Connected {
            link,
            peer,
            incarnation,
        } => {
            format!("link {} up with node {} incarnation {incarnation}", link.0, peer.0)
        }
        Event::Lost { link, why } => format!("link {} lost: {why}", link.0),
        Event::Request { link, id, message } => format!("link {} request {id} kind {}", link.0, message.kind),
        Event::Notice { link, message } => format!("link {} notice kind {}", link.0, message.kind),
        Event::Parcel { link, parcel } => format!("link {} parcel {} tag {}", link.0, parcel.edge, parcel.tag),
        Event::Answered { token, result } => format!("answered {token}: {}", outcome(result.as_ref().err())),
        Event::Sent { token, result } => format!("sent {token}: {}", outcome(result.as_ref().err())),
        Event::Woken { token } => format!("woken {token}"),
    }
}

/// A node, while something happens to it: what it can do.
pub struct Node<'a> {
    pub(super) network: &'a mut Network,
    pub(super) id: NodeId,
}

impl Node<'_> {
    /// Which node it is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The present time.
    pub fn now(&self) -> Time {
        self.network.now()
    }

    /// Which run of the node this is.
    pub fn incarnation(&self) -> u64 {
        self.network.incarnation(self.id)
    }

    /// The node's subject.
    pub fn subject(&self) -> String {
        self.network.subject(self.id).to_owned()
    }

    /// The subject of another node.
    pub fn subject_of(&self, node: NodeId) -> String {
        self.network.subject(node).to_owned()
    }

    /// The network's source of random numbers.
    pub fn random(&mut self) -> &mut Random {
        self.network.random()
    }

    /// Raises the node's epoch.
    pub fn set_epoch(&mut self, epoch: u64) {
        for link in self.network.raise_epoch(self.id, epoch) {
            self.with(link, |proto, _| proto.set_epoch(epoch));
        }
    }

    /// Makes a connection.
    pub fn connect(&mut self, to: NodeId) -> LinkId {
        self.network.connect(self.id, to)
    }

    /// Asks to be woken.
    pub fn wake_at(&mut self, time: Time, token: u64) {
        self.network.wake_at(self.id, time, token);
    }

    /// Sends a request; the outcome is an [`Event::Answered`].
    pub fn request(&mut self, link: LinkId, message: Message, deadline: Time, token: u64) {
        self.with(link, |proto, now| proto.request(message, deadline, token, now));
    }

    /// Answers a request.
    pub fn answer(&mut self, link: LinkId, id: u64, result: Result<Message>) {
        self.with(link, |proto, now| proto.answer(id, result, now));
    }

    /// Sends a message without an answer.
    ///
    /// # Errors
    /// As [`Connection::notify`]; `NOT_FOUND` for a connection that is not this node's.
    pub fn notify(&mut self, link: LinkId, message: Message) -> Result<()> {
        let sent = self.with(link, |proto, now| proto.notify(message, now));
        sent.unwrap_or_else(|| Err(Error::not_found(format!("node {} has no link {}", self.id.0, link.0))))
    }

    /// Sends a tensor; the outcome is an [`Event::Sent`], if there is a token.
    pub fn send(&mut self, link: LinkId, parcel: Parcel, token: Option<u64>) {
        self.with(link, |proto, now| proto.send(parcel, token, now));
    }

    /// Sends a tensor if it can leave at once; else it comes back, to be sent with a token. Without the link, too.
    pub fn offer(&mut self, link: LinkId, parcel: Parcel) -> std::result::Result<(), Box<Parcel>> {
        let mut back = Some(parcel);
        let offered = self.with(link, |proto, now| back.take().map(|parcel| proto.offer(parcel, now)));
        match (offered.flatten(), back) {
            (Some(offered), _) => offered,
            (None, Some(parcel)) => Err(Box::new(parcel)),
            (None, None) => Ok(()),
        }
    }

    /// Bytes of what waits for room at the other end of a connection.
    pub fn parked_bytes(&mut self, link: LinkId) -> u64 {
        self.with(link, |proto, _| proto.parked_bytes()).unwrap_or(0)
    }

    /// Closes a connection.
    pub fn close(&mut self, link: LinkId, why: Error) {
        self.with(link, |proto, _| proto.close(why));
    }

    fn with<T>(&mut self, link: LinkId, act: impl FnOnce(&mut Connection<u64>, Time) -> T) -> Option<T> {
        self.network.with(link, self.id, act)
    }
}
