//! Steps that hang, and tasks that graphs do bad things to: what others notice of it.
#![allow(clippy::unwrap_used)] // helpers of tests

mod cluster;
mod flow;

use std::time::{Duration, Instant};

use actorflow::cluster::{ClusterInfo, TaskName};
use actorflow::op::{Category, OpDef};
use actorflow::queue::{Queue, QueueKind};
use actorflow::{CancelToken, Code, DType, Error, Graph, Output, PartialShape, Session, SessionOptions, register_ops};
use cluster::{Cluster, options};
use flow::wait;

/// An operation whose kernel cannot be made.
fn badly_made() -> OpDef {
    OpDef::new("BadlyMade", Category::User)
        .input("x: float")
        .output("y: float")
        .stateful()
        .doc("An operation of this suite.")
        .cpu(|_| panic!("there is no such thing"))
}

register_ops!(badly_made);

/// What a queue on the parameter server gives, which nobody puts anything in.
fn nothing(g: &Graph, name: &str) -> Output {
    let _ps = g.device_scope("/job:ps/task:0");
    let q = Queue::builder(g, QueueKind::Fifo, &[(DType::F32, PartialShape::scalar())]);
    let q = q.shared_name(name).build().unwrap();
    q.dequeue().unwrap()[0].clone()
}

#[test]
fn steps_that_hang_do_not_give_each_other_time() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let hang = |name: &'static str| {
        let g = Graph::new();
        let x = nothing(&g, name);
        let options = SessionOptions {
            stall_timeout: Duration::from_secs(2),
            ..options()
        };
        let s = Session::on(&g, &c.servers[1], options).unwrap();
        let begun = Instant::now();
        let e = s.run(&[], &[&x]).unwrap_err();
        (e, begun.elapsed())
    };
    let (a, b) = std::thread::scope(|scope| {
        let a = scope.spawn(|| hang("a"));
        let b = scope.spawn(|| hang("b"));
        (a.join().unwrap(), b.join().unwrap())
    });
    for (e, took) in [a, b] {
        assert_eq!(e.code(), Code::DeadlineExceeded, "{e}");
        assert!(
            e.message().contains("no progress") && e.message().contains("QueueDequeue"),
            "{e}"
        );
        // Where another step makes progress, it would be twelve seconds.
        assert!(took < Duration::from_secs(11), "{took:?}");
    }
}

#[test]
fn a_step_that_says_how_long_it_may_wait_is_judged_by_that() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let g = Graph::new();
    let x = nothing(&g, "patient");
    let options = SessionOptions {
        stall_timeout: Duration::from_millis(100),
        ..options()
    };
    let s = Session::on(&g, &c.servers[1], options).unwrap();
    // By a deadline of its own: much longer than a step that says nothing would be given.
    let (begun, longest) = (Instant::now(), Duration::from_secs(5));
    let token = CancelToken::new();
    let silent = s.runner().fetch(&x).cancel(&token).run_async().unwrap();
    let e = s.runner().fetch(&x).timeout(longest).run().unwrap_err();
    assert!(begun.elapsed() >= longest, "{e}");
    assert_eq!(e.code(), Code::DeadlineExceeded, "{e}");
    assert!(
        e.message().contains("deadline")
            && e.message().contains("QueueDequeue")
            && !e.message().contains("no progress"),
        "{e}"
    );
    // By being asynchronous: until it is cancelled.
    token.cancel(Error::cancelled("the user gave up"));
    let e = wait(silent).unwrap_err();
    assert_eq!(e.code(), Code::Cancelled, "{e}");
    // Neither, once more: steps that are allowed to wait do not make it wait longer than one that is alone.
    let e = s.run(&[], &[&x]).unwrap_err();
    assert!(e.message().contains("no progress"), "{e}");
}

#[test]
fn a_kernel_that_cannot_be_made_fails_its_plan_and_the_task_serves_on() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let g = Graph::new();
    let x = g.constant([1f32]).unwrap();
    let _ps = g.device_scope("/job:ps/task:0");
    let bad = g.op("BadlyMade").input(&x).output().unwrap();
    let good = x.square().unwrap();
    let s = c.session(&g, 1);
    for _ in 0..3 {
        let e = s.run(&[], &[&bad]).unwrap_err();
        assert_eq!(e.code(), Code::Internal, "{e}");
        assert!(e.message().contains("there is no such thing"), "{e}");
        assert_eq!(e.task(), Some("/job:ps/task:0"), "{e}");
    }
    assert_eq!(s.run(&[], &[&good]).unwrap()[0].to_vec::<f32>().unwrap(), [1.0]);
}

#[test]
fn an_operator_ends_a_step_of_a_task_s_own_session() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let g = Graph::new();
    let x = nothing(&g, "empty");
    let s = c.session(&g, 0);
    let info = ClusterInfo::connect(&c.servers[1].target(), &c.client()).unwrap();
    let ps: TaskName = "/job:ps/task:0".parse().unwrap();
    let e: Error = std::thread::scope(|scope| {
        let run = scope.spawn(|| s.run(&[], &[&x]).unwrap_err());
        let step = loop {
            if let Some(step) = info.steps(&ps).unwrap().first() {
                break step.step;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        info.cancel(&ps, step, "enough").unwrap();
        run.join().unwrap()
    });
    assert_eq!(e.code(), Code::Cancelled, "{e}");
    assert!(e.message().contains("enough"), "{e}");
    assert!(info.steps(&ps).unwrap().is_empty());
}
