//! Firing nodes, depth first, on one thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Instant;

use actorflow_core::Tensor;
use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{OpContext, Suspend};

use super::launch::Job;
use super::plan::{
    CLAIMS, DEREF, DIRECT, EMPTY, EXPENSIVE_NS, Edge, MEASURED, NO_NODE, Plan, PlanNode, SPECIAL, SUSPENDS,
    UNUSED_OUTPUTS,
};
use super::run::Executor;
use super::step::{Arrived, RUNNING, Scratch, Step};
use super::wait::{Host, Ready, Spot};

/// A thread that fires nodes of one step. `SOLO`: it is the only one.
pub(super) struct Runner<'a, const SOLO: bool> {
    pub(super) exec: &'a Arc<Executor>,
    pub(super) plan: &'a Arc<Plan>,
    pub(super) step: &'a Arc<Step>,
    pub(super) scratch: &'a mut Scratch,
    /// The node whose kernel runs, for the message of a panic.
    current: u32,
    /// The step is measured or traced.
    watched: bool,
}

impl<'a, const SOLO: bool> Runner<'a, SOLO> {
    pub(super) fn new(
        exec: &'a Arc<Executor>,
        plan: &'a Arc<Plan>,
        step: &'a Arc<Step>,
        scratch: &'a mut Scratch,
    ) -> Self {
        if scratch.outputs.len() < plan.max_outputs {
            scratch.outputs.resize(plan.max_outputs, None);
        }
        Runner {
            exec,
            plan,
            step,
            scratch,
            current: 0,
            watched: step.measure || step.trace.is_some(),
        }
    }

