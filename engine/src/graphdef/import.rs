//! From TensorFlow's `GraphDef` to a graph.
//!
//! [`import_graph`] reads a file into a graph of its own, [`import_into`] adds one to an existing graph. Nodes may
//! come in any order; loops written with `Enter`, `Merge`, `NextIteration` are closed after their bodies exist, and
//! calls of the file's functions become the nodes of their bodies.
//! Before the first node is added, everything in the file that the engine does not have is reported at once.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::attrs::attr_from_message;
use super::decode::{DecodeLimits, decode_graph};
use super::functions::{self, Limits};
use super::order::{Index, Input, is_back_edge, order};
use super::proto::{self, FunctionDefLibrary, GraphDef, NodeDef, VersionDef, attr_value::Value};
use actorflow_core::op::{OpDef, registry};
use actorflow_core::{AttrValue, Attrs, DType, Error, Graph, Operation, Output, Result};

#[cfg(test)]
mod tests;

/// A hostile file could ask for a million outputs in a few bytes, again and again.
const MAX_OUTPUTS: usize = 1 << 24;
/// A loop's Merge has one back edge; anything near this number is no program.
const MAX_BACK_EDGES: usize = 16;

/// How a file becomes part of a graph.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    prefix: String,
    device: String,
    tensors: HashMap<(String, usize), Output>,
    operations: HashMap<String, Operation>,
    limits: DecodeLimits,
    constants: usize,
    inlining: Limits,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions {
            prefix: String::new(),
            device: String::new(),
            tensors: HashMap::new(),
            operations: HashMap::new(),
            limits: DecodeLimits::default(),
            constants: 4 << 30,
            inlining: Limits::default(),
        }
    }
}

impl ImportOptions {
    /// Names as in the file, nothing mapped, [`DecodeLimits`]'s defaults, 4 GiB of constants.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names every node `prefix/name`; an empty prefix adds nothing.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.trim_end_matches('/').to_owned();
        self
    }

    /// The device of nodes for which the file names none, nor for nodes that they have to be with.
    pub fn default_device(mut self, device: &str) -> Self {
        self.device = device.to_owned();
        self
    }

    /// Inputs that read `name` (`"node:output"` or `"node"`) in the file read `tensor` instead, whether or not
    /// the file has that node.
    pub fn map_input(mut self, name: &str, tensor: &Output) -> Self {
        let key = match Input::parse(name) {
            Ok(Input::Data(node, i)) => (node.to_owned(), i),
            _ => (name.to_owned(), 0),
        };
        self.tensors.insert(key, tensor.clone());
        self
    }

    /// Control inputs `^name` in the file wait for `op` instead.
    pub fn map_control(mut self, name: &str, op: &Operation) -> Self {
        self.operations
            .insert(name.trim_start_matches('^').to_owned(), op.clone());
        self
    }

    /// What decoding the file may cost.
    pub fn limits(mut self, limits: DecodeLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The most memory in bytes that all constants of the file together may take.
    pub fn max_constants(mut self, bytes: usize) -> Self {
        self.constants = bytes;
        self
    }

    /// The most nodes that calls of functions may become, all together; 131,072 if this is not called.
    pub fn max_inlined_nodes(mut self, nodes: usize) -> Self {
        self.inlining.nodes = nodes;
        self
    }

    pub(super) fn inlining(mut self, limits: Limits) -> Self {
        self.inlining = limits;
        self
    }

    fn replaces(&self, input: Input<'_>) -> bool {
        match input {
            Input::Data(n, i) => !self.tensors.is_empty() && self.tensors.contains_key(&(n.to_owned(), i)),
            Input::Control(n) => self.operations.contains_key(n),
        }
    }
}

/// What came out of a file.
#[derive(Debug, Clone)]
pub struct ImportedGraph {
    /// The graph that the nodes were added to.
    pub graph: Graph,
    /// The nodes in the order of the file; where it calls functions, those that they became.
    pub operations: Vec<Operation>,
    /// The functions that the file defines. The graph does not call them any more.
    pub library: FunctionDefLibrary,
    /// The versions of the program that wrote the file.
    pub versions: VersionDef,
    /// Attributes, as node and name, that our definition of the operation does not have, and that were left out.
    pub unknown_attrs: Vec<(String, String)>,
}

