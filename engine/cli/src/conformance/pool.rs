//! Runs cases in child processes and survives whatever these do.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::worker::{Answer, MARK, Request};
use super::{CaseOptions, Outcome, name};
use crate::failure::{Failure, one_line};

/// A child runs this many cases at most, so that what one leaves behind cannot add up.
const CASES_PER_CHILD: usize = 64;
/// Lines of a child's stderr that are kept to explain its death.
const KEPT_LINES: usize = 40;

/// Runs `cases`, `jobs` at a time; `seen` gets every outcome in the order of `cases`.
///
/// # Errors
/// If no child process can be started or there is no room for scratch folders.
pub(super) fn run(
    cases: &[PathBuf],
    options: &CaseOptions,
    jobs: usize,
    mut seen: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>, Failure> {
    let scratch = Scratch::new()?;
    let next = AtomicUsize::new(0);
    let (send, results) = mpsc::channel();
    let mut outcomes: Vec<Option<Outcome>> = vec![None; cases.len()];
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(cases.len()) {
            let (send, next, scratch) = (send.clone(), &next, &scratch);
            scope.spawn(move || {
                let mut child: Option<Worker> = None;
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(i) else { break };
                    let outcome = one(&mut child, case, &scratch.0.join(i.to_string()), options);
                    if send.send((i, outcome)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let mut reported = 0;
        let mut failure = None;
        for (i, outcome) in results {
            match outcome {
                Ok(o) => outcomes[i] = Some(o),
                Err(e) => {
                    // Without children there is no point in trying the rest.
                    next.store(cases.len(), Ordering::Relaxed);
                    failure.get_or_insert(e);
                }
            }
            while let Some(Some(o)) = outcomes.get(reported) {
                seen(o);
                reported += 1;
            }
        }
        failure.map_or(Ok(()), Err)
    })?;
    Ok(outcomes.into_iter().flatten().collect())
}

/// Runs one case in `child`, or in a new one.
fn one(child: &mut Option<Worker>, case: &Path, scratch: &Path, options: &CaseOptions) -> Result<Outcome, Failure> {
    std::fs::create_dir_all(scratch)?;
    let mut worker = match child.take() {
        Some(w) => w,
        None => Worker::start(options)?,
    };
    let start = Instant::now();
    let request = Request {
        dir: case.to_owned(),
        scratch: scratch.to_owned(),
    };
    let answer = worker.ask(&request, options.limit())?;
    let (reason, seconds) = match answer {
        Some(a) => {
            worker.cases += 1;
            if !a.last && worker.cases < CASES_PER_CHILD {
                *child = Some(worker);
            }
            (a.reason, a.seconds)
        }
        None => {
            let seconds = start.elapsed();
            let reason = worker.epitaph(seconds, options.limit());
            (Some(reason), seconds.as_secs_f64())
        }
    };
    Ok(Outcome {
        name: name(case),
        passed: reason.is_none(),
        reason,
        seconds,
    })
}

/// A child process; it is ended when dropped.
struct Worker {
    process: Child,
    stdin: Option<ChildStdin>,
    answers: mpsc::Receiver<Answer>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    stderr_reader: Option<JoinHandle<()>>,
    cases: usize,
}

impl Worker {
    fn start(options: &CaseOptions) -> Result<Worker, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("conformance-worker")
            .args(["--threads", &options.threads.to_string()])
            .args(["--timeout", &options.timeout.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("RUST_BACKTRACE", "0");
        if options.no_passes {
            command.arg("--no-passes");
        }
        let mut process = command
            .spawn()
            .map_err(|e| Failure::Failed(format!("cannot start a child process: {e}")))?;
        let (send, answers) = mpsc::channel();
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(out) = process.stdout.take() {
            std::thread::spawn(move || {
                each_line(out, |line| {
                    if let Some((_, json)) = line.split_once(MARK)
                        && let Ok(answer) = serde_json::from_str(json)
                    {
                        // The parent may have given up on this child.
                        let _ = send.send(answer);
                    }
                });
            });
        }
        let stderr_reader = process.stderr.take().map(|err| {
            let kept = stderr.clone();
            std::thread::spawn(move || {
                each_line(err, |line| {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == KEPT_LINES {
                        kept.pop_front();
                    }
                    kept.push_back(line.to_owned());
                });
            })
        });
        Ok(Worker {
            stdin: process.stdin.take(),
            process,
            answers,
            stderr,
            stderr_reader,
            cases: 0,
        })
    }

    /// The child's answer; `None` if it does not come in time or not at all.
    fn ask(&mut self, request: &Request, limit: Duration) -> Result<Option<Answer>, Failure> {
        let line = serde_json::to_string(request)?;
        let Some(stdin) = &mut self.stdin else {
            return Ok(None);
        };
        if writeln!(stdin, "{line}").and_then(|()| stdin.flush()).is_err() {
            return Ok(None);
        }
        Ok(self.answers.recv_timeout(limit).ok())
    }

    /// Ends the child and says what it died of.
    fn epitaph(mut self, after: Duration, limit: Duration) -> String {
        if after >= limit {
            return format!("no answer after {} s: it hangs or is much too slow", limit.as_secs());
        }
        let status = self.process.wait();
        if let Some(reader) = self.stderr_reader.take() {
            // Reads to the end of what the dead child wrote.
            let _ = reader.join();
        }
        let how = status.map_or_else(|e| e.to_string(), |s| s.to_string());
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let from = kept.iter().position(|l| l.contains("panicked at"));
        let lines: Vec<&str> = match from {
            Some(i) => kept.iter().skip(i).take(2).map(String::as_str).collect(),
            None => kept
                .iter()
                .rev()
                .find(|l| !l.trim().is_empty())
                .map(String::as_str)
                .into_iter()
                .collect(),
        };
        one_line(&match lines.is_empty() {
            true => format!("its process ended: {how}"),
            false => format!("its process ended: {how}: {}", lines.join(" ")),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends by itself at the end of its input unless it hangs; there is nothing to do if it has ended already.
        drop(self.stdin.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Calls `f` with every line, whatever bytes it holds.
fn each_line(source: impl std::io::Read, mut f: impl FnMut(&str)) {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    while source.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        f(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}

/// A folder for the folders in which cases run; it is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, Failure> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("actorflow-conformance-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|e| Failure::Failed(format!("{}: {e}", dir.display())))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the folder of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
