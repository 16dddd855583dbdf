//! Replicas of a model as real processes: each task is the test's own program, started again with a variable that says which
//! task it is.
//!
//! A worker trains a model that counts its pushes: variables from which every step subtracts 1 in all, however many replicas
//! share it. Its computing can be a sleep, which the parent sets and changes.
#![allow(dead_code)] // each suite uses a part
#![allow(clippy::unwrap_used)] // helpers of tests

pub(crate) mod epochs;

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use actorflow::cluster::identity::{Authority, Identity};
use actorflow::cluster::{ClusterSpec, Server, ServerOptions, TaskName};
use actorflow::train::monitored::MonitoredSession;
use actorflow::train::monitored::hooks::{CheckpointSaverHook, Every, StopAtStepHook};
use actorflow::train::optimizer::Momentum;
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::{Code, DType, Graph, GraphVariables, Result, Session, SessionOptions, Tensor};

/// What a started process is: a folder, a job, a number, a strategy and the elements of its variable, with spaces between them.
/// A strategy after `monitored-` is driven by a monitored session; one after `epochs-` goes through examples.
const TASK: &str = "ACTORFLOW_TEST_TASK";
const HOUR: Duration = Duration::from_secs(3600);
/// Elements of the variable: enough for two buckets of an all-reduce.
const LARGE: usize = 300_000;
/// Elements of a variable that costs nothing to send.
const SMALL: usize = 100;

// ---------------------------------------------------------------- a task

/// What the parent says, line by line, of how a task is to go on.
pub(crate) struct Pace {
    /// Milliseconds that computing takes: a line that is a number.
    computing: AtomicU64,
    /// The global step at which a task that goes through examples waits for a later one: a number after `until`.
    until: AtomicU64,
}

impl Pace {
    fn told(&self, line: &str) {
        match line.strip_prefix("until ") {
            Some(step) => self.until.store(step.parse().unwrap(), Ordering::SeqCst),
            None => self.computing.store(line.parse().unwrap(), Ordering::SeqCst),
        }
    }

    /// Computes.
    fn compute(&self) {
        std::thread::sleep(Duration::from_millis(self.computing.load(Ordering::SeqCst)));
    }

