//! What a drawing of a graph needs to know.

use std::collections::HashMap;

use actorflow::graphdef::proto::GraphDef;
use actorflow::op::{Category, registry};

/// A node of the drawing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Vertex {
    pub(super) name: String,
    pub(super) op: String,
    /// Unknown for operations that the engine does not have.
    pub(super) category: Option<Category>,
}

/// An edge of the drawing; parallel ones are drawn once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) control: bool,
}

/// Nodes and edges of a file; edges that lead nowhere are left out.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) vertices: Vec<Vertex>,
    pub(super) edges: Vec<Edge>,
}

impl Picture {
    pub(super) fn new(def: &GraphDef) -> Picture {
        let index: HashMap<&str, usize> = def.node.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
        let vertices = def
            .node
            .iter()
            .map(|n| Vertex {
                name: n.name.clone(),
                op: n.op.clone(),
                category: registry().find(&n.op).map(|op| op.category()),
            })
            .collect();
        let mut edges = Vec::new();
        for (to, node) in def.node.iter().enumerate() {
            for input in &node.input {
                let (control, name) = match input.strip_prefix('^') {
                    Some(name) => (true, name),
                    None => (false, input.split(':').next().unwrap_or(input)),
                };
                if let Some(&from) = index.get(name) {
                    edges.push(Edge { from, to, control });
                }
            }
        }
        edges.sort();
        edges.dedup_by_key(|e| (e.from, e.to));
        Picture { vertices, edges }
    }
}

impl Vertex {
    /// The colour of its box.
    pub(super) fn fill(&self) -> &'static str {
        match self.category {
            None => "#f4b6b6",
            Some(Category::State) => "#ffe0a3",
            Some(Category::Training) => "#ffd0b0",
            Some(Category::ControlFlow) => "#e3c8f2",
            Some(Category::Queue | Category::Io) => "#f7d4e3",
            Some(Category::Matrix | Category::Nn) => "#bcd9f5",
            Some(Category::Math | Category::Reduction) => "#cfe8d5",
            Some(Category::Random) => "#d5e8a8",
            Some(_) => "#e9e9ee",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use actorflow::graphdef::proto::NodeDef;

    /// A picture of nodes given as name, operation and inputs.
    pub(crate) fn picture(nodes: &[(&str, &str, &[&str])]) -> Picture {
        Picture::new(&GraphDef {
            node: nodes
                .iter()
                .map(|(name, op, input)| NodeDef {
                    name: (*name).into(),
                    op: (*op).into(),
                    input: input.iter().map(|i| (*i).to_owned()).collect(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })
    }

    #[test]
    fn parallel_edges_are_one_and_dangling_ones_none() {
        let p = picture(&[("a", "Const", &[]), ("b", "NoSuchOp", &["a", "a:1", "^a", "gone"])]);
        let edge = Edge {
            from: 0,
            to: 1,
            control: false,
        };
        assert_eq!(p.edges, [edge], "a data edge wins over a control edge");
        assert_eq!(p.vertices[1].category, None);
        assert!(p.vertices[0].category.is_some());
    }
}
