//! Eight threads of producers and consumers: nothing is lost, nothing comes twice, order is kept where it is promised.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use actorflow::queue::{Queue, QueueKind};
use actorflow::{Code, DType, Graph, GraphVariables, Operation, Output, PartialShape, Session, SessionOptions, Tensor};

const THREADS: usize = 4;
const EACH: i64 = 60;

fn sessions(g: &Graph) -> Vec<Session> {
    [1, 2]
        .map(|n| Session::with_options(g, SessionOptions::with_threads(n)).unwrap())
        .into()
}

fn scalar(g: &Graph, name: &str, dtype: DType) -> Output {
    g.placeholder(name, dtype, PartialShape::scalar()).unwrap()
}

fn numbers(t: &Tensor) -> Vec<i64> {
    t.to_vec::<i64>().unwrap()
}

/// Runs `work(i)` on eight threads: producers and consumers by turns.
fn on_threads(produce: impl Fn(i64) + Sync, consume: impl Fn() + Sync) {
    thread::scope(|s| {
        for i in 0..THREADS as i64 {
            let produce = &produce;
            s.spawn(move || produce(i));
            s.spawn(&consume);
        }
    });
}

/// Producers add `1000 * their number + i`, one by one or in threes; consumers take in all ways until the end. What
/// each consumer saw, in order.
fn through(kind: QueueKind) -> Vec<Vec<Vec<i64>>> {
    let g = Graph::new();
    let scalars = [(DType::I64, PartialShape::scalar())];
    let b = Queue::builder(&g, kind, &scalars).capacity(7);
    let queue = match kind {
        QueueKind::Shuffle => b.min_after_dequeue(2).seed(1).build().unwrap(),
        _ => b.build().unwrap(),
    };
    let (x, many) = (
        scalar(&g, "x", DType::I64),
        g.placeholder("many", DType::I64, [None]).unwrap(),
    );
    let with_priority = |x: &Output| match kind {
        QueueKind::Priority => vec![x.negated().unwrap(), x.clone()],
        _ => vec![x.clone()],
    };
    let put = queue.enqueue(&with_priority(&x)).unwrap();
    let put_many = queue.enqueue_many(&with_priority(&many)).unwrap();
    let one = queue.dequeue().unwrap().pop().unwrap();
    let n = g.constant(3i32).unwrap();
    let three = queue.dequeue_many(&n).unwrap().pop().unwrap();
    let some = queue.dequeue_up_to(&n).unwrap().pop().unwrap();
    let close = queue.close(false).unwrap();
    let mut all = Vec::new();
    for s in sessions(&g) {
        let seen: Mutex<Vec<Vec<i64>>> = Mutex::default();
        let left = AtomicUsize::new(THREADS);
        on_threads(
            |i| {
                let mut k = 0;
                while k < EACH {
                    if k % 5 == 0 {
                        let v: Vec<i64> = (k..k + 3).map(|k| 1000 * i + k).collect();
                        s.runner().feed(&many, v).target(&put_many).run().unwrap();
                        k += 3;
                    } else {
                        s.runner().feed(&x, 1000 * i + k).target(&put).run().unwrap();
                        k += 1;
                    }
                }
                if left.fetch_sub(1, SeqCst) == 1 {
                    s.execute(&[&close]).unwrap();
                }
            },
            || {
                let mut mine = Vec::new();
                let mut ways = vec![&one, &three, &some];
                let mut turn = 0;
                while !ways.is_empty() {
                    turn += 1;
                    let at = turn % ways.len();
                    match s.run(&[], &[ways[at]]) {
                        Ok(t) => mine.extend(numbers(&t[0])),
                        Err(e) => {
                            assert_eq!(e.code(), Code::OutOfRange, "{e}");
                            ways.remove(at);
                        }
                    }
                }
                seen.lock().unwrap().push(mine);
            },
        );
        all.push(seen.into_inner().unwrap());
    }
    all
}

fn all_once(seen: &[Vec<i64>]) {
    let mut got: Vec<i64> = seen.iter().flatten().copied().collect();
    got.sort_unstable();
    // Threes may go beyond the last number.
    let mut want = Vec::new();
    for i in 0..THREADS as i64 {
        let mut k = 0;
        while k < EACH {
            let n = if k % 5 == 0 { 3 } else { 1 };
            want.extend((k..k + n).map(|k| 1000 * i + k));
            k += n;
        }
    }
    assert_eq!(got, want);
}

