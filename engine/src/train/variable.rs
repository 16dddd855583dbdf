//! Variables: tensors that a session keeps between runs.

use std::collections::HashMap;
use std::ops::Deref;

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::{NodeId, keys};
use actorflow_core::{DType, Element, Graph, Operation, Output, PartialShape, Shape, Tensor};

use super::init::Initializer;

/// Which of TensorFlow's two kinds a variable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableKind {
    /// A `VarHandleOp` that is read by `ReadVariableOp` (`use_resource=True`).
    Resource,
    /// A `VariableV2`, whose output is a reference.
    Reference,
}

/// A variable of a graph.
///
/// It can stand wherever an [`Output`] can: it dereferences to its value.
#[derive(Debug, Clone)]
pub struct Variable {
    kind: VariableKind,
    handle: Output,
    value: Output,
    initializer: Operation,
    dtype: DType,
    shape: PartialShape,
}

impl Deref for Variable {
    type Target = Output;
    fn deref(&self) -> &Output {
        &self.value
    }
}

/// What a variable starts from: a tensor, an output of the graph, or an [`Initializer`] with a shape.
pub trait InitialValue {
    /// Adds the nodes of the initial value to the graph.
    ///
    /// # Errors
    /// If they cannot be added.
    fn build(self, graph: &Graph) -> Result<Output>;
}

impl InitialValue for &Output {
    fn build(self, _: &Graph) -> Result<Output> {
        Ok(self.clone())
    }
}

impl InitialValue for Output {
    fn build(self, _: &Graph) -> Result<Output> {
        Ok(self)
    }
}

#[track_caller]
fn constant(graph: &Graph, value: Tensor) -> Result<Output> {
    graph
        .op("Const")
        .attr("dtype", value.dtype())
        .attr("value", value)
        .name("initial_value")
        .output()
}

macro_rules! initial_tensors {
    ($([$($generics:tt)*] $t:ty),* $(,)?) => {
        $(impl<$($generics)*> InitialValue for $t {
            #[track_caller]
            fn build(self, graph: &Graph) -> Result<Output> {
                constant(graph, Tensor::from(self))
            }
        })*
    };
}

initial_tensors! {
    [] Tensor, [] &Tensor, [] f32, [] f64, [] i32, [] i64, [] bool,
    [T: Element] Vec<T>, [T: Element, const N: usize] [T; N],
}

/// An initialiser for a variable of this shape and dtype.
pub struct Shaped<I> {
    /// How the values are made.
    pub initializer: I,
    /// The shape.
    pub shape: Shape,
    /// The dtype.
    pub dtype: DType,
}

impl<I: Initializer> InitialValue for Shaped<I> {
    #[track_caller]
    fn build(self, graph: &Graph) -> Result<Output> {
        self.initializer.build(graph, &self.shape, self.dtype)
    }
}

/// A variable in the making; see [`GraphVariables::variable_builder`].
#[must_use = "call build()"]
pub struct VariableBuilder {
    graph: Graph,
    name: String,
    trainable: bool,
    local: bool,
    kind: VariableKind,
}

impl VariableBuilder {
    /// Optimizers leave it alone.
    pub fn not_trainable(mut self) -> Self {
        self.trainable = false;
        self
    }

    /// It is not saved with the model (and not trained).
    pub fn local(mut self) -> Self {
        self.local = true;
        self.trainable = false;
        self
    }

    /// Makes it a `VariableV2`, whose output is a reference, instead of a resource variable.
    pub fn reference(mut self) -> Self {
        self.kind = VariableKind::Reference;
        self
    }

