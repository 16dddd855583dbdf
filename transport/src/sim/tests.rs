//! What must hold in every network, whatever happens in it.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use actorflow_core::{DType, Tensor};

use super::*;
use crate::limits::{Limits, Timing};

fn ms(n: u64) -> Time {
    Time::from_millis(n)
}

/// What all nodes of a scenario write down.
#[derive(Default)]
struct Book {
    next: u64,
    asked: BTreeSet<u64>,
    answered: BTreeMap<u64, u32>,
    sent: BTreeSet<u64>,
    taken: BTreeMap<u64, u32>,
    /// By receiver, its incarnation and the parcel's number: how often it came.
    came: BTreeMap<(NodeId, u64, u64), u32>,
    /// The latest incarnation of each peer that a node has seen.
    seen: BTreeMap<(NodeId, u64, NodeId), u64>,
    wrong: Vec<String>,
}

type Shared = Rc<RefCell<Book>>;

/// Connects to everybody before it, and says something to everybody every few milliseconds.
struct Talker {
    book: Shared,
    links: BTreeMap<LinkId, (NodeId, u64)>,
    /// The number of the last small parcel on a link.
    last: BTreeMap<LinkId, u64>,
}

impl Talker {
    fn new(book: &Shared) -> Box<Talker> {
        Box::new(Talker {
            book: book.clone(),
            links: BTreeMap::new(),
            last: BTreeMap::new(),
        })
    }

    fn dial(&mut self, node: &mut Node<'_>) {
        for other in 0..node.id().0 {
            let connected = self.links.values().any(|(n, _)| n.0 == other);
            if !connected {
                node.connect(NodeId(other));
            }
        }
    }

    fn talk(&mut self, node: &mut Node<'_>) {
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            let number = {
                let mut book = self.book.borrow_mut();
                book.next += 1;
                book.next
            };
            if node.random().below(3) == 0 {
                self.book.borrow_mut().asked.insert(number);
                let deadline = node.now() + ms(1 + node.random().below(400));
                node.request(link, Message::new(1), deadline, number);
                continue;
            }
            let size = match node.random().below(100) {
                0 => 300_000,
                n => n * 10,
            };
            let value = (size != 500).then(|| Tensor::zeros(DType::U8, [size as usize]).unwrap());
            self.book.borrow_mut().sent.insert(number);
            let parcel = Parcel {
                step: node.id().0 as u64,
                edge: u32::from(size == 300_000),
                tag: number,
                value,
            };
            node.send(link, parcel, Some(number));
        }
    }
}

impl Behaviour for Talker {
    fn on(&mut self, node: &mut Node<'_>, event: Event) {
        match event {
            Event::Started => {
                self.dial(node);
                node.wake_at(node.now() + ms(1), 0);
            }
            Event::Woken { .. } => {
                self.talk(node);
                if node.random().below(20) == 0 {
                    self.dial(node);
                }
                let pause = ms(1 + node.random().below(15));
                if node.now() < ms(400) {
                    node.wake_at(node.now() + pause, 0);
                }
            }
            Event::Connected {
                link,
                peer,
                incarnation,
            } => {
                self.links.insert(link, (peer, incarnation));
                let key = (node.id(), node.incarnation(), peer);
                let mut book = self.book.borrow_mut();
                let seen = book.seen.entry(key).or_default();
                *seen = (*seen).max(incarnation);
            }
            Event::Lost { link, .. } => {
                self.links.remove(&link);
            }
            Event::Request { link, id, message } => {
                if node.random().below(4) > 0 {
                    node.answer(link, id, Ok(message));
                }
            }
            Event::Parcel { link, parcel } => {
                let mut book = self.book.borrow_mut();
                *book
                    .came
                    .entry((node.id(), node.incarnation(), parcel.tag))
                    .or_default() += 1;
                match self.links.get(&link) {
                    None => book.wrong.push(format!("a parcel on link {} that is not up", link.0)),
                    Some((peer, incarnation)) => {
                        let key = (node.id(), node.incarnation(), *peer);
                        if book.seen.get(&key).is_some_and(|seen| seen > incarnation) {
                            book.wrong
                                .push(format!("a parcel of incarnation {incarnation} after a later one"));
                        }
                    }
                }
                if parcel.edge == 0 {
                    let last = self.last.entry(link).or_default();
                    if parcel.tag <= *last {
                        book.wrong
                            .push(format!("parcel {} after {last} on link {}", parcel.tag, link.0));
                    }
                    *last = parcel.tag;
                }
            }
            Event::Answered { token, .. } => {
                *self.book.borrow_mut().answered.entry(token).or_default() += 1;
            }
            Event::Sent { token, .. } => {
                *self.book.borrow_mut().taken.entry(token).or_default() += 1;
            }
            Event::Notice { .. } => {}
        }
    }
}

