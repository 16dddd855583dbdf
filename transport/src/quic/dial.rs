//! Making connections.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use actorflow_core::{Error, Result};

use super::ConnectThen;
use super::cork;
use super::link::{Beginning, Connected, Link};
use super::peer::Peer;
use super::shared::Shared;
use crate::identity::Subject;
use crate::proto::Time;

/// The name in the TLS handshake. It says nothing: who the peer is, its certificate's subject says.
const SERVER_NAME: &str = "actorflow";

/// Somebody who waits for a connection.
pub(super) struct Waiter {
    deadline: Instant,
    then: ConnectThen,
    /// Where to dial whom if the connection that it waits for, which the peer makes, comes to nothing.
    otherwise: Option<(String, Subject)>,
}

impl Waiter {
    pub(super) fn new(deadline: Instant, then: ConnectThen) -> Waiter {
        Waiter {
            deadline,
            then,
            otherwise: None,
        }
    }

    pub(super) fn done(self, result: Connected) {
        (self.then)(result);
    }

    /// The connection that it waits for is up: this is the peer, unless it is one that only looks, and makes it by itself.
    pub(super) fn up(self, shared: Option<Arc<Shared>>, peer: &Peer) {
        if self.otherwise.is_some() && peer.info().is_visitor() {
            return self.failed(shared, Error::unavailable("the peer only looks"));
        }
        self.done(Ok(peer.clone()));
    }

    /// The connection that it waits for is over.
    pub(super) fn failed(mut self, shared: Option<Arc<Shared>>, error: Error) {
        match (self.otherwise.take(), shared) {
            (Some((addr, subject)), Some(shared)) => dial(&shared, &addr, Some(&subject), self),
            _ => self.done(Err(error)),
        }
    }

    pub(super) fn expired(self, addr: SocketAddr) {
        (self.then)(Err(late(addr)));
    }
}

fn late(addr: impl std::fmt::Display) -> Error {
    Error::deadline(format!(
        "no connection to {addr} in time; is the task running, and does UDP get there?"
    ))
}

/// Everybody who waits for one connection.
#[derive(Default)]
pub(super) struct Waiters(Vec<Waiter>);

impl Waiters {
    pub(super) fn add(&mut self, waiter: Waiter) {
        self.0.push(waiter);
    }

    pub(super) fn take(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.0)
    }

    /// Those whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Waiter> {
        self.0.extract_if(.., |w| w.deadline <= now).collect()
    }

    /// The earliest deadline.
    pub(super) fn next(&self, shared: &Shared) -> Time {
        let first = self.0.iter().map(|w| w.deadline).min();
        first.map_or(Time::MAX, |d| shared.time(d))
    }
}

/// The addresses of `host:port`.
fn resolve(addr: &str) -> Result<Vec<SocketAddr>> {
    let cure = "write host:port, such as 10.0.0.2:7000";
    let found = addr.to_socket_addrs();
    let found: Vec<_> = found
        .map_err(|e| Error::unavailable(format!("cannot find {addr:?}: {e}; {cure}")))?
        .collect();
    if found.is_empty() {
        return Err(Error::unavailable(format!("{addr:?} has no address; {cure}")));
    }
    Ok(found)
}

/// Connects to `addr`, or finds a connection that will do.
pub(super) fn dial(shared: &Arc<Shared>, addr: &str, expect: Option<&Subject>, mut waiter: Waiter) {
    if let Some(subject) = expect {
        let live = shared
            .firsts()
            .into_iter()
            .find(|l| l.info().is_some_and(|i| i.subject == *subject && !i.is_visitor()));
        if let Some(peer) = live.and_then(|l| l.peer()) {
            return waiter.done(Ok(peer));
        }
    }
    if waiter.deadline <= Instant::now() {
        return waiter.done(Err(late(addr)));
    }
    // It is making a connection itself, which is about to be announced.
    let coming = |subject: &Subject| {
        let links = shared.all_links().into_iter();
        let mut theirs = links.filter(|l| !l.dialed && l.is_young() && !l.stripes.is_one());
        theirs.find(|l| l.certificate().is_some_and(|c| c.is_of(subject)))
    };
    if let Some(subject) = expect
        && let Some(link) = coming(subject)
    {
        waiter.otherwise = Some((addr.to_owned(), subject.clone()));
        return join(&link, waiter);
    }
    if let Ok(at) = addr.parse::<SocketAddr>() {
        return open(shared, at, expect, waiter);
    }
    // Looking up a name blocks.
    let (shared, addr, expect) = (shared.clone(), addr.to_owned(), expect.cloned());
    let name = std::thread::Builder::new().name("actorflow-names".to_owned());
    let slot = Arc::new(parking_lot::Mutex::new(Some(waiter)));
    let inside = slot.clone();
    let spawned = name.spawn(move || {
        let Some(waiter) = inside.lock().take() else { return };
        let v6 = shared.socket.local.is_ipv6();
        match resolve(&addr) {
            Ok(found) => {
                let usable = found.iter().find(|a| v6 || a.is_ipv4()).or(found.first());
                match usable {
                    Some(at) => open(&shared, *at, expect.as_ref(), waiter),
                    None => waiter.done(Err(late(&addr))),
                }
            }
            Err(error) => waiter.done(Err(error)),
        }
    });
    if let Err(error) = spawned
        && let Some(waiter) = slot.lock().take()
    {
        waiter.done(Err(
            Error::from(error).context("cannot start a thread to look up a name")
        ));
    }
}

