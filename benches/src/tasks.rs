//! Clusters of processes: a folder with their identities and addresses, and tasks that are this program again.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use actorflow::cluster::ClusterSpec;
use actorflow::cluster::identity::Authority;
use actorflow::{Error, Result};

/// A task in a process of its own, killed with this one.
pub(crate) struct Task {
    process: Child,
    stdin: ChildStdin,
    /// What it says, until somebody [listens](Self::listen).
    lines: Option<BufReader<ChildStdout>>,
}

impl Task {
    /// Starts this program with other arguments.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Task> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(Error::internal("a task has no pipes"));
        };
        Ok(Task {
            process,
            stdin,
            lines: Some(BufReader::new(stdout)),
        })
    }

    /// Reads lines until one begins with `want`; what follows it.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the task ends before.
    pub(crate) fn line(&mut self, want: &str) -> Result<String> {
        let lines = self
            .lines
            .as_mut()
            .ok_or_else(|| Error::internal("somebody else listens to the task"))?;
        let mut line = String::new();
        loop {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                return Err(Error::unavailable(format!("a task ended before it said {want}")));
            }
            if let Some(rest) = line.strip_prefix(want) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    /// Has every line from now on given to `heard` by a thread of its own, and at last `None`.
    ///
    /// # Errors
    /// If somebody listens already, or there can be no thread.
    pub(crate) fn listen(&mut self, mut heard: impl FnMut(Option<&str>) + Send + 'static) -> Result<()> {
        let mut lines = self
            .lines
            .take()
            .ok_or_else(|| Error::internal("somebody else listens to the task"))?;
        let listening = move || {
            let mut line = String::new();
            // A task that was killed in the middle of a line has said nothing by it.
            while lines.read_line(&mut line).is_ok_and(|n| n > 0) && line.ends_with('\n') {
                heard(Some(line.trim_end()));
                line.clear();
            }
            heard(None);
        };
        let thread = std::thread::Builder::new().name("actorflow-listen".into());
        thread.spawn(listening)?;
        Ok(())
    }

    /// Writes a line to it.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.stdin, "{word}")?;
        Ok(self.stdin.flush()?)
    }

    /// Ends it at once, as `SIGKILL` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Identities and addresses of a cluster, in a folder that is removed with it.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    /// Where the tasks are.
    pub(crate) spec: ClusterSpec,
}

impl Folder {
    /// A cluster of these jobs with so many tasks each, on free ports of this machine.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(jobs: &[(&str, usize)]) -> Result<Folder> {
        let dir = tempfile::Builder::new().prefix("actorflow-bench-").tempdir()?;
        let authority = Authority::ephemeral("bench")?;
        let mut spec = ClusterSpec::new();
        let mut sockets = Vec::new();
        for (job, n) in jobs {
            for i in 0..*n {
                // The ports are taken until all are known, so that none is given twice.
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                spec = spec.with_task(job, i as u32, &socket.local_addr()?.to_string())?;
                sockets.push(socket);
                let identity = authority.issue(format!("task/{job}/{i}").parse()?, Duration::from_secs(24 * 3600))?;
                identity.save(&dir.path().join(format!("{job}{i}")))?;
            }
        }
        std::fs::write(dir.path().join("cluster.json"), spec.to_json())?;
        Ok(Folder { dir, spec })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Says a line to the process that started this one.
///
/// # Errors
/// If nobody reads it.
pub(crate) fn say(word: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}")?;
    Ok(out.flush()?)
}
