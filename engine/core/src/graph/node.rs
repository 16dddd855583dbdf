//! Nodes as they are stored.

use std::panic::Location;
use std::sync::Arc;

use crate::attr::Attrs;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::OpDef;
use crate::shape::PartialShape;

/// The number of a node in its graph, dense from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// The number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Output `index` of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutputRef {
    /// The node.
    pub node: NodeId,
    /// Which of its outputs.
    pub index: u32,
}

/// A node: an operation with its attributes and edges.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) id: NodeId,
    pub(crate) name: Arc<str>,
    pub(crate) def: &'static OpDef,
    pub(crate) attrs: Attrs,
    pub(crate) inputs: Vec<OutputRef>,
    pub(crate) input_types: Vec<DType>,
    /// Which inputs the op takes as references (not as values).
    pub(crate) input_refs: Vec<bool>,
    pub(crate) control_inputs: Vec<NodeId>,
    pub(crate) output_types: Vec<DType>,
    pub(crate) output_refs: Vec<bool>,
    pub(crate) output_shapes: Vec<PartialShape>,
    pub(crate) device: String,
    pub(crate) colocate_with: Vec<String>,
    pub(crate) location: Option<&'static Location<'static>>,
}

impl Node {
    /// The number in the graph.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The unique name, with scopes: `layer1/MatMul`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, shared.
    pub fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// The operation's definition.
    pub fn def(&self) -> &'static OpDef {
        self.def
    }

    /// The operation's name.
    pub fn op_name(&self) -> &'static str {
        self.def.name()
    }

    /// The attributes, defaults filled in.
    pub fn attrs(&self) -> &Attrs {
        &self.attrs
    }

    /// The data inputs.
    pub fn inputs(&self) -> &[OutputRef] {
        &self.inputs
    }

    /// The dtypes of the data inputs.
    pub fn input_types(&self) -> &[DType] {
        &self.input_types
    }

    /// Which inputs the operation takes as references to variables.
    pub fn input_refs(&self) -> &[bool] {
        &self.input_refs
    }

    /// The nodes that must finish before this one starts.
    pub fn control_inputs(&self) -> &[NodeId] {
        &self.control_inputs
    }

    /// The number of outputs.
    pub fn num_outputs(&self) -> usize {
        self.output_types.len()
    }

    /// The dtypes of the outputs.
    pub fn output_types(&self) -> &[DType] {
        &self.output_types
    }

    /// The dtype of output `i`, which must exist.
    pub fn output_type(&self, i: usize) -> DType {
        self.output_types[i]
    }

    /// Whether output `i` is a reference to a variable.
    pub fn output_is_ref(&self, i: usize) -> bool {
        self.output_refs.get(i).copied().unwrap_or(false)
    }

    /// What is known of the shape of output `i`, which must exist.
    pub fn output_shape(&self, i: usize) -> &PartialShape {
        &self.output_shapes[i]
    }

    /// The device that was asked for, possibly partial, possibly empty.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The names of nodes that must be on the same device.
    pub fn colocate_with(&self) -> &[String] {
        &self.colocate_with
    }

    /// The source line that built it, unless it was imported.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.location
    }

    /// Adds to an error what is known of this node.
    pub fn blame(&self, e: Error) -> Error {
        let e = e.at_node(&self.name, self.op_name());
        match self.location {
            Some(l) => e.built_at(l),
            None => e,
        }
    }

    pub(crate) fn set_input(&mut self, i: usize, to: OutputRef, dtype: DType) -> Result<()> {
        match (self.inputs.get_mut(i), self.input_types.get(i)) {
            (Some(slot), Some(t)) if *t == dtype => {
                *slot = to;
                Ok(())
            }
            (Some(_), Some(t)) => Err(Error::invalid(format!(
                "input {i} of {} is {t}, the back edge {dtype}",
                self.name
            ))),
            _ => Err(Error::invalid(format!("{} has no input {i}", self.name))),
        }
    }
}
