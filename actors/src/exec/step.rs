//! A step: the mutable half of a run.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::Instant;

use actorflow_core::Tensor;
use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::StepContext;
use crossbeam::queue::SegQueue;
use parking_lot::Mutex;

use super::flow::FlowStep;
use super::plan::Plan;
use super::wait::Spot;
use crate::pending::Pending;
use crate::pool::Event;

/// When a node ran.
#[derive(Debug, Clone)]
pub struct NodeTrace {
    /// The node's name.
    pub name: Arc<str>,
    /// The operation.
    pub op: &'static str,
    /// Nanoseconds from the start of the step.
    pub start_ns: u64,
    /// How long the kernel ran, in nanoseconds.
    pub duration_ns: u64,
    /// Which thread ran it.
    pub thread: String,
    /// The full name of the device that ran it, its task's name included.
    pub device: Arc<str>,
}

/// What a traced run did, node by node, in the order of completion.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The nodes that ran.
    pub nodes: Vec<NodeTrace>,
    /// How many that ran are left out, because other tasks had too many to report.
    pub left_out: u64,
}

/// What comes back to a step from outside of any worker.
pub(super) enum Arrived {
    /// The turns that a node waited for are held.
    Granted(Spot, Claims),
    /// A reference's variable could be read: the value of input `1` of node `0`.
    Read(Spot, u16, Result<Tensor>),
    /// A suspended node has its outputs.
    Outputs(Spot, Result<Vec<Tensor>>),
    /// A suspended node is dead.
    Dead(Spot),
}

/// Work areas of a thread that fires nodes.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) stack: Vec<u32>,
    pub(super) outputs: Vec<Option<Tensor>>,
    pub(super) claims: Claims,
    /// Of a plan with control flow, what is ready.
    pub(super) ready: Queue,
}

/// What is ready on one thread of a plan with control flow.
#[derive(Default)]
pub(super) struct Queue {
    /// What is fired next, last first.
    pub(super) now: Vec<Spot>,
    /// In later iterations: fired when nothing of the present one is ready, so that an iteration that can finish does.
    pub(super) later: Vec<Spot>,
    /// Expensive nodes, fired or handed to other workers when nothing cheap is ready.
    pub(super) heavy: Vec<Spot>,
}

impl Queue {
    pub(super) fn clear(&mut self) {
        self.now.clear();
        self.later.clear();
        self.heavy.clear();
    }
}

/// One activity is running (or queued to run).
pub(super) const RUNNING: u64 = 1;
/// One node waits outside of any worker.
pub(super) const WAITING: u64 = 1 << 32;

/// How a step learns that it is over.
pub(super) type Finish = Box<dyn FnOnce(Result<Vec<Tensor>>) + Send>;

pub(super) struct Step {
    pub(super) slots: Box<[UnsafeCell<Option<Tensor>>]>,
    pub(super) pending: Box<[Pending]>,
    pub(super) cx: StepContext,
    /// Activities that run, plus [`WAITING`] for each node that waits; in one word, so that "nothing runs and
    /// nothing waits" is seen in one atomic step.
    pub(super) outstanding: AtomicU64,
    pub(super) failed: AtomicBool,
    pub(super) error: Mutex<Option<Error>>,
    /// Set when the step is over, or, for a step of one thread, when something is in the inbox.
    pub(super) event: Event,
    /// For a step of one thread: what came back.
    pub(super) inbox: SegQueue<Arrived>,
    /// One thread runs the whole step, so arrivals need no atomic operations.
    pub(super) solo: bool,
    pub(super) measure: bool,
    pub(super) trace: Option<Arc<Mutex<Trace>>>,
    pub(super) started: Option<Instant>,
    pub(super) deadline: Option<Instant>,
    pub(super) on_finish: Mutex<Option<Finish>>,
    /// The nodes that wait, for messages.
    pub(super) waiting: Mutex<Vec<u32>>,
    /// Frames and iterations, if the plan has control flow.
    pub(super) flow: Option<FlowStep>,
    /// Used by the one thread of a solo step.
    pub(super) scratch: UnsafeCell<Scratch>,
}

// SAFETY: a slot is written by its producer before the arrival that counts it and touched by its node's runner
// after all arrivals (see `pending`); fetch slots are written once and read after the step is over, which the
// `outstanding` word orders. `scratch` is used only by the thread that runs a solo step.
unsafe impl Sync for Step {}
// SAFETY: everything inside is `Send`.
unsafe impl Send for Step {}

impl Step {
    pub(super) fn new(plan: &Plan, cx: StepContext) -> Step {
        let slots: Box<[_]> = (0..plan.slots).map(|_| UnsafeCell::new(None)).collect();
        let pending: Box<[_]> = plan.template.iter().map(|t| Pending::new(*t)).collect();
        Step {
            flow: plan.flow.as_ref().map(|f| FlowStep::new(f, &slots, &pending)),
            slots,
            pending,
            cx,
            outstanding: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            event: Event::new(),
            inbox: SegQueue::new(),
            solo: true,
            measure: false,
            trace: None,
            started: None,
            deadline: None,
            on_finish: Mutex::new(None),
            waiting: Mutex::new(Vec::new()),
            scratch: UnsafeCell::new(Scratch {
                outputs: vec![None; plan.max_outputs],
                ..Scratch::default()
            }),
        }
    }

