//! Producers and consumers at queues and staging areas.

use actorflow_core::cancel::CancelToken;
use actorflow_core::error::Result;
use actorflow_core::{AttrValue, Code, DType, PartialShape, Tensor};
use shuttle::thread;

use super::{Session, abort, all, sorted};
use crate::scheduled::schedules;

/// A queue, or a staging area, of int32 numbers.
#[derive(Clone)]
struct Line {
    session: Session,
    kind: &'static str,
    /// None of a staging area, which nodes know by name.
    handle: Option<Tensor>,
    capacity: i64,
}

impl Line {
    fn new(kind: &'static str, capacity: i64) -> Line {
        let session = Session::new();
        let mut attrs = vec![
            ("component_types", AttrValue::from([DType::I32])),
            ("shapes", AttrValue::from([PartialShape::scalar()])),
            ("capacity", AttrValue::from(capacity)),
        ];
        if kind == "RandomShuffleQueueV2" {
            attrs.push(("seed", AttrValue::from(7i64)));
        }
        let handle = (kind != "Stage").then(|| session.make(kind, &attrs));
        Line {
            session,
            kind,
            handle,
            capacity,
        }
    }

    fn area(&self) -> Vec<(&'static str, AttrValue)> {
        vec![
            ("dtypes", AttrValue::from([DType::I32])),
            ("shared_name", AttrValue::from("area")),
            ("capacity", AttrValue::from(self.capacity)),
        ]
    }

    fn types(&self) -> Vec<DType> {
        match self.kind {
            "PriorityQueueV2" => vec![DType::I64, DType::I32],
            _ => vec![DType::I32],
        }
    }

    fn inputs(&self, components: Vec<Tensor>) -> Vec<Tensor> {
        self.handle.iter().cloned().chain(components).collect()
    }

    /// Puts a number; of a priority queue it is its own priority.
    fn put(&self, x: i32, cancel: &CancelToken) -> Result<()> {
        let x = match self.kind {
            "PriorityQueueV2" => vec![Tensor::scalar(i64::from(x)), Tensor::scalar(x)],
            _ => vec![Tensor::scalar(x)],
        };
        let done = match self.kind {
            "Stage" => self.session.start("Stage", &self.area(), x, cancel),
            _ => {
                let types = ("Tcomponents", AttrValue::from(self.types()));
                self.session.start("QueueEnqueueV2", &[types], self.inputs(x), cancel)
            }
        };
        done.wait().map(drop)
    }

    fn put_many(&self, x: &[i32]) -> Result<()> {
        let types = ("Tcomponents", AttrValue::from(self.types()));
        let inputs = self.inputs(vec![Tensor::vector(x)]);
        self.session.run("QueueEnqueueManyV2", &[types], inputs).map(drop)
    }

    fn take(&self, cancel: &CancelToken) -> Result<i32> {
        let taken = match self.kind {
            "Stage" => self.session.start("Unstage", &self.area(), vec![], cancel),
            _ => {
                let types = ("component_types", AttrValue::from(self.types()));
                self.session
                    .start("QueueDequeueV2", &[types], self.inputs(vec![]), cancel)
            }
        };
        taken.wait()?.last().unwrap().to_scalar()
    }

    fn take_many(&self, op: &str, n: i32, cancel: &CancelToken) -> Result<Vec<i32>> {
        let types = ("component_types", AttrValue::from(self.types()));
        let inputs = self.inputs(vec![Tensor::scalar(n)]);
        self.session.start(op, &[types], inputs, cancel).wait()?[0].to_vec()
    }

    fn close(&self, cancel: bool) -> Result<()> {
        let c = ("cancel_pending_enqueues", AttrValue::from(cancel));
        self.session.run("QueueCloseV2", &[c], self.inputs(vec![])).map(drop)
    }

    /// How many elements it has.
    fn size(&self) -> usize {
        let size = match self.kind {
            "Stage" => self.session.run("StageSize", &self.area(), vec![]),
            _ => self.session.run("QueueSizeV2", &[], self.inputs(vec![])),
        };
        size.unwrap()[0].to_i64().unwrap() as usize
    }

