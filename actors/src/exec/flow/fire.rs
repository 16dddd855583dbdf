//! Firing nodes and sending what they give.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::*;
use std::time::Instant;

use actorflow_core::Tensor;
use actorflow_core::error::Error;
use actorflow_core::kernel::{OpContext, Suspend};

use super::super::launch::Job;
use super::super::plan::{CLAIMS, DEREF, EXPENSIVE_NS, MEASURED, NO_NODE, SUSPENDS, UNUSED_OUTPUTS};
use super::super::step::{Arrived, RUNNING, Scratch};
use super::super::wait::{Host, Ready, Spot};
use super::layout::{Flow, FlowEdge, FlowNode, INDEXED, Kind, LAST, TO_MERGE};
use super::state::{FlowStep, Iter};
use crate::pending::{MergeArrival, MergeInput};

/// A thread that fires nodes of one step of a plan with control flow. `SOLO`: it is the only one.
pub(in crate::exec) struct FlowRunner<'a, const SOLO: bool> {
    pub(super) host: Host<'a>,
    pub(super) flow: &'a Flow,
    pub(super) state: &'a FlowStep,
    pub(super) scratch: &'a mut Scratch,
    /// The node whose kernel runs, for the message of a panic.
    current: Spot,
    fired: u32,
    /// The step is measured or traced.
    watched: bool,
}

/// How a value is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Within an iteration, or out of a loop.
    Plain,
    /// From an Enter.
    In,
    /// Into an iteration that begins, from the one before.
    Next,
    /// Into an iteration that begins, from a constant Enter.
    NextIn,
}

impl Way {
    #[inline(always)]
    fn is_enter(self) -> bool {
        matches!(self, Way::In | Way::NextIn)
    }

    #[inline(always)]
    fn is_later(self) -> bool {
        matches!(self, Way::Next | Way::NextIn)
    }
}

impl<'a, const SOLO: bool> FlowRunner<'a, SOLO> {
    pub(in crate::exec) fn new(host: Host<'a>, flow: &'a Flow, state: &'a FlowStep, scratch: &'a mut Scratch) -> Self {
        if scratch.outputs.len() < host.plan.max_outputs {
            scratch.outputs.resize(host.plan.max_outputs, None);
        }
        FlowRunner {
            host,
            flow,
            state,
            scratch,
            current: Spot {
                node: 0,
                iter: Some(state.root()),
            },
            fired: 0,
            watched: host.step.measure || host.step.trace.is_some(),
        }
    }

    /// Delivers the feeds and fires what follows.
    pub(in crate::exec) fn start(&mut self, feeds: impl Iterator<Item = Tensor>) {
        let root = self.state.root();
        // Roots are pushed in reverse, so that they start in order.
        let roots = self.host.plan.roots.iter().rev();
        self.scratch.ready.now.extend(roots.map(|n| Spot {
            node: *n,
            iter: Some(root),
        }));
        let flow = self.flow;
        for (k, t) in feeds.enumerate() {
            let range = flow.feed_first[k] as usize..flow.feed_first[k + 1] as usize;
            let mut value = Some(t);
            for e in &flow.feed_edges[range] {
                let t = if e.flags & LAST != 0 {
                    value.take()
                } else {
                    value.clone()
                };
                self.send(e, t, root, Way::Plain);
            }
        }
        self.drain();
    }

