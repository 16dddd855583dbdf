//! What the `actorflow` command does: argument parsing and printing around the engine's API.
//!
//! Each module is a command; `main.rs` only calls [`main`]. The library exists so that the workspace's suites can
//! run the same code in their own process; it is not published.
//!
//! Conventions of every command: exit code 0 is success, 1 a failure of what was asked, 2 a wrong use of the
//! command, 141 if whoever reads the output has gone. An error is one line on stderr that starts with `error:`; results go to stdout, with `--json` as JSON.
#![forbid(unsafe_code)]

mod checkpoint;
pub mod cluster;
pub mod conformance;
mod daemon;
mod failure;
mod glob;
mod home;
mod inspect;
mod limits;
mod memory;
mod numbers;
mod ops;
mod run;
mod signals;
mod train;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use failure::Failure;

/// Actorflow runs TensorFlow 1.x graphs as actors.
#[derive(Parser)]
#[command(name = "actorflow", version, about, max_term_width = 110, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a TensorFlow graph: feed tensors, fetch tensors, differentiate
    Run(run::Args),
    /// Show what is in a TensorFlow graph, and draw it
    Inspect(inspect::Args),
    /// List, check and convert checkpoints
    Checkpoint(checkpoint::Args),
    /// List the operations that the engine has
    Ops(ops::Args),
    /// Train a classifier of handwritten digits and report its accuracy
    Train(train::Args),
    /// Run a task of a cluster
    Daemon(Box<daemon::Args>),
    /// Make a cluster, join it, look at it, or run one on this machine
    Cluster(cluster::Args),
    /// Check the engine against cases that TensorFlow has answered
    Conformance(conformance::Args),
    /// The process in which `conformance` runs cases
    #[command(hide = true)]
    ConformanceWorker(conformance::WorkerArgs),
}

/// Parses the command line, does what it says and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Clap prints help to stdout (code 0) and mistakes to stderr (code 2).
        Err(e) => {
            let code = if e.use_stderr() { 2 } else { 0 };
            return match e.print() {
                Ok(()) => ExitCode::from(code),
                Err(e) => Failure::from(e).report(),
            };
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Checkpoint(args) => checkpoint::run(&args),
        Command::Ops(args) => ops::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Daemon(args) => daemon::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::ConformanceWorker(args) => conformance::worker(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
