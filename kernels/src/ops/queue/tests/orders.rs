//! Every order in which a few requests can come to a resource actor.
//!
//! An actor touches its state only with its turn held, and the models of the turn (`loom_turn` in the actors crate) show
//! that there is one holder at a time, who sees what the one before has done. So threads can bring requests and
//! cancellations in some order and do nothing else to an actor, and these are all of them.

use actorflow_core::cancel::CancelToken;
use actorflow_core::{AttrValue, Code, DType, Error, PartialShape, Tensor};

use super::{Ints, Outcome, Session};

/// Calls `visit` with every order of the items.
fn orders<T: Copy>(items: &[T], visit: &mut impl FnMut(&[T])) {
    fn rest<T: Copy>(all: &mut [T], fixed: usize, visit: &mut impl FnMut(&[T])) {
        if fixed == all.len() {
            return visit(all);
        }
        for i in fixed..all.len() {
            all.swap(fixed, i);
            rest(all, fixed + 1, visit);
            all.swap(fixed, i);
        }
    }
    rest(&mut items.to_vec(), 0, visit);
}

fn ended(outcome: &Outcome) -> Option<Result<Vec<Tensor>, Code>> {
    let outcome = outcome.0.lock().clone()?;
    Some(outcome.map_err(|e| e.code()))
}

fn integers(tensors: &[Tensor]) -> Vec<i32> {
    tensors.iter().flat_map(|t| t.to_vec::<i32>().unwrap()).collect()
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Adds an element.
    Put(i32),
    /// Takes one.
    Take,
    /// Takes two, until it is withdrawn.
    TakeTwo,
    /// Withdraws it, which may come first.
    Withdraw,
    /// Lets nobody add elements any more; with true not even those who wait to.
    Close(bool),
}

use Step::{Close, Put, Take, TakeTwo, Withdraw};

/// What was added and what came out, in the order in which it was asked for.
fn through(kind: &str, steps: &[Step]) -> (Vec<i32>, Vec<i32>) {
    let s = Session::new();
    let q = Ints::new(&s, kind, 1);
    let cancel = CancelToken::new();
    let (mut puts, mut takes, mut closed) = (Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        match *step {
            Put(x) => puts.push((x, q.put(x))),
            Take => takes.push(q.take()),
            TakeTwo => takes.push(q.take_many("QueueDequeueManyV2", 2, &cancel)),
            Withdraw => {
                cancel.cancel(Error::cancelled("withdrawn"));
            }
            Close(pending) => closed.push(q.close(pending)),
        }
    }
    // Whoever still adds is let through, and nobody waits in the end.
    let mut last = Vec::new();
    while q.size() > 0 || puts.iter().any(|(_, put)| put.waits()) {
        last.push(q.take());
        assert!(last.len() < 9, "{steps:?}: an element comes again and again, or never");
    }
    if closed.is_empty() {
        q.close(false).outputs();
    }
    let all = puts
        .iter()
        .map(|(_, put)| put)
        .chain(&takes)
        .chain(&closed)
        .chain(&last);
    assert!(all.into_iter().all(|o| !o.waits()), "{steps:?}: somebody waits forever");
    let added = puts.iter().filter(|(_, put)| match ended(put) {
        Some(Ok(_)) => true,
        Some(Err(code)) => {
            assert_eq!(code, Code::Cancelled, "{steps:?}");
            false
        }
        None => false,
    });
    let added = added.map(|(x, _)| *x).collect();
    let mut out = Vec::new();
    for take in takes.iter().chain(&last) {
        match ended(take) {
            Some(Ok(elements)) => out.extend(integers(&elements)),
            Some(Err(code)) => assert!(matches!(code, Code::Cancelled | Code::OutOfRange), "{steps:?}: {code}"),
            None => {}
        }
    }
    (added, out)
}

#[test]
fn in_every_order_a_queue_loses_nothing_repeats_nothing_and_keeps_the_order() {
    let cases: [&[Step]; 3] = [
        &[Put(1), Put(2), Put(3), Take, TakeTwo, Withdraw],
        &[Put(1), Put(2), Take, TakeTwo, Withdraw, Close(false)],
        &[Put(1), Put(2), Take, TakeTwo, Withdraw, Close(true)],
    ];
    for case in cases {
        orders(case, &mut |steps| {
            for kind in ["FIFOQueueV2", "PaddingFIFOQueueV2"] {
                let (added, out) = through(kind, steps);
                assert_eq!(added, out, "{kind} {steps:?}");
            }
            let (mut added, mut out) = through("RandomShuffleQueueV2", steps);
            added.sort_unstable();
            out.sort_unstable();
            assert_eq!(added, out, "RandomShuffleQueueV2 {steps:?}");
        });
    }
}

