//! Graphs: operations as nodes, tensors on their edges.
//!
//! A [`Graph`] only ever grows: nodes are added by [`Graph::op`], validated and shape-inferred at once, and never
//! change afterwards (the one exception is the back edge of a loop, [`Graph::set_loop_input`]). So sessions can
//! build plans from it while it grows. A handle is cheap to clone and can be shared between threads.

mod builder;
mod collections;
mod const_eval;
mod context;
mod convenience;
mod device;
mod loop_shapes;
mod node;
mod operators;
mod scope;
mod shape_context;

pub use builder::OpBuilder;
pub use collections::keys;
pub use context::{Context, ContextRef};
pub use device::NodeSummary;
pub use node::{Node, NodeId, OutputRef};
pub use operators::IntoOutput;
pub use scope::ScopeGuard;
pub use shape_context::ShapeContext;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::attr::AttrValue;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::OpDef;
use crate::shape::PartialShape;

#[derive(Default)]
pub(crate) struct GraphData {
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) by_name: HashMap<Arc<str>, NodeId>,
    /// How often a name was asked for, to make `Add_1`, `Add_2`.
    pub(crate) name_uses: HashMap<String, u32>,
    pub(crate) collections: BTreeMap<String, Vec<String>>,
    pub(crate) seed: Option<i64>,
    /// The names of all loops.
    pub(crate) frames: HashSet<String>,
    /// Counts changes of existing nodes; plans of an older version are stale.
    pub(crate) version: u64,
}

struct Shared {
    id: u64,
    data: RwLock<GraphData>,
    scopes: Mutex<scope::Scopes>,
}

/// A dataflow graph under construction; clones are handles of the same graph.
#[derive(Clone)]
pub struct Graph(Arc<Shared>);

impl Default for Graph {
    fn default() -> Self {
        Self::new()
    }
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Graph(Arc::new(Shared {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            data: RwLock::default(),
            scopes: Mutex::default(),
        }))
    }

    pub(crate) fn read<R>(&self, f: impl FnOnce(&GraphData) -> R) -> R {
        f(&self.0.data.read())
    }

    pub(crate) fn write<R>(&self, f: impl FnOnce(&mut GraphData) -> R) -> R {
        f(&mut self.0.data.write())
    }

    pub(crate) fn scopes(&self) -> &Mutex<scope::Scopes> {
        &self.0.scopes
    }

    /// Whether both are handles of the same graph.
    pub fn same(&self, other: &Graph) -> bool {
        self.0.id == other.0.id
    }

    /// A number that is unique to this graph in the process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.read(|d| d.nodes.len())
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts changes of existing nodes (added nodes do not count).
    pub fn version(&self) -> u64 {
        self.read(|d| d.version)
    }

    /// All nodes in the order in which they were added.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.read(|d| d.nodes.clone())
    }

    /// The node of that id.
    ///
    /// # Errors
    /// `NOT_FOUND` if the id is of another graph and out of range.
    pub fn node(&self, id: NodeId) -> Result<Arc<Node>> {
        self.read(|d| d.nodes.get(id.index()).cloned())
            .ok_or_else(|| Error::not_found(format!("the graph has no node number {}", id.index())))
    }

    /// The operation of that name.
    ///
    /// # Errors
    /// `NOT_FOUND` naming it.
    pub fn operation(&self, name: &str) -> Result<Operation> {
        let id = self.read(|d| d.by_name.get(name).copied());
        match id {
            Some(id) => Ok(Operation {
                graph: self.clone(),
                id,
            }),
            None => Err(Error::not_found(format!("the graph has no operation {name:?}"))),
        }
    }

    /// The output named `"op:index"`, or output 0 of `"op"`.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such operation or output; `INVALID_ARGUMENT` for a malformed index.
    pub fn output(&self, name: &str) -> Result<Output> {
        let (op, index) = match name.rsplit_once(':') {
            Some((op, i)) => (
                op,
                i.parse::<usize>()
                    .map_err(|_| Error::invalid(format!("bad tensor name {name:?}: expected \"operation:index\"")))?,
            ),
            None => (name, 0),
        };
        self.operation(op)?.output(index)
    }

    /// The output that a reference names.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such node or output.
    pub fn output_of(&self, r: OutputRef) -> Result<Output> {
        self.node(r.node)?;
        Operation {
            graph: self.clone(),
            id: r.node,
        }
        .output(r.index as usize)
    }

    /// The seed of all random ops without one of their own, if set.
    pub fn seed(&self) -> Option<i64> {
        self.read(|d| d.seed)
    }

    /// Sets the graph-level seed: random ops added afterwards draw the same numbers in every session.
    pub fn set_seed(&self, seed: i64) {
        self.write(|d| d.seed = Some(seed));
    }

    /// The two seeds of a random op, by TensorFlow's rule: from the graph's seed and the op's, or the number of
    /// nodes so far if only the graph's is set, or `(0, 0)`, which means "seed from the system", if none is.
    pub fn op_seeds(&self, op_seed: Option<i64>) -> (i64, i64) {
        const DEFAULT_GRAPH_SEED: i64 = 87_654_321;
        let (graph_seed, n) = self.read(|d| (d.seed, d.nodes.len() as i64));
        match (graph_seed, op_seed) {
            (Some(0), Some(0)) => (0, i64::from(i32::MAX)),
            (Some(g), Some(o)) => (g, o),
            (Some(g), None) => (g, n),
            (None, Some(o)) => (DEFAULT_GRAPH_SEED, o),
            (None, None) => (0, 0),
        }
    }

    /// A name for a loop (the `frame_name` of its `Enter` nodes) that no loop of the graph has: `name`, or with a
    /// number.
    pub fn unique_frame_name(&self, name: &str) -> String {
        self.write(|d| {
            let mut unique = name.to_owned();
            let mut n = 0;
            while !d.frames.insert(unique.clone()) {
                n += 1;
                unique = format!("{name}_{n}");
            }
            unique
        })
    }

    /// Connects input `index` of a `Merge` node to `to`, which was added after it: the back edge of a loop.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the node is no Merge, the input does not exist or the dtypes differ.
    pub fn set_loop_input(&self, merge: &Operation, index: usize, to: &Output) -> Result<()> {
        if !self.same(&merge.graph) || !self.same(&to.graph) {
            return Err(Error::invalid("a loop's back edge must stay in one graph"));
        }
        let want = to.dtype();
        self.write(|d| {
            let slot = d
                .nodes
                .get_mut(merge.id.index())
                .ok_or_else(|| Error::not_found("no such node"))?;
            let mut node = (**slot).clone();
            if !matches!(node.op_name(), "Merge" | "RefMerge") {
                return Err(Error::invalid(format!(
                    "{} is a {}, not a Merge",
                    node.name(),
                    node.op_name()
                )));
            }
            node.set_input(
                index,
                OutputRef {
                    node: to.node,
                    index: to.index,
                },
                want,
            )?;
            *slot = Arc::new(node);
            d.version += 1;
            Ok(())
        })
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} nodes)", self.len())
    }
}

