//! A network in memory, for tests: the protocol's state machines of many nodes under one clock and one seed.
//!
//! Everything that happens is drawn from the seed: how long a frame takes, which stream overtakes which, when a
//! connection breaks. The same seed and the same calls give the same [trace](Network::trace), so that a failure found
//! with one seed out of thousands can be looked at again and again.
//!
//! It models what QUIC gives: streams are reliable and ordered, each on its own; a datagram that is lost makes a frame, and
//! those behind it, late; what is lost for good is a connection as a whole. Frames are encoded and decoded on their way. A
//! killed node says nothing, and its peers find out by their timers, or at once when it has been started again and does
//! not know their connections. A partition holds frames back until it is healed. A node that is [paused](Network::pause)
//! does nothing until it is resumed, and may have been [replaced](Network::add_run) by then. Frames of incarnations that
//! are over may turn up again on later connections ([`Weather::replay`]): the protocol must drop them.
//!
//! ```
//! use std::time::Duration;
//! use actorflow_transport::sim::{Behaviour, Event, Network, Node, Weather};
//! use actorflow_transport::Message;
//!
//! /// Answers every request with itself.
//! struct Echo;
//! impl Behaviour for Echo {
//!     fn on(&mut self, node: &mut Node<'_>, event: Event) {
//!         if let Event::Request { link, id, message } = event {
//!             node.answer(link, id, Ok(message));
//!         }
//!     }
//! }
//! /// Asks once.
//! struct Ask;
//! impl Behaviour for Ask {
//!     fn on(&mut self, node: &mut Node<'_>, event: Event) {
//!         if let Event::Connected { link, .. } = event {
//!             node.request(link, Message::new(1), Duration::from_secs(1), 7);
//!         }
//!     }
//! }
//!
//! let mut net = Network::new(1, Weather::default());
//! let server = net.add("task/ps/0", Box::new(Echo));
//! let worker = net.add("task/worker/0", Box::new(Ask));
//! net.connect(worker, server);
//! net.run_until(Duration::from_secs(2));
//! assert!(net.trace().iter().any(|t| t.what.contains("answered 7: ok")));
//! ```
#![forbid(unsafe_code)]

#[cfg(test)]
mod cluster;
mod network;
mod node;
mod random;
#[cfg(test)]
mod tests;

use std::time::Duration;

use actorflow_core::{Error, Result};

use crate::message::{Message, Parcel};
use crate::proto::Time;

pub use network::Network;
pub use node::Node;
pub use random::Random;

/// A node, numbered in the order in which they were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// A connection, numbered in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub usize);

/// What the network does to frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// The shortest time that a frame takes.
    pub quick: Duration,
    /// The longest time that a frame takes.
    pub slow: Duration,
    /// How many of a million frames are lost at first, and sent again after [`resent`](Self::resent).
    pub lost: u32,
    /// How long it takes to notice that a frame is lost.
    pub resent: Duration,
    /// How many of a million frames break their connection.
    pub breaks: u32,
    /// How many of a million frames bring one of an incarnation that is over back on the same path.
    pub replay: u32,
}

impl Default for Weather {
    /// Frames take 0.1 to 5 ms, and nothing is lost or breaks.
    fn default() -> Weather {
        Weather {
            quick: Duration::from_micros(100),
            slow: Duration::from_millis(5),
            lost: 0,
            resent: Duration::from_millis(30),
            breaks: 0,
            replay: 0,
        }
    }
}

/// What happens to a node.
#[derive(Debug)]
pub enum Event {
    /// The node has been started, or started again.
    Started,
    /// A connection is up.
    Connected {
        /// The connection.
        link: LinkId,
        /// Who is at its other end.
        peer: NodeId,
        /// Which run of it.
        incarnation: u64,
    },
    /// A connection is gone, whether it was up or not.
    Lost {
        /// The connection.
        link: LinkId,
        /// Why.
        why: Error,
    },
    /// A request, to be answered with [`Node::answer`].
    Request {
        /// The connection.
        link: LinkId,
        /// The request's number.
        id: u64,
        /// What is asked.
        message: Message,
    },
    /// A message without an answer.
    Notice {
        /// The connection.
        link: LinkId,
        /// The message.
        message: Message,
    },
    /// A tensor for an edge.
    Parcel {
        /// The connection.
        link: LinkId,
        /// The tensor.
        parcel: Parcel,
    },
    /// A request is over.
    Answered {
        /// As given to [`Node::request`].
        token: u64,
        /// The answer.
        result: Result<Message>,
    },
    /// A parcel has been taken for sending, or never will be.
    Sent {
        /// As given to [`Node::send`].
        token: u64,
        /// Which of the two.
        result: Result<()>,
    },
    /// A time asked for with [`Node::wake_at`] has come.
    Woken {
        /// As given there.
        token: u64,
    },
}

/// What a node does about what happens to it.
pub trait Behaviour {
    /// Something happens.
    fn on(&mut self, node: &mut Node<'_>, event: Event);
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// When.
    pub at: Time,
    /// To whom.
    pub node: NodeId,
    /// What.
    pub what: String,
}
