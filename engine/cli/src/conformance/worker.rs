//! The child process that runs cases, and what it and its parent say to each other.
//!
//! The parent writes one [`Request`] a line to the child's stdin. For each the child answers one line on stdout that
//! contains [`MARK`] and then an [`Answer`]; anything else on stdout comes from the graph (`PrintV2`) and is
//! ignored. At the end of its input the child exits.

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use actorflow::panic_message;
use serde::{Deserialize, Serialize};

use super::stage::Stage;
use super::{CaseOptions, run_case};
use crate::failure::{Failure, one_line};

/// Comes before an answer.
pub(super) const MARK: &str = "\u{1}case-answer ";

/// A case to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The case's folder, absolute.
    pub(super) dir: PathBuf,
    /// The folder in which it runs.
    pub(super) scratch: PathBuf,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Why it failed, if it did.
    pub(super) reason: Option<String>,
    pub(super) seconds: f64,
    /// The process is not fit to run another case.
    pub(super) last: bool,
}

/// The process in which `conformance` runs cases.
#[derive(clap::Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    options: CaseOptions,
}

/// Runs the cases that stdin asks for.
///
/// # Errors
/// If the parent cannot be understood or reached.
pub fn worker(args: &WorkerArgs) -> Result<(), Failure> {
    let settings = args.options.settings();
    let mut stage = None;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        if args.options.cluster.is_some() {
            if stage.is_none() {
                stage = Some(Stage::new(&settings)?);
            }
        } else {
            std::env::set_current_dir(&request.scratch)?;
        }
        let run = || match &stage {
            Some(stage) => stage.run(&request.dir, &settings),
            None => run_case(&request.dir, &settings),
        };
        let start = Instant::now();
        let (reason, last) = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => (None, false),
            Ok(Err(reason)) => (Some(one_line(&reason)), false),
            Err(payload) => (Some(one_line(&format!("panicked: {}", panic_message(&*payload)))), true),
        };
        let answer = Answer {
            reason,
            seconds: start.elapsed().as_secs_f64(),
            last,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{MARK}{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
        if last {
            break;
        }
    }
    Ok(())
}
