//! Sessions over the tasks of a cluster: several servers of this process, over QUIC on the loopback.
#![allow(clippy::unwrap_used)] // helpers of tests

mod cluster;

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actorflow::cluster::identity::{Authority, Subject};
use actorflow::cluster::{ClusterInfo, ConnectOptions, TaskName};
use actorflow::flow::{WhileOptions, while_loop};
use actorflow::train::monitored::hooks::chrome_trace;
use actorflow::{Code, DType, Graph, GraphVariables, Session, Tensor};
use cluster::{Cluster, HOUR, doubled, on_ps, options};

fn block_on<F: Future>(f: F) -> F::Output {
    let mut f = pin!(f);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Poll::Ready(out) = f.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return out;
        }
        assert!(Instant::now() < until, "the future does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_graph_runs_over_tasks_and_variables_outlive_sessions() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let build = || {
        let g = Graph::new();
        let v = on_ps(&g, Tensor::from([1f32, 2.0]));
        let _worker = g.device_scope("/job:worker/task:0");
        let x = g.placeholder("x", DType::F32, [Some(2)]).unwrap();
        let y = (v.value() * &x).unwrap();
        let add = {
            let _ps = g.device_scope("/job:ps/task:0");
            v.assign_add(&y).unwrap()
        };
        (g, x, y, add)
    };
    let (g, x, y, add) = build();
    let s = c.session(&g, 1);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let call = s.callable(&[&x], &[&y], &[&add]).unwrap();
    let feed = [Tensor::from([1f32, 1.0])];
    assert_eq!(call.call(&feed).unwrap()[0], Tensor::from([1f32, 2.0]));
    assert_eq!(call.call(&feed).unwrap()[0], Tensor::from([2f32, 4.0]));
    drop((call, s));

    // Another session, of a client outside, sees the same variable.
    let (g, x, y, _) = build();
    let s = c.connect(&g, 0);
    let got = s.run(&[(&x, Tensor::from([10f32, 1.0]))], &[&y]).unwrap();
    assert_eq!(got[0], Tensor::from([40f32, 8.0]));
    assert_eq!(s.variable("v").unwrap(), Tensor::from([4f32, 8.0]));
    let info = ClusterInfo::connect(&c.servers[0].target(), &c.client()).unwrap();
    info.reset(&[]).unwrap();
    let e = s.run(&[(&x, Tensor::from([10f32, 1.0]))], &[&y]).unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition, "{e}");
    assert_eq!(e.task(), Some("/job:ps/task:0"));
}

#[test]
fn a_trace_has_every_task_and_device_on_one_timeline() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let g = Graph::new();
    let v = on_ps(&g, Tensor::from([1f32, 2.0]));
    let x = g.placeholder("x", DType::F32, [Some(2)]).unwrap();
    let y = {
        let _worker = g.device_scope("/job:worker/task:0");
        (v.value() * &x).unwrap()
    };
    let z = {
        let _ps = g.device_scope("/job:ps/task:0");
        y.square().unwrap()
    };
    let init = g.global_variables_initializer().unwrap();
    let (of_task, of_client) = (c.session(&g, 1), c.connect(&g, 0));
    of_task.execute(&[&init]).unwrap();
    for s in [of_task, of_client] {
        // Compiles and registers.
        let feed = || Tensor::from([3f32, 1.0]);
        s.run(&[(&x, feed())], &[&z]).unwrap();
        let run = || s.runner().feed(&x, feed()).fetch(&z);
        // One that nobody waits for on a thread says the same.
        let (out, trace) = block_on(run().run_async_traced().unwrap()).unwrap();
        assert_eq!((&out[0], trace.left_out), (&Tensor::from([9f32, 4.0]), 0));
        for of in [&y, &z] {
            assert!(trace.nodes.iter().any(|n| *n.name == *of.op().name()), "{trace:?}");
        }
        let begun = Instant::now();
        let (out, trace) = run().run_traced().unwrap();
        let took = begun.elapsed().as_nanos() as u64;
        assert_eq!((&out[0], trace.left_out), (&Tensor::from([9f32, 4.0]), 0));
        let of = |output: &actorflow::Output| {
            let name = output.op().name();
            let node = trace.nodes.iter().find(|n| *n.name == *name);
            node.unwrap_or_else(|| panic!("no {name} in {trace:?}")).clone()
        };
        let (first, second) = (of(&y), of(&z));
        assert_eq!(&*first.device, "/job:worker/replica:0/task:0/device:CPU:0");
        assert_eq!(&*second.device, "/job:ps/replica:0/task:0/device:CPU:0");
        // Within the run, as it was seen from here.
        assert!(
            trace.nodes.iter().all(|n| n.start_ns + n.duration_ns <= took),
            "{took}: {trace:?}"
        );
        let file: serde_json::Value = serde_json::from_str(&chrome_trace(&trace)).unwrap();
        let events = file["traceEvents"].as_array().unwrap();
        let tasks: Vec<&str> = events
            .iter()
            .filter(|e| e["name"] == "process_name")
            .map(|e| e["args"]["name"].as_str().unwrap())
            .collect();
        assert!(
            tasks.contains(&"/job:worker/replica:0/task:0") && tasks.contains(&"/job:ps/replica:0/task:0"),
            "{tasks:?}"
        );
    }
}

