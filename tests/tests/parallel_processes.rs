//! Data parallelism among real processes, some of which are killed: what the others feel of it.
//!
//! Each task is this test's own program, started again with a variable that says which task it is. A worker trains a model
//! that counts its pushes: variables from which every step subtracts 1 in all, however many replicas share it.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use actorflow::cluster::identity::{Authority, Identity};
use actorflow::cluster::{ClusterSpec, Server, ServerOptions, TaskName};
use actorflow::train::optimizer::Momentum;
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::{Code, DType, Graph, GraphVariables, Result, Session, SessionOptions, Tensor};

/// What a started process is: a folder, a job, a number and a strategy, with spaces between them.
const TASK: &str = "ACTORFLOW_TEST_TASK";
const HOUR: Duration = Duration::from_secs(3600);
/// Elements of the variable: enough for two buckets of an all-reduce.
const SIZE: usize = 300_000;

// ---------------------------------------------------------------- a task

fn model(g: &Graph) -> Result<Model> {
    let x = g.placeholder("x", DType::F32, [SIZE])?;
    let count = g.variable("count", Tensor::zeros(DType::F32, [SIZE])?)?;
    let loss = count.times(&x)?.sum(&[], false)?;
    Ok(Model {
        inputs: vec![x],
        loss,
        metrics: vec![],
    })
}

fn session() -> SessionOptions {
    SessionOptions {
        pin: false,
        ..SessionOptions::with_threads(1)
    }
}

