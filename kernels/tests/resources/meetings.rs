//! Mutexes, barriers and accumulators: where nodes meet.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use actorflow_core::cancel::CancelToken;
use actorflow_core::error::Result;
use actorflow_core::{AttrValue, Code, DType, PartialShape, Tensor};
use shuttle::thread;

use super::{Session, abort, all, sorted};
use crate::scheduled::{Answer, schedules};

/// A mutex, and whether somebody is inside.
#[derive(Clone)]
struct Guarded {
    session: Session,
    mutex: Tensor,
    inside: Arc<AtomicBool>,
}

impl Guarded {
    fn new() -> Guarded {
        let session = Session::new();
        Guarded {
            mutex: session.make("MutexV2", &[]),
            session,
            inside: Arc::default(),
        }
    }

    fn lock(&self, cancel: &CancelToken) -> Arc<Answer> {
        self.session.start("MutexLock", &[], vec![self.mutex.clone()], cancel)
    }

    /// Is inside alone, then gives the lock back: by the operation, or as a step does that ends without it.
    fn pass(&self, lock: Tensor, consume: bool) {
        assert!(!self.inside.swap(true, Ordering::SeqCst), "two hold the mutex");
        thread::yield_now();
        assert!(self.inside.swap(false, Ordering::SeqCst));
        match consume {
            true => drop(self.session.run("ConsumeMutexLock", &[], vec![lock]).unwrap()),
            false => drop(lock),
        }
    }
}

#[test]
fn one_at_a_time_holds_a_mutex_and_everybody_gets_it() {
    schedules(|| {
        let guarded = Guarded::new();
        let threads = [true, false, true].map(|consume| {
            let guarded = guarded.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    let lock = guarded.lock(&CancelToken::new()).wait().unwrap().remove(0);
                    guarded.pass(lock, consume);
                }
            })
        });
        all(threads.into());
        assert!(
            guarded.lock(&CancelToken::new()).wait().is_ok(),
            "it is free at the end"
        );
    });
}

#[test]
fn a_mutex_goes_to_those_who_wait_in_their_order() {
    schedules(|| {
        let guarded = Guarded::new();
        let never = CancelToken::new();
        let first = guarded.lock(&never).wait().unwrap().remove(0);
        let waiting = [0, 1, 2].map(|me| (me, guarded.lock(&never)));
        let order = Arc::new(Mutex::new(Vec::new()));
        let threads = waiting.map(|(me, lock)| {
            let (guarded, order) = (guarded.clone(), order.clone());
            thread::spawn(move || {
                let lock = lock.wait().unwrap().remove(0);
                order.lock().unwrap().push(me);
                guarded.pass(lock, me == 1);
            })
        });
        guarded.pass(first, true);
        all(threads.into());
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    });
}

#[test]
fn whoever_is_cancelled_does_not_keep_a_mutex_from_the_others() {
    schedules(|| {
        let guarded = Guarded::new();
        let token = CancelToken::new();
        let threads = [true, false, true, false].map(|cancelled| {
            let (guarded, token) = (guarded.clone(), token.clone());
            thread::spawn(move || {
                let token = if cancelled { token } else { CancelToken::new() };
                match guarded.lock(&token).wait() {
                    Ok(mut lock) => guarded.pass(lock.remove(0), true),
                    Err(e) => assert!(cancelled && e.code() == Code::Cancelled, "{e}"),
                }
            })
        });
        let aborter = abort(&token);
        all(threads.into());
        aborter.join().unwrap();
        assert!(
            guarded.lock(&CancelToken::new()).wait().is_ok(),
            "it is free at the end"
        );
    });
}

