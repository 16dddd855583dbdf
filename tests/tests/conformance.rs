//! The bundled cases, run through the library in this process: the answers are TensorFlow's, whatever passes
//! rewrite the graph and however many threads compute.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actorflow_cli::conformance::{Settings, run_case};
use actorflow_tests::oracle;

/// The current directory belongs to the process, so that one test at a time has it.
static CURRENT_DIR: Mutex<()> = Mutex::new(());

/// A current directory for cases that write files; the former one is back when it is dropped.
struct Scratch {
    former: PathBuf,
    _dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Scratch {
    fn new() -> std::io::Result<Scratch> {
        let alone = CURRENT_DIR.lock().unwrap_or_else(PoisonError::into_inner);
        let (former, dir) = (std::env::current_dir()?, tempfile::tempdir()?);
        std::env::set_current_dir(&dir)?;
        Ok(Scratch {
            former,
            _dir: dir,
            _alone: alone,
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The test has its result; that its directory cannot be left does not change it.
        let _ = std::env::set_current_dir(&self.former);
    }
}

fn all_pass(threads: usize, passes: bool) {
    let settings = Settings {
        threads,
        passes,
        timeout: Duration::from_secs(60),
        ..Settings::default()
    };
    let cases = oracle::cases().expect("the cases can be listed");
    let _scratch = Scratch::new().expect("a directory for the cases can be made");
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let reason = run_case(case, &settings).err()?;
            Some(format!("{}: {reason}", case.file_name()?.to_string_lossy()))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} cases fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn with_all_passes_on_one_thread() {
    all_pass(1, true);
}

#[test]
fn with_all_passes_on_two_threads() {
    all_pass(2, true);
}

#[test]
fn without_passes_on_one_thread() {
    all_pass(1, false);
}

#[test]
fn without_passes_on_two_threads() {
    all_pass(2, false);
}