/// An address in the family of the socket.
fn in_family(at: SocketAddr, local: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(v4) if local.is_ipv6() => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        other => other,
    }
}

fn open(shared: &Arc<Shared>, at: SocketAddr, expect: Option<&Subject>, waiter: Waiter) {
    let at = in_family(at, shared.socket.local);
    let under_way = shared
        .all_links()
        .into_iter()
        .filter(|l| l.dialed && !l.stripes.is_one() && l.is_usable())
        .find(|l| l.addr == at && l.expect.as_ref() == expect);
    if let Some(link) = under_way {
        return join(&link, waiter);
    }
    begin(shared, at, expect, waiter, None);
}

/// Makes a connection, whatever others there are: a further one for large parcels, if there is a `first` one.
pub(super) fn begin(
    shared: &Arc<Shared>,
    at: SocketAddr,
    expect: Option<&Subject>,
    waiter: Waiter,
    first: Option<&Arc<Link>>,
) {
    let now = Instant::now();
    if shared.closing.load(Ordering::SeqCst) {
        return waiter.done(Err(Error::cancelled("the endpoint is closed")));
    }
    let setup = shared.setup.read().clone();
    let config = setup.client(at);
    let begun = {
        let mut endpoint = shared.endpoint.lock();
        if endpoint.open_connections() >= shared.limits.connections {
            Err(Error::exhausted(format!(
                "{} connections are open, no more are allowed",
                shared.limits.connections
            )))
        } else {
            match endpoint.connect(now, config, at, SERVER_NAME) {
                Ok((handle, quic)) => {
                    let beginning = Beginning {
                        handle,
                        quic,
                        turn: setup.turn,
                        dialed: true,
                        expect: expect.cloned(),
                        first: first.cloned(),
                    };
                    Ok(admit(shared, beginning, now))
                }
                Err(e) => Err(Error::unavailable(format!("cannot connect to {at}: {e}"))),
            }
        }
    };
    match begun {
        Ok(link) => {
            link.waiters.lock().add(waiter);
            cork_and_flush(&link);
            if shared.closing.load(Ordering::SeqCst) {
                // It may have been registered after the endpoint closed all connections.
                link.shut(true);
            }
        }
        Err(error) => waiter.done(Err(error)),
    }
}

/// Registers a connection that begins; with the endpoint locked, so that nothing comes for it before.
pub(super) fn admit(shared: &Arc<Shared>, beginning: Beginning, now: Instant) -> Arc<Link> {
    let handle = beginning.handle;
    let link = Link::new(shared, beginning, Waiters::default(), now);
    shared.links.write().insert(handle, link.clone());
    link
}

/// Waits for a connection that is being made.
fn join(link: &Arc<Link>, waiter: Waiter) {
    link.waiters.lock().add(waiter);
    // It may have come up, or gone, before the waiter was added.
    settle(link);
    cork_and_flush(link);
}

/// Tells those who wait for a link that is up or over already.
fn settle(link: &Arc<Link>) {
    let peer = link.peer();
    if !link.is_over() && peer.is_none() {
        return;
    }
    let waiters = link.waiters.lock().take();
    for waiter in waiters {
        match &peer {
            Some(peer) if !link.is_over() => waiter.up(link.shared(), peer),
            _ => {
                let lost = format!("the connection to {} was lost", link.addr);
                waiter.failed(link.shared(), Error::unavailable(lost));
            }
        }
    }
}

fn cork_and_flush(link: &Arc<Link>) {
    let _cork = cork::cork();
    cork::mark(link);
}
