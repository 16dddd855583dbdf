//! Clusters as people run them: the daemon, joining, looking, and a whole cluster on this machine.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod command;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use actorflow::cluster::identity::Identity;
use actorflow::cluster::{ClusterInfo, ConnectOptions, TaskName};
use actorflow::train::optimizer::{GradientDescent, Optimizer};
use actorflow::{Code, DType, Graph, GraphVariables, Operation, Output, Session, SessionOptions, Tensor};
use actorflow_cli::cluster::local::{LocalCluster, LocalOptions, Signal};
use command::{ACTORFLOW, run};
use rustix::process::{Pid, kill_process, test_kill_process};
use serde_json::Value;

/// Nothing here takes so long unless it hangs.
const LONG: Duration = Duration::from_secs(60);

fn later() -> Instant {
    Instant::now() + LONG
}

/// A running command; it is killed when dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(args: &[&str]) -> Running {
        let mut child = Command::new(ACTORFLOW)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = each_line(child.stdout.take().unwrap());
        Running { child, lines }
    }

    /// The next line that begins so.
    fn line(&self, begin: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LONG).expect("a line");
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        kill_process(pid(self.child.id()), signal).unwrap();
    }

    /// Waits for the end; the exit code.
    fn end(mut self) -> i32 {
        let until = later();
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn each_line(out: ChildStdout) -> Receiver<String> {
    let (tell, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn pid(n: u32) -> Pid {
    Pid::from_raw(i32::try_from(n).unwrap()).unwrap()
}

/// Waits until a process is gone.
fn gone(n: u32) -> bool {
    let until = later();
    while Instant::now() < until {
        if test_kill_process(pid(n)).is_err() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn free_addr() -> String {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

/// A linear model: the variable on the parameter server, the rest on a worker.
struct Model {
    graph: Graph,
    x: Output,
    y: Output,
    loss: Output,
    train: Operation,
    init: Operation,
}

impl Model {
    fn new() -> Model {
        let g = Graph::new();
        let w = {
            let _ps = g.device_scope("/job:ps/task:0");
            g.variable("w", Tensor::zeros(DType::F32, [2, 1]).unwrap()).unwrap()
        };
        let _worker = g.device_scope("/job:worker/task:1");
        let x = g.placeholder("x", DType::F32, [None, Some(2)]).unwrap();
        let y = g.placeholder("y", DType::F32, [None, Some(1)]).unwrap();
        let loss = x
            .matmul(&w)
            .unwrap()
            .squared_difference(&y)
            .unwrap()
            .mean(&[], false)
            .unwrap();
        let train = Optimizer::from(GradientDescent::new(0.2)).minimize(&loss).unwrap();
        let init = g.global_variables_initializer().unwrap();
        Model {
            graph: g,
            x,
            y,
            loss,
            train,
            init,
        }
    }

    fn session(&self, target: &str, identity: &Path) -> Session {
        let options = ConnectOptions::new(Identity::load(identity).unwrap());
        Session::connect(&self.graph, target, &options, SessionOptions::with_threads(1)).unwrap()
    }

    fn step(&self, session: &Session) -> actorflow::Result<f32> {
        let (x, y) = (Tensor::from([[1f32, 0.0], [0.0, 1.0]]), Tensor::from([[3f32], [-1.0]]));
        let run = session
            .runner()
            .feed(&self.x, &x)
            .feed(&self.y, &y)
            .fetch(&self.loss)
            .target(&self.train);
        run.run()?[0].to_scalar::<f32>()
    }

    fn train(&self, session: &Session) -> (f32, f32) {
        session.execute(&[&self.init]).unwrap();
        let first = self.step(session).unwrap();
        for _ in 0..30 {
            self.step(session).unwrap();
        }
        (first, self.step(session).unwrap())
    }
}

#[test]
fn a_local_cluster_trains_and_leaves_no_process_when_it_is_interrupted() {
    let cluster = Running::start(&[
        "cluster",
        "local",
        "--ps",
        "1",
        "--workers",
        "2",
        "--threads",
        "1",
        "--json",
    ]);
    let all: Value = serde_json::from_str(&cluster.line("{")).unwrap();
    let tasks = all["tasks"].as_array().unwrap();
    let pids: Vec<u32> = tasks
        .iter()
        .map(|t| u32::try_from(t["pid"].as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(pids.len(), 3);
    let (target, identity) = (
        all["target"].as_str().unwrap(),
        Path::new(all["identity"].as_str().unwrap()),
    );
    let model = Model::new();
    let session = model.session(target, identity);
    let (first, last) = model.train(&session);
    assert!(last < first / 100.0, "{first} then {last}");
    drop(session);

    let addr = target.trim_start_matches("actorflow://");
    let ran = run(["cluster", "status", addr, "--identity", text(identity)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ["/job:ps/task:0", "/job:worker/task:1", "STATE"]
            .iter()
            .all(|p| ran.stdout.contains(p)),
        "{ran:?}"
    );
    let ran = run(["cluster", "devices", addr, "--identity", text(identity), "--json"]);
    let devices: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 3, "{ran:?}");
    let ran = run(["cluster", "steps", addr, "--identity", text(identity), "--json"]);
    assert_eq!(ran.stdout, "{\"steps\":[]}\n", "{ran:?}");
    let ran = run(["cluster", "cancel", addr, "17", "--identity", text(identity)]);
    assert_eq!((ran.code, ran.stderr.contains("no step 17")), (1, true), "{ran:?}");
    assert_eq!(run(["cluster", "reset", addr, "--identity", text(identity)]).code, 0);
    let e = model.step(&model.session(target, identity)).unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition, "the variables are forgotten: {e}");

    cluster.signal(rustix::process::Signal::INT);
    assert_eq!(cluster.end(), 0);
    for n in pids {
        assert!(gone(n), "process {n} is left");
    }
    assert!(!identity.exists(), "the identities are left");
}

#[test]
fn tasks_end_when_their_supervisor_is_killed() {
    let cluster = Running::start(&[
        "cluster",
        "local",
        "--ps",
        "1",
        "--workers",
        "1",
        "--threads",
        "1",
        "--json",
    ]);
    let all: Value = serde_json::from_str(&cluster.line("{")).unwrap();
    let tasks = all["tasks"].as_array().unwrap();
    let pids: Vec<u32> = tasks
        .iter()
        .map(|t| u32::try_from(t["pid"].as_u64().unwrap()).unwrap())
        .collect();
    drop(cluster);
    for n in pids {
        assert!(gone(n), "process {n} is left");
    }
    // Nobody is left to remove it.
    std::fs::remove_dir_all(Path::new(all["identity"].as_str().unwrap()).parent().unwrap()).unwrap();
}

#[test]
fn a_task_that_dies_fails_steps_with_its_name_and_comes_back_as_another_run() {
    let options = LocalOptions {
        program: Some(ACTORFLOW.into()),
        threads: Some(1),
        ..LocalOptions::new(1, 2)
    };
    let cluster = LocalCluster::start(options).unwrap();
    let ps = TaskName::new("ps", 0).unwrap();
    let before = cluster.task(&ps).unwrap();
    let model = Model::new();
    let session = model.session(&cluster.target(), &cluster.client_identity());
    model.train(&session);

    cluster.kill(&ps, Signal::Kill).unwrap();
    // Steps succeed until the death is there, then fail for it.
    let e = loop {
        match model.step(&session) {
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    let restarted_meanwhile = e.code() == Code::FailedPrecondition;
    assert!(restarted_meanwhile || e.code() == Code::Unavailable, "{e}");
    assert!(e.to_string().contains("/job:ps/task:0"), "{e}");

    cluster
        .await_run_after(&ps, before.incarnation.unwrap(), later())
        .unwrap();
    let after = cluster.task(&ps).unwrap();
    assert!(
        after.incarnation > before.incarnation && after.pid != before.pid,
        "{before:?} then {after:?}"
    );
    assert_eq!(after.restarts, 1);
    let (first, last) = model.train(&session);
    assert!(last < first / 100.0, "{first} then {last}");
    cluster.stop();
    assert!(gone(after.pid.unwrap()));
}

#[test]
fn a_client_that_waits_for_a_dead_task_is_told_before_the_silence_would_tell() {
    let options = LocalOptions {
        program: Some(ACTORFLOW.into()),
        threads: Some(1),
        ..LocalOptions::new(1, 1)
    };
    let cluster = LocalCluster::start(options).unwrap();
    let g = Graph::new();
    let never = {
        let _ps = g.device_scope("/job:ps/task:0");
        let queue = g
            .op("FIFOQueueV2")
            .attr("component_types", vec![DType::F32])
            .output()
            .unwrap();
        let ty = vec![DType::F32];
        g.op("QueueDequeueV2")
            .input(&queue)
            .attr("component_types", ty)
            .output()
            .unwrap()
    };
    let mut client = cluster.connect_options().unwrap();
    // Without the announcement, it would take this long.
    client.timing.idle = LONG * 10;
    let session = Session::connect(
        &g,
        &cluster.target(),
        &client,
        SessionOptions {
            stall_timeout: LONG * 10,
            ..SessionOptions::with_threads(1)
        },
    );
    let session = session.unwrap();
    let ps = TaskName::new("ps", 0).unwrap();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| session.run(&[], &[&never]));
        let info = ClusterInfo::connect(&cluster.target(), &client).unwrap();
        let until = later();
        while info.steps(&ps).unwrap().is_empty() {
            assert!(Instant::now() < until, "the step does not begin");
        }
        cluster.kill(&ps, Signal::Kill).unwrap();
        let e = run.join().unwrap().unwrap_err();
        assert_eq!(e.code(), Code::Unavailable, "{e}");
        assert!(e.to_string().contains("/job:ps/task:0"), "{e}");
    });
}

#[test]
fn machines_join_by_a_token_and_are_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, home) = (dir.path().join("ca"), dir.path().join("member"));
    let ran = run(["cluster", "init", text(&ca), "--name", "demo"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("CA sha256:"), "{ran:?}");
    let again = run(["cluster", "init", text(&ca), "--name", "demo"]);
    assert_eq!((again.code, again.stderr.contains("already")), (1, true), "{again:?}");

    let service = Running::start(&["cluster", "serve", "--authority", text(&ca), "--bind", "127.0.0.1:0"]);
    let ready = service.line("ready authority of demo at ");
    let addr = ready.rsplit_once(' ').unwrap().1.to_owned();
    let ask = [
        "cluster",
        "token",
        "--authority",
        text(&ca),
        "--job",
        "worker",
        "--task",
        "1",
        "--addr",
        &addr,
        "--json",
    ];
    let ran = run(ask);
    let token: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(token["subject"], "task/worker/1", "{ran:?}");
    // The line is for a shell: what is before the pipe gives the secret, what follows takes it.
    let line = token["command"].as_str().unwrap();
    let (give, take) = line.split_once(" | actorflow ").unwrap();
    let secret = give.strip_prefix("printf %s ").unwrap();
    let join = || {
        let mut child = Command::new(ACTORFLOW)
            .args(take.split(' '))
            .args(["--identity", text(&home)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let joined = join();
    assert!(joined.status.success(), "{joined:?}");
    let identity = Identity::load(&home).unwrap();
    assert_eq!(
        (identity.subject().to_string().as_str(), identity.cluster()),
        ("task/worker/1", "demo")
    );
    let twice = join();
    assert_eq!(twice.status.code(), Some(1), "the token is used up: {twice:?}");
    assert!(
        !String::from_utf8_lossy(&twice.stderr).contains(secret),
        "an error does not repeat the secret"
    );

    let ran = run(["cluster", "revoke", "--authority", text(&ca), "task/worker/1"]);
    assert!(ran.stdout.contains(identity.serial()), "{ran:?}");
    let ran = run(["cluster", "audit", "--authority", text(&ca)]);
    let events: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let happened = |event: &str, outcome: &str| events.iter().any(|e| e["event"] == event && e["outcome"] == outcome);
    assert!(
        happened("join", "done") && happened("join", "refused") && happened("revoke", "done"),
        "{ran:?}"
    );
    assert!(!ran.stdout.contains(secret));
    service.signal(rustix::process::Signal::TERM);
    assert_eq!(service.end(), 0);
}

fn get(url: &str, path: &str) -> String {
    let addr = url.split('/').nth(2).unwrap();
    let mut s = TcpStream::connect(addr).unwrap();
    write!(s, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    s.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_daemon_that_hosts_the_authority_serves_probes_and_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, me) = (dir.path().join("ca"), dir.path().join("me"));
    assert_eq!(run(["cluster", "init", text(&ca), "--name", "demo"]).code, 0);
    let addr = free_addr();
    let config = dir.path().join("daemon.toml");
    let toml = format!(
        "cluster = {{ ps = ['{addr}'] }}\njob = 'ps'\nauthority = 'ca'\njoin-address = '127.0.0.1:0'\nidentity = 'me'\n\
         metrics = '127.0.0.1:0'\nthreads = 1\nmemory = '64MiB'\n"
    );
    std::fs::write(&config, toml).unwrap();
    let daemon = Running::start(&["daemon", "--config", text(&config)]);
    let page = daemon.line("metrics ").split_once(' ').unwrap().1.to_owned();
    let ready = daemon.line("ready ");
    assert!(
        ready.starts_with(&format!("ready /job:ps/task:0 at {addr} incarnation ")),
        "{ready}"
    );
    assert_eq!(Identity::load(&me).unwrap().subject().to_string(), "task/ps/0");
    assert!(get(&page, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(get(&page, "/readyz").starts_with("HTTP/1.1 200 "));
    let numbers = get(&page, "/metrics");
    for part in [
        "cluster=\"demo\",task=\"/job:ps/task:0\"} 1",
        "actorflow_memory_budget_bytes{device=\"/job:ps/replica:0/task:0/device:CPU:0\"} 67108864",
        "actorflow_certificate_expiry_seconds 8",
    ] {
        assert!(numbers.contains(part), "{part} is not in {numbers}");
    }
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.end(), 0);
}

#[test]
fn a_wrong_use_is_one_line_and_names_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let none = text(dir.path());
    let cluster = r#"{"ps": ["127.0.0.1:1"]}"#;
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["daemon"], 2, &["--cluster", "TF_CONFIG"]),
        (
            &["daemon", "--cluster", cluster, "--job", "worker"],
            2,
            &["no task /job:worker/task:0"],
        ),
        (
            &["daemon", "--cluster", cluster, "--job", "ps", "--metrics", "0.0.0.0:1"],
            2,
            &["--metrics-anywhere"],
        ),
        (
            &["daemon", "--cluster", cluster, "--job", "ps", "--identity", none],
            1,
            &["no identity", "cluster token --job ps --task 0"],
        ),
        (
            &["cluster", "status", "127.0.0.1:1", "--identity", none],
            1,
            &["no identity in"],
        ),
        (
            &["cluster", "token", "--authority", none, "--job", "ps"],
            1,
            &["cluster init"],
        ),
        (&["cluster", "local", "--memory", "much"], 2, &["--memory", "512MiB"]),
        (&["cluster", "local", "--ps", "0", "--workers", "0"], 1, &["1 to 1024"]),
        (
            &[
                "cluster",
                "join",
                "--addr",
                "x:1",
                "--ca-hash",
                "sha256:0",
                "--as",
                "task/ps/0",
                "--token-env",
                "NO_SUCH",
            ],
            1,
            &["NO_SUCH"],
        ),
    ];
    for (args, code, parts) in cases {
        let ran = Command::new(ACTORFLOW)
            .args(*args)
            .env_remove("TF_CONFIG")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(*code), "{args:?}: {stderr}");
        let error = stderr.lines().last().unwrap_or_default();
        assert!(
            error.starts_with("error: ") && parts.iter().all(|p| error.contains(p)),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn every_command_explains_itself() {
    for args in [
        &["daemon", "--help"][..],
        &["cluster", "--help"],
        &["cluster", "local", "--help"],
        &["cluster", "token", "--help"],
        &["cluster", "status", "--help"],
    ] {
        let ran = run(args);
        assert!(ran.code == 0 && ran.stdout.contains("Usage: actorflow "), "{ran:?}");
    }
}
