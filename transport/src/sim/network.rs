//! The network: nodes, the connections between them, and one queue of what happens next.
#![forbid(unsafe_code)]

mod wire;

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
use crate::limits::{Limits, Timing};
use crate::proto::{Class, Connection, Fences, Local, Time};

/// A frame that a partition holds back is tried again after this time.
const RETRY: Time = Time::from_millis(20);

/// Frames of past incarnations that are kept for replay, on each path.
const KEPT: usize = 16;

struct Member {
    subject: String,
    incarnation: u64,
    epoch: u64,
    alive: bool,
    paused: bool,
    /// Not there while it is being told something.
    behaviour: Option<Box<dyn Behaviour>>,
    /// What it has not been told yet, in order.
    untold: VecDeque<Event>,
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
        self.add_run(subject, 1, behaviour)
    }

    /// Adds a run of a subject, of which there may be another one: paused, or not aware that it was replaced.
    pub fn add_run(&mut self, subject: &str, incarnation: u64, behaviour: Box<dyn Behaviour>) -> NodeId {
        let node = NodeId(self.members.len());
        self.members.push(Member {
            subject: subject.to_owned(),
            incarnation,
            epoch: 0,
            alive: true,
            paused: false,
            behaviour: Some(behaviour),
            untold: VecDeque::new(),
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

    /// How many nodes there are, runs of one subject counted apart.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The subject of a node.
    pub fn subject(&self, node: NodeId) -> &str {
        self.members.get(node.0).map_or("", |m| &m.subject)
    }

    /// Lets frames take their time from now on, and nothing else happen to them.
    pub fn clear_up(&mut self) {
        let Weather { quick, slow, .. } = self.weather;
        self.weather = Weather {
            quick,
            slow,
            ..Weather::default()
        };
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
            m.untold.clear();
        }
    }

    /// Starts a killed node again, as its next incarnation.
    pub fn restart(&mut self, node: NodeId, behaviour: Box<dyn Behaviour>) {
        if let Some(m) = self.members.get_mut(node.0) {
            m.alive = true;
            m.paused = false;
            m.incarnation += 1;
            m.behaviour = Some(behaviour);
            m.untold.clear();
            m.fences = Fences::new();
        }
        self.note(node, "restarted");
        self.tell(node, Event::Started);
    }

    /// Makes a node stand still: what is for it waits, its timers too.
    pub fn pause(&mut self, node: NodeId) {
        self.note(node, "paused");
        if let Some(m) = self.members.get_mut(node.0) {
            m.paused = true;
        }
    }

    /// Lets a paused node go on.
    pub fn resume(&mut self, node: NodeId) {
        self.note(node, "resumed");
        if let Some(m) = self.members.get_mut(node.0) {
            m.paused = false;
        }
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
            stripe: false,
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

    fn is_paused(&self, node: NodeId) -> bool {
        self.members.get(node.0).is_some_and(|m| m.alive && m.paused)
    }

    /// Whether something is for a node that stands still.
    fn must_rest(&self, happening: &Happening) -> bool {
        let at = |link: &LinkId, end: &usize| self.paths.get(link.0).is_some_and(|p| self.is_paused(p.nodes[*end]));
        match happening {
            Happening::Timer { link, end } => at(link, end),
            Happening::Closed { link, to, .. } => at(link, to),
            Happening::Wake { node, .. } => self.is_paused(*node),
            // Frames keep their order, and scripts are not of a node.
            Happening::Frame(_) | Happening::Retry { .. } | Happening::Script(_) => false,
        }
    }

    fn happen(&mut self, happening: Happening) {
        if self.must_rest(&happening) {
            let later = self.now.saturating_add(RETRY);
            return self.push(later, happening);
        }
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

    /// Tells a node what happens; what it brings about itself it hears of afterwards.
    fn tell(&mut self, node: NodeId, event: Event) {
        let Some(member) = self.members.get_mut(node.0).filter(|m| m.alive) else {
            return;
        };
        member.untold.push_back(event);
        let incarnation = member.incarnation;
        while let Some(member) = self.members.get_mut(node.0)
            && member.alive
            && member.incarnation == incarnation
            && let Some(mut behaviour) = member.behaviour.take()
        {
            let Some(event) = member.untold.pop_front() else {
                member.behaviour = Some(behaviour);
                return;
            };
            self.note(node, describe(&event));
            let mut now = Node {
                network: self,
                id: node,
            };
            behaviour.on(&mut now, event);
            if let Some(member) = self.members.get_mut(node.0)
                && member.alive
                && member.incarnation == incarnation
            {
                member.behaviour = Some(behaviour);
            }
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
