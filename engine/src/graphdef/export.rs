//! From a graph to TensorFlow's `GraphDef`.

use bytes::Bytes;
use prost::Message;

use super::attrs::attr_to_message;
use super::import::ImportedGraph;
use super::proto::{self, FunctionDefLibrary, GraphDef, NodeDef, VersionDef};
use actorflow_core::graph::{Node, OutputRef};
use actorflow_core::{AttrValue, Error, Graph, Result};

/// The version of TensorFlow's graph format (`TF_GRAPH_DEF_VERSION`) whose meaning of operations the engine follows.
pub const PRODUCER: i32 = 2474;
/// The oldest consumer that understands such graphs: any that knows `GraphDef.versions`.
pub const MIN_CONSUMER: i32 = 0;

/// The serialized `GraphDef` of a graph, which [`import_graph`](super::import_graph) reads back as an equal graph.
///
/// Names, operations, attributes (defaults included), edges, control edges, devices and colocation are kept;
/// collections and the graph's seed have no place in a `GraphDef`.
///
/// # Errors
/// As [`graph_to_def`].
pub fn export_graph(graph: &Graph) -> Result<Bytes> {
    Ok(graph_to_def(graph)?.encode_to_vec().into())
}

/// How many bytes a message takes in a file.
pub fn encoded_len(def: &GraphDef) -> usize {
    def.encoded_len()
}

/// The `GraphDef` message of a graph.
///
/// # Errors
/// `UNIMPLEMENTED` naming a node with an attribute that has no file form, such as a tensor of resource handles.
pub fn graph_to_def(graph: &Graph) -> Result<GraphDef> {
    let nodes = graph.nodes();
    let node = nodes
        .iter()
        .map(|n| node_to_def(graph, n).map_err(|e| n.blame(e)))
        .collect::<Result<_>>()?;
    Ok(GraphDef {
        node,
        versions: Some(VersionDef {
            producer: PRODUCER,
            min_consumer: MIN_CONSUMER,
            bad_consumers: Vec::new(),
        }),
        ..Default::default()
    })
}

impl ImportedGraph {
    /// The `GraphDef` message of the graph as it is now, with the functions of the file that it came from.
    ///
    /// # Errors
    /// As [`graph_to_def`].
    pub fn to_def(&self) -> Result<GraphDef> {
        let mut def = graph_to_def(&self.graph)?;
        if self.library != FunctionDefLibrary::default() {
            def.library = Some(self.library.clone());
        }
        Ok(def)
    }
}

fn node_to_def(graph: &Graph, node: &Node) -> Result<NodeDef> {
    let mut input = Vec::with_capacity(node.inputs().len() + node.control_inputs().len());
    for r in node.inputs() {
        input.push(tensor_name(graph, *r)?);
    }
    for c in node.control_inputs() {
        input.push(format!("^{}", graph.node(*c)?.name()));
    }
    let mut def = NodeDef {
        name: node.name().to_owned(),
        op: node.op_name().to_owned(),
        input,
        device: node.device().to_owned(),
        ..Default::default()
    };
    for (name, value) in node.attrs().iter() {
        let kind = node.def().attr_def(name).map(|a| a.kind);
        let message = attr_to_message(value, kind).map_err(|e| e.context(format!("attribute {name:?}")))?;
        def.attr.insert(name.to_owned(), message);
    }
    if !node.colocate_with().is_empty() {
        let mut classes: Vec<AttrValue> = node
            .colocate_with()
            .iter()
            .map(|n| AttrValue::from(format!("loc:@{n}")))
            .collect();
        match node.attrs().get("_class") {
            Some(AttrValue::List(rest)) => classes.extend(rest.iter().cloned()),
            Some(_) => return Err(Error::invalid("attribute \"_class\" must be a list of strings")),
            None => {}
        }
        let message: proto::AttrValue = attr_to_message(&AttrValue::List(classes), None)?;
        def.attr.insert("_class".to_owned(), message);
    }
    Ok(def)
}

/// `name` or `name:index`, as inputs are written.
fn tensor_name(graph: &Graph, r: OutputRef) -> Result<String> {
    let from = graph.node(r.node)?;
    Ok(match r.index {
        0 => from.name().to_owned(),
        i => format!("{}:{i}", from.name()),
    })
}
