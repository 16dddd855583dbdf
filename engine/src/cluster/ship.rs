//! Shares of plans as bytes: how a coordinator hands a part of a graph to a task.
//!
//! A part travels as a `GraphDef`, and the names of what is fed, fetched and run in it. The task imports it as it
//! would import a file: every node is checked against its definition and every shape inferred anew, so nothing that
//! arrives is believed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actorflow_actors::exec::{Plan, Source};
use actorflow_core::error::{Error, Result};
use actorflow_core::resource::ResourceManager;
use actorflow_core::{AttrValue, DType, Graph, PartialShape};
use actorflow_transport::header::{decode_blob, encode_blob};
use prost::Message;
use rkyv::{Archive, Deserialize, Serialize};

use crate::graphdef::attrs::attr_to_message;
use crate::graphdef::decode::{DecodeLimits, decode_graph};
use crate::graphdef::proto::{GraphDef, NodeDef, VersionDef};
use crate::graphdef::{ImportOptions, MIN_CONSUMER, PRODUCER, import_into};
use crate::partition::Part;
use crate::passes::ir::Ir;
use crate::passes::{self, Passes};

/// A share of a plan.
#[derive(Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct WireShare {
    pub(crate) parts: Vec<WirePart>,
    /// Where each edge leads.
    pub(crate) routes: Vec<WireRoute>,
    /// What crosses on each edge, for messages.
    pub(crate) edge_names: Vec<String>,
    /// The tasks that routes name.
    pub(crate) tasks: Vec<WireTask>,
    pub(crate) feeds: u32,
    pub(crate) fetches: u32,
    /// The names of the passes that run.
    pub(crate) passes: Vec<String>,
}

/// What one device does.
#[derive(Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct WirePart {
    /// Which of the task's devices.
    pub(crate) device: u32,
    /// A `GraphDef`.
    pub(crate) graph: Vec<u8>,
    pub(crate) feeds: Vec<String>,
    pub(crate) fetches: Vec<String>,
    pub(crate) targets: Vec<String>,
    /// Which of the share's feeds they are.
    pub(crate) feed_numbers: Vec<u32>,
    pub(crate) fetch_numbers: Vec<u32>,
}

/// A task that edges lead to or come from.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct WireTask {
    /// `/job:ps/task:0`.
    pub(crate) name: String,
    /// `host:port`.
    pub(crate) addr: String,
}

/// Where an edge leads, as the share's task sees it.
#[derive(Debug, Clone, Copy, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct WireRoute {
    /// One of the constants below.
    pub(crate) kind: u8,
    /// Which of the share's tasks.
    pub(crate) task: u32,
}

/// The edge is between others.
pub(crate) const ELSEWHERE: u8 = 0;
/// From one device of the task to another.
pub(crate) const HERE: u8 = 1;
/// To another task.
pub(crate) const AWAY: u8 = 2;
/// From another task.
pub(crate) const FROM: u8 = 3;

/// The bytes of a share.
///
/// # Errors
/// `INVALID_ARGUMENT` if it cannot be serialised.
pub(crate) fn to_bytes(share: &WireShare) -> Result<bytes::Bytes> {
    encode_blob(share)
}

/// The share that bytes are.
///
/// # Errors
/// `INVALID_ARGUMENT` for anything else.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<WireShare> {
    decode_blob(bytes)
}

