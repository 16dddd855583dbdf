//! What the supervisor of a local cluster does: one thread that hears everything and decides.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use actorflow::cluster::identity::Authority;
use actorflow::cluster::{ClusterSpec, TaskName};
use actorflow::{Error, Result};

use super::announce::Announcer;
use super::process::{News, Process, Signal};
use super::{Event, LocalOptions, LocalTask, task_dir};

/// What the supervisor hears.
pub(super) enum Input {
    /// Of a task's process, by the task's number and that of the process.
    Of(usize, u64, News),
    /// End everything.
    Stop,
    /// And do not wait for it.
    Hurry,
}

/// The wait before a task that died is started again; doubled each time that it dies quickly again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A process that lived less long died quickly.
const QUICK: Duration = Duration::from_secs(10);
/// After so many quick deaths in a row a task is given up.
const PATIENCE: u32 = 6;
/// Of a process' log, the lines that are kept to explain its death.
const KEPT: usize = 20;
/// How long the end of a killed process may take.
const KILLED: Duration = Duration::from_secs(10);

/// A task for those who ask about it.
struct Entry {
    public: LocalTask,
    process: Option<Arc<Process>>,
}

#[derive(Default)]
struct State {
    tasks: Vec<Entry>,
    failure: Option<String>,
}

/// What is known of the tasks, for everybody.
pub(super) struct Shared {
    state: std::sync::Mutex<State>,
    changed: std::sync::Condvar,
}

