//! Checkpoints on the command line: trainings that are killed and go on, tables, conversion from TensorFlow.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod command;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command::{ACTORFLOW, Ran, run};
use serde_json::Value;

/// A training that is short even without optimisation.
const TRAIN: [&str; 10] = [
    "train",
    "digits",
    "--model",
    "softmax",
    "--epochs",
    "12",
    "--threads",
    "1",
    "--seed",
    "3",
];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/tests/data/bundle")
}

#[track_caller]
fn good(ran: &Ran) -> &str {
    assert_eq!(ran.code, 0, "{ran:?}");
    &ran.stdout
}

/// What a training says at its end, without the time.
#[track_caller]
fn result(ran: &Ran) -> Value {
    let mut v: Value = serde_json::from_str(good(ran).lines().last().unwrap()).unwrap();
    v.as_object_mut().unwrap().remove("seconds");
    v
}

fn manifests(dir: &Path) -> usize {
    let Ok(files) = fs::read_dir(dir) else {
        return 0;
    };
    files
        .filter(|f| text(&f.as_ref().unwrap().path()).ends_with(".manifest.json"))
        .count()
}

#[test]
fn a_training_that_is_killed_and_resumed_ends_as_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    for model in ["softmax", "mlp"] {
        let mut args = TRAIN.map(str::to_owned).to_vec();
        args[3] = model.to_owned();
        if model == "mlp" {
            args.extend(["--hidden", "8"].map(str::to_owned));
        }
        args.push("--json".into());
        let whole = result(&run(&args));
        let folder = dir.path().join(model);
        args.extend(["--checkpoint", text(&folder), "--checkpoint-every", "7", "--resume"].map(str::to_owned));
        // Killed as soon as it has saved twice since it was started; three times.
        for n in 0..3 {
            let mut child = Command::new(ACTORFLOW)
                .args(&args)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let before = fs::read_to_string(folder.join("checkpoint")).unwrap_or_default();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none() {
                let now = fs::read_to_string(folder.join("checkpoint")).unwrap_or_default();
                if manifests(&folder) >= 2 && now != before {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // On Unix this is SIGKILL.
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(manifests(&folder) > 0, "nothing was saved in round {n}");
        }
        assert_eq!(result(&run(&args)), whole);
        // There is nothing left to do, and it says the same.
        assert_eq!(result(&run(&args)), whole);
        assert!(manifests(&folder) <= 5, "old checkpoints are deleted");
        let listed = run(["inspect", text(&folder), "--json"]);
        let listed: Value = serde_json::from_str(good(&listed)).unwrap();
        assert_eq!(listed["format"], "actorflow");
        assert!(good(&run(["checkpoint", "verify", text(&folder)])).contains("no damage"));
    }
    let folder = dir.path().join("softmax");
    let other = ["--batch", "16", "--resume", "--checkpoint", text(&folder)];
    let ran = run(TRAIN.iter().chain(&other));
    assert!(
        ran.code == 1 && ran.stderr.contains("another --checkpoint directory"),
        "{ran:?}"
    );
}

#[test]
fn a_training_goes_on_only_from_a_checkpoint_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let train = |dataset: &str, more: &[&str]| {
        let args = [
            "train",
            dataset,
            "--epochs",
            "1",
            "--resume",
            "--checkpoint",
            text(dir.path()),
        ];
        run(args.iter().chain(more))
    };
    good(&train("digits", &["--hidden", "8"]));
    // Other shapes, other variables, other data.
    for (dataset, more) in [
        ("digits", &["--hidden", "9"][..]),
        ("digits", &["--hidden", "8", "--optimizer", "sgd"]),
        ("digits", &["--model", "softmax"]),
        ("mnist5k", &["--hidden", "8"]),
    ] {
        let ran = train(dataset, more);
        assert_eq!(ran.code, 1, "{ran:?}");
        for part in [text(dir.path()), "hidden units", "another --checkpoint directory"] {
            assert!(ran.stderr.contains(part), "{part:?} is missing in {ran:?}");
        }
    }
    good(&train("digits", &["--hidden", "8"]));
}

#[test]
fn a_checkpoint_of_something_else_is_not_resumed_from() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("model.ckpt-1");
    good(&run(["checkpoint", "convert", text(&bundle().join("all")), text(&to)]));
    let state = format!(
        "model_checkpoint_path: \"{0}\"\nall_model_checkpoint_paths: \"{0}\"\n",
        text(&to)
    );
    fs::write(dir.path().join("checkpoint"), state).unwrap();
    let ran = run(["train", "digits", "--resume", "--checkpoint", text(dir.path())]);
    assert!(
        ran.code == 1 && ran.stderr.contains("not written by `actorflow train`"),
        "{ran:?}"
    );
}

