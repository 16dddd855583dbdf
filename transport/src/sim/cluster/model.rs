//! What the tasks of a simulated cluster do: steps as the engine does them (`engine/src/cluster`).
//!
//! A step asks a worker and a parameter server for their shares. The server pushes its sum to the worker, the worker
//! pushes a number that belongs to the step back, the server adds it. So a value that is applied twice, of another step or
//! by somebody who was replaced, is seen.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use actorflow_core::{Error, Result, Tensor};

use crate::message::{Message, Parcel};
use crate::proto::Time;
use crate::sim::{Behaviour, Event, LinkId, Node, NodeId};

const RUN: u16 = 1;
const ABORT: u16 = 2;

/// The edge of the sum, and that of the step's number.
const SUM: u32 = 0;
const NUMBER: u32 = 1;

pub(super) const PS: [&str; 2] = ["task/ps/0", "task/ps/1"];
pub(super) const COORDINATOR: &str = "client/c";
pub(super) const WORKERS: [&str; 2] = ["task/worker/0", "task/worker/1"];

/// When the last step must be over.
pub(super) const END: Time = Time::from_millis(6000);
/// How long a step may take before its coordinator gives it up.
pub(super) const DEADLINE: Time = Time::from_millis(700);

pub(super) fn ms(n: u64) -> Time {
    Time::from_millis(n)
}

/// The number that a step adds.
pub(super) fn number(step: u64) -> f64 {
    (step * step + 7) as f64
}

/// A step as its coordinator sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) begun: Time,
    pub(super) ended: Option<Time>,
    pub(super) failed: bool,
    /// The server's run, and its sum after the step.
    pub(super) by: Option<(u64, f64)>,
    /// What the worker was given.
    pub(super) seen: Option<f64>,
}

/// Something that a parameter server has added.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Applied {
    pub(super) step: u64,
    pub(super) value: f64,
    pub(super) sum: f64,
    /// The worker's run that sent it.
    pub(super) from: (String, u64),
    /// The latest run of that worker that the server had seen.
    pub(super) latest: u64,
}

/// What is true, written down by everybody.
#[derive(Default)]
pub(super) struct Book {
    /// Which node is at a subject's address now.
    pub(super) at: BTreeMap<String, NodeId>,
    pub(super) steps: BTreeMap<u64, Outcome>,
    /// By server and its run.
    pub(super) applied: BTreeMap<(String, u64), Vec<Applied>>,
}

pub(super) type Shared = Rc<RefCell<Book>>;

/// Whose link it is, and since when.
#[derive(Debug, Clone)]
struct Link {
    subject: String,
    incarnation: u64,
    since: Time,
}

/// The connections of a node, of which it uses the newest with each subject; as `engine/src/cluster/peers.rs`.
#[derive(Default)]
struct Links {
    up: BTreeMap<LinkId, Link>,
    /// What waits for a connection, by subject.
    waiting: BTreeMap<String, Vec<Wish>>,
    dialing: BTreeMap<LinkId, String>,
}

/// What a node wants of another one.
#[derive(Debug, Clone)]
enum Wish {
    Ask { step: u64, token: u64, header: Vec<u8> },
    Push(Parcel),
}

impl Wish {
    fn carry_out(self, node: &mut Node<'_>, link: LinkId) {
        match self {
            Wish::Ask { step, token, header } => {
                let message = Message {
                    step,
                    header: header.into(),
                    ..Message::new(RUN)
                };
                let deadline = node.now() + DEADLINE;
                node.request(link, message, deadline, token);
            }
            Wish::Push(parcel) => node.send(link, parcel, None),
        }
    }
}

impl Links {
    fn newest(&self, subject: &str) -> Option<LinkId> {
        let of_subject = self.up.iter().filter(|(_, l)| l.subject == subject);
        of_subject.max_by_key(|(id, l)| (l.since, **id)).map(|(id, _)| *id)
    }

    /// Does something with a peer, which is connected before if it is not.
    fn with(&mut self, node: &mut Node<'_>, book: &Shared, subject: &str, wish: Wish) {
        if let Some(link) = self.newest(subject) {
            return wish.carry_out(node, link);
        }
        self.waiting.entry(subject.to_owned()).or_default().push(wish);
        self.dial(node, book, subject);
    }

    /// Connects to a peer, if that is neither done nor under way.
    fn dial(&mut self, node: &mut Node<'_>, book: &Shared, subject: &str) {
        if self.newest(subject).is_none() && !self.dialing.values().any(|s| s == subject) {
            let there = book.borrow().at[subject];
            let link = node.connect(there);
            self.dialing.insert(link, subject.to_owned());
        }
    }

    fn connected(&mut self, node: &mut Node<'_>, link: LinkId, subject: String, incarnation: u64) {
        self.dialing.remove(&link);
        let since = node.now();
        let waiting = self.waiting.remove(&subject).unwrap_or_default();
        self.up.insert(
            link,
            Link {
                subject,
                incarnation,
                since,
            },
        );
        waiting.into_iter().for_each(|w| w.carry_out(node, link));
    }