/// An operation of a file that the engine does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// The operation, or the operation and the dtype.
    pub what: String,
    /// One of the nodes.
    pub node: String,
    /// How many nodes there are.
    pub count: usize,
}

/// Reads a serialized `GraphDef` into a new graph.
///
/// # Errors
/// As [`import_into`]; `INVALID_ARGUMENT` for bytes that are no `GraphDef`, `RESOURCE_EXHAUSTED` beyond the limits.
pub fn import_graph(bytes: impl Into<Bytes>) -> Result<ImportedGraph> {
    import_with(bytes, &ImportOptions::default())
}

/// [`import_graph`] with options.
///
/// # Errors
/// As [`import_graph`].
pub fn import_with(bytes: impl Into<Bytes>, options: &ImportOptions) -> Result<ImportedGraph> {
    import_into(&Graph::new(), &decode_graph(bytes.into(), &options.limits)?, options)
}

/// Adds the nodes of `def` to `graph`.
///
/// If it fails, nodes that were added before the offending one stay in the graph.
///
/// # Errors
/// One `UNIMPLEMENTED` that lists all operations and dtypes that the engine does not have, before anything is
/// added. Otherwise, naming the node: `INVALID_ARGUMENT` for edges, attributes and shapes that do not fit,
/// `ALREADY_EXISTS` for a name that the graph has, `RESOURCE_EXHAUSTED` beyond the options' limits.
pub fn import_into(graph: &Graph, def: &GraphDef, options: &ImportOptions) -> Result<ImportedGraph> {
    actorflow_kernels::link();
    registry().check()?;
    let missing = unsupported(def);
    if !missing.is_empty() {
        return Err(unsupported_error(&missing));
    }
    let lowered = functions::lower(def, &options.inlining)?;
    let index = Index::new(&lowered)?;
    let order = order(&lowered, &index, |input| options.replaces(input))?;
    let mut import = Import {
        graph,
        def: &lowered,
        options,
        index,
        added: vec![None; lowered.node.len()],
        back_edges: Vec::new(),
        budget: options.constants,
        outputs: 0,
        unknown_attrs: Vec::new(),
    };
    for i in order {
        let node = &lowered.node[i];
        let op = import.add(node).map_err(|e| e.at_node(&node.name, &node.op))?;
        import.added[i] = Some(op);
    }
    import.close_loops()?;
    Ok(ImportedGraph {
        graph: graph.clone(),
        operations: import.added.into_iter().flatten().collect(),
        library: def.library.clone().unwrap_or_default(),
        versions: def.versions.clone().unwrap_or_default(),
        unknown_attrs: import.unknown_attrs,
    })
}

/// Everything in `def` and the functions that it runs that the engine does not have, sorted by name.
pub fn unsupported(def: &GraphDef) -> Vec<Unsupported> {
    // A malformed library is reported when it is used.
    let needed = functions::needed(def).unwrap_or_default();
    let mut found: BTreeMap<String, Unsupported> = BTreeMap::new();
    for node in needed {
        let what = match registry().find(&node.op) {
            None => node.op.clone(),
            Some(op) => match foreign_dtype(op, node) {
                Some(n) => format!("{} of {}", node.op, dtype_name(n)),
                None => continue,
            },
        };
        found
            .entry(what.clone())
            .or_insert_with(|| Unsupported {
                what,
                node: node.name.clone(),
                count: 0,
            })
            .count += 1;
    }
    found.into_values().collect()
}

fn unsupported_error(missing: &[Unsupported]) -> Error {
    let list: Vec<String> = missing
        .iter()
        .map(|u| match u.count {
            1 => format!("{} (node {:?})", u.what, u.node),
            n => format!("{} ({n} nodes, one is {:?})", u.what, u.node),
        })
        .collect();
    Error::unimplemented(format!(
        "the graph needs {} that this engine does not have: {}; register them with register_ops!, or leave these \
         nodes out of the file",
        if missing.len() == 1 {
            "an operation".to_owned()
        } else {
            format!("{} operations", missing.len())
        },
        list.join(", ")
    ))
}

