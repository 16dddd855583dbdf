//! The state of a connection: QUIC's and the protocol's, moved on together.
#![forbid(unsafe_code)]

mod greeting;

use std::time::Instant;

use actorflow_core::{Code, Error, Result};
use bytes::Bytes;
use quinn_proto::{Connection as Quic, ConnectionEvent, Dir, Event, StreamEvent, Transmit, VarInt};

use super::end;
use super::link::Link;
use super::local::Way;
use super::peer::{AnswerThen, PeerInfo, SentThen};
use super::reactor;
use super::renewal;
use super::shared::Shared;
use super::streams::{Incoming, Outgoing};
use crate::counters::Totals;
use crate::frame::{Body, Fault, Frame, Intake, code_number, cut};
use crate::identity::Subject;
use crate::message::{Message, Parcel};
use crate::proto::{Action, Connection, Time};

/// Bytes through a lane that stand for a datagram where shares are counted.
const SHARE: usize = 64 << 10;

/// A continuation.
pub(super) enum Then {
    Answer(AnswerThen),
    Sent(SentThen),
}

/// What users want of a connection.
pub(super) enum Wish {
    Request(Message, Time, AnswerThen),
    Answer(u64, Result<Message>),
    Notice(Message),
    Parcel(Parcel, Option<SentThen>),
    Epoch(u64),
    /// Leave once nothing is pending: another connection has taken its place.
    Retire,
    /// Close once the peer has everything that was sent so far.
    Leave(Error),
    Close(Error),
}

/// What is to be told to users, once the state is not locked any more.
pub(super) enum Up {
    Connected,
    /// Earlier incarnations than this one are to be closed.
    Fence(PeerInfo),
    Request(u64, Message),
    Notice(Message),
    Parcel(Parcel),
    Answered(AnswerThen, Result<Message>),
    Sent(SentThen, Result<()>),
    Lost(Error),
}

/// What became of an attempt to send all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything that may be sent now has been.
    Done,
    /// There is more.
    More,
    /// The socket takes no more.
    Blocked,
}

pub(super) struct State {
    quic: Quic,
    proto: Option<Connection<Then>>,
    subject: Option<Subject>,
    /// Who is to be announced.
    greeted: Option<PeerInfo>,
    /// The peer has shown that it has heard this side's hello.
    answered: bool,
    way: Way,
    outgoing: Outgoing,
    incoming: Incoming,
    intake: Intake,
    ups: Vec<Up>,
    buffer: Vec<u8>,
    /// A datagram in `buffer` that the socket did not take.
    unsent: Option<Transmit>,
    began: Time,
    /// Something has come since the peer was last heard.
    fresh: bool,
    over: Option<Error>,
    told: bool,
    /// With what to close once the peer has everything.
    leaving: Option<Error>,
    /// Lost datagrams that have been counted.
    lost: u64,
    /// When to look again whether the peer's certificate is still valid.
    look: Time,
    /// Since when another connection is used.
    retired: Option<Time>,
}

/// Takes in a frame. Whoever has raised the epoch is not to be told of anything older, though the connection has not yet
/// heard of it.
fn hear(proto: &mut Connection<Then>, shared: &Shared, frame: Frame, time: Time) {
    proto.refuse_before(shared.epoch());
    proto.receive(frame, time);
}

impl State {
    pub(super) fn new(quic: Quic, intake: Intake, began: Time) -> State {
        State {
            quic,
            proto: None,
            subject: None,
            greeted: None,
            answered: false,
            way: Way::Open { key: None, door: None },
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            intake,
            ups: Vec::new(),
            buffer: Vec::new(),
            unsent: None,
            began,
            fresh: false,
            over: None,
            told: false,
            leaving: None,
            lost: 0,
            look: Time::MAX,
            retired: None,
        }
    }

    pub(super) fn take_ups(&mut self) -> Vec<Up> {
        std::mem::take(&mut self.ups)
    }

    /// Whether what is sent now would wait for room at the peer.
    pub(super) fn is_crowded(&self) -> bool {
        self.proto.as_ref().is_some_and(Connection::is_crowded)
    }

    pub(super) fn datagram(&mut self, event: ConnectionEvent) {
        self.fresh = true;
        self.quic.handle_event(event);
    }

