//! The order in which the nodes of a file are added: producers first, loops closed afterwards.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::proto::{GraphDef, NodeDef};
use actorflow_core::{Error, Result};

/// An input of a node as the file writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input<'a> {
    /// `name` or `name:index`
    Data(&'a str, usize),
    /// `^name`
    Control(&'a str),
}

impl<'a> Input<'a> {
    /// Parses one string of `NodeDef.input`.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        if let Some(name) = text.strip_prefix('^') {
            return Ok(Input::Control(name));
        }
        match text.rsplit_once(':') {
            Some((name, i)) if i.bytes().all(|b| b.is_ascii_digit()) => {
                let i = i.parse().ok().filter(|i| *i <= i32::MAX as usize);
                let i = i.ok_or_else(|| Error::invalid(format!("bad input {text:?}: expected \"node:output\"")))?;
                Ok(Input::Data(name, i))
            }
            _ => Ok(Input::Data(text, 0)),
        }
    }

    pub(crate) fn node(self) -> &'a str {
        match self {
            Input::Data(n, _) | Input::Control(n) => n,
        }
    }
}

/// Whether a data edge between these operations closes a loop, so that its producer comes after its consumer.
pub(crate) fn is_back_edge(from: &NodeDef, to: &NodeDef) -> bool {
    matches!(to.op.as_str(), "Merge" | "RefMerge") && matches!(from.op.as_str(), "NextIteration" | "RefNextIteration")
}

/// The nodes of a file by name.
pub(crate) struct Index<'a>(HashMap<&'a str, usize>);

impl<'a> Index<'a> {
    /// Checks that names are legal and unique.
    pub(crate) fn new(def: &'a GraphDef) -> Result<Self> {
        let mut by_name = HashMap::with_capacity(def.node.len());
        for (i, n) in def.node.iter().enumerate() {
            let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '\\' | '>');
            if n.name.is_empty() || n.name.starts_with(['-', '/', '\\', '>']) || !n.name.chars().all(ok) {
                return Err(Error::invalid(format!(
                    "node {i} of the file has the illegal name {:?}; rename it to letters, digits, '.', '_', '-', '/'",
                    n.name
                )));
            }
            if by_name.insert(n.name.as_str(), i).is_some() {
                return Err(Error::invalid(format!("the file has two nodes named {:?}", n.name)));
            }
        }
        Ok(Index(by_name))
    }

    /// The position of a node in the file.
    pub(crate) fn get(&self, name: &str) -> Option<usize> {
        self.0.get(name).copied()
    }
}

