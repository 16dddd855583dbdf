//! Waiting, closing and cancelling, with nodes that suspend.

use std::sync::Arc;

use actorflow_core::actor::{Claims, local_mailboxes};
use actorflow_core::cancel::CancelToken;
use actorflow_core::kernel::{HostDevice, Kernel, KernelInit, OpContext, Resume, StepContext, Suspend};
use actorflow_core::op::registry;
use actorflow_core::resource::ResourceManager;
use actorflow_core::{AttrValue, Attrs, Code, DType, Error, PartialShape, Result, Tensor};
use parking_lot::Mutex;

mod orders;
mod others;

/// What became of a node.
#[derive(Clone, Default)]
pub(super) struct Outcome(Arc<Mutex<Option<Result<Vec<Tensor>>>>>);

impl Outcome {
    pub(super) fn waits(&self) -> bool {
        self.0.lock().is_none()
    }

    pub(super) fn outputs(&self) -> Vec<Tensor> {
        self.0.lock().clone().expect("the node still waits").unwrap()
    }

    /// Lets go of the outputs.
    pub(super) fn forget(&self) {
        drop(self.0.lock().take());
    }

    pub(super) fn error(&self) -> Error {
        self.0.lock().clone().expect("the node still waits").unwrap_err()
    }
}

struct Answer(Outcome, CancelToken);

impl Resume for Answer {
    fn resume(self: Box<Self>, outputs: Result<Vec<Tensor>>) {
        *self.0.0.lock() = Some(outputs);
    }

    fn step_id(&self) -> u64 {
        1
    }

    fn cancel(&self) -> &CancelToken {
        &self.1
    }
}

struct Suspender(Outcome, CancelToken);

impl Suspend for Suspender {
    fn suspend(&self) -> Box<dyn Resume> {
        Box::new(Answer(self.0.clone(), self.1.clone()))
    }
}

/// A session whose nodes run one at a time and may suspend.
pub(super) struct Session {
    resources: Arc<ResourceManager>,
}

impl Session {
    pub(super) fn new() -> Self {
        crate::link();
        Session {
            resources: ResourceManager::new(local_mailboxes()),
        }
    }

    /// Runs a node of a step that `cancel` aborts.
    pub(super) fn start(
        &self,
        op: &str,
        attrs: &[(&str, AttrValue)],
        inputs: Vec<Tensor>,
        cancel: &CancelToken,
    ) -> Outcome {
        let def = registry().get(op).unwrap();
        let mut all: Attrs = attrs.iter().map(|(k, v)| (*k, v.clone())).collect();
        def.fill_defaults(&mut all);
        let outputs = match all.get("component_types") {
            Some(AttrValue::List(l)) if def.outputs().iter().any(|o| o.is_list()) => l.len() + def.outputs().len() - 1,
            _ => def.outputs().len(),
        };
        let outputs = match all.get("dtypes") {
            Some(AttrValue::List(l)) if def.outputs().iter().any(|o| o.is_list()) => outputs + l.len() - 1,
            _ => outputs,
        };
        let types: Vec<DType> = inputs.iter().map(Tensor::dtype).collect();
        let kernel = def.make_kernel(&KernelInit {
            name: "node",
            op: def.name(),
            attrs: &all,
            input_types: &types,
            input_refs: &vec![false; types.len()],
            output_types: &vec![DType::F32; outputs],
            resources: &self.resources,
        });
        let outcome = Outcome::default();
        let result = kernel.and_then(|k| self.fire(&*k, inputs, outputs, cancel, &outcome));
        if let Some(result) = result.transpose() {
            *outcome.0.lock() = Some(result);
        }
        outcome
    }

