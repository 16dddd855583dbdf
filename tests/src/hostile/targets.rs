//! What is done with a file: it is read, and what comes of it is run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use actorflow::checkpoint::Reader;
use actorflow::graphdef::import_graph;
use actorflow::graphdef::proto::GraphDef;
use actorflow::op::registry;
use actorflow::{Code, Error, Graph, GraphVariables, SavedModel, Saver, SaverOptions, Session, SessionOptions, Tensor};
use prost::Message;
use tempfile::TempDir;

use crate::repo;

use super::damage;
use super::dice::Dice;
use super::seeds;

/// Bytes that the tensors of a run may take together.
const BUDGET: usize = 64 << 20;
/// How long a run may take before its deadline.
const DEADLINE: Duration = Duration::from_millis(300);
/// Operations that touch files, wait, print or end the program on purpose: they are read, not run.
const NOT_RUN: [&str; 12] = [
    "Abort",
    "Print",
    "PrintV2",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "Save",
    "SaveSlices",
    "SaveV2",
    "MergeV2Checkpoints",
    "SummaryWriter",
    "WriteSummary",
];

/// A kind of file, with the files to begin from.
pub enum Target {
    /// A `GraphDef`: imported, and its last nodes are fetched.
    Graph {
        /// Graphs, the shortest first, then those that were made to do harm.
        seeds: Vec<Vec<u8>>,
        /// The names of all operations.
        ops: Vec<&'static str>,
    },
    /// A file of a folder: the folder is loaded.
    Folder {
        /// The files that are damaged, relative to the folder.
        files: Vec<PathBuf>,
        /// The folder, with all files as they are.
        folder: TempDir,
        /// Loads it; the error, if there is one.
        load: fn(&Path) -> Option<Error>,
    },
}

/// The names of the targets.
pub const NAMES: [&str; 4] = ["graph", "saved_model", "bundle", "checkpoint"];

fn options() -> SessionOptions {
    SessionOptions {
        memory_budget: BUDGET,
        stall_timeout: Duration::from_millis(200),
        ..SessionOptions::with_threads(1)
    }
}

/// Copies a folder's files, with those of its folders.
fn copy(from: &Path, to: &Path, files: &mut Vec<PathBuf>, top: &Path) {
    std::fs::create_dir_all(to).expect("a folder for files");
    for entry in std::fs::read_dir(from).expect("a folder of test data") {
        let path = entry.expect("an entry of test data").path();
        let target = to.join(path.file_name().expect("a file"));
        if path.is_dir() {
            copy(&path, &target, files, top);
        } else {
            std::fs::copy(&path, &target).expect("a copy of test data");
            files.push(target.strip_prefix(top).expect("a path in the folder").to_owned());
        }
    }
    files.sort();
}

fn load_model(folder: &Path) -> Option<Error> {
    ["v1", "tf2"]
        .into_iter()
        .find_map(|model| SavedModel::load_with(folder.join(model), &[], options()).err())
}

fn load_bundle(folder: &Path) -> Option<Error> {
    ["v1", "tf2"]
        .into_iter()
        .find_map(|model| read(&folder.join(model).join("variables/variables")))
}

fn load_checkpoint(folder: &Path) -> Option<Error> {
    read(&folder.join("model.ckpt-7"))
}

/// Reads every tensor of a checkpoint.
fn read(prefix: &Path) -> Option<Error> {
    let reader = match Reader::open(&prefix.display().to_string()) {
        Ok(reader) => reader,
        Err(e) => return Some(e),
    };
    let names: Vec<String> = reader.entries().keys().cloned().collect();
    names.iter().find_map(|name| reader.tensor(name).err())
}

impl Target {
    /// The target of this name.
    pub fn new(name: &str) -> Target {
        if name == "graph" {
            let mut graphs = seeds::sound();
            graphs.extend(seeds::kept().into_iter().map(|(_, bytes)| bytes));
            return Target::Graph {
                seeds: graphs,
                ops: registry().iter().map(|op| op.name()).collect(),
            };
        }
        let folder = tempfile::tempdir().expect("a scratch folder");
        let mut files = Vec::new();
        let load = match name {
            "checkpoint" => {
                save(&folder.path().join("model.ckpt"));
                for entry in std::fs::read_dir(folder.path()).expect("the scratch folder") {
                    files.push(PathBuf::from(
                        entry.expect("an entry of the scratch folder").file_name(),
                    ));
                }
                // The directory's state names checkpoints; reading one does not need it.
                files.retain(|file| file.as_os_str() != "checkpoint");
                files.sort();
                load_checkpoint
            }
            _ => {
                let data = repo::root().join("engine/src/saved_model/testdata");
                copy(&data, folder.path(), &mut files, folder.path());
                let is_bundle = name == "bundle";
                files.retain(|f| match f.extension().and_then(|e| e.to_str()) {
                    Some("npy") => false,
                    Some("pb") => !is_bundle,
                    // A vocabulary may have any lines.
                    Some("txt") => false,
                    _ => is_bundle,
                });
                if is_bundle { load_bundle } else { load_model }
            }
        };
        Target::Folder { files, folder, load }
    }