/// The number of a dtype that a declared attribute names and the engine does not have.
fn foreign_dtype(op: &OpDef, node: &NodeDef) -> Option<i32> {
    let foreign = |t: &i32| DType::from_tf(*t).is_err();
    op.attrs()
        .iter()
        .find_map(|a| match node.attr.get(&a.name)?.value.as_ref()? {
            Value::Type(t) => Some(*t).filter(foreign),
            Value::List(l) => l.r#type.iter().copied().find(foreign),
            Value::Tensor(t) => Some(t.dtype).filter(foreign),
            _ => None,
        })
}

fn dtype_name(n: i32) -> String {
    match proto::DataType::try_from(n) {
        Ok(t) => t.as_str_name().to_owned(),
        Err(_) => format!("the data type {n}"),
    }
}

/// An input of a Merge whose producer comes later.
struct BackEdge<'a> {
    merge: Operation,
    index: usize,
    from: &'a str,
    output: usize,
}

struct Import<'a> {
    graph: &'a Graph,
    def: &'a GraphDef,
    options: &'a ImportOptions,
    index: Index<'a>,
    added: Vec<Option<Operation>>,
    back_edges: Vec<BackEdge<'a>>,
    budget: usize,
    outputs: usize,
    unknown_attrs: Vec<(String, String)>,
}

impl<'a> Import<'a> {
    fn add(&mut self, node: &'a NodeDef) -> Result<Operation> {
        let def = registry().get(&node.op)?;
        let (mut attrs, colocate) = self.attrs(def, node)?;
        def.fill_defaults(&mut attrs);
        let mut builder = self
            .graph
            .op(&node.op)
            .imported(&self.name(&node.name))
            .attrs(&attrs)
            .device(&node.device)
            .default_device(&self.options.device);
        for name in &colocate {
            builder = builder.colocate_with(name);
        }
        let mut flat = Vec::with_capacity(node.input.len());
        let mut holes = Vec::new();
        for text in &node.input {
            let input = Input::parse(text)?;
            match input {
                Input::Control(name) => builder = builder.control_input(&self.control(name, text)?),
                Input::Data(name, output) => match self.data(node, name, output, text)? {
                    Some(x) => flat.push(Some((x.as_ref(), x.dtype(), x.is_ref()))),
                    None => {
                        holes.push((flat.len(), name, output));
                        flat.push(None);
                    }
                },
            }
        }
        if !holes.is_empty() {
            let Some(entry) = flat.iter().copied().flatten().next() else {
                return Err(Error::invalid(
                    "a loop's Merge needs an input from an Enter beside its back edge",
                ));
            };
            if holes.len() > MAX_BACK_EDGES {
                return Err(Error::invalid(format!(
                    "a Merge with {} back edges; a loop has one",
                    holes.len()
                )));
            }
            for (i, ..) in &holes {
                builder = builder.back_edge(*i);
                flat[*i] = Some(entry);
            }
        }
        let merge = builder.flat_inputs(flat.into_iter().flatten().collect()).finish()?;
        self.outputs = self.outputs.saturating_add(merge.node().num_outputs());
        if self.outputs > MAX_OUTPUTS {
            return Err(Error::exhausted(format!(
                "the graph has more than {MAX_OUTPUTS} tensors; import it in parts"
            )));
        }
        for (index, from, output) in holes {
            self.back_edges.push(BackEdge {
                merge: merge.clone(),
                index,
                from,
                output,
            });
        }
        Ok(merge)
    }

    fn name(&self, name: &str) -> String {
        match self.options.prefix.as_str() {
            "" => name.to_owned(),
            p => format!("{p}/{name}"),
        }
    }

    /// The node that a name of the file means; it has been added unless it closes a loop.
    fn node(&self, name: &str, text: &str) -> Result<&Operation> {
        let op = self.index.get(name).and_then(|i| self.added[i].as_ref());
        op.ok_or_else(|| Error::invalid(format!("input {text:?} names no node that can be its producer")))
    }

    fn control(&self, name: &str, text: &str) -> Result<Operation> {
        match self.options.operations.get(name) {
            Some(op) => Ok(op.clone()),
            None => self.node(name, text).cloned(),
        }
    }

