//! The bundled cases, run through the library in this process: the answers are TensorFlow's, whatever passes
//! rewrite the graph and however many threads compute.
#![forbid(unsafe_code)]

use std::time::Duration;

use actorflow_cli::conformance::{Settings, run_case};
use actorflow_tests::oracle;

fn all_pass(threads: usize, passes: bool) {
    let settings = Settings {
        threads,
        passes,
        timeout: Duration::from_secs(60),
    };
    let failures: Vec<String> = oracle::cases()
        .expect("the cases can be listed")
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
