//! The endpoint: the protocol over QUIC, and the only place that names the QUIC library.
#![forbid(unsafe_code)]

mod admission;
mod config;
mod cork;
mod dial;
mod end;
mod link;
mod local;
mod peer;
mod reactor;
mod renewal;
mod senders;
mod shared;
mod socket;
mod state;
mod streams;
mod stripes;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actorflow_core::tensor::Pool;
use actorflow_core::{Error, Result};
use parking_lot::Mutex;

use self::config::Setup;
use self::dial::Waiter;
use self::reactor::Reactor;
use self::senders::Senders;
use self::shared::{Parts, Shared};
use self::socket::Socket;
use self::state::Wish;

use crate::counters::Counters;
use crate::identity::{Identity, Subject};
use crate::limits::{Limits, Timing};
use crate::message::{Message, Parcel};

pub use cork::{Cork, cork};
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
    /// ones. [`VISITOR`](crate::VISITOR) for an endpoint that only looks at its peers, beside the runs of its subject.
    pub incarnation: u64,
    /// The cluster's epoch; 0 while it is unknown, which is never stale.
    pub epoch: u64,
    /// What a peer may use; of the pool's budget at most what [`Limits::within`] says.
    pub limits: Limits,
    /// How long anything may take.
    pub timing: Timing,
    /// Threads of the endpoint: one receives and keeps the timers, any more send what is large while it does.
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

/// The most threads that send what is large; what one connection sends, one thread does at a time.
const MAX_HELPERS: usize = 16;

/// Called once with a connection's peer, or with why there is none.
pub type ConnectThen = Box<dyn FnOnce(Result<Peer>) + Send>;

/// A UDP socket that accepts connections of the cluster's members and makes them.
///
/// It has threads of its own, so that its owner needs no runtime. Dropping it closes it.
pub struct Endpoint {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    grace: Arc<Mutex<Duration>>,
}

impl Endpoint {
    /// Binds the socket and starts the endpoint's threads.
    ///
    /// # Errors
    /// Whatever the system says about the address; `INVALID_ARGUMENT` for an identity that TLS refuses.
    pub fn bind(options: EndpointOptions, handler: Arc<dyn Handler>) -> Result<Endpoint> {
        let pool = options.pool.unwrap_or_else(Pool::unbounded);
        let limits = Limits {
            header: options.limits.header.min(crate::frame::MAX_HEADER),
            ..options.limits.within(pool.stats().budget)
        };
        let helpers = options.threads.saturating_sub(1).min(MAX_HELPERS);
        let socket = Socket::bind(options.bind)?;
        let setup = Setup::new(options.identity, &limits, &options.timing, socket.buffer())?;
        let (poll, waker, registry) = reactor::poll()?;
        let server = setup.server(socket.local, None);
        let config = Arc::new(config::endpoint()?);
        let shared = Shared::new(Parts {
            endpoint: quinn_proto::Endpoint::new(config, Some(server), socket.discovers_mtu(), None),
            socket,
            setup,
            handler,
            pool,
            limits,
            timing: options.timing,
            incarnation: options.incarnation,
            epoch: options.epoch,
            waker,
            registry,
            helpers,
        });
        let grace = Arc::new(Mutex::new(Duration::ZERO));
        let reactor = Reactor::new(shared.clone(), poll, grace.clone())?;
        let mut threads = Senders::start(&shared.senders, helpers)?;
        let thread = std::thread::Builder::new()
            .name("actorflow-wire".to_owned())
            .spawn(move || reactor.run())
            .map_err(|e| {
                shared.senders.close();
                Error::from(e).context("cannot start the endpoint's thread")
            })?;
        threads.push(thread);
        Ok(Endpoint {
            shared,
            threads: Mutex::new(threads),
            grace,
        })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.socket.local
    }

    /// Connects to `addr` (`host:port`) and waits until the peer is known, at most until `deadline`. A live
    /// connection to the expected subject is used again.
    ///
    /// # Errors
    /// `UNAVAILABLE` if nobody answers there, `UNAUTHENTICATED` if the peer is not of the cluster or not the one
    /// expected, `ABORTED` if a later incarnation of this side is known there, `DEADLINE_EXCEEDED`;
    /// `FAILED_PRECONDITION` on a thread of an endpoint.
    pub fn connect(&self, addr: &str, expect: Option<&Subject>, deadline: Instant) -> Result<Peer> {
        peer::wait("a connection", deadline, |then| {
            self.connect_then(addr, expect, deadline, then);
        })
    }

    /// As [`connect`](Self::connect), without waiting; `then` may be called before this returns.
    pub fn connect_then(&self, addr: &str, expect: Option<&Subject>, deadline: Instant, then: ConnectThen) {
        dial::dial(&self.shared, addr, expect, Waiter::new(deadline, then));
    }

    /// The peers of all live connections.
    pub fn peers(&self) -> Vec<Peer> {
        self.shared.firsts().iter().filter_map(|l| l.peer()).collect()
    }

    /// What crossed and what was dropped, so far.
    pub fn counters(&self) -> Counters {
        self.shared.totals.read()
    }

    /// Uses a renewed certificate, or another list of revocations, from now on. Connections to peers whose certificates
    /// are revoked are closed. If the certificate is another one, a new connection is made to every peer, and the present
    /// ones, which the peers would close when the old certificate expires, end when nothing is pending on them.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it names another cluster or subject, or TLS refuses it.
    pub fn set_identity(&self, identity: Identity) -> Result<()> {
        let another = {
            let mut current = self.shared.setup.write();
            let (old, new) = (&current.identity, &identity);
            if old.cluster() != new.cluster() || old.subject() != new.subject() {
                return Err(Error::invalid(format!(
                    "the endpoint of {} in cluster {:?} cannot become {} in {:?}; bind another one",
                    old.subject(),
                    old.cluster(),
                    new.subject(),
                    new.cluster()
                )));
            }
            let another = old.serial() != new.serial();
            let (limits, timing) = (&self.shared.limits, &self.shared.timing);
            let mut setup = Setup::new(identity, limits, timing, self.shared.socket.buffer())?;
            setup.turn = current.turn + u64::from(another);
            *current = Arc::new(setup);
            another
        };
        renewal::end_revoked(&self.shared);
        if another {
            renewal::connect_anew(&self.shared);
        }
        Ok(())
    }

    /// Raises the cluster's epoch: frames of earlier ones are dropped from now on.
    pub fn set_epoch(&self, epoch: u64) {
        self.shared.epoch.fetch_max(epoch, Ordering::SeqCst);
        for link in self.shared.all_links() {
            link.wish(Wish::Epoch(epoch));
        }
    }

    /// Closes every connection and ends the threads. Waits at most `grace` until the peers have what was sent to them;
    /// then they are told. From a handler it does not wait.
    pub fn close(&self, grace: Duration) {
        *self.grace.lock() = grace;
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake();
        if reactor::is_this_thread() {
            return;
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // Nothing is to be done here about one that has panicked.
            let _ = thread.join();
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}
