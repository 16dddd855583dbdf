//! Kernels: what a node computes, and what it sees while it does.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::actor::{Actor, Claims};
use crate::attr::Attrs;
use crate::cancel::CancelToken;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::files::FilePolicy;
use crate::graph::Node;
use crate::parallel::Parallel;
use crate::rendezvous::{NO_ITERATION, Rendezvous};
use crate::resource::{Resource, ResourceManager, Variable};
use crate::shape::Shape;
use crate::tensor::{INLINE_BYTES, Pool, Tensor};

/// What a kernel costs, as far as it is known without measuring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Always a fraction of a microsecond: constants, identities, shapes. Never handed to another worker.
    Trivial,
    /// Depends on its inputs; measured while it runs.
    Measured,
}

/// The code of a node. One kernel object serves every step of a plan, concurrently.
pub trait Kernel: Send + Sync {
    /// Reads the inputs, sets the outputs.
    ///
    /// Every output must be set (control-flow kernels leave the dead ones empty), unless the kernel has called
    /// [`OpContext::suspend`], which promises to deliver them later.
    ///
    /// # Errors
    /// The step fails with the error; the engine adds the node's name.
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()>;

    /// Asks for the turns of the resource actors that [`compute`](Self::compute) touches. The engine calls it
    /// first, claims them all and holds them until `compute` returns.
    ///
    /// # Errors
    /// The step fails with the error.
    fn claims(&self, _cx: &OpContext<'_>, _want: &mut Claims) -> Result<()> {
        Ok(())
    }

    /// Whether [`claims`](Self::claims) can ask for anything; asked once, when the plan is made.
    fn needs_claims(&self) -> bool {
        false
    }

    /// Whether [`compute`](Self::compute) may suspend; asked once, when the plan is made.
    fn may_suspend(&self) -> bool {
        false
    }

    /// Whether [`compute`](Self::compute) does nothing at all, so that it need not be called; asked once, when the
    /// plan is made. Only for nodes without inputs and outputs.
    fn is_empty(&self) -> bool {
        false
    }

    /// The cost, asked once when the plan is made.
    fn cost(&self) -> Cost {
        Cost::Measured
    }
}

impl<F: Fn(&mut OpContext<'_>) -> Result<()> + Send + Sync> Kernel for F {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        self(cx)
    }
}

/// What a kernel is made from: the node's attributes and types, and the session's resources.
pub struct KernelInit<'a> {
    /// The node's name.
    pub name: &'a str,
    /// The operation's name.
    pub op: &'a str,
    /// The node's attributes, defaults filled in.
    pub attrs: &'a Attrs,
    /// The dtypes of the inputs.
    pub input_types: &'a [DType],
    /// Which inputs are references to variables.
    pub input_refs: &'a [bool],
    /// The dtypes of the outputs.
    pub output_types: &'a [DType],
    /// The session's resources.
    pub resources: &'a Arc<ResourceManager>,
}

impl<'a> KernelInit<'a> {
    /// Of a node of a graph as it was built.
    pub fn of(node: &'a Node, resources: &'a Arc<ResourceManager>) -> Self {
        KernelInit {
            name: node.name(),
            op: node.op_name(),
            attrs: node.attrs(),
            input_types: node.input_types(),
            input_refs: node.input_refs(),
            output_types: node.output_types(),
            resources,
        }
    }

    /// The counter of this node's random stream.
    pub fn random_counter(&self) -> Arc<AtomicU64> {
        self.resources.random_counter(self.name)
    }

    /// The error of a kernel that does not exist for the node's types: `INVALID_ARGUMENT`, as TensorFlow's sessions say it.
    pub fn no_kernel(&self) -> Error {
        let names = |types: &[DType]| types.iter().map(DType::to_string).collect::<Vec<_>>().join(", ");
        Error::invalid(format!(
            "{} has no CPU kernel for inputs [{}] and outputs [{}]; cast them to types that it has one for",
            self.op,
            names(self.input_types),
            names(self.output_types)
        ))
    }
}