    /// Adds the variable's nodes. Its dtype and shape are those of the initial value.
    ///
    /// An initial value that depends on other variables is computed from their values after initialisation.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    #[track_caller]
    pub fn build(self, initial: impl InitialValue) -> Result<Variable> {
        let g = &self.graph;
        let prefix = g.name_scope(&self.name);
        let scope = g.current_name_scope();
        let name = scope.trim_end_matches('/').to_owned();
        let _now = g.no_control_dependencies();
        let initial = initial.build(g)?;
        let initial = after_initialization(&initial)?;
        let (dtype, shape) = (initial.dtype(), initial.shape());
        drop(prefix);
        let _exact = g.name_scope(&scope);
        let (handle, initializer, value) = match self.kind {
            VariableKind::Resource => {
                let handle = g
                    .op("VarHandleOp")
                    .attr("dtype", dtype)
                    .attr("shape", shape.clone())
                    .attr("shared_name", name.as_str())
                    .name(&scope)
                    .output()?;
                let assign = g
                    .op("AssignVariableOp")
                    .input(&handle)
                    .input(&initial)
                    .name("Assign")
                    .colocate_with(&handle.op().name())
                    .finish()?;
                let read = read_resource(&handle, dtype, "Read")?;
                (handle, assign, read)
            }
            VariableKind::Reference => {
                let handle = g
                    .op("VariableV2")
                    .attr("dtype", dtype)
                    .attr("shape", shape.clone())
                    .attr("shared_name", name.as_str())
                    .name(&scope)
                    .output()?;
                let assign = g
                    .op("Assign")
                    .input(&handle)
                    .input(&initial)
                    .attr("validate_shape", shape.is_fully_known())
                    .name("Assign")
                    .colocate_with(&handle.op().name())
                    .finish()?;
                let read = g
                    .op("Identity")
                    .input(&handle)
                    .name("Read")
                    .colocate_with(&handle.op().name())
                    .output()?;
                (handle, assign, read)
            }
        };
        let v = Variable {
            kind: self.kind,
            handle,
            value,
            initializer,
            dtype,
            shape,
        };
        let all = if self.local {
            keys::LOCAL_VARIABLES
        } else {
            keys::VARIABLES
        };
        g.add_to_collection(all, v.handle.name());
        if self.trainable {
            g.add_to_collection(keys::TRAINABLE_VARIABLES, v.handle.name());
        }
        g.add_to_collection(keys::INITIALIZERS, v.initializer.name());
        Ok(v)
    }
}

fn read_resource(handle: &Output, dtype: DType, name: &str) -> Result<Output> {
    handle
        .graph()
        .op("ReadVariableOp")
        .input(handle)
        .attr("dtype", dtype)
        .name(name)
        .colocate_with(&handle.op().name())
        .output()
}

/// Copies the part of `initial` that reads variables, so that each is read after its initialiser.
fn after_initialization(initial: &Output) -> Result<Output> {
    let g = initial.graph();
    let initializers: HashMap<NodeId, Operation> = all_variables(g)?
        .into_iter()
        .map(|v| (v.handle.op().id(), v.initializer))
        .collect();
    if initializers.is_empty() {
        return Ok(initial.clone());
    }
    let mut copies: HashMap<NodeId, Option<Operation>> = HashMap::new();
    copy_reads(&initial.op(), &initializers, &mut copies)?;
    match copies.get(&initial.op().id()) {
        Some(Some(copy)) => copy.output(initial.index()),
        _ => Ok(initial.clone()),
    }
}