fn rough() -> Weather {
    Weather {
        breaks: 1500,
        replay: 50_000,
        ..Weather::default()
    }
}

/// Four nodes that talk for a while while links break, nodes die and come back, and the network parts and heals.
fn storm(seed: u64) -> (Network, Shared) {
    let book = Shared::default();
    let mut net = Network::new(seed, rough());
    let limits = Limits {
        in_flight: 8,
        in_flight_bytes: 1 << 20,
        pending_requests: 16,
        ..Limits::default()
    };
    let timing = Timing {
        keep_alive: ms(50),
        idle: ms(200),
        handshake: ms(200),
        stall: ms(300),
    };
    net.set_limits(limits, timing);
    let subjects = ["task/ps/0", "task/ps/1", "task/worker/0", "task/worker/1"];
    let nodes = subjects.map(|s| net.add(s, Talker::new(&book)));
    for _ in 0..3 {
        let at = ms(net.random().below(350));
        let back = at + ms(1 + net.random().below(400));
        let (a, b) = (net.random().below(4) as usize, net.random().below(4) as usize);
        let book = book.clone();
        match net.random().below(2) {
            0 => {
                net.at(at, move |n| n.kill(nodes[a]));
                net.at(back, move |n| n.restart(nodes[a], Talker::new(&book)));
            }
            _ => {
                net.at(at, move |n| n.part(nodes[a], nodes[b]));
                net.at(back, move |n| n.heal(nodes[a], nodes[b]));
            }
        }
    }
    net.run_until(ms(1600));
    (net, book)
}

