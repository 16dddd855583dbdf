//! `actorflow-bench`: measures the engine, in the rows that the peers are measured in.
//!
//! Subjects are modules; [`measure`] times, [`report`] prints. A row is the median of several windows with their
//! extremes; `--json` prints one JSON object a line, with the fields `bench, peer, version, threads, value, unit,
//! min, max, note`.

mod conv;
mod dispatch;
mod elementwise;
mod flags;
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
use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Measures Actorflow.
#[derive(Parser)]
#[command(name = "actorflow-bench", version, about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    subject: Subject,
    /// Threads that may compute at once, in each task. If it is not given, subjects of one process measure 1 and then 2; `ps`
    /// has one for each core in each task, which workers that train share; sync-vs-async has 1 in each task, and with
    /// --in-process one for each core.
    #[arg(long, global = true, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=4096))]
    threads: Option<usize>,
    /// Print JSON lines instead of a table. (Not of soak.)
    #[arg(long, global = true)]
    json: bool,
    /// Windows per figure, 7 if it is not given; the median is reported. (Not of sync-vs-async, which has --repeat, nor of
    /// soak.)
    #[arg(long, global = true, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    samples: Option<usize>,
    /// Seconds per window, 0.3 if it is not given. (Not of sync-vs-async, which has --epochs and --steps, nor of soak.)
    #[arg(long, global = true, value_name = "S", allow_negative_numbers = true, value_parser = flags::window)]
    window: Option<f64>,
    /// Also print this many of the most expensive nodes of each plan, with their measured cost (on stderr). (Of mlp-train
    /// and conv-train.)
    #[arg(long, global = true, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    nodes: Option<usize>,
    /// Only benchmarks whose name contains this. (Not of soak.)
    #[arg(long, global = true, default_value = "")]
    only: String,
    /// The passes that rewrite graphs: all (if it is not given), none, or names with commas between them. (Of mlp-train,
    /// conv-train, elementwise and soak. dispatch, matmul and fifo-queue measure graphs as they are; ps and sync-vs-async have
    /// all.)
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
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.format(&mut Cli::command()).exit(),
    };
    if let Some(text) = flags::without_effect(&matches) {
        wrong_use(&text);
    }
    match &cli.subject {
        Subject::SyncVsAsync(args) => return compare(args, &cli),
        Subject::SyncVsAsyncTask(task) => return ended(sync_vs_async::run_task(task)),
        _ => {}
    }
    measure::cores();
    let mut out = report::Report::new(cli.json, cli.nodes.unwrap_or(0), cli.only.clone());
    let mut threads = cli.threads.map_or_else(|| vec![1, 2], |t| vec![t]);
    if matches!(cli.subject, Subject::Ps(_) | Subject::PsTask(_)) {
        // Each task has its own; those of this process measure nothing.
        threads = vec![1];
    }
    for t in threads {
        let m = measure::Settings {
            samples: cli.samples.unwrap_or(7),
            window: cli.window.unwrap_or(0.3),
            threads: t,
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
                    Subject::Ps(args) => ps::run(args, cli.threads, &m, &mut out),
                    Subject::PsTask(task) => ps::run_task(task, cli.threads, &m),
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
    if let Some(text) = out.only_nothing() {
        wrong_use(&text);
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

/// Ends as clap does for one flag that is wrong: exit code 2.
fn wrong_use(text: &str) -> ! {
    Cli::command().error(ErrorKind::ArgumentConflict, text).exit()
}

fn compare(args: &sync_vs_async::Args, cli: &Cli) -> ExitCode {
    let common = sync_vs_async::Common {
        threads: cli.threads,
        json: cli.json,
        only: cli.only.clone(),
    };
    match sync_vs_async::run(args, &common) {
        Ok(code) => code,
        Err(wrong) => wrong_use(&wrong),
    }
}