    fn host(&self) -> Host<'a> {
        Host {
            exec: self.exec,
            plan: self.plan,
            step: self.step,
        }
    }

    /// Delivers the feeds and fires what follows.
    pub(super) fn start(&mut self, feeds: impl Iterator<Item = Tensor>) {
        // Roots are pushed in reverse, so that they start in order.
        self.scratch.stack.extend(self.plan.roots.iter().rev());
        for (k, t) in feeds.enumerate() {
            let range = self.plan.feed_first[k] as usize..self.plan.feed_first[k + 1] as usize;
            let mut value = Some(t);
            for e in &self.plan.feed_edges[range] {
                let t = if e.last { value.take() } else { value.clone() };
                if let Some(t) = t {
                    self.deliver(e, t);
                }
            }
        }
        self.drain();
    }

    /// Fires the nodes of the stack and all that become ready, until none is left or the step fails.
    pub(super) fn drain(&mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.fire_all())) {
                Ok(()) => return,
                Err(payload) => {
                    self.host().panicked(Spot::simple(self.current), payload);
                    self.scratch.claims.release_all();
                    self.scratch.outputs.iter_mut().for_each(|o| *o = None);
                }
            }
        }
    }

    fn fire_all(&mut self) {
        let mut fired = 0u32;
        while let Some(n) = self.scratch.stack.pop() {
            let mut next = Some(n);
            while let Some(n) = next {
                if self.step.has_failed() {
                    self.scratch.stack.clear();
                    return;
                }
                fired = fired.wrapping_add(1);
                if fired.is_multiple_of(256) {
                    self.host().check_deadline();
                }
                next = self.fire(n, false);
            }
        }
    }

    /// Fires one node; the ready node to go on with, if there is one. `claimed`: its turns are held already, in
    /// the scratch area.
    #[inline]
    pub(super) fn fire(&mut self, n: u32, claimed: bool) -> Option<u32> {
        debug_assert!((n as usize) < self.plan.nodes.len());
        let plan: &'a Plan = self.plan;
        // SAFETY: node numbers come from the plan, which checked them when it was made.
        let node = unsafe { plan.nodes.get_unchecked(n as usize) };
        if node.flags & EMPTY != 0 {
            return self.propagate(n, node);
        }
        self.current = n;
        if node.flags & SPECIAL != 0 || self.watched || (!SOLO && node.cost.load(Relaxed) >= EXPENSIVE_NS) {
            return self.fire_special(n, node, claimed);
        }
        // SAFETY: all inputs of this node have arrived, so nobody else touches its slots.
        let inputs = unsafe { self.step.inputs(node.first_slot, node.inputs) };
        let outputs = places(plan, self.step, &mut self.scratch.outputs, node);
        let mut cx = OpContext::new(inputs, outputs, &self.step.cx, const { &Claims::none() }, None);
        let result = node.kernel.compute(&mut cx);
        self.clear_inputs(node);
        match result {
            Ok(()) => self.propagate(n, node),
            Err(e) => {
                self.failed(n, e);
                None
            }
        }
    }

    #[inline(always)]
    fn clear_inputs(&self, node: &PlanNode) {
        // SAFETY: the node's kernel has returned and its inputs are nobody else's.
        for slot in unsafe { self.step.inputs(node.first_slot, node.inputs) } {
            if slot.is_some() {
                *slot = None;
            }
        }
    }

    #[cold]
    fn failed(&mut self, n: u32, e: Error) {
        self.step.fail(self.plan.info[n as usize].blame(e));
        self.scratch.outputs.iter_mut().for_each(|o| *o = None);
    }

    /// Fires a node that reads references, claims turns, may suspend, is timed, or is expensive.
    #[inline(never)]
    fn fire_special(&mut self, n: u32, node: &PlanNode, claimed: bool) -> Option<u32> {
        if node.flags & (DEREF | CLAIMS) != 0
            && !claimed
            && let Ready::No = self.prepare(n, node)
        {
            return None;
        }
        if !SOLO && node.cost.load(Relaxed) >= EXPENSIVE_NS {
            self.share_stack();
        }
        let timed = (self.step.measure && node.flags & MEASURED != 0) || self.step.trace.is_some();
        let begun = if timed { Some(Instant::now()) } else { None };
        // SAFETY: all inputs of this node have arrived, so nobody else touches its slots.
        let inputs = unsafe { self.step.inputs(node.first_slot, node.inputs) };
        let suspender = self.host().suspender(Spot::simple(n));
        let suspend: Option<&dyn Suspend> = if node.flags & SUSPENDS != 0 {
            Some(&suspender)
        } else {
            None
        };
        let outputs = places(self.plan, self.step, &mut self.scratch.outputs, node);
        let mut cx = OpContext::new(inputs, outputs, &self.step.cx, &self.scratch.claims, suspend);
        let result = node.kernel.compute(&mut cx);
        let suspended = cx.is_suspended();
        if node.flags & CLAIMS != 0 {
            self.scratch.claims.release_all();
        }
        if let Some(begun) = begun {
            self.host().timed(n, node, begun);
        }
        self.clear_inputs(node);
        match result {
            Ok(()) if !suspended => self.propagate(n, node),
            Ok(()) => None,
            Err(e) => {
                self.failed(n, e);
                None
            }
        }
    }

    /// Sends the outputs to those who wait for them; one node that became ready by it, the others are stacked.
    #[inline]
    fn propagate(&mut self, n: u32, node: &PlanNode) -> Option<u32> {
        let plan: &'a Plan = self.plan;
        let mut next = None;
        match edges(plan, node) {
            [copies @ .., last] if node.flags & DIRECT != 0 => {
                // SAFETY: this node is the producer of the slot, whose arrival is counted below.
                let value = unsafe { &self.step.inputs(last.slot, 1)[0] };
                if value.is_none() {
                    self.empty_output(n, 0);
                    return None;
                }
                for e in copies {
                    // SAFETY: as above; the slots of two edges are two.
                    unsafe { self.step.fill(e.slot, value.clone()) };
                    self.arrive_at(e.dst, &mut next);
                }
                self.arrive_at(last.dst, &mut next);
            }
            edges => {
                for e in edges {
                    let out = &mut self.scratch.outputs[e.out as usize];
                    let t = if e.last { out.take() } else { out.clone() };
                    if t.is_none() {
                        self.empty_output(n, e.out);
                        return None;
                    }
                    // SAFETY: this node is the producer of the slot, and the arrival is counted below.
                    unsafe { self.step.fill(e.slot, t) };
                    self.arrive_at(e.dst, &mut next);
                }
            }
        }
        if node.flags & UNUSED_OUTPUTS != 0 {
            self.scratch.outputs[..node.outputs as usize]
                .iter_mut()
                .for_each(|o| *o = None);
        }
        let first = node.first_control as usize;
        // SAFETY: as for the data edges.
        for &dst in unsafe { plan.controls.get_unchecked(first..first + node.controls as usize) } {
            self.arrive_at(dst, &mut next);
        }
        next
    }

    /// Counts an arrival, if a node waits for it. What becomes ready is `next`, and what was that is stacked.
    #[inline(always)]
    fn arrive_at(&mut self, dst: u32, next: &mut Option<u32>) {
        if dst != NO_NODE
            && self.arrive(dst)
            && let Some(before) = next.replace(dst)
        {
            self.scratch.stack.push(before);
        }
    }

    #[inline(always)]
    fn arrive(&self, dst: u32) -> bool {
        debug_assert!((dst as usize) < self.step.pending.len());
        // SAFETY: `dst` is a node of the plan, and the slab has a word for each.
        let p = unsafe { self.step.pending.get_unchecked(dst as usize) };
        if SOLO { p.arrive_solo(1) } else { p.arrive(1) }
    }

    fn deliver(&mut self, e: &Edge, t: Tensor) {
        // SAFETY: feeds are the only producers of these slots.
        unsafe { self.step.put(e.slot, t) };
        if e.dst != NO_NODE && self.arrive(e.dst) {
            self.scratch.stack.push(e.dst);
        }
    }

    #[cold]
    fn empty_output(&mut self, n: u32, out: u16) {
        let e = Error::internal(format!("the kernel left output {out} empty"));
        self.step.fail(self.plan.info[n as usize].blame(e));
        self.scratch.outputs.iter_mut().for_each(|o| *o = None);
    }

    /// Before an expensive node: gives other expensive nodes that are ready to idle workers.
    fn share_stack(&mut self) {
        let mut i = 0;
        while i < self.scratch.stack.len() && self.exec.pool().idle() {
            let n = self.scratch.stack[i];
            if self.plan.nodes[n as usize].cost.load(Relaxed) >= EXPENSIVE_NS {
                self.scratch.stack.remove(i);
                self.step.outstanding.fetch_add(RUNNING, Relaxed);
                self.exec
                    .pool()
                    .spawn(Box::new(Job::fire(self.exec, self.plan, self.step, Spot::simple(n))));
            } else {
                i += 1;
            }
        }
    }

    /// Reads references and claims turns; what is busy makes the node wait outside.
    fn prepare(&mut self, n: u32, node: &PlanNode) -> Ready {
        match self.try_prepare(n, node) {
            Ok(r) => r,
            Err(e) => {
                self.step.fail(self.plan.info[n as usize].blame(e));
                Ready::No
            }
        }
    }

    fn try_prepare(&mut self, n: u32, node: &PlanNode) -> Result<Ready> {
        // SAFETY: all inputs of this node have arrived, so nobody else touches its slots.
        let inputs = unsafe { self.step.inputs(node.first_slot, node.inputs) };
        let host = self.host();
        let claims = &mut self.scratch.claims;
        host.prepare(Spot::simple(n), node.flags, &*node.kernel, inputs, claims)
    }

    /// Takes up a node that waited outside.
    pub(super) fn resume(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Granted(Spot { node: n, .. }, mut held) => {
                if self.step.has_failed() {
                    held.release_all();
                    return;
                }
                self.scratch.claims = held;
                let mut fired = None;
                let run = catch_unwind(AssertUnwindSafe(|| fired = self.fire(n, true)));
                if let Err(payload) = run {
                    self.scratch.claims.release_all();
                    self.host().panicked(Spot::simple(n), payload);
                }
                self.scratch.stack.extend(fired);
            }
            Arrived::Read(Spot { node: n, .. }, input, value) => match value {
                Ok(v) => {
                    let node = &self.plan.nodes[n as usize];
                    // SAFETY: the node is ready and waits for this very call, so nobody else touches its slots.
                    let inputs = unsafe { self.step.inputs(node.first_slot, node.inputs) };
                    inputs[input as usize] = Some(v);
                    self.scratch.stack.push(n);
                }
                Err(e) => self.step.fail(self.plan.info[n as usize].blame(e)),
            },
            Arrived::Dead(Spot { node: n, .. }) => {
                self.failed(
                    n,
                    Error::internal("a dead value arrived where there is no control flow"),
                );
            }
            Arrived::Outputs(Spot { node: n, .. }, outputs) => {
                let node = &self.plan.nodes[n as usize];
                match outputs {
                    Ok(v) if v.len() == node.outputs as usize => {
                        let places = places(self.plan, self.step, &mut self.scratch.outputs, node);
                        for (slot, t) in places.iter_mut().zip(v) {
                            *slot = Some(t);
                        }
                        let next = self.propagate(n, node);
                        self.scratch.stack.extend(next);
                    }
                    Ok(v) => {
                        let e = Error::internal(format!("{} outputs were delivered for {}", v.len(), node.outputs));
                        self.step.fail(self.plan.info[n as usize].blame(e));
                    }
                    Err(e) => self.step.fail(self.plan.info[n as usize].blame(e)),
                }
            }
        }
        self.drain();
    }
}

/// The data edges of a node of the plan.
#[inline(always)]
fn edges<'a>(plan: &'a Plan, node: &PlanNode) -> &'a [Edge] {
    let first = node.first_edge as usize;
    // SAFETY: edge ranges come from the plan, which laid them out when it was made.
    unsafe { plan.edges.get_unchecked(first..first + node.edges as usize) }
}

/// Where a node's outputs are to be left for [`Runner::propagate`]: all but the single ones in `area`.
#[inline(always)]
fn places<'s>(
    plan: &Plan,
    step: &'s Step,
    area: &'s mut [Option<Tensor>],
    node: &PlanNode,
) -> &'s mut [Option<Tensor>] {
    match edges(plan, node).last() {
        // SAFETY: the node runs or has just got its outputs, so it is the producer of this slot, and has not counted
        // the arrival there.
        Some(last) if node.flags & DIRECT != 0 => unsafe { step.inputs(last.slot, 1) },
        _ => &mut area[..node.outputs as usize],
    }
}
