//! A connection as the threads that use it see it.
//!
//! Nobody ever waits for another thread to send. A wish is put into a queue and the state is flushed by whoever gets its
//! lock; who does not get it leaves a note (`work`), and the holder looks for notes after letting go.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use actorflow_core::{Error, Result};
use parking_lot::Mutex;
use quinn_proto::{Connection as Quic, ConnectionEvent, ConnectionHandle};

use super::config;
use super::cork;
use super::dial::Waiters;
use super::peer::{Peer, PeerInfo, Reply};
use super::renewal::{self, Certificate};
use super::shared::{Shared, nanos};
use super::state::{Progress, State, Up, Wish};
use super::stripes::{self, Stripes};
use crate::counters::Totals;
use crate::identity::Subject;
use crate::limits::Timing;
use crate::proto::{BULK, Time};

/// Datagrams that a user's thread sends before it leaves the rest to the reactor.
const USERS_SHARE: usize = 4;

/// Datagrams that the reactor sends before it looks at what has come.
const REACTORS_SHARE: usize = 32;

/// How often a thread takes up what others have wished for meanwhile, before it leaves that to the reactor.
const ROUNDS: usize = 8;

/// The life of a connection, as far as users are concerned.
const YOUNG: u64 = 0;
const UP: u64 = 1;
/// Another one is used in its place; what is pending on it is still answered.
const RETIRED: u64 = 2;
const ENDED: u64 = 3;

pub(super) struct Link {
    shared: Weak<Shared>,
    pub(super) handle: ConnectionHandle,
    /// Whether this side made the connection.
    pub(super) dialed: bool,
    /// Who must be at the other end.
    pub(super) expect: Option<Subject>,
    /// Where it was dialed.
    pub(super) addr: std::net::SocketAddr,
    /// Whether QUIC spreads in time what it sends, so that its timers are to be kept to fractions of a millisecond.
    pub(super) paced: bool,
    info: OnceLock<Arc<PeerInfo>>,
    /// With what the peer has shown who it is.
    certificate: OnceLock<Certificate>,
    /// The turn of the certificate that this side has shown, or of the last one with which another connection was begun in
    /// place of this one.
    turn: AtomicU64,
    life: AtomicU64,
    ended_at: OnceLock<Instant>,
    /// When something came last, in nanoseconds since the endpoint's origin.
    heard: AtomicU64,
    /// When the peer said last that it hears nothing of this side, in the same unit; 0 if its last word does not.
    deaf: AtomicU64,
    /// A later run of the peer has come: nothing of this one is told any more.
    fenced: AtomicBool,
    /// The peer has rung.
    rung: AtomicBool,
    /// Its frames go through shared memory.
    shares: AtomicBool,
    /// One side has closed it because there is another one, and nothing was pending.
    replaced: AtomicBool,
    /// Further connections beside it, or that it is one.
    pub(super) stripes: Stripes,
    outbox: Mutex<Outbox>,
    /// What is sent now would wait: for room at the peer, or for the thread that is at it.
    crowded: AtomicBool,
    work: AtomicBool,
    state: Mutex<State>,
    /// When the next timer is due, in nanoseconds since the endpoint's origin.
    deadline: AtomicU64,
    /// The earliest timer that the reactor keeps for it.
    scheduled: AtomicU64,
    pub(super) waiters: Mutex<Waiters>,
}

/// Wishes that nobody has carried out yet.
#[derive(Default)]
struct Outbox {
    wishes: VecDeque<Wish>,
    /// Memory of parcels among them that nobody waits for.
    loose: usize,
}

/// From so many bytes on in an outbox, whoever sends more has to wait; what a parcel takes beside its value counts as well.
const OUTBOX: usize = 4 << 20;
const BESIDE: usize = 256;

/// What is known of a connection when it begins.
pub(super) struct Beginning {
    pub(super) handle: ConnectionHandle,
    pub(super) quic: Quic,
    /// Of the certificate that this side shows.
    pub(super) turn: u64,
    pub(super) dialed: bool,
    pub(super) expect: Option<Subject>,
    /// Beside which it is dialed for large parcels.
    pub(super) first: Option<Arc<Link>>,
}