/// What one producer added in order, each consumer sees in order.
fn in_order(seen: &[Vec<i64>]) {
    for mine in seen {
        let mut last: HashMap<i64, i64> = HashMap::new();
        for x in mine {
            if let Some(before) = last.insert(x / 1000, *x) {
                assert!(before < *x, "{x} after {before}");
            }
        }
    }
}

#[test]
fn a_queue_passes_everything_once_and_in_order() {
    for seen in through(QueueKind::Fifo) {
        all_once(&seen);
        in_order(&seen);
    }
}

#[test]
fn a_padding_queue_passes_everything_once_and_in_order() {
    for seen in through(QueueKind::Padding) {
        all_once(&seen);
        in_order(&seen);
    }
}

#[test]
fn a_shuffling_queue_passes_everything_once() {
    for seen in through(QueueKind::Shuffle) {
        all_once(&seen);
    }
}

#[test]
fn a_priority_queue_passes_everything_once() {
    // The last elements of a priority queue that is closed cannot be taken as a smaller batch, as in TensorFlow.
    for seen in through(QueueKind::Priority) {
        all_once(&seen);
    }
}

#[test]
fn a_priority_queue_that_many_threads_filled_is_emptied_in_order() {
    let g = Graph::new();
    let queue = Queue::builder(&g, QueueKind::Priority, &[(DType::I64, PartialShape::scalar())]);
    let queue = queue.build().unwrap();
    let x = scalar(&g, "x", DType::I64);
    let put = queue.enqueue(&[x.clone(), x.clone()]).unwrap();
    let out = queue.dequeue_many(&g.constant(8 * 50i32).unwrap()).unwrap();
    for s in sessions(&g) {
        thread::scope(|scope| {
            for i in 0..8i64 {
                let (s, x, put) = (&s, &x, &put);
                scope.spawn(move || {
                    for k in 0..50 {
                        // Each number once, in no order.
                        s.runner().feed(x, (k * 37 % 50) * 8 + i).target(put).run().unwrap();
                    }
                });
            }
        });
        let got = s.run(&[], &[&out[1]]).unwrap();
        assert_eq!(numbers(&got[0]), (0..400).collect::<Vec<i64>>());
    }
}

#[test]
fn a_barrier_joins_what_different_threads_bring() {
    let g = Graph::new();
    let barrier = g
        .op("Barrier")
        .attr("component_types", vec![DType::I64, DType::I64])
        .attr("shapes", vec![PartialShape::scalar(), PartialShape::scalar()])
        .output()
        .unwrap();
    let key = g.placeholder("key", DType::Str, [None]).unwrap();
    let value = g.placeholder("value", DType::I64, [None]).unwrap();
    let insert: Vec<Operation> = (0..2i64)
        .map(|i| {
            let b = g.op("BarrierInsertMany").input(&barrier).input(&key).input(&value);
            b.attr("component_index", i).finish().unwrap()
        })
        .collect();
    let n = g.constant(5i32).unwrap();
    let take = g
        .op("BarrierTakeMany")
        .input(&barrier)
        .input(&n)
        .attr("component_types", vec![DType::I64, DType::I64])
        .finish()
        .unwrap();
    for s in sessions(&g) {
        let taken: Mutex<Vec<(i64, i64)>> = Mutex::default();
        let rounds = 20;
        on_threads(
            |i| {
                // Producers come in pairs: one brings the first components, the other one the second.
                for k in 0..rounds {
                    let mut ids: Vec<i64> = (0..5).map(|j| (i / 2) * 1000 + k * 5 + j).collect();
                    if i % 2 == 1 {
                        ids.reverse();
                    }
                    let names: Vec<String> = ids.iter().map(i64::to_string).collect();
                    let names = Tensor::strings([5], names).unwrap();
                    let r = s.runner().feed(&key, names).feed(&value, ids);
                    r.target(&insert[(i % 2) as usize]).run().unwrap();
                }
            },
            || {
                for _ in 0..(THREADS / 2) as i64 * rounds / THREADS as i64 {
                    let (a, b) = (take.output(2).unwrap(), take.output(3).unwrap());
                    let got = s.run(&[], &[&a, &b]).unwrap();
                    let pairs = numbers(&got[0]).into_iter().zip(numbers(&got[1]));
                    taken.lock().unwrap().extend(pairs);
                }
            },
        );
        let mut taken = taken.into_inner().unwrap();
        assert!(taken.iter().all(|(a, b)| a == b));
        taken.sort_unstable();
        let want: Vec<i64> = (0..100).chain(1000..1100).collect();
        assert_eq!(taken.into_iter().map(|p| p.0).collect::<Vec<_>>(), want);
    }
}

