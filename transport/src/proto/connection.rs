//! A connection: what its users ask of it, and its timers. What it does with frames that come is in `receive`.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use actorflow_core::tensor::human;
use actorflow_core::{Error, Result, Tensor};

use super::requests::Requests;
use super::window::{Inbound, Outbound, Parked};
use super::{Action, BULK, Class, Local, Time};
use crate::counters::Counters;
use crate::frame::encode::{check_message, check_size, payload_of};
use crate::frame::{Body, Credit, Frame, Hello, Outcome, Stamp, sendable};
use crate::message::{Message, Parcel};

/// A peer that has introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeted {
    pub(super) incarnation: u64,
    pub(super) hello: Hello,
}

/// One connection's protocol; see the [module](super).
#[derive(Debug)]
pub struct Connection<K> {
    pub(super) local: Local,
    /// What comes of an earlier epoch is dropped.
    pub(super) floor: u64,
    /// The subject of the peer's certificate.
    pub(super) subject: String,
    pub(super) peer: Option<Greeted>,
    /// Why it is over.
    pub(super) over: Option<Error>,
    pub(super) actions: VecDeque<Action<K>>,
    /// What a delivery among the actions gives back to the window, in their order.
    pub(super) deliveries: VecDeque<Option<u64>>,
    pub(super) requests: Requests<K>,
    /// Requests of the peer that wait for an answer, with their kinds.
    pub(super) asked: BTreeMap<u64, u16>,
    pub(super) outbound: Outbound<K>,
    pub(super) inbound: Inbound,
    pub(super) counted: Counters,
    began: Time,
    pub(super) heard: Time,
    spoke: Time,
    /// When the peer has said that it hears nothing of this side, if its last word says so.
    pub(super) deaf: Option<Time>,
}

impl<K> Connection<K> {
    /// A connection to a peer whose certificate says `subject`, begun now. The side that dials says hello at once; the
    /// other one answers with [`welcome`](Self::welcome) when it has seen and accepted the hello, so that who is not
    /// accepted never believes to be connected.
    pub fn new(local: Local, subject: String, dials: bool, now: Time) -> Connection<K> {
        let limits = local.limits;
        let window = Credit {
            frames: limits.in_flight.max(1) as u64,
            bytes: limits.in_flight_bytes.max(1) as u64,
        };
        let mut connection = Connection {
            inbound: Inbound::new(window, limits.tensor.max(limits.message) as u64),
            floor: local.epoch,
            local,
            subject,
            peer: None,
            over: None,
            actions: VecDeque::new(),
            deliveries: VecDeque::new(),
            requests: Requests::new(),
            asked: BTreeMap::new(),
            outbound: Outbound::new(),
            counted: Counters::default(),
            began: now,
            heard: now,
            spoke: now,
            deaf: None,
        };
        if dials {
            connection.welcome();
        }
        connection
    }

    /// Says hello. The side that accepts calls it once, on [`Action::Connected`], before anything else is sent.
    pub fn welcome(&mut self) {
        let limits = &self.local.limits;
        let hello = Hello {
            cluster: self.local.cluster.clone(),
            subject: self.local.subject.clone(),
            header: limits.header as u64,
            message: limits.message as u64,
            tensor: limits.tensor as u64,
            window_bytes: limits.in_flight_bytes.max(1) as u64,
            window: limits.in_flight.max(1) as u64,
            pending_requests: limits.pending_requests as u64,
            stripes: limits.stripes as u64,
            stripe: self.local.stripe,
        };
        self.put(Class::Control, Body::Hello(hello), false);
    }

    /// Sends a word that asks for nothing, and says for how long nothing has come from the peer.
    pub fn ping(&mut self, now: Time) {
        let silence = now.saturating_sub(self.heard).as_millis();
        let silence = u64::try_from(silence).unwrap_or(u64::MAX);
        self.put(Class::Control, Body::Ping { silence }, false);
    }