impl Link {
    pub(super) fn new(shared: &Arc<Shared>, beginning: Beginning, waiters: Waiters, now: Instant) -> Arc<Link> {
        let (addr, dialed) = (beginning.quic.remote_address(), beginning.dialed);
        let here = if dialed { None } else { beginning.quic.local_ip() };
        Arc::new(Link {
            shared: Arc::downgrade(shared),
            handle: beginning.handle,
            dialed,
            expect: beginning.expect,
            addr,
            paced: !config::is_local(addr, here),
            info: OnceLock::new(),
            certificate: OnceLock::new(),
            turn: AtomicU64::new(beginning.turn),
            life: AtomicU64::new(YOUNG),
            ended_at: OnceLock::new(),
            heard: AtomicU64::new(nanos(shared.time(now))),
            deaf: AtomicU64::new(0),
            fenced: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            shares: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            stripes: Stripes::beside(beginning.first.as_ref()),
            outbox: Mutex::default(),
            crowded: AtomicBool::new(false),
            work: AtomicBool::new(false),
            state: Mutex::new(State::new(beginning.quic, shared.intake(), shared.time(now))),
            deadline: AtomicU64::new(u64::MAX),
            scheduled: AtomicU64::new(u64::MAX),
            waiters: Mutex::new(waiters),
        })
    }

