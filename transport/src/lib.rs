//! How a tensor crosses processes: frames, a protocol, and its endpoint over QUIC with mutual TLS.
//!
//! Layers, each using only those above it:
//!
//! - [`message`], [`limits`], [`counters`], [`header`]: what is sent, what a peer may use, what is counted
//! - [`identity`]: certificates and subjects
//! - [`frame`]: how messages and tensors are laid out in a stream
//! - [`proto`]: one connection as a pure state machine, without sockets and without a clock
//! - `lane`: memory that the two ends of a connection share, if they are on one machine
//! - [`sim`]: many of these machines in one simulated network, for tests
//! - [`quic`]: the endpoint; the only place that names the QUIC library
//!
//! Depends on `actorflow-core` alone: graphs, kernels and actors are unknown here, and a tensor's destination is an edge
//! number that both sides agreed on. There is no plaintext mode.
pub mod counters;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod header;
pub mod identity;
mod lane;
pub mod limits;
pub mod message;
pub mod proto;
pub mod quic;
pub mod sim;

pub use counters::Counters;
pub use identity::{Identity, Subject};
pub use limits::{Limits, Timing};
pub use message::{Message, Parcel};
pub use proto::VISITOR;
pub use quic::{Cork, Endpoint, EndpointOptions, Handler, Peer, PeerInfo, Reply, cork};
