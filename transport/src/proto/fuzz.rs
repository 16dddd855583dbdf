//! Two peers whose users, network and frames do anything: nothing panics, nothing grows without bound, and every wish has
//! one outcome. All of it follows from a seed here, and from the fuzzer's bytes in `fuzz/`.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Error, Tensor};
use bytes::Bytes;

use super::*;
use crate::counters::Counters;
use crate::frame::{Body, Credit, Decoder, Frame, Hello, Intake, Outcome, Stamp};
use crate::sim::Random;

fn limits() -> Limits {
    Limits {
        header: 64,
        message: 600_000,
        tensor: 500_000,
        in_flight: 4,
        in_flight_bytes: 600_000,
        parked: 8,
        pending_requests: 6,
        ..Limits::default()
    }
}

fn local(subject: &str, incarnation: u64) -> Local {
    Local {
        cluster: "mars".to_owned(),
        subject: subject.to_owned(),
        incarnation,
        stripe: false,
        epoch: 0,
        limits: limits(),
        timing: Timing::default(),
    }
}

/// One side: its machine, what is under way to it, and what became of its user's wishes.
struct Side {
    proto: Connection<u64>,
    inbox: VecDeque<Frame>,
    outcomes: BTreeMap<u64, u32>,
    wishes: u64,
    asked: Vec<u64>,
}

impl Side {
    fn new(me: &str, run: u64, peer: &str, dials: bool) -> Side {
        Side {
            proto: Connection::new(local(me, run), peer.to_owned(), dials, Time::ZERO),
            inbox: VecDeque::new(),
            outcomes: BTreeMap::new(),
            wishes: 0,
            asked: Vec::new(),
        }
    }

    fn wish(&mut self) -> u64 {
        self.wishes += 1;
        self.wishes
    }

    /// Takes out what the machine gives, and checks what it may not exceed.
    fn drain(&mut self, dials: bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(action) = self.proto.poll() {
            match action {
                Action::Send { frame, .. } => frames.push(frame),
                Action::Connected { .. } if !dials => self.proto.welcome(),
                Action::Request { id, .. } => self.asked.push(id),
                Action::Answered(k, _) | Action::Sent(k, _) => *self.outcomes.entry(k).or_default() += 1,
                Action::Connected { .. } | Action::Notice(_) | Action::Parcel(_) | Action::Close(_) => {}
            }
        }
        assert!(
            self.proto.outbound.loose().frames <= limits().parked as u64,
            "too many are parked"
        );
        assert!(
            self.proto.asked.len() <= limits().pending_requests,
            "too many are asked"
        );
        assert!(
            self.proto.requests.len() <= limits().pending_requests,
            "too many are pending"
        );
        assert!(self.proto.actions.is_empty() && self.proto.deliveries.len() <= 1);
        frames
    }
}

fn size(random: &mut Random) -> usize {
    match random.below(8) {
        0 => BULK as usize + random.below(300_000) as usize,
        1 => 0,
        _ => random.below(4000) as usize,
    }
}

fn message(random: &mut Random) -> Message {
    let bytes = size(random);
    Message {
        step: random.below(5),
        header: vec![7; random.below(70) as usize].into(),
        tensors: match random.below(3) {
            0 => vec![Tensor::zeros(DType::U8, [bytes]).expect("a small tensor")],
            _ => Vec::new(),
        },
        ..Message::new(random.below(9) as u16)
    }
}

fn parcel(random: &mut Random) -> Parcel {
    let bytes = size(random);
    Parcel {
        step: random.below(9),
        edge: random.below(9) as u32,
        tag: random.number(),
        value: (!bytes.is_multiple_of(5)).then(|| Tensor::zeros(DType::U8, [bytes]).expect("a small tensor")),
    }
}

/// A frame that no sound peer sends, most likely.
fn hostile(random: &mut Random) -> Frame {
    let odd = |random: &mut Random| match random.below(4) {
        0 => u64::MAX - random.below(3),
        1 => 0,
        _ => random.below(40),
    };
    let body = match random.below(8) {
        0 => Body::Hello(Hello {
            cluster: if random.below(2) == 0 { "mars" } else { "venus" }.to_owned(),
            subject: if random.below(2) == 0 {
                "task/ps/0"
            } else {
                "task/worker/0"
            }
            .to_owned(),
            header: odd(random),
            message: odd(random),
            tensor: odd(random),
            window_bytes: odd(random),
            window: odd(random),
            pending_requests: odd(random),
            stripes: odd(random),
            stripe: random.below(2) == 0,
        }),
        1 => Body::Credit(Credit {
            frames: odd(random),
            bytes: odd(random),
        }),
        2 => Body::Ping { silence: odd(random) },
        3 => Body::Parcel(parcel(random)),
        4 => Body::Notice(message(random)),
        5 => Body::Request {
            id: odd(random),
            message: message(random),
        },
        6 => Body::Answer {
            id: odd(random),
            outcome: Outcome::of(Ok(message(random))),
        },
        _ => Body::Answer {
            id: odd(random),
            outcome: Outcome::of(Err(Error::aborted("no"))),
        },
    };
    let stamp = Stamp {
        epoch: random.below(4),
        incarnation: [10, 20, odd(random)][random.below(3) as usize],
    };
    Frame {
        stamp,
        credited: random.below(2) == 0,
        body,
    }
}