/// The names of the passes.
pub(crate) fn pass_names(passes: Passes) -> Vec<String> {
    Passes::EACH
        .iter()
        .filter(|(_, p)| passes.and(*p) == passes)
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

/// The passes of these names.
///
/// # Errors
/// `INVALID_ARGUMENT` for a name that is none.
pub(crate) fn passes_of(names: &[String]) -> Result<Passes> {
    match names {
        [] => Ok(Passes::NONE),
        names => names.join(",").parse(),
    }
}

/// A part of a graph, ready to travel.
///
/// # Errors
/// `UNIMPLEMENTED` naming a node with an attribute that has no file form.
pub(crate) fn part_to_wire(
    part: &Part,
    device: usize,
    feed_numbers: &[usize],
    fetch_numbers: &[usize],
) -> Result<WirePart> {
    let ir = &part.ir;
    let names = unique_names(ir);
    let mut taken: HashSet<&str> = names.iter().map(String::as_str).collect();
    let feeds: Vec<String> = (0..ir.feeds).map(|k| free_name(&taken, &format!("feed{k}"))).collect();
    taken.extend(feeds.iter().map(String::as_str));
    let mut def = GraphDef {
        versions: Some(VersionDef {
            producer: PRODUCER,
            min_consumer: MIN_CONSUMER,
            bad_consumers: Vec::new(),
        }),
        ..Default::default()
    };
    for (k, name) in feeds.iter().enumerate() {
        def.node.push(placeholder(name, feed_type(ir, k))?);
    }
    let input_name = |s: &Source| match *s {
        Source::Feed(k) => feeds[k].clone(),
        Source::Node { node, output: 0 } => names[node].clone(),
        Source::Node { node, output } => format!("{}:{output}", names[node]),
    };
    for (i, n) in ir.nodes.iter().enumerate() {
        let Some(n) = n else { continue };
        let mut node = NodeDef {
            name: names[i].clone(),
            op: n.def.name().to_owned(),
            input: n.inputs.iter().map(input_name).collect(),
            ..Default::default()
        };
        node.input.extend(n.control.iter().map(|c| format!("^{}", names[*c])));
        for (name, value) in n.attrs.iter() {
            // What colocates is decided already, and would name nodes that are elsewhere.
            if name == "_class" {
                continue;
            }
            let kind = n.def.attr_def(name).map(|a| a.kind);
            let message =
                attr_to_message(value, kind).map_err(|e| n.blame(e.context(format!("attribute {name:?}"))))?;
            node.attr.insert(name.to_owned(), message);
        }
        def.node.push(node);
    }
    let targets = ir
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, n)| n.as_ref().is_some_and(|n| n.target));
    let targets = targets.map(|(i, _)| names[i].clone()).collect();
    let fetches = ir.fetches.iter().map(|s| match *s {
        Source::Node { node, output } => Ok(format!("{}:{output}", names[node])),
        Source::Feed(_) => Err(Error::internal("a fed fetch was not passed on")),
    });
    let fetches = fetches.collect::<Result<_>>()?;
    Ok(WirePart {
        device: small(device)?,
        graph: def.encode_to_vec(),
        targets,
        fetches,
        feeds,
        feed_numbers: feed_numbers.iter().map(|n| small(*n)).collect::<Result<_>>()?,
        fetch_numbers: fetch_numbers.iter().map(|n| small(*n)).collect::<Result<_>>()?,
    })
}

fn small(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::exhausted("the plan is too large to be sent"))
}

/// Names for the nodes: their own where it is the only one of that name.
fn unique_names(ir: &Ir) -> Vec<String> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for n in ir.nodes.iter().flatten() {
        *seen.entry(&n.name).or_default() += 1;
    }
    // Of several with one name, the one that made the name keeps it: state goes by names, and passes add their nodes
    // behind those that they take the names of.
    let mut given: HashSet<&str> = HashSet::new();
    let mut names = Vec::with_capacity(ir.nodes.len());
    for (i, n) in ir.nodes.iter().enumerate() {
        names.push(match n {
            None => String::new(),
            Some(n) if given.insert(&n.name) => n.name.to_string(),
            Some(n) => {
                let mut name = format!("{}/_{i}", n.name);
                while seen.contains_key(name.as_str()) {
                    name.push('_');
                }
                name
            }
        });
    }
    names
}

fn free_name(taken: &HashSet<&str>, wanted: &str) -> String {
    let mut name = wanted.to_owned();
    while taken.contains(name.as_str()) {
        name.push('_');
    }
    name
}

/// The dtype of a feed, as its first user wants it.
fn feed_type(ir: &Ir, k: usize) -> DType {
    let mut users = ir
        .nodes
        .iter()
        .flatten()
        .flat_map(|n| n.inputs.iter().zip(&n.input_types));
    let found = users.find(|(s, _)| matches!(**s, Source::Feed(f) if f == k));
    found.map_or(DType::F32, |(_, t)| *t)
}

fn placeholder(name: &str, dtype: DType) -> Result<NodeDef> {
    let mut node = NodeDef {
        name: name.to_owned(),
        op: "Placeholder".to_owned(),
        ..Default::default()
    };
    let mut attr = |name: &str, value: AttrValue| -> Result<()> {
        node.attr.insert(name.to_owned(), attr_to_message(&value, None)?);
        Ok(())
    };
    attr("dtype", AttrValue::Type(dtype))?;
    attr("shape", AttrValue::Shape(PartialShape::UNKNOWN))?;
    Ok(node)
}

/// Nodes that calls of functions may become. Coordinators send graphs without calls.
const MOST_INLINED: usize = 1 << 17;

/// What the graphs of one share may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GraphLimits {
    /// Bytes: of the graphs as they arrive, and of each graph's decoded nodes and of its constants in memory.
    pub(crate) bytes: usize,
    /// Nodes.
    pub(crate) nodes: usize,
}

impl GraphLimits {
    /// Takes what a graph of so many encoded bytes and nodes needs out of what is left.
    fn spend(&mut self, bytes: usize, nodes: usize) -> Result<()> {
        let left = (self.bytes.checked_sub(bytes), self.nodes.checked_sub(nodes));
        let (Some(bytes), Some(nodes)) = left else {
            return Err(Error::exhausted(format!(
                "a part of the graph has {nodes} nodes in {bytes} bytes, and the limits leave room for {} in {}",
                self.nodes, self.bytes
            )));
        };
        *self = GraphLimits { bytes, nodes };
        Ok(())
    }
}