/// Copies `op` if anything it depends on reads a variable; remembers the answer.
fn copy_reads(
    op: &Operation,
    initializers: &HashMap<NodeId, Operation>,
    copies: &mut HashMap<NodeId, Option<Operation>>,
) -> Result<()> {
    // An explicit stack: initial values may be deep.
    let mut stack = vec![(op.clone(), false)];
    while let Some((op, inputs_done)) = stack.pop() {
        if copies.contains_key(&op.id()) {
            continue;
        }
        let node = op.node();
        let inputs = (0..node.inputs().len())
            .map(|i| op.input(i))
            .collect::<Result<Vec<_>>>()?;
        if !inputs_done {
            stack.push((op.clone(), true));
            stack.extend(inputs.iter().map(|i| (i.op(), false)));
            continue;
        }
        let g = op.graph();
        let waits: Vec<&Operation> = inputs.iter().filter_map(|i| initializers.get(&i.op().id())).collect();
        let copied = inputs.iter().any(|i| matches!(copies.get(&i.op().id()), Some(Some(_))));
        if waits.is_empty() && !copied {
            copies.insert(op.id(), None);
            continue;
        }
        let flat = inputs
            .iter()
            .map(|i| {
                let to = match copies.get(&i.op().id()) {
                    Some(Some(c)) => c.output(i.index())?,
                    _ => i.clone(),
                };
                Ok((to.as_ref(), to.dtype(), to.is_ref()))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut b = g.op(node.op_name()).attrs(node.attrs()).flat_inputs(flat);
        for w in waits {
            b = b.control_input(w);
        }
        copies.insert(op.id(), Some(b.finish()?));
    }
    Ok(())
}

impl Variable {
    /// Which kind it is.
    pub fn kind(&self) -> VariableKind {
        self.kind
    }

    /// The handle (an output of dtype resource) or the reference.
    pub fn handle(&self) -> &Output {
        &self.handle
    }

    /// The value at the time when it is needed; one reading for each run.
    pub fn value(&self) -> &Output {
        &self.value
    }

    /// The name of its node, under which sessions and checkpoints know it.
    pub fn name(&self) -> String {
        self.handle.op().name()
    }

    /// The operation that sets the initial value.
    pub fn initializer(&self) -> &Operation {
        &self.initializer
    }

    /// The dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The declared shape.
    pub fn shape(&self) -> &PartialShape {
        &self.shape
    }

    /// Another reading, which sees what the open control dependencies have done.
    ///
    /// # Errors
    /// If the node cannot be added.
    #[track_caller]
    pub fn read(&self) -> Result<Output> {
        match self.kind {
            VariableKind::Resource => read_resource(&self.handle, self.dtype, "ReadVariableOp"),
            VariableKind::Reference => self.handle.unary("Identity"),
        }
    }

    #[track_caller]
    fn update(&self, resource: &str, reference: &str, value: &Output) -> Result<Operation> {
        let op = match self.kind {
            VariableKind::Resource => resource,
            VariableKind::Reference => reference,
        };
        self.handle.graph().op(op).input(&self.handle).input(value).finish()
    }

    /// An operation that sets the value.
    ///
    /// # Errors
    /// If dtype or shape do not fit.
    #[track_caller]
    pub fn assign(&self, value: &Output) -> Result<Operation> {
        self.update("AssignVariableOp", "Assign", value)
    }

    /// An operation that adds to the value.
    ///
    /// # Errors
    /// If dtype or shape do not fit.
    #[track_caller]
    pub fn assign_add(&self, value: &Output) -> Result<Operation> {
        self.update("AssignAddVariableOp", "AssignAdd", value)
    }

    /// An operation that subtracts from the value.
    ///
    /// # Errors
    /// If dtype or shape do not fit.
    #[track_caller]
    pub fn assign_sub(&self, value: &Output) -> Result<Operation> {
        self.update("AssignSubVariableOp", "AssignSub", value)
    }

    /// The variable whose handle or reference this is: of this library, or imported from TensorFlow.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the output is no variable or has no reading or initialiser in the graph.
    pub fn from_handle(handle: &Output) -> Result<Variable> {
        let node = handle.op().node();
        let kind = match node.op_name() {
            "VarHandleOp" => VariableKind::Resource,
            "VariableV2" | "Variable" => VariableKind::Reference,
            other => {
                return Err(Error::invalid(format!(
                    "{} is a {other}, not a variable",
                    handle.name()
                )));
            }
        };
        let g = handle.graph();
        let (read_op, assign_op) = match kind {
            VariableKind::Resource => ("ReadVariableOp", "AssignVariableOp"),
            VariableKind::Reference => ("Identity", "Assign"),
        };
        let user = |op: &str| {
            g.nodes()
                .iter()
                .find(|n| {
                    n.op_name() == op && n.inputs().first() == Some(&handle.as_ref()) && n.control_inputs().is_empty()
                })
                .map(|n| n.name().to_owned())
        };
        let missing = |what: &str| Error::invalid(format!("variable {} has no {what} in the graph", node.name()));
        let value = match user(read_op) {
            Some(n) => g.output(&n)?,
            None => match kind {
                VariableKind::Resource => read_resource(handle, node.attrs().dtype("dtype")?, "Read")?,
                VariableKind::Reference => handle.unary("Identity")?,
            },
        };
        let initializer = g.operation(&user(assign_op).ok_or_else(|| missing("initializer"))?)?;
        Ok(Variable {
            kind,
            handle: handle.clone(),
            value,
            initializer,
            dtype: node.attrs().dtype("dtype")?,
            shape: node.attrs().shape("shape")?.clone(),
        })
    }
}

fn of_collection(g: &Graph, key: &str) -> Result<Vec<Variable>> {
    g.collection_outputs(key)?.iter().map(Variable::from_handle).collect()
}

fn all_variables(g: &Graph) -> Result<Vec<Variable>> {
    let mut all = of_collection(g, keys::VARIABLES)?;
    all.extend(of_collection(g, keys::LOCAL_VARIABLES)?);
    Ok(all)
}

/// What graphs can do with variables.
pub trait GraphVariables {
    /// A trainable variable: `g.variable("W", Tensor::zeros(..)?)`.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    #[track_caller]
    fn variable(&self, name: &str, initial: impl InitialValue) -> Result<Variable>;

    /// A trainable variable of this shape (float32), its initial value made by an [`Initializer`].
    ///
    /// # Errors
    /// If the nodes cannot be added.
    #[track_caller]
    fn get_variable(&self, name: &str, shape: impl Into<Shape>, initializer: impl Initializer) -> Result<Variable>;

    /// A variable with other properties than the default ones.
    fn variable_builder(&self, name: &str) -> VariableBuilder;

    /// The variables that are saved with the model.
    ///
    /// # Errors
    /// If the collection names something else.
    fn variables(&self) -> Result<Vec<Variable>>;

    /// The variables that optimizers train by default.
    ///
    /// # Errors
    /// If the collection names something else.
    fn trainable_variables(&self) -> Result<Vec<Variable>>;

    /// An operation that sets every variable, local ones too, to its initial value.
    ///
    /// # Errors
    /// If the node cannot be added.
    #[track_caller]
    fn global_variables_initializer(&self) -> Result<Operation>;

    /// The global step: an int64 variable that starts at 0 and is not trained; made on first use.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    #[track_caller]
    fn global_step(&self) -> Result<Variable>;
}

impl GraphVariables for Graph {
    #[track_caller]
    fn variable(&self, name: &str, initial: impl InitialValue) -> Result<Variable> {
        self.variable_builder(name).build(initial)
    }

    #[track_caller]
    fn get_variable(&self, name: &str, shape: impl Into<Shape>, initializer: impl Initializer) -> Result<Variable> {
        self.variable(
            name,
            Shaped {
                initializer,
                shape: shape.into(),
                dtype: DType::F32,
            },
        )
    }

    fn variable_builder(&self, name: &str) -> VariableBuilder {
        VariableBuilder {
            graph: self.clone(),
            name: name.to_owned(),
            trainable: true,
            local: false,
            kind: VariableKind::Resource,
        }
    }

    fn variables(&self) -> Result<Vec<Variable>> {
        of_collection(self, keys::VARIABLES)
    }

    fn trainable_variables(&self) -> Result<Vec<Variable>> {
        of_collection(self, keys::TRAINABLE_VARIABLES)
    }

    #[track_caller]
    fn global_variables_initializer(&self) -> Result<Operation> {
        let ops = self.collection(keys::INITIALIZERS);
        let ops = ops.iter().map(|n| self.operation(n)).collect::<Result<Vec<_>>>()?;
        self.group("init", &ops)
    }

    #[track_caller]
    fn global_step(&self) -> Result<Variable> {
        if let Some(v) = of_collection(self, keys::GLOBAL_STEP)?.into_iter().next() {
            return Ok(v);
        }
        let _top = self.name_scope("");
        let v = self.variable_builder("global_step").not_trainable().build(0i64)?;
        self.add_to_collection(keys::GLOBAL_STEP, v.handle.name());
        Ok(v)
    }
}