/// Everything of a run that kernels share.
pub struct StepContext {
    /// The number of the step, unique in the process.
    pub step_id: u64,
    /// Fires when the run is aborted.
    pub cancel: CancelToken,
    /// The session's resources.
    pub resources: Arc<ResourceManager>,
    /// Resources that live as long as the step: tensor arrays, stacks, temporary variables.
    pub step_resources: Arc<ResourceManager>,
    /// Where tensors of other devices and tasks arrive; `None` in a run of one device.
    pub rendezvous: Option<Arc<dyn Rendezvous>>,
    /// The device that runs the kernels.
    pub device: Arc<dyn Device>,
}

/// The device that runs a kernel: its workers and its memory.
pub trait Device: Send + Sync {
    /// The full name: `/job:localhost/replica:0/task:0/device:CPU:0`.
    fn name(&self) -> &str;

    /// The workers.
    fn parallel(&self) -> &dyn Parallel;

    /// The allocator of tensor buffers, with the device's byte budget.
    fn pool(&self) -> &Arc<Pool>;
}

/// Completes a suspended node.
pub trait Resume: Send {
    /// Delivers the outputs (one for each of the node's) or the error. Called at most once.
    fn resume(self: Box<Self>, outputs: Result<Vec<Tensor>>);

    /// Completes the node as a dead one: what it waited for is on a branch that was not taken.
    fn resume_dead(self: Box<Self>) {
        self.resume(Err(Error::internal(
            "a dead value arrived where there is no control flow",
        )));
    }

    /// The step that waits.
    fn step_id(&self) -> u64;

    /// Fires when that step is aborted.
    fn cancel(&self) -> &CancelToken;
}

/// How a context makes the continuation of the node that it runs; the executor implements it.
pub trait Suspend {
    /// Marks the running node as suspended.
    fn suspend(&self) -> Box<dyn Resume>;
}

/// The promise to finish a suspended node. Dropping it unfinished fails the step.
pub struct Continuation(Option<Box<dyn Resume>>);

impl Continuation {
    /// A promise to whatever is not a node: `to` gets the outputs.
    pub fn new(to: Box<dyn Resume>) -> Self {
        Continuation(Some(to))
    }

    /// Delivers the node's outputs, or the error.
    pub fn finish(mut self, outputs: Result<Vec<Tensor>>) {
        if let Some(r) = self.0.take() {
            r.resume(outputs);
        }
    }

    /// Finishes the node as a dead one.
    pub fn finish_dead(mut self) {
        if let Some(r) = self.0.take() {
            r.resume_dead();
        }
    }

    /// The step that waits.
    pub fn step_id(&self) -> u64 {
        self.0.as_ref().map_or(0, |r| r.step_id())
    }

    /// The token that fires when the waiting step is aborted.
    pub fn cancel_token(&self) -> Option<CancelToken> {
        self.0.as_ref().map(|r| r.cancel().clone())
    }
}

impl Drop for Continuation {
    fn drop(&mut self) {
        if let Some(r) = self.0.take() {
            r.resume(Err(Error::cancelled(
                "the resource that the operation waited for was destroyed",
            )));
        }
    }
}

/// What a running kernel sees: inputs, outputs, the step, the device.
pub struct OpContext<'a> {
    inputs: &'a mut [Option<Tensor>],
    outputs: &'a mut [Option<Tensor>],
    step: &'a StepContext,
    held: &'a Claims,
    suspend: Option<&'a dyn Suspend>,
    suspended: bool,
    tag: u64,
}

impl<'a> OpContext<'a> {
    /// A context over the node's input and output slots; the executor makes one for each firing.
    #[inline]
    pub fn new(
        inputs: &'a mut [Option<Tensor>],
        outputs: &'a mut [Option<Tensor>],
        step: &'a StepContext,
        held: &'a Claims,
        suspend: Option<&'a dyn Suspend>,
    ) -> Self {
        OpContext {
            inputs,
            outputs,
            step,
            held,
            suspend,
            suspended: false,
            tag: NO_ITERATION,
        }
    }

