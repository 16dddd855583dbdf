//! What a shape function sees.

use std::sync::Arc;

use super::const_eval::{constant_shape, constant_value};
use super::{Graph, Node, Output, OutputRef};
use crate::attr::Attrs;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::PartialShape;
use crate::tensor::Tensor;

/// The inputs of a node whose output shapes are being inferred.
pub struct ShapeContext<'a> {
    graph: &'a Graph,
    node: &'a Node,
    shapes: Vec<PartialShape>,
}

impl ShapeContext<'_> {
    /// The number of inputs.
    pub fn num_inputs(&self) -> usize {
        self.shapes.len()
    }

    /// The number of outputs.
    pub fn num_outputs(&self) -> usize {
        self.node.num_outputs()
    }

    /// What is known of the shape of input `i`; unknown if there is no such input.
    pub fn input(&self, i: usize) -> PartialShape {
        self.shapes.get(i).cloned().unwrap_or_default()
    }

    /// All inputs' shapes.
    pub fn inputs(&self) -> &[PartialShape] {
        &self.shapes
    }

    /// The attributes, defaults filled in.
    pub fn attrs(&self) -> &Attrs {
        self.node.attrs()
    }

    /// The dtype of input `i`, if it exists.
    pub fn input_type(&self, i: usize) -> Option<DType> {
        self.node.input_types().get(i).copied()
    }

    /// The value of input `i` if it is known when the graph is built.
    pub fn constant(&self, i: usize) -> Option<Tensor> {
        constant_value(self.graph, *self.node.inputs().get(i)?)
    }

    /// The value of input `i`, an integer vector, as a shape of which some dimensions may be known.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the value is known and is no shape. (-1 is an unknown dimension.)
    pub fn constant_shape(&self, i: usize) -> Result<PartialShape> {
        match self.node.inputs().get(i) {
            Some(r) => constant_shape(self.graph, *r),
            None => Ok(PartialShape::UNKNOWN),
        }
    }

    /// The value of input `i`, an integer scalar, if it is known.
    pub fn constant_i64(&self, i: usize) -> Option<i64> {
        self.constant(i)?.to_i64().ok()
    }

    /// The node that made the resource handle (or reference) of input `i`, as far as it can be followed.
    pub fn handle_maker(&self, i: usize) -> Option<Arc<Node>> {
        let mut at = *self.node.inputs().get(i)?;
        // Handles pass through few nodes; the bound only guards against the back edges of loops.
        for _ in 0..64 {
            let node = self.graph.read(|d| d.nodes.get(at.node.index()).cloned())?;
            let input = match node.op_name() {
                "Identity" | "Enter" | "Exit" | "Switch" | "Merge" | "NextIteration" | "RefIdentity" | "RefEnter"
                | "RefExit" | "RefSwitch" | "RefMerge" | "RefNextIteration" | "FakeQueue" | "_SwitchN"
                // An array of gradients has the elements of the array.
                | "TensorArrayGradV3" => 0,
                "IdentityN" => at.index as usize,
                _ => return Some(node),
            };
            at = *node.inputs().get(input)?;
        }
        None
    }

    /// The shape declared for the resource variable whose handle is input `i`, if it is known.
    pub fn variable_shape(&self, i: usize) -> PartialShape {
        match self.handle_maker(i) {
            Some(n) if n.op_name() == "VarHandleOp" => n.attrs().shape("shape").cloned().unwrap_or_default(),
            _ => PartialShape::UNKNOWN,
        }
    }

    /// The values of input `i`, integers, if they are known.
    pub fn constant_i64s(&self, i: usize) -> Option<Vec<i64>> {
        self.constant(i)?.to_i64_vec().ok()
    }
}

/// Runs the node's shape function. `node` is not in the graph yet; nothing is known of the inputs `unknown`.
pub(crate) fn infer(graph: &Graph, node: &Node, unknown: &[usize]) -> Result<Vec<PartialShape>> {
    let known = |r: &OutputRef| {
        graph.read(|d| {
            let from = d.nodes.get(r.node.index())?;
            from.output_shapes.get(r.index as usize).cloned()
        })
    };
    let shapes: Vec<PartialShape> = node
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, r)| if unknown.contains(&i) { None } else { known(r) })
        .map(Option::unwrap_or_default)
        .collect();
    infer_with(graph, node, shapes)
}

/// Runs the node's shape function with these input shapes.
pub(crate) fn infer_with(graph: &Graph, node: &Node, shapes: Vec<PartialShape>) -> Result<Vec<PartialShape>> {
    let names = |shapes: &[PartialShape]| shapes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let cx = ShapeContext { graph, node, shapes };
    let out = node.def().shape_fn()(&cx).map_err(|e| {
        e.context(format!(
            "{} cannot take inputs of shapes {}",
            node.op_name(),
            names(&cx.shapes)
        ))
    })?;
    if out.len() != node.num_outputs() {
        return Err(Error::internal(format!(
            "the shape function of {} gave {} shapes for {} outputs",
            node.op_name(),
            out.len(),
            node.num_outputs()
        )));
    }
    Ok(out)
}

impl Output {
    /// The value, if it is known when the graph is built (a constant, or computed from constants and known shapes).
    pub fn constant_value(&self) -> Option<Tensor> {
        constant_value(
            self.graph(),
            OutputRef {
                node: self.op().id(),
                index: self.index() as u32,
            },
        )
    }
}
