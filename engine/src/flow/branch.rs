//! The contexts of branches and loops: how values come in.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actorflow_core::graph::{Context, ContextRef, NodeId, OutputRef};
use actorflow_core::{Graph, Operation, Output, Result};
use parking_lot::Mutex;

/// How a value from outside comes in.
pub(super) enum Way {
    /// By a Switch on `on`, to output `arm`; of `arms` outputs if that is not 0.
    Choice { on: Output, arm: usize, arms: usize },
    /// By a constant Enter into the loop.
    Loop { frame: String, parallel: i64 },
}

/// A branch or a loop while it is being built.
pub(super) struct Inner {
    graph: Graph,
    outer: ContextRef,
    way: Way,
    /// Runs when the branch is taken, or in each iteration.
    pivot: Mutex<Operation>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: HashSet<NodeId>,
    outputs: HashSet<OutputRef>,
    /// What stands for values from outside.
    known: HashMap<OutputRef, Output>,
}

impl Inner {
    /// A context inside of `outer`.
    pub(super) fn new(graph: &Graph, outer: ContextRef, way: Way, pivot: &Operation) -> Arc<Inner> {
        Arc::new(Inner {
            graph: graph.clone(),
            outer,
            way,
            pivot: Mutex::new(pivot.clone()),
            state: Mutex::default(),
        })
    }

    /// Declares that an output is inside.
    pub(super) fn adopt(&self, x: &Output) {
        self.state.lock().outputs.insert(x.as_ref());
    }

    /// From now on this node is what others without inputs wait for.
    pub(super) fn set_pivot(&self, op: &Operation) {
        *self.pivot.lock() = op.clone();
    }

    fn send_in(&self, x: &Output) -> Result<Output> {
        // Inputs of the nodes that are added here are brought into the outer context by themselves.
        let _outer = self.graph.context_scope(self.outer.clone());
        match &self.way {
            Way::Loop { frame, parallel } => enter(x, frame, true, *parallel),
            Way::Choice { on, arm, arms: 0 } => {
                let op = if x.is_ref() { "RefSwitch" } else { "Switch" };
                self.graph.op(op).input(x).input(on).finish()?.output(*arm)
            }
            Way::Choice { on, arm, arms } => {
                let n = i64::try_from(*arms).unwrap_or(i64::MAX);
                let s = self.graph.op("_SwitchN").input(x).input(on).attr("num_outs", n);
                s.finish()?.output(*arm)
            }
        }
    }
}

/// The `Enter` of a value into a loop.
pub(super) fn enter(x: &Output, frame: &str, constant: bool, parallel: i64) -> Result<Output> {
    // A loop variable has values; only what stays the same may be a reference.
    let op = if x.is_ref() && constant { "RefEnter" } else { "Enter" };
    x.graph()
        .op(op)
        .input(x)
        .attr("frame_name", frame)
        .attr("is_constant", constant)
        .attr("parallel_iterations", parallel)
        .output()
}

fn is_constant_enter(x: &Output) -> bool {
    let node = x.op().node();
    matches!(node.op_name(), "Enter" | "RefEnter") && node.attrs().bool("is_constant").unwrap_or(false)
}

impl Context for Inner {
    fn bring_in(&self, x: &Output) -> Result<Output> {
        {
            let s = self.state.lock();
            if s.nodes.contains(&x.op().id()) || s.outputs.contains(&x.as_ref()) {
                return Ok(x.clone());
            }
            if let Some(y) = s.known.get(&x.as_ref()) {
                return Ok(y.clone());
            }
        }
        let y = self.send_in(x)?;
        let mut s = self.state.lock();
        s.outputs.insert(y.as_ref());
        s.known.insert(x.as_ref(), y.clone());
        Ok(y)
    }

    fn wait_for(&self, op: &Operation) -> Result<Option<Operation>> {
        if self.state.lock().nodes.contains(&op.id()) {
            return Ok(Some(op.clone()));
        }
        // Waiting comes in as a value.
        let signal = match op.output(0) {
            Ok(x) => x,
            Err(_) => {
                let _outer = self.graph.context_scope(self.outer.clone());
                let b = self.graph.op("Const").attr("dtype", actorflow_core::DType::Bool);
                b.attr("value", actorflow_core::Tensor::scalar(true))
                    .control_input(op)
                    .output()?
            }
        };
        let inside = self.bring_in(&signal)?;
        if self.state.lock().nodes.contains(&inside.op().id()) {
            return Ok(Some(inside.op()));
        }
        // Waiting for the node that brings it in would not be waiting for the branch or the iteration.
        let _plain = self.graph.no_control_dependencies();
        inside.identity().map(|x| Some(x.op()))
    }

    fn pin(&self, inputs: &[Output], waits: bool) -> Option<Operation> {
        let free = match self.way {
            Way::Choice { .. } => inputs.is_empty(),
            Way::Loop { .. } => !waits && inputs.iter().all(is_constant_enter),
        };
        free.then(|| self.pivot.lock().clone())
    }

    fn added(&self, op: &Operation) {
        self.state.lock().nodes.insert(op.id());
        if let Some(o) = &self.outer {
            o.added(op);
        }
    }
}
