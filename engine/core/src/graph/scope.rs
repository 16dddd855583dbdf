//! Scopes: names, devices, control dependencies and colocation for the nodes that are added while they are open.
//!
//! Scopes nest lexically and belong to the thread that opened them, like `with` blocks in Python.

use std::collections::HashMap;
use std::thread::ThreadId;

use super::device::DeviceLayer;
use super::{ContextRef, Graph, NodeId, Operation};
use crate::error::{Error, Result};

#[derive(Clone)]
pub(crate) enum Scope {
    /// The whole prefix, with its final slash; empty at the top.
    Name(String),
    /// `None` clears what the outer scopes say.
    Device(Option<DeviceLayer>),
    /// Wait for these; `None` clears what the outer scopes ask for.
    Control(Option<Vec<NodeId>>),
    Colocate(String),
    /// Add nodes in this context; also clears control dependencies, which are of the context around it.
    Context(ContextRef),
}

#[derive(Default)]
pub(crate) struct Scopes {
    next: u64,
    open: HashMap<ThreadId, Vec<(u64, Scope)>>,
}

/// What the open scopes say about a new node.
#[derive(Default)]
pub(crate) struct Effective {
    pub(crate) prefix: String,
    /// What scopes say about devices, outermost first, since the innermost colocation.
    pub(crate) devices: Vec<DeviceLayer>,
    pub(crate) control: Vec<NodeId>,
    pub(crate) colocate: Vec<String>,
    pub(crate) context: ContextRef,
}

/// Keeps a scope open; it ends when the guard is dropped.
#[must_use = "the scope ends when the guard is dropped"]
pub struct ScopeGuard {
    graph: Graph,
    thread: ThreadId,
    id: u64,
}

impl Drop for ScopeGuard {
    fn drop(&mut self) {
        let mut s = self.graph.scopes().lock();
        if let Some(stack) = s.open.get_mut(&self.thread) {
            stack.retain(|(id, _)| *id != self.id);
            if stack.is_empty() {
                s.open.remove(&self.thread);
            }
        }
    }
}

impl Graph {
    pub(super) fn push_scope(&self, scope: Scope) -> ScopeGuard {
        let thread = std::thread::current().id();
        let mut s = self.scopes().lock();
        s.next += 1;
        let id = s.next;
        s.open.entry(thread).or_default().push((id, scope));
        drop(s);
        ScopeGuard {
            graph: self.clone(),
            thread,
            id,
        }
    }

    pub(crate) fn effective_scope(&self) -> Effective {
        let s = self.scopes().lock();
        let mut e = Effective::default();
        let Some(stack) = s.open.get(&std::thread::current().id()) else {
            return e;
        };
        for (_, scope) in stack {
            match scope {
                Scope::Name(p) => e.prefix.clone_from(p),
                Scope::Device(None) => e.devices.clear(),
                Scope::Device(Some(layer)) => e.devices.push(layer.clone()),
                Scope::Control(Some(c)) => e.control.extend(c),
                Scope::Control(None) => e.control.clear(),
                Scope::Colocate(n) => {
                    e.colocate = vec![n.clone()];
                    e.devices.clear();
                }
                Scope::Context(c) => {
                    e.context.clone_from(c);
                    e.control.clear();
                }
            }
        }
        e
    }

    /// Nodes added while the guard lives are named `name/...`; a name that is used already becomes `name_1`.
    /// A name that ends in `/` re-enters that very scope; an empty one goes back to the top.
    pub fn name_scope(&self, name: &str) -> ScopeGuard {
        let outer = self.effective_scope().prefix;
        let prefix = if name.is_empty() || name.ends_with('/') {
            name.to_owned()
        } else {
            let full = format!("{outer}{name}");
            format!("{}/", self.write(|d| d.unique_name(&full)))
        };
        self.push_scope(Scope::Name(prefix))
    }

    /// The prefix of the innermost open name scope of this thread, with its final slash, or nothing.
    pub fn current_name_scope(&self) -> String {
        self.effective_scope().prefix
    }

    /// Nodes added while the guard lives start only after all of `ops` have finished.
    pub fn control_dependencies(&self, ops: &[Operation]) -> ScopeGuard {
        self.push_scope(Scope::Control(Some(ops.iter().map(Operation::id).collect())))
    }

    /// Nodes added while the guard lives ignore the control dependencies of outer scopes.
    pub fn no_control_dependencies(&self) -> ScopeGuard {
        self.push_scope(Scope::Control(None))
    }

    /// Nodes added while the guard lives are placed on the device of `op`, whatever the device scopes outside of this
    /// one say.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if `op` is of another graph.
    pub fn colocate_with(&self, op: &Operation) -> Result<ScopeGuard> {
        if !self.same(op.graph()) {
            return Err(Error::invalid("cannot colocate with an operation of another graph"));
        }
        Ok(self.push_scope(Scope::Colocate(op.name())))
    }
}

impl super::GraphData {
    /// `name`, or `name_1`, `name_2`, … if it was asked for before; case-insensitive, as TensorFlow's.
    pub(crate) fn unique_name(&mut self, name: &str) -> String {
        let key = name.to_ascii_lowercase();
        let uses = self.name_uses.entry(key.clone()).or_insert(0);
        let mut n = *uses;
        *uses += 1;
        if n == 0 {
            return name.to_owned();
        }
        loop {
            let candidate = format!("{key}_{n}");
            if !self.name_uses.contains_key(&candidate) {
                self.name_uses.insert(key, n + 1);
                self.name_uses.insert(candidate, 1);
                return format!("{name}_{n}");
            }
            n += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_without_regard_to_case() {
        let g = Graph::new();
        let names: Vec<String> = ["Add", "Add", "add", "Add_1", "Add"]
            .iter()
            .map(|n| g.write(|d| d.unique_name(n)))
            .collect();
        assert_eq!(names, ["Add", "Add_1", "add_2", "Add_1_1", "Add_3"]);
    }

    #[test]
    fn scopes_nest_and_end_with_their_guard() {
        let g = Graph::new();
        let a = g.name_scope("a");
        assert_eq!(g.current_name_scope(), "a/");
        {
            let _b = g.name_scope("b");
            assert_eq!(g.current_name_scope(), "a/b/");
        }
        let _again = g.name_scope("b");
        assert_eq!(g.current_name_scope(), "a/b_1/");
        drop(_again);
        drop(a);
        assert_eq!(g.current_name_scope(), "");
    }
}
