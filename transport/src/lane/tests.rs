//! The ring under every order of two threads' steps, and lanes between two ends.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Tensor};
use bytes::Bytes;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use super::ring::{Broken, In, Out, Side, WORDS, Words};
use super::*;
use crate::frame::{Body, Fault, Frame, Intake, Stamp};
use crate::limits::Limits;
use crate::message::Parcel;
use crate::proto::Class;

/// Memory whose words are reached in any order that the model tries.
struct Model {
    words: [AtomicU64; WORDS],
    bytes: Mutex<Vec<u8>>,
}

impl Model {
    fn new() -> Arc<Model> {
        Arc::new(Model {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            bytes: Mutex::new(vec![0; 2 * RING]),
        })
    }
}

impl Words for Model {
    fn load(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::SeqCst)
    }

    fn store(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::SeqCst);
    }

    fn swap(&self, word: usize, value: u64) -> u64 {
        self.words[word].swap(value, Ordering::SeqCst)
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.bytes.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes.lock().unwrap()[at..at + into.len()]);
    }
}

/// A bell that one side waits for: a permit that is kept.
#[derive(Default)]
struct Permit(shuttle::sync::Mutex<bool>, shuttle::sync::Condvar);

impl Permit {
    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Parts that fill the ring more than twice, so that both sides come to sleep.
const PART: usize = RING / 2;
const PARTS: u8 = 5;

fn one_direction() {
    let memory = Model::new();
    let (mut out, mut input) = (Out::new(memory.clone(), Side::Dialed), In::new(memory, Side::Accepted));
    let of_reader = Arc::new(Permit::default());
    let of_writer = Arc::new(Permit::default());
    let (readers, writers) = (of_reader.clone(), of_writer.clone());
    let writer = thread::spawn(move || {
        for part in 0..PARTS {
            while out.room().unwrap() < PART {
                if out.sleep(PART).unwrap() {
                    writers.wait();
                }
            }
            out.write(&vec![part; PART]);
            if out.tell() {
                readers.ring();
            }
        }
    });
    let mut got = vec![0; PART];
    for part in 0..PARTS {
        while input.available().unwrap() < PART {
            if input.sleep().unwrap() {
                of_reader.wait();
            }
        }
        input.read(&mut got);
        assert!(got.iter().all(|b| *b == part), "part {part}");
        if input.tell() {
            of_writer.ring();
        }
    }
    writer.join().unwrap();
    assert_eq!(input.available(), Ok(0));
}

#[test]
fn nobody_sleeps_while_there_is_something_to_do_in_whatever_order() {
    shuttle::check_random(one_direction, 300);
    shuttle::check_pct(one_direction, 300, 3);
}

/// Counters that cannot be, in every place where the other side's is read.
#[test]
fn counters_that_cannot_be_are_seen() {
    shuttle::check_random(
        || {
            let memory = Model::new();
            let mut out = Out::new(memory.clone(), Side::Dialed);
            let input = In::new(memory.clone(), Side::Accepted);
            out.write(b"four");
            out.tell();
            assert_eq!(input.available(), Ok(4));
            memory.store(0, RING as u64 + 1);
            assert_eq!(input.available(), Err(Broken));
            memory.store(0, 0);
            assert_eq!(In::new(memory.clone(), Side::Accepted).available(), Ok(0));
            // More taken than was written.
            memory.store(1, 5);
            assert_eq!(out.room(), Err(Broken));
            assert_eq!(out.sleep(1), Err(Broken));
            memory.store(1, u64::MAX);
            assert_eq!(out.room(), Err(Broken));
        },
        1,
    );
}

#[cfg(target_os = "linux")]
mod between_two_ends {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn key(seed: u8) -> Key {
        Key::export(1, |k| {
            k.fill(seed);
            k[..8].copy_from_slice(&std::process::id().to_le_bytes().repeat(2));
            true
        })
        .unwrap()
    }

    struct End {
        poll: Poll,
        lane: Lane<Memory>,
        bell: Bell,
        intake: Intake,
    }

    fn end(poll: Poll, memory: &Arc<Memory>, bell: Bell, side: Side) -> End {
        End {
            poll,
            lane: Lane::new(memory, side),
            bell,
            intake: Intake::new(Limits::default(), Pool::unbounded()),
        }
    }

    fn ends(seed: u8) -> (End, End) {
        let (a, b) = (Poll::new().unwrap(), Poll::new().unwrap());
        let key = key(seed);
        let mut door = Door::open(&key, b.registry(), Token(0)).unwrap();
        assert!(door.accept(&key, b.registry(), Token(0)).is_none());
        let (memory, bell) = dial(&key, a.registry(), Token(0)).unwrap();
        let dialed = end(a, &memory, bell, Side::Dialed);
        let (memory, bell) = door.accept(&key, b.registry(), Token(0)).unwrap();
        (dialed, end(b, &memory, bell, Side::Accepted))
    }

    /// A frame of a parcel, in pieces.
    fn frame(tag: u64, bytes: usize) -> VecDeque<Bytes> {
        let mut value = Tensor::zeros(DType::U8, [bytes]).unwrap();
        let fill = value.bytes_mut().unwrap().iter_mut().enumerate();
        fill.for_each(|(i, b)| *b = (i as u64 * 7 + tag) as u8);
        let body = Body::Parcel(Parcel {
            step: 1,
            edge: 2,
            tag,
            value: Some(value),
        });
        let stamp = Stamp::default();
        let frame = Frame {
            stamp,
            credited: true,
            body,
        };
        frame.encode().unwrap().chunks.into_iter().collect()
    }

