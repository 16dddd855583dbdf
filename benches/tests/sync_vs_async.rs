//! `actorflow-bench sync-vs-async` as people run it: small comparisons, and what is left of them.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn bench() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actorflow-bench"));
    command.arg("sync-vs-async");
    command
}

fn run(flags: &str, out: &Path) -> Output {
    let output = bench()
        .args(flags.split_whitespace())
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// Sees that every file is there and sound; the results.
fn check(out: &Path, pictures: &[&str]) -> Value {
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(!html.contains("http"), "the report needs something from elsewhere");
    assert_eq!(html.matches("<svg").count(), pictures.len());
    for name in pictures {
        let svg = fs::read_to_string(out.join(format!("{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{name}");
        assert!(
            !svg.contains("NaN") && !svg.contains("inf"),
            "{name} has a number that is none"
        );
        let png = fs::read(out.join(format!("{name}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 5000, "{name}");
    }
    let markdown = fs::read_to_string(out.join("results.md")).unwrap();
    assert!(markdown.contains("| strategy"));
    let results: Value = serde_json::from_str(&fs::read_to_string(out.join("results.json")).unwrap()).unwrap();
    let rows = results["rows"].as_array().unwrap().len();
    let csv = fs::read_to_string(out.join("results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + rows);
    results
}

fn rows<'a>(results: &'a Value, source: &str) -> Vec<&'a Value> {
    let all = results["rows"].as_array().unwrap().iter();
    all.filter(|r| r["source"] == source).collect()
}

/// The end of a run's curve.
fn last(row: &Value) -> &Value {
    row["curve"].as_array().and_then(|c| c.last()).unwrap()
}

const PICTURES: [&str; 8] = [
    "throughput",
    "accuracy-time",
    "accuracy-examples",
    "loss-time",
    "loss-examples",
    "staleness",
    "waiting",
    "timeline",
];

#[test]
fn processes_are_compared_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("results");
    let output = run(
        "--workers 2 --ps 1 --strategies async,sync,allreduce,hybrid2x2 --steps 60 --batch 8 --repeat 2",
        &out,
    );
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("| strategy") && table.contains("Not run: hybrid2x2"),
        "{table}"
    );
    assert!(table.contains("medians of 2 runs"), "{table}");
    let results = check(&out, &PICTURES);
    assert_eq!(results["mode"], "processes");
    let rows = rows(&results, "measured");
    assert_eq!(rows.len(), 3);
    // With the same seed and data, both make the same model, bit for bit.
    let of = |strategy: &str| rows.iter().find(|r| r["strategy"] == strategy).unwrap();
    let (sync, all_reduce) = (of("sync"), of("allreduce"));
    for (what, same) in [
        ("test_accuracy", sync["test_accuracy"] == all_reduce["test_accuracy"]),
        ("loss", last(sync)["loss"] == last(all_reduce)["loss"]),
        ("accuracy", last(sync)["accuracy"] == last(all_reduce)["accuracy"]),
    ] {
        assert!(same, "{what}: {sync} and {all_reduce}");
    }
    for r in rows {
        assert_eq!(r["errors"], Value::Array(vec![]));
        let updates = if r["strategy"] == "async" { 60 } else { 30 };
        assert_eq!(r["updates"], updates, "{}", r["strategy"]);
        let rate = r["examples_per_second"].as_f64().unwrap();
        assert!(rate > 0.0);
        let rates = r["repeats"]["examples_per_second"].as_array().unwrap();
        assert_eq!((r["repeats"]["runs"].as_u64(), rates.len()), (Some(2), 2));
        assert!(rates[0].as_f64().unwrap() <= rate && rate <= rates[1].as_f64().unwrap());
        assert!(r["bytes"].as_u64().unwrap() > 0);
        // Asynchronous workers get somewhere, the others always to the same place.
        let (least, most) = (&r["repeats"]["test_accuracy"][0], &r["repeats"]["test_accuracy"][1]);
        if r["strategy"] == "async" {
            assert!(least.as_f64().unwrap() > 0.3, "{r}");
        } else {
            assert!(least == most && least.as_f64().unwrap() > 0.75, "{r}");
        }
        let workers = r["per_worker"].as_array().unwrap();
        assert_eq!(workers.len(), 2);
        assert!(workers.iter().all(|w| w["computing_seconds"].as_f64().unwrap() > 0.0));
        assert!(r["curve"].as_array().unwrap().len() > 10);
        let counted: u64 = r["staleness"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_u64().unwrap())
            .sum();
        assert!(counted > 0);
    }
}

#[test]
fn a_slow_network_and_a_killed_worker_are_compared_with_the_clean_run() {
    let dir = tempfile::tempdir().unwrap();
    let flags = "--repeat 1 --workers 2 --strategies async --steps 600 --compute 2ms --delay 1@5ms --kill 1@40% --restart 100ms --batch 4";
    run(flags, dir.path());
    let mut pictures = PICTURES.to_vec();
    pictures.push("others");
    let results = check(dir.path(), &pictures);
    let rows = rows(&results, "measured");
    assert_eq!(rows.len(), 2);
    let (clean, wrong) = (rows[0], rows[1]);
    assert_eq!(
        (clean["injected"].as_str(), wrong["injected"].as_str()),
        (Some(""), Some("delay 1@5ms, kill 1@40%"))
    );
    let deaths = wrong["deaths"].as_array().unwrap();
    assert_eq!(deaths.len(), 1);
    assert!(deaths[0]["back"].as_f64().unwrap() > deaths[0]["at"].as_f64().unwrap());
    assert!(wrong["others_of_clean"].as_f64().unwrap() > 0.0);
    assert_eq!(wrong["updates"], 600);
    // Both ways of the network are slower for worker 1: so is its step.
    let step = |r: &Value, w: usize| r["per_worker"][w]["median_step_seconds"].as_f64().unwrap();
    assert!(
        step(wrong, 1) - step(wrong, 0) > 0.008,
        "{} {}",
        step(wrong, 1),
        step(wrong, 0)
    );
}

#[test]
fn a_killed_worker_comes_back_where_the_others_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let flags = "--repeat 1 --workers 3 --strategies sync,allreduce --steps 450 --compute 2ms --kill 1@40% --restart 100ms --batch 4";
    run(flags, dir.path());
    let mut pictures = PICTURES.to_vec();
    pictures.push("others");
    let results = check(dir.path(), &pictures);
    let wrong: Vec<&Value> = rows(&results, "measured")
        .into_iter()
        .filter(|r| r["injected"] != "")
        .collect();
    assert_eq!(wrong.len(), 2);
    for r in wrong {
        assert_eq!(
            (&r["errors"], &r["updates"]),
            (&Value::Array(vec![]), &Value::from(150)),
            "{}",
            r["strategy"]
        );
        assert_eq!(r["deaths"].as_array().unwrap().len(), 1);
        assert!(r["deaths"][0]["back"].as_f64().is_some());
    }
}

#[test]
fn a_run_that_nobody_is_left_of_is_no_row_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let flags =
        "--repeat 1 --workers 1 --strategies async --steps 400 --compute 2ms --kill 0@30% --restart never --batch 4";
    run(flags, dir.path());
    // Nobody is left whose rate could be compared.
    let results = check(dir.path(), &PICTURES);
    let all = rows(&results, "measured");
    let dead = all.iter().find(|r| r["injected"] != "").unwrap();
    let error = dead["errors"][0].as_str().unwrap();
    assert!(error.contains("of 400 updates, as no worker was left"), "{error}");
    assert!(dead["test_accuracy"].is_null(), "{dead}");
}

#[test]
fn threads_are_compared_and_more_of_them_simulated() {
    let dir = tempfile::tempdir().unwrap();
    let flags = "--repeat 1 --in-process --workers 2 --strategies async,sync+backup1,ssp2 --steps 80 --dataset synthetic --model softmax \
                 --straggler 1@3x --simulate --simulate-workers 2,10000";
    run(flags, dir.path());
    let mut pictures = PICTURES.to_vec();
    pictures.push("others");
    let results = check(dir.path(), &pictures);
    assert_eq!(results["mode"], "threads");
    assert_eq!(rows(&results, "measured").len(), 6);
    let simulated = rows(&results, "simulated");
    assert!(simulated.iter().any(|r| r["workers"] == 10_000));
    assert!(
        simulated
            .iter()
            .all(|r| r["examples_per_second"].as_f64().unwrap() > 0.0)
    );
    assert!(rows(&results, "measured").iter().all(|r| r["bytes"].is_null()));
    let html = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(html.contains(">simulated<") && html.contains(">measured<"));
    assert!(
        fs::read_to_string(dir.path().join("throughput.svg"))
            .unwrap()
            .contains("stroke-dasharray")
    );
}

#[test]
fn what_is_simulated_agrees_with_what_is_measured_where_both_are() {
    let dir = tempfile::tempdir().unwrap();
    // Steps sleep, so that neither the number of cores nor what else runs here decides.
    let flags = "--in-process --workers 1,2 --strategies async,sync --steps 120 --dataset synthetic --model softmax --compute 8ms \
                 --repeat 1 --simulate --simulate-workers 1,2";
    run(flags, dir.path());
    let results = check(dir.path(), &PICTURES);
    let rate = |source: &str, strategy: &str, workers: u64| -> f64 {
        let of = |r: &&&Value| r["strategy"] == strategy && r["workers"] == workers;
        let all = rows(&results, source);
        all.iter().find(of).unwrap()["examples_per_second"].as_f64().unwrap()
    };
    for strategy in ["async", "sync"] {
        for workers in [1, 2] {
            let ratio = rate("simulated", strategy, workers) / rate("measured", strategy, workers);
            assert!(
                (0.6..1.7).contains(&ratio),
                "{strategy}, {workers} workers: {ratio} times"
            );
        }
    }
}

#[test]
fn json_is_a_row_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(
        "--json --in-process --workers 1 --strategies sync --steps 20",
        dir.path(),
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["strategy"], "sync");
}

#[test]
fn wrong_uses_end_with_code_2_and_what_cannot_be_written_with_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |flags: &str| {
        let output = bench().args(flags.split_whitespace()).output().unwrap();
        assert!(output.stdout.is_empty());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (flags, says) in [
        ("--strategies foo", "hybrid2x2"),
        ("--dataset foo", "mnist5k"),
        ("--workers 2 --straggler 2@5x", "there is no worker 2"),
        ("--in-process --kill 1@50%", "need processes"),
        ("--only nothing", "no run's name contains"),
        ("--samples 3", "does not take --samples: --repeat N"),
        ("--window 0.1", "does not take --window"),
        ("--nodes 2", "does not take --nodes"),
        ("--passes none", "does not take --passes"),
        ("--threads 0", "0 is not in"),
        ("--simulate-workers 5", "--simulate"),
        ("--restart 2s", "--kill"),
        ("--straggler 1@5x --straggler 1@7x", "--straggler names worker 1 twice"),
        ("--model softmax --hidden 64", "--hidden does nothing"),
    ] {
        let (code, text) = fails(flags);
        assert_eq!(code, Some(2), "{flags}: {text}");
        assert!(text.contains(says), "{flags}: {text}");
    }
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, text) = fails(&format!("--out {}/x", file.display()));
    assert_eq!(code, Some(1));
    assert!(text.contains("results cannot be written to"), "{text}");
}

/// The processes whose command line has this word.
fn with_word(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if command.contains(word) {
            found.push(command.replace('\0', " "));
        }
    }
    found
}

#[test]
fn an_interrupted_comparison_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    // Its tasks' command lines have the name of a folder there.
    let mut child = bench()
        .args("--workers 2 --strategies sync --compute 20ms --epochs 1000 --out".split_whitespace())
        .arg(dir.path().join("results"))
        .env("TMPDIR", dir.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let word = format!("{}/actorflow-bench-", dir.path().display());
    let begun = Instant::now();
    while with_word(&word).len() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the tasks do not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(with_word(&word), Vec::<String>::new());
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["results"]);
}
