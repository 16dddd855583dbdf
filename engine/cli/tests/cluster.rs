//! Clusters as people run them: the daemon, joining, looking, and a whole cluster on this machine.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod clusters;
mod command;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use actorflow::cluster::identity::{Authority, Identity};
use actorflow::cluster::{ClusterInfo, ConnectOptions};
use actorflow::{Code, Graph, Session, SessionOptions};
use actorflow_cli::cluster::local::{LocalCluster, LocalOptions, Signal};
use clusters::{LONG, Local, Model, Running, fails, free_addr, gone, later, never, options, task, text};
use command::{ACTORFLOW, run};
use serde_json::Value;

/// One parameter server and some workers, supervised by this process.
fn supervised(workers: u32) -> LocalCluster {
    let options = LocalOptions {
        program: Some(ACTORFLOW.into()),
        threads: Some(1),
        ..LocalOptions::new(1, workers)
    };
    LocalCluster::start(options).unwrap()
}

#[test]
fn a_local_cluster_trains_and_leaves_no_process_when_it_is_interrupted() {
    let cluster = Local::start(1, 2);
    assert_eq!(cluster.pids.len(), 3);
    let model = Model::new();
    let session = model.session(&cluster.target, &cluster.identity);
    let (first, last) = model.train(&session);
    assert!(last < first / 100.0, "{first} then {last}");
    drop(session);

    let identity = text(&cluster.identity);
    let look = |what: &str, more: &[&str]| {
        let begin = ["cluster", what, cluster.addr()];
        run([&begin[..], more, &["--identity", identity]].concat())
    };
    let ran = look("status", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ["/job:ps/task:0", "/job:worker/task:1", "STATE"]
            .iter()
            .all(|p| ran.stdout.contains(p)),
        "{ran:?}"
    );
    let ran = look("devices", &["--json"]);
    let devices: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 3, "{ran:?}");
    let ran = look("steps", &["--json"]);
    assert_eq!(ran.stdout, "{\"steps\":[],\"unreachable\":[]}\n", "{ran:?}");
    let ran = look("status", &["--json"]);
    let status: Value = serde_json::from_str(&ran.stdout).unwrap();
    for t in status["tasks"].as_array().unwrap() {
        assert!(
            t["incarnation"].as_str().unwrap().parse::<u64>().unwrap() > 1 << 53,
            "{t}"
        );
        assert!(t["memory_used"].is_u64(), "{t}");
    }
    let ran = look("cancel", &["17"]);
    assert_eq!((ran.code, ran.stderr.contains("no step 17")), (1, true), "{ran:?}");
    let ran = look("cancel", &["17", "--json"]);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &said["cancelled"]), (1, &Value::Bool(false)), "{ran:?}");
    assert_eq!(said["errors"].as_array().unwrap().len(), 3, "{ran:?}");

    let ran = look("reset", &["no such"]);
    assert_eq!((ran.code, ran.stderr.contains("\"no such\"")), (1, true), "{ran:?}");
    let ran = look("reset", &["--json"]);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    let forgotten = |task: &str| {
        let tasks = said["tasks"].as_array().unwrap().iter();
        tasks
            .filter(|t| t["task"] == task)
            .map(|t| t["forgotten"].clone())
            .next()
    };
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(forgotten("/job:ps/task:0"), Some(serde_json::json!([""])), "{ran:?}");
    assert_eq!(forgotten("/job:worker/task:1"), Some(serde_json::json!([])), "{ran:?}");
    let e = model
        .step(&model.session(&cluster.target, &cluster.identity))
        .unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition, "the variables are forgotten: {e}");

    cluster.command.signal(rustix::process::Signal::INT);
    assert_eq!(cluster.command.end(), 0);
    for n in cluster.pids {
        assert!(gone(n), "process {n} is left");
    }
    assert!(!cluster.identity.exists(), "the identities are left");
}

