//! What an operator does with a cluster that runs: finds a step that hangs and ends it, asks whether a task takes work, starts
//! tasks as TensorFlow's tools do.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod clusters;
mod command;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use actorflow::cluster::ClusterInfo;
use actorflow::{Code, Graph, Session, Tensor};
use clusters::{Daemons, Local, Running, fails, never, options, task, text, until};
use command::{Ran, run};
use serde_json::{Value, json};

#[test]
fn a_step_that_hangs_is_listed_and_cancelled_and_its_session_works_on() {
    let cluster = Local::start(1, 1);
    let g = Graph::new();
    let head = {
        let _ps = g.device_scope("/job:ps/task:0");
        never(&g, "head")
    };
    let (hangs, works) = {
        let _worker = g.device_scope("/job:worker/task:0");
        (head.negated().unwrap(), g.constant([3f32]).unwrap().square().unwrap())
    };
    let client = actorflow::cluster::ConnectOptions::new(
        actorflow::cluster::identity::Identity::load(&cluster.identity).unwrap(),
    );
    let session = Session::connect(&g, &cluster.target, &client, options()).unwrap();
    let info = ClusterInfo::connect(&cluster.target, &client).unwrap();
    let look = |what: &str, more: &[&str]| -> Ran {
        let begin = ["cluster", what, cluster.addr()];
        run([&begin[..], more, &["--identity", text(&cluster.identity)]].concat())
    };
    let listed = || -> Vec<Value> {
        let ran = look("steps", &["--json"]);
        let all: Value = serde_json::from_str(&ran.stdout).unwrap();
        all["steps"].as_array().unwrap().clone()
    };
    let both = [task("ps", 0), task("worker", 0)];
    let failed = fails(&session, &hangs, &info, &both, || {
        let mut steps = Vec::new();
        until("the step is not listed as waiting", || {
            steps = listed();
            steps.len() == 2 && steps.iter().all(|s| s["waiting"] == true)
        });
        let of = |task: &str| steps.iter().find(|s| s["task"] == task).unwrap();
        let (ps, worker) = (of("/job:ps/task:0"), of("/job:worker/task:0"));
        // Text, so that every reader of JSON keeps all its digits.
        let number = ps["step"].as_str().unwrap();
        number.parse::<u64>().unwrap();
        assert_eq!(worker["step"], number, "one step, in both: {steps:?}");
        assert!(ps["waits_for"].as_str().unwrap().contains("head"), "{ps}");
        assert!(ps["age_seconds"].as_f64().unwrap() > 0.0, "{ps}");
        // What a person reads says the same.
        let ran = look("steps", &[]);
        for part in ["STEP", "WAITS FOR", "waits", "/job:ps/task:0", number, "head"] {
            assert!(ran.stdout.contains(part), "{part} is not in {ran:?}");
        }
        let ran = look("cancel", &[number, "--why", "it had hung since lunch"]);
        assert_eq!(
            (ran.code, ran.stdout),
            (0, format!("step {number} is cancelled\n")),
            "{}",
            ran.stderr
        );
    });
    assert_eq!(failed.error.code(), Code::Cancelled, "{}", failed.error);
    assert!(failed.error.message().contains("since lunch"), "{}", failed.error);
    until("the step is still there", || listed().is_empty());
    assert_eq!(session.run(&[], &[&works]).unwrap()[0], Tensor::from([9f32]));
    // And so does the plan that had hung.
    let again = fails(&session, &hangs, &info, &both, || {
        // As it is in the JSON, quotes and all.
        let number = listed()[0]["step"].to_string();
        let ran = look("cancel", &[&number, "--json"]);
        let said: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.code, &said["cancelled"]), (0, &json!(true)), "{ran:?}");
        assert_eq!(said["step"].to_string(), number);
    });
    assert_eq!(again.error.code(), Code::Cancelled, "{}", again.error);
    assert!(again.error.message().contains("an operator"), "{}", again.error);
}

#[test]
fn tasks_that_are_gone_are_named_to_programs_and_the_others_are_served() {
    let daemons = Daemons::new(&[("ps", 0), ("worker", 0)]);
    let ps = daemons.start("ps", 0, &[]);
    let _worker = daemons.start("worker", 0, &[]);
    let me = daemons.dir.path().join("me");
    daemons.client().identity.save(&me).unwrap();
    ps.signal(rustix::process::Signal::KILL);
    ps.end();
    let target = daemons.target("worker", 0);
    let patience = ["--identity", text(&me), "--timeout", "4s"];
    let programs = |what: &str, list: &str| {
        let ran = run([&["cluster", what, &target, "--json"][..], &patience].concat());
        assert!(ran.code == 1 && ran.stderr.contains("/job:ps/task:0: "), "{ran:?}");
        let said: Value = serde_json::from_str(&ran.stdout).unwrap();
        let down = |t: &&Value| t["up"] == false;
        let gone = match what {
            "status" => said["tasks"].as_array().unwrap().iter().find(down).unwrap(),
            _ => &said["unreachable"][0],
        };
        assert_eq!(gone["task"], "/job:ps/task:0", "{ran:?}");
        assert!(gone["error"].as_str().unwrap().contains("cannot be reached"), "{ran:?}");
        // The other one has answered.
        let others = said[list].as_array().unwrap();
        let there = others.iter().any(|o| o.to_string().contains("/job:worker/"));
        assert!(there || what == "steps", "{ran:?}");
    };
    let people = || {
        let ran = run([&["cluster", "devices", &target][..], &patience].concat());
        assert!(ran.code == 1 && ran.stderr.contains("/job:ps/task:0: "), "{ran:?}");
        assert!(ran.stdout.contains("/job:worker/"), "{ran:?}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| programs("status", "tasks"));
        scope.spawn(|| programs("devices", "devices"));
        scope.spawn(|| programs("steps", "steps"));
        scope.spawn(|| programs("reset", "tasks"));
        scope.spawn(people);
    });
    let mut client = daemons.client();
    client.connect_timeout = Duration::from_secs(4);
    let client = ClusterInfo::connect(&target, &client).unwrap();
    let e = client.reset(&[]).unwrap_err();
    let (done, not) = ("forgotten by /job:worker/task:0", "not by /job:ps/task:0");
    assert!(e.to_string().contains(done) && e.to_string().contains(not), "{e}");
}

