//! The thread of an endpoint: it receives, keeps the timers and sends what users' threads leave to it.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actorflow_core::{Error, Result};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use parking_lot::Mutex;
use quinn_proto::{ConnectionHandle, DatagramEvent, Incoming, Transmit};

use super::admission::{self, Admission};
use super::cork;
use super::dial::admit;
use super::link::{Beginning, Link};
use super::shared::{Shared, nanos};
use super::socket::{BATCH, Datagram, Inbox};
use crate::counters::Totals;
use crate::proto::Time;

/// Batches of datagrams that are taken in before anything is sent, so that one acknowledgement answers them together.
const ROUNDS: usize = 4;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);
/// From here on, the bells of lanes by the numbers of their connections.
const BELLS: usize = 2;

/// What a connection's bell is watched under.
pub(super) fn bell(handle: ConnectionHandle) -> Token {
    Token(BELLS.saturating_add(handle.0))
}

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is an endpoint's.
pub(super) fn is_this_thread() -> bool {
    HERE.get()
}

/// Makes this thread an endpoint's.
pub(super) fn enter() {
    HERE.set(true);
}

/// The system waits for whole milliseconds and rounds up, but QUIC paces what it sends in steps of fewer: for a connection
/// that is paced the wait is rounded down, and what is left of it passes in looking for datagrams. The others' timers may
/// be late by a millisecond, and nothing is to be gained from looking: it took 3 % of two busy cores in training.
fn whole_millis(wait: Duration, paced: bool) -> Duration {
    if !paced {
        return wait;
    }
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 && !wait.is_zero() {
        std::thread::yield_now();
    }
    Duration::from_millis(millis)
}

/// A timer: when, and of which connection.
type Timer = Reverse<(u64, ConnectionHandle)>;

pub(super) struct Reactor {
    shared: Arc<Shared>,
    poll: Poll,
    watched: UdpSocket,
    inbox: Inbox,
    timers: BinaryHeap<Timer>,
    /// Links that something has happened to.
    touched: Vec<Arc<Link>>,
    /// Whether the socket is watched for room to send.
    watching: bool,
    response: Vec<u8>,
    /// Until when the peers may hear of the end.
    end: Option<Instant>,
    grace: Arc<Mutex<Duration>>,
}

/// What a reactor waits with, made before there is anything to wait for.
pub(super) fn poll() -> Result<(Poll, Waker, Registry)> {
    let failed = |e: io::Error| Error::from(e).context("cannot make what the endpoint waits with");
    let poll = Poll::new().map_err(failed)?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(failed)?;
    let registry = poll.registry().try_clone().map_err(failed)?;
    Ok((poll, waker, registry))
}

impl Reactor {
    pub(super) fn new(shared: Arc<Shared>, poll: Poll, grace: Arc<Mutex<Duration>>) -> Result<Reactor> {
        let mut watched = shared.socket.watched()?;
        poll.registry()
            .register(&mut watched, SOCKET, Interest::READABLE)
            .map_err(|e| Error::from(e).context("cannot watch the UDP socket"))?;
        Ok(Reactor {
            shared,
            poll,
            watched,
            inbox: Inbox::new(),
            timers: BinaryHeap::new(),
            touched: Vec::new(),
            watching: false,
            response: Vec::new(),
            end: None,
            grace,
        })
    }

    /// Runs until the endpoint is closed.
    pub(super) fn run(mut self) {
        enter();
        let mut events = Events::with_capacity(64);
        let mut more = true;
        while !self.is_finished() {
            let now = Instant::now();
            self.take_notes();
            self.take_timers(now);
            more = self.settle(more, now);
            if !more && self.touched.is_empty() {
                more = self.sleep(&mut events);
            }
        }
        self.finish();
    }

    fn touch(&mut self, link: Arc<Link>) {
        if !self.touched.iter().any(|l| Arc::ptr_eq(l, &link)) {
            self.touched.push(link);
        }
    }

