//! What the threads of an endpoint share.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actorflow_core::tensor::Pool;
use mio::{Registry, Waker};
use parking_lot::{Mutex, RwLock};
use quinn_proto::ConnectionHandle;

use super::Handler;
use super::config::Setup;
use super::link::Link;
use super::senders::Senders;
use super::socket::Socket;
use crate::counters::Totals;
use crate::frame::{Intake, Ledger};
use crate::limits::{Limits, Timing};
use crate::proto::{Fences, Local, Time};

/// A time as an atomic number: nanoseconds, saturating.
pub(super) fn nanos(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The reactor is awake.
const AWAKE: u64 = 0;

pub(super) struct Shared {
    pub(super) socket: Socket,
    /// Never locked while a link's state is about to be; the other way round is fine.
    pub(super) endpoint: Mutex<quinn_proto::Endpoint>,
    pub(super) links: RwLock<HashMap<ConnectionHandle, Arc<Link>>>,
    pub(super) setup: RwLock<Arc<Setup>>,
    pub(super) fences: Mutex<Fences>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) totals: Totals,
    pub(super) pool: Arc<Pool>,
    /// What unfinished frames hold, by the subjects of peers that are connected.
    ledgers: Mutex<HashMap<String, Weak<Ledger>>>,
    pub(super) limits: Limits,
    pub(super) timing: Timing,
    pub(super) incarnation: u64,
    pub(super) epoch: AtomicU64,
    pub(super) origin: Instant,
    pub(super) closing: AtomicBool,
    waker: Waker,
    /// Where the reactor watches for what comes.
    pub(super) registry: Registry,
    /// Whether large parcels are spread over several connections on this machine, too, where nothing is to be gained.
    pub(super) stripes_here: AtomicBool,
    /// Lanes of its connections.
    pub(super) lanes: Arc<AtomicUsize>,
    /// Until when the reactor sleeps, in nanoseconds since the origin; `AWAKE` if it does not.
    asleep: AtomicU64,
    notes: Mutex<Notes>,
    /// The threads that go on with a link, and how many there are: with none, the reactor does.
    pub(super) senders: Arc<Senders>,
    helpers: usize,
    /// Links with a datagram that the socket did not take.
    pub(super) blocked: Mutex<Vec<Arc<Link>>>,
}

/// What other threads leave for the reactor.
#[derive(Default)]
pub(super) struct Notes {
    /// Links with more to send.
    pub(super) links: Vec<Arc<Link>>,
    /// Timers: when, in nanoseconds since the origin, and of which link.
    pub(super) timers: Vec<(u64, ConnectionHandle)>,
}

