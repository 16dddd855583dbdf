//! What is in a SavedModel folder.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use actorflow::graphdef::proto::GraphDef;
use actorflow::saved_model::{SavedModelFile, Signature, TensorSpec};
use serde::Serialize;

use super::{Summary, summarize};
use crate::failure::Failure;

#[derive(Serialize)]
struct Model {
    graphs: Vec<Graph>,
}

#[derive(Serialize)]
struct Graph {
    tags: Vec<String>,
    tensorflow: String,
    signatures: BTreeMap<String, Way>,
    assets: Vec<String>,
    graph: Summary,
}

#[derive(Serialize)]
struct Way {
    method: String,
    inputs: BTreeMap<String, Tensor>,
    outputs: BTreeMap<String, Tensor>,
}

#[derive(Serialize)]
struct Tensor {
    tensor: String,
    dtype: Option<&'static str>,
    shape: Option<Vec<Option<usize>>>,
    /// Whether an input need not be given.
    has_default: bool,
    #[serde(skip)]
    text: String,
}

impl From<&TensorSpec> for Tensor {
    fn from(s: &TensorSpec) -> Self {
        Tensor {
            tensor: s.tensor.clone(),
            dtype: s.dtype.map(|t| t.name()),
            shape: s.shape.dims().map(<[Option<usize>]>::to_vec),
            has_default: s.default.is_some(),
            text: s.to_string(),
        }
    }
}

impl From<&Signature> for Way {
    fn from(s: &Signature) -> Self {
        let tensors = |specs: &BTreeMap<String, TensorSpec>| specs.iter().map(|(n, t)| (n.clone(), t.into())).collect();
        Way {
            method: s.method.clone(),
            inputs: tensors(&s.inputs),
            outputs: tensors(&s.outputs),
        }
    }
}

/// Shows the graphs and signatures of a folder.
pub(super) fn run(dir: &Path, as_json: bool) -> Result<(), Failure> {
    let file = SavedModelFile::read(dir)?;
    let none = GraphDef::default();
    let graphs = file.graphs.iter().map(|g| Graph {
        tags: g.tags.iter().cloned().collect(),
        tensorflow: g.written_by.clone(),
        signatures: g.signatures.iter().map(|(n, s)| (n.clone(), s.into())).collect(),
        assets: g.assets().map(str::to_owned).collect(),
        graph: {
            let def = g.graph_def().unwrap_or(&none);
            summarize(def, actorflow::graphdef::encoded_len(def))
        },
    });
    let model = Model {
        graphs: graphs.collect(),
    };
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&model)?)?;
        return Ok(());
    }
    for g in &model.graphs {
        print(&mut out, &dir.display().to_string(), g)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, dir: &str, g: &Graph) -> std::io::Result<()> {
    writeln!(
        out,
        "{dir}: SavedModel with the tags {{{}}}, written by TensorFlow {}",
        g.tags.join(", "),
        g.tensorflow
    )?;
    for (name, s) in &g.signatures {
        writeln!(out, "signature {name} ({})", s.method)?;
        for (title, tensors) in [("input ", &s.inputs), ("output", &s.outputs)] {
            for (name, t) in tensors {
                let optional = if t.has_default { ", has a default" } else { "" };
                writeln!(out, "  {title}  {name}: {}  (tensor {}{optional})", t.text, t.tensor)?;
            }
        }
    }
    if !g.assets.is_empty() {
        writeln!(out, "assets: {}", g.assets.join(", "))?;
    }
    super::print(out, "graph", &g.graph)
}
