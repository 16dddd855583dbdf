//! The network: nodes, the connections between them, and one queue of what happens next.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use actorflow_core::Error;
use actorflow_core::tensor::Pool;
use bytes::Bytes;

use super::node::{Node, describe};
use super::random::Random;
use super::{Behaviour, Event, LinkId, NodeId, Trace, Weather};
use crate::counters::{Counters, Totals};
use crate::frame::{Decoder, Frame, Intake};
use crate::limits::{Limits, Timing};
use crate::proto::{Action, Class, Connection, Fences, Local, Time, Verdict};

/// A frame that a partition holds back is tried again after this time.
const RETRY: Time = Time::from_millis(20);

/// Frames of past incarnations that are kept for replay, on each path.
const KEPT: usize = 16;

struct Member {
    subject: String,
    incarnation: u64,
    epoch: u64,
    alive: bool,
    behaviour: Option<Box<dyn Behaviour>>,
    fences: Fences,
    totals: Totals,
}

/// One side of a connection.
struct End {
    node: NodeId,
    incarnation: u64,
    proto: Connection<u64>,
    /// When the last frame on each ordered stream arrives.
    arrivals: BTreeMap<Class, Time>,
    armed: Option<Time>,
    told: bool,
}

struct Path {
    /// The dialing side and, once its hello has come, the other one.
    ends: [Option<End>; 2],
    nodes: [NodeId; 2],
    /// Frames that could not be taken when they arrived, in their order, by the side they are for.
    held: BTreeMap<(usize, Class), VecDeque<InFlight>>,
}

enum Happening {
    Frame(InFlight),
    Retry { link: LinkId, to: usize, class: Class },
    Closed { link: LinkId, to: usize, why: Error },
    Timer { link: LinkId, end: usize },
    Wake { node: NodeId, incarnation: u64, token: u64 },
    Script(Box<dyn FnOnce(&mut Network)>),
}

/// A frame on its way.
struct InFlight {
    link: LinkId,
    to: usize,
    class: Class,
    bytes: Bytes,
}

/// Nodes and what is between them; see the [module](super).
pub struct Network {
    random: Random,
    weather: Weather,
    limits: Limits,
    timing: Timing,
    now: Time,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    members: Vec<Member>,
    paths: Vec<Path>,
    parted: BTreeSet<(NodeId, NodeId)>,
    past: BTreeMap<(NodeId, NodeId), Vec<(u64, Bytes)>>,
    trace: Vec<Trace>,
    pool: Arc<Pool>,
}

impl Network {
    /// An empty network with default limits and timing.
    pub fn new(seed: u64, weather: Weather) -> Network {
        Network {
            random: Random::new(seed),
            weather,
            limits: Limits::default(),
            timing: Timing::default(),
            now: Time::ZERO,
            sequence: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            members: Vec::new(),
            paths: Vec::new(),
            parted: BTreeSet::new(),
            past: BTreeMap::new(),
            trace: Vec::new(),
            pool: Pool::unbounded(),
        }
    }

    /// Uses these for connections made from now on.
    pub fn set_limits(&mut self, limits: Limits, timing: Timing) {
        (self.limits, self.timing) = (limits, timing);
    }

    /// Adds a node of this subject (`task/ps/0`); it is started at once.
    pub fn add(&mut self, subject: &str, behaviour: Box<dyn Behaviour>) -> NodeId {
        let node = NodeId(self.members.len());
        self.members.push(Member {
            subject: subject.to_owned(),
            incarnation: 1,
            epoch: 0,
            alive: true,
            behaviour: Some(behaviour),
            fences: Fences::new(),
            totals: Totals::default(),
        });
        self.tell(node, Event::Started);
        node
    }

    /// The present time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The network's source of random numbers, for scenarios.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Which run of a node is the present one, or was the last.
    pub fn incarnation(&self, node: NodeId) -> u64 {
        self.members.get(node.0).map_or(0, |m| m.incarnation)
    }

    /// What has happened so far.
    pub fn trace(&self) -> &[Trace] {
        &self.trace
    }

    /// What a node has counted.
    pub fn counters(&self, node: NodeId) -> Counters {
        self.members
            .get(node.0)
            .map_or_else(Counters::default, |m| m.totals.read())
    }

