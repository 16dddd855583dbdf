//! The cluster's epoch: an operator raises it, and nothing of an earlier one is heard any more, in real processes.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod clusters;
mod command;

use actorflow::cluster::{ClusterInfo, ConnectOptions, identity::Identity};
use actorflow::{Code, DType, Error, Graph, GraphVariables, Operation, Output, Session};
use clusters::{Daemons, Local, fails, never, options, signal, task, text, until};
use command::{Ran, run};
use rustix::process::Signal;
use serde_json::Value;

/// A counter on the parameter server, and what a worker adds to it.
struct Counter {
    graph: Graph,
    value: Output,
    /// What the worker takes the negative of.
    less: Output,
    add: Operation,
    init: Operation,
}

impl Counter {
    fn new(worker: u32) -> Counter {
        let graph = Graph::new();
        let w = {
            let _ps = graph.device_scope("/job:ps/task:0");
            graph.variable("w", 0f32).unwrap()
        };
        let less;
        let one = {
            let _worker = graph.device_scope(&format!("/job:worker/task:{worker}"));
            less = graph.placeholder("less", DType::F32, [0usize; 0]).unwrap();
            less.negated().unwrap()
        };
        let add = w.assign_add(&one).unwrap();
        let init = graph.global_variables_initializer().unwrap();
        Counter {
            value: w.value().clone(),
            graph,
            less,
            add,
            init,
        }
    }

    fn session(&self, target: &str, client: &ConnectOptions) -> Session {
        Session::connect(&self.graph, target, client, options()).unwrap()
    }

    fn add(&self, session: &Session) -> Result<(), Error> {
        let run = session.runner().feed(&self.less, -1f32).target(&self.add);
        run.run().map(drop)
    }

    fn read(&self, session: &Session) -> f32 {
        session.run(&[], &[&self.value]).unwrap()[0].to_scalar().unwrap()
    }
}

/// `actorflow cluster epoch` with some flags.
fn epoch(addr: &str, identity: &std::path::Path, more: &[&str]) -> Ran {
    run([
        &[
            "cluster",
            "epoch",
            addr,
            "--identity",
            text(identity),
            "--timeout",
            "3s",
        ],
        more,
    ]
    .concat())
}

fn aborted(e: &Error) {
    assert_eq!(e.code(), Code::Aborted, "{e}");
    assert!(e.message().contains("epoch"), "{e}");
}

#[test]
fn what_began_before_an_epoch_was_raised_is_over_and_a_task_that_missed_it_stays_outside() {
    let cluster = Local::start(1, 2);
    let client = ConnectOptions::new(Identity::load(&cluster.identity).unwrap());
    let (by_first, by_second) = (Counter::new(0), Counter::new(1));
    let before = by_first.session(&cluster.target, &client);
    before.execute(&[&by_first.init]).unwrap();
    by_first.add(&before).unwrap();
    let second = by_second.session(&cluster.target, &client);
    by_second.add(&second).unwrap();
    assert_eq!(by_first.read(&before), 2.0);
    let told = |more: &[&str]| epoch(cluster.addr(), &cluster.identity, more);
    let ran = told(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("/job:worker/task:1  1"), "{ran:?}");

    // The second worker cannot be told.
    let paused = cluster.pids[2];
    signal(paused, Signal::STOP);
    let ran = told(&["--raise"]);
    signal(paused, Signal::CONT);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("/job:worker/task:0  2"), "{ran:?}");
    assert!(
        ran.stderr.contains("/job:worker/task:1") && ran.stderr.contains("--at-least 2"),
        "{ran:?}"
    );

    // Sessions of the first epoch do nothing any more, new ones do.
    aborted(&by_first.add(&before).unwrap_err());
    let after = by_first.session(&cluster.target, &client);
    assert_eq!(by_first.read(&after), 2.0);
    by_first.add(&after).unwrap();
    assert_eq!(by_first.read(&after), 3.0);

    // The worker is back in the first epoch: nothing of it gets in.
    let info = ClusterInfo::connect(&cluster.target, &client).unwrap();
    let back = || info.task(&task("worker", 1)).is_ok();
    until("the worker does not come back", back);
    let late = by_second.session(&cluster.target, &client);
    until("nobody says why", || match by_second.add(&late) {
        // The others had missed it for a while.
        Err(e) if e.code() == Code::Unavailable => false,
        refused => {
            aborted(&refused.unwrap_err());
            true
        }
    });
    assert_eq!(by_first.read(&after), 3.0);
    let ran = told(&["--json"]);
    let all: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &all["epoch"]), (1, &Value::from(2)), "{all}");
    assert_eq!(all["tasks"][2]["behind"], true, "{all}");

    // Until it is told. Then it stays inside, though it dies.
    let ran = told(&["--at-least", "2"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let takes_part = || match by_second.add(&late) {
        Ok(()) => true,
        Err(e) if e.code() == Code::Unavailable => false,
        Err(e) => panic!("{e}"),
    };
    until("the worker stays outside", takes_part);
    assert!(by_first.read(&after) > 3.0);
    signal(paused, Signal::KILL);
    until("the worker does not come back", || told(&[]).code == 0);
    assert_eq!(info.task(&task("worker", 1)).unwrap().epoch, 2);
    until("the worker takes no work", takes_part);
}

#[test]
fn a_step_in_progress_ends_and_a_daemon_keeps_the_epoch() {
    let daemons = Daemons::new(&[("ps", 0)]);
    let ps = daemons.start("ps", 0, &["--epoch", "3"]);
    let (target, client) = (daemons.target("ps", 0), daemons.client());
    let addr = target.trim_start_matches("actorflow://");
    let home = daemons.dir.path().join("operator");
    client.identity.save(&home).unwrap();
    let g = Graph::new();
    let y = never(&g, "head");
    let session = Session::connect(&g, &target, &client, options()).unwrap();
    let info = ClusterInfo::connect(&target, &client).unwrap();
    let name = task("ps", 0);
    let failed = fails(&session, &y, &info, std::slice::from_ref(&name), || {
        let ran = epoch(addr, &home, &["--raise"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stdout.contains("/job:ps/task:0  4"), "{ran:?}");
    });
    aborted(&failed.error);
    assert!(failed.error.message().contains("from 3 to 4"), "{}", failed.error);

    // What is no epoch, and one that nothing could undo.
    for (flags, part) in [
        (&["--at-least", "3"][..], "in epoch 4 already"),
        (&["--at-least", "0"], "first epoch is 1"),
        (&["--at-least", "99999999999"], "cannot be lowered"),
        (&["--raise", "--at-least", "9"], "cannot be used with"),
    ] {
        let ran = epoch(addr, &home, flags);
        assert!(ran.code != 0 && ran.stderr.contains(part), "{flags:?}: {ran:?}");
    }

    drop(ps);
    let ps = daemons.start("ps", 0, &["--epoch", "2"]);
    until("it has forgotten the epoch", || {
        info.task(&name).is_ok_and(|t| t.epoch == 4)
    });
    drop(ps);
    std::fs::write(daemons.home("ps", 0).join("epoch"), "many").unwrap();
    let spec = daemons.spec.to_json();
    let identity = daemons.home("ps", 0);
    let ran = run([
        "daemon",
        "--cluster",
        &spec,
        "--job",
        "ps",
        "--identity",
        text(&identity),
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("DATA_LOSS") && ran.stderr.contains("epoch"),
        "{ran:?}"
    );
}