    /// Takes in what has come: events of QUIC, and what can be read. Whether there is more, of which no event tells.
    pub(super) fn take_in(&mut self, shared: &Shared, link: &Link, now: Instant) -> bool {
        let time = shared.time(now);
        if link.take_rung() {
            self.way.quiet(time);
        }
        if std::mem::take(&mut self.fresh)
            && let Some(proto) = &mut self.proto
        {
            proto.heard(time);
            link.heard(time);
        }
        // What came before the end is read before the end is told.
        let mut lost = None;
        loop {
            while let Some(event) = self.quic.poll() {
                match event {
                    Event::ConnectionLost { reason } => lost = Some(reason),
                    event => self.event(shared, link, event, now),
                }
            }
            let known = self.proto.as_ref().is_some_and(Connection::is_up);
            let (Some(proto), Some(id)) = (&mut self.proto, self.incoming.next(known)) else {
                break;
            };
            let mut beyond = false;
            let each = |frame: Frame| {
                beyond |= !matches!(frame.body, Body::Hello(_));
                hear(proto, shared, frame, time);
            };
            let read = self.incoming.read(&mut self.quic, id, &mut self.intake, each);
            match read {
                Ok(bytes) => Totals::count(&shared.totals.bytes_received, bytes),
                Err(fault) => proto.fault(&fault),
            }
            if beyond {
                self.answered = true;
                self.announce(link);
            }
            // A peer that speaks through QUIC and is not at the door will not come there.
            if self.way.is_open() && !link.dialed && !self.look(shared, link) && beyond {
                self.way = Way::Quic;
                self.outgoing.through_quic();
            }
            self.act(shared, link, now);
        }
        let more = self.receive(shared, link, now);
        link.set_deaf(self.proto.as_ref().and_then(Connection::told_deaf));
        let counted = self.quic.stats().path.lost_packets;
        Totals::count(&shared.totals.datagrams_lost, counted - self.lost);
        self.lost = counted;
        if let Some(reason) = lost {
            if renewal::is_replacement(&reason) {
                link.set_replaced();
            }
            if end::is_meant(&reason) {
                link.stripes.set_left();
            }
            let up = self.proto.as_ref().is_some_and(Connection::is_up);
            let error = end::reason(&reason, up);
            self.end(shared, link, error);
        }
        if time >= self.way.gone_at() {
            let error = Error::unavailable("its process has ended");
            self.close(shared, link, error, now);
        }
        self.act(shared, link, now);
        more && self.over.is_none()
    }

    /// Looks whether the peer has brought a lane.
    fn look(&mut self, shared: &Shared, link: &Link) -> bool {
        let came = self.way.look(shared, reactor::bell(link.handle));
        if came {
            Totals::count(&shared.totals.lanes, 1);
            link.set_shares();
            self.announce(link);
        }
        came
    }

    /// Reads what has come through a lane; whether there is more.
    fn receive(&mut self, shared: &Shared, link: &Link, now: Instant) -> bool {
        let time = shared.time(now);
        if !self.proto.as_ref().is_some_and(Connection::is_up) {
            return false;
        }
        if self.way.is_open() && !link.dialed {
            self.look(shared, link);
        }
        let Some(proto) = self.proto.as_mut() else { return false };
        let each = |frame| hear(proto, shared, frame, time);
        let received = match self.way.receive(&mut self.intake, each) {
            Ok(received) => received,
            Err(fault) => {
                proto.fault(&fault);
                return false;
            }
        };
        if received.bytes > 0 {
            Totals::count(&shared.totals.bytes_received, received.bytes);
            link.heard(time);
        }
        self.act(shared, link, now);
        received.more
    }

    fn event(&mut self, shared: &Shared, link: &Link, event: Event, now: Instant) {
        match event {
            Event::Connected => {
                if let Err(error) = self.authenticate(shared, link, now) {
                    self.close(shared, link, error, now);
                }
            }
            Event::Stream(StreamEvent::Opened { dir }) => {
                while let Some(id) = self.quic.streams().accept(dir) {
                    if dir == Dir::Bi {
                        self.outgoing.set_control(&mut self.quic, id);
                    }
                    self.incoming.readable(id);
                }
            }
            Event::Stream(StreamEvent::Readable { id }) => self.incoming.readable(id),
            Event::Stream(StreamEvent::Finished { .. }) => self.outgoing.confirmed(),
            _ => {}
        }
    }

