//! Contexts: where nodes are added that a conditional or a loop will run.
//!
//! Inside of a branch, a loop's body or the gradient of a loop, a node cannot read just any tensor: values come in
//! through a `Switch`, an `Enter` or a stack. The context that is open when a node is added sees to it, so that
//! programs and gradient functions need not know where their nodes end up.

use std::sync::Arc;

use super::scope::{Scope, ScopeGuard};
use super::{Graph, Operation, Output};
use crate::error::Result;

/// The context in which nodes are added; `None` is the outermost one, where nothing has to be done.
pub type ContextRef = Option<Arc<dyn Context>>;

/// Rewrites the inputs of nodes that are added inside of a branch or a loop.
pub trait Context: Send + Sync {
    /// What a node inside reads in place of `x`; `x` itself if it is inside. May add nodes, in outer contexts.
    ///
    /// # Errors
    /// If `x` cannot be brought in, or nodes cannot be added.
    fn bring_in(&self, x: &Output) -> Result<Output>;

    /// What a node inside waits for in place of `op`; `None` for nothing.
    ///
    /// # Errors
    /// If nodes cannot be added.
    fn wait_for(&self, op: &Operation) -> Result<Option<Operation>>;

    /// What a node with these inputs (brought in) and `waits` control inputs has to wait for as well, so that it runs
    /// when the rest of the context does, and only then.
    fn pin(&self, inputs: &[Output], waits: bool) -> Option<Operation>;

    /// A node was added inside.
    fn added(&self, op: &Operation);

    /// The context to add a node of operation `op` with these inputs to, if it is not this one.
    fn home(&self, _op: &str, _inputs: &[Output]) -> Option<ContextRef> {
        None
    }
}

impl Graph {
    /// The context that is open on this thread.
    pub fn context(&self) -> ContextRef {
        self.effective_scope().context
    }

    /// Adds nodes in this context while the guard lives. Control dependencies of outer scopes do not apply.
    pub fn context_scope(&self, context: ContextRef) -> ScopeGuard {
        self.push_scope(Scope::Context(context))
    }
}
