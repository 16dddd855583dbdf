//! `actorflow run`: one run of a TensorFlow graph from the command line.

mod json;
mod literal;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use actorflow::graphdef::import_graph;
use actorflow::npy::{read_npy_file, write_npy_file};
use actorflow::{Graph, Operation, Output, Passes, Session, SessionOptions, Tensor, gradients};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Run a TensorFlow graph: feed tensors, fetch tensors, differentiate.
///
/// Tensors are named as in TensorFlow: `node:output`, or `node` for output 0.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    actorflow run model.pb --feed x=input.npy --fetch softmax=probabilities.npy\n  \
    actorflow run model.pb --init init --feed 'x=[[1, 2], [3, 4]]' --fetch loss --grad loss/w --json")]
pub(crate) struct Args {
    /// A serialized GraphDef
    #[arg(value_name = "GRAPH.pb")]
    graph: PathBuf,
    /// Give a tensor: an .npy file, or a literal such as 2.5, '[[1, 2], [3, 4]]', true or text
    #[arg(long, value_name = "NAME=VALUE")]
    feed: Vec<String>,
    /// Compute a tensor and print it, or write it to an .npy file
    #[arg(long, value_name = "NAME[=OUT.npy]")]
    fetch: Vec<String>,
    /// Run an operation for its effects
    #[arg(long, value_name = "OP")]
    target: Vec<String>,
    /// Compute the gradient of Y (of the sum of its elements) with respect to X
    #[arg(long, value_name = "Y/X[=OUT.npy]")]
    grad: Vec<String>,
    /// Run an operation before everything else, such as the initializer of the variables; in the given order
    #[arg(long, value_name = "OP")]
    init: Vec<String>,
    /// How many threads may compute [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Run the graph as it is, without folding, merging or fusing
    #[arg(long)]
    no_passes: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// A tensor that was asked for.
struct Wanted {
    /// As it was asked for.
    name: String,
    output: Output,
    file: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.fetch.is_empty() && args.target.is_empty() && args.grad.is_empty() && args.init.is_empty() {
        return Err(Failure::Usage(
            "nothing to run: give at least one --fetch, --target, --grad or --init".into(),
        ));
    }
    let graph = load(&args.graph)?;
    let feeds = args
        .feed
        .iter()
        .map(|f| feed(&graph, f))
        .collect::<Result<Vec<_>, _>>()?;
    let operations =
        |names: &[String]| -> Result<Vec<Operation>, Failure> { names.iter().map(|n| operation(&graph, n)).collect() };
    let (targets, inits) = (operations(&args.target)?, operations(&args.init)?);
    let mut wanted = Vec::new();
    for text in &args.fetch {
        let (name, file) = with_file(text);
        let output = output(&graph, name)?;
        wanted.push(Wanted {
            name: name.to_owned(),
            output,
            file,
        });
    }
    for text in &args.grad {
        wanted.push(gradient(&graph, text)?);
    }
    let files: BTreeSet<_> = wanted.iter().filter_map(|w| w.file.as_ref()).collect();
    if files.len() < wanted.iter().filter(|w| w.file.is_some()).count() {
        return Err(Failure::Usage("two tensors are to be written to the same file".into()));
    }
    let mut options = match args.threads {
        Some(n) => SessionOptions::with_threads(n.max(1)),
        None => SessionOptions::default(),
    };
    if args.no_passes {
        options.passes = Passes::NONE;
    }
    let session = Session::with_options(&graph, options)?;
    let deadline = deadline(args.timeout)?;
    let start = Instant::now();
    for op in &inits {
        limited(&session, deadline).target(op).run()?;
    }
    let values = match wanted.is_empty() && targets.is_empty() {
        true => Vec::new(),
        false => {
            let mut runner = limited(&session, deadline);
            for (output, value) in &feeds {
                runner = runner.feed(output, value);
            }
            for op in &targets {
                runner = runner.target(op);
            }
            for w in &wanted {
                runner = runner.fetch(&w.output);
            }
            runner.run()?
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    report(&wanted, &values, seconds, args.json)
}

fn deadline(timeout: Option<f64>) -> Result<Option<Instant>, Failure> {
    let Some(seconds) = timeout else {
        return Ok(None);
    };
    let at = Duration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|d| Instant::now().checked_add(d));
    match at {
        Some(at) => Ok(Some(at)),
        None => Err(Failure::Usage(format!("--timeout {seconds} is no number of seconds"))),
    }
}

fn limited(session: &Session, deadline: Option<Instant>) -> actorflow::Runner<'_> {
    match deadline {
        Some(at) => session.runner().deadline(at),
        None => session.runner(),
    }
}

/// Reads and imports a graph.
fn load(path: &Path) -> Result<Graph, Failure> {
    let named = |e: String| Failure::Failed(format!("{}: {e}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| named(e.to_string()))?;
    Ok(import_graph(bytes).map_err(|e| named(e.to_string()))?.graph)
}

/// Splits `name=file.npy`.
fn with_file(text: &str) -> (&str, Option<PathBuf>) {
    match text.split_once('=') {
        Some((name, file)) => (name, Some(PathBuf::from(file))),
        None => (text, None),
    }
}

fn feed(graph: &Graph, text: &str) -> Result<(Output, Tensor), Failure> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(Failure::Usage(format!(
            "--feed {text:?} must be NAME=FILE.npy or NAME=VALUE"
        )));
    };
    let output = output(graph, name)?;
    let tensor = match value.ends_with(".npy") {
        true => read_npy_file(value)?,
        false => literal::parse(value, output.dtype())
            .map_err(|e| Failure::Usage(format!("--feed {name}: {e} (it is {})", output.dtype())))?,
    };
    Ok((output, tensor))
}

fn output(graph: &Graph, name: &str) -> Result<Output, Failure> {
    graph.output(name).map_err(|e| unknown(graph, name, &e))
}

fn operation(graph: &Graph, name: &str) -> Result<Operation, Failure> {
    graph.operation(name).map_err(|e| unknown(graph, name, &e))
}

/// The error of a name that the graph does not have, with names that it might mean.
fn unknown(graph: &Graph, name: &str, e: &actorflow::Error) -> Failure {
    let asked = name.split(':').next().unwrap_or(name).to_ascii_lowercase();
    let near: Vec<String> = graph
        .nodes()
        .iter()
        .filter(|n| {
            let n = n.name().to_ascii_lowercase();
            !asked.is_empty() && (n.contains(&asked) || asked.contains(&n))
        })
        .map(|n| n.name().to_owned())
        .take(3)
        .collect();
    match near.is_empty() {
        true => Failure::Failed(e.to_string()),
        false => Failure::Failed(format!("{e}; did you mean {}?", near.join(", "))),
    }
}

/// Adds the gradient that `y/x` asks for. Names contain slashes themselves, so every slash is tried.
fn gradient(graph: &Graph, text: &str) -> Result<Wanted, Failure> {
    let (pair, file) = with_file(text);
    let found: Vec<(Output, Output)> = pair
        .match_indices('/')
        .filter_map(|(i, _)| Some((graph.output(&pair[..i]).ok()?, graph.output(&pair[i + 1..]).ok()?)))
        .collect();
    let (y, x) = match found.as_slice() {
        [one] => one,
        [] => {
            return Err(Failure::Failed(format!(
                "--grad {pair:?} must be Y/X with two tensors of the graph, such as loss:0/weights:0"
            )));
        }
        [(y, x), (y2, x2), ..] => {
            return Err(Failure::Usage(format!(
                "--grad {pair:?} can mean {} by {} or {} by {}; write the outputs' numbers",
                y.name(),
                x.name(),
                y2.name(),
                x2.name()
            )));
        }
    };
    let grads = gradients(std::slice::from_ref(y), std::slice::from_ref(x))?;
    match grads.into_iter().flatten().next() {
        Some(g) => Ok(Wanted {
            name: format!("d {} / d {}", y.name(), x.name()),
            output: g.to_dense()?,
            file,
        }),
        None => Err(Failure::Failed(format!("{} does not depend on {}", y.name(), x.name()))),
    }
}

fn report(wanted: &[Wanted], values: &[Tensor], seconds: f64, as_json: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut rows = Vec::new();
    for (w, value) in wanted.iter().zip(values) {
        if let Some(file) = &w.file {
            write_npy_file(file, value)?;
        }
        if as_json {
            let mut row = json!({
                "name": w.name,
                "dtype": value.dtype().name(),
                "shape": value.shape().dims(),
            });
            match &w.file {
                Some(file) => row["file"] = json!(file),
                None => row["value"] = json::nested(value)?,
            }
            rows.push(row);
            continue;
        }
        let what = format!("{} {}{}", w.name, value.dtype(), value.shape());
        match &w.file {
            Some(file) => writeln!(out, "{what} -> {}", file.display())?,
            None => writeln!(out, "{what}\n{value}")?,
        }
    }
    if as_json {
        let object: Value = json!({ "fetches": rows, "seconds": seconds });
        writeln!(out, "{object}")?;
    }
    Ok(())
}