/// The positions of all nodes so that each comes after what it takes input from, back edges of loops excepted;
/// otherwise the file's own order is kept.
///
/// `elsewhere` says which inputs come from outside of the file.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the node for a malformed or unknown input, and for a cycle that is no loop.
pub(crate) fn order(def: &GraphDef, index: &Index<'_>, elsewhere: impl Fn(Input<'_>) -> bool) -> Result<Vec<usize>> {
    let n = def.node.len();
    let mut pending = vec![0u32; n];
    let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (i, node) in def.node.iter().enumerate() {
        let blame = |e: Error| e.at_node(&node.name, &node.op);
        let mut control = false;
        for text in &node.input {
            let input = Input::parse(text).map_err(blame)?;
            match input {
                Input::Control(_) => control = true,
                Input::Data(..) if control => {
                    return Err(blame(Error::invalid(format!(
                        "the data input {text:?} comes after a control input; put all control inputs last"
                    ))));
                }
                Input::Data(..) => {}
            }
            if elsewhere(input) {
                continue;
            }
            let Some(from) = index.get(input.node()) else {
                return Err(blame(Error::invalid(format!(
                    "input {text:?} names a node that the file does not have; add it or map the input to a tensor"
                ))));
            };
            if matches!(input, Input::Data(..)) && is_back_edge(&def.node[from], node) {
                continue;
            }
            pending[i] += 1;
            consumers[from].push(i);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..n).filter(|i| pending[*i] == 0).map(Reverse).collect();
    let mut out = Vec::with_capacity(n);
    while let Some(Reverse(i)) = ready.pop() {
        out.push(i);
        for &c in &consumers[i] {
            pending[c] -= 1;
            if pending[c] == 0 {
                ready.push(Reverse(c));
            }
        }
    }
    if out.len() < n {
        return Err(cycle(def, index, &pending));
    }
    Ok(out)
}

/// Names a cycle among the nodes that are still pending.
fn cycle(def: &GraphDef, index: &Index<'_>, pending: &[u32]) -> Error {
    let mut at = pending.iter().position(|p| *p > 0).unwrap_or(0);
    let mut path: Vec<usize> = Vec::new();
    let mut step = vec![usize::MAX; pending.len()];
    // Every pending node has a pending producer, so following producers ends in a cycle.
    while step[at] == usize::MAX {
        step[at] = path.len();
        path.push(at);
        let node = &def.node[at];
        let from = node.input.iter().find_map(|text| {
            let input = Input::parse(text).ok()?;
            let from = index.get(input.node())?;
            let back = matches!(input, Input::Data(..)) && is_back_edge(&def.node[from], node);
            (pending[from] > 0 && !back).then_some(from)
        });
        match from {
            Some(f) => at = f,
            None => break,
        }
    }
    let names: Vec<&str> = path[step[at].min(path.len() - 1)..]
        .iter()
        .rev()
        .take(6)
        .map(|i| def.node[*i].name.as_str())
        .collect();
    let first = &def.node[at];
    Error::invalid(format!(
        "the nodes {} form a cycle that is no loop (only a NextIteration may feed back, into a Merge)",
        names.join(" -> ")
    ))
    .at_node(&first.name, &first.op)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(nodes: &[(&str, &str, &[&str])]) -> GraphDef {
        GraphDef {
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
        }
    }

    fn names(def: &GraphDef) -> Result<Vec<&str>> {
        let order = order(def, &Index::new(def)?, |_| false)?;
        Ok(order.into_iter().map(|i| def.node[i].name.as_str()).collect())
    }

    #[test]
    fn inputs_are_parsed() {
        assert_eq!(Input::parse("a/b:3").unwrap(), Input::Data("a/b", 3));
        assert_eq!(Input::parse("a").unwrap(), Input::Data("a", 0));
        assert_eq!(Input::parse("^a").unwrap(), Input::Control("a"));
        assert!(Input::parse("a:99999999999999999999").is_err());
        assert!(Input::parse("a:").is_err(), "no number is no output");
    }

    #[test]
    fn nodes_may_come_in_any_order() {
        let g = graph(&[
            ("c", "Add", &["a", "b:1"]),
            ("b", "X", &["a", "^d"]),
            ("a", "X", &[]),
            ("d", "X", &[]),
        ]);
        assert_eq!(names(&g).unwrap(), ["a", "d", "b", "c"]);
    }

    #[test]
    fn a_loop_is_ordered_from_its_merge() {
        let g = graph(&[
            ("next", "NextIteration", &["body"]),
            ("merge", "Merge", &["enter", "next"]),
            ("body", "Add", &["merge", "merge"]),
            ("enter", "Enter", &[]),
        ]);
        assert_eq!(names(&g).unwrap(), ["enter", "merge", "body", "next"]);
    }

    #[test]
    fn a_cycle_that_is_no_loop_is_named() {
        let g = graph(&[
            ("x", "X", &[]),
            ("a", "X", &["b", "x"]),
            ("b", "X", &["c"]),
            ("c", "X", &["a"]),
            ("after", "X", &["a"]),
        ]);
        let e = names(&g).unwrap_err();
        for n in ["a", "b", "c"] {
            assert!(e.message().contains(n), "{e}");
        }
        assert!(!e.message().contains("after"), "{e}");
        let own = graph(&[("a", "X", &["a"])]);
        assert!(names(&own).unwrap_err().message().contains("cycle"));
    }

    #[test]
    fn bad_names_and_inputs_are_refused() {
        assert!(Index::new(&graph(&[("", "X", &[])])).is_err());
        assert!(Index::new(&graph(&[("a b", "X", &[])])).is_err());
        assert!(Index::new(&graph(&[("a", "X", &[]), ("a", "Y", &[])])).is_err());
        let e = names(&graph(&[("a", "X", &["nobody:1"])])).unwrap_err();
        assert_eq!(e.node(), Some("a"));
        assert!(e.message().contains("nobody:1"));
        let e = names(&graph(&[("b", "X", &[]), ("a", "X", &["^b", "b"])])).unwrap_err();
        assert!(e.message().contains("control inputs last"));
    }
}