    /// A connection is gone: whose it was, since when another one has been used, and what was to go there and never will.
    fn lost(&mut self, node: &Node<'_>, link: LinkId) -> (Option<(Link, Time)>, Vec<Wish>) {
        if let Some(subject) = self.dialing.remove(&link) {
            return (None, self.waiting.remove(&subject).unwrap_or_default());
        }
        let Some(gone) = self.up.remove(&link) else {
            return (None, Vec::new());
        };
        let later = self
            .up
            .values()
            .filter(|l| l.subject == gone.subject && l.since > gone.since);
        let superseded = later.map(|l| l.since).min().unwrap_or_else(|| node.now());
        (Some((gone, superseded)), Vec::new())
    }
}

/// Runs steps, one after the other.
pub(super) struct Coordinator {
    book: Shared,
    links: Links,
    next: u64,
    /// The step in progress: its number, its tasks, and the shares that have not reported.
    step: Option<(u64, [String; 2], BTreeSet<u64>)>,
}

/// The tokens of a step's shares: the worker's and the server's.
fn tokens(step: u64) -> [u64; 2] {
    [step * 10, step * 10 + 1]
}

impl Coordinator {
    pub(super) fn make(book: &Shared) -> Box<Coordinator> {
        Box::new(Coordinator {
            book: book.clone(),
            links: Links::default(),
            next: 0,
            step: None,
        })
    }

    fn begin(&mut self, node: &mut Node<'_>) {
        if node.now() >= END - ms(1000) {
            return;
        }
        self.next += 1;
        let step = self.next;
        let pick = |node: &mut Node<'_>, of: [&str; 2]| of[node.random().below(2) as usize].to_owned();
        let (worker, ps) = (pick(node, WORKERS), pick(node, PS));
        let begun = node.now();
        let outcome = Outcome {
            begun,
            ..Outcome::default()
        };
        self.book.borrow_mut().steps.insert(step, outcome);
        self.step = Some((step, [worker.clone(), ps.clone()], tokens(step).into()));
        let book = self.book.clone();
        for (to, other, token) in [(&worker, &ps, tokens(step)[0]), (&ps, &worker, tokens(step)[1])] {
            let header = other.clone().into_bytes();
            self.links.with(node, &book, to, Wish::Ask { step, token, header });
        }
        node.wake_at(begun + DEADLINE, step);
    }

    /// The step is over; failed ones are aborted everywhere, as far as somebody can be told.
    fn end(&mut self, node: &mut Node<'_>, failed: bool) {
        let Some((step, tasks, _)) = self.step.take() else {
            return;
        };
        if let Some(o) = self.book.borrow_mut().steps.get_mut(&step) {
            (o.failed, o.ended) = (failed, Some(node.now()));
        }
        for task in tasks.iter().filter(|_| failed) {
            if let Some(link) = self.links.newest(task) {
                let abort = Message {
                    step,
                    ..Message::new(ABORT)
                };
                // One that cannot be told has lost its coordinator.
                let _ = node.notify(link, abort);
            }
        }
        let pause = ms(1 + node.random().below(20));
        node.wake_at(node.now() + pause, 0);
    }

    fn answered(&mut self, node: &mut Node<'_>, token: u64, result: Result<Message>) {
        let step = token / 10;
        let Some((current, _, left)) = &mut self.step else {
            return;
        };
        if *current != step || !left.remove(&token) {
            return;
        }
        let done = left.is_empty();
        match result {
            Err(_) => self.end(node, true),
            Ok(m) => {
                let value = m.tensors[0].as_slice::<f64>().unwrap()[0];
                if let Some(o) = self.book.borrow_mut().steps.get_mut(&step) {
                    match token % 10 {
                        0 => o.seen = Some(value),
                        _ => o.by = Some((u64::from_le_bytes(m.header[..8].try_into().unwrap()), value)),
                    }
                }
                if done {
                    self.end(node, false);
                }
            }
        }
    }
}

impl Behaviour for Coordinator {
    fn on(&mut self, node: &mut Node<'_>, event: Event) {
        match event {
            Event::Started => self.begin(node),
            Event::Woken { token: 0 } => self.begin(node),
            Event::Woken { token } if self.step.as_ref().is_some_and(|(s, ..)| *s == token) => self.end(node, true),
            Event::Connected {
                link,
                peer,
                incarnation,
            } => {
                let subject = node.subject_of(peer);
                self.links.connected(node, link, subject, incarnation);
            }
            Event::Lost { link, .. } => {
                let (_, never) = self.links.lost(node, link);
                for wish in never {
                    if let Wish::Ask { token, .. } = wish {
                        self.answered(node, token, Err(Error::unavailable("no connection")));
                    }
                }
            }
            Event::Answered { token, result } => self.answered(node, token, result),
            _ => {}
        }
    }
}

/// A share in progress at a task.
struct Share {
    /// How to answer.
    link: LinkId,
    id: u64,
    begun: Time,
    /// The task that it exchanges values with.
    other: String,
}

