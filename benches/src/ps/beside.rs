//! The peers' `ps_train.py`, run in turn with this program: the same rows, one case after the other, and how they compare.

use std::path::PathBuf;
use std::process::Command;

use actorflow::{Error, Result};
use serde::Deserialize;

use crate::measure::Settings;
use crate::report::{Measured, Report};

const SCRIPT: &str = "ps_train.py";

/// What is measured besides.
#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// Also run the peers' ps_train.py with this Python, which has TensorFlow: case by case in turn, with the ratio of each row
    #[arg(long, value_name = "PYTHON", requires = "peers")]
    beside: Option<PathBuf>,
    /// The folder that has ps_train.py
    #[arg(long, value_name = "DIR", requires = "beside")]
    peers: Option<PathBuf>,
}

/// A row that the script prints.
#[derive(Deserialize)]
struct Row {
    bench: String,
    peer: String,
    version: String,
    threads: Option<usize>,
    value: Option<f64>,
    unit: String,
    min: Option<f64>,
    max: Option<f64>,
    note: String,
}

/// The script and what runs it.
pub(super) struct Peers {
    python: PathBuf,
    script: PathBuf,
    samples: usize,
}

impl Peers {
    /// The peers that are asked for, if any are, after seeing that they can be run.
    ///
    /// # Errors
    /// Which of interpreter, script and TensorFlow is missing, and the cure.
    pub(super) fn of(args: &Args, m: &Settings) -> Result<Option<Peers>> {
        let (Some(python), Some(folder)) = (&args.beside, &args.peers) else {
            return Ok(None);
        };
        let script = folder.join(SCRIPT);
        if !script.is_file() {
            return Err(Error::not_found(format!(
                "there is no {SCRIPT} in {}; --peers names the folder that has it",
                folder.display()
            )));
        }
        let peers = Peers {
            python: python.clone(),
            script,
            samples: m.samples,
        };
        peers.run(
            peers.command().args(["-c", "import tensorflow"]),
            "cannot import tensorflow; install it with `-m pip install tensorflow-cpu`",
        )?;
        Ok(Some(peers))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.python);
        // The folder may be somebody else's.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PEERS_SAMPLES", self.samples.to_string());
        command
    }

    /// Runs it to its end; what it prints.
    fn run(&self, command: &mut Command, fault: &str) -> Result<String> {
        let python = self.python.display();
        let output = command.output().map_err(|e| {
            Error::not_found(format!(
                "{python} cannot be run: {e}; --beside names a Python interpreter"
            ))
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.trim_end().lines().last().unwrap_or_default();
            return Err(Error::failed_precondition(format!(
                "{python} {fault} ({}: {last})",
                output.status
            )));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a case, prints the script's rows, and compares them with those of this program that were printed before.
    ///
    /// # Errors
    /// If the script fails, or has no row for one of this program's.
    pub(super) fn compare(&self, case: &str, out: &mut Report) -> Result<()> {
        let (bench, name) = (format!("ps_{case}"), self.script.display());
        let mut ours = out.take();
        ours.retain(|o| o.bench == bench);
        let what = format!("cannot run {name} --only {case}");
        let text = self.run(self.command().arg(&self.script).args(["--only", case]), &what)?;
        let rows: Vec<Row> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        if let Some(failed) = rows.iter().find(|r| r.note.starts_with("FAILED")) {
            return Err(Error::unavailable(format!("{name} {}: {}", failed.peer, failed.note)));
        }
        for o in &ours {
            let same = |r: &&Row| r.bench == bench && r.unit == o.unit && size(&r.note) == size(&o.note);
            let theirs = rows.iter().find(same);
            let numbers = theirs.and_then(|t| Some((t, t.value?, t.min?, t.max?)));
            let Some((t, value, min, max)) = numbers else {
                return Err(Error::not_found(format!(
                    "{name} has no row {bench} in {} with {}",
                    o.unit,
                    size(&o.note)
                )));
            };
            let theirs = Measured {
                bench: bench.clone(),
                unit: o.unit.clone(),
                note: t.note.clone(),
                threads: t.threads.unwrap_or(o.threads),
                value,
                min,
                max,
            };
            out.peer(&t.peer, &t.version, &theirs)?;
            out.ratio(&t.peer, &t.version, o, &theirs)?;
        }
        Ok(())
    }
}

/// How many servers and workers a note speaks of.
fn size(note: &str) -> &str {
    note.split(';').next().unwrap_or_default().trim()
}