#[test]
fn in_every_order_a_mutex_has_one_holder_and_goes_to_all_in_their_order() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Act {
        Lock(usize),
        Release,
        Withdraw,
    }
    use Act::{Lock, Release, Withdraw};
    orders(&[Lock(0), Lock(1), Lock(2), Release, Release, Withdraw], &mut |steps| {
        let s = Session::new();
        let mutex = s.run("MutexV2", &[], vec![]).outputs().remove(0);
        let cancel = CancelToken::new();
        let mut locks: Vec<(usize, Outcome)> = Vec::new();
        let mut held: Vec<usize> = Vec::new();
        // Who holds the mutex and has not given it up; at most one.
        let holder = |locks: &[(usize, Outcome)], held: &[usize]| {
            let mut holders = locks
                .iter()
                .filter(|(i, o)| !held.contains(i) && matches!(ended(o), Some(Ok(_))));
            let first = holders.next().map(|(i, o)| (*i, o.outputs().remove(0)));
            assert!(holders.next().is_none(), "{steps:?}: two hold the mutex");
            first
        };
        let release = |locks: &[(usize, Outcome)], held: &mut Vec<usize>| {
            let found = holder(locks, held);
            if let Some((i, lock)) = found {
                held.push(i);
                locks.iter().filter(|(j, _)| *j == i).for_each(|(_, o)| o.forget());
                s.run("ConsumeMutexLock", &[], vec![lock]).outputs();
                return true;
            }
            false
        };
        for step in steps {
            match *step {
                Lock(1) => locks.push((1, s.start("MutexLock", &[], vec![mutex.clone()], &cancel))),
                Lock(i) => locks.push((i, s.run("MutexLock", &[], vec![mutex.clone()]))),
                Release => drop(release(&locks, &mut held)),
                Withdraw => {
                    cancel.cancel(Error::cancelled("withdrawn"));
                }
            }
            holder(&locks, &held);
        }
        while release(&locks, &mut held) {}
        let withdrawn = |i: usize| i == 1 && !held.contains(&1);
        let asked: Vec<usize> = locks.iter().map(|(i, _)| *i).filter(|i| !withdrawn(*i)).collect();
        assert_eq!(
            asked, held,
            "{steps:?}: the order in which they asked, or nobody is left out"
        );
    });
}

#[test]
fn in_every_order_an_accumulator_gives_every_gradient_once() {
    #[derive(Debug, Clone, Copy)]
    enum Act {
        Apply(f32),
        Take(i32),
        Withdraw,
    }
    use Act::{Apply, Take, Withdraw};
    orders(
        &[Apply(1.), Apply(10.), Apply(100.), Take(1), Take(2), Withdraw],
        &mut |steps| {
            let s = Session::new();
            let attrs = [
                ("dtype", AttrValue::from(DType::F32)),
                ("shape", AttrValue::from(PartialShape::scalar())),
                ("reduction_type", AttrValue::from("SUM")),
            ];
            let acc = s
                .run("ResourceConditionalAccumulator", &attrs, vec![])
                .outputs()
                .remove(0);
            let dtype = [("dtype", AttrValue::from(DType::F32))];
            let cancel = CancelToken::new();
            let take = |n: i32, cancel: &CancelToken| {
                let inputs = vec![acc.clone(), n.into()];
                s.start("ResourceAccumulatorTakeGradient", &dtype, inputs, cancel)
            };
            let mut takes = Vec::new();
            for step in steps {
                match *step {
                    Apply(x) => {
                        // Of a step in the future, so that none is dropped as late.
                        let inputs = vec![acc.clone(), 9i64.into(), x.into()];
                        let applied = s.run("ResourceAccumulatorApplyGradient", &dtype, inputs);
                        applied.outputs();
                    }
                    Take(n) => takes.push(take(n, &cancel)),
                    Withdraw => {
                        cancel.cancel(Error::cancelled("withdrawn"));
                    }
                }
            }
            assert!(
                takes.iter().all(|t| !t.waits()),
                "{steps:?}: a request that was withdrawn waits"
            );
            let left = s
                .run("ResourceAccumulatorNumAccumulated", &[], vec![acc.clone()])
                .outputs();
            let left = left[0].to_scalar::<i32>().unwrap();
            if left > 0 {
                takes.push(take(left, &CancelToken::new()));
            }
            let sums = takes.iter().filter_map(|t| ended(t)?.ok());
            let sum: f32 = sums.map(|t| t[0].to_scalar::<f32>().unwrap()).sum();
            assert_eq!(sum, 111., "{steps:?}");
        },
    );
}