/// A parameter server or a worker.
pub(super) struct Task {
    book: Shared,
    links: Links,
    is_ps: bool,
    sum: f64,
    shares: BTreeMap<u64, Share>,
    ended: BTreeSet<u64>,
    /// What came for steps that have not begun: from whom, and what.
    early: BTreeMap<u64, (String, u64, f64)>,
    /// The latest run of each peer that was connected.
    latest: BTreeMap<String, u64>,
}

impl Task {
    pub(super) fn make(book: &Shared, is_ps: bool) -> Box<Task> {
        Box::new(Task {
            book: book.clone(),
            links: Links::default(),
            is_ps,
            sum: 0.0,
            shares: BTreeMap::new(),
            ended: BTreeSet::new(),
            early: BTreeMap::new(),
            latest: BTreeMap::new(),
        })
    }

    fn push(&mut self, node: &mut Node<'_>, step: u64, to: &str, edge: u32, value: f64) {
        let parcel = Parcel {
            step,
            edge,
            tag: 0,
            value: Some(Tensor::scalar(value)),
        };
        let book = self.book.clone();
        self.links.with(node, &book, to, Wish::Push(parcel));
    }

    fn run(&mut self, node: &mut Node<'_>, link: LinkId, id: u64, message: &Message) {
        let (step, other) = (message.step, String::from_utf8(message.header.to_vec()).unwrap());
        if self.ended.contains(&step) {
            return node.answer(link, id, Err(Error::cancelled("it was aborted before it began")));
        }
        let begun = node.now();
        let share = Share {
            link,
            id,
            begun,
            other: other.clone(),
        };
        self.shares.insert(step, share);
        // As registering a share does: so that the other one knows which run of this task is asked.
        let book = self.book.clone();
        self.links.dial(node, &book, &other);
        if self.is_ps {
            self.push(node, step, &other, SUM, self.sum);
        }
        if let Some((from, run, value)) = self.early.remove(&step) {
            self.value(node, step, &from, run, value);
        }
    }

    fn finish(&mut self, node: &mut Node<'_>, step: u64, result: Result<f64>) {
        self.ended.insert(step);
        let Some(share) = self.shares.remove(&step) else { return };
        let answer = result.map(|value| Message {
            header: node.incarnation().to_le_bytes().to_vec().into(),
            tensors: vec![Tensor::scalar(value)],
            ..Message::new(RUN)
        });
        node.answer(share.link, share.id, answer);
    }

    /// The value that a share waits for.
    fn value(&mut self, node: &mut Node<'_>, step: u64, from: &str, run: u64, value: f64) {
        let Some(share) = self.shares.get(&step) else {
            if !self.ended.contains(&step) {
                self.early.insert(step, (from.to_owned(), run, value));
            }
            return;
        };
        if share.other != from {
            return;
        }
        if !self.is_ps {
            let to = from.to_owned();
            self.push(node, step, &to, NUMBER, number(step));
            return self.finish(node, step, Ok(value));
        }
        self.sum += value;
        let applied = Applied {
            step,
            value,
            sum: self.sum,
            from: (from.to_owned(), run),
            latest: self.latest.get(from).copied().unwrap_or(0),
        };
        let me = (node.subject(), node.incarnation());
        self.book.borrow_mut().applied.entry(me).or_default().push(applied);
        self.finish(node, step, Ok(self.sum));
    }

    fn fail(&mut self, node: &mut Node<'_>, which: impl Fn(&Share) -> bool) {
        let failed: Vec<u64> = self.shares.iter().filter(|(_, s)| which(s)).map(|(n, _)| *n).collect();
        for step in failed {
            self.finish(node, step, Err(Error::unavailable("a task is lost")));
        }
    }
}

impl Behaviour for Task {
    fn on(&mut self, node: &mut Node<'_>, event: Event) {
        match event {
            Event::Connected {
                link,
                peer,
                incarnation,
            } => {
                let subject = node.subject_of(peer);
                let latest = self.latest.entry(subject.clone()).or_default();
                *latest = incarnation.max(*latest);
                self.links.connected(node, link, subject, incarnation);
            }
            Event::Lost { link, .. } => {
                let (gone, never) = self.links.lost(node, link);
                // What came by it is not answered any more, what was sent on it may be lost.
                self.fail(node, |s| s.link == link);
                if let Some((gone, superseded)) = gone {
                    self.fail(node, |s| s.other == gone.subject && s.begun <= superseded);
                }
                for wish in never {
                    if let Wish::Push(parcel) = wish
                        && self.shares.contains_key(&parcel.step)
                    {
                        self.finish(node, parcel.step, Err(Error::unavailable("no connection")));
                    }
                }
            }
            Event::Request { link, id, message } => self.run(node, link, id, &message),
            Event::Notice { message, .. } if message.kind == ABORT => {
                self.early.remove(&message.step);
                self.finish(node, message.step, Err(Error::cancelled("aborted")));
            }
            Event::Parcel { link, parcel } => {
                if let (Some(from), Some(t)) = (self.links.up.get(&link).cloned(), parcel.value) {
                    let value = t.as_slice::<f64>().unwrap()[0];
                    self.value(node, parcel.step, &from.subject, from.incarnation, value);
                }
            }
            _ => {}
        }
    }
}
