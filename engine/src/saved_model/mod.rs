//! TensorFlow's SavedModel folders: a graph, its variables, and named ways to use it.
//!
//! [`SavedModel::load`] imports the graph with the given tags, restores its variables and runs its initialisation, as
//! TensorFlow's own loader does; [`SavedModel::run`] runs a signature. [`SavedModelFile`] reads what a folder holds
//! without running anything.
//!
//! Models of both of TensorFlow's generations load: what differs (how variables are restored, where the
//! initialisation is named) is in the graph itself.

#![forbid(unsafe_code)]

mod file;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use crate::graphdef::proto::collection_def::Kind;
use crate::graphdef::proto::tensor_info::Encoding;
use crate::graphdef::proto::{GraphDef, MetaGraphDef};
use crate::graphdef::{ImportOptions, import_into, unsupported};
use crate::session::{Session, SessionOptions};
use actorflow_core::{Error, Graph, Operation, Output, PartialShape, Result, Tensor};

pub use file::{MetaGraph, SavedModelFile, Signature, TensorSpec};

/// A model that is ready to run.
pub struct SavedModel {
    session: Session,
    graph: Graph,
    signatures: BTreeMap<String, Signature>,
    /// Whether parts of the graph were left out because the engine lacks their operations.
    reduced: bool,
}

impl SavedModel {
    /// Loads the graph with exactly these tags, or the only graph if none are given.
    ///
    /// If the engine lacks operations that neither a signature, nor restoring, nor initialising needs (such as those
    /// that save the model again), the graph is loaded without them.
    ///
    /// # Errors
    /// Naming the file: as [`SavedModelFile::read`] and [`import_into`]; `NOT_FOUND` for tags that no graph has;
    /// `INVALID_ARGUMENT` if what restores or initialises is not in the graph; what those runs return, such as
    /// `DATA_LOSS` for damaged variables.
    pub fn load(dir: impl AsRef<Path>, tags: &[&str]) -> Result<SavedModel> {
        SavedModel::load_with(dir, tags, SessionOptions::default())
    }

