//! What a session promises: feeds, fetches, targets, state, concurrency, cancellation, deadlines, budgets, errors.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use actorflow::op::{Category, OpContext, OpDef};
use actorflow::placement::{CostModel, DeviceInfo, Free, PlaceOptions, estimated_ns, place};
use actorflow::{
    CancelToken, Code, DType, Graph, GraphVariables, PartialShape, Passes, Result, Session, SessionOptions, Tensor,
    register_ops,
};

fn sleep_ms(cx: &mut OpContext<'_>) -> Result<()> {
    std::thread::sleep(Duration::from_millis(cx.scalar::<i32>(0)?.unsigned_abs().into()));
    cx.forward(0, 0)
}

fn explode(_: &mut OpContext<'_>) -> Result<()> {
    panic!("a kernel with a bug")
}

fn never(cx: &mut OpContext<'_>) -> Result<()> {
    // Suspended for good: the continuation is kept alive by the step's own cancellation.
    let k = cx.suspend()?;
    if let Some(token) = k.cancel_token() {
        token.on_cancel(move |why| k.finish(Err(why.clone()))).forget();
    }
    Ok(())
}

struct Never;

impl actorflow::op::Kernel for Never {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        never(cx)
    }

    fn may_suspend(&self) -> bool {
        true
    }
}

fn test_ops() -> Vec<OpDef> {
    let one = |name| {
        OpDef::new(name, Category::User)
            .input("x: int32")
            .output("y: int32")
            .stateful()
    };
    vec![
        one("TestSleep").cpu(|_| Ok(Box::new(sleep_ms))),
        one("TestExplode").cpu(|_| Ok(Box::new(explode))),
        one("TestNever").cpu(|_| Ok(Box::new(Never))),
    ]
}

register_ops!(all test_ops);