    /// When the peer has said that it had heard nothing of this side for more than half of the time after which it takes
    /// it for lost; `None` if it never has, or has heard something since.
    pub fn told_deaf(&self) -> Option<Time> {
        self.deaf
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action<K>> {
        let action = self.actions.pop_front()?;
        if matches!(action, Action::Request { .. } | Action::Notice(_) | Action::Parcel(_))
            && let Some(Some(bytes)) = self.deliveries.pop_front()
        {
            self.delivered(bytes);
        }
        Some(action)
    }

    /// Tells the peer that a frame of its window has been delivered or dropped, when it is time for it.
    pub(super) fn delivered(&mut self, bytes: u64) {
        if let Some(credit) = self.inbound.deliver(bytes)
            && self.over.is_none()
        {
            self.put(Class::Control, Body::Credit(credit), false);
        }
    }

    /// Whether the hellos have been exchanged and the connection is not over.
    pub fn is_up(&self) -> bool {
        self.peer.is_some() && self.over.is_none()
    }

    /// Whether frames wait for room at the peer.
    pub fn has_parked(&self) -> bool {
        self.outbound.parked() > 0
    }

    /// Bytes of the frames that wait for room at the peer.
    pub fn parked_bytes(&self) -> u64 {
        self.outbound.parked_bytes()
    }

    /// Whether what is sent now would wait for room at the peer.
    pub fn is_crowded(&self) -> bool {
        self.has_parked() || (self.is_up() && !self.outbound.has_room())
    }

    /// Whether nothing is pending in either direction: no answer, and no frame that waits for room.
    pub fn is_quiet(&self) -> bool {
        self.requests.len() == 0 && self.asked.is_empty() && !self.has_parked()
    }

    /// What has been counted since the last call.
    pub fn take_counted(&mut self) -> Counters {
        std::mem::take(&mut self.counted)
    }

    /// Raises this side's epoch; what comes of earlier ones from now on is dropped.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.local.epoch = self.local.epoch.max(epoch);
        self.refuse_before(epoch);
    }

    /// Drops what comes of earlier epochs than this one from now on, though what this side sends may still be of an earlier
    /// one: what was wished for before the epoch was raised is.
    pub fn refuse_before(&mut self, epoch: u64) {
        self.floor = self.floor.max(epoch);
    }

    /// How the peer is called in errors.
    pub(super) fn peer_name(&self) -> String {
        match &self.peer {
            Some(peer) => format!("{} (incarnation {})", self.subject, peer.incarnation),
            None => self.subject.clone(),
        }
    }

    pub(super) fn put(&mut self, class: Class, body: Body, credited: bool) {
        let stamp = Stamp {
            epoch: self.local.epoch,
            incarnation: self.local.incarnation,
        };
        let frame = Frame { stamp, credited, body };
        self.actions.push_back(Action::Send { class, frame });
    }

    /// The error of whoever uses a connection that is over or not up yet.
    fn unusable(&self) -> Option<Error> {
        match (&self.over, &self.peer) {
            (Some(why), _) => Some(why.clone()),
            (None, None) => Some(Error::unavailable(format!("{} has not answered yet", self.subject))),
            (None, Some(_)) => None,
        }
    }

    fn check(&self, message: &Message) -> Result<()> {
        if let Some(error) = self.unusable() {
            return Err(error);
        }
        match &self.peer {
            Some(p) => check_message(message, p.hello.header, p.hello.message, p.hello.tensor),
            None => Ok(()),
        }
    }

    /// Sends a message's frame now or, if it is large and there is no room for it, later.
    fn put_message(&mut self, body: Body, now: Time) -> Result<()> {
        let bytes = body.payload();
        if bytes < BULK {
            self.put(Class::Control, body, false);
            return Ok(());
        }
        self.put_credited(Class::Bulk, body, bytes, None, now)
            .map_err(|(e, _)| e)
    }

    /// Sends a frame that takes room, or parks it. Whoever waits for it has it in memory anyhow, so that only frames that
    /// nobody waits for are refused, beyond a limit.
    fn put_credited(
        &mut self,
        class: Class,
        body: Body,
        bytes: u64,
        then: Option<K>,
        now: Time,
    ) -> Result<(), (Error, Option<K>)> {
        if !self.has_parked() && self.outbound.has_room() {
            self.outbound.take(bytes);
            self.put(class, body, true);
            if let Some(then) = then {
                self.actions.push_back(Action::Sent(then, Ok(())));
            }
            return Ok(());
        }
        let waited_for = then.is_some() || matches!(body, Body::Request { .. });
        let (loose, limits) = (self.outbound.loose(), &self.local.limits);
        // The last one may exceed the limit, so that one that is larger passes, too.
        if !waited_for && (loose.frames >= limits.parked as u64 || loose.bytes >= limits.parked_bytes as u64) {
            let error = Error::exhausted(format!(
                "{} has no room, and {} frames of {} wait for it already; send less at once, or wait until it is taken",
                self.peer_name(),
                loose.frames,
                human(usize::try_from(loose.bytes).unwrap_or(usize::MAX))
            ));
            return Err((error, then));
        }
        self.counted.parked += 1;
        let stamp = Stamp {
            epoch: self.local.epoch,
            incarnation: self.local.incarnation,
        };
        let frame = Frame {
            stamp,
            credited: true,
            body,
        };
        self.outbound.park(Parked { frame, bytes, then }, now);
        Ok(())
    }