/// A node of a graph.
#[derive(Clone)]
pub struct Operation {
    graph: Graph,
    id: NodeId,
}

impl Operation {
    pub(crate) fn new(graph: Graph, id: NodeId) -> Self {
        Operation { graph, id }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The node as it is now.
    pub fn node(&self) -> Arc<Node> {
        // Nodes are never removed and ids are only made for existing ones.
        self.graph.read(|d| d.nodes[self.id.index()].clone())
    }

    /// The name.
    pub fn name(&self) -> String {
        self.node().name().to_owned()
    }

    /// The operation's definition.
    pub fn def(&self) -> &'static OpDef {
        self.node().def()
    }

    /// Output `index`.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such output.
    pub fn output(&self, index: usize) -> Result<Output> {
        let node = self.node();
        if index >= node.num_outputs() {
            return Err(Error::not_found(format!(
                "operation {:?} ({}) has {} outputs; there is no output {index}",
                node.name(),
                node.op_name(),
                node.num_outputs()
            )));
        }
        Ok(Output {
            graph: self.graph.clone(),
            node: self.id,
            index: index as u32,
        })
    }

    /// All outputs.
    pub fn outputs(&self) -> Vec<Output> {
        let n = self.node().num_outputs();
        (0..n)
            .map(|i| Output {
                graph: self.graph.clone(),
                node: self.id,
                index: i as u32,
            })
            .collect()
    }

    /// Input `index`.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such input.
    pub fn input(&self, index: usize) -> Result<Output> {
        let node = self.node();
        match node.inputs().get(index) {
            Some(r) => Ok(Output {
                graph: self.graph.clone(),
                node: r.node,
                index: r.index,
            }),
            None => Err(Error::not_found(format!(
                "operation {:?} has no input {index}",
                node.name()
            ))),
        }
    }

    /// The value of an attribute, if it is set.
    pub fn attr(&self, name: &str) -> Option<AttrValue> {
        self.node().attrs().get(name).cloned()
    }
}

impl PartialEq for Operation {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.graph.same(&other.graph)
    }
}

impl Eq for Operation {}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.node();
        write!(f, "{} = {}", n.name(), n.op_name())
    }
}

/// An output of a node: a tensor that is computed when the graph runs.
#[derive(Clone)]
pub struct Output {
    graph: Graph,
    node: NodeId,
    index: u32,
}

impl Output {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The node and the index without the graph.
    pub fn as_ref(&self) -> OutputRef {
        OutputRef {
            node: self.node,
            index: self.index,
        }
    }

    /// The operation that makes it.
    pub fn op(&self) -> Operation {
        Operation {
            graph: self.graph.clone(),
            id: self.node,
        }
    }

    /// Which of the operation's outputs it is.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// The dtype.
    pub fn dtype(&self) -> DType {
        self.op().node().output_type(self.index())
    }

    /// Whether it is a reference to a variable.
    pub fn is_ref(&self) -> bool {
        self.op().node().output_is_ref(self.index())
    }

    /// What is known of the shape.
    pub fn shape(&self) -> PartialShape {
        self.op().node().output_shape(self.index()).clone()
    }

    /// `"op:index"`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.op().node().name(), self.index)
    }
}

impl PartialEq for Output {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref() && self.graph.same(&other.graph)
    }
}

impl Eq for Output {}

impl Hash for Output {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.graph.0.id, self.as_ref()).hash(state);
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.name(), self.dtype(), self.shape())
    }
}

impl From<&Output> for Output {
    fn from(o: &Output) -> Output {
        o.clone()
    }
}
