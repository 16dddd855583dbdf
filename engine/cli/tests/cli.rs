//! The `actorflow` command as people and scripts use it: exit codes, error lines, results.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod command;

use std::fs;
use std::path::{Path, PathBuf};

use actorflow::graphdef::export_graph;
use actorflow::npy::{read_npy_file, write_npy_file};
use actorflow::{DType, Graph, GraphVariables, PartialShape, Tensor};
use command::{Ran, run};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with `graph.pb`: `y = x * x + v` with a variable `v` of initial value 10 and the initialiser `init`.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        let g = Graph::new();
        let x = g
            .placeholder("x", DType::F32, PartialShape::vector(None))
            .expect("a graph in a folder");
        let v = g.variable("v", Tensor::scalar(10f32)).expect("a graph in a folder");
        let square = x.times(&x).expect("a graph in a folder");
        let y = g
            .op("AddV2")
            .input(&square)
            .input(v.value())
            .name("y")
            .finish()
            .expect("a graph in a folder");
        assert_eq!(y.name(), "y");
        g.group("init", &[v.initializer().clone()])
            .expect("a graph in a folder");
        let folder = Folder(tempfile::tempdir().expect("a graph in a folder"));
        fs::write(folder.path("graph.pb"), export_graph(&g).expect("a graph in a folder"))
            .expect("a graph in a folder");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `actorflow run graph.pb` with more arguments.
    fn run(&self, args: &[&str]) -> Ran {
        let graph = self.path("graph.pb");
        run(["run", graph.to_str().expect("a path that is text")].iter().chain(args))
    }
}

/// A failure with this code is one line on stderr that has all the parts, and nothing on stdout.
#[track_caller]
fn fails(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    assert!(
        ran.stderr.starts_with("error: ") && ran.stderr.ends_with('\n'),
        "{ran:?}"
    );
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "{part:?} is missing in {ran:?}");
    }
    assert_eq!(ran.stdout, "");
}

#[track_caller]
fn succeeds(ran: &Ran) -> &str {
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    &ran.stdout
}

#[test]
fn help_explains_every_command_and_misuse_is_code_2() {
    let help = run(["--help"]);
    let text = succeeds(&help);
    for command in ["run", "inspect", "ops", "conformance"] {
        assert!(text.contains(command), "{text}");
        let own = run([command, "--help"]);
        assert!(succeeds(&own).contains("Usage: actorflow"), "{own:?}");
    }
    assert!(!text.contains("worker"), "the child process is nobody's command");
    assert!(succeeds(&run(["--version"])).starts_with("actorflow 0."));
    for args in [&[][..], &["nonsense"], &["run"], &["ops", "--nonsense"]] {
        let ran = run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{ran:?}");
        assert!(ran.stderr.contains("Usage"), "{ran:?}");
    }
}

#[test]
fn run_computes_literals_and_files() {
    let f = Folder::new();
    let ran = f.run(&["--init", "init", "--feed", "x=[1, 2]", "--fetch", "y"]);
    assert_eq!(succeeds(&ran), "y float32[2]\n[11.0, 14.0]\n");
    let (input, output) = (f.path("in.npy"), f.path("out.npy"));
    write_npy_file(&input, &Tensor::vector(&[3f32])).unwrap();
    let feed = format!("x:0={}", input.display());
    let fetch = format!("y:0={}", output.display());
    let grad = "--grad=y/x";
    let args = [
        "--init=init",
        "--feed",
        &feed,
        "--fetch",
        &fetch,
        grad,
        "--json",
        "--no-passes",
        "--threads=2",
    ];
    let ran = f.run(&args);
    let result: Value = serde_json::from_str(succeeds(&ran)).unwrap();
    assert_eq!(read_npy_file(&output).unwrap(), Tensor::vector(&[19f32]));
    let fetches = result["fetches"].as_array().unwrap();
    assert_eq!(fetches[0]["file"], output.to_str().unwrap());
    assert_eq!(fetches[1]["name"], "d y:0 / d x:0");
    assert_eq!(fetches[1]["value"], serde_json::json!([6.0]));
    assert_eq!(fetches[1]["dtype"], "float32");
    assert!(result["seconds"].is_number());
    let ran = f.run(&["--init", "init", "--target", "v/Read"]);
    assert_eq!(succeeds(&ran), "");
}