    /// [`load`](Self::load), with a session of these options.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(dir: impl AsRef<Path>, tags: &[&str], options: SessionOptions) -> Result<SavedModel> {
        let dir = dir.as_ref();
        let file = SavedModelFile::read(dir)?;
        let meta = file.graph(tags)?;
        let model = build(dir, meta, options);
        model.map_err(|e| e.context(dir.join(file::MODEL).display().to_string()))
    }

    /// The session with the model's variables.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The ways to use the model, by name.
    pub fn signatures(&self) -> &BTreeMap<String, Signature> {
        &self.signatures
    }

    /// Whether the graph was loaded without operations that the engine lacks and no signature needs.
    pub fn is_reduced(&self) -> bool {
        self.reduced
    }

    /// The signature of that name.
    ///
    /// # Errors
    /// `NOT_FOUND` that lists those there are.
    pub fn signature(&self, name: &str) -> Result<&Signature> {
        self.signatures.get(name).ok_or_else(|| {
            Error::not_found(format!(
                "the model has no signature {name:?}; it has {}",
                file::list(self.signatures.keys())
            ))
        })
    }

    /// Runs a signature: inputs and outputs by the names that it gives them.
    ///
    /// # Errors
    /// `NOT_FOUND` for a signature that does not exist; `INVALID_ARGUMENT` for inputs that are missing, unknown, or
    /// of another dtype or shape than the signature says; what the run returns.
    pub fn run(&self, signature: &str, inputs: &[(&str, Tensor)]) -> Result<BTreeMap<String, Tensor>> {
        let s = self.signature(signature)?;
        let outputs: Vec<&str> = s.outputs.keys().map(String::as_str).collect();
        let values = self.fetch(signature, inputs, &outputs)?;
        Ok(s.outputs.keys().cloned().zip(values).collect())
    }

    /// [`run`](Self::run) for some of the signature's outputs, in the given order; only what these need is computed.
    ///
    /// # Errors
    /// As [`run`](Self::run); `INVALID_ARGUMENT` for an output that the signature does not have.
    pub fn fetch(&self, signature: &str, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>> {
        let s = self.signature(signature)?;
        let about = |e: Error| e.context(format!("signature {signature:?}"));
        let mut runner = self.session.runner();
        for (name, value) in self.feeds(s, inputs).map_err(about)? {
            runner = runner.feed(&name, value);
        }
        for name in outputs {
            let Some(spec) = s.outputs.get(*name) else {
                return Err(about(unknown("output", name, s.outputs.keys())));
            };
            runner = runner.fetch(&self.graph.output(&spec.tensor).map_err(about)?);
        }
        if outputs.is_empty() {
            return Ok(Vec::new());
        }
        runner.run().map_err(about)
    }

    fn feeds(&self, s: &Signature, inputs: &[(&str, Tensor)]) -> Result<Vec<(Output, Tensor)>> {
        let mut given: HashMap<&str, &Tensor> = HashMap::with_capacity(inputs.len());
        for (name, value) in inputs {
            if !s.inputs.contains_key(*name) {
                return Err(unknown("input", name, s.inputs.keys()));
            }
            if given.insert(name, value).is_some() {
                return Err(Error::invalid(format!("the input {name:?} is given twice")));
            }
        }
        let mut feeds = Vec::with_capacity(s.inputs.len());
        for (name, spec) in &s.inputs {
            let Some(value) = given.get(name.as_str()).copied().or(spec.default.as_ref()) else {
                return Err(Error::invalid(format!(
                    "the input {name:?} ({spec}) is missing; the inputs are {}",
                    file::list(s.inputs.keys())
                )));
            };
            if spec.dtype.is_some_and(|t| t != value.dtype()) {
                return Err(Error::invalid(format!(
                    "the input {name:?} must be {spec}, got {}{}",
                    value.dtype(),
                    value.shape()
                )));
            }
            if spec.shape.merge(&PartialShape::from(value.shape())).is_err() {
                return Err(Error::invalid(format!(
                    "the input {name:?} must have shape {}, got {}",
                    spec.shape,
                    value.shape()
                )));
            }
            feeds.push((self.graph.output(&spec.tensor)?, value.clone()));
        }
        Ok(feeds)
    }
}

impl std::fmt::Debug for SavedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SavedModel({:?}, signatures {})",
            self.graph,
            file::list(self.signatures.keys())
        )
    }
}

fn unknown<'n>(what: &str, name: &str, known: impl IntoIterator<Item = &'n String>) -> Error {
    Error::invalid(format!(
        "there is no {what} {name:?}; the {what}s are {}",
        file::list(known)
    ))
}

/// What is run once, when a model is loaded.
struct Start {
    /// The operation that restores, and the tensor that holds the name of the checkpoint.
    restore: Option<(String, String)>,
    init: Option<String>,
}

impl Start {
    fn of(meta: &MetaGraphDef) -> Start {
        let restore = meta
            .saver_def
            .as_ref()
            .filter(|s| !s.restore_op_name.is_empty())
            .map(|s| (node_of(&s.restore_op_name).to_owned(), s.filename_tensor_name.clone()));
        let by_signature = || {
            let outputs = &meta.signature_def.get(file::INIT)?.outputs;
            match &outputs.get(file::INIT)?.encoding {
                Some(Encoding::Name(n)) => Some(n.clone()),
                _ => None,
            }
        };
        let by_collection = |key: &str| match &meta.collection_def.get(key)?.kind {
            Some(Kind::NodeList(l)) => l.value.first().cloned(),
            _ => None,
        };
        let init = by_signature()
            .or_else(|| by_collection("saved_model_main_op"))
            .or_else(|| by_collection("legacy_init_op"));
        Start {
            restore,
            init: init.map(|n| node_of(&n).to_owned()),
        }
    }
}