#[test]
fn in_any_storm_every_wish_has_one_outcome_and_nothing_comes_twice_or_stale() {
    for seed in 0..200 {
        let (net, book) = storm(seed);
        let book = book.borrow();
        assert!(book.wrong.is_empty(), "seed {seed}: {:?}", book.wrong);
        for (number, times) in &book.came {
            assert_eq!(*times, 1, "seed {seed}: parcel {number:?}");
            assert!(book.sent.contains(&number.2), "seed {seed}: {number:?} was never sent");
        }
        // A node that was killed hears nothing more; all others heard of each wish exactly once.
        let killed = net.trace().iter().any(|t| t.what == "killed");
        for (asked, answered) in [(&book.asked, &book.answered), (&book.sent, &book.taken)] {
            assert!(answered.values().all(|n| *n == 1), "seed {seed}");
            let silent = asked.iter().filter(|n| !answered.contains_key(n)).count();
            assert!(killed || silent == 0, "seed {seed}: {silent} without an outcome");
        }
        for node in 0..4 {
            let c = net.counters(NodeId(node));
            let lost = net.trace().iter().filter(|t| t.what.contains("frame"));
            assert_eq!(
                (c.malformed, c.oversized),
                (0, 0),
                "seed {seed}: {:?}",
                lost.collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let (a, _) = storm(5);
    let (b, _) = storm(5);
    let (c, _) = storm(6);
    assert!(a.trace().len() > 100);
    assert_eq!(a.trace(), b.trace());
    assert_ne!(a.trace(), c.trace());
}

#[test]
fn storms_are_rough_enough_to_mean_something() {
    let mut sum = crate::Counters::default();
    let mut lost = 0;
    for seed in 0..40 {
        let (net, _) = storm(seed);
        lost += net.trace().iter().filter(|t| t.what.contains("lost")).count();
        for node in 0..4 {
            let c = net.counters(NodeId(node));
            sum.stale_incarnation += c.stale_incarnation;
            sum.parked += c.parked;
            sum.late_answers += c.late_answers;
            sum.deadlines_exceeded += c.deadlines_exceeded;
            sum.unsent += c.unsent;
        }
    }
    assert!(lost > 100 && sum.stale_incarnation > 0, "{lost} {sum:?}");
    assert!(
        sum.parked > 0 && sum.late_answers > 0 && sum.deadlines_exceeded > 0 && sum.unsent > 0,
        "{sum:?}"
    );
}

/// Does nothing.
struct Quiet;

impl Behaviour for Quiet {
    fn on(&mut self, _: &mut Node<'_>, _: Event) {}
}

#[test]
fn a_killed_node_is_missed_after_the_idle_time_and_a_restarted_one_at_once() {
    let mut net = Network::new(1, Weather::default());
    let a = net.add("task/ps/0", Box::new(Quiet));
    let b = net.add("task/worker/0", Box::new(Quiet));
    net.connect(b, a);
    net.at(ms(2000), move |n| n.kill(a));
    net.run_until(ms(5500));
    let lost = |net: &Network| {
        net.trace()
            .iter()
            .find(|t| t.node == b && t.what.contains("lost"))
            .cloned()
    };
    assert_eq!(lost(&net), None);
    net.run_until(ms(9000));
    assert!(lost(&net).unwrap().what.contains("not heard of for 5s"));

    let mut net = Network::new(1, Weather::default());
    let a = net.add("task/ps/0", Box::new(Quiet));
    let b = net.add("task/worker/0", Box::new(Quiet));
    net.connect(b, a);
    net.at(ms(2000), move |n| n.kill(a));
    net.at(ms(2100), move |n| n.restart(a, Box::new(Quiet)));
    net.run_until(ms(9000));
    let lost = lost(&net).unwrap();
    assert!(lost.at < ms(4000) && lost.what.contains("restarted"), "{lost:?}");
}

/// Produces tensors of 32 KiB as fast as they are taken: offers them, and waits where one comes back.
struct Producer {
    link: Option<LinkId>,
    made: Rc<RefCell<u64>>,
    parked: Rc<RefCell<u64>>,
}

const TENSORS: u64 = 2000;
const TENSOR: u64 = 32 << 10;

impl Producer {
    fn produce(&mut self, node: &mut Node<'_>) {
        let Some(link) = self.link else { return };
        while *self.made.borrow() < TENSORS {
            let parcel = Parcel {
                step: 1,
                edge: 0,
                tag: *self.made.borrow(),
                value: Some(Tensor::zeros(DType::U8, [TENSOR as usize]).unwrap()),
            };
            *self.made.borrow_mut() += 1;
            let waits = node.offer(link, parcel);
            let stops = waits.is_err();
            if let Err(parcel) = waits {
                node.send(link, *parcel, Some(0));
            }
            let parked = node.parked_bytes(link);
            let mut most = self.parked.borrow_mut();
            *most = parked.max(*most);
            if stops {
                return;
            }
        }
    }
}

impl Behaviour for Producer {
    fn on(&mut self, node: &mut Node<'_>, event: Event) {
        match event {
            Event::Connected { link, .. } => self.link = Some(link),
            Event::Sent { result, .. } => result.unwrap(),
            Event::Lost { why, .. } => panic!("{why}"),
            _ => return,
        }
        self.produce(node);
    }
}

/// Writes down the tags of what comes.
struct Consumer(Rc<RefCell<Vec<u64>>>);

impl Behaviour for Consumer {
    fn on(&mut self, _: &mut Node<'_>, event: Event) {
        if let Event::Parcel { parcel, .. } = event {
            self.0.borrow_mut().push(parcel.tag);
        }
    }
}

#[test]
fn a_stopped_peer_makes_its_sender_wait_and_nothing_is_lost_or_closed() {
    for seed in 0..10 {
        let (made, parked, came) = (Rc::default(), Rc::default(), Rc::default());
        let mut net = Network::new(seed, Weather::default());
        let limits = Limits {
            in_flight_bytes: 1 << 20,
            ..Limits::default()
        };
        // Longer than it stands still: this is about memory, not about how long a peer may say nothing.
        let timing = Timing {
            idle: ms(60_000),
            stall: ms(60_000),
            ..Timing::default()
        };
        net.set_limits(limits, timing);
        let b = net.add("task/ps/0", Box::new(Consumer(Rc::clone(&came))));
        let producer = Producer {
            link: None,
            made: Rc::clone(&made),
            parked: Rc::clone(&parked),
        };
        let a = net.add("task/worker/0", Box::new(producer));
        net.connect(a, b);
        net.at(ms(11), move |n| n.pause(b));
        net.run_until(ms(30_000));
        let before = came.borrow().len() as u64;
        assert!(before < TENSORS, "seed {seed}: it was never stopped");
        // The window, and the one that its sender waits with.
        let out = (*made.borrow() - before) * TENSOR;
        assert!(out <= (1 << 20) + TENSOR, "seed {seed}: {out} bytes of memory");
        net.resume(b);
        net.run_until(ms(90_000));
        assert!(*came.borrow() == (0..TENSORS).collect::<Vec<_>>(), "seed {seed}");
        assert!(*parked.borrow() <= TENSOR, "seed {seed}: {} parked", parked.borrow());
        assert!(net.counters(a).parked > 0 && net.counters(a).unsent == 0);
    }
}