    /// Waits until a step may be taken.
    fn wait(&self, step: u64) {
        while step >= self.until.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn model(g: &Graph, size: usize) -> Result<Model> {
    let x = g.placeholder("x", DType::F32, [size])?;
    let count = g.variable("count", Tensor::zeros(DType::F32, [size])?)?;
    let loss = count.times(&x)?.sum(&[], false)?;
    Ok(Model {
        inputs: vec![x],
        loss,
        metrics: vec![],
    })
}

/// The same with another variable, which the second server has.
fn model_of_two(g: &Graph, size: usize) -> Result<Model> {
    let mut model = model(g, size)?;
    let more = g.variable("more", 0f32)?;
    model.loss = (&model.loss + &*more)?;
    Ok(model)
}

fn session() -> SessionOptions {
    SessionOptions {
        pin: false,
        ..SessionOptions::with_threads(1)
    }
}

/// The last step of a monitored training.
pub(crate) const LAST: i64 = 120;

/// Steps in a monitored session until the last one, which pauses in between so that tasks can be killed before it.
fn monitored(dir: &Path, server: Server, replica: Replica, filters: Vec<String>, size: usize) -> Result<()> {
    let checkpoints = dir.join("checkpoints").display().to_string();
    let mut s = MonitoredSession::for_replica(replica)
        .sessions(move |g| {
            let options = SessionOptions {
                device_filters: filters.clone(),
                ..session()
            };
            Session::on(g, &server, options)
        })
        .checkpoint_dir(&checkpoints)
        .chief_hook(CheckpointSaverHook::new(&checkpoints, Every::Steps(5)))
        .hook(StopAtStepHook::last_step(LAST))
        .build()?;
    let x = Tensor::full([size], 1f32)?;
    while !s.should_stop() {
        match s.step(std::slice::from_ref(&x)) {
            Ok(r) => {
                println!("STEP {} {}", r.global_step, u8::from(r.applied));
                let kept = s.replica().map_or_else(|| Ok(Vec::new()), Replica::kept)?;
                // Each element has had every update, on both servers, whether it was restored or not.
                let wrong = |t: &Tensor| -> Result<bool> {
                    let expected = -(r.global_step as f32);
                    Ok(t.to_vec::<f32>()?.iter().any(|x| *x != expected))
                };
                for (name, value) in kept {
                    if wrong(&value)? {
                        println!("TORN {name} {:?} at step {}", value.to_vec::<f32>()?[0], r.global_step);
                    }
                }
            }
            Err(e) if e.code() == Code::OutOfRange => break,
            Err(e) => return Err(e),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("RECOVERIES {}", s.recoveries());
    s.close()?;
    println!("END");
    // What others still ask of the server is answered.
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn task(dir: &Path, job: &str, index: u32, strategy: &str, size: usize, pace: &Pace) -> Result<()> {
    let (is_monitored, strategy) = match strategy.strip_prefix("monitored-") {
        Some(rest) => (true, rest),
        None => (false, strategy),
    };
    let (in_epochs, strategy) = match strategy.strip_prefix("epochs-") {
        Some(rest) => (true, rest.parse()?),
        None => (false, strategy.parse::<Strategy>()?),
    };
    train(dir, job, index, (strategy, is_monitored, in_epochs), size, pace)
}

fn train(
    dir: &Path,
    job: &str,
    index: u32,
    (strategy, is_monitored, in_epochs): (Strategy, bool, bool),
    size: usize,
    pace: &Pace,
) -> Result<()> {
    let spec = ClusterSpec::from_file(dir.join("cluster.json"))?;
    let identity = Identity::load(&dir.join(format!("{job}{index}")))?;
    let server = Server::start(ServerOptions {
        session: session(),
        directories: vec![dir.display().to_string()],
        ..ServerOptions::new(spec.clone(), TaskName::new(job, index)?, identity)
    })?;
    println!("UP");
    if job == "ps" {
        server.join();
        return Ok(());
    }
    let names = |job: &str| -> Vec<String> {
        (0..spec.num_tasks(job))
            .map(|i| format!("/job:{job}/task:{i}"))
            .collect()
    };
    let mut options = ReplicaOptions::new(strategy, index as usize, spec.num_tasks("worker"));
    options.ps = names("ps");
    options.workers = names("worker");
    options.worker = options.workers[index as usize].clone();
    let g = Graph::new();
    let mut filters = vec![options.worker.clone()];
    filters.extend(names(if strategy == Strategy::AllReduce {
        "worker"
    } else {
        "ps"
    }));
    let build = if is_monitored && !in_epochs {
        model_of_two
    } else {
        model
    };
    let mut replica = Replica::build(&g, Momentum::new(1.0, 0.0).into(), options, |g| build(g, size))?;
    let options = SessionOptions {
        device_filters: filters.clone(),
        ..session()
    };
    if is_monitored && in_epochs {
        return epochs::monitored(dir, server, replica, options, pace);
    }
    if is_monitored {
        return monitored(dir, server, replica, filters, size);
    }
    let session = Session::on(&g, &server, options)?;
    if in_epochs {
        return epochs::train(replica, &session, pace);
    }
    replica.start(&session)?;
    let x = Tensor::full([size], 1f32)?;
    loop {
        pace.compute();
        let line = match replica.step(std::slice::from_ref(&x)) {
            Ok(r) => format!("STEP {} {}", r.global_step, u8::from(r.applied)),
            // A task was lost, or the step was made elsewhere: the next one joins again.
            Err(e) if matches!(e.code(), Code::Unavailable | Code::Aborted | Code::Cancelled) => {
                std::thread::sleep(Duration::from_millis(50));
                format!("AGAIN {e}")
            }
            Err(e) => return Err(e),
        };
        if strategy == Strategy::AllReduce {
            // Between steps, when the others wait for this replica: all elements have had every step.
            let count = replica.parameters()?[0].1.to_vec::<f32>()?;
            if count.iter().any(|c| *c != count[0]) {
                println!("TORN {} {}", count[0], count[size - 1]);
            }
            println!("COUNT {}", -count[0]);
        }
        println!("{line}");
    }
}

#[test]
fn a_process_is_a_task_if_it_was_started_as_one() {
    let Ok(text) = std::env::var(TASK) else { return };
    let words: Vec<&str> = text.split(' ').collect();
    let [dir, job, index, strategy, size] = words[..] else {
        panic!("{text:?}")
    };
    let pace = Arc::new(Pace {
        computing: AtomicU64::new(0),
        until: AtomicU64::new(0),
    });
    let told = pace.clone();
    // The task ends with its parent, when the pipe closes.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
            told.told(&line);
        }
        std::process::exit(0);
    });
    let (index, size) = (index.parse().unwrap(), size.parse().unwrap());
    if let Err(e) = task(Path::new(dir), job, index, strategy, size, &pace) {
        println!("FAILED {e}");
        let _ = std::io::stdout().flush();
        std::process::exit(1);
    }
}

// ---------------------------------------------------------------- the parent

/// When a step ended, the global step after it, and whether the replica's gradients counted.
pub(crate) type Step = (Instant, u64, bool);

/// A task's process.
pub(crate) struct Task {
    process: Child,
    stdin: ChildStdin,
    lines: Receiver<(Instant, String)>,
}

impl Task {
    /// The next line that begins with `want`, and when it came. Panics at a failure of the task.
    pub(crate) fn line(&self, want: &str) -> (Instant, String) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (at, line) = self
                .lines
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("the task never says {want}"));
            assert!(!line.starts_with("FAILED") && !line.starts_with("TORN"), "{line}");
            if let Some(rest) = line.strip_prefix(want) {
                return (at, rest.trim().to_owned());
            }
        }
    }

    /// The next so many steps: when they came, the global step after them, and whether the replica's gradients counted.
    pub(crate) fn steps(&self, n: usize) -> Vec<Step> {
        (0..n).map(|_| self.step()).collect()
    }

    fn step(&self) -> Step {
        let (at, text) = self.line("STEP");
        let (step, applied) = text.split_once(' ').unwrap();
        (at, step.parse().unwrap(), applied == "1")
    }

    /// The steps that it has ended between two times, of which the later one may be to come.
    pub(crate) fn steps_between(&self, from: Instant, to: Instant) -> Vec<Step> {
        let steps = std::iter::from_fn(|| Some(self.step())).take_while(|s| s.0 <= to);
        steps.filter(|s| s.0 >= from).collect()
    }

    /// Sets how long its computing takes from its next step on.
    pub(crate) fn compute(&mut self, time: Duration) {
        self.tell(time.as_millis());
    }

    /// Lets it go through its examples until that global step, and no further.
    pub(crate) fn until(&mut self, step: u64) {
        self.tell(format_args!("until {step}"));
    }

    fn tell(&mut self, line: impl std::fmt::Display) {
        writeln!(self.stdin, "{line}").unwrap();
        self.stdin.flush().unwrap();
    }

    /// Everything that it has said so far is forgotten.
    pub(crate) fn skip(&self) {
        self.lines.try_iter().for_each(drop);
    }

    pub(crate) fn kill(&mut self) {
        // SIGKILL: it can say nothing more to anybody.
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    strategy: &'static str,
    size: usize,
}

