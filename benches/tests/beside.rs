//! `actorflow-bench ps --beside PYTHON --peers DIR`: the peers' script in turn with this program, here one that only pretends to
//! be TensorFlow.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The rate of the pretended peer, in steps a second, summed over two workers.
const RATE: f64 = 500.0;
const SIZES: [(usize, usize); 3] = [(1, 1), (1, 2), (2, 2)];

/// An interpreter and a folder with a script: what the interpreter does with `-c`, and what with the script.
struct Pretended {
    dir: tempfile::TempDir,
}

impl Pretended {
    fn new(import: &str, script: &str) -> Pretended {
        let dir = tempfile::tempdir().unwrap();
        let python = dir.path().join("python");
        fs::write(
            &python,
            format!("#!/bin/sh\nif [ \"$1\" = -c ]; then {import}; fi\n{script}\n"),
        )
        .unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("ps_train.py"), "").unwrap();
        Pretended { dir }
    }

    /// One that has a row for each of this program's, and says how it was called.
    fn complete() -> Pretended {
        let mut script = "[ \"${1##*/} $2 $3\" = 'ps_train.py --only scalar' ] || exit 9\n".to_owned();
        for (ps, workers) in SIZES {
            let us = 1e6 * workers as f64 / RATE;
            for (value, unit, what) in [
                (RATE, "steps/s", "summed over workers"),
                (us, "us/step", "mean per worker"),
            ] {
                script += &format!(
                    "echo '{{\"bench\": \"ps_scalar\", \"peer\": \"tf1\", \"version\": \"2.0\", \"threads\": 2, \"value\": {value}, \
                     \"unit\": \"{unit}\", \"min\": {value}, \"max\": {value}, \"note\": \"{ps} ps, {workers} worker(s); {what}\"}}'\n"
                );
            }
        }
        Pretended::new("exit 0", &script)
    }

    fn python(&self) -> PathBuf {
        self.dir.path().join("python")
    }

    fn run(&self, more: &[&str]) -> Output {
        bench(&self.python(), self.dir.path(), more)
    }
}

/// The smallest measurement between processes.
fn ps() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actorflow-bench"));
    command.args("ps --only ps_scalar --samples 1 --window 0.05".split(' '));
    command
}

fn bench(python: &Path, peers: &Path, more: &[&str]) -> Output {
    let mut command = ps();
    command.arg("--beside").arg(python).arg("--peers").arg(peers);
    command.args(more).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_row_is_followed_by_the_peers_and_their_ratio() {
    let peers = Pretended::complete();
    let output = peers.run(&["--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |peer: &str| -> Vec<&Value> { rows.iter().filter(|r| r["peer"] == peer).collect() };
    let (ours, theirs, ratios) = (of("actorflow"), of("tf1"), of("actorflow/tf1"));
    assert_eq!(
        (ours.len(), theirs.len(), ratios.len(), rows.len()),
        (6, 6, 6, 18),
        "{text}"
    );
    for ((o, t), r) in ours.iter().zip(theirs).zip(ratios) {
        assert_eq!(
            (&o["bench"], &o["unit"], &o["note"]),
            (&t["bench"], &t["unit"], &t["note"])
        );
        assert_eq!((&r["bench"], &r["unit"]), (&o["bench"], &"times".into()));
        let number = |row: &Value, what: &str| row[what].as_f64().unwrap();
        let expected = match o["unit"].as_str().unwrap() {
            "us/step" => number(t, "value") / number(o, "value"),
            _ => number(o, "value") / number(t, "value"),
        };
        assert!((number(r, "value") / expected - 1.0).abs() < 1e-4, "{r} of {o} and {t}");
        assert!(number(r, "min") <= number(r, "max"), "{r}");
    }
}

#[test]
fn a_person_reads_them_in_one_table() {
    let output = Pretended::complete().run(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 18, "{text}");
    let found = |part: &str| lines.iter().filter(|l| l.contains(part)).count();
    assert_eq!(found("tf1 2.0; 2 ps, 2 worker(s)"), 2, "{text}");
    assert_eq!(found("as fast as tf1 2.0 in steps/s; 2 ps, 2 worker(s)"), 1, "{text}");
}

#[test]
fn what_is_missing_is_named_with_the_cure() {
    let good = Pretended::complete();
    let empty = tempfile::tempdir().unwrap();
    let nowhere = Path::new("/no/such/python");
    let without = Pretended::new("echo \"No module named 'tensorflow'\" >&2; exit 1", "");
    let broken = Pretended::new("exit 0", "echo 'Traceback' >&2; echo 'OSError: no port' >&2; exit 3");
    let silent = Pretended::new("exit 0", "");
    let row = r#"{"bench": "ps_train.py", "peer": "scalar 1 ps, 1 worker(s)", "version": "", "value": null, "unit": "", "min": null, "max": null, "note": "FAILED no READY"}"#;
    let failing = Pretended::new("exit 0", &format!("echo '{row}'"));
    for (output, parts) in [
        (
            bench(nowhere, good.dir.path(), &[]),
            &["/no/such/python", "--beside"][..],
        ),
        (
            bench(&good.python(), empty.path(), &[]),
            &["no ps_train.py in", "--peers"],
        ),
        (
            without.run(&[]),
            &["cannot import tensorflow", "No module named", "pip install"],
        ),
        (broken.run(&[]), &["ps_train.py --only scalar", "OSError: no port"]),
        (silent.run(&[]), &["no row ps_scalar in steps/s with 1 ps, 1 worker(s)"]),
        (failing.run(&[]), &["scalar 1 ps, 1 worker(s)", "FAILED no READY"]),
    ] {
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(parts.iter().all(|p| text.contains(p)), "{parts:?} are not in {text}");
    }
    let mut alone = Command::new(env!("CARGO_BIN_EXE_actorflow-bench"));
    let output = alone.args(["ps", "--beside", "python3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--peers"), "{}", said(&output));
}

#[test]
fn every_task_computes_with_the_threads_that_are_asked_for() {
    let output = ps().args(["--json", "--threads", "3"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 6, "{text}");
    assert!(rows.iter().all(|r| r["threads"] == 3), "{text}");
}

#[test]
fn flags_that_do_nothing_and_values_that_mean_nothing_are_refused() {
    for (flags, says) in [
        ("ps --samples 0", "0 is not in"),
        ("ps --window 0", "0.001 to 3600"),
        ("ps --window nan", "0.001 to 3600"),
        ("matmul --window -1", "0.001 to 3600"),
        ("ps --threads 0", "0 is not in"),
        ("ps --nodes 3", "ps does not take --nodes"),
        ("ps --passes none", "ps does not take --passes"),
        ("dispatch --passes none", "dispatch does not take --passes"),
        ("matmul --nodes 1", "matmul does not take --nodes"),
        ("fifo-queue --passes all", "fifo-queue does not take --passes"),
        ("elementwise --nodes 1", "elementwise does not take --nodes"),
        ("soak --samples 3", "soak does not take --samples: --runs N"),
        ("soak --only x", "soak does not take --only"),
        ("soak --json", "soak does not take --json"),
        ("ps --only zzz", "no benchmark's name contains \"zzz\""),
        ("dispatch --only zzz --threads 1", "run_noop_callable"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actorflow-bench"));
        let output = command.args(flags.split_whitespace()).output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{flags}: {text}");
        assert!(text.contains(says) && output.stdout.is_empty(), "{flags}: {text}");
    }
}
