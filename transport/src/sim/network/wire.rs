//! Frames on their way, and what their arrival brings about.
#![forbid(unsafe_code)]

use actorflow_core::Error;
use bytes::Bytes;

use super::{End, Happening, InFlight, KEPT, Network, Path, RETRY};
use crate::frame::{Decoder, Frame, Intake};
use crate::proto::{Action, Class, Verdict};
use crate::sim::{Event, LinkId, NodeId};

impl Network {
    /// Whether a frame cannot be taken yet: the network is parted, or the receiver does not know its peer yet and
    /// reads nothing but control.
    fn must_wait(&self, path: &Path, to: usize, class: Class) -> bool {
        let known = |e: &End| e.proto.is_up() || e.proto.over().is_some();
        let unknown = class != Class::Control && !path.ends[to].as_ref().is_some_and(known);
        let [a, b] = path.nodes;
        unknown || self.is_parted(a, b) || self.is_paused(path.nodes[to])
    }

    pub(super) fn arrive(&mut self, frame: InFlight) {
        let (link, to, class) = (frame.link, frame.to, frame.class);
        let Some(path) = self.paths.get(link.0) else { return };
        let behind = path.held.get(&(to, class)).is_some_and(|held| !held.is_empty());
        if !behind && !self.must_wait(path, to, class) {
            return self.take(frame);
        }
        if let Some(path) = self.paths.get_mut(link.0) {
            path.held.entry((to, class)).or_default().push_back(frame);
        }
        if !behind {
            let later = self.now.saturating_add(RETRY);
            self.push(later, Happening::Retry { link, to, class });
        }
    }

    /// Takes what was held, if it can be taken now.
    pub(super) fn retry(&mut self, link: LinkId, to: usize, class: Class) {
        let Some(path) = self.paths.get(link.0) else { return };
        let over = |e: &Option<End>| e.as_ref().is_none_or(|e| !self.lives(e) || e.proto.over().is_some());
        if path.ends.iter().all(over) {
            return;
        }
        if self.must_wait(path, to, class) {
            let later = self.now.saturating_add(RETRY);
            return self.push(later, Happening::Retry { link, to, class });
        }
        let held = self.paths.get_mut(link.0).and_then(|p| p.held.remove(&(to, class)));
        held.into_iter().flatten().for_each(|frame| self.take(frame));
    }

    fn take(&mut self, frame: InFlight) {
        let InFlight { link, to, bytes, .. } = frame;
        let Some(path) = self.paths.get(link.0) else { return };
        let (receiver, sender) = (path.nodes[to], path.nodes[1 - to]);
        let Some(member) = self.members.get(receiver.0).filter(|m| m.alive) else {
            return;
        };
        let incarnation = member.incarnation;
        match &path.ends[to] {
            // The first frame of a dialing side opens the other one.
            None => {
                let end = self.end(receiver, sender, false);
                self.paths[link.0].ends[to] = Some(end);
            }
            // The process that knew this connection is gone, and its successor says so.
            Some(end) if end.incarnation != incarnation => {
                let at = self.now.saturating_add(self.weather.quick);
                let why = Error::unavailable("its process has ended or restarted");
                return self.push(at, Happening::Closed { link, to: 1 - to, why });
            }
            Some(_) => {}
        }
        let mut intake = Intake::new(self.limits, self.pool.clone());
        let now = self.now;
        let Some(end) = self.end_mut(link, to) else { return };
        let mut rest = bytes;
        match Decoder::new().push(&mut rest, &mut intake) {
            Ok(Some(frame)) => end.proto.receive(frame, now),
            Ok(None) => {}
            Err(fault) => end.proto.fault(&fault),
        }
        self.pump(link, to);
    }

