//! The endpoint: the protocol over QUIC, and the only place that names the QUIC library.
#![forbid(unsafe_code)]

mod peer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_core::tensor::Pool;
use actorflow_core::{Error, Result};

use crate::counters::Counters;
use crate::identity::{Identity, Subject};
use crate::limits::{Limits, Timing};
use crate::message::{Message, Parcel};

pub use peer::{AnswerThen, Peer, PeerInfo, Reply, SentThen};

/// What an endpoint tells its owner. Called on the endpoint's own threads, so it must not block; for one peer, calls
/// come one after the other, in the order in which things arrived on their stream.
pub trait Handler: Send + Sync + 'static {
    /// A connection is up and its peer known. Two that dial each other at the same time have two connections, and
    /// each is announced.
    fn connected(&self, peer: &Peer);
    /// A connection that was announced is gone; everything pending on it has failed.
    fn lost(&self, peer: &Peer, why: &Error);
    /// A request, to be answered through `reply`, now or later, from any thread.
    fn request(&self, peer: &Peer, message: Message, reply: Reply);
    /// A message without an answer.
    fn notice(&self, peer: &Peer, message: Message);
    /// A tensor for an edge.
    fn parcel(&self, peer: &Peer, parcel: Parcel);
}

/// What an endpoint is made of.
pub struct EndpointOptions {
    /// The UDP address to bind; port 0 picks one.
    pub bind: SocketAddr,
    /// Who this endpoint is.
    pub identity: Identity,
    /// Which run of the task this is: larger than that of every earlier one. A peer that has seen it refuses smaller
    /// ones.
    pub incarnation: u64,
    /// The cluster's epoch; 0 while it is unknown, which is never stale.
    pub epoch: u64,
    /// What a peer may use.
    pub limits: Limits,
    /// How long anything may take.
    pub timing: Timing,
    /// Threads of the endpoint.
    pub threads: usize,
    /// Where the buffers of arriving tensors come from; the endpoint's own pool if there is none.
    pub pool: Option<Arc<Pool>>,
}

impl EndpointOptions {
    /// Default limits and timing, one thread, epoch 0, and the time of day as incarnation, which grows from one start
    /// of a task to the next.
    pub fn new(bind: SocketAddr, identity: Identity) -> EndpointOptions {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        EndpointOptions {
            bind,
            identity,
            incarnation: since.map_or(1, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
            epoch: 0,
            limits: Limits::default(),
            timing: Timing::default(),
            threads: 1,
            pool: None,
        }
    }
}

/// Called once with a connection's peer, or with why there is none.
pub type ConnectThen = Box<dyn FnOnce(Result<Peer>) + Send>;

/// A UDP socket that accepts connections of the cluster's members and makes them.
pub struct Endpoint {}

fn unimplemented<T>() -> Result<T> {
    Err(Error::unimplemented("the endpoint is not built in this version"))
}

impl Endpoint {
    /// Binds the socket and starts the endpoint's threads.
    ///
    /// # Errors
    /// Whatever the system says about the address; `INVALID_ARGUMENT` for an identity that TLS refuses.
    pub fn bind(options: EndpointOptions, handler: Arc<dyn Handler>) -> Result<Endpoint> {
        let _ = (options, handler);
        unimplemented()
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 0))
    }

    /// Connects to `addr` (`host:port`) and waits until the peer is known, at most until `deadline`. A live
    /// connection to the expected subject is used again.
    ///
    /// # Errors
    /// `UNAVAILABLE` if nobody answers there, `UNAUTHENTICATED` if the peer is not of the cluster or not the one
    /// expected, `DEADLINE_EXCEEDED`.
    pub fn connect(&self, addr: &str, expect: Option<&Subject>, deadline: Instant) -> Result<Peer> {
        let _ = (addr, expect, deadline);
        unimplemented()
    }

    /// As [`connect`](Self::connect), without waiting.
    pub fn connect_then(&self, addr: &str, expect: Option<&Subject>, deadline: Instant, then: ConnectThen) {
        let _ = (addr, expect, deadline);
        then(unimplemented());
    }

    /// The peers of all live connections.
    pub fn peers(&self) -> Vec<Peer> {
        Vec::new()
    }

    /// What crossed and what was dropped, so far.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// Uses a renewed certificate for handshakes from now on; connections that are up stay.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it names another cluster or subject, or TLS refuses it.
    pub fn set_identity(&self, identity: Identity) -> Result<()> {
        let _ = identity;
        unimplemented()
    }

    /// Raises the cluster's epoch: frames of earlier ones are dropped from now on.
    pub fn set_epoch(&self, epoch: u64) {
        let _ = epoch;
    }

    /// Closes every connection, telling the peers, and ends the threads; waits at most `grace` for the peers to hear it.
    pub fn close(&self, grace: Duration) {
        let _ = grace;
    }
}