/// The status of a page of a daemon.
fn status(addr: &str, path: &str) -> (u16, String) {
    let mut s = TcpStream::connect(addr).unwrap();
    write!(s, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    s.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_task_that_ends_is_not_ready_while_its_last_steps_run() {
    let daemons = Daemons::new(&[("ps", 0)]);
    let page = free_port();
    let daemon = daemons.start("ps", 0, &["--metrics", &page, "--grace", "50s"]);
    assert_eq!(status(&page, "/readyz").0, 200);
    let g = Graph::new();
    let y = never(&g, "head");
    let (target, client) = (daemons.target("ps", 0), daemons.client());
    let session = Session::connect(&g, &target, &client, options()).unwrap();
    let info = ClusterInfo::connect(&target, &client).unwrap();
    let ps = task("ps", 0);
    let failed = fails(&session, &y, &info, std::slice::from_ref(&ps), || {
        daemon.signal(rustix::process::Signal::TERM);
        until("it stays ready", || status(&page, "/readyz").0 == 503);
        let (_, said) = status(&page, "/readyz");
        assert!(said.ends_with("ending\n"), "{said}");
        // It lives, and says so.
        assert_eq!(status(&page, "/healthz").0, 200);
        let step = info.steps(&ps).unwrap()[0].step;
        info.cancel(&ps, step, "that was the last one").unwrap();
    });
    assert_eq!(failed.error.code(), Code::Cancelled, "{}", failed.error);
    assert!(
        failed.after < Duration::from_secs(45),
        "it has waited for the grace period"
    );
    assert_eq!(daemon.end(), 0);
}

#[test]
fn a_task_whose_certificate_has_expired_is_not_ready() {
    let mut daemons = Daemons::new(&[("ps", 0)]);
    daemons.ttl = Duration::from_secs(3);
    let page = free_port();
    let _daemon = daemons.start("ps", 0, &["--metrics", &page]);
    until("it stays ready", || status(&page, "/readyz").0 == 503);
    let (_, said) = status(&page, "/readyz");
    assert!(said.contains("certificate has expired"), "{said}");
    assert_eq!(status(&page, "/healthz").0, 200);
}

#[test]
fn tensorflows_variable_says_what_a_daemon_is() {
    let daemons = Daemons::new(&[("ps", 0), ("worker", 0)]);
    let cluster: Value = serde_json::from_str(&daemons.spec.to_json()).unwrap();
    let start = |job: &str| {
        let config = json!({ "cluster": cluster, "task": { "type": job, "index": 0 } }).to_string();
        let home = daemons.home(job, 0);
        let args = ["daemon", "--identity", text(&home), "--threads", "1"];
        let daemon = Running::start_in(&[("TF_CONFIG", &config)], &args);
        let ready = daemon.line("ready ");
        let addr = daemons.spec.address(&task(job, 0)).unwrap();
        let begin = format!("ready /job:{job}/task:0 at {addr} incarnation ");
        assert!(ready.starts_with(&begin), "{ready}");
        daemon
    };
    let _tasks = [start("ps"), start("worker")];
    let g = Graph::new();
    let x = {
        let _ps = g.device_scope("/job:ps/task:0");
        g.constant([3f32]).unwrap().square().unwrap()
    };
    let y = {
        let _worker = g.device_scope("/job:worker/task:0");
        x.negated().unwrap()
    };
    let session = Session::connect(&g, &daemons.target("worker", 0), &daemons.client(), options()).unwrap();
    assert_eq!(session.run(&[], &[&y]).unwrap()[0], Tensor::from([-9f32]));

    let home = daemons.home("ps", 0);
    let args = ["daemon", "--identity", text(&home)];
    let lost = json!({ "cluster": cluster, "task": { "type": "evaluator", "index": 3 } }).to_string();
    let lost = Running::start_in(&[("TF_CONFIG", &lost)], &args);
    until("nothing is said", || !lost.errors().is_empty());
    let said = lost.errors().join("\n");
    assert!(said.contains("/job:evaluator/task:3"), "{said}");
    assert_eq!(lost.end(), 2);
}