    /// Does what users want.
    pub(super) fn wish(&mut self, shared: &Shared, link: &Link, wish: Wish, now: Instant) {
        let time = shared.time(now);
        let Some(proto) = &mut self.proto else {
            // Only a known peer is handed to users; before that, there is nothing but the end to wish for.
            if let Wish::Close(error) | Wish::Leave(error) = wish {
                self.close(shared, link, error, now);
            }
            return;
        };
        match wish {
            Wish::Request(message, deadline, then) => proto.request(message, deadline, Then::Answer(then), time),
            Wish::Answer(id, result) => proto.answer(id, result, time),
            Wish::Notice(message) => {
                if let Err(error) = proto.notify(message, time) {
                    Totals::count(&shared.totals.unsent, 1);
                    // Whoever sent it was told that it would arrive.
                    proto.close(error);
                }
            }
            Wish::Parcel(parcel, then) => proto.send(parcel, then.map(Then::Sent), time),
            Wish::Epoch(epoch) => proto.set_epoch(epoch),
            Wish::Retire => self.retired = Some(time),
            Wish::Close(error) => proto.close(error),
            Wish::Leave(error) => self.leaving = Some(error),
        }
    }

    /// Carries out what the protocol gives out.
    pub(super) fn act(&mut self, shared: &Shared, link: &Link, now: Instant) {
        while let Some(action) = self.proto.as_mut().and_then(Connection::poll) {
            match action {
                Action::Send { class, frame } => {
                    // What introduces a side, and what shows that it is there, is the connection's own.
                    let direct = matches!(frame.body, Body::Hello(_) | Body::Ping { .. });
                    match frame.encode() {
                        Ok(encoded) => {
                            Totals::count(&shared.totals.frames_sent, 1);
                            Totals::count(&shared.totals.bytes_sent, encoded.len as u64);
                            if direct {
                                self.outgoing.push_direct(encoded);
                            } else {
                                self.outgoing.push(class, encoded);
                            }
                        }
                        Err(error) => self.proto_close(error),
                    }
                }
                Action::Connected {
                    incarnation,
                    stripe,
                    stripes,
                    ..
                } => {
                    link.stripes.accept(stripes);
                    self.introduced(shared, link, incarnation, stripe, now);
                }
                Action::Request { id, message } => self.ups.push(Up::Request(id, message)),
                Action::Notice(message) => self.ups.push(Up::Notice(message)),
                Action::Parcel(parcel) => self.ups.push(Up::Parcel(parcel)),
                Action::Answered(Then::Answer(then), result) => self.ups.push(Up::Answered(then, result)),
                Action::Answered(Then::Sent(then), result) => self.ups.push(Up::Sent(then, result.map(drop))),
                Action::Sent(Then::Sent(then), result) => self.ups.push(Up::Sent(then, result)),
                Action::Sent(Then::Answer(then), result) => {
                    self.ups.push(Up::Answered(then, result.map(|()| Message::default())));
                }
                Action::Close(error) => self.close(shared, link, error, now),
            }
        }
        if let Some(proto) = &mut self.proto {
            shared.totals.add(proto.take_counted());
        }
        if let (Some(error), false) = (&self.over, self.told) {
            self.told = true;
            let error = self.proto.as_ref().and_then(|p| p.over()).unwrap_or(error).clone();
            self.ups.push(Up::Lost(error));
        }
    }

    fn proto_close(&mut self, error: Error) {
        if let Some(proto) = &mut self.proto {
            proto.close(error);
        }
    }

    /// Ends the connection, telling the peer.
    fn close(&mut self, shared: &Shared, link: &Link, error: Error, now: Instant) {
        let code = match link.was_replaced() {
            true => renewal::REPLACED,
            false => VarInt::from_u32(code_number(error.code()).into()),
        };
        let reason = Bytes::copy_from_slice(cut(error.message(), 512).as_bytes());
        self.quic.close(now, code, reason);
        self.end(shared, link, error);
    }

    fn end(&mut self, shared: &Shared, link: &Link, error: Error) {
        if self.over.is_some() {
            return;
        }
        let refused = matches!(error.code(), Code::Unauthenticated | Code::ResourceExhausted);
        if !link.ended() && !link.dialed && refused {
            Totals::count(&shared.totals.handshakes_refused, 1);
        }
        if let Some(proto) = &mut self.proto {
            proto.lost(error.clone());
        }
        self.outgoing.clear();
        self.incoming.clear(&mut self.intake);
        self.way.end(&mut self.intake);
        self.over = Some(error);
    }

