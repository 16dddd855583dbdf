//! What is known of a library before anything is expanded: who calls whom, how much that makes, what has effects.

#![forbid(unsafe_code)]

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::super::order::Input;
use super::super::proto::attr_value::Value;
use super::super::proto::{AttrValue, FunctionDef, GraphDef, NameAttrList, NodeDef};
use super::{Limits, MAX_DEPTH, MAX_NAME_BYTES, is_stateful};
use actorflow_core::op::registry;
use actorflow_core::{Error, Result};

/// How a node runs functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `PartitionedCall`, `StatefulPartitionedCall`
    Plain,
    /// `RemoteCall`
    Remote,
    /// The operation is the function's name.
    Named,
    /// `SymbolicGradient`
    Gradient,
    /// `If`, `StatelessIf`
    If,
    /// `Case`, `StatelessCase`
    Case,
    /// `While`, `StatelessWhile`
    While,
    /// `For`
    For,
}

/// What running a function amounts to, with the functions that it runs.
#[derive(Debug, Clone, Copy)]
struct Facts {
    nodes: u64,
    /// Of the names, relative to the call.
    bytes: u64,
    depth: usize,
    effects: bool,
}

/// See the [module](self).
pub(super) struct Library<'a> {
    functions: HashMap<&'a str, &'a FunctionDef>,
    /// The functions that compute gradients of others.
    gradients: HashMap<&'a str, &'a str>,
    nodes: HashMap<&'a str, &'a NodeDef>,
    facts: HashMap<&'a str, Facts>,
}

pub(super) fn too_large(limits: &Limits) -> Error {
    Error::exhausted(format!(
        "expanding the functions of the graph would make more than {} nodes or {MAX_NAME_BYTES} bytes of names; raise \
         the import's limit of inlined nodes, or call fewer functions",
        limits.nodes
    ))
}

pub(super) fn too_deep() -> Error {
    Error::exhausted(format!("functions call each other more than {MAX_DEPTH} levels deep"))
}

/// All functions that an attribute names, those inside of their own attributes too.
fn named_in<'a>(value: &'a AttrValue, found: &mut Vec<&'a NameAttrList>) {
    let mut todo = vec![value];
    while let Some(v) = todo.pop() {
        let fs: &[NameAttrList] = match &v.value {
            Some(Value::Func(f)) => std::slice::from_ref(f),
            Some(Value::List(l)) => &l.func,
            _ => continue,
        };
        for f in fs {
            found.push(f);
            todo.extend(f.attr.values());
        }
    }
}

impl<'a> Library<'a> {
    /// Indexes the functions of a file.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for two different functions of one name.
    pub(super) fn new(def: &'a GraphDef) -> Result<Self> {
        let mut functions: HashMap<&str, &FunctionDef> = HashMap::new();
        let mut gradients = HashMap::new();
        if let Some(l) = &def.library {
            for f in &l.function {
                let name = f.signature.as_ref().map_or("", |s| s.name.as_str());
                match functions.entry(name) {
                    Entry::Vacant(e) => {
                        e.insert(f);
                    }
                    Entry::Occupied(e) if *e.get() == f => {}
                    Entry::Occupied(_) => {
                        return Err(Error::invalid(format!(
                            "the file has two different functions named {name:?}"
                        )));
                    }
                }
            }
            for g in &l.gradient {
                gradients.insert(g.function_name.as_str(), g.gradient_func.as_str());
            }
        }
        Ok(Library {
            functions,
            gradients,
            nodes: def.node.iter().map(|n| (n.name.as_str(), n)).collect(),
            facts: HashMap::new(),
        })
    }

    /// How a node runs functions, if it does.
    pub(super) fn call(&self, node: &NodeDef) -> Option<Call> {
        Some(match node.op.as_str() {
            "PartitionedCall" | "StatefulPartitionedCall" => Call::Plain,
            "RemoteCall" => Call::Remote,
            "SymbolicGradient" => Call::Gradient,
            "If" | "StatelessIf" | "_If" => Call::If,
            "Case" | "StatelessCase" => Call::Case,
            "While" | "StatelessWhile" | "_While" => Call::While,
            "For" => Call::For,
            op if self.functions.contains_key(op) && registry().find(op).is_none() => Call::Named,
            _ => return None,
        })
    }

