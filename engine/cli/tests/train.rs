//! `actorflow train` with its models.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod command;

use std::fs;

use command::run;
use serde_json::Value;

#[test]
fn a_convolutional_network_learns_digits_whatever_the_number_of_threads() {
    let results = ["1", "2"].map(|threads| {
        let args = ["train", "digits", "--model", "lenet", "--epochs", "3", "--json"];
        let ran = run(args.iter().chain(&["--threads", threads]));
        assert_eq!(ran.code, 0, "{ran:?}");
        let mut summary: Value = serde_json::from_str(&ran.stdout).unwrap();
        summary.as_object_mut().unwrap().remove("seconds");
        summary
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0]["model"], "lenet");
    assert!(results[0]["test_accuracy"].as_f64().unwrap() > 0.93, "{}", results[0]);
}

#[test]
fn a_convolutional_network_needs_square_images() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    fs::write(&file, "1,2,3,0\n".repeat(5)).unwrap();
    let args = ["train", "digits", "--model", "lenet", "--data"];
    let ran = run(args.iter().copied().chain([file.to_str().unwrap()]));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("square images") && ran.stderr.contains("3 pixels"),
        "{ran:?}"
    );
}
