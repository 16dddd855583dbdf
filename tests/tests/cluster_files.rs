//! What the graphs of others may do at a task: which files they may touch, and how large they may be.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use std::path::Path;

use actorflow::cluster::ServerOptions;
use actorflow::{Code, DType, Error, Graph, Operation, Output, Result, Session, Tensor};
use cluster::{Cluster, options};

/// One task, which runs what clients submit.
struct Task(Cluster);

impl Task {
    fn new(with: impl Fn(&mut ServerOptions)) -> Task {
        Task(Cluster::with(&[("ps", 0)], with).unwrap())
    }

    /// Runs a graph of a client on the task.
    fn session(&self, g: &Graph) -> Session {
        self.0.connect(g, 0)
    }

    fn fetch(&self, g: &Graph, y: &Output) -> Result<Tensor> {
        self.session(g).run(&[], &[y]).map(|mut v| v.remove(0))
    }

    fn execute(&self, g: &Graph, op: &Operation) -> Result<()> {
        self.session(g).execute(&[op])
    }

    fn read(&self, path: &str) -> Result<Tensor> {
        let g = Graph::new();
        let _task = g.device_scope("/job:ps/task:0");
        let name = g.constant(path).unwrap();
        self.fetch(&g, &g.op("ReadFile").input(&name).output().unwrap())
    }

    fn matching(&self, pattern: &str) -> Result<Tensor> {
        let g = Graph::new();
        let _task = g.device_scope("/job:ps/task:0");
        let name = g.constant(pattern).unwrap();
        self.fetch(&g, &g.op("MatchingFiles").input(&name).output().unwrap())
    }

    fn write(&self, path: &str) -> Result<()> {
        let g = Graph::new();
        let _task = g.device_scope("/job:ps/task:0");
        let (name, text) = (g.constant(path).unwrap(), g.constant("text").unwrap());
        self.execute(
            &g,
            &g.op("WriteFile")
                .input(&name)
                .input(&text)
                .name("note")
                .finish()
                .unwrap(),
        )
    }

    fn save(&self, prefix: &str) -> Result<()> {
        let g = Graph::new();
        let _task = g.device_scope("/job:ps/task:0");
        let strings = |s: &str| g.constant(Tensor::strings([1], vec![s.to_owned()]).unwrap()).unwrap();
        let value = g.constant([1f32, 2.0]).unwrap();
        let save = g.op("SaveV2").input(&g.constant(prefix).unwrap());
        let save = save.input(&strings("x")).input(&strings("")).input_list(&[value]);
        self.execute(&g, &save.finish().unwrap())
    }

    fn restore(&self, prefix: &str) -> Result<Tensor> {
        let g = Graph::new();
        let _task = g.device_scope("/job:ps/task:0");
        let strings = |s: &str| g.constant(Tensor::strings([1], vec![s.to_owned()]).unwrap()).unwrap();
        let restore = g.op("RestoreV2").input(&g.constant(prefix).unwrap());
        let restore = restore.input(&strings("x")).input(&strings(""));
        let restore = restore.attr("dtypes", vec![DType::F32]).finish().unwrap();
        self.fetch(&g, &restore.output(0).unwrap())
    }