#[test]
fn in_every_order_a_barrier_joins_each_tuple_once() {
    #[derive(Debug, Clone, Copy)]
    enum Act {
        Insert(i64, &'static str, i32),
        Take,
        TakeTwo,
        Withdraw,
    }
    use Act::{Insert, Take, TakeTwo, Withdraw};
    let steps = [
        Insert(0, "a", 1),
        Insert(1, "a", 10),
        Insert(0, "b", 2),
        Insert(1, "b", 20),
        Take,
        TakeTwo,
        Withdraw,
    ];
    orders(&steps, &mut |steps| {
        let s = Session::new();
        let types = || ("component_types", AttrValue::from([DType::I32, DType::I32]));
        let barrier = s.run("Barrier", &[types()], vec![]).outputs().remove(0);
        let cancel = CancelToken::new();
        let take = |n: i32, cancel: &CancelToken| {
            let inputs = vec![barrier.clone(), n.into()];
            s.start("BarrierTakeMany", &[types()], inputs, cancel)
        };
        let never = CancelToken::new();
        let mut takes = Vec::new();
        for step in steps {
            match *step {
                Insert(part, key, x) => {
                    let attrs = [("component_index", part.into()), ("T", AttrValue::from(DType::I32))];
                    let key = Tensor::strings([1], vec![key]).unwrap();
                    let inputs = vec![barrier.clone(), key, Tensor::vector(&[x])];
                    s.run("BarrierInsertMany", &attrs, inputs).outputs();
                }
                Take => takes.push(take(1, &never)),
                TakeTwo => takes.push(take(2, &cancel)),
                Withdraw => {
                    cancel.cancel(Error::cancelled("withdrawn"));
                }
            }
        }
        let ready = s.run("BarrierReadySize", &[], vec![barrier.clone()]).outputs();
        for _ in 0..ready[0].to_scalar::<i32>().unwrap() {
            takes.push(take(1, &never));
        }
        let mut tuples: Vec<(i32, i32)> = Vec::new();
        for out in takes.iter().filter_map(|t| ended(t)?.ok()) {
            tuples.extend(integers(&out[2..3]).into_iter().zip(integers(&out[3..4])));
        }
        tuples.sort_unstable();
        assert_eq!(tuples, [(1, 10), (2, 20)], "{steps:?}");
    });
}

#[test]
fn in_every_order_a_staging_area_passes_each_element_once() {
    orders(&[Put(1), Put(2), Put(3), Take, Take, Withdraw], &mut |steps| {
        let s = Session::new();
        let attrs = [
            ("dtypes", AttrValue::from([DType::I32])),
            ("shared_name", AttrValue::from("area")),
            ("capacity", AttrValue::from(1i64)),
        ];
        let cancel = CancelToken::new();
        let get = |cancel: &CancelToken| s.start("Unstage", &attrs, vec![], cancel);
        let (mut puts, mut takes) = (Vec::new(), Vec::new());
        for step in steps {
            match *step {
                Put(x) => puts.push(s.run("Stage", &attrs, vec![x.into()])),
                // One of the two can be withdrawn.
                Take if takes.is_empty() => takes.push(get(&cancel)),
                Take | TakeTwo => takes.push(get(&CancelToken::new())),
                Withdraw => {
                    cancel.cancel(Error::cancelled("withdrawn"));
                }
                Close(_) => {}
            }
        }
        let size = || {
            s.run("StageSize", &attrs, vec![]).outputs()[0]
                .to_scalar::<i32>()
                .unwrap()
        };
        while size() > 0 {
            takes.push(get(&CancelToken::new()));
        }
        assert!(
            puts.iter().chain(&takes).all(|o| !o.waits()),
            "{steps:?}: somebody waits forever"
        );
        let mut out: Vec<i32> = Vec::new();
        takes
            .iter()
            .filter_map(|t| ended(t)?.ok())
            .for_each(|t| out.extend(integers(&t)));
        out.sort_unstable();
        assert_eq!(out, [1, 2, 3], "{steps:?}");
    });
}
