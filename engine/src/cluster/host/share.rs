//! What one process does in a plan.

use std::sync::Arc;

use actorflow_actors::exec::Plan;
use actorflow_core::error::{Code, Error};
use actorflow_core::tensor::Tensor;

use super::super::table::{Route, Routes, StepTable};

/// What one device does in a plan.
pub(crate) struct DevicePlan {
    /// Which of the host's devices.
    pub(crate) device: usize,
    pub(crate) plan: Arc<Plan>,
    /// Which of the share's feeds it takes, in order.
    pub(crate) feeds: Vec<usize>,
    /// Which of the share's fetches it gives, in order.
    pub(crate) fetches: Vec<usize>,
}

/// What one process does in a plan.
pub(crate) struct SharePlan {
    pub(crate) devices: Vec<DevicePlan>,
    pub(crate) routes: Routes,
    /// How many tensors it is fed.
    pub(crate) feeds: usize,
    /// How many tensors it gives.
    pub(crate) fetches: usize,
    /// What crosses on each edge, for messages.
    pub(crate) edge_names: Arc<[String]>,
    /// The tasks that it exchanges tensors with.
    pub(crate) peers: Vec<String>,
}

impl SharePlan {
    /// The edges from a task on which something is awaited, a few of them.
    pub(super) fn missing_from(&self, task: &str, table: &StepTable) -> Vec<String> {
        let from = |i: &u32| matches!(self.routes.get(*i as usize), Some(Some(Route::From(t))) if **t == *task);
        let edges = table.awaited(64).into_iter().filter(from);
        let names = edges.filter_map(|i| self.edge_names.get(i as usize).cloned());
        names.take(4).collect()
    }

    /// Adds to an error of a step that has waited too long what has not arrived, and names the task that it should have
    /// come from, if there is only one.
    pub(super) fn say_what_is_missing(&self, e: Error, table: &StepTable) -> Error {
        if e.code() != Code::DeadlineExceeded {
            return e;
        }
        let awaited = table.awaited(8);
        let missing: Vec<&str> = awaited
            .iter()
            .filter_map(|i| Some(self.edge_names.get(*i as usize)?.as_str()))
            .collect();
        if missing.is_empty() {
            return e;
        }
        let from = |i: &u32| match self.routes.get(*i as usize) {
            Some(Some(Route::From(task))) => Some(task.clone()),
            _ => None,
        };
        let mut tasks: Vec<_> = awaited.iter().filter_map(from).collect();
        tasks.dedup();
        let text = format!("{}; what has not arrived: {}", e.message(), missing.join(", "));
        let said = Error::new(e.code(), text);
        let said = match (e.node(), e.op()) {
            (Some(node), Some(op)) => said.at_node(node, op),
            _ => said,
        };
        match &tasks[..] {
            [one] => said.in_task(one),
            _ => said,
        }
    }
}

/// The values of a share with one part in the share's order.
pub(super) fn in_order(part: &DevicePlan, values: Vec<Tensor>, fetches: usize) -> Vec<Tensor> {
    if part.fetches.iter().enumerate().all(|(i, k)| i == *k) && values.len() == fetches {
        return values;
    }
    let mut paired: Vec<(usize, Tensor)> = part.fetches.iter().copied().zip(values).collect();
    paired.sort_by_key(|p| p.0);
    paired.into_iter().map(|p| p.1).collect()
}