    /// The function of that name.
    ///
    /// # Errors
    /// `NOT_FOUND` naming it.
    pub(super) fn get(&self, name: &str) -> Result<&'a FunctionDef> {
        self.functions.get(name).copied().ok_or_else(|| {
            let mut known: Vec<&str> = self.functions.keys().copied().collect();
            known.sort_unstable();
            let more = known.len().saturating_sub(8);
            known.truncate(8);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            Error::not_found(format!(
                "the file's library has no function {name:?}; it has [{}]{more}",
                known.join(", ")
            ))
        })
    }

    /// All functions.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a FunctionDef> + '_ {
        self.functions.values().copied()
    }

    /// The function that the file declares to compute the gradient of another.
    pub(super) fn gradient_of(&self, name: &str) -> Option<&'a str> {
        self.gradients.get(name).copied()
    }

    /// Whether running a function may have effects; unknown functions may.
    pub(super) fn has_effects(&self, name: &str) -> bool {
        self.facts.get(name).is_none_or(|f| f.effects)
    }

    /// Whether a tensor of the file's own nodes is a reference to a variable.
    pub(super) fn is_reference(&self, tensor: &str) -> bool {
        let Ok(Input::Data(name, index)) = Input::parse(tensor) else {
            return false;
        };
        let Some(op) = self.nodes.get(name).and_then(|n| registry().find(&n.op)) else {
            return false;
        };
        // References come from operations whose outputs are no lists.
        op.outputs().get(index).is_some_and(|o| o.is_ref)
    }

    /// The functions that a node runs by itself.
    fn callees(&self, node: &'a NodeDef) -> Vec<&'a str> {
        if self.call(node) == Some(Call::Named) {
            return vec![&node.op];
        }
        let mut out = Vec::new();
        for a in node.attr.values() {
            match &a.value {
                Some(Value::Func(f)) => out.push(f.name.as_str()),
                Some(Value::List(l)) => out.extend(l.func.iter().map(|f| f.name.as_str())),
                _ => {}
            }
        }
        if self.call(node) == Some(Call::Gradient) {
            out.extend(out.clone().iter().filter_map(|f| self.gradient_of(f)));
        }
        out
    }

    /// All nodes that importing the file needs.
    pub(super) fn reached(&self, def: &'a GraphDef) -> Vec<&'a NodeDef> {
        let mut all: Vec<&'a NodeDef> = def.node.iter().collect();
        let mut seen: HashSet<&str> = HashSet::new();
        let mut at = 0;
        while at < all.len() {
            let node = all[at];
            at += 1;
            if self.call(node).is_none() {
                continue;
            }
            let mut named = Vec::new();
            for v in node.attr.values() {
                named_in(v, &mut named);
            }
            let names = named.into_iter().map(|f| f.name.as_str());
            for name in names.chain(self.callees(node)) {
                if let Some(f) = self.functions.get(name)
                    && seen.insert(name)
                {
                    all.extend(&f.node_def);
                }
            }
        }
        all
    }

    /// Computes what calls of functions amount to, without expanding any.
    ///
    /// # Errors
    /// As [`lower`](super::lower).
    pub(super) fn check(&mut self, def: &'a GraphDef, limits: &Limits) -> Result<()> {
        let mut total = Facts {
            nodes: 0,
            bytes: 0,
            depth: 0,
            effects: false,
        };
        for node in &def.node {
            if self.call(node).is_none() {
                continue;
            }
            let blame = |e: Error| e.at_node(&node.name, &node.op);
            for name in self.callees(node) {
                self.explore(name).map_err(blame)?;
            }
            let more = self.amount(node);
            total.nodes = total.nodes.saturating_add(more.nodes);
            total.bytes = total.bytes.saturating_add(more.bytes);
            if total.nodes > limits.nodes as u64 || total.bytes > MAX_NAME_BYTES as u64 {
                return Err(blame(too_large(limits)));
            }
            if more.depth > MAX_DEPTH {
                return Err(blame(too_deep()));
            }
        }
        Ok(())
    }

    /// What a node amounts to, once its functions are known.
    fn amount(&self, node: &'a NodeDef) -> Facts {
        let inputs = node.input.len() as u64;
        let mut f = Facts {
            nodes: 1,
            bytes: node.name.len() as u64,
            depth: 0,
            effects: is_stateful(&node.op),
        };
        if self.call(node).is_none() {
            return f;
        }
        f.nodes += 2 * inputs;
        let open = |v: &AttrValue| matches!(v.value, Some(Value::Placeholder(_)));
        f.effects |= node.attr.values().any(open);
        for name in self.callees(node) {
            let Some(g) = self.facts.get(name) else { continue };
            f.nodes = f.nodes.saturating_add(g.nodes);
            let prefixes = g.nodes.saturating_mul(node.name.len() as u64 + 1);
            f.bytes = f.bytes.saturating_add(g.bytes).saturating_add(prefixes);
            f.depth = f.depth.max(g.depth + 1);
            f.effects |= g.effects;
        }
        f
    }

    /// Visits a function and all that it runs, callees first.
    fn explore(&mut self, name: &'a str) -> Result<()> {
        if self.facts.contains_key(name) {
            return Ok(());
        }
        // The calls that are open, and which of their callees come next.
        let mut open: Vec<(&'a str, Vec<&'a str>)> = Vec::new();
        let mut is_open: HashSet<&'a str> = HashSet::new();
        let mut next = Some(name);
        loop {
            if let Some(name) = next.take() {
                if open.len() > MAX_DEPTH {
                    return Err(too_deep());
                }
                let f = self.get(name)?;
                let calls = f.node_def.iter().filter(|n| self.call(n).is_some());
                let callees: Vec<&str> = calls.flat_map(|n| self.callees(n)).collect();
                is_open.insert(name);
                open.push((name, callees));
            }
            let Some((name, callees)) = open.last_mut() else {
                return Ok(());
            };
            match callees.pop() {
                Some(callee) if is_open.contains(callee) => {
                    let from = open.iter().position(|(n, _)| *n == callee).unwrap_or(0);
                    let mut path: Vec<&str> = open[from..].iter().map(|(n, _)| *n).take(6).collect();
                    if open.len() - from > path.len() {
                        path.push("…");
                    }
                    path.push(callee);
                    return Err(Error::invalid(format!(
                        "the function {callee:?} calls itself ({}); recursive functions are not supported",
                        path.join(" -> ")
                    )));
                }
                Some(callee) if self.facts.contains_key(callee) => {}
                Some(callee) => next = Some(callee),
                None => {
                    let name = *name;
                    let mut sum = Facts {
                        nodes: 0,
                        bytes: 0,
                        depth: 0,
                        effects: false,
                    };
                    for node in &self.get(name)?.node_def {
                        let f = self.amount(node);
                        sum.nodes = sum.nodes.saturating_add(f.nodes);
                        sum.bytes = sum.bytes.saturating_add(f.bytes);
                        sum.depth = sum.depth.max(f.depth);
                        sum.effects |= f.effects;
                    }
                    self.facts.insert(name, sum);
                    is_open.remove(name);
                    open.pop();
                }
            }
        }
    }
}
