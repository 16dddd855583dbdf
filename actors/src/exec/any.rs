//! The runner of either kind of plan.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::Tensor;

use super::fire::Runner;
use super::flow::FlowRunner;
use super::plan::Plan;
use super::run::Executor;
use super::step::{Arrived, Scratch, Step};
use super::wait::{Host, Spot};

/// A thread's part in a step of either kind of plan.
pub(super) enum AnyRunner<'a, const SOLO: bool> {
    Simple(Runner<'a, SOLO>),
    Flow(FlowRunner<'a, SOLO>),
}

impl<'a, const SOLO: bool> AnyRunner<'a, SOLO> {
    pub(super) fn new(
        exec: &'a Arc<Executor>,
        plan: &'a Arc<Plan>,
        step: &'a Arc<Step>,
        scratch: &'a mut Scratch,
    ) -> Self {
        match (&plan.flow, &step.flow) {
            (Some(flow), Some(state)) => {
                AnyRunner::Flow(FlowRunner::new(Host { exec, plan, step }, flow, state, scratch))
            }
            _ => AnyRunner::Simple(Runner::new(exec, plan, step, scratch)),
        }
    }

    pub(super) fn start(&mut self, feeds: impl Iterator<Item = Tensor>) {
        match self {
            AnyRunner::Simple(r) => r.start(feeds),
            AnyRunner::Flow(r) => r.start(feeds),
        }
    }

    pub(super) fn fire(&mut self, spot: Spot) {
        match self {
            AnyRunner::Simple(r) => {
                r.scratch.stack.push(spot.node);
                r.drain();
            }
            AnyRunner::Flow(r) => r.go_on(spot),
        }
    }

    pub(super) fn resume(&mut self, arrived: Arrived) {
        match self {
            AnyRunner::Simple(r) => r.resume(arrived),
            AnyRunner::Flow(r) => r.resume(arrived),
        }
    }
}