    /// The file that follows from a seed, and which file of a folder it takes the place of.
    pub fn mutant(&self, seed: u64) -> (usize, Vec<u8>) {
        let mut dice = Dice::new(seed);
        match self {
            Target::Graph { seeds, ops } => {
                // The shorter a graph, the more can be tried.
                let at = dice.below(seeds.len()).min(dice.below(seeds.len()));
                let whole = &seeds[at];
                let changed = match dice.below(4) {
                    0 => None,
                    _ => damage::graph(whole, ops, &mut dice),
                };
                let bytes = changed.unwrap_or_else(|| {
                    let mut bytes = whole.clone();
                    damage::bytes(&mut bytes, &mut dice);
                    bytes
                });
                (at, bytes)
            }
            Target::Folder { files, .. } => {
                let at = dice.below(files.len());
                let mut bytes = self.whole(at);
                damage::bytes(&mut bytes, &mut dice);
                (at, bytes)
            }
        }
    }

    /// How many files there are to begin from.
    pub fn count(&self) -> usize {
        match self {
            Target::Graph { seeds, .. } => seeds.len(),
            Target::Folder { files, .. } => files.len(),
        }
    }

    /// One of them, as it is.
    pub fn whole(&self, at: usize) -> Vec<u8> {
        match self {
            Target::Graph { seeds, .. } => seeds[at].clone(),
            Target::Folder { files, folder, .. } => {
                std::fs::read(folder.path().join(&files[at])).expect("a file of the scratch folder")
            }
        }
    }

    /// Reads a file, in the place of one of those to begin from; the error that it gives, if it gives one.
    ///
    /// # Panics
    /// If the error is `INTERNAL`, which says that an invariant is broken.
    pub fn run(&self, at: usize, bytes: Vec<u8>) -> Option<Error> {
        let error = match self {
            Target::Graph { .. } => return run_graph(bytes),
            Target::Folder { files, folder, load } => {
                let path = folder.path().join(&files[at]);
                let whole = std::fs::read(&path).expect("a file of the scratch folder");
                std::fs::write(&path, bytes).expect("the scratch folder is writable");
                let error = load(folder.path());
                std::fs::write(&path, whole).expect("the scratch folder is writable");
                error
            }
        };
        no_broken_invariant(error)
    }
}

fn no_broken_invariant(error: Option<Error>) -> Option<Error> {
    if let Some(e) = &error {
        assert_ne!(e.code(), Code::Internal, "{e}");
    }
    error
}

/// Imports a graph and fetches its last nodes; the first error.
///
/// # Panics
/// As [`Target::run`].
pub fn run_graph(bytes: Vec<u8>) -> Option<Error> {
    no_broken_invariant(import_and_run(bytes))
}

fn save(path: &Path) {
    let g = Graph::new();
    let made = || -> actorflow::Result<()> {
        g.variable("w", Tensor::from([[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]]))?;
        g.variable("n", 7i64)?;
        g.variable("words", Tensor::strings([2], vec!["one", "two"])?)?;
        let saver = Saver::new(&g, SaverOptions::default())?;
        let session = Session::with_options(&g, options())?;
        session.execute(&[&g.global_variables_initializer()?])?;
        saver.save(&session, &path.display().to_string(), Some(7)).map(drop)
    };
    made().expect("a checkpoint in the scratch folder");
}

fn import_and_run(bytes: Vec<u8>) -> Option<Error> {
    let def = GraphDef::decode(&bytes[..]).unwrap_or_default();
    let functions = def.library.iter().flat_map(|l| &l.function).flat_map(|f| &f.node_def);
    let harmless = def.node.iter().chain(functions).all(|n| !NOT_RUN.contains(&&*n.op));
    let imported = match import_graph(bytes) {
        Ok(imported) => imported,
        Err(e) => return Some(e),
    };
    if !harmless {
        return None;
    }
    let session = match Session::with_options(&imported.graph, options()) {
        Ok(session) => session,
        Err(e) => return Some(e),
    };
    let mut first = None;
    for op in imported.operations.iter().rev().take(3) {
        let run = session.runner().timeout(DEADLINE);
        let error = match op.outputs().first() {
            Some(output) => run.fetch(output).run().err(),
            None => run.target(op).run().err(),
        };
        first = first.or(no_broken_invariant(error));
    }
    first
}
