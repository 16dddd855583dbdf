//! The `actorflow` command, for tests that run it as people do.
#![allow(dead_code)] // each suite uses a part

use std::process::{Command, Output};

/// The path of the command, which cargo builds before these tests.
pub(crate) const ACTORFLOW: &str = env!("CARGO_BIN_EXE_actorflow");

/// What the command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Runs the command to its end.
///
/// # Panics
/// If it cannot be started.
pub(crate) fn run<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(args: I) -> Ran {
    let output: Output = Command::new(ACTORFLOW)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{ACTORFLOW}: {e}"));
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
