//! Tasks that are killed, stopped, absent and replaced, with real processes and signals: every step ends in time with an
//! error that names the task, sessions go on when it is back, and nothing that is over is applied.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod clusters;
mod command;
#[path = "../../../tests/tests/cluster/relay.rs"]
mod relay;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actorflow::cluster::{ClusterInfo, ServerOptions, TaskName};
use actorflow::{Code, DType, Error, Graph, GraphVariables, Operation, Output, Session, Tensor};
use actorflow_cli::cluster::local::{Event, LocalCluster, LocalOptions, Signal};
use clusters::{Daemons, Failed, Running, fails, free_addr, later, never, options, step_of, task, until};
use command::ACTORFLOW;
use relay::{Relay, Weather};

/// A supervisor's notice.
const NOTICE: Duration = Duration::from_secs(1);
/// Five seconds of silence, and one to say so.
const SILENCE: Duration = Duration::from_secs(6);

/// A step that hangs in both tasks: a worker waits for what a parameter server never gives.
fn hanging() -> (Graph, Output) {
    let g = Graph::new();
    let head = {
        let _ps = g.device_scope("/job:ps/task:0");
        never(&g, "head")
    };
    let _worker = g.device_scope("/job:worker/task:0");
    let y = g.op("Neg").input(&head).name("last").output().unwrap();
    (g, y)
}

/// Fails unless the error names the task, its run, the step, and what was to come from the task.
fn names_all(failed: &Failed, dead: &TaskName, incarnation: u64, within: Duration) {
    let (e, said) = (&failed.error, failed.error.to_string());
    assert_eq!(
        (e.code(), e.task()),
        (Code::Unavailable, Some(dead.to_string().as_str())),
        "{e}"
    );
    let awaited = if &*dead.job == "ps" { "head:0" } else { "last:0" };
    for part in [&format!("incarnation {incarnation}"), "step ", "waits for", awaited] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(failed.after <= within, "{:?} for {said}", failed.after);
}

#[test]
fn a_task_killed_in_a_step_is_named_within_a_second_under_a_supervisor() {
    let with = LocalOptions {
        program: Some(ACTORFLOW.into()),
        threads: Some(1),
        ..LocalOptions::new(1, 1)
    };
    let cluster = LocalCluster::start(with).unwrap();
    let client = cluster.connect_options().unwrap();
    let (g, y) = hanging();
    let session = Session::connect(&g, &cluster.target(), &client, options()).unwrap();
    let info = ClusterInfo::connect(&cluster.target(), &client).unwrap();
    let both = [task("ps", 0), task("worker", 0)];
    // The same session goes on with every next run of a task.
    for dead in [&both[1], &both[0], &both[1]] {
        let incarnation = cluster.task(dead).unwrap().incarnation.unwrap();
        let failed = fails(&session, &y, &info, &both, || cluster.kill(dead, Signal::Kill).unwrap());
        names_all(&failed, dead, incarnation, NOTICE);
        cluster.await_run_after(dead, incarnation, later()).unwrap();
    }
    cluster.stop();
}