/// What the user of a side does.
fn act(side: &mut Side, random: &mut Random, now: Time) {
    match random.below(11) {
        10 => {
            let then = side.wish();
            match side.proto.offer(parcel(random), now) {
                Ok(()) => *side.outcomes.entry(then).or_default() += 1,
                Err(parcel) => side.proto.send(*parcel, Some(then), now),
            }
        }
        0..3 => {
            let (then, deadline) = (side.wish(), now + Time::from_millis(random.below(3000)));
            side.proto.request(message(random), deadline, then, now);
        }
        3..6 => {
            let then = side.wish();
            side.proto.send(parcel(random), Some(then), now);
        }
        // A refusal is told at once.
        6 => drop(side.proto.notify(message(random), now)),
        7 => {
            let answer = match random.below(2) {
                0 => Ok(message(random)),
                _ => Err(Error::not_found("nothing")),
            };
            let id = side.asked.pop().unwrap_or_else(|| random.below(9));
            side.proto.answer(id, answer, now);
        }
        8 => side.proto.set_epoch(random.below(3)),
        _ => side.proto.handle_timeout(now),
    }
}

/// A conversation; `rough`: frames are damaged, lost, repeated, reordered and made up, too. What each side has counted.
pub(crate) fn converse(random: &mut Random, rough: bool) -> [Counters; 2] {
    let mut sides = [
        Side::new("task/worker/0", 10, "task/ps/0", true),
        Side::new("task/ps/0", 20, "task/worker/0", false),
    ];
    let pool = Pool::new(32 << 20, 0);
    let mut intakes = [(); 2].map(|()| Intake::new(limits(), pool.clone()));
    let mut now = Time::ZERO;
    for _ in 0..120 {
        now += Time::from_millis(random.below(120));
        let at = random.below(2) as usize;
        match random.below(4) {
            0 | 1 => act(&mut sides[at], random, now),
            _ => {
                let count = sides[at].inbox.len();
                let which = if rough && random.below(10) == 0 {
                    random.below(count.max(1) as u64)
                } else {
                    0
                };
                if let Some(frame) = sides[at].inbox.remove(which as usize) {
                    sides[at].proto.receive(frame, now);
                }
            }
        }
        if rough && random.below(12) == 0 {
            sides[at].proto.receive(hostile(random), now);
        }
        for (from, to) in [(0, 1), (1, 0)] {
            for frame in sides[from].drain(from == 0) {
                let encoded = frame.encode().expect("what a machine gives out can be sent");
                let mut bytes = encoded.chunks.concat();
                if rough && random.below(30) == 0 {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] = random.number() as u8;
                }
                let mut decoder = Decoder::new();
                match decoder.push(&mut Bytes::from(bytes), &mut intakes[to]) {
                    Ok(Some(frame)) => {
                        if !(rough && random.below(40) == 0) {
                            sides[to].inbox.push_back(frame.clone());
                        }
                        if rough && random.below(40) == 0 {
                            sides[to].inbox.push_back(frame);
                        }
                    }
                    Ok(None) => decoder.abandon(&mut intakes[to]),
                    Err(fault) => {
                        decoder.abandon(&mut intakes[to]);
                        sides[to].proto.fault(&fault);
                    }
                }
            }
        }
    }
    let [mut a, mut b] = sides;
    for side in [&mut a, &mut b] {
        side.proto.lost(Error::unavailable("the end"));
        side.drain(false);
        assert_eq!(side.outcomes.len() as u64, side.wishes, "wishes without an outcome");
        assert!(side.outcomes.values().all(|n| *n == 1), "{:?}", side.outcomes);
        assert_eq!(side.proto.next_timeout(), None);
        side.inbox.clear();
    }
    assert!(pool.stats().peak <= 32 << 20);
    assert_eq!(pool.stats().used, 0, "memory is kept");
    [a, b].map(|mut side| side.proto.take_counted())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many conversations there are: `ACTORFLOW_FUZZ_ITERATIONS`, or a number that takes a second.
    fn iterations() -> u64 {
        match std::env::var("ACTORFLOW_FUZZ_ITERATIONS") {
            Ok(n) => n.parse().expect("ACTORFLOW_FUZZ_ITERATIONS is a number"),
            Err(_) => 1500,
        }
    }

    /// A conversation that says its seed if it panics.
    fn seeded(seed: u64, rough: bool) -> [Counters; 2] {
        let talk = || converse(&mut Random::new(seed), rough);
        std::panic::catch_unwind(talk).unwrap_or_else(|_| panic!("of seed {seed}"))
    }

    #[test]
    fn whatever_frames_come_nothing_panics_or_grows_and_every_wish_has_one_outcome() {
        for seed in 0..iterations() {
            seeded(seed, true);
        }
    }

    #[test]
    fn sound_peers_never_accuse_each_other() {
        for seed in 0..iterations() / 2 {
            for c in seeded(seed, false) {
                assert_eq!((c.malformed, c.oversized), (0, 0), "seed {seed}");
            }
        }
    }

    #[test]
    fn bytes_of_any_length_are_a_conversation() {
        for length in [0, 1, 7, 500] {
            let script: Vec<u8> = (0..length).map(|i| (i * 37) as u8).collect();
            converse(&mut Random::of_bytes(&script), true);
        }
    }
}