    /// The first line of a file, by a reader that takes its work from a queue.
    fn line(&self, path: &str) -> Result<Tensor> {
        let g = Graph::new();
        let _task = g.device_scope("/job:ps/task:0");
        let queue = g.op("FIFOQueueV2").attr("component_types", vec![DType::Str]);
        let queue = queue.attr("shared_name", format!("{path} queue")).output().unwrap();
        let reader = g.op("TextLineReaderV2").attr("shared_name", path).output().unwrap();
        let name = g.constant(path).unwrap();
        let fill = g
            .op("QueueEnqueueV2")
            .input(&queue)
            .input_list(&[name])
            .finish()
            .unwrap();
        let read = g.op("ReaderReadV2").input(&reader).input(&queue).finish().unwrap();
        let s = self.session(&g);
        s.execute(&[&fill])?;
        s.run(&[], &[&read.output(1).unwrap()]).map(|mut v| v.remove(0))
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn denied<T>(r: Result<T>) -> Error {
    let e = r.err().expect("a file was touched that the task does not allow");
    assert_eq!(e.code(), Code::PermissionDenied, "{e}");
    e
}

#[test]
fn graphs_touch_files_only_in_the_directories_that_their_task_allows() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    for folder in ["in", "ro", "out"] {
        std::fs::create_dir(at(folder)).unwrap();
        std::fs::write(at(&format!("{folder}/f")), "first\nsecond\n").unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(at("out"), at("in/link")).unwrap();
    let task = Task::new(|o| o.directories = vec![at("in"), at("ro") + ":ro"]);

    task.write(&at("in/new/note")).unwrap();
    assert_eq!(task.read(&at("in/new/note")).unwrap(), Tensor::from("text"));
    task.save(&at("in/ck")).unwrap();
    assert_eq!(task.restore(&at("in/ck")).unwrap(), Tensor::from([1f32, 2.0]));
    assert_eq!(task.line(&at("ro/f")).unwrap(), Tensor::from("first"));
    let found = task.matching(&at("in/*")).unwrap();
    let found = found.as_strings().unwrap();
    assert!(found.iter().any(|f| **f == *at("in/f").as_bytes()), "{found:?}");
    assert!(!found.iter().any(|f| **f == *at("in/link").as_bytes()), "{found:?}");

    for path in [
        at("out/f"),
        format!("file://{}", at("out/f")),
        at("in/link/f"),
        at("in"),
        at("none"),
    ] {
        let what = task.read(&path).unwrap_err();
        // The allowed directory itself is no file.
        let want = if path == at("in") {
            Code::FailedPrecondition
        } else {
            Code::PermissionDenied
        };
        assert_eq!(what.code(), want, "{what}");
    }
    let e = denied(task.write(&at("out/note")));
    assert_eq!((e.node(), e.task()), (Some("note"), Some("/job:ps/task:0")), "{e}");
    for part in [at("out/note"), at("in"), "--allow-dir".to_owned()] {
        assert!(e.message().contains(&part), "{e}");
    }
    denied(task.write(&at("ro/note")));
    denied(task.save(&at("out/ck")));
    denied(task.save(&at("ro/ck")));
    denied(task.restore(&at("out/ck")));
    denied(task.line(&at("out/f")));
    denied(task.matching(&at("out/*")));
    let left = |folder: &str| std::fs::read_dir(at(folder)).unwrap().count();
    assert_eq!((left("out"), left("ro")), (1, 1));
}

#[test]
fn a_task_that_allows_no_directory_lets_graphs_touch_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("f"));
    std::fs::write(&path, "x").unwrap();
    let task = Task::new(|_| {});
    denied(task.read(&path));
    denied(task.write(&path));
    denied(task.save(&path));
    // A local session is the program's own.
    let g = Graph::new();
    let y = g
        .op("ReadFile")
        .input(&g.constant(path.as_str()).unwrap())
        .output()
        .unwrap();
    let s = Session::with_options(&g, options()).unwrap();
    assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from("x"));
}

#[test]
fn a_task_does_not_start_with_a_directory_that_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let none = text(&dir.path().join("none"));
    let e = Cluster::with(&[("ps", 0)], |o| o.directories = vec![none.clone()]);
    let e = e.err().unwrap();
    assert_eq!(e.code(), Code::NotFound, "{e}");
    assert!(e.message().contains(&none), "{e}");
}

#[test]
fn a_graph_that_is_too_large_for_its_task_is_refused() {
    let task = Task::new(|o| (o.max_nodes, o.max_graph_bytes) = (50, 1 << 20));
    let chain = |nodes: usize| {
        let g = Graph::new();
        let _task = g.device_scope("/job:ps/task:0");
        let x = g.placeholder("x", DType::F32, [Some(1)]).unwrap();
        let mut y = x.clone();
        for _ in 0..nodes {
            y = y.square().unwrap();
        }
        let s = task.session(&g);
        s.run(&[(&x, Tensor::from([1f32]))], &[&y]).map(|mut v| v.remove(0))
    };
    assert_eq!(chain(20).unwrap(), Tensor::from([1f32]));
    let e = chain(100).unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
    assert!(e.message().contains("max_nodes"), "{e}");

    let g = Graph::new();
    let _task = g.device_scope("/job:ps/task:0");
    let large: Vec<f32> = (0..1 << 20).map(|i| i as f32).collect();
    let y = g.constant(Tensor::from(large)).unwrap().square().unwrap();
    let e = task.fetch(&g, &y).unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
    assert!(e.message().contains("max_graph_bytes"), "{e}");
}