    /// Does something at a time.
    pub fn at(&mut self, time: Time, script: impl FnOnce(&mut Network) + 'static) {
        self.push(time, Happening::Script(Box::new(script)));
    }

    /// Lets a node do something now, as itself.
    pub fn act(&mut self, node: NodeId, script: impl FnOnce(&mut Node<'_>)) {
        if self.members.get(node.0).is_some_and(|m| m.alive) {
            script(&mut Node {
                network: self,
                id: node,
            });
        }
    }

    /// Has `from` make a connection to `to`.
    pub fn connect(&mut self, from: NodeId, to: NodeId) -> LinkId {
        let link = LinkId(self.paths.len());
        let end = self.end(from, to, true);
        self.paths.push(Path {
            ends: [Some(end), None],
            nodes: [from, to],
            held: BTreeMap::new(),
        });
        self.pump(link, 0);
        link
    }

    /// Ends a node without a word. Peers find out by their timers.
    pub fn kill(&mut self, node: NodeId) {
        self.note(node, "killed");
        if let Some(m) = self.members.get_mut(node.0) {
            m.alive = false;
            m.behaviour = None;
        }
    }

    /// Starts a killed node again, as its next incarnation.
    pub fn restart(&mut self, node: NodeId, behaviour: Box<dyn Behaviour>) {
        if let Some(m) = self.members.get_mut(node.0) {
            m.alive = true;
            m.incarnation += 1;
            m.behaviour = Some(behaviour);
            m.fences = Fences::new();
        }
        self.note(node, "restarted");
        self.tell(node, Event::Started);
    }

    /// Holds back everything between two nodes.
    pub fn part(&mut self, a: NodeId, b: NodeId) {
        self.parted.insert((a.min(b), a.max(b)));
    }

    /// Lets everything between two nodes pass again.
    pub fn heal(&mut self, a: NodeId, b: NodeId) {
        self.parted.remove(&(a.min(b), a.max(b)));
    }

    /// Breaks a connection: either side loses it.
    pub fn cut(&mut self, link: LinkId) {
        for end in 0..2 {
            self.lose(link, end, Error::unavailable("the connection broke"));
        }
    }

    /// Lets everything happen that is due until `end`, which becomes the present time.
    pub fn run_until(&mut self, end: Time) {
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied()
            && at <= end
        {
            self.queue.pop();
            self.now = self.now.max(at);
            if let Some(happening) = self.happenings.remove(&sequence) {
                self.happen(happening);
            }
        }
        self.now = self.now.max(end);
    }

    fn push(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((at.max(self.now), self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn note(&mut self, node: NodeId, what: impl Into<String>) {
        let (at, what) = (self.now, what.into());
        self.trace.push(Trace { at, node, what });
    }

    fn end(&self, node: NodeId, peer: NodeId, dials: bool) -> End {
        let subject = |n: NodeId| self.members.get(n.0).map_or_else(String::new, |m| m.subject.clone());
        let member = self.members.get(node.0);
        let local = Local {
            cluster: "sim".to_owned(),
            subject: subject(node),
            incarnation: member.map_or(0, |m| m.incarnation),
            epoch: member.map_or(0, |m| m.epoch),
            limits: self.limits,
            timing: self.timing,
        };
        End {
            node,
            incarnation: local.incarnation,
            proto: Connection::new(local, subject(peer), dials, self.now),
            arrivals: BTreeMap::new(),
            armed: None,
            told: false,
        }
    }

    fn is_parted(&self, a: NodeId, b: NodeId) -> bool {
        self.parted.contains(&(a.min(b), a.max(b)))
    }

    /// Whether the process that a side of a connection belonged to is the one that runs now.
    fn lives(&self, end: &End) -> bool {
        let member = self.members.get(end.node.0);
        member.is_some_and(|m| m.alive && m.incarnation == end.incarnation)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Script(script) => script(self),
            Happening::Wake {
                node,
                incarnation,
                token,
            } => {
                if self.incarnation(node) == incarnation {
                    self.tell(node, Event::Woken { token });
                }
            }
            Happening::Timer { link, end } => {
                let now = self.now;
                if let Some(e) = self.end_mut(link, end)
                    && e.armed.is_some_and(|t| t <= now)
                {
                    e.armed = None;
                    e.proto.handle_timeout(now);
                    self.pump(link, end);
                }
            }
            Happening::Closed { link, to, why } => self.lose(link, to, why),
            Happening::Frame(frame) => self.arrive(frame),
            Happening::Retry { link, to, class } => self.retry(link, to, class),
        }
    }

    /// A side of a connection whose process still runs.
    fn end_mut(&mut self, link: LinkId, end: usize) -> Option<&mut End> {
        let path = self.paths.get(link.0)?;
        let lives = path.ends.get(end)?.as_ref().is_some_and(|e| self.lives(e));
        if !lives {
            return None;
        }
        self.paths.get_mut(link.0)?.ends.get_mut(end)?.as_mut()
    }

    fn lose(&mut self, link: LinkId, end: usize, why: Error) {
        if let Some(e) = self.end_mut(link, end) {
            e.proto.lost(why);
            self.pump(link, end);
        }
    }

    /// Whether a frame cannot be taken yet: the network is parted, or the receiver does not know its peer yet and
    /// reads nothing but control.
    fn must_wait(&self, path: &Path, to: usize, class: Class) -> bool {
        let known = |e: &End| e.proto.is_up() || e.proto.over().is_some();
        let unknown = class != Class::Control && !path.ends[to].as_ref().is_some_and(known);
        let [a, b] = path.nodes;
        unknown || self.is_parted(a, b)
    }

    fn arrive(&mut self, frame: InFlight) {
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
    fn retry(&mut self, link: LinkId, to: usize, class: Class) {
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
    fn pump(&mut self, link: LinkId, at: usize) {
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

    /// The sides at `node` of other connections with `peer`.
    fn others(&self, link: LinkId, node: NodeId, peer: NodeId) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for (l, path) in self.paths.iter().enumerate().filter(|(l, _)| *l != link.0) {
            for e in 0..2 {
                if path.nodes[e] == node && path.nodes[1 - e] == peer {
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
        let delay = self.random.between(self.weather.quick, self.weather.slow);
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

    fn tell(&mut self, node: NodeId, event: Event) {
        let what = describe(&event);
        let Some(member) = self.members.get_mut(node.0).filter(|m| m.alive) else {
            return;
        };
        // Not there while it is being told something else: it hears of its own doing later.
        let Some(mut behaviour) = member.behaviour.take() else {
            let incarnation = member.incarnation;
            let again = move |n: &mut Network| {
                if n.incarnation(node) == incarnation {
                    n.tell(node, event);
                }
            };
            let now = self.now;
            return self.push(now, Happening::Script(Box::new(again)));
        };
        let incarnation = member.incarnation;
        self.note(node, what);
        behaviour.on(
            &mut Node {
                network: self,
                id: node,
            },
            event,
        );
        if let Some(member) = self.members.get_mut(node.0)
            && member.alive
            && member.incarnation == incarnation
        {
            member.behaviour = Some(behaviour);
        }
    }

    pub(super) fn wake_at(&mut self, node: NodeId, time: Time, token: u64) {
        let incarnation = self.incarnation(node);
        let wake = Happening::Wake {
            node,
            incarnation,
            token,
        };
        self.push(time, wake);
    }

    /// Raises a node's epoch; every link there is.
    pub(super) fn raise_epoch(&mut self, node: NodeId, epoch: u64) -> impl Iterator<Item = LinkId> + use<> {
        if let Some(m) = self.members.get_mut(node.0) {
            m.epoch = m.epoch.max(epoch);
        }
        (0..self.paths.len()).map(LinkId)
    }

    /// Does something with a node's side of a link.
    pub(super) fn with<T>(
        &mut self,
        link: LinkId,
        node: NodeId,
        act: impl FnOnce(&mut Connection<u64>, Time) -> T,
    ) -> Option<T> {
        let now = self.now;
        let at = self.paths.get(link.0)?.nodes.iter().position(|n| *n == node)?;
        let result = act(&mut self.end_mut(link, at)?.proto, now);
        self.pump(link, at);
        Some(result)
    }
}
