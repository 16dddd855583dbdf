//! `actorflow-bench`: measures the engine, in the rows that the peers are measured in.
//!
//! Subjects are modules; [`measure`] times, [`report`] prints. A row is the median of several windows with their
//! extremes; `--json` prints one JSON object a line, with the fields `bench, peer, version, threads, value, unit,
//! min, max, note`.

mod conv;
mod dispatch;
mod elementwise;
mod matmul;
mod measure;
mod mlp;
mod peak;
mod ps;
mod queues;
mod report;
mod soak;
mod sync_vs_async;
mod tasks;
mod tell;

use std::process::ExitCode;

use actorflow::Passes;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

/// Measures Actorflow.
#[derive(Parser)]
#[command(name = "actorflow-bench", version, about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    subject: Subject,
    /// Threads that may compute at once; both 1 and 2 are measured if it is not given.
    #[arg(long, global = true)]
    threads: Option<usize>,
    /// Print JSON lines instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// Windows per figure, 7 if it is not given; the median is reported. (Not of sync-vs-async, which has --repeat.)
    #[arg(long, global = true, value_name = "N")]
    samples: Option<usize>,
    /// Seconds per window, 0.3 if it is not given. (Not of sync-vs-async, which has --epochs and --steps.)
    #[arg(long, global = true, value_name = "S")]
    window: Option<f64>,
    /// Also print this many of the most expensive nodes of each plan, with their measured cost (on stderr). (Not of
    /// sync-vs-async.)
    #[arg(long, global = true, value_name = "N")]
    nodes: Option<usize>,
    /// Only benchmarks whose name contains this.
    #[arg(long, global = true, default_value = "")]
    only: String,
    /// The passes that rewrite graphs: all (if it is not given), none, or names with commas between them. (The dispatch
    /// subject measures graphs as they are; sync-vs-async has all.)
    #[arg(long, global = true)]
    passes: Option<Passes>,
}

#[derive(Subcommand)]
enum Subject {
    /// What firing a node costs: chains, grids, no-ops, a loop's iterations, and the latency of a run.
    Dispatch,
    /// Single-precision matrix products, in GFLOP/s, and the core's measured peak.
    Matmul,
    /// Training steps a second of the 784-512-256-10 perceptron.
    MlpTrain,
    /// Training steps and forward passes a second of a LeNet on images of 28 × 28.
    ConvTrain,
    /// Enqueue and dequeue, lock and release: pairs a second.
    FifoQueue,
    /// A chain of element-wise operations over 10 million floats, softmax, sums along both axes.
    Elementwise,
    /// Parameter servers, a process for each task: reading scalars, dense variables, rows of tables; empty steps.
    Ps(ps::Args),
    /// A task of the cluster that `ps` measures.
    #[command(hide = true)]
    PsTask(ps::TaskArgs),
    /// How workers agree, compared: one model under every strategy, asynchronous or synchronous; with a report.
    SyncVsAsync(Box<sync_vs_async::Args>),
    /// A task of a run of `sync-vs-async`.
    #[command(hide = true)]
    SyncVsAsyncTask(sync_vs_async::TaskArgs),
    /// Many runs of a small training step; fails if resident memory grows.
    Soak {
        /// How many.
        #[arg(long, default_value_t = 1_000_000)]
        runs: u64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.subject {
        Subject::SyncVsAsync(args) => return compare(args, &cli),
        Subject::SyncVsAsyncTask(task) => return ended(sync_vs_async::run_task(task)),
        _ => {}
    }
    measure::cores();
    let mut out = report::Report::new(cli.json, cli.nodes.unwrap_or(0), cli.only.clone());
    let mut threads = cli.threads.map_or_else(|| vec![1, 2], |t| vec![t]);
    if matches!(cli.subject, Subject::Ps(_) | Subject::PsTask(_)) {
        // The processes share the cores.
        threads = vec![2];
    }
    for t in threads {
        let m = measure::Settings {
            samples: cli.samples.unwrap_or(7).max(1),
            window: cli.window.unwrap_or(0.3).max(0.001),
            threads: t.max(1),
            passes: cli.passes.unwrap_or(Passes::ALL),
        };
        // A thread of its own is bound, not the main one, whose mask tells the workers which cores there are.
        let done = std::thread::scope(|scope| {
            let measured = scope.spawn(|| {
                if !matches!(cli.subject, Subject::Ps(_) | Subject::PsTask(_)) {
                    m.pin_caller();
                }
                match &cli.subject {
                    Subject::Dispatch => dispatch::run(&m, &mut out),
                    Subject::Matmul => matmul::run(&m, &mut out),
                    Subject::MlpTrain => mlp::run(&m, &mut out),
                    Subject::ConvTrain => conv::run(&m, &mut out),
                    Subject::FifoQueue => queues::run(&m, &mut out),
                    Subject::Elementwise => elementwise::run(&m, &mut out),
                    Subject::Ps(args) => ps::run(args, &m, &mut out),
                    Subject::PsTask(task) => ps::run_task(task, &m),
                    Subject::Soak { runs } => soak::run(&m, *runs),
                    // They have returned by now.
                    Subject::SyncVsAsync(_) | Subject::SyncVsAsyncTask(_) => Ok(()),
                }
            });
            match measured.join() {
                Ok(done) => done,
                Err(_) => Err(actorflow::Error::internal("the measurement panicked")),
            }
        });
        if done.is_err() {
            return ended(done);
        }
    }
    ExitCode::SUCCESS
}

/// The exit code, after an error is told.
fn ended(done: actorflow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if tell::is_unread(&e) => ExitCode::from(tell::UNREAD),
        Err(e) => {
            eprintln!("actorflow-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &sync_vs_async::Args, cli: &Cli) -> ExitCode {
    let wrong = [
        (
            "--samples",
            cli.samples.is_some(),
            "--repeat N is the number of runs of each case",
        ),
        (
            "--window",
            cli.window.is_some(),
            "--epochs and --steps say how long a run is",
        ),
        ("--nodes", cli.nodes.is_some(), "leave it out"),
        ("--passes", cli.passes.is_some(), "leave it out"),
    ];
    if let Some((flag, _, cure)) = wrong.iter().find(|w| w.1) {
        let text = format!("sync-vs-async does not take {flag}: {cure}");
        Cli::command().error(ErrorKind::ArgumentConflict, text).exit();
    }
    let common = sync_vs_async::Common {
        threads: cli.threads,
        json: cli.json,
        only: cli.only.clone(),
    };
    match sync_vs_async::run(args, &common) {
        Ok(code) => code,
        // As clap reports a wrong use of one flag: exit code 2.
        Err(wrong) => Cli::command().error(ErrorKind::ArgumentConflict, wrong).exit(),
    }
}
