//! A cluster of processes on this machine, supervised: started together, restarted when they die, ended together.
//!
//! Its authority lives in this process; each task gets its identity in a private folder, and a client's identity is there
//! for whoever computes with the cluster. A task that dies is noticed at once, announced to the others, and started
//! again as another run of it, with variables to be initialised or restored. If this process dies, however it does,
//! the tasks end by themselves.
//!
//! - `folder`: where identities are, and how that of a cluster that was killed goes away
//! - `process`: a child process under watch
//! - `supervise`, `announce`: what is done when something happens to one, and who is told of its death

mod announce;
mod folder;
mod process;
mod supervise;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actorflow::cluster::identity::{Authority, CERTIFICATE_LIFETIME, Identity, JoinService, Subject, serve};
use actorflow::cluster::{ClusterSpec, ConnectOptions, TaskName};
use actorflow::{Error, Result};

use folder::Folder;
pub use process::Signal;
use supervise::{Input, Shared, Supervisor};

/// How a local cluster is set up.
#[derive(Clone)]
pub struct LocalOptions {
    /// The `actorflow` program; by default the one that runs.
    pub program: Option<PathBuf>,
    /// The jobs with the number of their tasks.
    pub jobs: Vec<(String, u32)>,
    /// The tasks' ports, from this one on, at least 1; by default any free ones.
    pub base_port: Option<u16>,
    /// Threads of each task; by default one for each core.
    pub threads: Option<usize>,
    /// CPU devices of each task.
    pub devices: usize,
    /// The most bytes that tensors of a device may take.
    pub memory: Option<usize>,
    /// What one peer may use of a task, each as `NAME=VALUE`, with the names of `actorflow daemon --limit`.
    pub limits: Vec<String>,
    /// Whether tasks serve metrics, at ports of their own.
    pub metrics: bool,
    /// What the tasks log: `error`, `warn`, `info` or `debug`.
    pub log_level: String,
    /// How long steps in progress may go on when the cluster ends.
    pub grace: Duration,
    /// How long all tasks may take to be ready at first.
    pub patience: Duration,
    /// The directories under which graphs may touch files, `DIR` or `DIR:ro`.
    pub allow_dir: Vec<String>,
    /// The tasks' current folder; by default this process'.
    pub current_dir: Option<PathBuf>,
    /// Is told what happens.
    pub on_event: Arc<dyn Fn(&Event) + Send + Sync>,
}

impl LocalOptions {
    /// A cluster of `ps` parameter servers and `workers` workers, on any free ports.
    pub fn new(ps: u32, workers: u32) -> LocalOptions {
        LocalOptions {
            program: None,
            jobs: vec![("ps".to_owned(), ps), ("worker".to_owned(), workers)],
            base_port: None,
            threads: None,
            devices: 1,
            memory: None,
            limits: Vec::new(),
            metrics: false,
            log_level: "warn".to_owned(),
            grace: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            allow_dir: Vec::new(),
            current_dir: None,
            on_event: Arc::new(|_| {}),
        }
    }
}

/// What happens in a local cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A task accepts work.
    Ready {
        /// Which.
        task: TaskName,
        /// Its process.
        pid: u32,
        /// Which run of it this is.
        incarnation: u64,
    },
    /// A task's process has ended without being asked to.
    Died {
        /// Which.
        task: TaskName,
        /// Its process.
        pid: u32,
        /// How it ended.
        how: String,
        /// When it is started again; `None`: never, it has died too often too quickly.
        again_in: Option<Duration>,
    },
    /// A task that is alive could not be told that another one has died, and notices it by the silence.
    Deaf {
        /// Which, or the target that was asked.
        task: String,
        /// Why.
        why: String,
    },
    /// A task has logged a line.
    Log {
        /// Which.
        task: TaskName,
        /// The line.
        line: String,
    },
}

/// What a task's process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTask {
    /// Which task.
    pub task: TaskName,
    /// Where it is.
    pub addr: String,
    /// Its process, if it has one now.
    pub pid: Option<u32>,
    /// Which run of the task accepts work now, if one does.
    pub incarnation: Option<u64>,
    /// How often it was started again.
    pub restarts: u32,
    /// The page with its metrics, if it serves them.
    pub metrics: Option<String>,
    /// It died too often too quickly and is not started any more.
    pub given_up: bool,
}

/// A supervised cluster of processes. Dropping it ends it.
pub struct LocalCluster {
    spec: ClusterSpec,
    dir: Folder,
    shared: Arc<Shared>,
    input: Sender<Input>,
    supervisor: Option<JoinHandle<()>>,
    // Serves renewals as long as there are tasks.
    _service: JoinService,
}

/// How long the client's identity is good.
const CLIENT_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often ports are chosen anew if another program takes one before a task does.
const ATTEMPTS: usize = 3;

