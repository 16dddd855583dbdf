//! A run with a process for each task, over QUIC on the loopback.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actorflow::cluster::TaskName;
use actorflow::{CancelToken, Code, Error, Result};

use super::inject::{Injection, Kill, When};
use super::relay::Relays;
use super::setup::{Death, Ended, Mark, Raw, Setup, Used};
use super::task::{SETUP, cluster_file};
use crate::tasks::{Folder, Task};

/// How long tasks may take to start, and may be silent beyond a step's deadline.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often signals and kills are looked after.
const LOOK: Duration = Duration::from_millis(5);

/// What a task says: which one, which of its lives, and the line, or none at its end.
struct Said {
    worker: usize,
    life: usize,
    line: Option<String>,
}

/// A worker's processes, one after the other.
#[derive(Default)]
struct Worker {
    task: Option<Task>,
    life: usize,
    /// It has joined the training, or has said what it was asked.
    ready: bool,
    /// It trains no more.
    ended: bool,
    /// When its next life begins.
    again: Option<Instant>,
    /// What its process had used when it began to train.
    used_before: Used,
}

struct Run<'a> {
    setup: &'a Setup,
    injection: &'a Injection,
    folder: Folder,
    servers: Vec<Task>,
    workers: Vec<Worker>,
    said: Receiver<Said>,
    say: Sender<Said>,
    /// When training began.
    begun: Instant,
    begun_at: Duration,
    raw: Raw,
}

/// Trains in processes; `seen` is given the steps as they are told.
///
/// # Errors
/// If a task cannot be started or is lost, other than by a kill that was asked for, or the run is cancelled. Workers that
/// ended before their time are in the result.
pub(super) fn run(
    setup: &Setup,
    injection: &Injection,
    stop: &CancelToken,
    mut seen: impl FnMut(&[Mark]),
) -> Result<Raw> {
    let folder = Folder::new(&[("ps", setup.ps), ("worker", setup.workers)])?;
    let text = serde_json::to_string(setup).map_err(|e| Error::internal(e.to_string()))?;
    std::fs::write(folder.file(SETUP), text)?;
    let _relays = addresses(&folder, injection)?;
    let (say, said) = channel();
    let mut run = Run {
        setup,
        injection,
        folder,
        servers: Vec::new(),
        workers: Vec::new(),
        said,
        say,
        begun: Instant::now(),
        begun_at: Duration::ZERO,
        raw: Raw {
            marks: vec![Vec::new(); setup.workers],
            ..Raw::default()
        },
    };
    run.start(stop)?;
    run.train(stop, &mut seen)?;
    Ok(run.raw)
}

/// Writes each task's view of the cluster: where the network is slow, what is far away is reached through a relay.
fn addresses(folder: &Folder, injection: &Injection) -> Result<Relays> {
    let mut relays = Relays::new()?;
    let tasks: Vec<(TaskName, &str)> = folder.spec.tasks().collect();
    let delay = |t: &TaskName| match &*t.job {
        "worker" => injection.delay(t.index as usize),
        _ => Duration::ZERO,
    };
    for (me, _) in &tasks {
        let mut mine = folder.spec.clone();
        for (other, addr) in &tasks {
            let far = delay(me).max(delay(other));
            if me == other || far.is_zero() {
                continue;
            }
            let addr: SocketAddr = addr.parse().map_err(|e| Error::internal(format!("{addr}: {e}")))?;
            mine = mine.with_task(&other.job, other.index, &relays.to(addr, far)?.to_string())?;
        }
        std::fs::write(folder.file(&cluster_file(&me.job, me.index as usize)), mine.to_json())?;
    }
    Ok(relays)
}

fn late(message: impl Into<String>) -> Error {
    Error::new(Code::DeadlineExceeded, message)
}

fn used(task: &mut Task) -> Result<Used> {
    task.say("report")?;
    parsed(&task.line("USED")?)
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::internal(format!("a task said {text:?}: {e}")))
}