#[test]
fn failures_of_a_run_name_the_thing() {
    let f = Folder::new();
    fails(&f.run(&[]), 2, &["--fetch"]);
    fails(&f.run(&["--fetch", "Y"]), 1, &["NOT_FOUND", "\"Y\"", "did you mean y"]);
    fails(&f.run(&["--fetch", "y:3"]), 1, &["no output 3"]);
    fails(&f.run(&["--feed", "x", "--fetch", "y"]), 2, &["NAME=VALUE"]);
    fails(
        &f.run(&["--feed", "x=[1,oops]", "--fetch", "y"]),
        2,
        &["oops", "float32"],
    );
    fails(
        &f.run(&["--feed", "x=[[1]]", "--fetch", "y"]),
        1,
        &["INVALID_ARGUMENT", "[1,1]", "node x"],
    );
    fails(
        &f.run(&["--feed", "x=/no/file.npy", "--fetch", "y"]),
        1,
        &["NOT_FOUND", "/no/file.npy"],
    );
    fails(
        &f.run(&["--feed", "x=[1]", "--fetch", "y"]),
        1,
        &["FAILED_PRECONDITION", "v"],
    );
    fails(&f.run(&["--init", "init", "--fetch", "y"]), 1, &["feed", "node x"]);
    fails(&f.run(&["--grad", "y"]), 1, &["Y/X"]);
    fails(&f.run(&["--grad", "init/x"]), 1, &["Y/X"]);
    fails(&f.run(&["--fetch", "y=a.npy", "--fetch", "x=a.npy"]), 2, &["same file"]);
    fails(&run(["run", "/no/graph.pb", "--fetch", "y"]), 1, &["/no/graph.pb"]);
    fs::write(f.path("graph.pb"), b"\x0a\xffgarbage").unwrap();
    fails(&f.run(&["--fetch", "y"]), 1, &["graph.pb", "INVALID_ARGUMENT"]);
}

#[test]
fn ops_lists_what_the_engine_has() {
    let table = run(["ops"]);
    let text = succeeds(&table);
    let row = text.lines().find(|l| l.starts_with("MatMul ")).unwrap();
    for part in ["matrix", "CPU", "yes"] {
        assert!(row.contains(part), "{row}");
    }
    let ran = run(["ops", "--json", "--filter", "Mat?ul", "--filter", "Const"]);
    let rows: Value = serde_json::from_str(succeeds(&ran)).unwrap();
    let names: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Const", "MatMul"]);
    assert_eq!(
        (&rows[0]["differentiable"], &rows[1]["differentiable"]),
        (&false.into(), &true.into())
    );
    assert_eq!(rows[1]["category"], "matrix");
    let attributes = rows[1]["attributes"].as_array().unwrap();
    let transpose = attributes.iter().find(|a| a["name"] == "transpose_a").unwrap();
    assert_eq!(
        (&transpose["type"], &transpose["default"]),
        (&"bool".into(), &false.into())
    );
}