    /// Sends what is parked and has room now. Requests whose deadline has passed meanwhile are left out.
    pub(super) fn unpark(&mut self) {
        loop {
            if let Some(Body::Request { id, .. }) = self.outbound.front().map(|f| &f.body)
                && !self.requests.is_pending(*id)
            {
                self.counted.unsent += 1;
                self.outbound.pop();
                continue;
            }
            let Some(parked) = self.outbound.unpark() else {
                return;
            };
            let class = match (&parked.frame.body, parked.bytes < BULK) {
                (Body::Parcel(_), true) => Class::Small,
                _ => Class::Bulk,
            };
            let frame = parked.frame;
            self.actions.push_back(Action::Send { class, frame });
            if let Some(then) = parked.then {
                self.actions.push_back(Action::Sent(then, Ok(())));
            }
        }
    }

    /// Asks the peer something. `then` comes back in exactly one [`Action::Answered`].
    pub fn request(&mut self, message: Message, deadline: Time, then: K, now: Time) {
        // What the peer allows may be more than this side wants to keep.
        let allowed = self.peer.as_ref().map_or(0, |p| p.hello.pending_requests);
        let limit = allowed.min(self.local.limits.pending_requests as u64);
        let bytes = payload_of(&message);
        let checked = self.check(&message).and_then(|()| {
            if deadline <= now {
                return Err(Error::deadline(format!(
                    "message {} to {} was past its deadline before it was sent",
                    message.kind,
                    self.peer_name()
                )));
            }
            if self.requests.len() as u64 >= limit {
                return Err(Error::exhausted(format!(
                    "{limit} requests to {} wait for an answer already",
                    self.peer_name()
                )));
            }
            // The last one may exceed the limit, as with what is parked.
            let (count, unread) = self.requests.unread();
            if bytes < BULK && unread >= self.local.limits.parked_bytes as u64 {
                return Err(Error::exhausted(format!(
                    "{count} requests of {} to {} wait to be answered already; send less at once, wait for answers, or \
                     raise this side's limit parked-bytes",
                    human(usize::try_from(unread).unwrap_or(usize::MAX)),
                    self.peer_name()
                )));
            }
            Ok(())
        });
        if let Err(e) = checked {
            let e = e.in_task(&self.subject);
            self.actions.push_back(Action::Answered(then, Err(e)));
            return;
        }
        let id = self.requests.add(message.kind, deadline, then);
        if bytes < BULK {
            self.requests.leaves(id, bytes);
        }
        if let Err(e) = self.put_message(Body::Request { id, message }, now)
            && let Some(pending) = self.requests.remove(id)
        {
            self.actions
                .push_back(Action::Answered(pending.then, Err(e.in_task(&self.subject))));
        }
    }

    /// Answers a request of the peer. An answer that cannot be sent becomes an error that says why.
    pub fn answer(&mut self, id: u64, result: Result<Message>, now: Time) {
        if self.over.is_some() || self.asked.remove(&id).is_none() {
            return;
        }
        let outcome = match result {
            Ok(message) => match self.check(&message) {
                Ok(()) => Outcome::of(Ok(message)),
                Err(e) => Outcome::of(Err(e.context("the answer cannot be sent"))),
            },
            Err(e) => Outcome::of(Err(e.in_task(&self.local.subject))),
        };
        if let Err(e) = self.put_message(Body::Answer { id, outcome }, now) {
            let outcome = Outcome::of(Err(e));
            self.put(Class::Control, Body::Answer { id, outcome }, false);
        }
    }

    /// Sends a message without an answer.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the connection is over; what is wrong with the message; `RESOURCE_EXHAUSTED` if it is large
    /// and too much is parked already.
    pub fn notify(&mut self, message: Message, now: Time) -> Result<()> {
        self.check(&message)
            .and_then(|()| self.put_message(Body::Notice(message), now))
            .map_err(|e| e.in_task(&self.subject))
    }

    /// Sends a tensor to an edge, when there is room for it. `then` comes back in exactly one [`Action::Sent`].
    /// Without it, a parcel that never can be sent ends the connection, so that nobody waits for it in vain, and so does
    /// one beyond the limit of what may be parked while nobody waits for it.
    pub fn send(&mut self, parcel: Parcel, then: Option<K>, now: Time) {
        let (edge, body) = (parcel.edge, Body::Parcel(parcel));
        let bytes = body.payload();
        let checked = match (self.unusable(), &body, &self.peer) {
            (Some(error), ..) => Err(error),
            (None, Body::Parcel(Parcel { value: Some(t), .. }), Some(p)) => {
                sendable(t).and_then(|()| check_size(bytes, p.hello.tensor))
            }
            _ => Ok(()),
        };
        let class = if bytes < BULK { Class::Small } else { Class::Bulk };
        let done = match checked {
            Ok(()) => self.put_credited(class, body, bytes, then, now),
            Err(e) => Err((e, then)),
        };
        if let Err((e, then)) = done {
            self.counted.unsent += 1;
            let e = e.context(format_args!("edge {edge}")).in_task(&self.subject);
            match then {
                Some(then) => self.actions.push_back(Action::Sent(then, Err(e))),
                None => self.close(e),
            }
        }
    }