struct Flag(AtomicUsize);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn block_on<F: Future>(f: F) -> F::Output {
    let flag = Arc::new(Flag(AtomicUsize::new(0)));
    let waker = Waker::from(flag.clone());
    let mut f = pin!(f);
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        if let Poll::Ready(out) = f.as_mut().poll(&mut Context::from_waker(&waker)) {
            return out;
        }
        while flag.0.swap(0, SeqCst) == 0 {
            assert!(Instant::now() < patience, "the future was never woken");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn scalar(t: &Tensor) -> f32 {
    t.to_scalar::<f32>().unwrap()
}

#[test]
fn a_feed_overrides_any_tensor_and_cuts_its_producer() {
    let g = Graph::new();
    let a = g.placeholder("a", DType::F32, PartialShape::scalar()).unwrap();
    let b = (&a * 2.0).unwrap();
    let c = (&b + 1.0).unwrap();
    let s = Session::new(&g).unwrap();
    assert_eq!(scalar(&s.run(&[(&a, 3f32.into())], &[&c]).unwrap()[0]), 7.0);
    // The placeholder is not fed, and not needed.
    assert_eq!(scalar(&s.run(&[(&b, 10f32.into())], &[&c]).unwrap()[0]), 11.0);
    assert_eq!(scalar(&s.run(&[(&c, 5f32.into())], &[&c]).unwrap()[0]), 5.0);
}

#[test]
fn wrong_feeds_are_named() {
    let g = Graph::new();
    let a = g.placeholder("images", DType::F32, [None, Some(4)]).unwrap();
    let s = Session::new(&g).unwrap();
    let e = s.run(&[(&a, Tensor::from([[1.0f32; 3]]))], &[&a]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(
        e.message().contains("[1,3]") && e.message().contains("images:0") && e.message().contains("[?,4]"),
        "{e}"
    );
    let e = s.run(&[(&a, Tensor::from([[1i32; 4]]))], &[&a]).unwrap_err();
    assert!(e.message().contains("int32") && e.message().contains("float32"), "{e}");
    let e = s.run(&[], &[&a]).unwrap_err();
    assert_eq!(e.node(), Some("images"));
    assert_eq!(s.run(&[], &[]).unwrap_err().code(), Code::InvalidArgument);
    let other = Graph::new();
    let foreign = other.constant(1f32).unwrap();
    assert!(s.run(&[], &[&foreign]).unwrap_err().message().contains("another graph"));
}

#[test]
fn shape_errors_name_the_node_both_shapes_and_the_line() {
    let g = Graph::new();
    let a = g.placeholder("a", DType::F32, [2, 3]).unwrap();
    let b = g.placeholder("b", DType::F32, [4, 5]).unwrap();
    let line = line!() + 1;
    let e = a.matmul(&b).unwrap_err();
    let text = e.to_string();
    assert!(
        text.contains("MatMul") && text.contains("[2,3]") && text.contains("[4,5]"),
        "{text}"
    );
    assert_eq!(e.location().map(|l| (l.file(), l.line())), Some((file!(), line)));
}

#[test]
fn variables_keep_their_values_between_runs_and_are_named_when_uninitialized() {
    for reference in [false, true] {
        let g = Graph::new();
        let mut b = g.variable_builder("counter");
        if reference {
            b = b.reference();
        }
        let v = b.build(1f32).unwrap();
        let add = v.assign_add(&g.constant(2f32).unwrap()).unwrap();
        let s = Session::new(&g).unwrap();
        let e = s.run(&[], &[&v]).unwrap_err();
        assert_eq!(e.code(), Code::FailedPrecondition);
        assert!(e.message().contains("counter"), "{e}");
        s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
        for _ in 0..3 {
            s.execute(&[&add]).unwrap();
        }
        assert_eq!(scalar(&s.run(&[], &[&v]).unwrap()[0]), 7.0);
        assert_eq!(scalar(&s.variable("counter").unwrap()), 7.0);
        // A session of its own has variables of its own.
        assert!(Session::new(&g).unwrap().run(&[], &[&v]).is_err());
    }
}

#[test]
fn an_initial_value_may_depend_on_another_variable() {
    let g = Graph::new();
    let a = g.variable("a", 3f32).unwrap();
    let b = g.variable("b", (a.value() * 2.0).unwrap()).unwrap();
    let c = g.variable("c", (b.value() + a.value()).unwrap()).unwrap();
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let out = s.run(&[], &[&a, &b, &c]).unwrap();
    assert_eq!(out.iter().map(scalar).collect::<Vec<_>>(), [3.0, 6.0, 9.0]);
}

#[test]
fn concurrent_runs_of_one_session_lose_no_update() {
    for threads in [1, 2] {
        let g = Graph::new();
        let v = g.variable("v", Tensor::zeros(DType::F32, [1000]).unwrap()).unwrap();
        let one = g.constant(Tensor::full([1000], 1f32).unwrap()).unwrap();
        let add = v.assign_add(&one).unwrap();
        let s = Session::with_options(&g, SessionOptions::with_threads(threads)).unwrap();
        s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        s.execute(&[&add]).unwrap();
                        s.run(&[], &[&v]).unwrap();
                    }
                });
            }
        });
        let v = s.variable("v").unwrap();
        assert!(v.as_slice::<f32>().unwrap().iter().all(|x| *x == 800.0));
    }
}

#[test]
fn a_panicking_kernel_fails_its_step_alone() {
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let bad = g.op("TestExplode").input(&x).name("bad").output().unwrap();
    let s = Session::new(&g).unwrap();
    for _ in 0..2 {
        let e = s.run(&[], &[&bad]).unwrap_err();
        assert_eq!((e.code(), e.node()), (Code::Internal, Some("bad")));
        assert!(e.message().contains("a kernel with a bug"), "{e}");
        assert_eq!(s.run(&[], &[&x]).unwrap()[0].to_scalar::<i32>().unwrap(), 1);
    }
}

