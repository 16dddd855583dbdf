//! Every kind of request that can wait wakes at its deadline, when it is cancelled and when its future is dropped; and
//! leaves nothing behind: what it had taken is put back, and the next request is served.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod flow;

use std::time::Duration;

use actorflow::queue::{Queue, QueueKind};
use actorflow::{CancelToken, Code, DType, Error, Graph, Operation, PartialShape, Session, SessionOptions, Tensor};
use flow::wait;

/// A request that waits in the state that `prepare` brings about, and what must work afterwards.
struct Case {
    name: &'static str,
    graph: Graph,
    prepare: Vec<Operation>,
    waits: Operation,
    /// What lets a request like it through, and the request then ends.
    release: Vec<Operation>,
}

fn run(s: &Session, ops: &[Operation]) {
    for op in ops {
        s.execute(&[op]).unwrap();
    }
}

fn queue(kind: QueueKind, taking: bool, many: bool) -> Case {
    let g = Graph::new();
    let b = Queue::builder(&g, kind, &[(DType::I64, PartialShape::scalar())]);
    let q = b.capacity(2).build().unwrap();
    let element = |x: i64| {
        let x = g.constant(x).unwrap();
        match kind {
            QueueKind::Priority => vec![x.clone(), x],
            _ => vec![x],
        }
    };
    let rows = |n: i64| -> Vec<_> {
        let one = element(0).len();
        let x = g.constant((0..n).collect::<Vec<i64>>()).unwrap();
        vec![x; one]
    };
    let put = q.enqueue(&element(1)).unwrap();
    let take = q.dequeue().unwrap()[0].op();
    let two = g.constant(2i32).unwrap();
    let (prepare, waits, release) = match (taking, many) {
        (true, false) => (vec![], take, vec![put]),
        // One of two is there, and must be put back.
        (true, true) => {
            let take = q.dequeue_many(&two).unwrap()[0].op();
            (vec![put.clone()], take, vec![put])
        }
        (false, false) => (vec![put.clone(), put.clone()], put, vec![take]),
        (false, true) => {
            let all = q.enqueue_many(&rows(2)).unwrap();
            (vec![all.clone()], all, vec![take.clone(), take])
        }
    };
    let name = match (taking, many) {
        (true, false) => "dequeue",
        (true, true) => "dequeue_many",
        (false, false) => "enqueue",
        (false, true) => "enqueue_many",
    };
    Case {
        name,
        graph: g,
        prepare,
        waits,
        release,
    }
}

fn mutex() -> Case {
    let g = Graph::new();
    let mutex = g.op("MutexV2").attr("shared_name", "m").output().unwrap();
    // A run that holds the mutex while it waits for an element.
    let q = Queue::builder(&g, QueueKind::Fifo, &[(DType::I64, PartialShape::scalar())]);
    let q = q.build().unwrap();
    let lock = mutex.unary("MutexLock").unwrap();
    let held = {
        let _locked = g.control_dependencies(&[lock.op()]);
        q.dequeue().unwrap()[0].op()
    };
    let b = g.op("ConsumeMutexLock").input(&lock).control_input(&held);
    let waits = b.finish().unwrap();
    let put = q.enqueue(&[g.constant(1i64).unwrap()]).unwrap();
    Case {
        name: "mutex",
        graph: g,
        prepare: vec![],
        waits,
        release: vec![put],
    }
}

fn staging(taking: bool) -> Case {
    let g = Graph::new();
    let area = |op: &str| {
        g.op(op)
            .attr("dtypes", vec![DType::I64])
            .attr("capacity", 1i64)
            .attr("shared_name", "area")
    };
    let stage = area("Stage").input_list(&[g.constant(1i64).unwrap()]).finish().unwrap();
    let unstage = area("Unstage").finish().unwrap();
    let (prepare, waits, release) = match taking {
        true => (vec![], unstage, vec![stage]),
        false => (vec![stage.clone()], stage, vec![unstage]),
    };
    Case {
        name: if taking { "unstage" } else { "stage" },
        graph: g,
        prepare,
        waits,
        release,
    }
}

fn barrier() -> Case {
    let g = Graph::new();
    let barrier = g
        .op("Barrier")
        .attr("component_types", vec![DType::I64])
        .attr("shapes", vec![PartialShape::scalar()])
        .output()
        .unwrap();
    let insert = |key: &str| {
        let key = g.constant(Tensor::strings([1], vec![key.to_owned()]).unwrap()).unwrap();
        let b = g.op("BarrierInsertMany").input(&barrier).input(&key);
        let b = b.input(&g.constant(vec![1i64]).unwrap());
        b.attr("component_index", 0i64).finish().unwrap()
    };
    let b = g.op("BarrierTakeMany").input(&barrier);
    let b = b.input(&g.constant(2i32).unwrap());
    let waits = b.attr("component_types", vec![DType::I64]).finish().unwrap();
    Case {
        name: "barrier",
        prepare: vec![insert("a")],
        waits,
        release: vec![insert("b")],
        graph: g,
    }
}

fn accumulator() -> Case {
    let g = Graph::new();
    let handle = g
        .op("ResourceConditionalAccumulator")
        .attr("dtype", DType::F32)
        .attr("shape", PartialShape::scalar())
        .output()
        .unwrap();
    let b = g.op("ResourceAccumulatorApplyGradient").input(&handle);
    let b = b.input(&g.constant(100i64).unwrap());
    let apply = b.input(&g.constant(1f32).unwrap()).finish().unwrap();
    let b = g.op("ResourceAccumulatorTakeGradient").input(&handle);
    let b = b.input(&g.constant(2i32).unwrap());
    let waits = b.attr("dtype", DType::F32).finish().unwrap();
    Case {
        name: "accumulator",
        graph: g,
        prepare: vec![apply.clone()],
        waits,
        release: vec![apply],
    }
}

fn cases() -> Vec<Case> {
    let mut all = vec![mutex(), staging(true), staging(false), barrier(), accumulator()];
    for kind in [
        QueueKind::Fifo,
        QueueKind::Padding,
        QueueKind::Shuffle,
        QueueKind::Priority,
    ] {
        for (taking, many) in [(true, false), (true, true), (false, false), (false, true)] {
            all.push(queue(kind, taking, many));
        }
    }
    all
}

#[test]
fn every_parked_request_wakes_and_leaves_nothing_behind() {
    for case in cases() {
        for threads in [1, 2] {
            let options = SessionOptions::with_threads(threads);
            let s = Session::with_options(&case.graph, options).unwrap();
            let name = case.name;
            run(&s, &case.prepare);
            let waits = || s.runner().target(&case.waits);

            let e = waits().timeout(Duration::from_millis(10)).run().unwrap_err();
            assert_eq!(e.code(), Code::DeadlineExceeded, "{name}: {e}");
            let late = waits().timeout(Duration::from_millis(10)).run_async().unwrap();
            assert_eq!(wait(late).unwrap_err().code(), Code::DeadlineExceeded, "{name}");

            let token = CancelToken::new();
            let running = waits().cancel(&token).run_async().unwrap();
            token.cancel(Error::new(Code::Cancelled, "enough"));
            assert_eq!(wait(running).unwrap_err().code(), Code::Cancelled, "{name}");
            drop(waits().run_async().unwrap());

            // Whoever waits next is served, and as if nobody had waited before.
            let last = waits().run_async().unwrap();
            run(&s, &case.release);
            wait(last).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