    fn fire(
        &self,
        kernel: &dyn Kernel,
        inputs: Vec<Tensor>,
        outputs: usize,
        cancel: &CancelToken,
        outcome: &Outcome,
    ) -> Result<Option<Vec<Tensor>>> {
        let step = StepContext {
            step_id: 1,
            cancel: cancel.clone(),
            step_resources: self.resources.clone(),
            resources: self.resources.clone(),
            rendezvous: None,
            device: Arc::new(HostDevice::default()),
        };
        let mut ins: Vec<_> = inputs.into_iter().map(Some).collect();
        let mut outs = vec![None; outputs];
        let mut held = Claims::none();
        let none = Claims::none();
        kernel.claims(&OpContext::new(&mut ins, &mut outs, &step, &none, None), &mut held)?;
        assert!(held.try_claim_all());
        let suspender = Suspender(outcome.clone(), cancel.clone());
        let mut cx = OpContext::new(&mut ins, &mut outs, &step, &held, Some(&suspender));
        let result = kernel.compute(&mut cx);
        let suspended = cx.is_suspended();
        held.release_all();
        result?;
        Ok((!suspended).then(|| outs.into_iter().map(|o| o.expect("an output is empty")).collect()))
    }

    /// Runs a node of a step that nobody aborts.
    pub(super) fn run(&self, op: &str, attrs: &[(&str, AttrValue)], inputs: Vec<Tensor>) -> Outcome {
        self.start(op, attrs, inputs, &CancelToken::new())
    }
}

fn ints(v: &[i32]) -> Tensor {
    Tensor::vector(v)
}

/// A queue of int32 scalars and the operations on it.
struct Ints<'a> {
    session: &'a Session,
    handle: Tensor,
}

impl<'a> Ints<'a> {
    fn new(session: &'a Session, kind: &str, capacity: i64) -> Self {
        let attrs = [
            ("component_types", AttrValue::from([DType::I32])),
            ("shapes", AttrValue::from([PartialShape::scalar()])),
            ("capacity", AttrValue::from(capacity)),
        ];
        let handle = session.run(kind, &attrs, vec![]).outputs().remove(0);
        Ints { session, handle }
    }

    fn put(&self, x: i32) -> Outcome {
        let t = ("Tcomponents", AttrValue::from([DType::I32]));
        self.session
            .run("QueueEnqueueV2", &[t], vec![self.handle.clone(), Tensor::scalar(x)])
    }

    fn put_many(&self, x: &[i32]) -> Outcome {
        let t = ("Tcomponents", AttrValue::from([DType::I32]));
        self.session
            .run("QueueEnqueueManyV2", &[t], vec![self.handle.clone(), ints(x)])
    }

    fn take(&self) -> Outcome {
        let t = ("component_types", AttrValue::from([DType::I32]));
        self.session.run("QueueDequeueV2", &[t], vec![self.handle.clone()])
    }

    fn take_many(&self, op: &str, n: i32, cancel: &CancelToken) -> Outcome {
        let t = ("component_types", AttrValue::from([DType::I32]));
        let inputs = vec![self.handle.clone(), Tensor::scalar(n)];
        self.session.start(op, &[t], inputs, cancel)
    }

    fn close(&self, cancel: bool) -> Outcome {
        let c = ("cancel_pending_enqueues", AttrValue::from(cancel));
        self.session.run("QueueCloseV2", &[c], vec![self.handle.clone()])
    }

    fn size(&self) -> i64 {
        let out = self
            .session
            .run("QueueSizeV2", &[], vec![self.handle.clone()])
            .outputs();
        out[0].to_i64().unwrap()
    }
}

#[test]
fn a_dequeue_waits_for_an_element_and_an_enqueue_for_room() {
    let s = Session::new();
    let q = Ints::new(&s, "FIFOQueueV2", 2);
    let (a, b) = (q.take(), q.take());
    assert!(a.waits() && b.waits());
    q.put(1).outputs();
    assert!(a.outputs() == [Tensor::scalar(1i32)] && b.waits());
    let many = q.put_many(&[2, 3, 4, 5]);
    assert!(b.outputs() == [Tensor::scalar(2i32)] && many.waits());
    assert_eq!(q.size(), 2);
    assert_eq!(q.take().outputs(), [Tensor::scalar(3i32)]);
    assert!(many.outputs().is_empty());
    assert_eq!(
        (q.take().outputs(), q.take().outputs()),
        (vec![4i32.into()], vec![5i32.into()])
    );
}