    /// Fires a node that is ready, and what follows.
    pub(in crate::exec) fn go_on(&mut self, spot: Spot) {
        self.scratch.ready.now.push(spot);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.fire_all())) {
                Ok(()) => return,
                Err(payload) => {
                    self.host.panicked(self.current, payload);
                    self.scratch.claims.release_all();
                    self.clear_outputs();
                }
            }
        }
    }

    fn fire_all(&mut self) {
        loop {
            let spot = match self.scratch.ready.now.pop() {
                Some(spot) => spot,
                None => match self.refill() {
                    Some(spot) => spot,
                    None => return,
                },
            };
            if self.host.step.has_failed() {
                self.scratch.ready.clear();
                return;
            }
            self.fired = self.fired.wrapping_add(1);
            if self.fired.is_multiple_of(256) {
                self.host.check_deadline();
                self.share_heavy(0);
            }
            self.fire(spot, false);
        }
    }

    /// What to fire when nothing of the present iteration is ready.
    #[inline]
    fn refill(&mut self) -> Option<Spot> {
        let q = &mut self.scratch.ready;
        if !q.later.is_empty() {
            std::mem::swap(&mut q.now, &mut q.later);
            return q.now.pop();
        }
        if q.heavy.is_empty() {
            return None;
        }
        self.share_heavy(1);
        self.scratch.ready.heavy.pop()
    }

    /// Gives expensive nodes that are ready to idle workers, all but `keep`.
    fn share_heavy(&mut self, keep: usize) {
        while self.scratch.ready.heavy.len() > keep && self.host.exec.pool().idle() {
            if let Some(spot) = self.scratch.ready.heavy.pop() {
                let h = self.host;
                h.step.outstanding.fetch_add(RUNNING, Relaxed);
                h.exec.pool().spawn(Box::new(Job::fire(h.exec, h.plan, h.step, spot)));
            }
        }
    }

    /// The iteration that a spot is in.
    #[inline(always)]
    pub(super) fn iter(&self, spot: Spot) -> NonNull<Iter> {
        spot.iter.unwrap_or(self.state.root())
    }

    /// Fires one node. `claimed`: its turns are held already, in the scratch area.
    #[inline]
    fn fire(&mut self, spot: Spot, claimed: bool) {
        let flow = self.flow;
        debug_assert!((spot.node as usize) < flow.nodes.len());
        // SAFETY: node numbers come from the plan, which checked them when it was made.
        let node = unsafe { flow.nodes.get_unchecked(spot.node as usize) };
        let at = self.iter(spot);
        // SAFETY: iterations live as long as the step.
        let iter: &'a Iter = unsafe { at.as_ref() };
        self.current = spot;
        // SAFETY: the node belongs to the frame of this iteration.
        let dead = unsafe { iter.word(node.word) }.is_dead();
        if dead && node.kind != Kind::ControlTrigger {
            if node.kind != Kind::Send {
                return self.fire_dead(spot, node, at);
            }
            // The other side is told by an empty input.
            // SAFETY: all inputs of this node have arrived, so nobody else touches its slots.
            unsafe { iter.inputs(node.first_slot, node.slots) }
                .iter_mut()
                .for_each(|i| *i = None);
        }
        if node.flags & DEREF != 0 && !claimed && node.kind != Kind::Ordinary && !self.prepare(spot, node, iter) {
            return;
        }
        // SAFETY: all inputs of this node have arrived, so nobody else touches its slots.
        let inputs = unsafe { iter.inputs(node.first_slot, node.slots) };
        let outputs = &mut self.scratch.outputs;
        match node.kind {
            Kind::Ordinary | Kind::SwitchN | Kind::Send | Kind::Recv => return self.compute(spot, node, at, claimed),
            Kind::Switch => {
                let side = match inputs[1].as_ref().map(Tensor::to_scalar::<bool>) {
                    Some(Ok(side)) => side,
                    Some(Err(e)) => return self.host.fail(spot, e),
                    None => return self.missing(spot),
                };
                inputs[1] = None;
                outputs[usize::from(side)] = inputs[0].take();
            }
            Kind::Merge => {
                outputs[0] = inputs[0].take();
                let index = inputs[1].take();
                if node.outputs > 1 {
                    outputs[1] = index;
                }
            }
            Kind::Pass => outputs[0] = inputs[0].take(),
            Kind::ControlTrigger => inputs.iter_mut().for_each(|i| *i = None),
            Kind::Enter | Kind::ConstantEnter => {
                let value = inputs[0].take();
                return self.enter(spot, node, at, value);
            }
            Kind::Exit => {
                outputs[0] = inputs[0].take();
                return self.exit(spot, node, at);
            }
            Kind::NextIteration => {
                let value = inputs[0].take();
                return self.next_iteration(spot, node, at, value);
            }
        }
        if self.host.step.trace.is_some() {
            let plan = &self.host.plan.nodes[spot.node as usize];
            self.host.timed(spot.node, plan, Instant::now());
        }
        let ready = self.spread(spot.node, node, at, false, Way::Plain);
        self.account(at, ready);
    }

    /// Runs the node's kernel and sends what it gives.
    fn compute(&mut self, spot: Spot, node: &FlowNode, at: NonNull<Iter>, claimed: bool) {
        let plan = self.host.plan;
        let planned = &plan.nodes[spot.node as usize];
        if !SOLO && planned.cost.load(Relaxed) >= EXPENSIVE_NS && !claimed && self.put_off(spot) {
            return;
        }
        // SAFETY: iterations live as long as the step.
        let iter: &'a Iter = unsafe { at.as_ref() };
        if node.flags & (DEREF | CLAIMS) != 0 && !claimed && !self.prepare(spot, node, iter) {
            return;
        }
        // A measurement costs about as much as a cheap node, and a loop fires it again and again.
        let timed = self.watched
            && (self.host.step.trace.is_some()
                || (node.flags & MEASURED != 0 && (self.fired & 15 == 0 || planned.cost.load(Relaxed) == 0)));
        let begun = if timed { Some(Instant::now()) } else { None };
        // SAFETY: all inputs of this node have arrived, so nobody else touches its slots.
        let inputs = unsafe { iter.inputs(node.first_slot, node.slots) };
        let suspender = self.host.suspender(spot);
        let suspend: Option<&dyn Suspend> = if node.flags & SUSPENDS != 0 {
            Some(&suspender)
        } else {
            None
        };
        let outputs = &mut self.scratch.outputs[..node.outputs as usize];
        let mut cx = OpContext::new(inputs, outputs, &self.host.step.cx, &self.scratch.claims, suspend);
        if matches!(node.kind, Kind::Send | Kind::Recv) {
            cx = cx.in_iteration(iter.tag(self.flow));
        }
        let result = planned.kernel.compute(&mut cx);
        let suspended = cx.is_suspended();
        if node.flags & CLAIMS != 0 {
            self.scratch.claims.release_all();
        }
        if let Some(begun) = begun {
            self.host.timed(spot.node, planned, begun);
        }
        // SAFETY: as above; the context is gone.
        for slot in unsafe { iter.inputs(node.first_slot, node.slots) } {
            if slot.is_some() {
                *slot = None;
            }
        }
        match result {
            Ok(()) if !suspended => {
                let dead = node.kind == Kind::Recv && self.scratch.outputs[0].is_none();
                let ready = self.spread(spot.node, node, at, dead, Way::Plain);
                self.account(at, ready);
            }
            Ok(()) => {}
            Err(e) => {
                self.host.fail(spot, e);
                self.clear_outputs();
            }
        }
    }

    /// Whether an expensive node is left for later or to others, because something cheap is ready.
    #[cold]
    fn put_off(&mut self, spot: Spot) -> bool {
        let q = &mut self.scratch.ready;
        if q.now.is_empty() && q.later.is_empty() {
            return false;
        }
        q.heavy.push(spot);
        self.share_heavy(0);
        true
    }

    fn prepare(&mut self, spot: Spot, node: &FlowNode, iter: &Iter) -> bool {
        // SAFETY: all inputs of this node have arrived, so nobody else touches its slots.
        let inputs = unsafe { iter.inputs(node.first_slot, node.slots) };
        let kernel = &*self.host.plan.nodes[spot.node as usize].kernel;
        match self
            .host
            .prepare(spot, node.flags, kernel, inputs, &mut self.scratch.claims)
        {
            Ok(Ready::Yes) => true,
            Ok(Ready::No) => false,
            Err(e) => {
                self.host.fail(spot, e);
                false
            }
        }
    }

    /// A node with a dead input computes nothing; it tells its consumers.
    fn fire_dead(&mut self, spot: Spot, node: &FlowNode, at: NonNull<Iter>) {
        // SAFETY: iterations live as long as the step; all inputs have arrived, so nobody else touches the slots.
        for slot in unsafe { at.as_ref().inputs(node.first_slot, node.slots) } {
            if slot.is_some() {
                *slot = None;
            }
        }
        match node.kind {
            // Dead exits are sent when the frame is over; what is dead does not go to the next iteration.
            Kind::Exit | Kind::NextIteration => self.account(at, 0),
            Kind::Enter | Kind::ConstantEnter => self.enter(spot, node, at, None),
            _ => {
                let ready = self.spread(spot.node, node, at, true, Way::Plain);
                self.account(at, ready);
            }
        }
    }

    /// Sends the outputs in the scratch area, or deadness, to the node's consumers in the iteration `to`; how many of
    /// them became ready.
    #[inline]
    pub(super) fn spread(&mut self, n: u32, node: &FlowNode, to: NonNull<Iter>, dead: bool, way: Way) -> u32 {
        let flow = self.flow;
        let mut ready = 0;
        let first = node.first_edge as usize;
        // SAFETY: edge ranges come from the plan, which laid them out when it was made.
        let edges = unsafe { flow.edges.get_unchecked(first..first + node.edges as usize) };
        for e in edges {
            let value = if dead {
                None
            } else {
                let out = &mut self.scratch.outputs[e.out as usize];
                if e.flags & LAST != 0 { out.take() } else { out.clone() }
            };
            if value.is_none() && !dead && !matches!(node.kind, Kind::Switch | Kind::SwitchN) {
                self.empty_output(n, to, e.out);
                return ready;
            }
            ready += self.send(e, value, to, way);
        }
        if node.flags & UNUSED_OUTPUTS != 0 {
            self.scratch.outputs[..node.outputs as usize]
                .iter_mut()
                .for_each(|o| *o = None);
        }
        if node.controls > 0 {
            ready += self.spread_control(node, to, dead, way);
        }
        ready
    }

    fn spread_control(&mut self, node: &FlowNode, to: NonNull<Iter>, dead: bool, way: Way) -> u32 {
        let mut ready = 0;
        let first = node.first_control as usize;
        for c in &self.flow.controls[first..first + node.controls as usize] {
            // SAFETY: iterations live as long as the step; the receiver is of the frame that `to` is an iteration of.
            let word = unsafe { to.as_ref().word(c.word) };
            let fires = if c.to_merge {
                let arrival = match SOLO {
                    true => word.arrive_merge_solo(MergeInput::Control),
                    false => word.arrive_merge(MergeInput::Control),
                };
                matches!(arrival, MergeArrival::Fire { .. })
            } else {
                match (dead, SOLO) {
                    (false, true) => word.arrive_solo(1),
                    (false, false) => word.arrive(1),
                    (true, true) => word.arrive_dead_solo(),
                    (true, false) => word.arrive_dead(),
                }
            };
            if fires {
                self.push(c.dst, to, way);
                ready += 1;
            }
        }
        ready
    }

    #[inline(always)]
    fn push(&mut self, node: u32, iter: NonNull<Iter>, way: Way) {
        let spot = Spot { node, iter: Some(iter) };
        let q = &mut self.scratch.ready;
        if way.is_later() {
            q.later.push(spot);
        } else {
            q.now.push(spot);
        }
    }

    /// Sends a value, or deadness, along one edge; 1 if the receiver became ready.
    #[inline(always)]
    fn send(&mut self, e: &FlowEdge, value: Option<Tensor>, to: NonNull<Iter>, way: Way) -> u32 {
        // SAFETY: iterations live as long as the step.
        let iter: &'a Iter = unsafe { to.as_ref() };
        if e.dst == NO_NODE {
            if let Some(t) = value {
                // SAFETY: a fetch slot of the outermost iteration has one producer.
                unsafe { iter.put(e.slot, t) };
            }
            return 0;
        }
        // SAFETY: the receiver is of the frame that `to` is an iteration of.
        let word = unsafe { iter.word(e.word) };
        let fires = if e.flags & TO_MERGE != 0 {
            return self.send_to_merge(e, value, to, way);
        } else {
            match (value, SOLO) {
                (Some(t), _) => {
                    // SAFETY: this edge is the only producer of the slot, and the arrival is counted now.
                    unsafe { iter.put(e.slot, t) };
                    if SOLO { word.arrive_solo(1) } else { word.arrive(1) }
                }
                (None, true) => word.arrive_dead_solo(),
                (None, false) => word.arrive_dead(),
            }
        };
        if fires {
            self.push(e.dst, to, way);
            return 1;
        }
        0
    }

    #[inline]
    fn send_to_merge(&mut self, e: &FlowEdge, value: Option<Tensor>, to: NonNull<Iter>, way: Way) -> u32 {
        // SAFETY: iterations live as long as the step; the receiver is of the frame that `to` is an iteration of.
        let (iter, word) = unsafe { (to.as_ref(), to.as_ref().word(e.word)) };
        let input = match value {
            Some(t) => {
                let first = if SOLO {
                    word.claim_live_solo()
                } else {
                    word.claim_live()
                };
                if !first {
                    self.second_live(e.dst, to);
                    return 0;
                }
                // SAFETY: the claim makes this thread the only producer of the Merge's slots.
                unsafe {
                    iter.put(e.slot, t);
                    if e.flags & INDEXED != 0 {
                        iter.put(e.slot + 1, Tensor::scalar(i32::from(e.input)));
                    }
                }
                MergeInput::Live
            }
            None if way.is_enter() => MergeInput::DeadEnter,
            None => MergeInput::Dead,
        };
        let arrival = if SOLO {
            word.arrive_merge_solo(input)
        } else {
            word.arrive_merge(input)
        };
        if let MergeArrival::Fire { .. } = arrival {
            self.push(e.dst, to, way);
            return 1;
        }
        0
    }

    #[cold]
    fn second_live(&self, node: u32, iter: NonNull<Iter>) {
        let spot = Spot { node, iter: Some(iter) };
        self.host.fail(
            spot,
            Error::invalid("a Merge received a second live input; at most one of its inputs may be live"),
        );
    }

    #[cold]
    fn missing(&self, spot: Spot) {
        self.host
            .fail(spot, Error::internal("an input of a live node is missing"));
    }

    #[cold]
    fn empty_output(&mut self, node: u32, iter: NonNull<Iter>, out: u16) {
        let spot = Spot { node, iter: Some(iter) };
        self.host
            .fail(spot, Error::internal(format!("the kernel left output {out} empty")));
        self.clear_outputs();
    }

    fn clear_outputs(&mut self) {
        self.scratch.outputs.iter_mut().for_each(|o| *o = None);
    }

    /// Takes up a node that waited outside.
    pub(in crate::exec) fn resume(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Granted(spot, mut held) => {
                if self.host.step.has_failed() {
                    held.release_all();
                    return;
                }
                self.scratch.claims = held;
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.fire(spot, true))) {
                    self.scratch.claims.release_all();
                    self.host.panicked(spot, payload);
                    self.clear_outputs();
                }
            }
            Arrived::Read(spot, input, value) => match value {
                Ok(v) => {
                    let node = &self.flow.nodes[spot.node as usize];
                    // SAFETY: the node is ready and waits for this very call, so nobody else touches its slots.
                    let inputs = unsafe { self.iter(spot).as_ref().inputs(node.first_slot, node.slots) };
                    inputs[input as usize] = Some(v);
                    self.scratch.ready.now.push(spot);
                }
                Err(e) => self.host.fail(spot, e),
            },
            Arrived::Dead(spot) => {
                let node = &self.flow.nodes[spot.node as usize];
                let at = self.iter(spot);
                let ready = self.spread(spot.node, node, at, true, Way::Plain);
                self.account(at, ready);
            }
            Arrived::Outputs(spot, outputs) => {
                let node = &self.flow.nodes[spot.node as usize];
                match outputs {
                    Ok(v) if v.len() == node.outputs as usize => {
                        for (slot, t) in self.scratch.outputs.iter_mut().zip(v) {
                            *slot = Some(t);
                        }
                        let at = self.iter(spot);
                        let ready = self.spread(spot.node, node, at, false, Way::Plain);
                        self.account(at, ready);
                    }
                    Ok(v) => {
                        let e = Error::internal(format!("{} outputs were delivered for {}", v.len(), node.outputs));
                        self.host.fail(spot, e);
                    }
                    Err(e) => self.host.fail(spot, e),
                }
            }
        }
        self.drain();
    }
}
