//! A reader that goes before the end, as in `actorflow-bench dispatch | head`: the program ends at once, says nothing of it, and
//! its exit code is what a shell says of a program that SIGPIPE has ended.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::io::pipe;
use std::process::{Command, Output};

/// Runs it with a standard output that nobody reads.
fn unread(args: &str) -> Output {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_actorflow-bench"));
    command.args(args.split_whitespace()).stdout(writer).output().unwrap()
}

#[test]
fn nothing_is_said_when_nobody_reads() {
    let shortest = "--threads 1 --samples 1 --window 0.01 --only run_noop_callable";
    for args in [
        format!("dispatch {shortest}"),
        format!("dispatch {shortest} --json"),
        "soak --threads 1 --runs 100".to_owned(),
    ] {
        let output = unread(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(141), ""), "{args}");
    }
}

#[test]
fn a_comparison_that_nobody_reads_is_written_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let flags = "sync-vs-async --in-process --workers 1 --strategies sync --steps 20 --repeat 1 --out";
    for more in ["", " --json"] {
        let out = dir.path().join("results");
        let output = unread(&format!("{flags} {}{more}", out.display()));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(141), "{said}");
        assert!(said.contains("Report: ") && !said.contains("panicked"), "{said}");
        assert!(out.join("report.html").is_file());
        std::fs::remove_dir_all(out).unwrap();
    }
}