#[test]
fn a_run_that_waits_for_ever_fails_at_its_deadline_and_names_the_node() {
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let wait = g.op("TestNever").input(&x).name("waits").output().unwrap();
    let s = Session::new(&g).unwrap();
    let e = s
        .runner()
        .fetch(&wait)
        .timeout(Duration::from_millis(50))
        .run()
        .unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(e.message().contains("waits (TestNever)"), "{e}");
    let run = s
        .runner()
        .fetch(&wait)
        .timeout(Duration::from_millis(50))
        .run_async()
        .unwrap();
    let e = block_on(run).unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(e.message().contains("waits (TestNever)"), "{e}");
}

#[test]
fn a_run_that_nothing_can_wake_fails_by_itself() {
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let wait = g.op("TestNever").input(&x).name("waits").output().unwrap();
    let options = SessionOptions {
        stall_timeout: Duration::from_millis(80),
        ..SessionOptions::default()
    };
    let s = Session::with_options(&g, options).unwrap();
    let e = s.run(&[], &[&wait]).unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(
        e.message().contains("waits (TestNever)") && e.message().contains("no progress"),
        "{e}"
    );
}

#[test]
fn a_run_with_a_deadline_may_wait_until_it_however_short_a_stall_is() {
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let wait = g.op("TestNever").input(&x).name("waits").output().unwrap();
    for threads in [1, 2] {
        let options = SessionOptions {
            stall_timeout: Duration::from_millis(20),
            ..SessionOptions::with_threads(threads)
        };
        let s = Session::with_options(&g, options).unwrap();
        let (begun, longest) = (Instant::now(), Duration::from_millis(300));
        let e = s.runner().fetch(&wait).timeout(longest).run().unwrap_err();
        assert!(begun.elapsed() >= longest, "{threads} threads: {e}");
        assert_eq!(e.code(), Code::DeadlineExceeded);
        assert!(
            e.message().contains("waits (TestNever)") && e.message().contains("deadline"),
            "{e}"
        );
    }
}

#[test]
fn cancelling_wakes_a_waiting_run() {
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let wait = g.op("TestNever").input(&x).output().unwrap();
    let s = Session::new(&g).unwrap();
    let token = CancelToken::new();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| s.runner().fetch(&wait).cancel(&token).run());
        std::thread::sleep(Duration::from_millis(20));
        token.cancel(actorflow::Error::cancelled("the user gave up"));
        let e = run.join().unwrap().unwrap_err();
        assert_eq!((e.code(), e.message()), (Code::Cancelled, "the user gave up"));
    });
    assert_eq!(
        s.runner().fetch(&wait).cancel(&token).run().unwrap_err().code(),
        Code::Cancelled
    );
}

#[test]
fn asynchronous_runs_are_plain_futures_and_dropping_one_cancels_it() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, PartialShape::scalar()).unwrap();
    let y = (&x * 3.0).unwrap();
    let c = g.constant(1i32).unwrap();
    let wait = g.op("TestNever").input(&c).output().unwrap();
    let s = Session::new(&g).unwrap();
    let out = block_on(s.runner().feed(&x, 2f32).fetch(&y).run_async().unwrap()).unwrap();
    assert_eq!(scalar(&out[0]), 6.0);
    drop(s.runner().fetch(&wait).run_async().unwrap());
    let call = s.callable(&[&x], &[&y], &[]).unwrap();
    let many: Vec<_> = (0..50)
        .map(|i| call.call_async(vec![Tensor::from(i as f32)]).unwrap())
        .collect();
    for (i, f) in many.into_iter().enumerate() {
        assert_eq!(scalar(&block_on(f).unwrap()[0]), 3.0 * i as f32);
    }
}