#[test]
fn a_damaged_checkpoint_is_not_resumed_from() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--epochs", "1", "--checkpoint", text(dir.path())];
    let train = |more: &[&str]| {
        run(["train", "digits", "--model", "softmax"]
            .iter()
            .chain(&args)
            .chain(more))
    };
    good(&train(&[]));
    assert_eq!(manifests(dir.path()), 1);
    let mut files = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().path());
    let shard = files.find(|f| text(f).ends_with(".safetensors")).unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    for ran in [train(&["--resume"]), run(["checkpoint", "verify", text(dir.path())])] {
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(
            ran.stderr.contains("DATA_LOSS") && ran.stderr.contains(".safetensors"),
            "{ran:?}"
        );
    }
    assert_eq!(run(["train", "digits", "--resume"]).code, 2);
}

#[test]
fn checkpoints_of_tensorflow_are_listed_and_converted() {
    let dir = tempfile::tempdir().unwrap();
    let from = bundle().join("all");
    let listed: Value = serde_json::from_str(good(&run(["inspect", text(&from), "--json"]))).unwrap();
    assert_eq!(listed["format"], "tensorflow-v2");
    let rows = listed["tensors"].as_array().unwrap();
    let of = |name: &str| rows.iter().find(|r| r["name"] == name).unwrap();
    assert_eq!(rows.len(), 20);
    assert_eq!(
        (&of("float32")["dtype"], &of("float32")["bytes"]),
        (&"float32".into(), &24.into())
    );
    assert_eq!(of("parted")["slices"][1], "3,4:0,4");

    let to = dir.path().join("new/model");
    good(&run(["checkpoint", "convert", text(&from), text(&to)]));
    let index = format!("{}.manifest.json", to.display());
    let shown = run(["checkpoint", "list", &index]);
    let shown = good(&shown);
    assert!(
        shown.contains("20 tensors") && shown.contains("format actorflow"),
        "{shown}"
    );
    assert!(
        shown
            .lines()
            .any(|l| l.split_whitespace().collect::<Vec<_>>() == ["wide", "int8", "[200,70]", "14000"])
    );
    good(&run(["checkpoint", "verify", text(&to)]));

    let first = run(["inspect", text(&bundle().join("v1"))]);
    assert!(
        good(&first).contains("4 tensors") && good(&first).contains("tensorflow-v1"),
        "{first:?}"
    );

    let ran = run(["checkpoint", "list", text(&dir.path().join("nothing"))]);
    assert!(
        ran.code == 1 && ran.stderr.contains("NOT_FOUND") && ran.stderr.contains("nothing"),
        "{ran:?}"
    );
    let ran = run(["inspect", text(&to), "--svg", "x.svg"]);
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[test]
fn a_graph_is_run_with_the_variables_of_a_checkpoint() {
    use actorflow::checkpoint::{Location, Writer};
    use actorflow::graphdef::export_graph;
    use actorflow::{Graph, GraphVariables, Tensor};

    let dir = tempfile::tempdir().unwrap();
    let g = Graph::new();
    let v = g.variable("v", Tensor::from([1f32, 2.0])).unwrap();
    let y = g.op("Neg").input(v.value()).name("y").finish().unwrap();
    assert_eq!(y.name(), "y");
    let graph = dir.path().join("graph.pb");
    fs::write(&graph, export_graph(&g).unwrap()).unwrap();
    let prefix = dir.path().join("m.ckpt-7");
    let mut w = Writer::new(Location::of(text(&prefix)).unwrap());
    w.add(b"v", &Tensor::from([5f32, 6.0])).unwrap();
    w.finish().unwrap();

    let ran = run(["run", text(&graph), "--restore", text(&prefix), "--fetch", "y"]);
    assert_eq!(good(&ran), "y float32[2]\n[-5.0, -6.0]\n");
    let ran = run([
        "run",
        text(&graph),
        "--restore",
        text(&bundle().join("two")),
        "--fetch",
        "y",
    ]);
    assert!(ran.code == 1 && ran.stderr.contains("Key v not found"), "{ran:?}");
    let ran = run(["run", text(&graph), "--restore", "nowhere", "--fetch", "y"]);
    assert!(ran.code == 1 && ran.stderr.contains("no checkpoint nowhere"), "{ran:?}");
}