    /// The tensor that a data input reads; `None` for a back edge.
    fn data(&self, to: &NodeDef, name: &str, output: usize, text: &str) -> Result<Option<Output>> {
        if !self.options.tensors.is_empty()
            && let Some(x) = self.options.tensors.get(&(name.to_owned(), output))
        {
            if !x.graph().same(self.graph) {
                return Err(Error::invalid(format!(
                    "input {text:?} is mapped to {}, which is of another graph",
                    x.name()
                )));
            }
            return Ok(Some(x.clone()));
        }
        if let Some(i) = self.index.get(name)
            && is_back_edge(&self.def.node[i], to)
        {
            return Ok(None);
        }
        output_of(self.node(name, text)?, output, text).map(Some)
    }

    fn close_loops(&self) -> Result<()> {
        for e in &self.back_edges {
            let text = format!("{}:{}", e.from, e.output);
            let close = || {
                let from = output_of(self.node(e.from, &text)?, e.output, &text)?;
                self.graph.set_loop_input(&e.merge, e.index, &from)
            };
            close().map_err(|err| e.merge.node().blame(err))?;
        }
        if let Some(first) = self.added.iter().flatten().map(|op| op.id().index()).min()
            && !self.back_edges.is_empty()
        {
            self.graph.infer_loop_shapes(first);
        }
        Ok(())
    }

    /// The attributes of a node, and the names of the nodes that it is colocated with.
    fn attrs(&mut self, def: &OpDef, node: &NodeDef) -> Result<(Attrs, Vec<String>)> {
        let (mut attrs, mut colocate) = (Attrs::new(), Vec::new());
        for (name, message) in &node.attr {
            let declared = def.attr_def(name).is_some();
            if !declared && !name.starts_with('_') {
                self.unknown_attrs.push((node.name.clone(), name.clone()));
                continue;
            }
            // Shapes are inferred here, not believed.
            if !declared && name == "_output_shapes" {
                continue;
            }
            let value = match attr_from_message(message, &mut self.budget) {
                Ok(Some(v)) => v,
                Ok(None) => continue,
                Err(_) if !declared => {
                    self.unknown_attrs.push((node.name.clone(), name.clone()));
                    continue;
                }
                Err(e) => return Err(e.context(format!("attribute {name:?}"))),
            };
            match (name.as_str(), value) {
                ("_class", AttrValue::List(items)) if !declared => {
                    let rest = self.classes(items, &mut colocate)?;
                    if !rest.is_empty() {
                        attrs.set(name.as_str(), AttrValue::List(rest));
                    }
                }
                // Two imports of a file have two loops.
                ("frame_name", AttrValue::Str(frame)) if !self.options.prefix.is_empty() => {
                    let longer = [self.options.prefix.as_bytes(), b"/", &frame].concat();
                    attrs.set(name.as_str(), AttrValue::Str(longer.into()));
                }
                (_, value) => attrs.set(name.as_str(), value),
            }
        }
        Ok((attrs, colocate))
    }

    /// Takes the `loc:@node` entries out of a `_class` attribute.
    fn classes(&self, items: Vec<AttrValue>, colocate: &mut Vec<String>) -> Result<Vec<AttrValue>> {
        let mut rest = Vec::new();
        for item in items {
            let text = match &item {
                AttrValue::Str(s) => std::str::from_utf8(s).ok(),
                _ => None,
            };
            match text.and_then(|t| t.strip_prefix("loc:@")) {
                Some(name) if self.index.get(name).is_some() => colocate.push(self.name(name)),
                Some(name) => {
                    return Err(Error::invalid(format!(
                        "the node asks to be on the device of {name:?}, which the file does not have; remove its \
                         \"_class\" attribute or add that node"
                    )));
                }
                None => rest.push(item),
            }
        }
        Ok(rest)
    }
}

fn output_of(op: &Operation, output: usize, text: &str) -> Result<Output> {
    op.output(output).map_err(|_| {
        let node = op.node();
        Error::invalid(format!(
            "input {text:?} asks for output {output} of {}, a {} with {} outputs",
            node.name(),
            node.op_name(),
            node.num_outputs()
        ))
    })
}
