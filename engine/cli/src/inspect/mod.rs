//! `actorflow inspect`: what is in a TensorFlow graph.

mod dot;
mod layout;
mod model;
mod picture;
mod svg;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use actorflow::graphdef::attrs::shape_from_message;
use actorflow::graphdef::decode::{DecodeLimits, decode_graph};
use actorflow::graphdef::proto::{GraphDef, NodeDef, attr_value::Value};
use actorflow::graphdef::{ImportOptions, Unsupported, import_into, unsupported};
use actorflow::{DType, Graph};
use serde::Serialize;

use crate::checkpoint;
use crate::failure::Failure;
use picture::Picture;

/// Show what is in a TensorFlow graph or SavedModel, and draw it.
///
/// Lists operations, placeholders, variables, what nothing consumes, and what this engine lacks. The exit code is 0
/// also if the engine cannot run the graph.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A serialized GraphDef, the folder of a SavedModel, or the prefix of a checkpoint, whose tensors are listed
    #[arg(value_name = "GRAPH.pb|DIR|CHECKPOINT")]
    graph: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the graph in Graphviz's language
    #[arg(long, value_name = "FILE")]
    dot: Option<PathBuf>,
    /// Draw the graph
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Serialize)]
struct Summary {
    bytes: usize,
    nodes: usize,
    edges: usize,
    control_edges: usize,
    /// The version of the graph format of the program that wrote the file.
    producer: i32,
    /// Bytes of all constants, as far as they are stored as raw contents.
    constant_bytes: usize,
    operations: BTreeMap<String, usize>,
    placeholders: Vec<Tensor>,
    variables: Vec<Tensor>,
    /// Nodes that no other node takes data from.
    outputs: Vec<String>,
    devices: BTreeSet<String>,
    functions: Vec<String>,
    unsupported: Vec<Missing>,
    /// Why the graph cannot be imported, apart from what is unsupported.
    error: Option<String>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    op: String,
    dtype: String,
    shape: Option<Vec<Option<usize>>>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct Missing {
    operation: String,
    nodes: usize,
    example: String,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // A model is named by its folder or by the file in it; "" is the folder that the command runs in.
    let folder = match args.graph.parent() {
        Some(dir) if args.graph.file_name().is_some_and(|n| n == "saved_model.pb") => dir,
        _ => args.graph.as_path(),
    };
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let drawn = args.dot.is_some() || args.svg.is_some();
    let prefix = match folder.join("saved_model.pb").exists() {
        true => None,
        false => args.graph.to_str().map(checkpoint::prefix_of).transpose()?.flatten(),
    };
    if let Some(prefix) = prefix {
        if drawn {
            return Err(Failure::Usage(format!(
                "{prefix} is a checkpoint, which has no graph to draw"
            )));
        }
        return checkpoint::list(&prefix, args.json);
    }
    if folder.is_dir() {
        if drawn {
            return Err(Failure::Usage(
                "a SavedModel has no one graph to draw: name a GraphDef".into(),
            ));
        }
        return model::run(folder, args.json);
    }
    let named = |e: String| Failure::Failed(format!("{}: {e}", args.graph.display()));
    let bytes = std::fs::read(&args.graph).map_err(|e| named(e.to_string()))?;
    let size = bytes.len();
    let def = decode_graph(bytes.into(), &DecodeLimits::default()).map_err(|e| named(e.to_string()))?;
    let summary = summarize(&def, size);
    if args.dot.is_some() || args.svg.is_some() {
        let picture = Picture::new(&def);
        let write = |file: &PathBuf, text: String| {
            std::fs::write(file, text).map_err(|e| Failure::Failed(format!("{}: {e}", file.display())))
        };
        if let Some(file) = &args.dot {
            write(file, dot::draw(&picture))?;
        }
        if let Some(file) = &args.svg {
            write(file, svg::draw(&picture))?;
        }
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&summary)?)?;
    } else {
        print(&mut out, &args.graph.display().to_string(), &summary)?;
    }
    Ok(())
}

