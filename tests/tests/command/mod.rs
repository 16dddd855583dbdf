//! The `actorflow` command, for tests that run it as people do.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The path of the command, built with the profile that the tests were built with.
///
/// # Panics
/// If it cannot be built: no test that needs it can go on.
pub(crate) fn actorflow() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build().unwrap_or_else(|e| panic!("the actorflow command cannot be built: {e}")))
}

fn build() -> Result<PathBuf, String> {
    // Test binaries are in `target/PROFILE/deps`.
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let folder = exe
        .ancestors()
        .nth(2)
        .and_then(|p| p.file_name())
        .and_then(|n| n.to_str())
        .ok_or("the tests are not in a target folder")?;
    let profile = if folder == "debug" { "dev" } else { folder };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(actorflow_tests::repo::root())
        .args(["build", "--locked", "--offline", "--profile", profile])
        // The whole workspace is selected, so that dependencies have the features they have for the tests and
        // nothing is compiled a second time.
        .args(["--workspace", "--bin", "actorflow", "--message-format", "json"])
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| "cargo named no executable".into())
}

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
    let output: Output = Command::new(actorflow())
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", actorflow().display()));
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