    /// The same context, in the loop iteration with this tag.
    pub fn in_iteration(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// The tag of the loop iteration in which the node runs ([`iteration_tag`](crate::rendezvous::iteration_tag)).
    /// Known to nodes that send and receive only.
    pub fn iteration(&self) -> u64 {
        self.tag
    }

    /// The number of inputs.
    #[inline]
    pub fn num_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// The number of outputs.
    #[inline]
    pub fn num_outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Input `i`.
    ///
    /// # Errors
    /// `INTERNAL` if there is none (a dead input of a control-flow kernel, or one taken before).
    #[inline]
    pub fn input(&self, i: usize) -> Result<&Tensor> {
        match self.inputs.get(i) {
            Some(Some(t)) => Ok(t),
            _ => Err(missing_input(i)),
        }
    }

    /// Input `i`, or `None` if it is dead.
    #[inline]
    pub fn input_if_live(&self, i: usize) -> Option<&Tensor> {
        self.inputs.get(i).and_then(Option::as_ref)
    }

    /// Takes input `i` out; a kernel that takes the last share of a buffer may write into it.
    ///
    /// # Errors
    /// `INTERNAL` if there is none.
    #[inline]
    pub fn take_input(&mut self, i: usize) -> Result<Tensor> {
        self.inputs
            .get_mut(i)
            .and_then(Option::take)
            .ok_or_else(|| missing_input(i))
    }

    /// The elements of input `i`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it has another dtype.
    #[inline]
    pub fn slice<T: Element>(&self, i: usize) -> Result<&[T]> {
        self.input(i)?.as_slice::<T>()
    }

    /// The value of scalar input `i`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is no scalar of that dtype.
    #[inline]
    pub fn scalar<T: Element>(&self, i: usize) -> Result<T> {
        self.input(i)?.to_scalar::<T>()
    }

    /// Sets output `i`.
    #[inline]
    pub fn set_output(&mut self, i: usize, t: Tensor) {
        if let Some(o) = self.outputs.get_mut(i) {
            *o = Some(t);
        }
    }

    /// Makes output `i` a scalar zero of a plain dtype, in the place from which it is delivered, and gives its first
    /// bytes to be written. A scalar that is made elsewhere and moved here is read in wider pieces than it was written
    /// in, and such reads wait for the stores.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the dtype has no dense layout, `INTERNAL` if there is no such output.
    #[inline]
    pub fn scalar_output(&mut self, i: usize, dtype: DType) -> Result<&mut [u8; INLINE_BYTES]> {
        match self.outputs.get_mut(i) {
            Some(o) => Tensor::zero_scalar_in(o, dtype),
            None => Err(missing_output(i)),
        }
    }

    /// Sets output `i` to the tensor of input `j`, sharing its data.
    ///
    /// # Errors
    /// `INTERNAL` if there is no such input.
    #[inline]
    pub fn forward(&mut self, i: usize, j: usize) -> Result<()> {
        let t = self.take_input(j)?;
        self.set_output(i, t);
        Ok(())
    }

    /// A new tensor from the device's pool with elements of any value.
    ///
    /// # Errors
    /// As [`Tensor::alloc_in`].
    #[inline]
    pub fn alloc(&self, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        Tensor::alloc_in(self.step.device.pool(), dtype, shape.into())
    }

    /// A new tensor of zeros from the device's pool.
    ///
    /// # Errors
    /// As [`Tensor::alloc_in`].
    pub fn zeros(&self, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        if !dtype.is_plain() {
            return Tensor::zeros(dtype, shape);
        }
        let mut t = self.alloc(dtype, shape)?;
        if let Some(b) = t.bytes_mut() {
            b.fill(0);
        }
        Ok(t)
    }

    /// The tensor of input `i` for writing if nobody else shares it and dtype and shape agree (its elements still
    /// hold the input), else a new tensor from the pool. The flag says whether the input was reused.
    ///
    /// # Errors
    /// As [`Tensor::alloc_in`].
    pub fn reuse_or_alloc(&mut self, i: usize, dtype: DType, shape: &Shape) -> Result<(Tensor, bool)> {
        if let Some(slot) = self.inputs.get_mut(i)
            && slot
                .as_ref()
                .is_some_and(|t| t.dtype() == dtype && t.is_unique() && t.shape() == shape)
            && let Some(t) = slot.take()
        {
            return Ok((t, true));
        }
        Ok((self.alloc(dtype, shape)?, false))
    }

    /// The device's workers.
    #[inline]
    pub fn parallel(&self) -> &'a dyn Parallel {
        self.step.device.parallel()
    }