fn task(dir: &Path, job: &str, index: u32, strategy: Strategy) -> Result<()> {
    let spec = ClusterSpec::from_file(dir.join("cluster.json"))?;
    let identity = Identity::load(&dir.join(format!("{job}{index}")))?;
    let server = Server::start(ServerOptions {
        session: session(),
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
    let mut replica = Replica::build(&g, Momentum::new(1.0, 0.0).into(), options, model)?;
    let session = Session::on(
        &g,
        &server,
        SessionOptions {
            device_filters: filters,
            ..session()
        },
    )?;
    replica.start(&session)?;
    let x = Tensor::full([SIZE], 1f32)?;
    loop {
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
                println!("TORN {} {}", count[0], count[SIZE - 1]);
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
    let [dir, job, index, strategy] = words[..] else {
        panic!("{text:?}")
    };
    // Ends with its parent, whose end of the pipe closes.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    if let Err(e) = task(Path::new(dir), job, index.parse().unwrap(), strategy.parse().unwrap()) {
        println!("FAILED {e}");
        let _ = std::io::stdout().flush();
        std::process::exit(1);
    }
}

// ---------------------------------------------------------------- the parent

/// A task's process.
struct Task {
    process: Child,
    lines: Receiver<(Instant, String)>,
}

impl Task {
    /// The next line that begins with `want`, and when it came. Panics at a failure of the task.
    fn line(&self, want: &str) -> (Instant, String) {
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
    fn steps(&self, n: usize) -> Vec<(Instant, u64, bool)> {
        let step = |_| {
            let (at, text) = self.line("STEP");
            let (step, applied) = text.split_once(' ').unwrap();
            (at, step.parse().unwrap(), applied == "1")
        };
        (0..n).map(step).collect()
    }

    /// Everything that it has said so far is forgotten.
    fn skip(&self) {
        self.lines.try_iter().for_each(drop);
    }

    fn kill(&mut self) {
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

struct Cluster {
    dir: tempfile::TempDir,
    strategy: &'static str,
}

impl Cluster {
    fn new(ps: u32, workers: u32, strategy: &'static str) -> Cluster {
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
        Cluster { dir, strategy }
    }

    fn start(&self, job: &str, index: u32) -> Task {
        let what = format!("{} {job} {index} {}", self.dir.path().display(), self.strategy);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_process_is_a_task_if_it_was_started_as_one",
                "--nocapture",
                "--quiet",
            ])
            .env(TASK, what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(std::result::Result::ok) {
                if send.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        let task = Task { process, lines };
        task.line("UP");
        task
    }

    fn start_all(&self, ps: u32, workers: u32) -> (Vec<Task>, Vec<Task>) {
        let servers = (0..ps).map(|i| self.start("ps", i)).collect();
        let workers = (0..workers).map(|i| self.start("worker", i)).collect();
        (servers, workers)
    }
}

fn median_gap(steps: &[(Instant, u64, bool)]) -> Duration {
    let mut gaps: Vec<Duration> = steps.windows(2).map(|w| w[1].0 - w[0].0).collect();
    gaps.sort();
    gaps[gaps.len() / 2]
}

fn longest_gap(steps: &[(Instant, u64, bool)]) -> Duration {
    steps.windows(2).map(|w| w[1].0 - w[0].0).max().unwrap()
}

#[test]
fn a_killed_worker_costs_asynchronous_ones_nothing() {
    let c = Cluster::new(1, 3, "async");
    let (_servers, mut workers) = c.start_all(1, 3);
    for w in &workers {
        w.steps(5);
    }
    workers[1].kill();
    for w in [&workers[0], &workers[2]] {
        w.skip();
        let steps = w.steps(100);
        assert!(steps.iter().all(|s| s.2));
        assert!(longest_gap(&steps) < 2 * median_gap(&steps) + Duration::from_secs(1));
    }
    // It comes back as another process, and finds the training where it is.
    let (_, before, _) = workers[0].steps(1)[0];
    workers[1] = c.start("worker", 1);
    assert!(workers[1].steps(3)[0].1 > before);
}

#[test]
fn a_killed_worker_holds_up_nobody_where_one_is_in_reserve() {
    let c = Cluster::new(1, 3, "sync+backup1");
    let (_servers, mut workers) = c.start_all(1, 3);
    for w in &workers {
        w.steps(5);
    }
    let before = workers[0].steps(20);
    workers[2].kill();
    let after = workers[0].steps(40);
    let all: Vec<_> = before.iter().chain(&after).copied().collect();
    assert!(
        longest_gap(&all) <= 2 * median_gap(&all) + Duration::from_secs(1),
        "{:?}, where a step takes {:?}",
        longest_gap(&all),
        median_gap(&all)
    );
    // One set of winners for each step: none is passed over, none comes twice.
    assert!(after.windows(2).all(|w| w[1].1 > w[0].1));
}

#[test]
fn a_chief_that_was_killed_resumes_where_the_others_wait() {
    let c = Cluster::new(2, 2, "sync");
    let (_servers, mut workers) = c.start_all(2, 2);
    let (_, before, _) = *workers[1].steps(8).last().unwrap();
    workers[0].kill();
    workers[0] = c.start("worker", 0);
    let resumed = workers[0].steps(3);
    // It neither begins anew nor leaves out a step.
    assert!(resumed[0].1 >= before, "{resumed:?} after {before}");
    assert!(resumed.windows(2).all(|w| w[1].1 == w[0].1 + 1));
    workers[1].steps(1);
}

/// Under all-reduce the killed worker takes its parameters and its buckets with it.
fn a_worker_of_an_all_reduce_is_killed(victim: usize) {
    let c = Cluster::new(0, 3, "allreduce");
    let (_, mut workers) = c.start_all(0, 3);
    let counted = |w: &Task| -> f64 { w.line("COUNT").1.parse().unwrap() };
    for w in &workers {
        w.steps(5);
    }
    for _ in 0..2 {
        workers[victim].kill();
        workers[victim] = c.start("worker", victim as u32);
        let back = workers[victim].steps(4);
        assert!(back[0].1 > 5, "it began anew: {back:?}");
        assert!(back.windows(2).all(|w| w[1].1 == w[0].1 + 1), "{back:?}");
        // Each step has counted once: the variable has the number of the step.
        for w in &workers {
            w.skip();
            let (count, (_, step, applied)) = (counted(w), w.steps(1)[0]);
            assert_eq!((count, applied), (step as f64, true));
        }
    }
}

#[test]
fn a_killed_worker_of_an_all_reduce_takes_its_place_again() {
    a_worker_of_an_all_reduce_is_killed(1);
}

#[test]
fn a_killed_chief_of_an_all_reduce_takes_its_place_again() {
    a_worker_of_an_all_reduce_is_killed(0);
}