fn words(words: &[&'static str]) -> Tensor {
    Tensor::strings([words.len()], words.to_vec()).unwrap()
}

#[derive(Clone)]
struct Barrier {
    session: Session,
    handle: Tensor,
}

impl Barrier {
    fn types() -> (&'static str, AttrValue) {
        ("component_types", AttrValue::from([DType::I32, DType::I32]))
    }

    fn new() -> Barrier {
        let session = Session::new();
        let handle = session.make("Barrier", &[Barrier::types()]);
        Barrier { session, handle }
    }

    fn insert(&self, part: i64, key: &'static str, value: i32) -> Result<()> {
        let attrs = [
            ("component_index", AttrValue::from(part)),
            ("T", AttrValue::from(DType::I32)),
        ];
        let inputs = vec![self.handle.clone(), words(&[key]), Tensor::vector(&[value])];
        self.session.run("BarrierInsertMany", &attrs, inputs).map(drop)
    }

    /// One tuple: its key and its parts.
    fn take(&self, cancel: &CancelToken) -> Result<(String, i32, i32)> {
        let inputs = vec![self.handle.clone(), Tensor::scalar(1i32)];
        let got = self
            .session
            .start("BarrierTakeMany", &[Barrier::types()], inputs, cancel);
        let got = got.wait()?;
        let key = String::from_utf8(got[1].as_strings().unwrap()[0].to_vec()).unwrap();
        Ok((key, got[2].to_vec::<i32>()?[0], got[3].to_vec::<i32>()?[0]))
    }

    fn close(&self, cancel: bool) -> Result<()> {
        let c = ("cancel_pending_enqueues", AttrValue::from(cancel));
        self.session
            .run("BarrierClose", &[c], vec![self.handle.clone()])
            .map(drop)
    }
}

/// The keys with their parts.
const TUPLES: [(&str, i32, i32); 3] = [("a", 1, 10), ("b", 2, 20), ("c", 3, 30)];

fn tuples() -> Vec<(String, i32, i32)> {
    TUPLES.map(|(key, x, y)| (key.to_owned(), x, y)).to_vec()
}

#[test]
fn a_barrier_gives_each_tuple_once_with_the_parts_of_its_key() {
    schedules(|| {
        let barrier = Barrier::new();
        let first = {
            let barrier = barrier.clone();
            thread::spawn(move || {
                TUPLES
                    .iter()
                    .for_each(|(key, x, _)| barrier.insert(0, key, *x).unwrap())
            })
        };
        let second = {
            let barrier = barrier.clone();
            thread::spawn(move || {
                TUPLES
                    .iter()
                    .rev()
                    .for_each(|(key, _, y)| barrier.insert(1, key, *y).unwrap())
            })
        };
        let token = CancelToken::new();
        let aborter = abort(&token);
        // One of those who take is cut off; the other takes what is left until the barrier ends.
        let takers = [token, CancelToken::new()].map(|token| {
            let barrier = barrier.clone();
            thread::spawn(move || {
                let mut taken = Vec::new();
                loop {
                    match barrier.take(&token) {
                        Ok(tuple) => taken.push(tuple),
                        Err(e) => return (taken, e.code()),
                    }
                }
            })
        });
        all(vec![first, second, aborter]);
        barrier.close(false).unwrap();
        let (taken, ends): (Vec<_>, Vec<_>) = all(takers.into()).into_iter().unzip();
        assert_eq!(sorted(taken.concat()), tuples());
        assert_eq!(ends[1], Code::OutOfRange);
        assert!([Code::OutOfRange, Code::Cancelled].contains(&ends[0]), "{ends:?}");
    });
}

#[test]
fn a_barrier_that_is_closed_takes_no_new_keys_but_the_rest_of_those_it_has() {
    schedules(|| {
        let barrier = Barrier::new();
        let closer = {
            let barrier = barrier.clone();
            thread::spawn(move || barrier.close(false).unwrap())
        };
        // The second part of a key comes after its first one.
        let inserters = TUPLES.map(|(key, x, y)| {
            let barrier = barrier.clone();
            thread::spawn(move || match barrier.insert(0, key, x) {
                Ok(()) => {
                    barrier.insert(1, key, y).unwrap();
                    Some((key.to_owned(), x, y))
                }
                Err(e) => {
                    assert_eq!(e.code(), Code::Cancelled, "{e}");
                    None
                }
            })
        });
        let taker = {
            let barrier = barrier.clone();
            thread::spawn(move || {
                let mut taken = Vec::new();
                loop {
                    match barrier.take(&CancelToken::new()) {
                        Ok(tuple) => taken.push(tuple),
                        Err(e) => {
                            assert_eq!(e.code(), Code::OutOfRange, "{e}");
                            return taken;
                        }
                    }
                }
            })
        };
        let inserted = all(inserters.into()).into_iter().flatten();
        closer.join().unwrap();
        assert_eq!(sorted(taker.join().unwrap()), sorted(inserted));
    });
}

/// Gradients of several replicas, each of them a bit of its own.
const GRADIENTS: [[i64; 2]; 3] = [[1, 2], [4, 8], [16, 32]];
const SUM: i64 = 63;

/// Threads apply all gradients while two take sums, until they have all of it. `apply` and `take` are the operations.
fn accumulate(
    apply: impl Fn(i64) -> Result<Vec<Tensor>> + Clone + Send + 'static,
    take: impl Fn(&CancelToken) -> Result<i64> + Clone + Send + 'static,
) {
    let (sum, done) = (Arc::new(AtomicI64::new(0)), CancelToken::new());
    let replicas = GRADIENTS.map(|gradients| {
        let apply = apply.clone();
        thread::spawn(move || gradients.iter().for_each(|g| drop(apply(*g).unwrap())))
    });
    let takers = [0, 1].map(|_| {
        let (take, sum, done) = (take.clone(), sum.clone(), done.clone());
        thread::spawn(move || {
            loop {
                match take(&done) {
                    Ok(some) => {
                        if sum.fetch_add(some, Ordering::SeqCst) + some >= SUM {
                            abort(&done).join().unwrap();
                        }
                    }
                    Err(e) => {
                        assert_eq!(e.code(), Code::Cancelled, "{e}");
                        return;
                    }
                }
            }
        })
    });
    all(replicas.into());
    all(takers.into());
    assert_eq!(sum.load(Ordering::SeqCst), SUM);
}

/// The attributes of an accumulator of sums of float64.
fn sums(shape: PartialShape) -> [(&'static str, AttrValue); 3] {
    [
        ("dtype", AttrValue::from(DType::F64)),
        ("shape", AttrValue::from(shape)),
        ("reduction_type", AttrValue::from("SUM")),
    ]
}

/// Later than any step that taking moves the accumulator to.
const FRESH: i64 = 1 << 40;

#[test]
fn an_accumulator_counts_each_gradient_once_and_wakes_who_waits() {
    schedules(|| {
        let session = Session::new();
        let acc = session.make("ResourceConditionalAccumulator", &sums(PartialShape::scalar()));
        let dtype = || [("dtype", AttrValue::from(DType::F64))];
        let (s, a) = (session.clone(), acc.clone());
        let apply = move |g: i64| {
            let inputs = vec![a.clone(), FRESH.into(), Tensor::scalar(g as f64)];
            s.run("ResourceAccumulatorApplyGradient", &dtype(), inputs)
        };
        let take = move |token: &CancelToken| {
            let inputs = vec![acc.clone(), 1i32.into()];
            let sum = session.start("ResourceAccumulatorTakeGradient", &dtype(), inputs, token);
            Ok(sum.wait()?[0].to_scalar::<f64>()? as i64)
        };
        accumulate(apply, take);
    });
}

#[test]
fn a_sparse_accumulator_counts_each_row_once_and_wakes_who_waits() {
    schedules(|| {
        let session = Session::new();
        let shape = PartialShape::from([None, Some(1)]);
        let acc = session.make("SparseConditionalAccumulator", &sums(shape));
        let dtype = || ("dtype", AttrValue::from(DType::F64));
        let (s, a) = (session.clone(), acc.clone());
        let apply = move |g: i64| {
            let attrs = [dtype(), ("has_known_shape", false.into())];
            // Gradients of one replica have a row in common.
            let rows = Tensor::vector(&[0i64, 1 + g % 3]);
            let values = Tensor::from_slice([2, 1], &[g as f64, 2.0 * g as f64])?;
            let shape = Tensor::from_slice([0], &[0i64; 0])?;
            s.run(
                "SparseAccumulatorApplyGradient",
                &attrs,
                vec![a.clone(), FRESH.into(), rows, values, shape],
            )
        };
        let take = move |token: &CancelToken| {
            let inputs = vec![acc.clone(), 1i32.into()];
            let sum = session.start("SparseAccumulatorTakeGradient", &[dtype()], inputs, token);
            let sum = sum.wait()?;
            let (rows, values) = (sum[0].to_vec::<i64>()?, sum[1].to_vec::<f64>()?);
            assert!(rows.is_sorted() && rows[0] == 0, "{rows:?}");
            // All rows but the first one have twice its sum together.
            assert_eq!(2.0 * values[0], values[1..].iter().sum::<f64>());
            Ok(values[0] as i64)
        };
        accumulate(apply, take);
    });
}
