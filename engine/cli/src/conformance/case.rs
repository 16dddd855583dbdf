//! One case: a graph, what is run in it, and the answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actorflow::graphdef::import_graph;
use actorflow::npy::read_npy_file;
use actorflow::placement::Free;
use actorflow::{Graph, Operation, Output, Passes, Session, SessionOptions, Tensor, gradients};
use serde::Deserialize;

use super::compare::compare;

/// `case.json`.
#[derive(Debug, Deserialize)]
struct Case {
    runs: Vec<Run>,
    #[serde(default)]
    gradients: Vec<Gradients>,
}

/// One run; all runs of a case share a session.
#[derive(Debug, Deserialize)]
struct Run {
    #[serde(default)]
    feeds: BTreeMap<String, PathBuf>,
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    fetches: Vec<Fetch>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Fetch {
    tensor: String,
    expect: Option<PathBuf>,
    #[serde(default)]
    rtol: f64,
    #[serde(default)]
    atol: f64,
}

/// Gradients of the sum of `ys` with respect to `xs`, which the engine adds to the graph.
#[derive(Debug, Deserialize)]
struct Gradients {
    #[serde(default)]
    feeds: BTreeMap<String, PathBuf>,
    ys: Vec<String>,
    xs: Vec<String>,
    expect: Vec<PathBuf>,
    #[serde(default)]
    rtol: f64,
    #[serde(default)]
    atol: f64,
}

/// How cases are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The threads of the session.
    pub threads: usize,
    /// The most bytes that tensors may take on each device.
    pub memory: usize,
    /// Whether the passes that rewrite what is run are on.
    pub passes: bool,
    /// A run that takes longer fails.
    pub timeout: Duration,
    /// How many CPU devices the session has.
    pub devices: usize,
    /// Nodes that no constraint binds go to any device, by this seed.
    pub scatter: Option<u64>,
}

impl Default for Settings {
    /// Two threads, no limit of memory, all passes, 18 s, one device.
    fn default() -> Settings {
        Settings {
            threads: 2,
            memory: usize::MAX,
            passes: true,
            timeout: Duration::from_secs(18),
            devices: 1,
            scatter: None,
        }
    }
}

impl Settings {
    /// The options of a session that runs cases this way.
    pub fn session(&self) -> SessionOptions {
        SessionOptions {
            pin: false,
            memory_budget: self.memory,
            passes: if self.passes { Passes::ALL } else { Passes::NONE },
            devices: self.devices,
            free_nodes: self.scatter.map_or(Free::Default, Free::Scatter),
            // Cases name devices that TensorFlow had.
            soft_placement: self.devices > 1 || self.scatter.is_some(),
            ..SessionOptions::with_threads(self.threads)
        }
    }
}

/// Where the sessions of cases run.
pub type Sessions<'a> = dyn Fn(&Graph) -> actorflow::Result<Session> + 'a;

/// Runs the case in the folder `dir`: its runs one after the other in one session, then its gradients.
///
/// Relative paths that the graph itself names are those of the process.
///
/// # Errors
/// What did not happen as expected, in one line.
pub fn run_case(dir: &Path, settings: &Settings) -> Result<(), String> {
    run_case_in(dir, settings, &|graph: &Graph| {
        Session::with_options(graph, settings.session())
    })
}

/// As [`run_case`], in a session that `sessions` makes.
///
/// # Errors
/// As [`run_case`].
pub fn run_case_in(dir: &Path, settings: &Settings, sessions: &Sessions<'_>) -> Result<(), String> {
    let path = dir.join("case.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let case: Case = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    if case.runs.is_empty() && case.gradients.is_empty() {
        return Err("case.json has neither runs nor gradients: nothing is checked".into());
    }
    let path = dir.join("graph.pb");
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let graph = import_graph(bytes).map_err(|e| format!("import: {e}"))?.graph;
    let session = sessions(&graph).map_err(|e| e.to_string())?;
    let mut check = Check {
        dir,
        graph,
        session,
        timeout: settings.timeout,
    };
    for (i, run) in case.runs.iter().enumerate() {
        check.run(run).map_err(|e| format!("run {i}: {e}"))?;
    }
    for (i, g) in case.gradients.iter().enumerate() {
        check.gradients(g).map_err(|e| format!("gradients {i}: {e}"))?;
    }
    Ok(())
}

struct Check<'a> {
    dir: &'a Path,
    graph: Graph,
    session: Session,
    timeout: Duration,
}

