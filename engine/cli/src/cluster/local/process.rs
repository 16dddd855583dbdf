//! A child process: waiting for its end without ending it, and signals that reach it and nobody else.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Pid;

/// What can be done to a task's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: end soon.
    Interrupt,
    /// SIGTERM: end soon.
    Terminate,
    /// SIGKILL: end now.
    Kill,
    /// SIGSTOP: stand still.
    Pause,
    /// SIGCONT: go on.
    Resume,
}

impl Signal {
    fn number(self) -> rustix::process::Signal {
        use rustix::process::Signal as S;
        match self {
            Signal::Interrupt => S::INT,
            Signal::Terminate => S::TERM,
            Signal::Kill => S::KILL,
            Signal::Pause => S::STOP,
            Signal::Resume => S::CONT,
        }
    }
}

/// A process that was started, by a file descriptor: unlike its number, that never means another process.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct Handle(rustix::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl Handle {
    fn of(pid: Pid) -> std::io::Result<Handle> {
        Ok(Handle(rustix::process::pidfd_open(
            pid,
            rustix::process::PidfdFlags::empty(),
        )?))
    }

    pub(super) fn signal(&self, signal: Signal) -> std::io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.0, signal.number())?)
    }

    /// Blocks until the process has ended.
    fn wait(&self) -> std::io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// A process that was started, by its number, which means it until its end has been waited for.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) struct Handle(Pid);

#[cfg(not(target_os = "linux"))]
impl Handle {
    fn of(pid: Pid) -> std::io::Result<Handle> {
        Ok(Handle(pid))
    }

    pub(super) fn signal(&self, signal: Signal) -> std::io::Result<()> {
        Ok(rustix::process::kill_process(self.0, signal.number())?)
    }

    /// Blocks until the process has ended, and leaves its status to be read.
    fn wait(&self) -> std::io::Result<()> {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        loop {
            match waitid(WaitId::Pid(self.0), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                done => return Ok(done.map(drop)?),
            }
        }
    }
}

/// What a process does.
pub(super) enum News {
    /// A line on standard output.
    Out(String),
    /// A line on standard error.
    Err(String),
    /// It has ended, and so have its lines.
    Ended(String),
}

/// A process under watch.
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) handle: Handle,
    /// A process that watches its standard input ends when this is closed, as the system does when we die.
    _input: Option<std::process::ChildStdin>,
}

/// After the end of a process, how long its last lines may take; a grandchild may hold the pipes open.
const LAST_LINES: Duration = Duration::from_millis(500);

impl Process {
    /// Starts a process; `tell` hears what it does, on threads of its own.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn start(
        mut command: Command,
        tell: impl Fn(News) + Clone + Send + 'static,
    ) -> std::io::Result<Process> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let handle = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let handles = handle.map(|pid| (Handle::of(pid), Handle::of(pid)));
        let (handle, waited) = match handles {
            Some((Ok(a), Ok(b))) => (a, b),
            _ => {
                // What cannot be watched over is not left running.
                child.kill()?;
                child.wait()?;
                return Err(std::io::Error::other("the process cannot be watched"));
            }
        };
        let process = Process {
            pid: child.id(),
            handle,
            _input: child.stdin.take(),
        };
        let lines = std::sync::mpsc::channel::<()>();
        if let Some(out) = child.stdout.take() {
            each_line(out, tell.clone(), News::Out, lines.0.clone());
        }
        if let Some(err) = child.stderr.take() {
            each_line(err, tell.clone(), News::Err, lines.0.clone());
        }
        drop(lines.0);
        std::thread::spawn(move || {
            let status = waited.wait().and_then(|()| reap(&mut child));
            // Ends when both readers have dropped their senders.
            let _ = lines.1.recv_timeout(LAST_LINES);
            tell(News::Ended(status.map_or_else(|e| e.to_string(), |s| s.to_string())));
        });
        Ok(process)
    }
}

fn reap(child: &mut Child) -> std::io::Result<ExitStatus> {
    child.wait()
}

/// Tells of every line, whatever bytes it holds; drops `end` at the end.
fn each_line(
    source: impl Read + Send + 'static,
    tell: impl Fn(News) + Send + 'static,
    kind: fn(String) -> News,
    end: std::sync::mpsc::Sender<()>,
) {
    std::thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            tell(kind(String::from_utf8_lossy(&line).trim_end().to_owned()));
            line.clear();
        }
        drop(end);
    });
}