impl Run<'_> {
    fn task(&self, job: &str, index: usize, first: usize) -> Result<Task> {
        let mut args: Vec<OsString> = vec!["sync-vs-async-task".into(), self.folder.path().into(), job.into()];
        args.extend([index.to_string(), first.to_string()].map(OsString::from));
        Task::start(args)
    }

    fn start(&mut self, stop: &CancelToken) -> Result<()> {
        for i in 0..self.setup.ps {
            self.servers.push(self.task("ps", i, 0)?);
        }
        for s in &mut self.servers {
            s.line("UP")?;
            stop.check()?;
        }
        for w in 0..self.setup.workers {
            self.workers.push(Worker::default());
            self.birth(w, 0)?;
        }
        let until = Instant::now() + PATIENCE + self.setup.deadline();
        let missing = |run: &Run<'_>| run.workers.iter().position(|w| !w.ready);
        while let Some(worker) = missing(self) {
            stop.check()?;
            if Instant::now() > until {
                return Err(late(format!("worker {worker} did not get ready")));
            }
            self.hear(LOOK, &mut |_| {})?;
            if let Some(e) = self.raw.errors.first() {
                return Err(Error::unavailable(e.clone()));
            }
        }
        Ok(())
    }

    /// Starts a worker's process, which begins at this step of the data.
    fn birth(&mut self, worker: usize, first: usize) -> Result<()> {
        let mut task = self.task("worker", worker, first)?;
        let (say, life) = (self.say.clone(), self.workers[worker].life);
        let heard = move |line: Option<&str>| {
            let line = line.map(str::to_owned);
            // Nobody listens any more once the run is over.
            let _ = say.send(Said { worker, life, line });
        };
        task.listen(heard)?;
        self.workers[worker].task = Some(task);
        Ok(())
    }

    /// Waits for something to be said and does what follows from it.
    fn hear(&mut self, wait: Duration, seen: &mut dyn FnMut(&[Mark])) -> Result<bool> {
        let Said { worker, life, line } = match self.said.recv_timeout(wait) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::internal("nobody listens to the tasks")),
        };
        let w = &mut self.workers[worker];
        let Some(line) = line else {
            if life == w.life && w.task.is_some() {
                w.ready = true;
                if !std::mem::replace(&mut w.ended, true) {
                    self.raw.errors.push(format!("the process of worker {worker} ended"));
                }
            }
            return Ok(true);
        };
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        if life != w.life && word != "STEPS" {
            // Said before it was killed.
            return Ok(true);
        }
        match word {
            "READY" => {
                w.ready = true;
                if !self.begun_at.is_zero() {
                    // A successor, while the others train.
                    if let Some(task) = &mut w.task {
                        task.say(&format!("go {}", self.begun_at.as_nanos()))?;
                    }
                    let back = self.begun.elapsed().as_secs_f64();
                    if let Some(d) = self.raw.deaths.iter_mut().rfind(|d| d.worker == worker) {
                        d.back = Some(back);
                    }
                }
            }
            "STEPS" => {
                let marks: Vec<Mark> = parsed(rest)?;
                seen(&marks);
                self.raw.marks[worker].extend(marks);
            }
            "ENDED" => {
                w.ended = true;
                let ended: Ended = parsed(rest)?;
                self.raw.ended = self.begun.elapsed().as_secs_f64();
                if let Some(e) = ended.error {
                    self.raw.errors.push(format!("worker {worker}: {e}"));
                }
                if let Some(seen) = ended.seen {
                    self.raw.seen = seen;
                }
            }
            "USED" => {
                let used: Used = parsed(rest)?;
                let before = std::mem::replace(&mut w.used_before, used);
                if w.ended {
                    let bytes = self.raw.bytes.get_or_insert(0);
                    *bytes += used.bytes.saturating_sub(before.bytes);
                }
                w.ready = true;
            }
            _ => {}
        }
        Ok(true)
    }

    fn train(&mut self, stop: &CancelToken, seen: &mut dyn FnMut(&[Mark])) -> Result<()> {
        let before = self.servers.iter_mut().map(used).collect::<Result<Vec<_>>>()?;
        self.ask_workers(stop)?;
        self.begun = Instant::now();
        self.begun_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let go = format!("go {}", self.begun_at.as_nanos());
        for w in &mut self.workers {
            if let Some(task) = &mut w.task {
                task.say(&go)?;
            }
        }
        let mut kills = self.injection.kills.clone();
        let mut heard = Instant::now();
        let silence = PATIENCE + self.setup.deadline() + Duration::from_secs_f64(self.setup.compute * 1000.0);
        while self.workers.iter().any(|w| w.task.is_some() && !w.ended) {
            stop.check()?;
            if self.hear(LOOK, seen)? {
                heard = Instant::now();
            }
            if heard.elapsed() > silence {
                return Err(late("no worker has said anything for a long time"));
            }
            self.kill(&mut kills)?;
        }
        for (server, before) in self.servers.iter_mut().zip(before) {
            let after = used(server)?;
            *self.raw.bytes.get_or_insert(0) += after.bytes.saturating_sub(before.bytes);
            self.raw
                .server_cpu
                .push(after.cpu.saturating_sub(before.cpu) as f64 * 1e-6);
        }
        self.ask_workers(stop)
    }

    /// Asks all workers what they have used, and waits for the answers.
    fn ask_workers(&mut self, stop: &CancelToken) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        for w in &mut self.workers {
            // One whose process has ended cannot tell.
            w.ready = match &mut w.task {
                Some(task) => task.say("report").is_err(),
                None => true,
            };
        }
        while self.workers.iter().any(|w| !w.ready) {
            stop.check()?;
            if Instant::now() > until {
                return Err(late("a worker did not say what it has used"));
            }
            self.hear(LOOK, &mut |_| {})?;
        }
        Ok(())
    }

    /// Kills whose time has come, and starts those again whose time has come.
    fn kill(&mut self, kills: &mut Vec<Kill>) -> Result<()> {
        let share = {
            let updates = self.raw.marks.iter().filter_map(|m| m.last()).map(|m| m.update);
            updates.max().unwrap_or(0) as f64 / self.setup.updates as f64
        };
        let elapsed = self.begun.elapsed();
        let due = |k: &Kill| match k.when {
            When::Share(s) => share >= s,
            When::After(t) => elapsed >= t,
        };
        for k in kills.extract_if(.., |k| due(k)) {
            let w = &mut self.workers[k.worker];
            if w.ended || w.task.is_none() {
                continue;
            }
            if let Some(mut task) = w.task.take() {
                task.kill();
            }
            w.life += 1;
            w.again = self.injection.restart.map(|r| Instant::now() + r);
            self.raw.deaths.push(Death {
                worker: k.worker,
                at: self.begun.elapsed().as_secs_f64(),
                back: None,
            });
        }
        for i in 0..self.workers.len() {
            if self.workers[i].again.is_some_and(|t| Instant::now() >= t) {
                self.workers[i].again = None;
                self.workers[i].used_before = Used::default();
                let first = self.raw.marks[i].len();
                self.birth(i, first)?;
            }
        }
        Ok(())
    }
}