impl LocalCluster {
    /// Starts a cluster and waits until all its tasks are ready.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for options that make no cluster; `UNAVAILABLE` if a task does not get ready, with what it says;
    /// what the system says about ports and processes. Nothing is left running.
    pub fn start(options: LocalOptions) -> Result<LocalCluster> {
        let tasks: u64 = options.jobs.iter().map(|(_, n)| u64::from(*n)).sum();
        if !(1..=1024).contains(&tasks) {
            return Err(Error::invalid(format!(
                "a local cluster has 1 to 1024 tasks, not {tasks}"
            )));
        }
        let mut attempt = 1;
        loop {
            match LocalCluster::attempt(&options) {
                // A port that was free a moment ago is taken.
                Err(e) if attempt < ATTEMPTS && options.base_port.is_none() && e.message().contains("in use") => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn attempt(options: &LocalOptions) -> Result<LocalCluster> {
        let spec = layout(options)?;
        let dir = Folder::new()?;
        let authority = Authority::ephemeral("local")?;
        for (task, _) in spec.tasks() {
            let subject = Subject::Task {
                job: task.job.to_string(),
                index: task.index,
            };
            authority
                .issue(subject, CERTIFICATE_LIFETIME)?
                .save(&task_dir(dir.path(), &task))?;
        }
        let client = Subject::Client { name: "local".into() };
        authority
            .issue(client, CLIENT_LIFETIME)?
            .save(&dir.path().join("client"))?;
        let service = serve((Ipv4Addr::LOCALHOST, 0).into(), &authority)?;
        let (input, inputs) = channel();
        let shared = Arc::new(Shared::new(&spec));
        let supervisor = Supervisor::new(options, &spec, dir.path(), service.addr(), authority, &shared, &input)?;
        let thread = std::thread::Builder::new()
            .name("actorflow-supervisor".into())
            .spawn(move || supervisor.run(&inputs))
            .map_err(Error::from)?;
        let cluster = LocalCluster {
            spec,
            dir,
            shared,
            input,
            supervisor: Some(thread),
            _service: service,
        };
        cluster.await_ready(Instant::now() + options.patience)?;
        Ok(cluster)
    }

    /// Where sessions find the cluster: the address of its first worker, or of its first task.
    pub fn target(&self) -> String {
        let worker = self.spec.tasks().find(|(t, _)| &*t.job == "worker");
        let addr = worker.or_else(|| self.spec.tasks().next()).map_or("", |(_, addr)| addr);
        format!("actorflow://{addr}")
    }

    /// The tasks with their addresses.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// The folder with a client's identity.
    pub fn client_identity(&self) -> PathBuf {
        self.dir.path().join("client")
    }

    /// What a session needs to connect.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn connect_options(&self) -> Result<ConnectOptions> {
        Ok(ConnectOptions::new(Identity::load(&self.client_identity())?))
    }

    /// The tasks' processes as they are now.
    pub fn tasks(&self) -> Vec<LocalTask> {
        self.shared.tasks()
    }

    /// A task as it is now.
    ///
    /// # Errors
    /// `NOT_FOUND` if the cluster has no such task.
    pub fn task(&self, task: &TaskName) -> Result<LocalTask> {
        self.spec.address(task)?;
        let found = self.tasks().into_iter().find(|t| t.task == *task);
        found.ok_or_else(|| Error::not_found(format!("the cluster has no task {task}")))
    }

    /// The process of a task, if it has one now.
    pub fn pid(&self, task: &TaskName) -> Option<u32> {
        self.task(task).ok()?.pid
    }

    /// Sends a signal to the process of a task. One that ends from it is started again.
    ///
    /// # Errors
    /// `NOT_FOUND` if the cluster has no such task, `UNAVAILABLE` if it has no process now.
    pub fn kill(&self, task: &TaskName, signal: Signal) -> Result<()> {
        self.spec.address(task)?;
        self.shared.signal(task, signal)
    }

    /// Ends the process of a task at once, and waits until another run of it accepts work.
    ///
    /// # Errors
    /// As [`kill`](Self::kill); `DEADLINE_EXCEEDED`.
    pub fn restart(&self, task: &TaskName, deadline: Instant) -> Result<()> {
        let before = self.task(task)?.incarnation.unwrap_or(0);
        self.kill(task, Signal::Kill)?;
        self.await_run_after(task, before, deadline)
    }

    /// Waits until a task accepts work in a later run than `incarnation`.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`; `ABORTED` if it is not started any more.
    pub fn await_run_after(&self, task: &TaskName, incarnation: u64, deadline: Instant) -> Result<()> {
        self.shared.wait(deadline, |tasks| {
            let found = tasks.iter().find(|t| t.task == *task);
            found.is_none_or(|t| t.given_up || t.incarnation.is_some_and(|i| i > incarnation))
        })?;
        match self.task(task)? {
            t if t.given_up => Err(Error::aborted(format!(
                "task {task} died too often and is not started any more"
            ))),
            _ => Ok(()),
        }
    }

    fn await_ready(&self, deadline: Instant) -> Result<()> {
        let settled = |tasks: &[LocalTask]| tasks.iter().all(|t| t.given_up || t.incarnation.is_some());
        let waited = self
            .shared
            .wait(deadline, |tasks| settled(tasks) || tasks.iter().any(|t| t.given_up));
        if let Some(why) = self.shared.failure() {
            return Err(Error::unavailable(why));
        }
        waited
    }

    /// Ends the cluster: asks every task to, and after the grace makes it. Returns when no process is left.
    pub fn stop(mut self) {
        self.end();
    }

    /// What makes [`stop`](Self::stop), which another thread may be at, end the tasks at once.
    pub fn hurry(&self) -> impl Fn() + Send + Sync + use<> {
        let input = std::sync::Mutex::new(self.input.clone());
        move || {
            let input = input.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // A supervisor that has ended has left nothing running.
            let _ = input.send(Input::Hurry);
        }
    }

    fn end(&mut self) {
        // A supervisor that has ended has left nothing running.
        let _ = self.input.send(Input::Stop);
        if let Some(thread) = self.supervisor.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.end();
    }
}

fn task_dir(dir: &Path, task: &TaskName) -> PathBuf {
    dir.join(format!("task-{}-{}", task.job, task.index))
}

/// Gives every task an address.
fn layout(options: &LocalOptions) -> Result<ClusterSpec> {
    if options.base_port == Some(0) {
        return Err(Error::invalid("0 is no base port; leave it out for any free ports"));
    }
    // All sockets are open at once, so that no port is given out twice.
    let mut held = Vec::new();
    let mut next = options.base_port;
    let mut spec = ClusterSpec::new();
    for (job, count) in &options.jobs {
        for index in 0..*count {
            let port = next.unwrap_or(0);
            let want: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
            let taken = |e: std::io::Error| Error::from(e).context(format!("{want}, for task {index} of job {job}"));
            let socket = UdpSocket::bind(want).map_err(taken)?;
            let addr = socket.local_addr().map_err(taken)?;
            spec = spec.with_task(job, index, &addr.to_string())?;
            held.push(socket);
            if let Some(port) = next {
                let after = port.checked_add(1);
                next = Some(after.ok_or_else(|| Error::invalid("there are not enough ports above the base port"))?);
            }
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_a_port_of_its_own() {
        let spec = layout(&LocalOptions::new(3, 4)).unwrap();
        let ports: std::collections::BTreeSet<&str> =
            spec.tasks().map(|(_, a)| a.rsplit_once(':').unwrap().1).collect();
        assert_eq!((spec.num_tasks("ps"), spec.num_tasks("worker"), ports.len()), (3, 4, 7));
    }

    #[test]
    fn a_cluster_without_tasks_or_ports_is_refused() {
        let e = LocalCluster::start(LocalOptions::new(0, 0)).err().unwrap();
        assert!(e.message().contains("1 to 1024"), "{e}");
        let options = LocalOptions {
            base_port: Some(65535),
            ..LocalOptions::new(1, 1)
        };
        assert!(layout(&options).is_err());
        let options = LocalOptions {
            base_port: Some(0),
            ..LocalOptions::new(1, 1)
        };
        assert!(layout(&options).unwrap_err().message().contains("no base port"));
    }

    #[test]
    fn a_task_that_dies_as_soon_as_all_are_ready_is_started_again() {
        // A shell that is told `daemon …` runs the file of that name.
        let dir = tempfile::tempdir().unwrap();
        let script = "if mkdir died 2>/dev/null; then echo 'ready it at x incarnation 1'; exit 3; fi\n\
                      echo 'ready it at x incarnation 2'\ncat\n";
        std::fs::write(dir.path().join("daemon"), script).unwrap();
        let options = LocalOptions {
            program: Some("/bin/sh".into()),
            current_dir: Some(dir.path().to_owned()),
            ..LocalOptions::new(1, 0)
        };
        let cluster = LocalCluster::start(options).unwrap();
        let ps = TaskName::new("ps", 0).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        cluster.await_run_after(&ps, 1, until).unwrap();
        let task = cluster.task(&ps).unwrap();
        assert!(task.restarts == 1 && !task.given_up, "{task:?}");
    }

    #[test]
    fn tasks_that_cannot_start_are_reported_with_what_they_say() {
        let options = LocalOptions {
            program: Some("/bin/false".into()),
            ..LocalOptions::new(1, 0)
        };
        let e = LocalCluster::start(options).err().unwrap();
        assert!(
            e.message().contains("/job:ps/task:0") && e.message().contains("exit status: 1"),
            "{e}"
        );
    }
}
