//! Every example runs to its end and says what it should.
//!
//! `cargo test` builds the examples before it runs this; alone, `cargo build --release -p actorflow --examples` does.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where examples are built: beside the folder of this test's own program.
fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let profile = here.parent().and_then(Path::parent).unwrap();
    let path = profile
        .join("examples")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} is not there: build the examples first, as cargo test does without --test",
        path.display()
    );
    path
}

/// Runs an example, which must succeed and print all of this, in this order.
fn check(name: &str, args: &[&str], expected: &[&str]) {
    let text = run(name, args);
    let mut rest = text.as_str();
    for e in expected {
        let found = rest.split_once(e);
        let (_, after) = found.unwrap_or_else(|| panic!("{name} {args:?} does not say {e:?} there:\n{text}"));
        rest = after;
    }
}

/// What an example prints, which must succeed.
fn run(name: &str, args: &[&str]) -> String {
    let mut child = Command::new(program(name))
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(240) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{name} {args:?} does not end: {}", reader.join().unwrap().unwrap());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = reader.join().unwrap().unwrap();
    assert!(status.success(), "{name} {args:?}: {status}\n{text}");
    text
}

macro_rules! examples {
    ($($test:ident: $name:literal $args:tt says $expected:tt;)*) => {
        /// The examples that run here.
        const NAMES: &[&str] = &[$($name),*];

        $(#[test]
        fn $test() {
            check($name, &$args, &$expected);
        })*
    };
}

examples! {
    a_network_learns_a_poem: "char_rnn" [] says ["step 150  loss"];
    an_operation_comes_from_outside: "custom_op" [] says ["cube", "derivative"];
    a_line_is_fitted_by_towers: "towers" [] says ["step   0: loss", "y = 1.99", "x + 0.99"];
    a_line_is_fitted_by_workers: "worker_ps" ["sync"] says ["global step", "y = 2.000 x + 1.000", "y = 2.000 x + 1.000"];
    a_line_is_fitted_without_servers: "worker_ps" ["allreduce"] says ["y = 2.000 x + 1.000", "y = 2.000 x + 1.000"];
    digits_are_read_by_two_workers: "parallel_digits" ["--strategy", "ssp3"]
        says ["ssp3: accuracy 0.9", "on images that nobody trained on"];
    a_table_of_a_billion_rows_is_planned: "partitioned_embedding"
        ["--rows", "1000000000", "--ps", "8", "--dry-run"] says [
            "table/part_0: rows 0 to 124999999, 10000000000 bytes, on /job:ps/task:0",
            "table/part_7: rows 875000000 to 999999999, 10000000000 bytes, on /job:ps/task:7",
            "a table of 1000000000 rows of 20 float32 takes 80000000000 bytes, in 8 parts",
            "/job:ps/task:0: 20000001600 bytes",
            "/job:ps/task:7: 20000000000 bytes",
        ];
    parts_of_limited_size_are_spread_by_their_bytes: "partitioned_embedding"
        ["--rows", "1000000000", "--ps", "2", "--part-bytes", "17179869184", "--dry-run"] says [
            "in 5 parts",
            "all servers: 160000001600 bytes",
        ];
    a_table_in_parts_is_trained: "partitioned_embedding" ["--rows", "200000", "--ps", "3", "--steps", "200"]
        says ["step 20: loss", "200 steps of 1024 rows out of 200000 in 3 parts: loss"];
    a_service_trains_while_it_serves: "train_and_serve" [] says ["p99", "training stopped after", "served accuracy went from"];
}

#[test]
fn digits_are_read_under_every_strategy() {
    for (strategy, workers) in [
        ("async", "2"),
        ("async-scaled", "2"),
        ("sync", "2"),
        ("sync+backup1", "3"),
        ("hybrid2x2", "4"),
        ("ssp3", "4"),
        ("allreduce", "2"),
        ("allreduce", "4"),
    ] {
        let text = run("parallel_digits", &["--strategy", strategy, "--workers", workers]);
        let last = text.lines().last().unwrap_or_default();
        let accuracy: Option<f64> = last
            .strip_prefix(&format!("{strategy}: accuracy "))
            .and_then(|rest| rest.strip_suffix(" on images that nobody trained on"))
            .and_then(|number| number.parse().ok());
        assert!(accuracy.is_some_and(|a| a >= 0.97), "{strategy}: {text}");
    }
}

#[test]
fn every_example_has_a_row_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(
                NAMES.contains(&name),
                "give example {name} a row in engine/tests/examples.rs"
            );
        }
    }
}