#[test]
fn a_staging_area_passes_everything_once() {
    let g = Graph::new();
    let x = scalar(&g, "x", DType::I64);
    let area = |op: &str| {
        g.op(op)
            .attr("dtypes", vec![DType::I64])
            .attr("capacity", 3i64)
            .attr("shared_name", "area")
    };
    let stage = area("Stage").input_list(std::slice::from_ref(&x)).finish().unwrap();
    let unstage = area("Unstage").output().unwrap();
    for s in sessions(&g) {
        let seen: Mutex<Vec<i64>> = Mutex::default();
        on_threads(
            |i| {
                for k in 0..EACH {
                    s.runner().feed(&x, 1000 * i + k).target(&stage).run().unwrap();
                }
            },
            || {
                for _ in 0..EACH {
                    let got = s.run(&[], &[&unstage]).unwrap();
                    seen.lock().unwrap().extend(numbers(&got[0]));
                }
            },
        );
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        let want: Vec<i64> = (0..THREADS as i64)
            .flat_map(|i| (0..EACH).map(move |k| 1000 * i + k))
            .collect();
        assert_eq!(seen, want);
    }
}

#[test]
fn one_holds_a_mutex_at_a_time() {
    let g = Graph::new();
    let v = g.variable_builder("v").reference().build(0i64).unwrap();
    let mutex = g.op("MutexV2").output().unwrap();
    let lock = mutex.unary("MutexLock").unwrap();
    // Reading and writing are two operations: without the mutex, additions of others between them would be lost.
    let read = {
        let _held = g.control_dependencies(&[lock.op()]);
        v.handle().identity().unwrap()
    };
    let more = (&read + 1).unwrap();
    let write = g.op("Assign").input(v.handle()).input(&more).finish().unwrap();
    let done = {
        let _after = g.control_dependencies(&[write]);
        g.op("ConsumeMutexLock").input(&lock).finish().unwrap()
    };
    let init = g.global_variables_initializer().unwrap();
    for s in sessions(&g) {
        s.execute(&[&init]).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..40 {
                        s.execute(&[&done]).unwrap();
                    }
                });
            }
        });
        assert_eq!(s.run(&[], &[v.value()]).unwrap()[0], Tensor::from(320i64));
    }
}

#[test]
fn an_accumulator_counts_every_gradient_once() {
    let g = Graph::new();
    let accumulator = g
        .op("ResourceConditionalAccumulator")
        .attr("dtype", DType::F64)
        .attr("shape", PartialShape::scalar())
        .attr("reduction_type", "SUM")
        .output()
        .unwrap();
    let (x, step) = (scalar(&g, "x", DType::F64), g.constant(i64::MAX).unwrap());
    let b = g
        .op("ResourceAccumulatorApplyGradient")
        .input(&accumulator)
        .input(&step);
    let apply = b.input(&x).finish().unwrap();
    let n = g.constant(1i32).unwrap();
    let take = g
        .op("ResourceAccumulatorTakeGradient")
        .input(&accumulator)
        .input(&n)
        .attr("dtype", DType::F64)
        .output()
        .unwrap();
    for s in sessions(&g) {
        let total = Mutex::new(0f64);
        let over = AtomicBool::new(false);
        let left = AtomicUsize::new(THREADS);
        on_threads(
            |i| {
                for k in 0..EACH {
                    s.runner().feed(&x, (1000 * i + k) as f64).target(&apply).run().unwrap();
                }
                if left.fetch_sub(1, SeqCst) == 1 {
                    over.store(true, SeqCst);
                    // One for each that may still wait.
                    for _ in 0..=THREADS {
                        s.runner().feed(&x, 0f64).target(&apply).run().unwrap();
                    }
                }
            },
            || {
                while !over.load(SeqCst) {
                    let r = s.runner().fetch(&take).timeout(std::time::Duration::from_millis(50));
                    match r.run() {
                        Ok(t) => *total.lock().unwrap() += t[0].to_scalar::<f64>().unwrap(),
                        Err(e) => assert_eq!(e.code(), Code::DeadlineExceeded, "{e}"),
                    }
                }
            },
        );
        // What nobody has taken.
        s.runner().feed(&x, 0f64).target(&apply).run().unwrap();
        let rest = s.run(&[], &[&take]).unwrap()[0].to_scalar::<f64>().unwrap();
        let want: i64 = (0..THREADS as i64)
            .flat_map(|i| (0..EACH).map(move |k| 1000 * i + k))
            .sum();
        assert_eq!(total.into_inner().unwrap() + rest, want as f64);
    }
}
