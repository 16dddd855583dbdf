//! `actorflow conformance`: cases that TensorFlow has answered.
//!
//! A case is a folder with a graph, feeds and expected values; [`run_case`] runs one in this process. The command
//! runs many, each in a child process (`pool`), so that a crash or a hang fails one case and no other. Children run cases in
//! a session of their own, or on a cluster that each of them has (`stage`).

mod case;
mod compare;
mod pool;
mod stage;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::failure::Failure;
use crate::glob::matches_any;
use crate::{memory, numbers};
pub use case::{Sessions, Settings, run_case, run_case_in};
pub use compare::compare;
use pool::Pool;
pub use worker::{WorkerArgs, worker};

/// Check the engine against cases that TensorFlow has answered.
///
/// Each case runs isolated in a child process: a panic, an abort or a hang fails that case alone. Prints
/// `FAIL name: reason` for each failure and `N passed, M failed` as the last line; the exit code is 1 if any failed.
#[derive(clap::Args)]
pub struct Args {
    /// A folder of cases, or one case: a folder with graph.pb, case.json and .npy arrays
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only cases whose name matches, such as 'unary.*'; may be given several times
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Write the result of every case to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    options: CaseOptions,
    /// How many cases run at the same time
    #[arg(long, value_name = "N", default_value_t = cores(), allow_negative_numbers = true, value_parser = numbers::jobs)]
    jobs: usize,
}

/// How the cases are run, in this process or its children.
#[derive(clap::Args, Clone)]
struct CaseOptions {
    /// Threads of each session
    #[arg(long, value_name = "N", default_value_t = 2, allow_negative_numbers = true, value_parser = numbers::threads)]
    threads: usize,
    /// The most bytes that the tensors of a case may take on each device, such as 1GiB [default: three quarters of the
    /// machine's memory, divided by the jobs]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = numbers::memory)]
    memory: Option<usize>,
    /// Run graphs as they are, without folding, merging or fusing
    #[arg(long)]
    no_passes: bool,
    /// A case that takes longer than this many seconds fails
    #[arg(long, value_name = "SECONDS", default_value_t = 20, allow_negative_numbers = true,
        value_parser = numbers::whole_seconds)]
    timeout: u64,
    /// How many CPU devices each session has
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    devices: u32,
    /// Run the cases on a cluster: `local` starts one parameter server and two workers for each child process
    #[arg(long, value_name = "WHICH")]
    cluster: Option<Cluster>,
    /// Put nodes on devices at random, by this seed
    #[arg(long, value_name = "SEED", allow_negative_numbers = true, value_parser = numbers::seed)]
    scatter: Option<u64>,
}

/// The clusters that cases can be run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Cluster {
    /// Processes on this machine
    Local,
}

impl CaseOptions {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// One of so many child processes that run cases this way.
    fn command(&self, jobs: usize) -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("conformance-worker")
            .args(["--threads", &self.threads.to_string()])
            .args(["--timeout", &self.timeout.to_string()])
            .args([
                "--memory",
                &self.memory.unwrap_or_else(|| memory::share(jobs)).to_string(),
            ])
            .env("RUST_BACKTRACE", "0");
        if self.no_passes {
            command.arg("--no-passes");
        }
        if self.devices > 1 {
            command.args(["--devices", &self.devices.to_string()]);
        }
        if self.cluster.is_some() {
            command.args(["--cluster", "local"]);
        }
        if let Some(seed) = self.scatter {
            command.args(["--scatter", &seed.to_string()]);
        }
        Ok(command)
    }

    fn settings(&self) -> Settings {
        Settings {
            threads: self.threads,
            memory: self.memory.unwrap_or_else(|| memory::share(1)),
            passes: !self.no_passes,
            // A run ends a little before its process is ended, so that it can say what it waits for.
            timeout: self.limit().mul_f64(0.9),
            devices: self.devices as usize,
            scatter: self.scatter,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How one case ended.
#[derive(Debug, Clone, Serialize)]
struct Outcome {
    name: String,
    passed: bool,
    /// Why it failed.
    reason: Option<String>,
    seconds: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    passed: usize,
    failed: usize,
    cases: &'a [Outcome],
}

/// Runs the command.
///
/// # Errors
/// Wrong use if there is no case; a failure if any case failed.
pub fn run(args: &Args) -> Result<(), Failure> {
    let cases = find(&args.dir, &args.filter)?;
    let mut out = std::io::stdout().lock();
    let mut broken = Ok(());
    let command = || args.options.command(args.jobs);
    let pool = Pool {
        command: &command,
        jobs: args.jobs,
        limit: args.options.limit(),
    };
    let outcomes = pool::run(&cases, &pool, |outcome| {
        if let Some(reason) = &outcome.reason {
            let line = writeln!(out, "FAIL {}: {reason}", outcome.name).and_then(|()| out.flush());
            if broken.is_ok() {
                broken = line;
            }
        }
    })?;
    broken?;
    let passed = outcomes.iter().filter(|o| o.passed).count();
    let failed = outcomes.len() - passed;
    if let Some(file) = &args.json {
        let report = Report {
            passed,
            failed,
            cases: &outcomes,
        };
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text + "\n").map_err(|e| Failure::Failed(format!("{}: {e}", file.display())))?;
    }
    writeln!(out, "{passed} passed, {failed} failed")?;
    if failed > 0 { Err(Failure::Reported) } else { Ok(()) }
}

/// The cases in `dir` that match, by name; or `dir` itself if it is a case.
fn find(dir: &Path, filter: &[String]) -> Result<Vec<PathBuf>, Failure> {
    let usage = |e: std::io::Error| Failure::Usage(format!("{}: {e}", dir.display()));
    // Children run in folders of their own.
    let dir = dir.canonicalize().map_err(usage)?;
    if dir.join("case.json").is_file() {
        return Ok(vec![dir]);
    }
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(usage)? {
        let path = entry.map_err(usage)?.path();
        if path.join("case.json").is_file() && matches_any(filter, &name(&path)) {
            cases.push(path);
        }
    }
    cases.sort();
    if cases.is_empty() {
        let what = if filter.is_empty() {
            "no case"
        } else {
            "no case that matches"
        };
        return Err(Failure::Usage(format!(
            "{what} in {}: a case is a folder with case.json and graph.pb",
            dir.display()
        )));
    }
    Ok(cases)
}

/// The name of a case: its folder's.
fn name(case: &Path) -> String {
    case.file_name()
        .map_or_else(|| case.display().to_string(), |n| n.to_string_lossy().into_owned())
}
