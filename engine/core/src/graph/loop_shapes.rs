//! Shapes inside of loops, once their back edges are known.

use std::collections::HashMap;
use std::sync::Arc;

use super::shape_context::infer_with;
use super::{Graph, Node, OutputRef};
use crate::shape::PartialShape;

/// Each pass forgets at least one dimension; loops that need more passes keep the shapes that they have.
const MAX_PASSES: usize = 12;

impl Graph {
    /// For importers: infers the shapes of the nodes from number `first` on anew, now that back edges of loops lead
    /// to nodes among them. Returns whether a shape became known better.
    ///
    /// The shape of a loop variable is at first assumed to be the one that enters the loop. Where the loop's body
    /// gives another shape under this assumption, the dimensions that differ are taken as unknown, until body and
    /// assumption agree; by induction the assumption then holds in every iteration.
    pub fn infer_loop_shapes(&self, first: usize) -> bool {
        let nodes: Vec<Arc<Node>> = self.read(|d| d.nodes.get(first..).map(<[_]>::to_vec).unwrap_or_default());
        let Some(shapes) = fixed_point(self, first, &nodes) else {
            return false;
        };
        let mut changed = false;
        self.write(|d| {
            for (node, shapes) in nodes.iter().zip(shapes) {
                if node.output_shapes != shapes {
                    let mut better = (**node).clone();
                    better.output_shapes = shapes;
                    d.nodes[node.id.index()] = Arc::new(better);
                    changed = true;
                }
            }
            d.version += u64::from(changed);
        });
        changed
    }
}

/// The shapes of the outputs of `nodes`; `None` if a shape function fails or no assumption holds.
fn fixed_point(graph: &Graph, first: usize, nodes: &[Arc<Node>]) -> Option<Vec<Vec<PartialShape>>> {
    let is_back = |node: &Node, r: &OutputRef| r.node >= node.id;
    // What is assumed of the value of each back edge, by Merge and input.
    let mut assumed: HashMap<(usize, usize), PartialShape> = HashMap::new();
    for _ in 0..MAX_PASSES {
        let mut shapes: Vec<Vec<PartialShape>> = Vec::with_capacity(nodes.len());
        for (at, node) in nodes.iter().enumerate() {
            let now = |r: &OutputRef| -> PartialShape {
                let index = r.index as usize;
                let known = match r.node.index().checked_sub(first) {
                    Some(i) => shapes.get(i).and_then(|s| s.get(index)).cloned(),
                    None => graph.read(|d| d.nodes[r.node.index()].output_shapes.get(index).cloned()),
                };
                known.unwrap_or_default()
            };
            let entry = node.inputs.iter().find(|r| !is_back(node, r)).map(&now);
            let inputs = node
                .inputs
                .iter()
                .enumerate()
                .map(|(i, r)| match is_back(node, r) {
                    false => now(r),
                    true => assumed
                        .entry((at, i))
                        .or_insert_with(|| entry.clone().unwrap_or_default())
                        .clone(),
                })
                .collect();
            let out = infer_with(graph, node, inputs).ok()?;
            shapes.push(out);
        }
        let mut holds = true;
        for ((at, i), shape) in &mut assumed {
            let r = nodes[*at].inputs[*i];
            let got = shapes.get(r.node.index().checked_sub(first)?)?.get(r.index as usize)?;
            let both = shape.relax(got);
            holds &= both == *shape;
            *shape = both;
        }
        if holds {
            return Some(shapes);
        }
    }
    None
}