    /// The endpoint's, unless that is gone.
    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.upgrade()
    }

    pub(super) fn info(&self) -> Option<&Arc<PeerInfo>> {
        self.info.get()
    }

    pub(super) fn introduce(&self, info: PeerInfo) {
        if self.info.set(Arc::new(info)).is_ok() {
            self.life.store(UP, Ordering::SeqCst);
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.life.load(Ordering::SeqCst) == UP
    }

    /// Notes that the connection is over; whether it was up.
    pub(super) fn ended(&self) -> bool {
        self.ended_at.get_or_init(Instant::now);
        matches!(self.life.swap(ENDED, Ordering::SeqCst), UP | RETIRED)
    }

    /// When it ended, if it has.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        self.ended_at.get().copied()
    }

    /// Gives the connection up for another one, as soon as nothing is pending on it.
    pub(super) fn retire(self: &Arc<Self>) {
        let retired = self
            .life
            .compare_exchange(UP, RETIRED, Ordering::SeqCst, Ordering::SeqCst);
        if retired.is_ok() {
            self.stripes.all().iter().for_each(Link::retire);
            self.wish(Wish::Retire);
        }
    }

    /// Whether it was made, and not been replaced or tried to be, with an earlier certificate of this side than that of
    /// `turn`; true once, to whoever does that now.
    pub(super) fn take_turn(&self, turn: u64) -> bool {
        self.turn.fetch_max(turn, Ordering::SeqCst) < turn
    }

    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.get()
    }

    pub(super) fn show(&self, certificate: Certificate) {
        self.certificate.get_or_init(|| certificate);
    }

    pub(super) fn heard(&self, at: Time) {
        self.heard.store(nanos(at), Ordering::Relaxed);
    }

    /// The peer's last word says that it heard nothing of this side, or does not.
    pub(super) fn set_deaf(&self, told: Option<Time>) {
        self.deaf.store(told.map_or(0, nanos), Ordering::Relaxed);
    }

    /// Whether nothing has come for more than half of the time after which the peer is lost.
    pub(super) fn is_silent(&self) -> bool {
        self.since(&self.heard).is_none_or(|(silence, t)| silence > t.idle / 2)
    }

    /// Whether the peer has just said that it has heard nothing for more than half of the time after which this side is
    /// lost to it.
    pub(super) fn is_deaf(&self) -> bool {
        let told = self.since(&self.deaf);
        told.is_some_and(|(ago, t)| self.deaf.load(Ordering::Relaxed) != 0 && ago <= 2 * t.keep_alive)
    }

    /// How long ago a time was, or how long before the end if it is over; `None` if the endpoint is gone.
    fn since(&self, time: &AtomicU64) -> Option<(Duration, Timing)> {
        let shared = self.shared.upgrade()?;
        let now = shared.time(self.ended_at().unwrap_or_else(Instant::now));
        let time = Time::from_nanos(time.load(Ordering::Relaxed));
        Some((now.saturating_sub(time), shared.timing))
    }

    pub(super) fn set_replaced(&self) {
        self.replaced.store(true, Ordering::SeqCst);
    }

    pub(super) fn was_replaced(&self) -> bool {
        self.replaced.load(Ordering::SeqCst)
    }

    /// Whether it is up, or may come up.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self.life.load(Ordering::SeqCst), YOUNG | UP)
    }

    /// Whether its peer has not been announced.
    pub(super) fn is_young(&self) -> bool {
        self.life.load(Ordering::SeqCst) == YOUNG
    }

    pub(super) fn is_over(&self) -> bool {
        self.life.load(Ordering::SeqCst) == ENDED
    }

    /// The peer, as users know it: by its first connection.
    pub(super) fn peer(self: &Arc<Self>) -> Option<Peer> {
        match self.stripes.is_one() {
            true => self.stripes.first().filter(|l| !l.is_over())?.peer(),
            false => Some(Peer::new(self.clone(), self.info.get()?.clone())),
        }
    }

    /// The protocol's time of an instant; zero once the endpoint is gone.
    pub(super) fn time(&self, at: Instant) -> Time {
        self.shared.upgrade().map_or(Time::ZERO, |s| s.time(at))
    }

    /// Queues a wish; it is carried out before this returns, unless the thread holds a cork or another is at it.
    pub(super) fn wish(self: &Arc<Self>, wish: Wish) {
        let _cork = cork::cork();
        {
            let mut outbox = self.outbox.lock();
            if let Wish::Parcel(parcel, None) = &wish {
                outbox.loose = outbox.loose.saturating_add(parcel.size() + BESIDE);
                if outbox.loose > OUTBOX {
                    self.crowded.store(true, Ordering::Relaxed);
                }
            }
            outbox.wishes.push_back(wish);
        }
        cork::mark(self);
    }

    /// Whether whoever sends more should wait until it is taken. A hint: what others send meanwhile is not known.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Sends what is left, or waits for the thread that is at it.
    pub(super) fn settle(self: &Arc<Self>) {
        self.flush();
        drop(self.state.lock());
    }

    /// A datagram has come for it.
    pub(super) fn datagram(&self, event: ConnectionEvent) {
        self.state.lock().datagram(event);
    }

    /// The peer's bell was heard.
    pub(super) fn rung(&self) {
        self.rung.store(true, Ordering::Relaxed);
    }

    /// Whether it was since this was last asked.
    pub(super) fn take_rung(&self) -> bool {
        self.rung.swap(false, Ordering::Relaxed)
    }

    pub(super) fn set_shares(&self) {
        self.shares.store(true, Ordering::Relaxed);
    }

    /// Whether its frames go through memory shared with the peer.
    pub(super) fn shares(&self) -> bool {
        self.shares.load(Ordering::Relaxed)
    }

    /// The reactor's part after something has come or a timer is due: takes it in and tells users, without sending.
    /// Whether there is more to take in, of which no event will tell.
    pub(super) fn advance(self: &Arc<Self>, shared: &Shared, now: Instant) -> bool {
        let (ups, more) = {
            let mut state = self.state.lock();
            if nanos(shared.time(now)) >= self.deadline.load(Ordering::Relaxed) {
                state.timeout(shared, self, now);
            }
            let more = state.take_in(shared, self, now);
            (state.take_ups(), more)
        };
        self.waiters
            .lock()
            .expire(now)
            .into_iter()
            .for_each(|w| w.expired(self.addr));
        self.tell(shared, ups);
        more
    }

    /// Carries out wishes and sends what there is, unless another thread is at it: then it will.
    pub(super) fn flush(self: &Arc<Self>) {
        self.work.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let Some(shared) = self.shared.upgrade() else {
            return self.abandon();
        };
        let share = if super::reactor::is_this_thread() {
            REACTORS_SHARE
        } else {
            USERS_SHARE
        };
        // Either the holder of the lock sees the note after letting go, or this gets the lock.
        while self.work.load(Ordering::SeqCst) {
            let Some(mut state) = self.state.try_lock() else { return };
            self.work.store(false, Ordering::SeqCst);
            let now = Instant::now();
            let mut rounds = 0;
            let progress = loop {
                rounds += 1;
                let outbox = std::mem::take(&mut *self.outbox.lock());
                outbox
                    .wishes
                    .into_iter()
                    .for_each(|w| state.wish(&shared, self, w, now));
                let progress = state.put_out(&shared, self, now, share);
                if self.outbox.lock().wishes.is_empty() {
                    break progress;
                }
                if rounds == ROUNDS {
                    break Progress::More;
                }
            };
            let ups = state.take_ups();
            let deadline = state.deadline(&shared);
            self.crowded.store(state.is_crowded(), Ordering::Relaxed);
            drop(state);
            fence(Ordering::SeqCst);
            self.schedule(&shared, deadline);
            match progress {
                Progress::Done => {}
                Progress::More => shared.attend(self),
                Progress::Blocked => shared.block(self),
            }
            self.tell(&shared, ups);
        }
    }

    /// Notes when the next timer is due, and has the reactor keep it unless it keeps an earlier one.
    fn schedule(&self, shared: &Shared, mut deadline: Time) {
        if self.life.load(Ordering::SeqCst) == YOUNG {
            deadline = deadline.min(self.waiters.lock().next(shared));
        }
        self.deadline.store(nanos(deadline), Ordering::SeqCst);
        self.keep(shared, nanos(deadline));
    }

    fn keep(&self, shared: &Shared, at: u64) {
        if self.scheduled.fetch_min(at, Ordering::SeqCst) > at {
            shared.arm(at, self.handle);
        }
    }

    /// A timer that the reactor kept is up; whether there is something to do. Deadlines move, mostly to later, and
    /// the timer follows only now.
    pub(super) fn is_due(&self, shared: &Shared, at: u64, now: u64) -> bool {
        let _ = self
            .scheduled
            .compare_exchange(at, u64::MAX, Ordering::SeqCst, Ordering::SeqCst);
        let deadline = self.deadline.load(Ordering::SeqCst);
        if deadline > now {
            self.keep(shared, deadline);
        }
        deadline <= now
    }

    /// The endpoint is gone: wishes fail.
    fn abandon(&self) {
        let gone = || Error::unavailable("the endpoint of this connection is closed");
        let outbox = std::mem::take(&mut *self.outbox.lock());
        for wish in outbox.wishes {
            match wish {
                Wish::Request(_, _, then) => then(Err(gone())),
                Wish::Parcel(_, Some(then)) => then(Err(gone())),
                _ => {}
            }
        }
    }

    fn tell(self: &Arc<Self>, shared: &Shared, ups: Vec<Up>) {
        if ups.is_empty() {
            return;
        }
        let _cork = cork::cork();
        let known = self.peer();
        for up in ups {
            self.tell_one(shared, up, known.as_ref());
        }
    }

    /// Calls a user. On the endpoint's thread a panic ends the connection and not the endpoint; a user's own thread
    /// keeps its panics.
    fn tell_one(self: &Arc<Self>, shared: &Shared, up: Up, peer: Option<&Peer>) {
        if !super::reactor::is_this_thread() {
            return self.call(shared, up, peer);
        }
        if catch_unwind(AssertUnwindSafe(|| self.call(shared, up, peer))).is_err() {
            let why = "a handler or continuation of this connection has panicked";
            self.wish(Wish::Close(Error::internal(why)));
        }
    }

    fn call(self: &Arc<Self>, shared: &Shared, up: Up, known: Option<&Peer>) {
        let handler = &shared.handler;
        match (up, known) {
            (Up::Answered(then, result), _) => then(result),
            (Up::Sent(then, result), _) => then(result),
            (Up::Lost(error), peer) => self.over(shared, peer, &error),
            (Up::Connected, _) if self.stripes.is_one() => stripes::begin(shared, self),
            (Up::Fence(info), _) => fence_off(shared, &info),
            (Up::Connected, Some(peer)) => {
                handler.connected(peer);
                let waiters = self.waiters.lock().take();
                waiters.into_iter().for_each(|w| w.up(self.shared(), peer));
                renewal::catch_up(self);
            }
            (Up::Request(..) | Up::Notice(_) | Up::Parcel(_), Some(_)) if self.fenced.load(Ordering::Relaxed) => {
                Totals::count(&shared.totals.stale_incarnation, 1);
            }
            (Up::Request(id, message), Some(peer)) => {
                handler.request(peer, message, Reply::new(self.clone(), id));
            }
            (Up::Notice(message), Some(peer)) => handler.notice(peer, message),
            (Up::Parcel(parcel), Some(peer)) => {
                if parcel.size() as u64 >= BULK {
                    stripes::want(self);
                }
                handler.parcel(peer, parcel);
            }
            // Nothing of these comes before the peer is known, and nothing of a further connection counts after the first.
            (_, None) => {}
        }
    }

    fn over(self: &Arc<Self>, shared: &Shared, peer: Option<&Peer>, error: &Error) {
        self.ended();
        if self.stripes.is_one() {
            stripes::end(self, error);
        } else if let Some(peer) = peer {
            stripes::end_all(self, error);
            Totals::count(&shared.totals.lost, 1);
            shared.handler.lost(peer, error);
        }
        let waiters = self.waiters.lock().take();
        for w in waiters {
            let context = format!("cannot connect to {}", self.addr);
            w.failed(self.shared(), error.clone().context(context));
        }
    }

    /// Ends the connection because the endpoint does: at once, or when the peer has what was sent.
    pub(super) fn shut(self: &Arc<Self>, at_once: bool) {
        let why = Error::cancelled("the endpoint is closed");
        self.wish(if at_once { Wish::Close(why) } else { Wish::Leave(why) });
    }
}

/// Closes the connections of earlier incarnations of a peer.
fn fence_off(shared: &Shared, newer: &PeerInfo) {
    for link in shared.all_links() {
        let older = link
            .info()
            .is_some_and(|i| i.subject == newer.subject && i.incarnation < newer.incarnation && !i.is_visitor());
        if older && !link.is_over() {
            Totals::count(&shared.totals.fenced, 1);
            link.fenced.store(true, Ordering::Relaxed);
            link.wish(Wish::Close(Error::aborted(format!(
                "incarnation {} of it has come",
                newer.incarnation
            ))));
        }
    }
}

/// The outcome of a connection attempt.
pub(super) type Connected = Result<Peer>;
