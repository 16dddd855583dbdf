//! Nodes that wait outside of any worker: for a variable, for turns, for whoever has their continuation.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Instant;

use actorflow_core::Tensor;
use actorflow_core::actor::Claims;
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, OpContext, Resume, Suspend};
use actorflow_core::resource::Variable;

use super::flow::Iter;
use super::launch::Job;
use super::plan::{CLAIMS, DEREF, Plan, PlanNode};
use super::run::Executor;
use super::step::{Arrived, NodeTrace, RUNNING, Step, WAITING};

/// A node, and in a plan with control flow the iteration in which it runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) node: u32,
    pub(super) iter: Option<NonNull<Iter>>,
}

// SAFETY: an iteration belongs to a step, which whoever has a spot keeps alive, and is made for several threads.
unsafe impl Send for Spot {}

impl Spot {
    /// A node of a plan without control flow.
    #[inline(always)]
    pub(super) fn simple(node: u32) -> Spot {
        Spot { node, iter: None }
    }
}

/// How far preparing a node's inputs and turns got.
pub(super) enum Ready {
    Yes,
    /// The node waits outside, or the step failed.
    No,
}

/// What a run consists of.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) exec: &'a Arc<Executor>,
    pub(super) plan: &'a Arc<Plan>,
    pub(super) step: &'a Arc<Step>,
}

impl Host<'_> {
    /// Adds to an error what is known of the node.
    #[cold]
    pub(super) fn blame(&self, spot: Spot, e: Error) -> Error {
        self.plan.info[spot.node as usize].blame(match (spot.iter, &self.plan.flow) {
            // SAFETY: the step, which owns the iteration, is alive.
            (Some(iter), Some(flow)) => unsafe { iter.as_ref() }.locate(flow, e),
            _ => e,
        })
    }

    /// Fails the step with an error of this node.
    #[cold]
    pub(super) fn fail(&self, spot: Spot, e: Error) {
        self.step.fail(self.blame(spot, e));
    }

    /// Fails the step with the panic of this node's kernel.
    #[cold]
    pub(super) fn panicked(&self, spot: Spot, payload: Box<dyn Any + Send>) {
        let what = panic_message(&*payload);
        self.fail(spot, Error::internal(format!("the kernel panicked: {what}")));
    }

    /// Reads references and claims turns, into `claims`; what is busy makes the node wait outside.
    pub(super) fn prepare(
        &self,
        spot: Spot,
        flags: u16,
        kernel: &dyn Kernel,
        inputs: &mut [Option<Tensor>],
        claims: &mut Claims,
    ) -> Result<Ready> {
        if flags & DEREF != 0 {
            for &i in &self.plan.deref[spot.node as usize] {
                let Some(t) = &inputs[i as usize] else { continue };
                // An input that came back from waiting has its value already.
                let Ok([handle]) = t.as_resources() else { continue };
                let variable = handle.get::<Variable>()?;
                match variable.actor().try_with(|s| s.value.clone()) {
                    Ok(Some(value)) => inputs[i as usize] = Some(value),
                    Ok(None) => return Err(variable.uninitialized()),
                    Err(_) => {
                        self.wait_to_read(spot, i, variable);
                        return Ok(Ready::No);
                    }
                }
            }
        }
        if flags & CLAIMS != 0 {
            let mut want = std::mem::take(claims);
            let cx = OpContext::new(inputs, &mut [], &self.step.cx, const { &Claims::none() }, None);
            kernel.claims(&cx, &mut want)?;
            if want.try_claim_all() {
                *claims = want;
            } else {
                self.wait_for_turns(spot, want);
                return Ok(Ready::No);
            }
        }
        Ok(Ready::Yes)
    }

    fn begin_waiting(&self, spot: Spot) {
        self.step.note_waiting(spot.node);
        self.step.outstanding.fetch_add(WAITING, Relaxed);
    }

    #[cold]
    fn wait_for_turns(&self, spot: Spot, want: Claims) {
        self.begin_waiting(spot);
        let (exec, plan, step) = (self.exec.clone(), self.plan.clone(), self.step.clone());
        want.claim_all(Box::new(move |held| {
            come_back(&exec, &plan, &step, spot, Arrived::Granted(spot, held))
        }));
    }

    #[cold]
    fn wait_to_read(&self, spot: Spot, input: u16, variable: Arc<Variable>) {
        self.begin_waiting(spot);
        let (exec, plan, step) = (self.exec.clone(), self.plan.clone(), self.step.clone());
        let mut want = Claims::none();
        want.want(variable.clone());
        want.claim_all(Box::new(move |mut held| {
            let value = held.state(variable.actor()).map(|s| s.value.clone());
            held.release_all();
            let value = value.and_then(|v| v.ok_or_else(|| variable.uninitialized()));
            come_back(&exec, &plan, &step, spot, Arrived::Read(spot, input, value));
        }));
    }

    /// What a kernel of this node suspends with.
    #[inline]
    pub(super) fn suspender(self, spot: Spot) -> impl Suspend {
        Suspender { host: self, spot }
    }

    /// Notes how long a node ran.
    #[cold]
    pub(super) fn timed(&self, n: u32, node: &PlanNode, begun: Instant) {
        let took = begun.elapsed().as_nanos() as u64;
        if self.step.measure {
            let now = u32::try_from(took).unwrap_or(u32::MAX);
            let before = node.cost.load(Relaxed);
            // Smoothed, so that one preempted measurement does not change the schedule for long.
            let cost = if before == 0 {
                now
            } else {
                (before / 4).saturating_mul(3).saturating_add(now / 4)
            };
            node.cost.store(cost, Relaxed);
        }
        if let (Some(trace), Some(start)) = (&self.step.trace, self.step.started) {
            let info = &self.plan.info[n as usize];
            let thread = std::thread::current();
            let device = self.exec.device().name().into();
            trace.lock().nodes.push(NodeTrace {
                device,
                name: info.name.clone(),
                op: info.op,
                start_ns: begun.saturating_duration_since(start).as_nanos() as u64,
                duration_ns: took,
                thread: thread
                    .name()
                    .map_or_else(|| format!("{:?}", thread.id()), str::to_owned),
            });
        }
    }

    /// Fails the step if its deadline has passed.
    #[cold]
    pub(super) fn check_deadline(&self) {
        if self.step.deadline.is_some_and(|d| Instant::now() >= d) {
            self.step
                .fail(Error::deadline("the run did not finish before its deadline"));
        }
    }
}

