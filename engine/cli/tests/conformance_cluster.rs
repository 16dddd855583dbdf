//! `actorflow conformance` over several devices of one process and over a cluster of processes, with nodes put anywhere by a
//! seed: TensorFlow's answers do not depend on where nodes run.
#![forbid(unsafe_code)]

mod command;

use std::path::Path;

use command::run;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/oracle");
const SEEDS: std::ops::RangeInclusive<u64> = 1..=5;

/// How many cases the folder has.
fn cases() -> usize {
    let entries = std::fs::read_dir(CASES).expect("the folder of cases can be read");
    let is_case = |path: &Path| path.join("case.json").is_file();
    entries.flatten().filter(|e| is_case(&e.path())).count()
}

/// Runs every case with nodes put by each seed.
fn all_pass(place: &[&str]) {
    let expected = format!("{} passed, 0 failed", cases());
    for seed in SEEDS {
        let seed = seed.to_string();
        let ran = run([&["conformance", CASES, "--scatter", &seed][..], place].concat());
        assert!(
            ran.code == 0 && ran.stdout.lines().last() == Some(expected.as_str()),
            "{place:?}, seed {seed}: not {expected:?} but {ran:?}"
        );
    }
}

#[test]
fn every_case_passes_scattered_over_a_cluster_of_processes() {
    all_pass(&["--cluster", "local"]);
}

#[test]
fn every_case_passes_scattered_over_devices_of_one_process() {
    all_pass(&["--devices", "3"]);
}