    /// Hands frames to QUIC and datagrams to the socket, at most `budget` of them.
    pub(super) fn put_out(&mut self, shared: &Shared, link: &Link, now: Instant, mut budget: usize) -> Progress {
        self.act(shared, link, now);
        if self.leaving.is_some() && !self.proto.as_ref().is_some_and(Connection::has_parked) {
            self.outgoing.end();
        }
        let mut more = false;
        if self.over.is_none() {
            let written = self.outgoing.write(&mut self.quic);
            let sent = written.and_then(|()| self.way.send(&mut self.outgoing, budget.saturating_mul(SHARE)));
            match sent {
                Ok(left) => more = left,
                Err(fault) => {
                    self.fault(&fault);
                    self.act(shared, link, now);
                }
            }
        }
        if self.outgoing.has_ended()
            && self.way.is_drained()
            && link.stripes.are_over()
            && let Some(error) = self.leaving.take()
        {
            self.proto_close(error);
            self.act(shared, link, now);
        }
        self.endpoint_events(shared, link);
        let mut sent = 0;
        let progress = loop {
            if let Some(transmit) = self.unsent.take() {
                if !shared.socket.send(&transmit, &self.buffer) {
                    self.unsent = Some(transmit);
                    break Progress::Blocked;
                }
                let size = transmit.segment_size.unwrap_or(transmit.size).max(1);
                sent += transmit.size.div_ceil(size) as u64;
            }
            if budget == 0 {
                break Progress::More;
            }
            budget -= 1;
            self.buffer.clear();
            let segments = shared.socket.segments(self.quic.current_mtu());
            self.unsent = self.quic.poll_transmit(now, segments, &mut self.buffer);
            if self.unsent.is_none() {
                break Progress::Done;
            }
        };
        if sent > 0 {
            Totals::count(&shared.totals.datagrams_sent, sent);
            if let Some(proto) = &mut self.proto {
                proto.spoke(shared.time(now));
            }
        }
        self.endpoint_events(shared, link);
        match progress {
            Progress::Done if more => Progress::More,
            progress => progress,
        }
    }

    fn fault(&mut self, fault: &Fault) {
        if let Some(proto) = &mut self.proto {
            proto.fault(fault);
        }
    }

    fn endpoint_events(&mut self, shared: &Shared, link: &Link) {
        while let Some(event) = self.quic.poll_endpoint_events() {
            if event.is_drained() {
                // Before its number is free for another one.
                shared.remove(link.handle);
            }
            let back = shared.endpoint.lock().handle_event(link.handle, event);
            if let Some(event) = back {
                self.quic.handle_event(event);
            }
        }
    }

    /// When [`timeout`](Self::timeout) is due.
    pub(super) fn deadline(&mut self, shared: &Shared) -> Time {
        let quic = self.quic.poll_timeout().map_or(Time::MAX, |t| shared.time(t));
        let own = match &self.proto {
            Some(proto) => proto.next_timeout(),
            None if self.over.is_none() => Some(self.began.saturating_add(shared.timing.handshake)),
            None => None,
        };
        let look = if self.over.is_none() { self.look } else { Time::MAX };
        let gone = self.way.gone_at();
        quic.min(own.unwrap_or(Time::MAX))
            .min(look)
            .min(self.leaves_at())
            .min(gone)
    }

    /// When a connection that is not used any more may be closed, if nothing is pending then.
    fn leaves_at(&self) -> Time {
        match self.retired {
            Some(at) if self.over.is_none() && self.leaving.is_none() => at.saturating_add(renewal::SETTLE),
            _ => Time::MAX,
        }
    }

    /// Ends the connection when the peer's certificate has expired, or when another one has taken its place and nothing is
    /// pending on it.
    fn look_at_certificate(&mut self, shared: &Shared, link: &Link, now: Instant) {
        let time = shared.time(now);
        if self.over.is_some() {
            return;
        }
        if time >= self.leaves_at() {
            let quiet = self.proto.as_ref().is_some_and(Connection::is_quiet);
            if quiet && link.stripes.are_over() && !self.incoming.is_within_a_frame() {
                link.set_replaced();
                self.leaving = Some(Error::cancelled("another connection has taken its place"));
            } else {
                self.retired = Some(time);
            }
        }
        if time >= self.look
            && let Some(certificate) = link.certificate()
        {
            self.look = time.saturating_add(certificate.next_look());
            if let Err(error) = certificate.check(shared) {
                self.proto_close(error);
            }
        }
    }

    pub(super) fn timeout(&mut self, shared: &Shared, link: &Link, now: Instant) {
        let time = shared.time(now);
        if self.quic.poll_timeout().is_some_and(|t| t <= now) {
            self.quic.handle_timeout(now);
        }
        self.look_at_certificate(shared, link, now);
        match &mut self.proto {
            Some(proto) => proto.handle_timeout(time),
            None if self.over.is_none() && time >= self.began.saturating_add(shared.timing.handshake) => {
                let waited = shared.timing.handshake;
                let error = Error::unavailable(format!("no handshake within {waited:?}"));
                self.close(shared, link, error, now);
            }
            None => {}
        }
    }
}