fn summarize(def: &GraphDef, bytes: usize) -> Summary {
    let missing = unsupported(def);
    let error = match missing.is_empty() {
        true => import_into(&Graph::new(), def, &ImportOptions::new())
            .err()
            .map(|e| e.to_string()),
        false => None,
    };
    let mut operations = BTreeMap::new();
    let mut consumed = BTreeSet::new();
    let (mut edges, mut control_edges) = (0, 0);
    for node in &def.node {
        *operations.entry(node.op.clone()).or_insert(0) += 1;
        for input in &node.input {
            if input.starts_with('^') {
                control_edges += 1;
            } else {
                edges += 1;
                consumed.insert(input.split(':').next().unwrap_or(input));
            }
        }
    }
    let is_variable = |n: &&NodeDef| matches!(n.op.as_str(), "Variable" | "VariableV2" | "VarHandleOp");
    let no_output = |n: &&NodeDef| {
        let op = actorflow::op::registry().find(&n.op);
        op.is_some_and(|op| op.outputs().is_empty())
    };
    Summary {
        bytes,
        nodes: def.node.len(),
        edges,
        control_edges,
        producer: def.versions.as_ref().map_or(0, |v| v.producer),
        constant_bytes: def.node.iter().map(constant_bytes).sum(),
        operations,
        placeholders: def
            .node
            .iter()
            .filter(|n| n.op.starts_with("Placeholder"))
            .map(tensor)
            .collect(),
        variables: def.node.iter().filter(is_variable).map(tensor).collect(),
        outputs: def
            .node
            .iter()
            .filter(|n| !consumed.contains(n.name.as_str()) && !no_output(n))
            .map(|n| n.name.clone())
            .collect(),
        devices: def
            .node
            .iter()
            .filter(|n| !n.device.is_empty())
            .map(|n| n.device.clone())
            .collect(),
        functions: def
            .library
            .iter()
            .flat_map(|l| &l.function)
            .filter_map(|f| Some(f.signature.as_ref()?.name.clone()))
            .collect(),
        unsupported: missing
            .into_iter()
            .map(|Unsupported { what, node, count }| Missing {
                operation: what,
                nodes: count,
                example: node,
            })
            .collect(),
        error,
    }
}

fn constant_bytes(node: &NodeDef) -> usize {
    match node.attr.get("value").and_then(|v| v.value.as_ref()) {
        Some(Value::Tensor(t)) => {
            t.tensor_content.len() + t.string_val.iter().map(|s| s.len()).sum::<usize>() + 4 * t.float_val.len()
        }
        _ => 0,
    }
}

/// The dtype and shape that a placeholder or variable declares.
fn tensor(node: &NodeDef) -> Tensor {
    let attr = |name: &str| node.attr.get(name).and_then(|v| v.value.as_ref());
    let dtype = match attr("dtype") {
        Some(Value::Type(t)) => DType::from_tf(*t).map_or_else(|_| format!("dtype {t}"), |d| d.name().to_owned()),
        _ => "?".to_owned(),
    };
    let shape = match attr("shape") {
        Some(Value::Shape(s)) => shape_from_message(s).unwrap_or_default(),
        _ => Default::default(),
    };
    Tensor {
        name: node.name.clone(),
        op: node.op.clone(),
        text: format!("{dtype}{shape}"),
        dtype,
        shape: shape.dims().map(<[Option<usize>]>::to_vec),
    }
}

fn print(out: &mut impl Write, file: &str, s: &Summary) -> std::io::Result<()> {
    writeln!(
        out,
        "{file}: {} nodes of {} operations, {} data and {} control edges, {} bytes ({} of constants), format {}",
        s.nodes,
        s.operations.len(),
        s.edges,
        s.control_edges,
        s.bytes,
        s.constant_bytes,
        s.producer
    )?;
    writeln!(out, "operations:")?;
    let mut by_count: Vec<_> = s.operations.iter().collect();
    by_count.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
    for (name, n) in by_count {
        writeln!(out, "  {n:6}  {name}")?;
    }
    for (title, tensors) in [("placeholders", &s.placeholders), ("variables", &s.variables)] {
        if !tensors.is_empty() {
            writeln!(out, "{title}:")?;
        }
        for t in tensors {
            writeln!(out, "  {}  {}  ({})", t.name, t.text, t.op)?;
        }
    }
    for (title, names) in [
        ("outputs that nothing consumes", s.outputs.iter().collect::<Vec<_>>()),
        ("devices", s.devices.iter().collect()),
        ("functions", s.functions.iter().collect()),
    ] {
        if !names.is_empty() {
            writeln!(out, "{title}:")?;
        }
        for n in names {
            writeln!(out, "  {n}")?;
        }
    }
    match s.unsupported.is_empty() {
        true => writeln!(out, "unsupported: nothing")?,
        false => writeln!(out, "unsupported:")?,
    }
    for m in &s.unsupported {
        writeln!(out, "  {:6}  {}  (for example {})", m.nodes, m.operation, m.example)?;
    }
    if let Some(e) = &s.error {
        writeln!(out, "cannot be imported: {e}")?;
    }
    Ok(())
}