impl Check<'_> {
    fn output(&self, name: &str) -> Result<Output, String> {
        self.graph.output(name).map_err(|e| e.to_string())
    }

    /// The tensor that a fetch means. TensorFlow's programs fetch a resource variable by the name of its handle
    /// and mean its value.
    fn fetched(&self, name: &str) -> Result<Output, String> {
        let output = self.output(name)?;
        let op = output.op();
        match (op.def().name(), op.attr("dtype")) {
            ("VarHandleOp", Some(dtype)) => self
                .graph
                .op("ReadVariableOp")
                .input(&output)
                .attr("dtype", dtype)
                .output()
                .map_err(|e| e.to_string()),
            _ => Ok(output),
        }
    }

    fn array(&self, file: &Path) -> Result<Tensor, String> {
        read_npy_file(self.dir.join(file)).map_err(|e| e.to_string())
    }

    fn feeds(&self, files: &BTreeMap<String, PathBuf>) -> Result<Vec<(Output, Tensor)>, String> {
        files
            .iter()
            .map(|(name, file)| Ok((self.output(name)?, self.array(file)?)))
            .collect()
    }

    fn compute(
        &self,
        feeds: &[(Output, Tensor)],
        targets: &[Operation],
        fetches: &[Output],
    ) -> actorflow::Result<Vec<Tensor>> {
        let mut runner = self.session.runner().timeout(self.timeout);
        for (output, value) in feeds {
            runner = runner.feed(output, value);
        }
        for op in targets {
            runner = runner.target(op);
        }
        for output in fetches {
            runner = runner.fetch(output);
        }
        runner.run()
    }

    fn run(&mut self, run: &Run) -> Result<(), String> {
        if run.targets.is_empty() && run.fetches.is_empty() {
            return Err("it has neither targets nor fetches: nothing is checked".into());
        }
        let feeds = self.feeds(&run.feeds)?;
        let targets: Vec<Operation> = run
            .targets
            .iter()
            .map(|t| self.graph.operation(t).map_err(|e| e.to_string()))
            .collect::<Result<_, _>>()?;
        let fetches: Vec<Output> = run
            .fetches
            .iter()
            .map(|f| self.fetched(&f.tensor))
            .collect::<Result<_, _>>()?;
        let got = self.compute(&feeds, &targets, &fetches);
        let values = match (&run.error, got) {
            (None, Ok(values)) => values,
            (None, Err(e)) => return Err(e.to_string()),
            (Some(want), Err(e)) if e.code().name() == want => return Ok(()),
            (Some(want), Err(e)) => return Err(format!("expected the error {want}, got {e}")),
            (Some(want), Ok(_)) => return Err(format!("expected the error {want}, but the run succeeded")),
        };
        for (fetch, value) in run.fetches.iter().zip(&values) {
            if let Some(file) = &fetch.expect {
                compare(value, &self.array(file)?, fetch.rtol, fetch.atol)
                    .map_err(|e| format!("{}: {e}", fetch.tensor))?;
            }
        }
        Ok(())
    }

    fn gradients(&mut self, g: &Gradients) -> Result<(), String> {
        if g.xs.is_empty() {
            return Err("it has no xs: nothing is checked".into());
        }
        if g.expect.len() != g.xs.len() {
            return Err(format!("{} xs, but {} expectations", g.xs.len(), g.expect.len()));
        }
        let outputs = |names: &[String]| names.iter().map(|n| self.output(n)).collect::<Result<Vec<_>, _>>();
        let (ys, xs) = (outputs(&g.ys)?, outputs(&g.xs)?);
        let grads = gradients(&ys, &xs).map_err(|e| e.to_string())?;
        let mut fetches = Vec::with_capacity(grads.len());
        for (grad, x) in grads.into_iter().zip(&g.xs) {
            let grad = grad.ok_or_else(|| format!("there is no gradient with respect to {x}"))?;
            let dense = grad.to_dense().map_err(|e| format!("d/d {x} as a dense tensor: {e}"))?;
            fetches.push(dense);
        }
        let values = self
            .compute(&self.feeds(&g.feeds)?, &[], &fetches)
            .map_err(|e| e.to_string())?;
        for ((file, x), value) in g.expect.iter().zip(&g.xs).zip(&values) {
            compare(value, &self.array(file)?, g.rtol, g.atol).map_err(|e| format!("d/d {x}: {e}"))?;
        }
        Ok(())
    }
}