/// The graph of a part that has arrived, within what is left for its share.
///
/// # Errors
/// As importing a graph, naming what is wrong in it; `RESOURCE_EXHAUSTED` beyond the limits.
pub(crate) fn import_part(part: &WirePart, left: &mut GraphLimits) -> Result<Graph> {
    let limits = DecodeLimits {
        max_bytes: left.bytes.min(DecodeLimits::default().max_bytes),
        max_memory: left.bytes,
        ..DecodeLimits::default()
    };
    let def = decode_graph(part.graph.clone().into(), &limits)?;
    left.spend(part.graph.len(), def.node.len())?;
    let options = ImportOptions::new()
        .max_constants(limits.max_memory)
        .max_inlined_nodes(left.nodes.min(MOST_INLINED));
    let imported = import_into(&Graph::new(), &def, &options)?;
    // Calls of functions have become more nodes than the one that they were.
    left.spend(0, imported.operations.len().saturating_sub(def.node.len()))?;
    Ok(imported.graph)
}

/// Compiles the graph of a part that has arrived.
///
/// # Errors
/// `NOT_FOUND` for names that the graph does not have; what making a plan and its kernels says.
pub(crate) fn compile(
    part: &WirePart,
    graph: &Graph,
    passes: Passes,
    resources: &Arc<ResourceManager>,
) -> Result<Arc<Plan>> {
    let outputs =
        |names: &[String]| -> Result<Vec<_>> { names.iter().map(|n| Ok(graph.output(n)?.as_ref())).collect() };
    let (feeds, fetches) = (outputs(&part.feeds)?, outputs(&part.fetches)?);
    let targets: Vec<_> = part
        .targets
        .iter()
        .map(|n| Ok(graph.operation(n)?.id()))
        .collect::<Result<_>>()?;
    let mut ir = Ir::reduce(graph, &feeds, &fetches, &targets)?;
    passes::optimize(&mut ir, passes, resources)?;
    Plan::new(ir.into_spec(resources)?)
}

#[cfg(test)]
mod tests {
    use actorflow_core::Code;

    use super::*;
    use crate::graphdef::proto::tensor_shape_proto::Dim;
    use crate::graphdef::proto::{self, TensorProto, TensorShapeProto};

    fn part(def: &GraphDef) -> WirePart {
        WirePart {
            device: 0,
            graph: def.encode_to_vec(),
            feeds: Vec::new(),
            fetches: Vec::new(),
            targets: Vec::new(),
            feed_numbers: Vec::new(),
            fetch_numbers: Vec::new(),
        }
    }

    fn graph(nodes: usize) -> GraphDef {
        let node = |i| placeholder(&format!("x{i}"), DType::F32).unwrap();
        GraphDef {
            node: (0..nodes).map(node).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_parts_of_a_share_have_their_nodes_and_bytes_together() {
        let part = part(&graph(3));
        let mut left = GraphLimits {
            bytes: 1 << 20,
            nodes: 6,
        };
        assert!(import_part(&part, &mut left).is_ok() && import_part(&part, &mut left).is_ok());
        assert_eq!((left.nodes, left.bytes), (0, (1 << 20) - 2 * part.graph.len()));
        let e = import_part(&part, &mut left).err().unwrap();
        assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
        let mut left = GraphLimits {
            bytes: part.graph.len() - 1,
            nodes: 6,
        };
        let e = import_part(&part, &mut left).err().unwrap();
        assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
    }

    #[test]
    fn a_small_graph_of_large_constants_is_refused() {
        // One value that stands for sixteen million.
        let shape = TensorShapeProto {
            dim: vec![Dim {
                size: 16 << 20,
                ..Default::default()
            }],
            ..Default::default()
        };
        let tensor = TensorProto {
            dtype: 1,
            tensor_shape: Some(shape),
            float_val: vec![1.0],
            ..Default::default()
        };
        let mut node = NodeDef {
            name: "c".into(),
            op: "Const".into(),
            ..Default::default()
        };
        let value = proto::AttrValue {
            value: Some(proto::attr_value::Value::Tensor(Box::new(tensor))),
        };
        node.attr.insert("value".into(), value);
        let dtype = attr_to_message(&AttrValue::Type(DType::F32), None).unwrap();
        node.attr.insert("dtype".into(), dtype);
        let part = part(&GraphDef {
            node: vec![node],
            ..Default::default()
        });
        assert!(part.graph.len() < 200);
        let limits = |bytes| GraphLimits { bytes, nodes: 10 };
        let e = import_part(&part, &mut limits(32 << 20)).err().unwrap();
        assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
        assert_eq!(e.node(), Some("c"));
        assert!(import_part(&part, &mut limits(128 << 20)).is_ok());
    }
}