/// What a [`Shared`] is made of.
pub(super) struct Parts {
    pub(super) socket: Socket,
    pub(super) endpoint: quinn_proto::Endpoint,
    pub(super) setup: Setup,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) pool: Arc<Pool>,
    pub(super) limits: Limits,
    pub(super) timing: Timing,
    pub(super) incarnation: u64,
    pub(super) epoch: u64,
    pub(super) waker: Waker,
    pub(super) registry: Registry,
    pub(super) helpers: usize,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Arc<Shared> {
        Arc::new(Shared {
            socket: parts.socket,
            endpoint: Mutex::new(parts.endpoint),
            links: RwLock::default(),
            setup: RwLock::new(Arc::new(parts.setup)),
            fences: Mutex::new(Fences::new()),
            handler: parts.handler,
            totals: Totals::default(),
            pool: parts.pool,
            ledgers: Mutex::default(),
            limits: parts.limits,
            timing: parts.timing,
            incarnation: parts.incarnation,
            epoch: AtomicU64::new(parts.epoch),
            origin: Instant::now(),
            closing: AtomicBool::new(false),
            waker: parts.waker,
            registry: parts.registry,
            stripes_here: AtomicBool::new(false),
            lanes: Arc::default(),
            asleep: AtomicU64::new(AWAKE),
            notes: Mutex::default(),
            senders: Arc::default(),
            helpers: parts.helpers,
            blocked: Mutex::default(),
        })
    }

    /// The protocol's time.
    pub(super) fn time(&self, at: Instant) -> Time {
        at.saturating_duration_since(self.origin)
    }

    /// The cluster's epoch, which users may have raised a moment ago.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// What this side is, for a new connection.
    pub(super) fn local(&self) -> Local {
        let setup = self.setup.read().clone();
        Local {
            cluster: setup.identity.cluster().to_owned(),
            subject: setup.identity.subject().to_string(),
            incarnation: self.incarnation,
            epoch: self.epoch(),
            stripe: false,
            limits: self.limits,
            timing: self.timing,
        }
    }

    pub(super) fn intake(&self) -> Intake {
        Intake::new(self.limits, self.pool.clone())
    }

    /// The account of what unfinished frames of a subject hold: one for all its connections.
    pub(super) fn ledger(&self, subject: &str) -> Arc<Ledger> {
        let mut ledgers = self.ledgers.lock();
        if let Some(known) = ledgers.get(subject).and_then(Weak::upgrade) {
            return known;
        }
        ledgers.retain(|_, l| l.strong_count() > 0);
        let ledger = Arc::new(Ledger::new(&self.limits, self.pool.stats().budget));
        ledgers.insert(subject.to_owned(), Arc::downgrade(&ledger));
        ledger
    }

    pub(super) fn link(&self, handle: ConnectionHandle) -> Option<Arc<Link>> {
        self.links.read().get(&handle).cloned()
    }

    pub(super) fn all_links(&self) -> Vec<Arc<Link>> {
        self.links.read().values().cloned().collect()
    }

    /// Those that are up and not beside another one: what users see as peers.
    pub(super) fn firsts(&self) -> Vec<Arc<Link>> {
        let links = self.links.read();
        let firsts = links.values().filter(|l| l.is_up() && !l.stripes.is_one());
        firsts.cloned().collect()
    }

    pub(super) fn remove(&self, handle: ConnectionHandle) {
        self.links.write().remove(&handle);
    }

    /// Has another thread, or this one later, go on with a link.
    pub(super) fn attend(&self, link: &Arc<Link>) {
        if self.helpers > 0 {
            return self.senders.push(link);
        }
        self.notes.lock().links.push(link.clone());
        // The lock orders this with `sleep`: it sees the note, or this sees that it sleeps.
        if self.asleep.load(Ordering::SeqCst) != AWAKE {
            self.wake();
        }
    }

    /// Has the reactor keep a timer.
    pub(super) fn arm(&self, at: u64, handle: ConnectionHandle) {
        self.notes.lock().timers.push((at, handle));
        if at < self.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Puts a link among those that wait until the socket takes datagrams again.
    pub(super) fn block(&self, link: &Arc<Link>) {
        self.blocked.lock().push(link.clone());
        self.wake();
    }

    pub(super) fn wake(&self) {
        // It fails only if the system is out of memory, and then the next datagram or timer wakes the reactor.
        let _ = self.waker.wake();
    }

    pub(super) fn take_notes(&self) -> Notes {
        std::mem::take(&mut self.notes.lock())
    }

    /// Announces that the reactor sleeps until `until`; false if there is something to do.
    pub(super) fn sleep(&self, until: Option<Time>) -> bool {
        let until = until.map_or(u64::MAX, |t| nanos(t).max(AWAKE + 1));
        self.asleep.store(until, Ordering::SeqCst);
        let notes = self.notes.lock();
        notes.links.is_empty() && notes.timers.is_empty()
    }

    pub(super) fn awake(&self) {
        self.asleep.store(AWAKE, Ordering::SeqCst);
    }

    /// How long until `time`.
    pub(super) fn until(&self, time: Time, now: Instant) -> Duration {
        time.saturating_sub(self.time(now))
    }
}