    fn tags(frames: &[Frame]) -> Vec<u64> {
        let tag = |f: &Frame| match &f.body {
            Body::Parcel(p) => {
                let bytes = p.value.as_ref().unwrap().bytes().unwrap();
                let sound = |(i, b): (usize, &u8)| *b == (i as u64 * 7 + p.tag) as u8;
                assert!(bytes.iter().enumerate().all(sound), "parcel {}", p.tag);
                p.tag
            }
            _ => u64::MAX,
        };
        frames.iter().map(tag).collect()
    }

    fn receive(end: &mut End) -> Result<Vec<u64>, Fault> {
        let mut frames = Vec::new();
        let received = end.lane.receive(&mut end.intake, &end.bell, |f| frames.push(f))?;
        assert!(!received.more);
        Ok(tags(&frames))
    }

    fn is_rung(end: &mut End) -> bool {
        let mut events = Events::with_capacity(4);
        end.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(end.bell.quiet(), "the other side is there");
        !events.is_empty()
    }

    #[test]
    fn frames_of_every_class_and_size_arrive_whole_and_small_ones_overtake_large_ones() {
        let (mut a, mut b) = ends(1);
        assert_eq!(receive(&mut b), Ok(vec![]));
        let mut large = frame(1, 5 * RING / 2);
        let mut small = frame(2, 100);
        let mut empty = frame(3, 0);
        assert!(matches!(
            a.lane.put(Class::Bulk, &mut large, &a.bell),
            Ok(Put::Written(_))
        ));
        assert!(is_rung(&mut b), "the reader slept");
        while let Put::Written(_) = a.lane.put(Class::Small, &mut small, &a.bell).unwrap() {
            if small.is_empty() {
                break;
            }
        }
        assert!(matches!(
            a.lane.put(Class::Control, &mut empty, &a.bell),
            Ok(Put::Written(_))
        ));
        assert!(!is_rung(&mut b), "once is enough");
        let mut got = Vec::new();
        while !large.is_empty() {
            if a.lane.put(Class::Bulk, &mut large, &a.bell).unwrap() == Put::Full {
                assert!(!a.lane.is_drained());
                got.extend(receive(&mut b).unwrap());
                assert!(is_rung(&mut a), "the writer slept");
            }
        }
        got.extend(receive(&mut b).unwrap());
        assert_eq!(got, [2, 3, 1]);
        assert!(a.lane.is_drained());
        assert_eq!(b.intake.held(), 0);
    }

    #[test]
    fn both_directions_are_apart() {
        let (mut a, mut b) = ends(2);
        a.lane.put(Class::Small, &mut frame(1, 10), &a.bell).unwrap();
        b.lane.put(Class::Small, &mut frame(2, 20), &b.bell).unwrap();
        assert_eq!(receive(&mut a), Ok(vec![2]));
        assert_eq!(receive(&mut b), Ok(vec![1]));
    }

    #[test]
    fn who_has_no_proof_is_not_let_in_and_keeps_nobody_out() {
        let (a, b) = (Poll::new().unwrap(), Poll::new().unwrap());
        let right = key(3);
        let mut wrong = key(3);
        wrong.secret[NAME + 5] ^= 1;
        let mut door = Door::open(&right, b.registry(), Token(0)).unwrap();
        let mut strangers: Vec<_> = (0..20).map(|_| dial(&wrong, a.registry(), Token(0)).unwrap()).collect();
        assert!(door.accept(&right, b.registry(), Token(0)).is_none());
        assert!(
            strangers.iter_mut().all(|(_, bell)| !bell.quiet()),
            "they are sent away"
        );
        let _friend = dial(&right, a.registry(), Token(0)).unwrap();
        assert!(door.accept(&right, b.registry(), Token(0)).is_some());
    }

    #[test]
    fn without_a_door_there_is_no_lane_and_a_name_is_taken_once() {
        let poll = Poll::new().unwrap();
        assert!(dial(&key(4), poll.registry(), Token(0)).is_err());
        let _door = Door::open(&key(5), poll.registry(), Token(0)).unwrap();
        assert!(Door::open(&key(5), poll.registry(), Token(0)).is_err());
    }

    #[test]
    fn the_end_of_one_side_is_seen_by_the_other() {
        let (a, mut b) = ends(6);
        assert!(b.bell.quiet());
        drop(a);
        assert!(!b.bell.quiet());
    }

    /// What a hostile peer can write: every byte of what lies in the ring, and the counters.
    #[test]
    fn garbage_in_the_ring_is_a_fault_and_takes_no_memory() {
        for (n, head) in [
            [9u8, 0, 0, 0, 8, 0, 0, 0],
            [0, 1, 0, 0, 8, 0, 0, 0],
            [0; 8],
            [0, 0, 0, 0, 255, 255, 255, 255],
        ]
        .into_iter()
        .enumerate()
        {
            let (mut a, mut b) = ends(10 + n as u8);
            a.lane.scribble(&head);
            assert!(matches!(receive(&mut b), Err(Fault::Malformed(_))), "{head:?}");
        }
        let (mut a, mut b) = ends(20);
        a.lane.scribble(&[1, 0, 0, 0, 24, 0, 0, 0]);
        assert!(receive(&mut b).is_err(), "a chunk that is not there");
        let (mut a, mut b) = ends(21);
        let mut noise = VecDeque::from([Bytes::from(vec![0xA5; 5000])]);
        a.lane.put(Class::Bulk, &mut noise, &a.bell).unwrap();
        assert!(matches!(receive(&mut b), Err(Fault::Malformed(_))));
        assert_eq!(b.intake.held(), 0);
    }
}