    /// Whether the step has failed; a relaxed load, for every node.
    #[inline(always)]
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Fails the step: the first error wins, what waits is woken.
    #[cold]
    pub(super) fn fail(&self, e: Error) {
        let first = {
            let mut error = self.error.lock();
            if error.is_none() {
                *error = Some(e.clone());
                self.failed.store(true, Release);
                true
            } else {
                false
            }
        };
        if first {
            self.cx
                .cancel
                .cancel(Error::cancelled(format!("another part of the step failed: {e}")).derived());
            // A step of which nothing runs any more ends here; else the last one that runs ends it.
            if self.outstanding.load(Acquire) & (WAITING - 1) == 0 {
                let finish = self.on_finish.lock().take();
                if let Some(f) = finish {
                    f(Err(e));
                }
            }
            self.event.set();
        }
    }

    /// The slots of a node's inputs.
    ///
    /// # Safety
    /// The caller runs the node, or is its only producer left.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn inputs(&self, first: u32, n: u16) -> &mut [Option<Tensor>] {
        debug_assert!((first as usize + n as usize) <= self.slots.len());
        // SAFETY: `UnsafeCell<T>` has the layout of `T`; the range is inside of the slab by construction of the
        // plan, and the caller has it to itself.
        unsafe {
            let base = self.slots.as_ptr().add(first as usize) as *mut Option<Tensor>;
            std::slice::from_raw_parts_mut(base, n as usize)
        }
    }

    /// Writes a slot.
    ///
    /// # Safety
    /// The caller is the producer of this slot and has not yet counted its arrival.
    #[inline(always)]
    pub(super) unsafe fn put(&self, slot: u32, t: Tensor) {
        // SAFETY: passed on to the caller.
        unsafe { self.fill(slot, Some(t)) }
    }

    /// Writes a slot, or leaves it empty.
    ///
    /// # Safety
    /// As [`put`](Self::put).
    #[inline(always)]
    pub(super) unsafe fn fill(&self, slot: u32, t: Option<Tensor>) {
        debug_assert!((slot as usize) < self.slots.len());
        // SAFETY: in range by construction of the plan; the caller has the slot to itself.
        unsafe { *self.slots.get_unchecked(slot as usize).get() = t }
    }

    /// Takes the fetched tensors. The step is over.
    pub(super) fn take_fetches(&self, plan: &Plan) -> Result<Vec<Tensor>> {
        let mut out = Vec::with_capacity(plan.fetch_slots.len());
        for (i, &slot) in plan.fetch_slots.iter().enumerate() {
            // SAFETY: the step is over, nobody else touches its slots.
            match unsafe { self.inputs(slot, 1) }[0].take() {
                Some(t) => out.push(t),
                None => {
                    return Err(Error::invalid(format!(
                        "fetch number {i} has no value: it was computed on a branch that was not taken"
                    )));
                }
            }
        }
        Ok(out)
    }

    /// Makes a used step like new; false if it cannot be used again. It ended without an error and nobody else holds
    /// it.
    pub(super) fn reset(&mut self, plan: &Plan) -> bool {
        match (&mut self.flow, &plan.flow) {
            (Some(step), Some(flow)) => {
                if !step.reset(flow) {
                    return false;
                }
            }
            _ => {
                for (p, t) in self.pending.iter().zip(&plan.template) {
                    p.reset(*t);
                }
            }
        }
        self.outstanding.store(0, Relaxed);
        self.event.reset();
        self.trace = None;
        self.started = None;
        self.deadline = None;
        true
    }

    /// The error that the step ended with, or its fetches.
    pub(super) fn outcome(&self, plan: &Plan) -> Result<Vec<Tensor>> {
        if self.failed.load(Acquire)
            && let Some(e) = self.error.lock().clone()
        {
            return Err(e);
        }
        self.take_fetches(plan)
    }

    /// The names of the nodes that wait outside of any worker, for messages.
    pub(super) fn waiting_for(&self, plan: &Plan) -> String {
        let w = self.waiting.lock();
        let mut names: Vec<String> = w
            .iter()
            .take(4)
            .map(|n| format!("{} ({})", plan.info[*n as usize].name, plan.info[*n as usize].op))
            .collect();
        if w.len() > 4 {
            names.push(format!("and {} more", w.len() - 4));
        }
        names.join(", ")
    }

    pub(super) fn note_waiting(&self, node: u32) {
        self.waiting.lock().push(node);
    }

    pub(super) fn note_back(&self, node: u32) {
        let mut w = self.waiting.lock();
        if let Some(i) = w.iter().position(|n| *n == node) {
            w.swap_remove(i);
        }
    }
}
