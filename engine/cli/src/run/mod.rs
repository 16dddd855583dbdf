//! `actorflow run`: one run of a TensorFlow graph from the command line.

mod json;
mod literal;
mod model;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use actorflow::graphdef::import_graph;
use actorflow::npy::{read_npy_file, write_npy_file};
use actorflow::{Graph, Operation, Output, Passes, Saver, SaverOptions, Session, SessionOptions, Tensor, gradients};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::{checkpoint, memory, numbers};

/// Run a TensorFlow graph: feed tensors, fetch tensors, differentiate; or a signature of a SavedModel.
///
/// Tensors are named as in TensorFlow: `node:output`, or `node` for output 0.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    actorflow run model.pb --feed x=input.npy --fetch softmax=probabilities.npy\n  \
    actorflow run model.pb --init init --feed 'x=[[1, 2], [3, 4]]' --fetch loss --grad loss/w --json\n  \
    actorflow run --saved-model DIR --signature serving_default --input x=input.npy --output y=output.npy")]
pub(crate) struct Args {
    /// A serialized GraphDef
    #[arg(value_name = "GRAPH.pb", required_unless_present = "saved_model")]
    graph: Option<PathBuf>,
    /// Run a signature of the SavedModel in this folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["graph", "feed", "fetch", "target", "grad", "init", "timeout"])]
    saved_model: Option<PathBuf>,
    /// The tags of the model's graph; not needed if it has only one
    #[arg(long, value_name = "TAG", requires = "saved_model")]
    tag: Vec<String>,
    /// Which signature; not needed if there is only one, or for serving_default
    #[arg(long, value_name = "NAME", requires = "saved_model")]
    signature: Option<String>,
    /// Give an input of the signature: an .npy file or a literal
    #[arg(long, value_name = "NAME=VALUE", requires = "saved_model")]
    input: Vec<String>,
    /// Print an output of the signature, or write it to an .npy file; all are printed if none is named
    #[arg(long, value_name = "NAME[=OUT.npy]", requires = "saved_model")]
    output: Vec<String>,
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
    /// Restore every variable of the graph from this checkpoint, after --init
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "saved_model")]
    restore: Option<String>,
    /// How many threads may compute [default: one for each core]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = numbers::threads)]
    threads: Option<usize>,
    /// The most bytes that tensors may take together, such as 512MiB or 4GiB [default: three quarters of the machine's memory]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = numbers::memory)]
    memory: Option<usize>,
    /// Run the graph as it is, without folding, merging or fusing
    #[arg(long)]
    no_passes: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = numbers::seconds)]
    timeout: Option<Duration>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// A tensor that was asked for.
struct Wanted {
    /// As it was asked for.
    name: String,
    file: Option<PathBuf>,
}

fn options(args: &Args) -> SessionOptions {
    let mut options = match args.threads {
        Some(n) => SessionOptions::with_threads(n),
        None => SessionOptions::default(),
    };
    options.memory_budget = args.memory.unwrap_or_else(|| memory::share(1));
    if args.no_passes {
        options.passes = Passes::NONE;
    }
    options
}

/// Whether two tensors are to be written to the same file.
fn check_files(wanted: &[Wanted]) -> Result<(), Failure> {
    let files: BTreeSet<_> = wanted.iter().filter_map(|w| w.file.as_ref()).collect();
    if files.len() < wanted.iter().filter(|w| w.file.is_some()).count() {
        return Err(Failure::Usage("two tensors are to be written to the same file".into()));
    }
    Ok(())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(dir) = &args.saved_model {
        return model::run(model::Question {
            dir,
            tags: &args.tag,
            signature: args.signature.as_deref(),
            inputs: &args.input,
            outputs: &args.output,
            options: options(args),
            json: args.json,
        });
    }
    let Some(path) = &args.graph else {
        return Err(Failure::Usage("nothing to run: name a graph or --saved-model".into()));
    };
    if args.fetch.is_empty() && args.target.is_empty() && args.grad.is_empty() && args.init.is_empty() {
        return Err(Failure::Usage(
            "nothing to run: give at least one --fetch, --target, --grad or --init".into(),
        ));
    }
    let graph = load(path)?;
    let feeds = args
        .feed
        .iter()
        .map(|f| feed(&graph, f))
        .collect::<Result<Vec<_>, _>>()?;
    let operations =
        |names: &[String]| -> Result<Vec<Operation>, Failure> { names.iter().map(|n| operation(&graph, n)).collect() };
    let (targets, inits) = (operations(&args.target)?, operations(&args.init)?);
    let (mut wanted, mut outputs) = (Vec::new(), Vec::new());
    for text in &args.fetch {
        let (name, file) = with_file(text);
        outputs.push(output(&graph, name)?);
        wanted.push(Wanted {
            name: name.to_owned(),
            file,
        });
    }
    for text in &args.grad {
        let (what, gradient) = gradient(&graph, text)?;
        outputs.push(gradient);
        wanted.push(what);
    }
    check_files(&wanted)?;
    let restore = match &args.restore {
        Some(text) => {
            let prefix = checkpoint::named(text)?;
            let saver = Saver::new(&graph, SaverOptions::default());
            Some((saver.map_err(|e| e.context(format!("--restore {text}")))?, prefix))
        }
        None => None,
    };
    let session = Session::with_options(&graph, options(args))?;
    let deadline = args.timeout.and_then(|limit| Instant::now().checked_add(limit));
    let start = Instant::now();
    for op in &inits {
        limited(&session, deadline).target(op).run()?;
    }
    if let Some((saver, prefix)) = &restore {
        saver.restore(&session, prefix)?;
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
            for output in &outputs {
                runner = runner.fetch(output);
            }
            runner.run()?
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    report(&wanted, &values, seconds, args.json)
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
fn gradient(graph: &Graph, text: &str) -> Result<(Wanted, Output), Failure> {
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
        Some(g) => {
            let name = format!("d {} / d {}", y.name(), x.name());
            Ok((Wanted { name, file }, g.to_dense()?))
        }
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