#[test]
fn tasks_that_die_at_the_same_time_are_each_announced_to_all_that_live() {
    let deaf = Arc::new(Mutex::new(Vec::new()));
    let heard = deaf.clone();
    let on_event = move |e: &Event| {
        if matches!(e, Event::Deaf { .. }) {
            heard.lock().unwrap().push(format!("{e:?}"));
        }
    };
    let cluster = LocalCluster::start(LocalOptions {
        program: Some(ACTORFLOW.into()),
        threads: Some(1),
        on_event: Arc::new(on_event),
        ..LocalOptions::new(2, 4)
    })
    .unwrap();
    let client = cluster.connect_options().unwrap();
    let info = ClusterInfo::connect(&cluster.target(), &client).unwrap();
    let dying: Vec<TaskName> = (0..3).map(|i| task("worker", i)).collect();
    let before: Vec<u64> = dying
        .iter()
        .map(|t| cluster.task(t).unwrap().incarnation.unwrap())
        .collect();
    // By a task that lives on.
    let target = format!("actorflow://{}", cluster.spec().address(&task("worker", 3)).unwrap());
    std::thread::scope(|scope| {
        let steps: Vec<_> = dying
            .iter()
            .map(|t| {
                let (target, client) = (&target, &client);
                scope.spawn(move || {
                    let g = Graph::new();
                    let head = {
                        let _ps = g.device_scope("/job:ps/task:1");
                        never(&g, "head")
                    };
                    let _worker = g.device_scope(&t.to_string());
                    let y = head.negated().unwrap();
                    let session = Session::connect(&g, target, client, options()).unwrap();
                    (session.run(&[], &[&y]).unwrap_err(), Instant::now())
                })
            })
            .collect();
        let waits = |t: &TaskName| info.steps(t).is_ok_and(|s| s.iter().any(|s| s.waiting));
        until("the steps do not begin", || dying.iter().all(waits));
        let begun = Instant::now();
        dying.iter().for_each(|t| cluster.kill(t, Signal::Kill).unwrap());
        for (step, t) in steps.into_iter().zip(&dying) {
            let (e, ended) = step.join().unwrap();
            assert_eq!(
                (e.code(), e.task()),
                (Code::Unavailable, Some(t.to_string().as_str())),
                "{e}"
            );
            let after = ended.saturating_duration_since(begun);
            assert!(after <= NOTICE, "{after:?} for {e}");
        }
    });
    for (t, incarnation) in dying.iter().zip(before) {
        cluster.await_run_after(t, incarnation, later()).unwrap();
    }
    // As long as an announcement may take.
    std::thread::sleep(Duration::from_secs(3));
    let deaf = deaf.lock().unwrap().clone();
    assert!(deaf.is_empty(), "{deaf:#?}");
    cluster.stop();
}

/// One parameter server and one worker, nobody's children.
struct Pair {
    daemons: Daemons,
    both: [TaskName; 2],
    running: [Running; 2],
}

impl Pair {
    fn start() -> Pair {
        let daemons = Daemons::new(&[("ps", 0), ("worker", 0)]);
        let running = [daemons.start("ps", 0, &[]), daemons.start("worker", 0, &[])];
        Pair {
            daemons,
            both: [task("ps", 0), task("worker", 0)],
            running,
        }
    }

    fn session(&self, g: &Graph) -> (Session, ClusterInfo) {
        let (target, client) = (self.daemons.target("worker", 0), self.daemons.client());
        let session = Session::connect(g, &target, &client, options()).unwrap();
        (session, ClusterInfo::connect(&target, &client).unwrap())
    }
}

/// What happens to a task in a step without a supervisor, and that the session goes on when it is back.
fn unsupervised(dead: usize, stops: bool) {
    let mut pair = Pair::start();
    let (g, y) = hanging();
    let (session, info) = pair.session(&g);
    let name = pair.both[dead].clone();
    let incarnation = info.task(&name).unwrap().incarnation;
    let deed = if stops {
        rustix::process::Signal::STOP
    } else {
        rustix::process::Signal::KILL
    };
    let failed = fails(&session, &y, &info, &pair.both, || pair.running[dead].signal(deed));
    names_all(&failed, &name, incarnation, SILENCE);
    if stops {
        pair.running[dead].signal(rustix::process::Signal::CONT);
    } else {
        pair.running[dead] = pair.daemons.start(&name.job, name.index, &[]);
    }
    // The step runs again, and is ended by hand.
    let info = ClusterInfo::connect(&pair.daemons.target("worker", 0), &pair.daemons.client()).unwrap();
    let again = fails(&session, &y, &info, &pair.both, || {
        let step = step_of(&info, &pair.both).unwrap();
        info.cancel(&name, step, "enough").unwrap();
    });
    assert_eq!(again.error.code(), Code::Cancelled, "{}", again.error);
    assert!(again.error.message().contains("enough"), "{}", again.error);
}