    /// Which files the node may touch; a kernel asks before it touches one.
    #[inline]
    pub fn files(&self) -> &'a FilePolicy {
        self.step.resources.files()
    }

    /// The step.
    #[inline]
    pub fn step(&self) -> &'a StepContext {
        self.step
    }

    /// The variable behind input `i`, a reference or a resource handle.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the input is no variable.
    pub fn variable(&self, i: usize) -> Result<Arc<Variable>> {
        self.resource::<Variable>(i)
    }

    /// The resource behind input `i`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the input is no handle of a `T`.
    pub fn resource<T: Resource>(&self, i: usize) -> Result<Arc<T>> {
        match self.input(i)?.as_resources()? {
            [h] => h.get::<T>(),
            _ => Err(Error::invalid(format!("input {i} must be one resource handle"))),
        }
    }

    /// The state of a resource actor whose turn this kernel asked for in [`Kernel::claims`].
    ///
    /// # Errors
    /// As [`Claims::state`].
    pub fn state<'s, S: Send + 'static>(&'s self, actor: &'s Actor<S>) -> Result<std::cell::RefMut<'s, S>> {
        self.held.state(actor)
    }

    /// The turns that are held.
    pub fn held(&self) -> &'a Claims {
        self.held
    }

    /// Suspends the node: `compute` returns without outputs, and the continuation delivers them later, from any
    /// thread.
    ///
    /// # Errors
    /// `INTERNAL` if the kernel did not announce it by [`Kernel::may_suspend`].
    pub fn suspend(&mut self) -> Result<Continuation> {
        let s = self
            .suspend
            .ok_or_else(|| Error::internal("this kernel may not suspend"))?;
        self.suspended = true;
        Ok(Continuation(Some(s.suspend())))
    }

    /// Whether [`suspend`](Self::suspend) was called.
    #[inline]
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// All inputs.
    pub fn inputs(&self) -> &[Option<Tensor>] {
        self.inputs
    }
}

#[cold]
fn missing_output(i: usize) -> Error {
    Error::internal(format!("there is no output {i}"))
}

#[cold]
fn missing_input(i: usize) -> Error {
    Error::internal(format!("input {i} is missing"))
}

/// A device that runs on the calling thread with memory from an unbounded pool: for constant folding and tests.
pub struct HostDevice {
    pool: Arc<Pool>,
}

impl Default for HostDevice {
    fn default() -> Self {
        HostDevice {
            pool: Pool::new(usize::MAX, 16 << 20),
        }
    }
}

impl HostDevice {
    /// A device whose tensors together may not exceed `budget` bytes.
    pub fn with_budget(budget: usize) -> Self {
        HostDevice {
            pool: Pool::new(budget, 16 << 20),
        }
    }
}

impl Device for HostDevice {
    fn name(&self) -> &str {
        "/device:CPU:0"
    }

    fn parallel(&self) -> &dyn Parallel {
        &crate::parallel::Serial
    }

    fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// Runs one kernel on the calling thread, outside of any session: for constant folding, shape inference and tests.
///
/// # Errors
/// What the kernel returns; `INTERNAL` if it leaves an output empty or suspends.
pub fn run_alone(
    kernel: &dyn Kernel,
    inputs: Vec<Tensor>,
    outputs: usize,
    device: Arc<dyn Device>,
    resources: Arc<ResourceManager>,
) -> Result<Vec<Tensor>> {
    let step = StepContext {
        step_id: 0,
        cancel: CancelToken::new(),
        step_resources: resources.clone(),
        resources,
        rendezvous: None,
        device,
    };
    let mut ins: Vec<_> = inputs.into_iter().map(Some).collect();
    let mut outs = vec![None; outputs];
    let mut held = Claims::none();
    kernel.claims(
        &OpContext::new(&mut ins, &mut outs, &step, &Claims::none(), None),
        &mut held,
    )?;
    if !held.try_claim_all() {
        return Err(Error::failed_precondition("the resource is in use"));
    }
    let result = kernel.compute(&mut OpContext::new(&mut ins, &mut outs, &step, &held, None));
    held.release_all();
    result?;
    outs.into_iter()
        .map(|o| o.ok_or_else(|| Error::internal("the kernel left an output empty")))
        .collect()
}
