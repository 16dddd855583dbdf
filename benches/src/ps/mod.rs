//! Parameter servers: the rows of the peers' `ps_train.py`, with a process for each task, over QUIC on the loopback.
//!
//! `ps_scalar`: a worker reads a scalar variable of each parameter server. `ps_dense_N`: variables of N MiB.
//! `ps_sparse_N`: 32 rows of a table of N rows of 20 floats. `ps_train_async`, `ps_train_sync`: a perceptron is trained, on one
//! batch that the worker has, or with `_feed` on batches that are fed. `ps_empty`: a no-op on each of several tasks.
//!
//! With `--beside` the script is run, too, in turn with this program ([`beside`]).

mod beside;
mod task;
mod train;

use std::ffi::OsString;
use std::path::Path;

use actorflow::{Error, Result};

use crate::measure::Settings;
use crate::report::Report;
use crate::tasks::{Folder, Task};

pub(crate) use beside::Args;
pub(crate) use task::{TaskArgs, run as run_task};

/// Parameter servers and workers, as the peers are measured.
const SIZES: [(usize, usize); 3] = [(1, 1), (1, 2), (2, 2)];
const CASES: [&str; 6] = [
    "scalar",
    "dense_4",
    "dense_64",
    "dense_256",
    "sparse_1000000",
    "sparse_25000000",
];
const EMPTY: [usize; 5] = [1, 2, 4, 8, 16];

fn start(dir: &Path, job: &str, index: usize, case: &str, asked: Option<usize>, m: &Settings) -> Result<Task> {
    let mut args: Vec<OsString> = vec!["ps-task".into(), dir.into(), job.into()];
    let (samples, window) = (m.samples.to_string(), m.window.to_string());
    let index = index.to_string();
    args.extend([index.as_str(), case, "--samples", &samples, "--window", &window].map(OsString::from));
    if let Some(threads) = asked {
        args.extend(["--threads".into(), threads.to_string().into()]);
    }
    Task::start(args)
}

/// The rates of each worker, window by window, in calls a second.
fn measure(nps: usize, nw: usize, case: &str, asked: Option<usize>, m: &Settings) -> Result<Vec<Vec<f64>>> {
    let folder = Folder::new(&[("ps", nps), ("worker", nw)])?;
    let dir = folder.path();
    let mut servers = (0..nps)
        .map(|i| start(dir, "ps", i, case, asked, m))
        .collect::<Result<Vec<_>>>()?;
    for s in &mut servers {
        s.line("UP")?;
    }
    let mut workers = Vec::new();
    for i in 0..nw {
        let mut worker = start(dir, "worker", i, case, asked, m)?;
        // The first one initialises the variables.
        worker.line("SESSION")?;
        workers.push(worker);
    }
    for w in &mut workers {
        w.line("READY")?;
    }
    for w in &mut workers {
        w.say("go")?;
    }
    let rates = |w: &mut Task| -> Result<Vec<f64>> {
        let text = w.line("RATES")?;
        serde_json::from_str(&text).map_err(|e| Error::internal(format!("a worker said {text:?}: {e}")))
    };
    workers.iter_mut().map(rates).collect()
}

/// What was measured with some numbers of servers and workers.
struct Size<'a> {
    bench: &'a str,
    /// Which numbers, in words.
    at: &'a str,
    workers: usize,
    /// Threads that compute in each worker.
    threads: usize,
}

/// Measures a case with every number of servers and workers; `rows` gets the workers' calls a second, added up.
fn each_size(
    case: &str,
    asked: Option<usize>,
    m: &Settings,
    out: &mut Report,
    rows: impl Fn(&mut Report, &Size<'_>, Vec<f64>) -> Result<()>,
) -> Result<()> {
    let bench = format!("ps_{case}");
    if !out.wants(&bench) {
        return Ok(());
    }
    for (nps, nw) in SIZES {
        let at = format!("{nps} ps, {nw} worker(s)");
        let per = measure(nps, nw, case, asked, m).map_err(|e| e.context(format!("{bench}, {at}")))?;
        let windows = per.iter().map(Vec::len).min().unwrap_or(0);
        let total = (0..windows).map(|k| per.iter().map(|w| w[k]).sum()).collect();
        let size = Size {
            bench: &bench,
            at: &at,
            workers: nw,
            threads: task::threads(asked, case, "worker", nw),
        };
        rows(out, &size, total)?;
    }
    Ok(())
}

/// The rows of a case that trains.
fn train_rows(case: &str, sync: bool, asked: Option<usize>, m: &Settings, out: &mut Report) -> Result<()> {
    each_size(case, asked, m, out, |out, size, total| {
        let Size { bench, at, threads, .. } = *size;
        // A global step takes the gradients of all workers if they wait for each other.
        let (workers, note) = if sync {
            (size.workers, format!("{at}; strategy sync"))
        } else {
            (1, at.to_owned())
        };
        let steps: Vec<f64> = total.iter().map(|t| t / workers as f64).collect();
        out.row(bench, threads, &steps, "global steps/s", &note)?;
        let examples: Vec<f64> = steps.iter().map(|s| s * (train::BATCH * workers) as f64).collect();
        out.row(bench, threads, &examples, "examples/s", at)
    })
}

/// Measures everything of this subject, with so many threads in each task if any number was asked for.
///
/// # Errors
/// If a task cannot be started or fails, or peers are asked for that cannot be run.
pub(crate) fn run(args: &Args, asked: Option<usize>, m: &Settings, out: &mut Report) -> Result<()> {
    let peers = beside::Peers::of(args, m)?;
    let compare = |case: &str, out: &mut Report| match &peers {
        Some(peers) if out.wants(&format!("ps_{case}")) => peers.compare(case, out),
        _ => Ok(()),
    };
    for case in CASES {
        each_size(case, asked, m, out, |out, size, total| {
            let Size { bench, at, threads, .. } = *size;
            out.row(bench, threads, &total, "steps/s", &format!("{at}; summed over workers"))?;
            let each: Vec<f64> = total.iter().map(|t| 1e6 * size.workers as f64 / t).collect();
            out.row(bench, threads, &each, "us/step", &format!("{at}; mean per worker"))?;
            if let Some(mib) = case.strip_prefix("dense_").and_then(|n| n.parse::<f64>().ok()) {
                let bytes: Vec<f64> = total.iter().map(|t| t * mib * f64::from(1 << 20) / 1e9).collect();
                out.row(bench, threads, &bytes, "GB/s", &format!("{at}; summed over workers"))?;
            }
            Ok(())
        })?;
        compare(case, out)?;
    }
    for (case, sync) in train::CASES {
        train_rows(case, sync, asked, m, out)?;
        // The peers have no batches that are fed synchronously.
        if case != "train_sync_feed" {
            compare(case, out)?;
        }
    }
    for tasks in EMPTY {
        if !out.wants("ps_empty") {
            continue;
        }
        let per = measure(tasks, 1, "empty", asked, m).map_err(|e| e.context(format!("ps_empty, {tasks} tasks")))?;
        let each: Vec<f64> = per[0].iter().map(|t| 1e6 / t).collect();
        out.row(
            "ps_empty",
            task::threads(asked, "empty", "worker", 1),
            &each,
            "us/step",
            &format!("a no-op on each of {tasks} task(s), and the worker"),
        )?;
    }
    Ok(())
}