#[test]
fn a_task_that_dies_or_stands_still_is_named_after_the_silence_and_sessions_go_on_when_it_is_back() {
    std::thread::scope(|scope| {
        for (dead, stops) in [(0, false), (1, false), (0, true), (1, true)] {
            scope.spawn(move || unsupervised(dead, stops));
        }
    });
}

/// What happens when the way to a parameter server is cut in a step: what goes to it, what comes from it, or both.
fn cut(inward: bool, outward: bool) {
    let real = free_addr();
    let relay = Relay::start(real.parse().unwrap(), Weather::default(), 1);
    let daemons = Daemons::at([("ps", 0, relay.addr().to_string()), ("worker", 0, free_addr())]);
    let running = [
        daemons.start("ps", 0, &["--bind", &real]),
        daemons.start("worker", 0, &[]),
    ];
    let both = [task("ps", 0), task("worker", 0)];
    let pair = Pair { daemons, both, running };
    let (g, y) = hanging();
    let (session, info) = pair.session(&g);
    let name = pair.both[0].clone();
    let incarnation = info.task(&name).unwrap().incarnation;
    let failed = fails(&session, &y, &info, &pair.both, || relay.close(inward, outward));
    names_all(&failed, &name, incarnation, SILENCE);
    relay.close(false, false);
    let again = fails(&session, &y, &info, &pair.both, || {
        let step = step_of(&info, &pair.both).unwrap();
        info.cancel(&name, step, "enough").unwrap();
    });
    assert_eq!(again.error.code(), Code::Cancelled, "{}", again.error);
}

#[test]
fn a_task_whose_way_is_cut_in_a_step_is_named_after_the_silence_and_sessions_go_on_when_it_is_open() {
    std::thread::scope(|scope| {
        for (inward, outward) in [(true, true), (true, false), (false, true)] {
            scope.spawn(move || cut(inward, outward));
        }
    });
}

#[test]
fn absent_tasks_are_listed_in_time_and_only_by_runs_that_need_them() {
    let daemons = Daemons::new(&[("ps", 0), ("worker", 0), ("worker", 1)]);
    let _here = daemons.start("worker", 0, &[]);
    let mut client = daemons.client();
    assert_eq!(client.connect_timeout, Duration::from_secs(10));
    let of_server = ServerOptions::new(daemons.spec.clone(), task("ps", 0), client.identity.clone());
    assert_eq!(of_server.connect_timeout, Duration::from_secs(10));
    client.connect_timeout = Duration::from_millis(1500);

    let g = Graph::new();
    let near = {
        let _here = g.device_scope("/job:worker/task:0");
        g.constant([3f32]).unwrap().square().unwrap()
    };
    let on = |device: &str, x: &Output| {
        let _there = g.device_scope(device);
        x.square().unwrap()
    };
    let far = on("/job:worker/task:1", &on("/job:ps/task:0", &near));
    let begun = Instant::now();
    let session = Session::connect(&g, &daemons.target("worker", 0), &client, options()).unwrap();
    assert_eq!(session.run(&[], &[&near]).unwrap()[0], Tensor::from([9f32]));
    let e = session.run(&[], &[&far]).unwrap_err();
    assert_eq!(e.code(), Code::Unavailable, "{e}");
    assert!(
        e.message().contains("/job:ps/task:0") && e.message().contains("/job:worker/task:1"),
        "{e}"
    );
    assert!(!e.message().contains("/job:worker/task:0"), "{e}");
    // Asking what there is and connecting each take a deadline at most.
    assert!(
        begun.elapsed() < 2 * client.connect_timeout + NOTICE,
        "{:?}",
        begun.elapsed()
    );
    // They come, and the same session uses them.
    let _late = [daemons.start("ps", 0, &[]), daemons.start("worker", 1, &[])];
    assert_eq!(session.run(&[], &[&far]).unwrap()[0], Tensor::from([6561f32]));
}

/// A counter on the parameter server, to which each step adds what a worker has made.
struct Counter {
    graph: Graph,
    init: Operation,
    one: Output,
    add: Operation,
    value: Output,
}