#[test]
fn the_memory_budget_is_checked_before_allocation() {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, [1]).unwrap();
    let big = n.fill_with(&g.constant(1f32).unwrap()).unwrap();
    let sum = big.sum(&[0], false).unwrap();
    let options = SessionOptions {
        memory_budget: 1 << 20,
        passes: Passes::NONE,
        ..SessionOptions::default()
    };
    let s = Session::with_options(&g, options).unwrap();
    let run = |k: i32| s.run(&[(&n, Tensor::from([k]))], &[&sum]);
    assert_eq!(scalar(&run(1000).unwrap()[0]), 1000.0);
    let e = run(1 << 20).unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted);
    assert!(e.node().is_some() && e.message().contains("MiB"), "{e}");
    assert_eq!(scalar(&run(1000).unwrap()[0]), 1000.0);
}

#[test]
fn control_dependencies_order_effects() {
    let g = Graph::new();
    let v = g.variable("v", 1f32).unwrap();
    let set = v.assign(&g.constant(5f32).unwrap()).unwrap();
    let after = {
        let _after = g.control_dependencies(&[set]);
        v.read().unwrap()
    };
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    assert_eq!(scalar(&s.run(&[], &[&after]).unwrap()[0]), 5.0);
}

#[test]
fn independent_slow_nodes_run_on_several_workers() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::I32, PartialShape::scalar()).unwrap();
    let slow = |_| g.op("TestSleep").input(&x).output().unwrap();
    let all: Vec<_> = (0..4).map(slow).collect();
    let sum = g.add_n(&all).unwrap();
    let s = Session::with_options(&g, SessionOptions::with_threads(2)).unwrap();
    let mut threads = std::collections::HashSet::new();
    for _ in 0..20 {
        let (out, trace) = s.runner().feed(&x, 5i32).fetch(&sum).run_traced().unwrap();
        assert_eq!(out[0].to_scalar::<i32>().unwrap(), 20);
        threads.extend(
            trace
                .nodes
                .iter()
                .filter(|n| n.op == "TestSleep")
                .map(|n| n.thread.clone()),
        );
        if threads.len() > 1 {
            return;
        }
    }
    panic!("every slow node ran on {threads:?}");
}

#[test]
fn an_asynchronous_run_is_traced_on_one_device_and_on_several() {
    for devices in [1, 2] {
        let g = Graph::new();
        let x = g.placeholder("x", DType::F32, PartialShape::scalar()).unwrap();
        let first = x.negated().unwrap();
        let last = {
            let _there = g.device_scope(&format!("/cpu:{}", devices - 1));
            first.square().unwrap()
        };
        let c = g.constant(1i32).unwrap();
        let wait = g.op("TestNever").input(&c).output().unwrap();
        let options = SessionOptions {
            devices,
            ..SessionOptions::with_threads(2)
        };
        let s = Session::with_options(&g, options).unwrap();
        let run = || s.runner().feed(&x, 3f32).fetch(&last).fetch(&first);
        for _ in 0..3 {
            let (out, trace) = block_on(run().run_async_traced().unwrap()).unwrap();
            assert_eq!((scalar(&out[0]), scalar(&out[1])), (9.0, -3.0));
            for of in [&first, &last] {
                let name = of.op().name();
                let ran = trace.nodes.iter().filter(|n| *n.name == *name).count();
                assert_eq!(ran, 1, "{name} in {trace:?}");
            }
        }
        // It fails as others do, and dropping it cancels the run.
        let late = s.runner().fetch(&wait).timeout(Duration::from_millis(50));
        let e = block_on(late.run_async_traced().unwrap()).unwrap_err();
        assert_eq!(e.code(), Code::DeadlineExceeded, "{e}");
        drop(s.runner().fetch(&wait).run_async_traced().unwrap());
        assert_eq!(scalar(&run().run().unwrap()[0]), 9.0);
    }
}

