//! Certificates that are renewed, expire and are revoked while steps go on.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use std::time::{Duration, Instant};

use actorflow::{Code, DType, Graph, GraphVariables, Operation, Output, Tensor};
use cluster::{Cluster, doubled, on_ps};

const TASKS: &[(&str, u32)] = &[("ps", 0), ("worker", 0)];

/// A queue on the parameter server: what takes from it, for a worker, and what puts into it.
fn queue(g: &Graph) -> (Output, Operation) {
    let types = || vec![DType::F32];
    let (head, put) = {
        let _ps = g.device_scope("/job:ps/task:0");
        let queue = g.op("FIFOQueueV2").attr("component_types", types()).output().unwrap();
        let head = g.op("QueueDequeueV2").input(&queue).attr("component_types", types());
        let put = g.op("QueueEnqueueV2").input(&queue);
        let put = put.input_list(&[g.constant(21f32).unwrap()]).finish().unwrap();
        (head.output().unwrap(), put)
    };
    let _worker = g.device_scope("/job:worker/task:0");
    ((&head * 2f32).unwrap(), put)
}

#[test]
fn a_task_renews_its_certificate_in_the_midst_of_steps() {
    // The first certificates are good for some seconds only.
    let short = Duration::from_secs(6);
    let begun = Instant::now();
    let c = Cluster::with(TASKS, |_| {}).unwrap();
    let issue = |who: &str, ttl| c.authority.issue(who.parse().unwrap(), ttl).unwrap();
    c.servers[0].set_identity(issue("task/ps/0", short)).unwrap();
    c.servers[1].set_identity(issue("task/worker/0", short)).unwrap();
    let g = Graph::new();
    let (taken, put) = queue(&g);
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let s = c.connect(&g, 1);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    std::thread::scope(|scope| {
        // It takes longer than the change of connections.
        let long = scope.spawn(|| s.run(&[], &[&taken]));
        std::thread::sleep(Duration::from_millis(300));
        for (server, who) in c.servers.iter().zip(["task/ps/0", "task/worker/0"]) {
            server.set_identity(c.identity(who)).unwrap();
        }
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
            std::thread::sleep(Duration::from_millis(20));
        }
        s.execute(&[&put]).unwrap();
        assert_eq!(long.join().unwrap().unwrap()[0], Tensor::scalar(42f32));
    });
    // What was shown at first expires, and nobody notices.
    while begun.elapsed() < short + Duration::from_secs(2) {
        assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_whose_certificate_is_revoked_is_cut_off_and_others_are_not() {
    let c = Cluster::new(TASKS);
    let g = Graph::new();
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let (s, other) = (c.connect(&g, 1), c.connect(&g, 0));
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    s.run(&[], &[&y]).unwrap();
    let eve = {
        let mut options = c.client();
        options.identity = c.identity("client/eve");
        let serial = options.identity.serial().to_owned();
        let target = c.servers[1].target();
        (
            actorflow::Session::connect(&g, &target, &options, cluster::options()).unwrap(),
            serial,
        )
    };
    eve.0.run(&[], &[&y]).unwrap();
    c.authority.revoke(&eve.1).unwrap();
    let list = c.authority.revocations().unwrap();
    for (server, who) in c.servers.iter().zip(["task/ps/0", "task/worker/0"]) {
        server.set_identity(c.identity(who).with_revocations(&list)).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(20);
    let e = loop {
        match eve.0.run(&[], &[&y]) {
            Ok(_) => assert!(Instant::now() < until, "she still computes"),
            Err(e) => break e,
        }
    };
    assert!(matches!(e.code(), Code::Unavailable | Code::Unauthenticated), "{e}");
    assert!(eve.0.run(&[], &[&y]).is_err());
    for s in [&s, &other] {
        assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
    }
}