fn build(dir: &Path, meta: &MetaGraph, options: SessionOptions) -> Result<SavedModel> {
    let none = GraphDef::default();
    let def = meta.def.graph_def.as_ref().unwrap_or(&none);
    let start = Start::of(&meta.def);
    // What reads files refuses names with "..", which a relative path of the caller may well have.
    let dir = &std::fs::canonicalize(dir).map_err(|e| Error::not_found(format!("{}: {e}", dir.display())))?;
    let variables = dir.join("variables").join("variables");
    let stored = dir.join("variables").join("variables.index").exists();
    let restore = start.restore.filter(|_| stored);
    let reduced = !unsupported(def).is_empty();
    let def = match reduced {
        false => Cow::Borrowed(def),
        true => {
            let tensors = meta
                .signatures
                .values()
                .flat_map(|s| s.inputs.values().chain(s.outputs.values()));
            let mut roots: Vec<&str> = tensors.map(|t| node_of(&t.tensor)).collect();
            roots.extend(meta.assets.iter().map(|(tensor, _)| node_of(tensor)));
            if let Some((op, file)) = &restore {
                roots.extend([op.as_str(), node_of(file)]);
            }
            roots.extend(start.init.as_deref());
            Cow::Owned(needed(def, roots))
        }
    };
    let graph = Graph::new();
    import_into(&graph, &def, &ImportOptions::new())?;
    let session = Session::with_options(&graph, options)?;
    let mut files: Vec<(Output, Tensor)> = Vec::new();
    for (tensor, name) in &meta.assets {
        let path = dir.join("assets").join(name);
        files.push((graph.output(tensor)?, text(&path)?));
    }
    let run = |op: &str, what: &str, more: Option<(Output, Tensor)>| -> Result<()> {
        let op: Operation = graph.operation(op).map_err(|e| e.context(format!("what {what}")))?;
        let mut runner = session.runner().target(&op);
        for (output, value) in files.iter().cloned().chain(more) {
            runner = runner.feed(&output, value);
        }
        runner
            .run()
            .map(drop)
            .map_err(|e| e.context(format!("{what} the model")))
    };
    if let Some((op, file)) = &restore {
        let file = graph
            .output(file)
            .map_err(|e| e.context("the name of the checkpoint"))?;
        run(op, "restores", Some((file, text(&variables)?)))?;
    }
    if let Some(op) = &start.init {
        run(op, "initialises", None)?;
    }
    Ok(SavedModel {
        session,
        graph,
        signatures: meta.signatures.clone(),
        reduced,
    })
}

/// A path as a tensor.
fn text(path: &Path) -> Result<Tensor> {
    match path.to_str() {
        Some(p) => Ok(Tensor::string(p.to_owned())),
        None => Err(Error::invalid(format!("the path {} is no UTF-8 text", path.display()))),
    }
}

fn node_of(tensor: &str) -> &str {
    tensor.trim_start_matches('^').split(':').next().unwrap_or(tensor)
}

/// The nodes of `def` that `roots` need, and the library.
fn needed<'n>(def: &'n GraphDef, mut roots: Vec<&'n str>) -> GraphDef {
    let nodes: HashMap<&str, usize> = def.node.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let mut kept: HashSet<usize> = HashSet::new();
    while let Some(name) = roots.pop() {
        let Some(&i) = nodes.get(name) else { continue };
        if kept.insert(i) {
            roots.extend(def.node[i].input.iter().map(|t| node_of(t)));
        }
    }
    let mut some = def.clone();
    let mut at = 0;
    some.node.retain(|_| {
        at += 1;
        kept.contains(&(at - 1))
    });
    for node in &mut some.node {
        // A node may ask to be beside one that is gone.
        if let Some(class) = node.attr.get("_class")
            && !beside(class).all(|n| nodes.get(n).is_some_and(|i| kept.contains(i)))
        {
            node.attr.remove("_class");
        }
    }
    some
}

/// The nodes that a `_class` attribute names.
fn beside(class: &crate::graphdef::proto::AttrValue) -> impl Iterator<Item = &str> {
    use crate::graphdef::proto::attr_value::Value;
    let items = match &class.value {
        Some(Value::List(l)) => l.s.as_slice(),
        _ => &[],
    };
    items
        .iter()
        .filter_map(|s| std::str::from_utf8(s).ok()?.strip_prefix("loc:@"))
}