    /// Takes up what other threads left to this one.
    fn take_notes(&mut self) {
        let notes = self.shared.take_notes();
        self.timers.extend(notes.timers.into_iter().map(Reverse));
        notes.links.into_iter().for_each(|link| self.touch(link));
    }

    fn take_timers(&mut self, now: Instant) {
        let now = nanos(self.shared.time(now));
        while let Some(Reverse((at, handle))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            if let Some(link) = self.shared.link(handle)
                && link.is_due(&self.shared, at, now)
            {
                self.touch(link);
            }
        }
    }

    /// Takes datagrams; how many.
    fn receive(&mut self, now: Instant) -> usize {
        let shared = self.shared.clone();
        let mut inbox = std::mem::replace(&mut self.inbox, Inbox::empty());
        let count = inbox.receive(&shared.socket, |datagram| self.datagram(&shared, datagram, now));
        self.inbox = inbox;
        Totals::count(&shared.totals.datagrams_received, count as u64);
        count
    }

    fn datagram(&mut self, shared: &Arc<Shared>, d: Datagram, now: Instant) {
        self.response.clear();
        let mut endpoint = shared.endpoint.lock();
        let event = endpoint.handle(now, d.from, d.to, d.ecn, d.data, &mut self.response);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                drop(endpoint);
                if let Some(link) = shared.link(handle) {
                    link.datagram(event);
                    self.touch(link);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let link = self.incoming(shared, &mut endpoint, incoming, now);
                drop(endpoint);
                if let Some(link) = link {
                    self.touch(link);
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.respond(&transmit),
            None => {}
        }
    }

    /// Sends what the endpoint itself answers; it may get lost.
    fn respond(&self, transmit: &Transmit) {
        self.shared.socket.send(transmit, &self.response);
    }

    /// Somebody wants to connect.
    fn incoming(
        &mut self,
        shared: &Arc<Shared>,
        endpoint: &mut quinn_proto::Endpoint,
        incoming: Incoming,
        now: Instant,
    ) -> Option<Arc<Link>> {
        let (from, proved) = (incoming.remote_address(), incoming.remote_address_validated());
        let closing = shared.closing.load(Ordering::SeqCst);
        let admission = match closing {
            true => Admission::Refuse,
            false => admission::of_address(shared, from, proved, endpoint.open_connections()),
        };
        self.response.clear();
        match admission {
            Admission::Accept => {}
            Admission::Prove => {
                if let Ok(transmit) = endpoint.retry(incoming, &mut self.response) {
                    self.respond(&transmit);
                }
                return None;
            }
            Admission::Refuse => {
                Totals::count(&shared.totals.handshakes_refused, 1);
                let transmit = endpoint.refuse(incoming, &mut self.response);
                self.respond(&transmit);
                return None;
            }
        }
        let setup = shared.setup.read().clone();
        let config = setup.server(incoming.remote_address(), incoming.local_ip());
        match endpoint.accept(incoming, now, &mut self.response, Some(config)) {
            Ok((handle, quic)) => {
                let beginning = Beginning {
                    handle,
                    quic,
                    turn: setup.turn,
                    dialed: false,
                    expect: None,
                    first: None,
                };
                Some(admit(shared, beginning, now))
            }
            Err(refusal) => {
                Totals::count(&shared.totals.handshakes_refused, 1);
                if let Some(transmit) = refusal.response {
                    self.respond(&transmit);
                }
                None
            }
        }
    }

    /// Takes datagrams if there may be some, moves on what was touched, and sends what there is to send then; whether there
    /// may be more datagrams.
    ///
    /// What has come is read batch by batch, while it is in the processor's cache, but answered once.
    fn settle(&mut self, mut more: bool, mut now: Instant) -> bool {
        let _cork = cork::cork();
        let mut again = Vec::new();
        for _ in 0..ROUNDS {
            let count = if more { self.receive(now) } else { 0 };
            more = count > 0;
            now = Instant::now();
            let mut touched = std::mem::take(&mut self.touched);
            for link in touched.drain(..) {
                if link.advance(&self.shared, now) {
                    again.push(link.clone());
                }
                cork::mark(&link);
            }
            self.touched = touched;
            if count < BATCH {
                break;
            }
        }
        again.into_iter().for_each(|link| self.touch(link));
        more
    }

    /// Waits for something to happen; whether there may be datagrams.
    fn sleep(&mut self, events: &mut Events) -> bool {
        let blocked = !self.shared.blocked.lock().is_empty();
        if blocked != self.watching {
            self.rewatch(blocked);
        }
        let first = self.timers.peek().map(|Reverse(timer)| *timer);
        let next = first.map(|(at, _)| Time::from_nanos(at));
        let now = Instant::now();
        let timeout = next.map(|at| self.shared.until(at, now));
        let timeout = match (timeout, self.end) {
            (t, Some(end)) => Some(t.unwrap_or(Duration::MAX).min(end.saturating_duration_since(now))),
            (t, None) => t,
        };
        let closes = self.shared.closing.load(Ordering::SeqCst)
            && (self.end.is_none() || self.shared.links.read().values().all(|l| l.is_over()));
        let idle = self.shared.sleep(next) && !closes;
        let timeout = if idle {
            let link = first.and_then(|(_, handle)| self.shared.link(handle));
            let paced = link.is_some_and(|l| l.paced);
            timeout.map(|wait| whole_millis(wait, paced))
        } else {
            Some(Duration::ZERO)
        };
        let polled = self.poll.poll(events, timeout);
        self.shared.awake();
        if let Err(e) = polled
            && e.kind() != io::ErrorKind::Interrupted
        {
            // Nothing can be waited for any more; without this the thread would spin.
            self.shared.closing.store(true, Ordering::SeqCst);
        }
        let mut readable = false;
        for event in events.iter().filter(|e| e.token() == SOCKET) {
            readable |= event.is_readable();
            if event.is_writable() {
                let blocked = std::mem::take(&mut *self.shared.blocked.lock());
                blocked.into_iter().for_each(|link| self.touch(link));
            }
        }
        for event in events.iter() {
            let rung = event.token().0.checked_sub(BELLS).map(ConnectionHandle);
            if let Some(link) = rung.and_then(|handle| self.shared.link(handle)) {
                link.rung();
                self.touch(link);
            }
        }
        readable
    }

    /// Watches the socket for room to send, or stops doing so.
    fn rewatch(&mut self, writable: bool) {
        let interest = if writable {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        let registry = self.poll.registry();
        if registry.reregister(&mut self.watched, SOCKET, interest).is_ok() {
            self.watching = writable;
        }
    }

    /// Whether the endpoint is closed, and the peers have what was sent or had the time to get it.
    fn is_finished(&mut self) -> bool {
        if !self.shared.closing.load(Ordering::SeqCst) {
            return false;
        }
        let now = Instant::now();
        if self.end.is_none() {
            let grace = *self.grace.lock();
            self.end = Some(now.checked_add(grace).unwrap_or(now));
            self.shut(false);
        }
        let all_over = self.shared.links.read().values().all(|l| l.is_over());
        if !all_over && self.end.is_some_and(|end| end <= now) {
            self.shut(true);
        }
        all_over || self.end.is_some_and(|end| end <= now)
    }

    fn shut(&self, at_once: bool) {
        let _cork = cork::cork();
        for link in self.shared.all_links() {
            if !link.is_over() {
                link.shut(at_once);
            }
        }
    }

    /// Nothing is left to wait for.
    fn finish(self) {
        let links = self.shared.all_links();
        self.shared.links.write().clear();
        self.shared.senders.close();
        // Another thread may be at a link still, with the word that it ends.
        links.iter().for_each(|link| link.settle());
        self.shared.socket.close();
    }
}
