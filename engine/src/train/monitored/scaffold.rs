//! The operations that belong to a training besides its steps.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use actorflow_core::graph::keys;
use actorflow_core::{DType, Error, Graph, Operation, Output, Result, Tensor};

use crate::session::Session;
use crate::summary::merge_all;
use crate::train::saver::{Saver, SaverOptions};
use crate::train::variable::{GraphVariables, Variable, VariableKind};

/// The collection of the operation that initialises the variables.
pub const INIT_OP: &str = "init_op";
/// The collection of the operation that initialises what each client has for itself.
pub const LOCAL_INIT_OP: &str = "local_init_op";
/// The collection of the list of variables that are not initialised.
pub const READY_OP: &str = "ready_op";
/// The collection of the same list without local variables.
pub const READY_FOR_LOCAL_INIT_OP: &str = "ready_for_local_init_op";
/// The collection of the summary of the training.
pub const SUMMARY_OP: &str = "summary_op";

/// A function that initialises what no operation does.
pub type InitFn = Arc<dyn Fn(&Session) -> Result<()> + Send + Sync>;

/// The operations that belong to a training besides its steps: they initialise, restore, say whether all is ready.
///
/// What is not given is taken from the graph's collection of that name, or made of the graph's variables. `TensorFlow:
/// tf.train.Scaffold`.
#[derive(Clone, Default)]
pub struct Scaffold {
    /// Initialises the variables that are saved with the model.
    pub init: Option<Operation>,
    /// What is fed for that.
    pub init_feeds: Vec<(Output, Tensor)>,
    /// Called after that.
    pub init_fn: Option<InitFn>,
    /// Initialises local variables and tables, in each client.
    pub local_init: Option<Operation>,
    /// The names of variables that are not initialised, a vector of strings.
    pub ready: Option<Output>,
    /// The same without local variables, which are initialised when this is empty.
    pub ready_for_local_init: Option<Output>,
    /// Saves and restores.
    pub saver: Option<Arc<Saver>>,
    /// The summary of the training.
    pub summary: Option<Output>,
}

fn locals(graph: &Graph) -> Result<Vec<Variable>> {
    let handles = graph.collection_outputs(keys::LOCAL_VARIABLES)?;
    handles.iter().map(Variable::from_handle).collect()
}

/// The first item of a collection, or what `make` adds to it.
fn op_of(graph: &Graph, key: &str, make: impl FnOnce() -> Result<Operation>) -> Result<Operation> {
    if let Some(name) = graph.collection(key).first() {
        return graph.operation(name);
    }
    let op = make()?;
    graph.add_to_collection(key, op.name());
    Ok(op)
}

fn output_of(graph: &Graph, key: &str, make: impl FnOnce() -> Result<Option<Output>>) -> Result<Option<Output>> {
    if let Some(found) = graph.collection_outputs(key)?.into_iter().next() {
        return Ok(Some(found));
    }
    let made = make()?;
    if let Some(output) = &made {
        graph.add_to_collection(key, output.name());
    }
    Ok(made)
}

impl Scaffold {
    /// Fills in what was not given.
    ///
    /// # Errors
    /// If a collection names something else than it should, or nodes cannot be added.
    pub fn finalize(&mut self, graph: &Graph) -> Result<()> {
        let _now = graph.no_control_dependencies();
        let _top = graph.name_scope("");
        let (globals, locals) = (graph.variables()?, locals(graph)?);
        let initializers = |v: &[Variable]| v.iter().map(|v| v.initializer().clone()).collect::<Vec<_>>();
        if self.init.is_none() {
            let make = || graph.group("init", &initializers(&globals));
            self.init = Some(op_of(graph, INIT_OP, make)?);
        }
        if self.local_init.is_none() {
            let make = || {
                let tables = graph.collection(keys::TABLE_INITIALIZERS);
                let mut all = initializers(&locals);
                for name in &tables {
                    all.push(graph.operation(name)?);
                }
                graph.group("local_init", &all)
            };
            self.local_init = Some(op_of(graph, LOCAL_INIT_OP, make)?);
        }
        if self.ready.is_none() {
            let all: Vec<Variable> = globals.iter().chain(&locals).cloned().collect();
            let make = || report_uninitialized_variables(graph, &all).map(Some);
            self.ready = output_of(graph, READY_OP, make)?;
        }
        if self.ready_for_local_init.is_none() {
            let make = || report_uninitialized_variables(graph, &globals).map(Some);
            self.ready_for_local_init = output_of(graph, READY_FOR_LOCAL_INIT_OP, make)?;
        }
        if self.summary.is_none() {
            self.summary = output_of(graph, SUMMARY_OP, || merge_all(graph))?;
        }
        if self.saver.is_none() && !globals.is_empty() {
            // Variables of several devices are saved where they are.
            let devices: BTreeSet<String> = globals
                .iter()
                .map(|v| v.handle().op().node().device().to_owned())
                .collect();
            let options = SaverOptions {
                sharded: devices.len() > 1,
                ..SaverOptions::default()
            };
            self.saver = Some(Arc::new(Saver::new(graph, options)?));
        }
        Ok(())
    }

    /// The variable that initialising local variables would initialise again, if there is one.
    pub(super) fn overwritten(&self, graph: &Graph) -> Result<Option<String>> {
        let Some(start) = &self.local_init else {
            return Ok(None);
        };
        let (mut seen, mut stack) = (HashSet::new(), vec![start.id()]);
        while let Some(id) = stack.pop() {
            if seen.insert(id) {
                let node = graph.node(id)?;
                stack.extend(node.inputs().iter().map(|i| i.node));
                stack.extend(node.control_inputs());
            }
        }
        let variables = graph.variables()?;
        let found = variables.iter().find(|v| seen.contains(&v.initializer().id()));
        Ok(found.map(Variable::name))
    }
}

/// The names of those variables that are not initialised: a vector of strings, empty when all are.
/// `TensorFlow: tf.report_uninitialized_variables`.
///
/// # Errors
/// If the nodes cannot be added.
#[track_caller]
pub fn report_uninitialized_variables(graph: &Graph, variables: &[Variable]) -> Result<Output> {
    let _scope = graph.name_scope("report_uninitialized_variables");
    let names: Vec<String> = variables.iter().map(Variable::name).collect();
    let names = graph.constant(Tensor::strings([names.len()], names)?)?;
    if variables.is_empty() {
        return Ok(names);
    }
    let known = |v: &Variable| {
        let b = match v.kind() {
            VariableKind::Resource => graph.op("VarIsInitializedOp").input(v.handle()),
            VariableKind::Reference => graph.op("IsVariableInitialized").input(v.handle()),
        };
        b.colocate_with(&v.name()).output()
    };
    let known = variables.iter().map(known).collect::<Result<Vec<_>>>()?;
    let missing = graph.stack(&known, 0)?.unary("LogicalNot")?;
    let places = graph.op("Where").input(&missing).output()?.reshape(&[-1])?;
    names.gather(&places, 0)
}

/// The strings of a vector, such as [`report_uninitialized_variables`] gives.
pub(super) fn texts(t: &Tensor) -> Result<Vec<String>> {
    if t.dtype() != DType::Str {
        return Err(Error::invalid(format!(
            "what says whether a session is ready must be a vector of strings, not of {}",
            t.dtype()
        )));
    }
    let all = t.as_strings()?.iter();
    Ok(all.map(|s| String::from_utf8_lossy(s).into_owned()).collect())
}