    /// All that is left in it.
    fn drain(&self) -> Vec<i32> {
        (0..self.size())
            .map(|_| self.take(&CancelToken::new()).unwrap())
            .collect()
    }
}

/// Kinds that promise an order, and those that promise another one or none.
const IN_ORDER: [&str; 3] = ["FIFOQueueV2", "PaddingFIFOQueueV2", "Stage"];
const NOT_IN_ORDER: [&str; 2] = ["RandomShuffleQueueV2", "PriorityQueueV2"];
/// What each of the two producers puts.
const PUTS: [[i32; 3]; 2] = [[0, 1, 2], [10, 11, 12]];

/// Whether what comes from one producer is in its order.
fn in_order(taken: &[i32]) -> bool {
    PUTS.iter().all(|puts| {
        let of: Vec<&i32> = taken.iter().filter(|x| puts.contains(x)).collect();
        of.is_sorted()
    })
}

#[test]
fn each_element_goes_to_one_consumer_and_in_order_where_that_is_promised() {
    for kind in IN_ORDER.into_iter().chain(NOT_IN_ORDER) {
        schedules(move || {
            let line = Line::new(kind, 1);
            let never = CancelToken::new();
            let producers = PUTS.map(|puts| {
                let (line, never) = (line.clone(), never.clone());
                thread::spawn(move || puts.iter().for_each(|x| line.put(*x, &never).unwrap()))
            });
            let consumers = [0, 1].map(|_| {
                let (line, never) = (line.clone(), never.clone());
                thread::spawn(move || (0..3).map(|_| line.take(&never).unwrap()).collect::<Vec<i32>>())
            });
            all(producers.into());
            let taken = all(consumers.into());
            assert_eq!(sorted(taken.concat()), PUTS.concat(), "{kind}");
            assert_eq!(line.size(), 0, "{kind}");
            if IN_ORDER.contains(&kind) {
                assert!(taken.iter().all(|t| in_order(t)), "{kind}: {taken:?}");
            }
        });
    }
}

#[test]
fn a_priority_queue_gives_the_least_first_however_they_came() {
    schedules(|| {
        let line = Line::new("PriorityQueueV2", 10);
        let producers = PUTS.map(|puts| {
            let line = line.clone();
            thread::spawn(move || {
                puts.iter()
                    .rev()
                    .for_each(|x| line.put(*x, &CancelToken::new()).unwrap())
            })
        });
        all(producers.into());
        assert_eq!(line.drain(), PUTS.concat());
    });
}

#[test]
fn batches_larger_than_the_capacity_are_made_of_each_element_once() {
    schedules(|| {
        let line = Line::new("FIFOQueueV2", 2);
        let producers = PUTS.map(|puts| {
            let line = line.clone();
            thread::spawn(move || line.put_many(&puts).unwrap())
        });
        let consumers = [0, 1].map(|_| {
            let line = line.clone();
            thread::spawn(move || line.take_many("QueueDequeueManyV2", 3, &CancelToken::new()).unwrap())
        });
        all(producers.into());
        let batches = all(consumers.into());
        assert_eq!(sorted(batches.concat()), PUTS.concat());
        assert!(batches.iter().all(|b| b.len() == 3 && in_order(b)), "{batches:?}");
    });
}