impl Counter {
    fn new() -> Counter {
        let g = Graph::new();
        let ps = g.device_scope("/job:ps/task:0");
        let v = g.variable("applied", Tensor::scalar(0f32)).unwrap();
        drop(ps);
        let one = g.placeholder("one", DType::F32, [] as [Option<usize>; 0]).unwrap();
        let made = {
            let _worker = g.device_scope("/job:worker/task:0");
            (&one * 1f32).unwrap()
        };
        let _ps = g.device_scope("/job:ps/task:0");
        Counter {
            add: v.assign_add(&made).unwrap(),
            init: g.global_variables_initializer().unwrap(),
            value: v.value().clone(),
            one,
            graph: g.clone(),
        }
    }

    fn step(&self, session: &Session) -> Result<(), Error> {
        let run = session.runner().feed(&self.one, Tensor::scalar(1f32));
        run.target(&self.add).run().map(drop)
    }

    fn steps(&self, session: &Session, n: usize) {
        (0..n).for_each(|_| self.step(session).unwrap());
    }

    fn applied(&self, session: &Session) -> f32 {
        session.run(&[], &[&self.value]).unwrap()[0].to_scalar().unwrap()
    }
}

#[test]
fn what_a_task_did_not_finish_before_it_stood_still_is_never_applied() {
    let pair = Pair::start();
    let counter = Counter::new();
    let (session, _) = pair.session(&counter.graph);
    session.execute(&[&counter.init]).unwrap();
    counter.steps(&session, 5);
    pair.running[1].signal(rustix::process::Signal::STOP);
    // Its orders wait in its socket.
    let begun = Instant::now();
    let e = counter.step(&session).unwrap_err();
    assert_eq!(e.code(), Code::Unavailable, "{e}");
    assert!(begun.elapsed() <= SILENCE, "{:?}", begun.elapsed());
    pair.running[1].signal(rustix::process::Signal::CONT);
    counter.steps(&session, 5);
    // As long as anything could be under way.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(counter.applied(&session), 10.0);
}

#[test]
fn a_task_that_returns_after_it_was_replaced_is_fenced_and_applies_nothing() {
    let (old, new) = (free_addr(), free_addr());
    // The worker's place in the cluster is where the relay leads to.
    let relay = Relay::start(old.parse().unwrap(), Weather::default(), 1);
    let daemons = Daemons::at([("ps", 0, free_addr()), ("worker", 0, relay.addr().to_string())]);
    let ps = daemons.start("ps", 0, &["--log-format", "json"]);
    let zombie = daemons.start("worker", 0, &["--bind", &old]);
    let counter = Counter::new();
    let connect = |target: &str| Session::connect(&counter.graph, target, &daemons.client(), options()).unwrap();
    let session = connect(&daemons.target("worker", 0));
    session.execute(&[&counter.init]).unwrap();
    counter.steps(&session, 5);
    zombie.signal(rustix::process::Signal::STOP);
    let e = counter.step(&session).unwrap_err();
    assert_eq!(e.code(), Code::Unavailable, "{e}");
    relay.lead_to(new.parse().unwrap());
    let _replacement = daemons.start("worker", 0, &["--bind", &new]);
    // A step that begins before the parameter server has missed the old one may fail for it.
    let mut failed = 0;
    until("the replacement is not used", || {
        let done = counter.step(&session).is_ok();
        failed += i32::from(!done);
        done
    });
    counter.steps(&session, 4);
    let applied = counter.applied(&session);
    assert!(
        (10..=10 + failed).contains(&(applied as i32)),
        "{applied} after {failed} failures"
    );

    zombie.signal(rustix::process::Signal::CONT);
    counter.steps(&session, 5);
    // Somebody who knows the old one only.
    let misled = connect(&format!("actorflow://{old}"));
    let e = counter.step(&misled).unwrap_err();
    for part in ["/job:ps/task:0", "is over"] {
        assert!(e.to_string().contains(part), "{part} is not in {e}");
    }
    ps.event("refused", |e| e["what"] == "connections of earlier runs");
    counter.steps(&session, 5);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(counter.applied(&session), applied + 10.0);
}