#[test]
fn a_loop_spans_tasks() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0), ("worker", 1)]);
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, [] as [Option<usize>; 0]).unwrap();
    let rate = g.constant(2f32).unwrap();
    let (zero, one) = (g.constant(0i32).unwrap(), g.constant(1f32).unwrap());
    let out = while_loop(
        &[zero, one],
        |v| {
            let _d = g.device_scope("/job:worker/task:1");
            v[0].less(&n)
        },
        |v| {
            let _d = g.device_scope("/job:ps");
            let y = (&v[1] * &rate)?;
            let _d = g.device_scope("/job:worker/task:0");
            Ok(vec![(&v[0] + 1)?, y])
        },
        WhileOptions::default(),
    )
    .unwrap();
    let s = c.connect(&g, 1);
    for trips in [3, 0, 12] {
        let got = s.run(&[(&n, Tensor::scalar(trips))], &[&out[1]]).unwrap();
        assert_eq!(got[0].to_scalar::<f32>().unwrap(), 2f32.powi(trips));
    }
}

#[test]
fn a_large_tensor_crosses_unharmed() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, [None]).unwrap();
    let _ps = g.device_scope("/job:ps");
    let y = x.negated().unwrap();
    let s = c.session(&g, 1);
    let values: Vec<f32> = (0..3_000_000).map(|i| i as f32).collect();
    let got = s.run(&[(&x, Tensor::from(values.clone()))], &[&y]).unwrap();
    let got = got[0].as_slice::<f32>().unwrap();
    assert!(got.iter().zip(&values).all(|(a, b)| *a == -b) && got.len() == values.len());
}

#[test]
fn a_task_that_is_gone_is_named_and_its_return_is_noticed() {
    let mut c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let g = Graph::new();
    let v = on_ps(&g, Tensor::from([1f32]));
    let y = (v.value() + 1.0).unwrap();
    let init = g.global_variables_initializer().unwrap();
    let s = c.session(&g, 1);
    s.execute(&[&init]).unwrap();
    assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32]));
    let ps = c.servers.remove(0);
    ps.shutdown(Duration::ZERO);
    drop(ps);
    let begun = Instant::now();
    let e = s.runner().fetch(&y).timeout(Duration::from_secs(3)).run().unwrap_err();
    assert!(matches!(e.code(), Code::Unavailable | Code::DeadlineExceeded), "{e}");
    assert!(e.to_string().contains("/job:ps/task:0"), "{e}");
    assert!(begun.elapsed() < Duration::from_secs(8));
    let back = c.start("ps", 0).unwrap();
    // It has forgotten its variables, but the session works with it.
    let e = s.run(&[], &[&y]).unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition, "{e}");
    s.execute(&[&init]).unwrap();
    assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32]));
    drop(back);
}

#[test]
fn an_absent_task_is_named_only_by_who_needs_it() {
    let soon = |o: &mut actorflow::cluster::ServerOptions| o.connect_timeout = Duration::from_secs(2);
    let mut c = Cluster::with(&[("ps", 0), ("worker", 0)], soon).unwrap();
    let gone = c.servers.remove(0);
    drop(gone);
    let g = Graph::new();
    let near = g.constant([1f32]).unwrap().square().unwrap();
    let far = {
        let _ps = g.device_scope("/job:ps");
        near.square().unwrap()
    };
    let s = c.session(&g, 0);
    assert_eq!(s.run(&[], &[&near]).unwrap()[0], Tensor::from([1f32]));
    let e = s.run(&[], &[&far]).unwrap_err();
    assert_eq!(e.code(), Code::Unavailable, "{e}");
    assert!(e.message().contains("/job:ps/task:0"), "{e}");
}

#[test]
fn only_those_who_may_submit_graphs() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let g = Graph::new();
    let y = {
        let _d = g.device_scope("/job:worker");
        g.constant([1f32]).unwrap().square().unwrap()
    };
    // A parameter server has no business running graphs on workers.
    let s = c.session(&g, 0);
    let e = s.run(&[], &[&y]).unwrap_err();
    assert_eq!(e.code(), Code::PermissionDenied, "{e}");
    // Nor has another cluster's client any.
    let foreign = Authority::ephemeral("test").unwrap();
    let subject = Subject::Client { name: "eve".into() };
    let mut eve = ConnectOptions::new(foreign.issue(subject, HOUR).unwrap());
    eve.connect_timeout = Duration::from_secs(3);
    let e = Session::connect(&g, &c.servers[1].target(), &eve, options())
        .err()
        .unwrap();
    assert!(matches!(e.code(), Code::Unauthenticated | Code::Unavailable), "{e}");
}

#[test]
fn only_a_chief_may_say_that_a_task_is_gone_and_one_that_lives_is_connected_again() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0)]);
    let ps = TaskName::new("ps", 0).unwrap();
    let g = Graph::new();
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let s = c.connect(&g, 1);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));

    let incarnation = c.servers[0].incarnation();
    let client = ClusterInfo::connect(&c.servers[1].target(), &c.client()).unwrap();
    let deaf = client.announce_gone(&ps, incarnation).unwrap();
    assert_eq!(deaf.len(), 1);
    assert_eq!(deaf[0].1.code(), Code::PermissionDenied, "{}", deaf[0].1);

    let chief = ConnectOptions::new(c.identity("chief/supervisor"));
    let chief = ClusterInfo::connect(&c.servers[1].target(), &chief).unwrap();
    assert!(chief.announce_gone(&ps, incarnation).unwrap().is_empty());
    // Connections to it are closed under way, so that a run may be hit; later ones are not.
    let until = Instant::now() + Duration::from_secs(20);
    let got = loop {
        match s.run(&[], &[&y]) {
            Ok(got) => break got,
            Err(e) => assert!(e.code() == Code::Unavailable && Instant::now() < until, "{e}"),
        }
    };
    assert_eq!(got[0], Tensor::from([2f32, 4.0]));
}