impl Cluster {
    /// A cluster that trains a variable of more than a megabyte.
    pub(crate) fn new(ps: u32, workers: u32, strategy: &'static str) -> Cluster {
        Cluster::of_size(ps, workers, strategy, LARGE)
    }

    /// A cluster that trains a variable of no size worth mentioning.
    pub(crate) fn light(ps: u32, workers: u32, strategy: &'static str) -> Cluster {
        Cluster::of_size(ps, workers, strategy, SMALL)
    }

    fn of_size(ps: u32, workers: u32, strategy: &'static str, size: usize) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::ephemeral("test").unwrap();
        let mut spec = ClusterSpec::new();
        let mut sockets = Vec::new();
        for (job, n) in [("ps", ps), ("worker", workers)] {
            for i in 0..n {
                // Ports stay taken until all are known.
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                spec = spec
                    .with_task(job, i, &socket.local_addr().unwrap().to_string())
                    .unwrap();
                sockets.push(socket);
                let identity = authority.issue(format!("task/{job}/{i}").parse().unwrap(), HOUR);
                identity.unwrap().save(&dir.path().join(format!("{job}{i}"))).unwrap();
            }
        }
        std::fs::write(dir.path().join("cluster.json"), spec.to_json()).unwrap();
        Cluster { dir, strategy, size }
    }

    pub(crate) fn start(&self, job: &str, index: u32) -> Task {
        let what = format!(
            "{} {job} {index} {} {}",
            self.dir.path().display(),
            self.strategy,
            self.size
        );
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "processes::a_process_is_a_task_if_it_was_started_as_one",
                "--nocapture",
                "--quiet",
            ])
            .env(TASK, what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(std::result::Result::ok) {
                if send.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        let task = Task { process, stdin, lines };
        task.line("UP");
        task
    }

    pub(crate) fn start_all(&self, ps: u32, workers: u32) -> (Vec<Task>, Vec<Task>) {
        let servers = (0..ps).map(|i| self.start("ps", i)).collect();
        let workers = (0..workers).map(|i| self.start("worker", i)).collect();
        (servers, workers)
    }
}

pub(crate) fn median_gap(steps: &[Step]) -> Duration {
    let mut gaps: Vec<Duration> = steps.windows(2).map(|w| w[1].0 - w[0].0).collect();
    gaps.sort();
    gaps[gaps.len() / 2]
}

pub(crate) fn longest_gap(steps: &[Step]) -> Duration {
    steps.windows(2).map(|w| w[1].0 - w[0].0).max().unwrap()
}

/// Steps a second, over all of the time.
pub(crate) fn rate(steps: &[Step]) -> f64 {
    let (first, last) = (steps.first().unwrap().0, steps.last().unwrap().0);
    (steps.len() - 1) as f64 / (last - first).as_secs_f64()
}
