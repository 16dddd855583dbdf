//! Running clusters, for the suites about them: processes, what they say, and signals.
#![allow(dead_code)] // each suite uses a part
#![allow(clippy::unwrap_used)] // helpers of tests

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actorflow::cluster::identity::{Authority, Identity, Revocations};
use actorflow::cluster::{ClusterInfo, ClusterSpec, ConnectOptions, TaskName};
use actorflow::train::optimizer::{GradientDescent, Optimizer};
use actorflow::{Code, DType, Error, Graph, GraphVariables, Operation, Output, Session, SessionOptions, Tensor};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::ACTORFLOW;

/// Nothing here takes so long unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn later() -> Instant {
    Instant::now() + LONG
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn free_addr() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().to_string()
}

pub(crate) fn task(job: &str, index: u32) -> TaskName {
    TaskName::new(job, index).unwrap()
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = later();
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running command; it is killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Running {
    pub(crate) fn start<A: AsRef<str>>(args: &[A]) -> Running {
        Running::start_in(&[], args)
    }

    /// Starts the command with these variables in its environment.
    pub(crate) fn start_in<A: AsRef<str>>(variables: &[(&str, &str)], args: &[A]) -> Running {
        let mut child = Command::new(ACTORFLOW)
            .args(args.iter().map(|a| a.as_ref()))
            .env_remove("TF_CONFIG")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, lines) = channel();
        each_line(child.stdout.take().unwrap(), move |line| drop(tell.send(line)));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let kept = errors.clone();
        each_line(child.stderr.take().unwrap(), move |line| {
            kept.lock().unwrap().push(line)
        });
        Running { child, lines, errors }
    }

    /// The next line that begins so.
    pub(crate) fn line(&self, begin: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LONG);
            let line = line.unwrap_or_else(|_| panic!("no line {begin:?}: {:?}", self.errors()));
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    /// What it has written on standard error so far.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap().clone()
    }

    /// Waits for an event in its log, which has to be in JSON.
    pub(crate) fn event(&self, message: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let found = || {
            let lines = self.errors().into_iter();
            let mut events = lines.filter_map(|l| serde_json::from_str::<Value>(&l).ok());
            events.find(|e| e["message"] == message && fits(e))
        };
        let deadline = later();
        loop {
            if let Some(event) = found() {
                return event;
            }
            assert!(
                Instant::now() < deadline,
                "no event {message:?} in {:#?}",
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, s: Signal) {
        signal(self.pid(), s);
    }

    /// Waits for the end; the exit code, -1 after a signal.
    pub(crate) fn end(mut self) -> i32 {
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

fn each_line(out: impl Read + Send + 'static, mut tell: impl FnMut(String) + Send + 'static) {
    std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).for_each(&mut tell);
    });
}

fn of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// Sends a signal; one that stops a process has done so when this returns.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(of(pid), signal).unwrap();
    if signal == Signal::STOP {
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        until("the process does not stop", || {
            state()
                .rsplit(')')
                .next()
                .is_some_and(|s| s.trim_start().starts_with('T'))
        });
    }
}

/// Waits until a process is gone.
pub(crate) fn gone(pid: u32) -> bool {
    let until = later();
    while Instant::now() < until {
        if test_kill_process(of(pid)).is_err() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// `actorflow cluster local`, and what it says when it is ready.
pub(crate) struct Local {
    pub(crate) command: Running,
    pub(crate) target: String,
    pub(crate) identity: PathBuf,
    pub(crate) pids: Vec<u32>,
}

impl Local {
    pub(crate) fn start(ps: u32, workers: u32) -> Local {
        Local::start_with(ps, workers, &[])
    }

    /// With further flags.
    pub(crate) fn start_with(ps: u32, workers: u32, more: &[&str]) -> Local {
        let (ps, workers) = (ps.to_string(), workers.to_string());
        let args = [
            "cluster",
            "local",
            "--threads",
            "1",
            "--json",
            "--ps",
            &ps,
            "--workers",
            &workers,
        ];
        let command = Running::start(&[&args[..], more].concat());
        let all: Value = serde_json::from_str(&command.line("{")).unwrap();
        let pid = |t: &Value| u32::try_from(t["pid"].as_u64().unwrap()).unwrap();
        Local {
            command,
            target: all["target"].as_str().unwrap().to_owned(),
            identity: all["identity"].as_str().unwrap().into(),
            pids: all["tasks"].as_array().unwrap().iter().map(pid).collect(),
        }
    }

    /// The target as commands take it.
    pub(crate) fn addr(&self) -> &str {
        self.target.trim_start_matches("actorflow://")
    }
}

/// The processes of a cluster that nobody watches over.
pub(crate) struct Daemons {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
    pub(crate) spec: ClusterSpec,
    /// How long the tasks' first certificates are good.
    pub(crate) ttl: Duration,
}

impl Daemons {
    /// A cluster of these tasks, none of which runs yet.
    pub(crate) fn new(tasks: &[(&str, u32)]) -> Daemons {
        let placed = tasks.iter().map(|(job, index)| (*job, *index, free_addr()));
        Daemons::at(placed)
    }

    /// A cluster of tasks at these addresses.
    pub(crate) fn at<'a>(tasks: impl IntoIterator<Item = (&'a str, u32, String)>) -> Daemons {
        let mut spec = ClusterSpec::new();
        for (job, index, addr) in tasks {
            spec = spec.with_task(job, index, &addr).unwrap();
        }
        Daemons {
            dir: tempfile::tempdir().unwrap(),
            authority: Authority::ephemeral("test").unwrap(),
            spec,
            ttl: HOUR,
        }
    }

    /// Starts a task and waits until it is ready.
    pub(crate) fn start(&self, job: &str, index: u32, more: &[&str]) -> Running {
        let home = self.home(job, index);
        let (spec, index) = (self.spec.to_json(), index.to_string());
        let args = [
            "daemon",
            "--cluster",
            &spec,
            "--job",
            job,
            "--task",
            &index,
            "--identity",
            text(&home),
            "--threads",
            "1",
        ];
        let daemon = Running::start(&[&args[..], more].concat());
        daemon.line("ready ");
        daemon
    }

    /// A folder with a task's identity, good for so long.
    pub(crate) fn home(&self, job: &str, index: u32) -> PathBuf {
        let subject = format!("task/{job}/{index}");
        let home = self.dir.path().join(subject.replace('/', "-"));
        let identity = self.authority.issue(subject.parse().unwrap(), self.ttl).unwrap();
        identity.with_revocations(&Revocations::none()).save(&home).unwrap();
        home
    }

    pub(crate) fn client(&self) -> ConnectOptions {
        let identity = self.authority.issue("client/test".parse().unwrap(), HOUR).unwrap();
        ConnectOptions::new(identity)
    }

    pub(crate) fn target(&self, job: &str, index: u32) -> String {
        format!("actorflow://{}", self.spec.address(&task(job, index)).unwrap())
    }
}