#[test]
fn tasks_end_when_their_supervisor_is_killed_and_the_next_one_cleans_up() {
    let cluster = Local::start(1, 1);
    drop(cluster.command);
    for n in cluster.pids {
        assert!(gone(n), "process {n} is left");
    }
    assert!(cluster.identity.exists(), "nobody was left to remove it");
    let other = Local::start(1, 0);
    assert!(
        !cluster.identity.exists(),
        "identities of a cluster that is gone are left"
    );
    assert!(other.identity.exists());
    other.command.signal(rustix::process::Signal::TERM);
    assert_eq!(other.command.end(), 0);
}

#[test]
fn a_second_interrupt_ends_a_local_cluster_at_once() {
    let cluster = Local::start(1, 1);
    let g = Graph::new();
    let y = {
        let _worker = g.device_scope("/job:worker/task:0");
        never(&g, "never")
    };
    let mut client = ConnectOptions::new(Identity::load(&cluster.identity).unwrap());
    // Nobody is left to announce the worker's end.
    client.timing.idle = Duration::from_secs(2);
    let session = Session::connect(&g, &cluster.target, &client, options()).unwrap();
    let info = ClusterInfo::connect(&cluster.target, &client).unwrap();
    let failed = fails(&session, &y, &info, &[task("worker", 0)], || {
        let begun = Instant::now();
        cluster.command.signal(rustix::process::Signal::INT);
        // The step would be given five seconds.
        std::thread::sleep(Duration::from_millis(300));
        cluster.command.signal(rustix::process::Signal::INT);
        for n in &cluster.pids {
            assert!(gone(*n), "process {n} is left");
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    });
    assert_eq!(failed.error.code(), Code::Unavailable, "{}", failed.error);
    assert_eq!(cluster.command.end(), 1);
    assert!(!cluster.identity.exists(), "the identities are left");
}

#[test]
fn a_task_that_dies_fails_steps_with_its_name_and_comes_back_as_another_run() {
    let cluster = supervised(2);
    let ps = task("ps", 0);
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
    let cluster = supervised(1);
    let g = Graph::new();
    let y = {
        let _ps = g.device_scope("/job:ps/task:0");
        never(&g, "never")
    };
    let mut client = cluster.connect_options().unwrap();
    // Without the announcement, it would take this long.
    client.timing.idle = LONG * 10;
    let patient = SessionOptions {
        stall_timeout: LONG * 10,
        ..options()
    };
    let session = Session::connect(&g, &cluster.target(), &client, patient).unwrap();
    let info = ClusterInfo::connect(&cluster.target(), &client).unwrap();
    let ps = task("ps", 0);
    let failed = fails(&session, &y, &info, std::slice::from_ref(&ps), || {
        cluster.kill(&ps, Signal::Kill).unwrap();
    });
    let e = failed.error;
    assert_eq!(e.code(), Code::Unavailable, "{e}");
    assert!(e.to_string().contains("/job:ps/task:0"), "{e}");
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
    let join_with = |more: &[&str]| {
        let mut child = Command::new(ACTORFLOW)
            .args(take.split(' '))
            .args(more)
            .args(["--identity", text(&home)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who is a member already does not read it.
        let _ = child.stdin.take().unwrap().write_all(secret.as_bytes());
        child.wait_with_output().unwrap()
    };
    let join = || join_with(&[]);
    let joined = join_with(&["--if-needed"]);
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

    // Who is a member needs no token; who is not any more does.
    let needless = join_with(&["--if-needed"]);
    assert!(needless.status.success(), "{needless:?}");
    assert!(
        String::from_utf8_lossy(&needless.stdout).contains("already"),
        "{needless:?}"
    );
    assert_eq!(Identity::load(&home).unwrap().serial(), identity.serial());
    let authority = Authority::open(&ca).unwrap();
    let expired = authority.issue("task/worker/1".parse().unwrap(), Duration::from_secs(1));
    expired.unwrap().save(&home).unwrap();
    clusters::until("it does not expire", || Identity::load(&home).is_err());
    let late = join_with(&["--if-needed"]);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    let ran = run(ask);
    let token: Value = serde_json::from_str(&ran.stdout).unwrap();
    let line = token["command"].as_str().unwrap();
    let fresh = dir.path().join("secret");
    let secret_of = |line: &str| line.split(' ').nth(2).unwrap().to_owned();
    std::fs::write(&fresh, secret_of(line)).unwrap();
    let args = take.trim_end_matches(" --token-file -").split(' ');
    let more = ["--token-file", text(&fresh), "--identity", text(&home), "--if-needed"];
    let again = run(args.chain(more));
    assert_eq!(again.code, 0, "{again:?}");
    let identity = Identity::load(&home).unwrap();

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
        (
            &["daemon", "--cluster", r#"{"ps": []}"#, "--job", "ps"],
            2,
            &["has no tasks"],
        ),
        (
            &[
                "daemon",
                "--cluster",
                r#"{"ps": ["a:1"], "ps": ["b:1"]}"#,
                "--job",
                "ps",
            ],
            2,
            &["the key \"ps\" is there twice"],
        ),
        (
            &["daemon", "--cluster", r#"{"ps": ["a:1", "a:1"]}"#, "--job", "ps"],
            2,
            &["a:1 is the address of task 1"],
        ),
        (
            &["daemon", "--cluster", r#"{"ps": ["a:0"]}"#, "--job", "ps"],
            2,
            &["no address"],
        ),
        (
            &["daemon", "--cluster", cluster, "--job", "ps", "--submitters", "a b"],
            2,
            &["--submitters", "no job \"a b\""],
        ),
        (
            &[
                "daemon",
                "--cluster",
                cluster,
                "--job",
                "ps",
                "--authority-address",
                "nonsense",
            ],
            2,
            &["--authority-address", "host:port"],
        ),
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

#[test]
fn the_manifests_for_kubernetes_say_what_the_commands_know() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kubernetes");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let mut checked = Vec::new();
    for name in ["authority.yaml", "ps.yaml", "worker.yaml"] {
        let manifest = read(name);
        // A command goes on to the end of its block, which is indented as its first line is.
        let lines: Vec<&str> = manifest.lines().collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| l.contains("actorflow ")) {
            let depth = |l: &str| l.len() - l.trim_start().len();
            let block = lines[i..].iter().take_while(|l| depth(l) == depth(line));
            let words: Vec<&str> = block.flat_map(|l| l.split_whitespace()).collect();
            let at = words.iter().position(|w| *w == "actorflow").unwrap();
            let command: Vec<&str> = words[at + 1..]
                .iter()
                .take_while(|w| w.bytes().all(|b| b.is_ascii_lowercase()))
                .copied()
                .collect();
            let help = run(command.iter().copied().chain(["--help"]));
            assert_eq!(help.code, 0, "{name}: {command:?}");
            for flag in words.iter().filter(|w| w.starts_with("--")) {
                assert!(
                    help.stdout.contains(&format!("{flag} ")) || help.stdout.contains(&format!("{flag}\n")),
                    "{name}: {command:?} {flag}"
                );
            }
            checked.push(command.join(" "));
        }
    }
    assert_eq!(
        checked,
        [
            "cluster init",
            "cluster serve",
            "cluster join",
            "daemon",
            "cluster join",
            "daemon"
        ]
    );
    // The two differ in names and numbers alone.
    let ps = read("ps.yaml")
        .replace("Parameter servers", "Workers")
        .replace("replicas: 1", "replicas: 4");
    let renamed = ps.replace("name: ps", "name: worker").replace("app: ps", "app: worker");
    let renamed = renamed
        .replace("serviceName: ps", "serviceName: worker")
        .replace("task/ps/", "task/worker/")
        .replace("--job ps", "--job worker")
        .replace("join-ps", "join-worker");
    assert_eq!(renamed, read("worker.yaml"));
}
