//! One task of a run, in a process of its own.
//!
//! It says `UP` when it listens and, if it is a worker, `READY` when it has joined the training. A worker trains when it is
//! told `go` with the time at which the run began; it says `STEPS` now and then and `ENDED` at last. Any task that is
//! told `report` says `USED`. It ends with the input of its lines, so when its parent does, however that ends.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actorflow::cluster::identity::Identity;
use actorflow::cluster::{ClusterSpec, Server, ServerOptions, TaskName};
use actorflow::{CancelToken, Error, Result, Session, SessionOptions};

use super::setup::{Setup, Used};
use super::trainee::{Places, Trainee};
use crate::tasks::say;

/// Which task, of which run.
#[derive(clap::Args, Clone)]
pub(crate) struct TaskArgs {
    /// The folder with the run's description, the cluster's and identities
    dir: PathBuf,
    /// ps or worker
    job: String,
    /// The number of the task in its job
    index: u32,
    /// The step of the data to begin with
    #[arg(default_value_t = 0)]
    first: usize,
}

/// The file with what all tasks of a run are told.
pub(super) const SETUP: &str = "setup.json";

/// The file with the cluster as a task sees it.
pub(super) fn cluster_file(job: &str, index: usize) -> String {
    format!("cluster-{job}{index}.json")
}

/// Reads lines for as long as there are any, then ends the process.
fn listen(to: Sender<String>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.map_or(true, |line| to.send(line).is_err()) {
                break;
            }
        }
        // Nobody is left to work for.
        std::process::exit(0);
    });
}

fn used(server: &Server) -> Result<Used> {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(Used {
        bytes: server.counters()?.bytes_sent,
        cpu: cpu.tv_sec as u64 * 1_000_000 + cpu.tv_nsec as u64 / 1000,
    })
}

fn json<T: serde::Serialize>(word: &str, value: &T) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))?;
    say(&format!("{word} {text}"))
}

/// Answers until the input ends.
fn serve(server: &Server, lines: &Receiver<String>) -> Result<()> {
    for line in lines {
        if line == "report" {
            json("USED", &used(server)?)?;
        }
    }
    Ok(())
}

/// Runs a task until its parent ends it.
///
/// # Errors
/// If it cannot be started, or what it is told makes no sense.
pub(crate) fn run(args: &TaskArgs) -> Result<()> {
    let (to, lines) = channel();
    listen(to);
    let text = std::fs::read_to_string(args.dir.join(SETUP))?;
    let setup: Setup = serde_json::from_str(&text).map_err(|e| Error::invalid(format!("{SETUP}: {e}")))?;
    let spec = ClusterSpec::from_file(args.dir.join(cluster_file(&args.job, args.index as usize)))?;
    let identity = Identity::load(&args.dir.join(format!("{}{}", args.job, args.index)))?;
    let session = SessionOptions {
        pin: false,
        ..SessionOptions::with_threads(setup.threads)
    };
    let server = Server::start(ServerOptions {
        session: session.clone(),
        ..ServerOptions::new(spec, TaskName::new(&args.job, args.index)?, identity)
    })?;
    say("UP")?;
    if args.job == "ps" {
        return serve(&server, &lines);
    }
    let names = |job: &str, n: usize| (0..n).map(|i| format!("/job:{job}/task:{i}")).collect::<Vec<_>>();
    let places = Places {
        ps: names("ps", setup.ps),
        workers: names("worker", setup.workers),
    };
    let me = args.index as usize;
    // With parameter servers the other workers do not matter to it, and may die. Without, they have parts of the sums.
    let mut device_filters = vec!["/job:ps".to_owned(), places.workers[me].clone()];
    if setup.ps == 0 {
        device_filters = vec!["/job:worker".to_owned()];
    }
    let options = SessionOptions {
        device_filters,
        ..session
    };
    let data = setup.dataset.load(setup.seed)?;
    let trainee = Trainee::new(&setup, me, 0, &data, places, |g| Session::on(g, &server, options))?;
    say("READY")?;
    let mut begun = None;
    for line in &lines {
        if line == "report" {
            json("USED", &used(&server)?)?;
        }
        if let Some(nanos) = line.strip_prefix("go ") {
            begun = nanos.parse().ok().map(Duration::from_nanos);
            break;
        }
    }
    let begun = begun.ok_or_else(|| Error::invalid("a worker was not told when the run began"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let earlier = now.saturating_sub(begun);
    let tell = |marks| json("STEPS", &marks);
    let ended = trainee.train(args.first, earlier, &CancelToken::new(), tell);
    json("ENDED", &ended)?;
    serve(&server, &lines)
}