#[test]
fn a_batch_larger_than_the_capacity_is_gathered_as_elements_come() {
    let s = Session::new();
    let q = Ints::new(&s, "FIFOQueueV2", 2);
    let batch = q.take_many("QueueDequeueManyV2", 5, &CancelToken::new());
    q.put_many(&[1, 2, 3]).outputs();
    assert!(batch.waits());
    q.put_many(&[4, 5, 6]).outputs();
    assert_eq!(batch.outputs(), [ints(&[1, 2, 3, 4, 5])]);
    assert_eq!(q.size(), 1);
}

#[test]
fn a_cancelled_batch_puts_its_elements_back_in_order() {
    let s = Session::new();
    let q = Ints::new(&s, "FIFOQueueV2", 10);
    let cancel = CancelToken::new();
    let batch = q.take_many("QueueDequeueManyV2", 4, &cancel);
    let next = q.take();
    q.put_many(&[1, 2, 3]).outputs();
    assert!(batch.waits() && next.waits() && q.size() == 0);
    cancel.cancel(Error::cancelled("the run was aborted"));
    assert_eq!(batch.error().code(), Code::Cancelled);
    assert_eq!(next.outputs(), [Tensor::scalar(1i32)]);
    assert_eq!(
        q.take_many("QueueDequeueManyV2", 2, &CancelToken::new()).outputs(),
        [ints(&[2, 3])]
    );
}

#[test]
fn closing_lets_pending_enqueues_finish_and_then_fails_both_sides() {
    let s = Session::new();
    let q = Ints::new(&s, "FIFOQueueV2", 1);
    q.put(1).outputs();
    let (pending, close) = (q.put(2), q.close(false));
    assert!(pending.waits() && close.waits());
    assert_eq!(q.take().outputs(), [Tensor::scalar(1i32)]);
    assert!(!pending.waits() && !close.waits());
    assert_eq!(q.put(3).error().code(), Code::Cancelled);
    assert_eq!(q.take().outputs(), [Tensor::scalar(2i32)]);
    assert_eq!(q.take().error().code(), Code::OutOfRange);
    assert_eq!(q.close(false).error().code(), Code::Cancelled);
}

#[test]
fn closing_with_cancel_fails_pending_enqueues_and_keeps_what_is_in() {
    let s = Session::new();
    let q = Ints::new(&s, "FIFOQueueV2", 1);
    q.put(1).outputs();
    let pending = q.put(2);
    q.close(true).outputs();
    assert_eq!(pending.error().code(), Code::Cancelled);
    let cancel = CancelToken::new();
    let short = q.take_many("QueueDequeueManyV2", 2, &cancel);
    assert_eq!(short.error().code(), Code::OutOfRange);
    assert_eq!(q.take_many("QueueDequeueUpToV2", 2, &cancel).outputs(), [ints(&[1])]);
    assert_eq!(
        q.take_many("QueueDequeueUpToV2", 2, &cancel).error().code(),
        Code::OutOfRange
    );
}

#[test]
fn closing_ends_those_who_wait_for_elements() {
    let s = Session::new();
    let q = Ints::new(&s, "FIFOQueueV2", 5);
    let batch = q.take_many("QueueDequeueUpToV2", 3, &CancelToken::new());
    let one = q.take();
    q.put(7).outputs();
    q.close(false).outputs();
    assert_eq!(batch.outputs(), [ints(&[7])]);
    assert_eq!(one.error().code(), Code::OutOfRange);
}

#[test]
fn those_who_wait_are_told_when_the_queue_is_destroyed() {
    let s = Session::new();
    let q = Ints::new(&s, "FIFOQueueV2", 5);
    let waiting = q.take();
    drop(q);
    s.resources.clear_container("");
    assert_eq!(waiting.error().code(), Code::Cancelled);
}