impl Shared {
    pub(super) fn new(spec: &ClusterSpec) -> Shared {
        let entry = |(task, addr): (TaskName, &str)| Entry {
            public: LocalTask {
                task,
                addr: addr.to_owned(),
                pid: None,
                incarnation: None,
                restarts: 0,
                metrics: None,
                given_up: false,
            },
            process: None,
        };
        Shared {
            state: std::sync::Mutex::new(State {
                tasks: spec.tasks().map(entry).collect(),
                failure: None,
            }),
            changed: std::sync::Condvar::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics with the lock; if something did, what is known stays true.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change<R>(&self, i: usize, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let r = self.lock().tasks.get_mut(i).map(change);
        self.changed.notify_all();
        r
    }

    pub(super) fn tasks(&self) -> Vec<LocalTask> {
        self.lock().tasks.iter().map(|t| t.public.clone()).collect()
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    fn fail(&self, why: String) {
        self.lock().failure.get_or_insert(why);
        self.changed.notify_all();
    }

    pub(super) fn signal(&self, task: &TaskName, signal: Signal) -> Result<()> {
        let process = self
            .lock()
            .tasks
            .iter()
            .find(|t| t.public.task == *task)
            .and_then(|t| t.process.clone());
        let process = process.ok_or_else(|| Error::unavailable(format!("task {task} has no process now")))?;
        process
            .handle
            .signal(signal)
            .map_err(|e| Error::from(e).in_task(&task.to_string()))
    }

    /// Waits until the tasks are as `done` wants them.
    pub(super) fn wait(&self, deadline: Instant, done: impl Fn(&[LocalTask]) -> bool) -> Result<()> {
        let mut state = self.lock();
        loop {
            let tasks: Vec<LocalTask> = state.tasks.iter().map(|t| t.public.clone()).collect();
            if done(&tasks) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let not: Vec<String> = tasks
                    .iter()
                    .filter(|t| t.incarnation.is_none())
                    .map(|t| t.task.to_string())
                    .collect();
                return Err(Error::deadline(format!("not ready: {}", not.join(", "))));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

/// What the supervisor alone knows of a task.
struct Watched {
    task: TaskName,
    /// The number of its present process.
    process: u64,
    alive: bool,
    started: Instant,
    quick_deaths: u32,
    /// When it is to be started again.
    due: Option<Instant>,
    log: VecDeque<String>,
}

pub(super) struct Supervisor {
    options: LocalOptions,
    spec: ClusterSpec,
    dir: PathBuf,
    program: PathBuf,
    renewal: SocketAddr,
    announcer: Arc<Announcer>,
    shared: Arc<Shared>,
    input: Sender<Input>,
    tasks: Vec<Watched>,
    processes: u64,
    /// All tasks have been ready: from then on those that die are started again.
    settled: bool,
    hurried: bool,
}

impl Supervisor {
    pub(super) fn new(
        options: &LocalOptions,
        spec: &ClusterSpec,
        dir: &Path,
        renewal: SocketAddr,
        authority: Authority,
        shared: &Arc<Shared>,
        input: &Sender<Input>,
    ) -> Result<Supervisor> {
        let program = match &options.program {
            Some(p) => p.clone(),
            None => std::env::current_exe().map_err(Error::from)?,
        };
        let watched = |(task, _)| Watched {
            task,
            process: 0,
            alive: false,
            started: Instant::now(),
            quick_deaths: 0,
            due: None,
            log: VecDeque::new(),
        };
        Ok(Supervisor {
            tasks: spec.tasks().map(watched).collect(),
            options: options.clone(),
            spec: spec.clone(),
            dir: dir.to_owned(),
            program,
            renewal,
            announcer: Announcer::new(options, spec, authority, shared),
            shared: shared.clone(),
            input: input.clone(),
            processes: 0,
            settled: false,
            hurried: false,
        })
    }

    /// Starts all tasks and looks after them until the end.
    pub(super) fn run(mut self, inputs: &Receiver<Input>) {
        for i in 0..self.tasks.len() {
            self.start(i);
        }
        loop {
            let due = self.tasks.iter().filter_map(|t| t.due).min();
            let wait = due.map_or(Duration::from_secs(3600), |d| {
                d.saturating_duration_since(Instant::now())
            });
            match inputs.recv_timeout(wait) {
                Ok(Input::Of(i, process, news)) => self.hear(i, process, news),
                Ok(Input::Hurry) => self.hurried = true,
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            for i in 0..self.tasks.len() {
                if self.tasks[i].due.is_some_and(|d| now >= d) {
                    self.shared.change(i, |t| t.public.restarts += 1);
                    self.start(i);
                }
            }
        }
        self.stop(inputs);
    }

    fn command(&self, task: &TaskName) -> Command {
        let mut c = Command::new(&self.program);
        let o = &self.options;
        c.arg("daemon")
            .args([
                "--cluster",
                &self.spec.to_json(),
                "--job",
                &task.job,
                "--task",
                &task.index.to_string(),
            ])
            .arg("--identity")
            .arg(task_dir(&self.dir, task))
            .args(["--authority-address", &self.renewal.to_string()])
            .args(["--devices", &o.devices.to_string(), "--log-level", &o.log_level])
            .args(["--grace", &format!("{}ms", o.grace.as_millis()), "--with-parent"]);
        if let Some(n) = o.threads {
            c.args(["--threads", &n.to_string()]);
        }
        if let Some(n) = o.memory {
            c.args(["--memory", &n.to_string()]);
        }
        // What one has heard while another was down is for that one, too.
        let kept = |(t, _): (TaskName, _)| {
            let file = crate::home::epoch_file(&task_dir(&self.dir, &t));
            std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
        };
        if let Some(epoch) = self.spec.tasks().filter_map(kept).max() {
            c.args(["--epoch", &epoch.to_string()]);
        }
        for limit in &o.limits {
            c.args(["--limit", limit]);
        }
        if o.metrics {
            c.args(["--metrics", "127.0.0.1:0"]);
        }
        for dir in &o.allow_dir {
            c.args(["--allow-dir", dir]);
        }
        if let Some(dir) = &o.current_dir {
            c.current_dir(dir);
        }
        // A terminal's Ctrl-C is for the supervisor, which ends the tasks in its own way.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut c, 0);
        c
    }

    fn start(&mut self, i: usize) {
        self.processes += 1;
        let number = self.processes;
        let input = self.input.clone();
        let tell = move |news: News| {
            // The supervisor may have ended.
            let _ = input.send(Input::Of(i, number, news));
        };
        let started = Process::start(self.command(&self.tasks[i].task), tell);
        let t = &mut self.tasks[i];
        t.process = number;
        t.started = Instant::now();
        t.due = None;
        t.log.clear();
        match started {
            Ok(process) => {
                t.alive = true;
                self.shared.change(i, |e| {
                    e.public.pid = Some(process.pid);
                    e.process = Some(Arc::new(process));
                });
            }
            Err(e) => self.died(i, &format!("{} cannot be started: {e}", self.program.display())),
        }
    }

    fn hear(&mut self, i: usize, process: u64, news: News) {
        if self.tasks.get(i).is_none_or(|t| t.process != process) {
            return;
        }
        match news {
            News::Out(line) => self.said(i, &line),
            News::Err(line) => {
                let t = &mut self.tasks[i];
                if t.log.len() == KEPT {
                    t.log.pop_front();
                }
                t.log.push_back(line.clone());
                let task = t.task.clone();
                (self.options.on_event)(&Event::Log { task, line });
            }
            News::Ended(how) => {
                self.tasks[i].alive = false;
                self.died(i, &how);
            }
        }
    }

    /// A line on a task's standard output.
    fn said(&mut self, i: usize, line: &str) {
        if let Some(page) = line.strip_prefix("metrics ") {
            self.shared.change(i, |e| e.public.metrics = Some(page.to_owned()));
        } else if line.starts_with("ready ")
            && let Some(incarnation) = line.rsplit_once(" incarnation ").and_then(|(_, n)| n.parse().ok())
        {
            let pid = self.shared.change(i, |e| {
                e.public.incarnation = Some(incarnation);
                e.public.pid.unwrap_or(0)
            });
            (self.options.on_event)(&Event::Ready {
                task: self.tasks[i].task.clone(),
                pid: pid.unwrap_or(0),
                incarnation,
            });
            self.settled |= self.shared.tasks().iter().all(|t| t.incarnation.is_some());
        }
    }

    /// A task's process has ended, or could not be started.
    fn died(&mut self, i: usize, how: &str) {
        let last = self.tasks[i].log.iter().rev().find(|l| !l.trim().is_empty()).cloned();
        let how = last.map_or_else(|| how.to_owned(), |line| format!("{how}: {line}"));
        let task = self.tasks[i].task.clone();
        let before = self.shared.change(i, |e| {
            e.process = None;
            (e.public.pid.take().unwrap_or(0), e.public.incarnation.take())
        });
        let (pid, incarnation) = before.unwrap_or((0, None));
        if let Some(incarnation) = incarnation {
            self.announcer.announce(&task, incarnation);
        }
        let t = &mut self.tasks[i];
        t.quick_deaths = if t.started.elapsed() < QUICK {
            t.quick_deaths + 1
        } else {
            1
        };
        let again_in = (self.settled && t.quick_deaths < PATIENCE)
            .then(|| LONGEST_WAIT.min(FIRST_WAIT * (1 << (t.quick_deaths - 1).min(10))));
        t.due = again_in.map(|wait| Instant::now() + wait);
        if again_in.is_none() {
            if !self.settled {
                self.shared
                    .fail(format!("task {task} ended before the cluster was ready: {how}"));
            }
            self.shared.change(i, |e| e.public.given_up = true);
        }
        (self.options.on_event)(&Event::Died {
            task,
            pid,
            how,
            again_in,
        });
    }

    /// Ends all processes.
    fn stop(&mut self, inputs: &Receiver<Input>) {
        let rounds = [
            (Signal::Terminate, self.options.grace + Duration::from_secs(2)),
            (Signal::Kill, KILLED),
        ];
        for (signal, patience) in rounds {
            if self.hurried && signal != Signal::Kill {
                continue;
            }
            let names: Vec<TaskName> = self.tasks.iter().filter(|t| t.alive).map(|t| t.task.clone()).collect();
            for task in &names {
                // One that has ended meanwhile cannot be reached, nor need it be. One that stands still has to go on to end.
                let _ = self.shared.signal(task, signal);
                let _ = self.shared.signal(task, Signal::Resume);
            }
            let until = Instant::now() + patience;
            while self.tasks.iter().any(|t| t.alive) && !(self.hurried && signal != Signal::Kill) {
                match inputs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(Input::Of(i, process, News::Ended(_))) if self.tasks[i].process == process => {
                        self.tasks[i].alive = false;
                        self.shared.change(i, |e| {
                            e.process = None;
                            e.public.pid = None;
                            e.public.incarnation = None;
                        });
                    }
                    Ok(Input::Of(i, process, News::Err(line))) => self.hear(i, process, News::Err(line)),
                    Ok(Input::Hurry) => self.hurried = true,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
    }
}