pub(crate) fn options() -> SessionOptions {
    SessionOptions {
        pin: false,
        ..SessionOptions::with_threads(1)
    }
}

/// What a failed run says, and how long after the deed.
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) after: Duration,
}

/// The step that is in progress in all of these tasks and waits there. One that has just failed may still be listed by a task
/// that has not heard of it, but not by all.
pub(crate) fn step_of(info: &ClusterInfo, tasks: &[TaskName]) -> Option<u64> {
    let waiting = |t: &TaskName| {
        let steps = info.steps(t).unwrap_or_default().into_iter();
        steps.filter(|s| s.waiting).map(|s| s.step).collect::<Vec<_>>()
    };
    let (first, others) = tasks.split_first()?;
    let others: Vec<_> = others.iter().map(waiting).collect();
    waiting(first)
        .into_iter()
        .find(|step| others.iter().all(|o| o.contains(step)))
}

/// Runs `y`, does something to the cluster once the step is in progress in these tasks, and waits for the error. A step that
/// does not get so far because a task has just come back is begun again.
pub(crate) fn fails(
    session: &Session,
    y: &Output,
    info: &ClusterInfo,
    tasks: &[TaskName],
    deed: impl FnOnce(),
) -> Failed {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            loop {
                let (result, ended) = (session.run(&[], &[y]), Instant::now());
                let too_early = result.as_ref().is_err_and(|e| e.code() == Code::Unavailable);
                if !too_early || done.load(Ordering::SeqCst) {
                    return (result, ended);
                }
            }
        });
        until("the step does not begin", || step_of(info, tasks).is_some());
        done.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        deed();
        let (result, ended) = run.join().unwrap();
        Failed {
            error: result.unwrap_err(),
            after: ended.saturating_duration_since(begun),
        }
    })
}

/// A linear model: the variable on the parameter server, the rest on a worker.
pub(crate) struct Model {
    pub(crate) graph: Graph,
    x: Output,
    y: Output,
    loss: Output,
    train: Operation,
    init: Operation,
}

impl Model {
    pub(crate) fn new() -> Model {
        let g = Graph::new();
        let w = {
            let _ps = g.device_scope("/job:ps/task:0");
            g.variable("w", Tensor::zeros(DType::F32, [2, 1]).unwrap()).unwrap()
        };
        let _worker = g.device_scope("/job:worker/task:1");
        let x = g.placeholder("x", DType::F32, [None, Some(2)]).unwrap();
        let y = g.placeholder("y", DType::F32, [None, Some(1)]).unwrap();
        let error = x.matmul(&w).unwrap().squared_difference(&y).unwrap();
        let loss = error.mean(&[], false).unwrap();
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

    pub(crate) fn session(&self, target: &str, identity: &Path) -> Session {
        let client = ConnectOptions::new(Identity::load(identity).unwrap());
        Session::connect(&self.graph, target, &client, SessionOptions::with_threads(1)).unwrap()
    }

    pub(crate) fn step(&self, session: &Session) -> actorflow::Result<f32> {
        let (x, y) = (Tensor::from([[1f32, 0.0], [0.0, 1.0]]), Tensor::from([[3f32], [-1.0]]));
        let run = session.runner().feed(&self.x, &x).feed(&self.y, &y);
        run.fetch(&self.loss).target(&self.train).run()?[0].to_scalar::<f32>()
    }

    pub(crate) fn train(&self, session: &Session) -> (f32, f32) {
        session.execute(&[&self.init]).unwrap();
        let first = self.step(session).unwrap();
        for _ in 0..30 {
            self.step(session).unwrap();
        }
        (first, self.step(session).unwrap())
    }
}

/// What never comes: the head of a queue that stays empty, in the current device scope.
pub(crate) fn never(g: &Graph, name: &str) -> Output {
    let types = || vec![DType::F32];
    let queue = g.op("FIFOQueueV2").attr("component_types", types()).output().unwrap();
    let head = g.op("QueueDequeueV2").input(&queue).attr("component_types", types());
    head.name(name).output().unwrap()
}
