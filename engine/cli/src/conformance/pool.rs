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
use super::{Outcome, name};
use crate::failure::{Failure, one_line};

/// A child runs this many cases at most, so that what one leaves behind cannot add up.
const CASES_PER_CHILD: usize = 64;
/// Lines of a child's stderr that are kept to explain its death.
const KEPT_LINES: usize = 40;

/// How cases are given to child processes.
pub(super) struct Pool<'a> {
    /// The command of a child, which speaks as [`super::worker`] does.
    pub(super) command: &'a (dyn Fn() -> std::io::Result<Command> + Sync),
    /// How many children there are at a time.
    pub(super) jobs: usize,
    /// A case that takes longer fails.
    pub(super) limit: Duration,
}

/// Runs `cases`; `seen` gets every outcome in the order of `cases`.
///
/// # Errors
/// If no child process can be started or there is no room for scratch folders.
pub(super) fn run(cases: &[PathBuf], pool: &Pool<'_>, mut seen: impl FnMut(&Outcome)) -> Result<Vec<Outcome>, Failure> {
    let scratch = Scratch::new()?;
    let next = AtomicUsize::new(0);
    let (send, results) = mpsc::channel();
    let mut outcomes: Vec<Option<Outcome>> = vec![None; cases.len()];
    std::thread::scope(|scope| {
        for _ in 0..pool.jobs.min(cases.len()) {
            let (send, next, scratch) = (send.clone(), &next, &scratch);
            scope.spawn(move || {
                let mut child: Option<Worker> = None;
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(i) else { break };
                    let outcome = one(&mut child, case, &scratch.0, i, pool);
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

/// Runs case number `i` in `child`, or in a new one. Temporary files of children are in the scratch folder as well, which
/// takes away what those leave there that are killed.
fn one(child: &mut Option<Worker>, case: &Path, scratch: &Path, i: usize, pool: &Pool<'_>) -> Result<Outcome, Failure> {
    let (dir, temporary) = (scratch.join(i.to_string()), scratch.join("tmp"));
    std::fs::create_dir_all(&dir)?;
    let mut worker = match child.take() {
        Some(w) => w,
        None => {
            std::fs::create_dir_all(&temporary)?;
            let mut command = (pool.command)()?;
            command.env("TMPDIR", &temporary);
            Worker::start(command)?
        }
    };
    let start = Instant::now();
    let request = Request {
        dir: case.to_owned(),
        scratch: dir,
    };
    let answer = worker.ask(&request, pool.limit)?;
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
            let reason = worker.epitaph(seconds, pool.limit);
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
    fn start(mut command: Command) -> Result<Worker, Failure> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
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

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    /// A child that passes every case but those that are called `fail`, `die` and `hang`.
    const CHILD: &str = r#"
        while read -r line; do
            case "$line" in
                *'/fail"'*) printf 'noise \001case-answer {"reason":"it is wrong","seconds":0.5,"last":false}\n' ;;
                *'/die"'*) echo "thread 'main' panicked at x.rs:1:" >&2; echo "no more" >&2; kill -9 $$ ;;
                *'/hang"'*) sleep 60 ;;
                *'/last"'*) printf '\001case-answer {"reason":"panicked","seconds":0,"last":true}\n'; exit ;;
                *) echo noise; printf '\001case-answer {"reason":null,"seconds":0,"last":false}\n' ;;
            esac
        done"#;

    fn outcomes(names: &[&str], jobs: usize, limit: Duration) -> Vec<(String, Option<String>)> {
        let command = || {
            let mut c = Command::new("sh");
            c.args(["-c", CHILD]);
            Ok(c)
        };
        let cases: Vec<PathBuf> = names.iter().map(|n| Path::new("/cases").join(n)).collect();
        let pool = Pool {
            command: &command,
            jobs,
            limit,
        };
        let mut seen = Vec::new();
        let all = run(&cases, &pool, |o| seen.push(o.name.clone())).unwrap();
        assert_eq!(seen, names, "outcomes are seen in order");
        all.into_iter().map(|o| (o.name, o.reason)).collect()
    }

    #[test]
    fn failures_and_deaths_stay_with_their_case() {
        let long = Duration::from_secs(60);
        let got = outcomes(&["a", "die", "b", "fail", "c", "last", "d"], 1, long);
        let reasons: Vec<Option<&str>> = got.iter().map(|(_, r)| r.as_deref()).collect();
        assert_eq!(reasons[..1], [None]);
        let death = reasons[1].unwrap();
        for part in ["signal: 9", "panicked at x.rs:1: no more"] {
            assert!(death.contains(part), "{death}");
        }
        assert_eq!(reasons[2..], [None, Some("it is wrong"), None, Some("panicked"), None]);
        let many: Vec<String> = (0..200).map(|i| format!("case{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(outcomes(&many, 3, long).iter().all(|o| o.1.is_none()));
    }

    #[test]
    fn a_hanging_case_is_ended() {
        let got = outcomes(&["hang", "a"], 1, Duration::from_secs(1));
        assert_eq!(
            got[0].1.as_deref(),
            Some("no answer after 1 s: it hangs or is much too slow")
        );
        assert_eq!(got[1].1, None);
    }

    #[test]
    fn without_children_there_is_an_error() {
        let command = || Ok(Command::new("/no/such/program"));
        let pool = Pool {
            command: &command,
            jobs: 2,
            limit: Duration::from_secs(1),
        };
        let cases = vec![PathBuf::from("/cases/a"), PathBuf::from("/cases/b")];
        assert!(matches!(run(&cases, &pool, |_| ()), Err(Failure::Failed(_))));
    }
}