#[test]
fn plans_are_cached_within_their_bound() {
    let g = Graph::new();
    let options = SessionOptions {
        plan_cache: 4,
        ..SessionOptions::default()
    };
    let s = Session::with_options(&g, options).unwrap();
    for i in 0..20 {
        let c = g.constant(i as f32).unwrap();
        let y = (&c + 1.0).unwrap();
        for _ in 0..2 {
            assert_eq!(scalar(&s.run(&[], &[&y]).unwrap()[0]), i as f32 + 1.0);
        }
    }
}

#[test]
fn a_trace_has_the_nodes_of_all_devices() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, [2]).unwrap();
    let mut last = x.clone();
    for i in 0..3 {
        let _there = g.device_scope(&format!("/cpu:{i}"));
        last = (&last + 1f32).unwrap();
    }
    let options = SessionOptions {
        devices: 3,
        ..SessionOptions::with_threads(2)
    };
    let s = Session::with_options(&g, options).unwrap();
    for _ in 0..8 {
        let feed = Tensor::vector(&[1f32, 2.0]);
        let (out, trace) = s.runner().feed(&x, feed).fetch(&last).run_traced().unwrap();
        assert_eq!(out[0], Tensor::vector(&[4f32, 5.0]));
        for i in 0..3 {
            let device = format!("/job:localhost/replica:0/task:0/device:CPU:{i}");
            assert!(
                trace.nodes.iter().any(|n| *n.device == *device),
                "no {device}: {trace:?}"
            );
        }
        assert!(trace.nodes.windows(2).all(|w| {
            let end = |n: &actorflow::NodeTrace| n.start_ns + n.duration_ns;
            end(&w[0]) <= end(&w[1])
        }));
    }
}

#[test]
fn a_session_places_by_what_the_runs_of_another_have_measured() {
    let g = Graph::new();
    let given = g.placeholder("x", DType::F32, [None, None]).unwrap();
    let x = given.unary("Neg").unwrap();
    let chain = || -> actorflow::Output {
        let mut y = x.matmul(&x).unwrap();
        for _ in 0..4 {
            y = y.matmul(&x).unwrap();
        }
        y
    };
    let ends = [chain(), chain()];
    // By its estimates, of a machine that is faster than any, nothing is worth sending.
    let costs = Arc::new(CostModel::new().rates(1e9, 1e9));
    let session = || {
        let options = SessionOptions {
            devices: 2,
            free_nodes: Free::CostModel,
            costs: Some(costs.clone()),
            passes: Passes::NONE,
            ..SessionOptions::with_threads(2)
        };
        Session::with_options(&g, options).unwrap()
    };
    let on = |s: &Session| ends.each_ref().map(|o| s.device_of(&o.op()).unwrap());
    let first = session();
    let before = on(&first);
    assert_eq!(before[0], before[1]);
    let feed = Tensor::full([192, 192], 0.01f32).unwrap();
    first
        .runner()
        .feed(&given, feed)
        .fetch(&ends[0])
        .fetch(&ends[1])
        .run_traced()
        .unwrap();
    let name = ends[0].op().name();
    assert!(costs.measured_on(&name, &before[0]).is_some_and(|ns| ns > 10_000));
    let after = on(&session());
    assert_ne!(after[0], after[1]);
    assert_eq!(on(&first), before);
    // The model says itself that it is faster.
    let devices: Vec<DeviceInfo> = first
        .devices()
        .iter()
        .map(|name| DeviceInfo {
            name: name.parse().unwrap(),
            memory: 0,
            threads: 2,
            incarnation: 1,
        })
        .collect();
    let by = |free| {
        let options = PlaceOptions {
            free,
            costs: Some(costs.clone()),
            ..PlaceOptions::default()
        };
        let placement = place(&g, &devices, None, &options).unwrap();
        estimated_ns(&g, &devices, &placement, &costs).unwrap()
    };
    let (together, divided) = (by(Free::Default), by(Free::CostModel));
    assert!(divided * 4 < together * 3, "{divided} ns, {together} ns on one device");
}
