//! Entering, iterating, leaving; when iterations and frames are over.

use std::ptr::NonNull;
use std::sync::atomic::Ordering::*;

use actorflow_core::Tensor;
use actorflow_core::error::Error;

use super::super::wait::Spot;
use super::fire::{FlowRunner, Way};
use super::layout::{FlowNode, Kind};
use super::state::{Frame, FrameState, Iter};

impl<'a, const SOLO: bool> FlowRunner<'a, SOLO> {
    #[inline(always)]
    fn at(&self, iter: NonNull<Iter>) -> &'a Iter {
        // SAFETY: iterations live as long as the step, which outlives the runner.
        unsafe { iter.as_ref() }
    }

    /// Counts that a node of the iteration is done and that `ready` others of it have become ready.
    #[inline]
    pub(super) fn account(&mut self, at: NonNull<Iter>, ready: u32) {
        if ready == 1 {
            return;
        }
        let iter = self.at(at);
        // Read before the count: afterwards the iteration may be over and used again.
        let frame: &'a Frame = iter.frame();
        let over = if SOLO {
            let left = iter.outstanding.load(Relaxed).wrapping_add(ready).wrapping_sub(1);
            iter.outstanding.store(left, Relaxed);
            left == 0
        } else if ready > 1 {
            iter.outstanding.fetch_add(ready - 1, Relaxed);
            false
        } else {
            iter.outstanding.fetch_sub(1, AcqRel) == 1
        };
        if over {
            self.settle(frame);
        }
    }

    #[inline(always)]
    fn add(&self, iter: &Iter, ready: u32) {
        if SOLO {
            let n = iter.outstanding.load(Relaxed);
            iter.outstanding.store(n.wrapping_add(ready), Relaxed);
        } else if ready > 0 {
            iter.outstanding.fetch_add(ready, Relaxed);
        }
    }

    /// The frame of loop `stat` inside of an iteration, made by the first Enter that arrives.
    fn inside(&mut self, outer: &'a Iter, stat: u32) -> &'a Frame {
        let child = &outer.children[self.flow.frames[stat as usize].child];
        let found = child.load(Acquire);
        // SAFETY: frames live as long as the step.
        if let Some(f) = unsafe { found.as_ref() } {
            return f;
        }
        // Of several Enters that arrive at once one makes the frame.
        // SAFETY: nothing of this thread holds the state of the outer frame here.
        let _one = unsafe { outer.frame().hold::<SOLO>() };
        let found = child.load(Acquire);
        // SAFETY: frames live as long as the step.
        if let Some(f) = unsafe { found.as_ref() } {
            return f;
        }
        // SAFETY: in a step of one thread this is the thread.
        let frame = unsafe { self.state.frame::<SOLO>(self.flow, stat, outer) };
        // The frame keeps the iteration around it going.
        self.add(outer, 1);
        child.store(frame.as_ptr(), Release);
        // SAFETY: frames live as long as the step.
        unsafe { frame.as_ref() }
    }

    /// Fires an Enter with its value, or `None` if it is dead.
    pub(super) fn enter(&mut self, spot: Spot, node: &FlowNode, at: NonNull<Iter>, value: Option<Tensor>) {
        let frame = self.inside(self.at(at), node.arg);
        let complete = {
            // SAFETY: nothing below takes the frame's state again.
            let mut s = unsafe { frame.hold::<SOLO>() };
            let dead = value.is_none();
            if node.kind == Kind::ConstantEnter {
                // No iteration is over yet, since this Enter was awaited.
                for i in 0..s.iters.len() {
                    let it = s.iters[i];
                    self.scratch.outputs[0] = value.clone();
                    let ready = self.spread(spot.node, node, it, dead, Way::In);
                    self.add(self.at(it), ready);
                }
                s.invariants.push((spot.node, value));
            } else if let Some(&first) = s.iters.front() {
                self.scratch.outputs[0] = value;
                let ready = self.spread(spot.node, node, first, dead, Way::In);
                self.add(self.at(first), ready);
            }
            s.awaited -= 1;
            s.awaited == 0
        };
        if complete {
            self.settle(frame);
        }
        self.account(at, 0);
    }

    /// Fires a NextIteration that is live.
    pub(super) fn next_iteration(&mut self, spot: Spot, node: &FlowNode, at: NonNull<Iter>, value: Option<Tensor>) {
        let iter = self.at(at);
        let frame: &'a Frame = iter.frame();
        {
            // SAFETY: nothing below takes the frame's state again.
            let mut s = unsafe { frame.hold::<SOLO>() };
            // This iteration is in progress, so the oldest one is not behind it.
            let oldest = s.iters.front().map_or(0, |f| self.at(*f).number());
            let next = (iter.number() - oldest) as usize + 1;
            match s.iters.get(next) {
                Some(&to) => {
                    self.scratch.outputs[0] = value;
                    let ready = self.spread(spot.node, node, to, false, Way::Next);
                    self.add(self.at(to), ready);
                }
                None => {
                    s.parked.push((spot.node, value));
                    if s.iters.len() < self.flow.frames[frame.stat as usize].parallel {
                        self.begin(&mut s, frame, iter.number() + 1);
                    }
                }
            }
        }
        self.account(at, 0);
    }

    /// Begins an iteration with what is parked for it and the loop's constants.
    fn begin(&mut self, s: &mut FrameState, frame: &'a Frame, number: u64) {
        let flow = self.flow;
        // SAFETY: in a step of one thread this is the thread.
        let it = unsafe { self.state.iteration::<SOLO>(flow, frame, number) };
        s.iters.push_back(it);
        let mut ready = 0;
        let mut send = |n: u32, value: Option<Tensor>, way| {
            let dead = value.is_none();
            self.scratch.outputs[0] = value;
            ready += self.spread(n, &flow.nodes[n as usize], it, dead, way);
        };
        for (n, value) in s.parked.drain(..) {
            send(n, value, Way::Next);
        }
        for (n, value) in &s.invariants {
            send(*n, value.clone(), Way::NextIn);
        }
        self.add(self.at(it), ready);
    }

    /// Fires an Exit that is live; its value is in the scratch area.
    pub(super) fn exit(&mut self, spot: Spot, node: &FlowNode, at: NonNull<Iter>) {
        let frame: &'a Frame = self.at(at).frame();
        let left = &frame.left[node.arg as usize];
        let before = if SOLO {
            let before = left.load(Relaxed);
            left.store(true, Relaxed);
            before
        } else {
            left.swap(true, AcqRel)
        };
        if before {
            let e = Error::invalid(
                "a value left the loop in two of its iterations; an Exit belongs behind the Switch of the loop's \
                 condition",
            );
            self.host.fail(spot, e);
            self.scratch.outputs[0] = None;
            return;
        }
        if let Some(outer) = frame.outer() {
            let ready = self.spread(spot.node, node, outer, false, Way::Plain);
            // The frame keeps the outer iteration going meanwhile.
            self.add(self.at(outer), ready);
        }
        self.account(at, 0);
    }

    /// Ends the iterations of a frame that are over, begins those that waited for it, and ends the frame, and those
    /// around it, if that was the last.
    #[inline(never)]
    pub(super) fn settle(&mut self, mut frame: &'a Frame) {
        let flow = self.flow;
        loop {
            let Some(outer) = frame.outer() else { return };
            let stat = &flow.frames[frame.stat as usize];
            let over = {
                // SAFETY: nothing below takes the frame's state again.
                let mut s = unsafe { frame.hold::<SOLO>() };
                let mut ended = false;
                while s.awaited == 0
                    && let Some(&oldest) = s.iters.front()
                    && self.at(oldest).outstanding.load(Acquire) == 0
                {
                    let number = self.at(oldest).number();
                    s.iters.pop_front();
                    // SAFETY: nothing is outstanding and nothing can come any more: all Enters have arrived, and
                    // there is no iteration before it.
                    unsafe { self.state.recycle::<SOLO>(flow, frame.stat, oldest) };
                    if !s.parked.is_empty() {
                        let next = number + s.iters.len() as u64 + 1;
                        self.begin(&mut s, frame, next);
                    }
                    ended = true;
                }
                let over = ended && s.iters.is_empty();
                if over {
                    s.invariants.clear();
                }
                over
            };
            if !over || self.host.step.has_failed() {
                return;
            }
            let mut ready = 0;
            for (left, &n) in frame.left.iter().zip(&stat.exits) {
                if !left.load(Acquire) {
                    ready += self.spread(n, &flow.nodes[n as usize], outer, true, Way::Plain);
                }
            }
            let around = self.at(outer);
            around.children[stat.child].store(std::ptr::null_mut(), Release);
            // SAFETY: in a step of one thread this is the thread.
            unsafe { self.state.recycle_frame::<SOLO>(frame) };
            let next: &'a Frame = around.frame();
            // One less for the frame; what its Exits made ready has been counted, dead ones are counted now.
            let before = if SOLO {
                let n = around.outstanding.load(Relaxed);
                around.outstanding.store(n.wrapping_add(ready).wrapping_sub(1), Relaxed);
                n.wrapping_add(ready)
            } else if ready > 0 {
                around.outstanding.fetch_add(ready - 1, AcqRel) + ready
            } else {
                around.outstanding.fetch_sub(1, AcqRel)
            };
            if before != 1 {
                return;
            }
            frame = next;
        }
    }
}