#[test]
fn inspect_says_what_is_in_a_graph_and_draws_it() {
    let f = Folder::new();
    let path = |name: &str| f.path(name).to_str().unwrap().to_owned();
    let (graph, dot, svg) = (path("graph.pb"), path("a.dot"), path("a.svg"));
    let ran = run(["inspect", &graph, "--dot", &dot, "--svg", &svg]);
    let text = succeeds(&ran);
    for part in [
        "placeholders:\n  x  float32[?]",
        "variables:\n  v  float32[]",
        "unsupported: nothing",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(fs::read_to_string(&dot).unwrap().starts_with("digraph"));
    let picture = fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    let ran = run(["inspect", &graph, "--json"]);
    let summary: Value = serde_json::from_str(succeeds(&ran)).unwrap();
    assert_eq!(summary["placeholders"][0]["shape"], serde_json::json!([null]));
    assert_eq!(summary["operations"]["AddV2"], 1);
    assert_eq!(summary["unsupported"], serde_json::json!([]));
    fails(&run(["inspect", "/no/graph.pb"]), 1, &["/no/graph.pb"]);
}

/// Copies the bundled cases `names` into a new folder.
fn copy_cases(names: &[&str]) -> TempDir {
    let to = tempfile::tempdir().expect("a copy of the case");
    for name in names {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/data/oracle")
            .join(name);
        fs::create_dir(to.path().join(name)).expect("a copy of the case");
        for entry in fs::read_dir(from).expect("a copy of the case") {
            let file = entry.expect("a copy of the case").path();
            fs::copy(
                &file,
                to.path().join(name).join(file.file_name().expect("a copy of the case")),
            )
            .expect("a copy of the case");
        }
    }
    to
}

fn conformance(dir: &Path, args: &[&str]) -> Ran {
    run(["conformance", dir.to_str().expect("a copy of the case")]
        .iter()
        .chain(args))
}

#[test]
fn conformance_counts_what_passes_and_says_what_fails() {
    let dir = copy_cases(&["binary.greater", "binary.mul_i32", "matrix.matmul_10"]);
    let ran = conformance(dir.path(), &[]);
    assert_eq!(succeeds(&ran), "3 passed, 0 failed\n");
    let ran = conformance(
        &dir.path().join("binary.greater"),
        &["--no-passes", "--threads", "1", "--jobs", "1"],
    );
    assert_eq!(succeeds(&ran), "1 passed, 0 failed\n", "a case by itself");

    let wrong = dir.path().join("binary.mul_i32");
    let right = read_npy_file(wrong.join("r0_0.npy")).unwrap();
    write_npy_file(
        wrong.join("r0_0.npy"),
        &Tensor::zeros(DType::I32, right.shape()).unwrap(),
    )
    .unwrap();
    fs::write(dir.path().join("binary.greater/graph.pb"), b"garbage").unwrap();
    let report = dir.path().join("report.json");
    let ran = conformance(dir.path(), &["--json", report.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(
        lines[0].starts_with("FAIL binary.greater: import: INVALID_ARGUMENT"),
        "{ran:?}"
    );
    assert!(lines[1].starts_with("FAIL binary.mul_i32: run 0: Mul:0: "), "{ran:?}");
    assert!(lines[1].contains("elements differ; the worst, at ["), "{ran:?}");
    assert_eq!(lines[2], "1 passed, 2 failed");
    let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(
        (report["passed"].as_u64(), report["failed"].as_u64()),
        (Some(1), Some(2))
    );
    assert_eq!(report["cases"][2]["name"], "matrix.matmul_10");

    let ran = conformance(dir.path(), &["--filter", "matrix.*"]);
    assert_eq!(succeeds(&ran), "1 passed, 0 failed\n");
    fails(&conformance(dir.path(), &["--filter", "nothing*"]), 2, &["no case"]);
    fails(&conformance(Path::new("/no/such/folder"), &[]), 2, &["/no/such/folder"]);
}

/// A model that TensorFlow wrote.
fn model(which: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../src/saved_model/testdata")
        .join(which)
}

#[test]
fn a_saved_models_signatures_are_shown_with_dtypes_and_shapes() {
    let dir = model("tf2");
    let dir = dir.to_str().unwrap();
    let ran = run(["inspect", dir]);
    let text = succeeds(&ran);
    for part in [
        "{serve}",
        "signature lookup",
        "k: string[?]",
        "x: float32[?,4]",
        "y: float32[?,3]",
        "unsupported: nothing",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let file = format!("{dir}/saved_model.pb");
    assert_eq!(
        succeeds(&run(["inspect", &file])),
        text,
        "the file stands for its folder"
    );
    let ran = run(["inspect", dir, "--json"]);
    let json: Value = serde_json::from_str(succeeds(&ran)).unwrap();
    let x = &json["graphs"][0]["signatures"]["serving_default"]["inputs"]["x"];
    assert_eq!(x["dtype"], "float32");
    assert_eq!(x["shape"], serde_json::json!([null, 4]));
    fails(&run(["inspect", "/nowhere/at/all"]), 1, &["/nowhere/at/all"]);
}

#[test]
fn a_signature_of_a_saved_model_runs() {
    let folder = tempfile::tempdir().unwrap();
    for which in ["v1", "tf2"] {
        let dir = model(which);
        let file = folder.path().join("y.npy");
        let input = format!("x={}", dir.join("x.npy").display());
        let output = format!("y={}", file.display());
        let args = ["--signature", "serving_default", "--input", &input, "--output", &output];
        let dir_text = dir.to_str().unwrap();
        succeeds(&run(["run", "--saved-model", dir_text].iter().chain(&args)));
        let (got, want) = (read_npy_file(&file).unwrap(), read_npy_file(dir.join("y.npy")).unwrap());
        assert_eq!(got.shape(), want.shape());
        let pairs = got
            .as_slice::<f32>()
            .unwrap()
            .iter()
            .zip(want.as_slice::<f32>().unwrap());
        assert!(
            pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5),
            "{got} is not {want}"
        );
    }
    let dir = model("tf2");
    let dir = dir.to_str().unwrap();
    let words = r#"k=["b", "c"]"#;
    let ran = run([
        "run",
        "--saved-model",
        dir,
        "--signature",
        "lookup",
        "--input",
        words,
        "--json",
    ]);
    let json: Value = serde_json::from_str(succeeds(&ran)).unwrap();
    assert_eq!(json["fetches"][0]["value"], serde_json::json!([2, -1]));
}

#[test]
fn mistakes_about_a_saved_model_say_what_there_is() {
    let dir = model("tf2");
    let model = |args: &[&str]| run(["run", "--saved-model", dir.to_str().unwrap()].iter().chain(args));
    fails(
        &model(&["--signature", "train"]),
        1,
        &["\"train\"", "lookup", "serving_default"],
    );
    fails(&model(&["--tag", "gpu"]), 1, &["{gpu}", "{serve}"]);
    fails(&model(&[]), 1, &["serving_default", "\"x\"", "float32[?,4]"]);
    fails(&model(&["--input", "q=1"]), 1, &["\"q\"", "{x}"]);
    fails(&model(&["--input", "x"]), 2, &["NAME=VALUE"]);
    assert_eq!(model(&["--feed", "x=1"]).code, 2);
}