#[test]
fn a_queue_that_is_closed_gives_what_was_put_and_then_ends_everybody() {
    for cancel in [false, true] {
        schedules(move || {
            let line = Line::new("FIFOQueueV2", 1);
            let never = CancelToken::new();
            let producers = PUTS.map(|puts| {
                let (line, never) = (line.clone(), never.clone());
                thread::spawn(move || {
                    let put = puts.iter().map(|x| (*x, line.put(*x, &never)));
                    put.collect::<Vec<_>>()
                })
            });
            let closer = {
                let line = line.clone();
                thread::spawn(move || line.close(cancel).unwrap())
            };
            let consumers = [false, true].map(|batches| {
                let (line, never) = (line.clone(), never.clone());
                thread::spawn(move || {
                    let mut taken = Vec::new();
                    loop {
                        let more = match batches {
                            true => line.take_many("QueueDequeueUpToV2", 2, &never),
                            false => line.take(&never).map(|x| vec![x]),
                        };
                        match more {
                            Ok(more) => taken.extend(more),
                            Err(e) => {
                                assert_eq!(e.code(), Code::OutOfRange, "{e}");
                                return taken;
                            }
                        }
                    }
                })
            });
            let mut put = Vec::new();
            for of_one in all(producers.into()) {
                // Whoever was refused once is refused from then on.
                assert!(of_one.is_sorted_by_key(|(_, done)| done.is_err()), "{of_one:?}");
                for (x, done) in of_one {
                    match done {
                        Ok(()) => put.push(x),
                        Err(e) => assert_eq!(e.code(), Code::Cancelled, "{e}"),
                    }
                }
            }
            closer.join().unwrap();
            let taken = all(consumers.into());
            assert!(taken.iter().all(|t| in_order(t)), "{taken:?}");
            assert_eq!(sorted(taken.concat()), sorted(put));
            assert_eq!(line.close(false).unwrap_err().code(), Code::Cancelled);
        });
    }
}

#[test]
fn whoever_is_cancelled_is_woken_and_has_put_or_taken_all_or_nothing() {
    for kind in ["FIFOQueueV2", "RandomShuffleQueueV2", "PriorityQueueV2", "Stage"] {
        schedules(move || {
            let line = Line::new(kind, 1);
            let token = CancelToken::new();
            let producer = {
                let (line, token) = (line.clone(), token.clone());
                thread::spawn(move || {
                    line.put(1, &CancelToken::new()).unwrap();
                    line.put(2, &token).is_ok()
                })
            };
            let consumer = {
                let (line, token) = (line.clone(), token.clone());
                thread::spawn(move || line.take(&token))
            };
            let aborter = abort(&token);
            let second = producer.join().unwrap();
            let taken = consumer.join().unwrap();
            aborter.join().unwrap();
            if let Err(e) = &taken {
                assert_eq!(e.code(), Code::Cancelled, "{e}");
            }
            let put = if second { vec![1, 2] } else { vec![1] };
            assert_eq!(sorted(taken.into_iter().chain(line.drain())), put, "{kind}");
        });
    }
}

#[test]
fn a_batch_that_is_cancelled_puts_its_elements_back_where_they_were() {
    schedules(|| {
        let line = Line::new("FIFOQueueV2", 10);
        let token = CancelToken::new();
        let batch = {
            let (line, token) = (line.clone(), token.clone());
            thread::spawn(move || line.take_many("QueueDequeueManyV2", 5, &token).unwrap_err())
        };
        let producer = {
            let line = line.clone();
            thread::spawn(move || (1..=3).for_each(|x| line.put(x, &CancelToken::new()).unwrap()))
        };
        let other = {
            let line = line.clone();
            thread::spawn(move || line.take(&CancelToken::new()).unwrap())
        };
        let aborter = abort(&token);
        assert_eq!(batch.join().unwrap().code(), Code::Cancelled);
        producer.join().unwrap();
        aborter.join().unwrap();
        let (taken, left) = (other.join().unwrap(), line.drain());
        assert!(left.is_sorted(), "{left:?}");
        assert_eq!(sorted(left.into_iter().chain([taken])), [1, 2, 3]);
    });
}

#[test]
fn those_who_wait_are_told_when_the_queue_is_destroyed() {
    schedules(|| {
        let line = Line::new("FIFOQueueV2", 1);
        let types = || ("component_types", AttrValue::from([DType::I32]));
        let never = CancelToken::new();
        let start = || {
            line.session
                .start("QueueDequeueV2", &[types()], line.inputs(vec![]), &never)
        };
        let (a, b) = (start(), start());
        let resources = line.session.resources.clone();
        let destroyers = vec![
            thread::spawn(move || drop(line)),
            thread::spawn(move || resources.clear_container("")),
        ];
        let told = [a, b].map(|waits| thread::spawn(move || waits.wait().unwrap_err()));
        for e in all(told.into()) {
            assert_eq!(e.code(), Code::Cancelled, "{e}");
        }
        all(destroyers);
    });
}
