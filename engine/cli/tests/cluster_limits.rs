//! What one peer may use of a task, as its daemon is told: by flags, by its file, through `cluster local`.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod clusters;
mod command;

use actorflow::cluster::{ClusterInfo, ConnectOptions, identity::Identity};
use actorflow::{Code, DType, Error, Graph, Output, Session, Tensor};
use clusters::{Daemons, Local, fails, never, options, task, text, until};
use command::run;

/// The sum of what is fed, on the parameter server.
struct Sum {
    graph: Graph,
    x: Output,
    y: Output,
}

impl Sum {
    fn new() -> Sum {
        let graph = Graph::new();
        let _ps = graph.device_scope("/job:ps/task:0");
        let x = graph.placeholder("x", DType::F32, [None]).unwrap();
        let y = x.sum(&[0], false).unwrap();
        drop(_ps);
        Sum { graph, x, y }
    }

    fn session(&self, target: &str, client: &ConnectOptions) -> Session {
        Session::connect(&self.graph, target, client, options()).unwrap()
    }

    /// Feeds so many ones.
    fn of(&self, session: &Session, count: usize) -> Result<f32, Error> {
        let ones = Tensor::vector(&vec![1f32; count]);
        session.run(&[(&self.x, ones)], &[&self.y])?[0].to_scalar()
    }

    /// A mebibyte of floats passes, a few more do not, and the session goes on.
    fn takes_a_mebibyte(&self, session: &Session) {
        let most = (1 << 20) / 4;
        assert_eq!(self.of(session, most).unwrap(), most as f32);
        let e = self.of(session, most + 1).unwrap_err();
        assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
        assert!(e.message().contains("1048576 bytes"), "{e}");
        assert_eq!(self.of(session, 3).unwrap(), 3.0);
    }
}

#[test]
fn a_flag_bounds_tensors_graphs_and_requests() {
    let daemons = Daemons::new(&[("ps", 0)]);
    let limits = [
        "tensor=1MiB",
        "graph-nodes=40",
        "pending-requests=2",
        "in-flight-bytes=64KiB",
        "streams=2",
    ];
    let flags: Vec<&str> = limits.iter().flat_map(|l| ["--limit", l]).collect();
    let _ps = daemons.start("ps", 0, &flags);
    let (target, client) = (daemons.target("ps", 0), daemons.client());
    let sum = Sum::new();
    let session = sum.session(&target, &client);
    sum.takes_a_mebibyte(&session);

    let g = Graph::new();
    let mut y = g.placeholder("x", DType::F32, [None]).unwrap();
    for _ in 0..40 {
        y = y.square().unwrap();
    }
    let large = Session::connect(&g, &target, &client, options()).unwrap();
    let e = large
        .run(&[(&g.output("x:0").unwrap(), Tensor::from([1f32]))], &[&y])
        .unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
    assert!(
        e.message().contains("graph-nodes") && e.message().contains("40 nodes"),
        "{e}"
    );

    // Two steps wait for their answers; a third one is refused, and what the others wait for is not touched.
    let g = Graph::new();
    let heads = [never(&g, "first"), never(&g, "second")];
    let session = Session::connect(&g, &target, &client, options()).unwrap();
    let info = ClusterInfo::connect(&target, &client).unwrap();
    let ps = task("ps", 0);
    // Their plans are there before any of them waits.
    let third = g.constant(1f32).unwrap().negated().unwrap();
    session.run(&[], &[&third]).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| session.run(&[], &[&heads[1]]).unwrap_err());
        until("the step does not begin", || {
            info.steps(&ps).is_ok_and(|s| s.len() == 1)
        });
        let failed = fails(&session, &heads[0], &info, std::slice::from_ref(&ps), || {
            until("the other does not begin", || {
                info.steps(&ps).is_ok_and(|s| s.len() == 2)
            });
            let e = session.run(&[], &[&third]).unwrap_err();
            assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
            assert!(e.message().contains("2 requests"), "{e}");
            for step in info.steps(&ps).unwrap() {
                info.cancel(&ps, step.step, "enough").unwrap();
            }
        });
        assert_eq!(failed.error.code(), Code::Cancelled, "{}", failed.error);
        assert_eq!(other.join().unwrap().code(), Code::Cancelled);
    });
    assert_eq!(session.run(&[], &[&third]).unwrap()[0], Tensor::from(-1f32));
}

#[test]
fn a_file_bounds_connections() {
    let daemons = Daemons::new(&[("ps", 0)]);
    let file = daemons.dir.path().join("daemon.toml");
    std::fs::write(&file, "[limits]\nconnections-per-member = 1\ntensor = '4MiB'\n").unwrap();
    // The flag comes first.
    let _ps = daemons.start("ps", 0, &["--config", text(&file), "--limit", "tensor=1MiB"]);
    let (target, client) = (daemons.target("ps", 0), daemons.client());
    let sum = Sum::new();
    let first = sum.session(&target, &client);
    sum.takes_a_mebibyte(&first);
    let e = Session::connect(&sum.graph, &target, &client, options()).err();
    let e = e.expect("a second connection of the same member");
    assert!(e.message().contains("1 connections"), "{e}");
    assert_eq!(sum.of(&first, 3).unwrap(), 3.0);
    // When the first one has gone there is room again.
    drop(first);
    until("no room comes back", || {
        Session::connect(&sum.graph, &target, &client, options()).is_ok()
    });
}

#[test]
fn a_local_cluster_tells_its_tasks() {
    let cluster = Local::start_with(1, 1, &["--limit", "tensor=1MiB"]);
    let client = ConnectOptions::new(Identity::load(&cluster.identity).unwrap());
    let sum = Sum::new();
    sum.takes_a_mebibyte(&sum.session(&cluster.target, &client));
}

#[test]
fn wrong_limits_are_a_wrong_use_that_names_the_cure() {
    let spec = r#"{"ps": ["127.0.0.1:1"]}"#;
    for (limit, part) in [
        ("tensors=1", "in-flight-bytes"),
        ("tensor=big", "512MiB"),
        ("graph=2GiB", "raise message"),
    ] {
        let daemon = run(["daemon", "--cluster", spec, "--job", "ps", "--limit", limit]);
        assert_eq!(daemon.code, 2, "{daemon:?}");
        assert!(daemon.stderr.contains(part), "{daemon:?}");
        let local = run(["cluster", "local", "--limit", limit]);
        assert_eq!((local.code, local.stdout.as_str()), (2, ""), "{local:?}");
        assert!(local.stderr.contains(part), "{local:?}");
    }
    let help = run(["daemon", "--help"]).stdout;
    assert!(help.contains("in-flight-bytes") && help.contains("256MiB"), "{help}");
}