    /// Carries out what a side of a connection gives out.
    pub(super) fn pump(&mut self, link: LinkId, at: usize) {
        let now = self.now;
        loop {
            let Some(end) = self.end_mut(link, at) else { return };
            let node = end.node;
            let Some(action) = end.proto.poll() else {
                let counted = end.proto.take_counted();
                let next = end.proto.next_timeout();
                let lost = if end.told { None } else { end.proto.over().cloned() };
                end.told |= lost.is_some();
                if let Some(next) = next
                    && end.armed.is_none_or(|t| next < t)
                {
                    end.armed = Some(next);
                    self.push(next, Happening::Timer { link, end: at });
                }
                if let Some(m) = self.members.get(node.0) {
                    m.totals.add(counted);
                }
                if let Some(why) = lost {
                    self.tell(node, Event::Lost { link, why });
                    continue;
                }
                return;
            };
            match action {
                Action::Send { class, frame } => {
                    end.proto.spoke(now);
                    self.send(link, at, class, &frame);
                }
                Action::Connected { incarnation, .. } => self.connected(link, at, incarnation),
                Action::Request { id, message } => self.tell(node, Event::Request { link, id, message }),
                Action::Notice(message) => self.tell(node, Event::Notice { link, message }),
                Action::Parcel(parcel) => self.tell(node, Event::Parcel { link, parcel }),
                Action::Answered(token, result) => self.tell(node, Event::Answered { token, result }),
                Action::Sent(token, result) => self.tell(node, Event::Sent { token, result }),
                Action::Close(why) => {
                    let delay = self.random.between(self.weather.quick, self.weather.slow);
                    let why = Error::unavailable(format!("closed by the peer: {}", why.message()));
                    let to = 1 - at;
                    self.push(now.saturating_add(delay), Happening::Closed { link, to, why });
                }
            }
        }
    }

    fn connected(&mut self, link: LinkId, at: usize, incarnation: u64) {
        let Some(path) = self.paths.get(link.0) else { return };
        let (node, peer) = (path.nodes[at], path.nodes[1 - at]);
        let subject = self.members.get(peer.0).map_or_else(String::new, |m| m.subject.clone());
        let Some(member) = self.members.get_mut(node.0) else {
            return;
        };
        let verdict = member.fences.judge(&subject, incarnation);
        if let Some(end) = self.end_mut(link, at) {
            match verdict {
                Verdict::Stale { latest } => {
                    return end
                        .proto
                        .close(Error::aborted(format!("incarnation {latest} has been seen")));
                }
                _ if at == 1 => end.proto.welcome(),
                _ => {}
            }
        }
        if verdict == Verdict::Newer {
            let older: Vec<(usize, usize)> = self.others(link, node, peer);
            for (l, e) in older {
                if let Some(end) = self.end_mut(LinkId(l), e) {
                    end.proto
                        .close(Error::aborted(format!("incarnation {incarnation} of it has come")));
                    self.pump(LinkId(l), e);
                }
            }
        }
        let event = Event::Connected {
            link,
            peer,
            incarnation,
        };
        self.tell(node, event);
    }

    /// The sides at `node` of other connections with runs of the subject of `peer`.
    fn others(&self, link: LinkId, node: NodeId, peer: NodeId) -> Vec<(usize, usize)> {
        let subject = |n: NodeId| self.members.get(n.0).map(|m| m.subject.as_str());
        let mut found = Vec::new();
        for (l, path) in self.paths.iter().enumerate().filter(|(l, _)| *l != link.0) {
            for e in 0..2 {
                if path.nodes[e] == node && subject(path.nodes[1 - e]) == subject(peer) {
                    found.push((l, e));
                }
            }
        }
        found
    }

    fn send(&mut self, link: LinkId, at: usize, class: Class, frame: &Frame) {
        let bytes: Bytes = match frame.encode() {
            Ok(encoded) => encoded.chunks.concat().into(),
            Err(why) => return self.lose(link, at, why),
        };
        let mut delay = self.random.between(self.weather.quick, self.weather.slow);
        while self.random.happens(self.weather.lost) {
            delay = delay.saturating_add(self.weather.resent);
        }
        let mut arrival = self.now.saturating_add(delay);
        let Some(path) = self.paths.get_mut(link.0) else { return };
        let pair = (path.nodes[at], path.nodes[1 - at]);
        if class != Class::Bulk
            && let Some(end) = &mut path.ends[at]
        {
            let last = end.arrivals.entry(class).or_default();
            arrival = arrival.max(*last);
            *last = arrival;
        }
        let to = 1 - at;
        let copy = bytes.clone();
        let fly = |class: Class, bytes: Bytes| Happening::Frame(InFlight { link, to, class, bytes });
        self.push(arrival, fly(class, bytes));
        let kept = self.past.entry(pair).or_default();
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((frame.stamp.incarnation, copy));
        if self.random.happens(self.weather.replay) {
            let old = self
                .past
                .get(&pair)
                .and_then(|kept| kept.iter().find(|(i, _)| *i < frame.stamp.incarnation));
            if let Some(bytes) = old.map(|(_, b)| b.clone()) {
                self.push(arrival, fly(Class::Bulk, bytes));
            }
        }
        if self.random.happens(self.weather.breaks) {
            self.cut(link);
        }
    }
}
