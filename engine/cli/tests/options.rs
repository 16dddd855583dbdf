//! Options that have no meaning are refused with those that have one, and limits hold.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod command;

use std::fs;
use std::path::Path;

use actorflow::graphdef::export_graph;
use actorflow::npy::read_npy_file;
use actorflow::{DType, Graph};
use command::{Ran, run};
use tempfile::TempDir;

/// A folder with `graph.pb`, a graph without variables: `y` is a float32 vector of `n` sevens.
fn folder() -> TempDir {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, [1]).unwrap();
    let seven = g.constant(7f32).unwrap();
    g.op("Fill").input(&n).input(&seven).name("y").finish().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("graph.pb"), export_graph(&g).unwrap()).unwrap();
    dir
}

fn run_graph(dir: &Path, args: &[&str]) -> Ran {
    let graph = dir.join("graph.pb");
    run(["run", graph.to_str().unwrap()].iter().chain(args))
}

/// A wrong use: code 2, nothing on stdout, and an error that has all the parts.
#[track_caller]
fn refused(ran: &Ran, parts: &[&str]) {
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{ran:?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "{part:?} is missing in {ran:?}");
    }
    assert!(!ran.stderr.contains("use '-- "), "{ran:?}");
}

#[test]
fn numbers_without_a_meaning_are_refused_with_those_that_have_one() {
    let dir = folder();
    let f = dir.path();
    let cases = f.to_str().unwrap();
    for zero in ["0", "-1"] {
        for command in [
            &["run", "graph.pb", "--fetch", "y"][..],
            &["train", "digits"],
            &["conformance", cases],
        ] {
            let ran = run(command.iter().chain(&["--threads", zero]));
            refused(&ran, &["--threads", "from 1 to 4096"]);
        }
        for option in ["--jobs", "--timeout"] {
            refused(&run(["conformance", cases, option, zero]), &[option, "from 1 to"]);
        }
        refused(
            &run(["conformance", cases, "--devices", zero]),
            &["--devices", "1..=64"],
        );
        refused(
            &run_graph(f, &["--fetch", "y", "--timeout", zero]),
            &["--timeout", "above 0"],
        );
        refused(
            &run_graph(f, &["--fetch", "y", "--memory", zero]),
            &["--memory", "4GiB"],
        );
        refused(&run(["conformance", cases, "--memory", zero]), &["--memory", "4GiB"]);
        for option in ["--hidden", "--epochs", "--batch"] {
            refused(&run(["train", "digits", option, zero]), &[option, "is not in 1.."]);
        }
    }
    refused(
        &run(["train", "digits", "--seed", "-1"]),
        &["--seed", "from 0 to 18446744073709551615"],
    );
    refused(
        &run(["conformance", cases, "--scatter", "-1"]),
        &["--scatter", "from 0 to"],
    );
    let ran = run(["train", "digits", "--lr", "-1"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("learning rate must be a positive"),
        "{ran:?}"
    );
}

#[test]
fn a_model_without_a_hidden_layer_takes_no_units_of_one() {
    let ran = run(["train", "digits", "--model", "softmax", "--hidden", "7"]);
    refused(&ran, &["--hidden", "softmax has no hidden layer", "mlp"]);
}

#[test]
fn a_filter_that_no_operation_matches_is_a_mistake() {
    for format in [&[][..], &["--json"], &["--markdown"]] {
        let args = ["ops", "--filter", "MatMul", "--filter", "Zzz*"];
        refused(&run(args.iter().chain(format)), &["\"Zzz*\"", "no operation"]);
    }
}

#[test]
fn a_case_that_checks_nothing_fails() {
    let dir = folder();
    for (case, reason) in [
        (r#"{"runs": []}"#, "neither runs nor gradients"),
        (r#"{"runs": [{}]}"#, "run 0: it has neither targets nor fetches"),
        (
            r#"{"runs": [], "gradients": [{"ys": ["y"], "xs": [], "expect": []}]}"#,
            "gradients 0: it has no xs",
        ),
    ] {
        fs::write(dir.path().join("case.json"), case).unwrap();
        let ran = run(["conformance", dir.path().to_str().unwrap()]);
        assert!(
            ran.code == 1 && ran.stdout.contains(reason),
            "{reason:?} is missing in {ran:?}"
        );
        assert!(ran.stdout.ends_with("0 passed, 1 failed\n"), "{ran:?}");
    }
}

#[test]
fn there_is_nothing_to_restore_in_a_graph_without_variables() {
    let dir = folder();
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/tests/data/bundle/all");
    let ran = run_graph(dir.path(), &["--fetch", "y", "--restore", bundle.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in ["--restore", "bundle/all", "nothing to save or restore", "no variables"] {
        assert!(ran.stderr.contains(part), "{part:?} is missing in {ran:?}");
    }
}

#[test]
fn tensors_of_a_run_take_no_more_memory_than_allowed() {
    let dir = folder();
    let out = dir.path().join("y.npy");
    let fetch = format!("y={}", out.display());
    let fill = |n: &str, memory: &str| {
        let feed = format!("n=[{n}]");
        run_graph(dir.path(), &["--feed", &feed, "--fetch", &fetch, "--memory", memory])
    };
    let ran = fill("1000000", "1MiB");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(
        ran.stderr.contains("RESOURCE_EXHAUSTED") && ran.stderr.contains("node y"),
        "{ran:?}"
    );
    assert!(!out.exists(), "nothing was computed");
    let ran = fill("1000000", "8MiB");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert_eq!(read_npy_file(&out).unwrap().shape().dims(), [1_000_000]);
}

#[test]
fn tensors_of_a_case_take_no_more_memory_than_allowed() {
    let dir = folder();
    actorflow::npy::write_npy_file(dir.path().join("n.npy"), &actorflow::Tensor::from([1_000_000i32])).unwrap();
    let case = r#"{"runs": [{"feeds": {"n": "n.npy"}, "fetches": [{"tensor": "y:0"}]}]}"#;
    fs::write(dir.path().join("case.json"), case).unwrap();
    let case = dir.path().to_str().unwrap();
    let ran = run(["conformance", case, "--memory", "1MiB"]);
    assert!(ran.code == 1 && ran.stdout.contains("RESOURCE_EXHAUSTED"), "{ran:?}");
    for args in [&["conformance", case][..], &["conformance", case, "--memory", "8MiB"]] {
        let ran = run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "1 passed, 0 failed\n"), "{ran:?}");
    }
}