/// Brings a node that waited outside back to its step.
fn come_back(exec: &Arc<Executor>, plan: &Arc<Plan>, step: &Arc<Step>, spot: Spot, arrived: Arrived) {
    step.note_back(spot.node);
    if step.solo {
        step.inbox.push(arrived);
        step.event.set();
    } else {
        // One atomic step from waiting to running, so that the step never looks finished in between.
        step.outstanding.fetch_sub(WAITING - RUNNING, AcqRel);
        exec.pool().spawn(Box::new(Job::resume(exec, plan, step, arrived)));
    }
}

struct Suspender<'a> {
    host: Host<'a>,
    spot: Spot,
}

impl Suspend for Suspender<'_> {
    fn suspend(&self) -> Box<dyn Resume> {
        self.host.begin_waiting(self.spot);
        Box::new(Suspended {
            exec: self.host.exec.clone(),
            plan: self.host.plan.clone(),
            step: self.host.step.clone(),
            spot: self.spot,
        })
    }
}

struct Suspended {
    exec: Arc<Executor>,
    plan: Arc<Plan>,
    step: Arc<Step>,
    spot: Spot,
}

impl Resume for Suspended {
    fn resume(self: Box<Self>, outputs: Result<Vec<Tensor>>) {
        let arrived = Arrived::Outputs(self.spot, outputs);
        come_back(&self.exec, &self.plan, &self.step, self.spot, arrived);
    }

    fn resume_dead(self: Box<Self>) {
        come_back(&self.exec, &self.plan, &self.step, self.spot, Arrived::Dead(self.spot));
    }

    fn step_id(&self) -> u64 {
        self.step.cx.step_id
    }

    fn cancel(&self) -> &CancelToken {
        &self.step.cx.cancel
    }
}

/// What a panic says, of the payload that catching it gives.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}