    /// Sends a tensor to an edge if it can leave at once, without a continuation. Else it comes back, to be
    /// [sent](Self::send) with one: so whoever produces more than the peer takes comes to wait.
    pub fn offer(&mut self, parcel: Parcel, now: Time) -> std::result::Result<(), Box<Parcel>> {
        let bytes = parcel.size() as u64;
        let fits = |t: &Tensor| {
            let accepted = self.peer.as_ref().map_or(0, |p| p.hello.tensor);
            sendable(t).and_then(|()| check_size(bytes, accepted)).is_ok()
        };
        if !self.is_up() || self.is_crowded() || !parcel.value.as_ref().is_none_or(fits) {
            return Err(Box::new(parcel));
        }
        self.send(parcel, None, now);
        Ok(())
    }

    /// Ends the connection from this side; everything pending fails with `why`.
    pub fn close(&mut self, why: Error) {
        if self.over.is_none() {
            self.actions.push_back(Action::Close(why.clone()));
            self.lost(why);
        }
    }

    /// The connection is gone: everything pending fails.
    pub fn lost(&mut self, why: Error) {
        if self.over.is_some() {
            return;
        }
        let why = Error::new(why.code(), format!("{}: {}", self.peer_name(), why.message())).in_task(&self.subject);
        for pending in self.requests.drain() {
            self.actions.push_back(Action::Answered(pending.then, Err(why.clone())));
        }
        while let Some(parked) = self.outbound.pop() {
            self.counted.unsent += 1;
            if let Some(then) = parked.then {
                self.actions.push_back(Action::Sent(then, Err(why.clone())));
            }
        }
        self.asked.clear();
        self.over = Some(why);
    }

    /// Why the connection is over, if it is.
    pub fn over(&self) -> Option<&Error> {
        self.over.as_ref()
    }

    /// Something came from the peer, be it a part of a frame.
    pub fn heard(&mut self, now: Time) {
        self.heard = self.heard.max(now);
    }

    /// Something was sent to the peer.
    pub fn spoke(&mut self, now: Time) {
        self.spoke = self.spoke.max(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest.
    pub fn next_timeout(&self) -> Option<Time> {
        if self.over.is_some() {
            return None;
        }
        let timing = &self.local.timing;
        let life = if self.peer.is_some() {
            let stall = self.outbound.stalled_since().map(|t| t.saturating_add(timing.stall));
            let ping = self.spoke.saturating_add(timing.keep_alive);
            ping.min(stall.unwrap_or(Time::MAX))
        } else {
            self.began.saturating_add(timing.handshake)
        };
        let idle = self.heard.saturating_add(timing.idle);
        Some(life.min(idle).min(self.requests.next_deadline().unwrap_or(Time::MAX)))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.over.is_some() {
            return;
        }
        while let Some(pending) = self.requests.expired(now) {
            self.counted.deadlines_exceeded += 1;
            let e = Error::deadline(format!(
                "{} has not answered message {} in time",
                self.peer_name(),
                pending.kind
            ));
            let e = e.in_task(&self.subject);
            self.actions.push_back(Action::Answered(pending.then, Err(e)));
        }
        let timing = self.local.timing;
        let due = |since: Time, after: Time| now >= since.saturating_add(after);
        if self.peer.is_none() && due(self.began, timing.handshake) {
            let waited = timing.handshake;
            self.close(Error::unavailable(format!("no hello within {waited:?}")));
        } else if due(self.heard, timing.idle) {
            let waited = timing.idle;
            self.close(Error::unavailable(format!("not heard of for {waited:?}")));
        } else if self.outbound.stalled_since().is_some_and(|t| due(t, timing.stall)) {
            let (frames, waited, bytes) = (self.outbound.parked(), timing.stall, self.parked_bytes());
            self.close(Error::unavailable(format!(
                "it has taken nothing for {waited:?} while {frames} frames of {} wait for room",
                human(usize::try_from(bytes).unwrap_or(usize::MAX))
            )));
        } else if self.peer.is_some() && due(self.spoke, timing.keep_alive) {
            self.spoke(now);
            self.ping(now);
        }
    }
}
