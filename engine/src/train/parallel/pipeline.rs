//! Model parallelism: the layers of one model on different devices or tasks, and the parts of a batch on their way through
//! them one after the other, so that all devices work at the same time.
//!
//! A *stage* is what one device computes. What it gives for a part of the batch goes into a queue on the device of the next
//! stage, and gradients come back through queues likewise; nothing passes through the client. Each stage's gradients meet in
//! accumulators beside the variables, and all parts count before anything moves: a step is what one device does with the
//! whole batch. A stage keeps its inputs, not what it computed from them, and computes that again for the gradients:
//! Y. Huang et al., "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism", NeurIPS 2019.

use std::time::{Duration, Instant};

use actorflow_core::cancel::CancelToken;
use actorflow_core::gradient::{Grad, GradientOptions, gradients_with};
use actorflow_core::{DType, Error, Graph, Operation, Output, PartialShape, Result, Tensor};
use parking_lot::Mutex;

use crate::queue::{Queue, QueueKind};
use crate::train::optimizer::{Optimizer, VariableGrad};
use crate::train::variable::Variable;
use crate::{Callable, Session};

/// How a [`Pipeline`] is built.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// The device or task of each stage, in order: `/job:worker/task:0`, `/cpu:1`.
    pub devices: Vec<String>,
    /// In how many parts, of equal numbers of rows, a batch goes through the stages. Several for each stage keep all of them
    /// busy most of the time.
    pub micro_batches: usize,
    /// The longest that a step may take.
    pub deadline: Duration,
    /// What the names of the queues and accumulators begin with; pipelines on the same tasks need different ones.
    pub name: String,
}

impl PipelineOptions {
    /// Four parts for each of the stages on these devices, and a minute.
    pub fn new(devices: Vec<String>) -> PipelineOptions {
        PipelineOptions {
            micro_batches: 4 * devices.len(),
            devices,
            deadline: Duration::from_secs(60),
            name: "pipeline".to_owned(),
        }
    }
}

/// An accumulator of means.
struct Mean {
    handle: Output,
    dtype: DType,
    shape: PartialShape,
}

impl Mean {
    fn new(g: &Graph, dtype: DType, shape: PartialShape) -> Result<Mean> {
        let b = g.op("ConditionalAccumulator").attr("dtype", dtype);
        let b = b.attr("shape", shape.clone()).attr("reduction_type", "MEAN");
        let handle = b.output()?;
        Ok(Mean { handle, dtype, shape })
    }

    fn push(&self, x: &Output) -> Result<Operation> {
        let g = self.handle.graph();
        // No step is later than this one, so that nothing is dropped for being late.
        let step = g.constant(i64::MAX)?;
        let b = g.op("AccumulatorApplyGradient").input(&self.handle);
        b.input(&step).input(x).finish()
    }

    /// The mean, once so many have been pushed.
    fn take(&self, n: usize) -> Result<Output> {
        let g = self.handle.graph();
        let n = g.constant(i32::try_from(n).unwrap_or(i32::MAX))?;
        let b = g.op("AccumulatorTakeGradient").input(&self.handle).input(&n);
        b.attr("dtype", self.dtype).output_shape(0, self.shape.clone()).output()
    }
}

/// A place where a failed step may have left something: how much is there, and what takes it away.
struct Rest {
    left: Output,
    take: Operation,
}

/// The model in the making.
struct Builder<'a> {
    g: &'a Graph,
    variables: &'a [Variable],
    micro_batches: usize,
    /// The accumulators of each variable, one for each stage that uses it.
    means: Vec<Vec<Mean>>,
    rests: Vec<Rest>,
}

/// Those of a stage's values that gradients flow through.
fn floats(values: &[Output]) -> Vec<Output> {
    values.iter().filter(|x| x.dtype().is_float()).cloned().collect()
}

impl Builder<'_> {
    /// A queue for all parts of a batch, on the device of the open scope.
    fn queue(&mut self, like: &[Output]) -> Result<Queue> {
        let components: Vec<(DType, PartialShape)> = like.iter().map(|x| (x.dtype(), x.shape())).collect();
        let queue = Queue::builder(self.g, QueueKind::Fifo, &components);
        let queue = queue.capacity(self.micro_batches).build()?;
        let take = self.g.op("QueueDequeueV2").input(queue.handle());
        self.rests.push(Rest {
            left: queue.size()?,
            take: take.attr("component_types", queue.types().to_vec()).finish()?,
        });
        Ok(queue)
    }

    fn mean(&mut self, dtype: DType, shape: PartialShape) -> Result<Mean> {
        let mean = Mean::new(self.g, dtype, shape)?;
        self.rests.push(Rest {
            left: mean.handle.unary("AccumulatorNumAccumulated")?,
            take: mean.take(1)?.op(),
        });
        Ok(mean)
    }

    /// The gradients of what a stage gives, from those of its results: pushes those of variables, and hands back those of its
    /// inputs that gradients flow through.
    fn backward(
        &mut self,
        ys: &[Output],
        grad_ys: Vec<Option<Output>>,
        xs: &[Output],
    ) -> Result<(Vec<Operation>, Vec<Output>)> {
        let inputs = floats(xs);
        let mut of: Vec<Output> = self.variables.iter().map(|v| v.handle().clone()).collect();
        of.extend(inputs.iter().cloned());
        let options = GradientOptions {
            grad_ys,
            gate: true,
            ..GradientOptions::default()
        };
        let mut grads = gradients_with(ys, &of, &options)?;
        let of_inputs = grads.split_off(self.variables.len());
        let mut pushed = Vec::new();
        for (i, grad) in grads.into_iter().enumerate() {
            let Some(grad) = grad else { continue };
            let v = &self.variables[i];
            let mean = {
                let _beside = self.g.colocate_with(&v.handle().op())?;
                self.mean(v.dtype(), v.shape().clone())?
            };
            pushed.push(mean.push(&grad.to_dense()?)?);
            self.means[i].push(mean);
        }
        let back = inputs.iter().zip(of_inputs);
        let back = back.map(|(x, grad)| grad.map_or_else(|| x.zeros_like(), |g| g.to_dense()));
        Ok((pushed, back.collect::<Result<_>>()?))
    }

    /// The mean gradients of all variables that have any.
    fn gradients(&self) -> Result<Vec<VariableGrad>> {
        let mut grads = Vec::new();
        for (v, means) in self.variables.iter().zip(&self.means) {
            let _beside = self.g.colocate_with(&v.handle().op())?;
            let taken = means.iter().map(|m| m.take(self.micro_batches));
            let taken = taken.collect::<Result<Vec<_>>>()?;
            let sum = match taken.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                many => Some(self.g.add_n(many)?),
            };
            grads.push((sum.map(Grad::Dense), v.clone()));
        }
        Ok(grads)
    }
}

struct Live {
    session: Session,
    /// What is run for each part of a batch, beside all others; the first takes the part.
    parts: Vec<Callable>,
    update: Callable,
    /// A step has failed and may have left something.
    dirty: bool,
}

/// A model whose layers are on several devices or tasks.
///
/// ```
/// use actorflow::train::optimizer::GradientDescent;
/// use actorflow::train::parallel::pipeline::{Pipeline, PipelineOptions};
/// use actorflow::{DType, Graph, GraphVariables, Optimizer, Session, SessionOptions, Tensor};
///
/// # fn main() -> actorflow::Result<()> {
/// let g = Graph::new();
/// let mut layers = Vec::new();
/// let devices = ["/cpu:0".to_owned(), "/cpu:1".to_owned()];
/// for device in &devices {
///     let _there = g.device_scope(device);
///     layers.push(g.variable(&format!("w{}", layers.len()), 1.0f32)?);
/// }
/// // Two factors that are to make 6 of each x.
/// let inputs = [(DType::F32, [2].into())];
/// let options = PipelineOptions { micro_batches: 2, ..PipelineOptions::new(devices.to_vec()) };
/// let sgd = Optimizer::new(GradientDescent::new(0.02));
/// let mut pipeline = Pipeline::build(&g, &sgd, options, &inputs, &layers, |_, stage, xs| match stage {
///     0 => Ok(vec![layers[0].times(&xs[0])?, xs[0].clone()]),
///     _ => {
///         let off = (&layers[1].times(&xs[0])? - &(&xs[1] * 6.0)?)?;
///         Ok(vec![off.square()?.mean(&[], false)?])
///     }
/// })?;
/// let session = Session::with_options(&g, SessionOptions { devices: 2, ..SessionOptions::default() })?;
/// session.execute(&[&g.global_variables_initializer()?])?;
/// pipeline.start(&session)?;
/// for _ in 0..200 {
///     pipeline.step(&[Tensor::vector(&[1.0f32, 2.0, -1.0, 0.5])])?;
/// }
/// let of = |name: &str| session.variable(name)?.to_scalar::<f32>();
/// assert!((of("w0")? * of("w1")? - 6.0).abs() < 1e-3);
/// # Ok(())
/// # }
/// ```
pub struct Pipeline {
    graph: Graph,
    options: PipelineOptions,
    inputs: Vec<Output>,
    parts: Vec<Operation>,
    update: Operation,
    loss: Output,
    rests: Vec<Rest>,
    live: Option<Live>,
}

impl Pipeline {
    /// Adds a pipeline to the graph. `inputs` are the dtypes and shapes of a part of a batch. `stage` gets the number of a
    /// stage and what the one before it gives (the first: the inputs), and adds what the stage computes, over `variables`
    /// that exist already; it is called twice for all stages but the last. What it gives goes to the next stage, labels that
    /// are only needed later included; the last stage gives the loss alone, the mean over its part. Each variable should be
    /// on the device of the stage that uses it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` without stages or parts, or if the last stage gives anything but one floating-point scalar;
    /// `UNIMPLEMENTED` naming an operation without a gradient; what `stage` returns.
    pub fn build(
        graph: &Graph,
        optimizer: &Optimizer,
        options: PipelineOptions,
        inputs: &[(DType, PartialShape)],
        variables: &[Variable],
        mut stage: impl FnMut(&Graph, usize, &[Output]) -> Result<Vec<Output>>,
    ) -> Result<Pipeline> {
        let stages = options.devices.len();
        if stages == 0 || options.micro_batches == 0 {
            return Err(Error::invalid(
                "a pipeline needs at least one stage, and one part of a batch",
            ));
        }
        let _name = graph.name_scope(&options.name);
        let mut b = Builder {
            g: graph,
            variables,
            micro_batches: options.micro_batches,
            means: variables.iter().map(|_| Vec::new()).collect(),
            rests: Vec::new(),
        };
        let first = {
            let _there = graph.device_scope(&options.devices[0]);
            let placeholder =
                |(dtype, shape): &(DType, PartialShape)| graph.placeholder("input", *dtype, shape.clone());
            inputs.iter().map(placeholder).collect::<Result<Vec<_>>>()?
        };
        // Forward through all stages but the last.
        let (mut parts, mut kept, mut back) = (Vec::new(), Vec::new(), Vec::new());
        let mut xs = first.clone();
        for k in 0..stages - 1 {
            let _there = graph.device_scope(&options.devices[k]);
            let ys = stage(graph, k, &xs)?;
            let stash = b.queue(&xs)?;
            back.push(b.queue(&floats(&ys))?);
            let next = {
                let _next = graph.device_scope(&options.devices[k + 1]);
                b.queue(&ys)?
            };
            let sent = [next.enqueue(&ys)?, stash.enqueue(&xs)?];
            parts.push(graph.group("forward", &sent)?);
            kept.push(stash);
            xs = next.dequeue()?;
        }
        // The last stage goes both ways at once, the others back.
        let mut loss_mean = None;
        for k in (0..stages).rev() {
            let _there = graph.device_scope(&options.devices[k]);
            let (ys, grad_ys) = match kept.get(k) {
                Some(stash) => {
                    xs = stash.dequeue()?;
                    let grads = back[k].dequeue()?.into_iter().map(Some).collect();
                    (floats(&stage(graph, k, &xs)?), grads)
                }
                None => (stage(graph, k, &xs)?, Vec::new()),
            };
            let mut done = Vec::new();
            if k + 1 == stages {
                let [loss] = ys.as_slice() else {
                    return Err(Error::invalid(format!(
                        "the last stage gives the loss alone, not {} tensors",
                        ys.len()
                    )));
                };
                if !loss.dtype().is_float() || loss.shape().rank().is_some_and(|r| r > 0) {
                    return Err(Error::invalid(format!(
                        "the loss must be a floating-point scalar, not {}{}",
                        loss.dtype(),
                        loss.shape()
                    )));
                }
                let mean = b.mean(loss.dtype(), PartialShape::scalar())?;
                done.push(mean.push(loss)?);
                loss_mean = Some(mean);
            }
            let (pushed, of_inputs) = b.backward(&ys, grad_ys, &xs)?;
            done.extend(pushed);
            if k > 0 {
                done.push(back[k - 1].enqueue(&of_inputs)?);
            }
            parts.push(graph.group("backward", &done)?);
        }
        let loss = loss_mean.ok_or_else(|| Error::internal("no stage was the last"))?;
        let loss = loss.take(options.micro_batches)?;
        let update = optimizer.apply_gradients(&b.gradients()?, None)?;
        let rests = b.rests;
        Ok(Pipeline {
            graph: graph.clone(),
            options,
            inputs: first,
            parts,
            update,
            loss,
            rests,
            live: None,
        })
    }

    /// Prepares the steps. The variables have values already.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a session of another graph; as [`Session::callable`].
    pub fn start(&mut self, session: &Session) -> Result<()> {
        if !session.graph().same(&self.graph) {
            return Err(Error::invalid("the session is of another graph than the pipeline"));
        }
        let inputs: Vec<&Output> = self.inputs.iter().collect();
        let mut parts = Vec::new();
        for (i, op) in self.parts.iter().enumerate() {
            let feeds = if i == 0 { inputs.as_slice() } else { &[] };
            parts.push(session.callable(feeds, &[], &[op])?);
        }
        self.live = Some(Live {
            parts,
            update: session.callable(&[], &[&self.loss], &[&self.update])?,
            session: session.clone(),
            dirty: true,
        });
        Ok(())
    }

    /// One step on a batch, one tensor for each input, whose rows go through the stages in parts; the mean loss before it. If
    /// it fails, the variables of some stages may have moved and those of others not.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` before [`start`](Self::start); `INVALID_ARGUMENT` if the batch is not so many equal parts; as
    /// [`Session::run`].
    pub fn step(&mut self, batch: &[Tensor]) -> Result<f32> {
        let parts = split(batch, self.inputs.len(), self.options.micro_batches)?;
        let deadline = Instant::now() + self.options.deadline;
        let live = self.live.as_mut();
        let live = live.ok_or_else(|| Error::failed_precondition("the pipeline has no session: call start first"))?;
        if std::mem::replace(&mut live.dirty, true) {
            clear(&live.session, &self.rests, deadline)?;
        }
        let cancel = CancelToken::new();
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let fail = |e: Error| {
            // What is cancelled because of another error says nothing new.
            let mut first = failed.lock();
            if first.is_none() {
                *first = Some(e.clone());
            }
            drop(first);
            cancel.cancel(Error::cancelled(format!("another stage failed: {e}")).derived());
        };
        let loss = std::thread::scope(|scope| {
            for (i, call) in live.parts.iter().enumerate() {
                let (parts, cancel, fail) = (&parts, &cancel, &fail);
                scope.spawn(move || {
                    for part in parts {
                        let feeds = if i == 0 { part.as_slice() } else { &[] };
                        if let Err(e) = call.call_unless(feeds, Some(deadline), Some(cancel)) {
                            return fail(e);
                        }
                    }
                });
            }
            let loss = live.update.call_unless(&[], Some(deadline), Some(&cancel));
            loss.map_err(&fail).ok()
        });
        if let Some(e) = failed.into_inner() {
            return Err(e);
        }
        let loss = loss.ok_or_else(|| Error::internal("a step gave no loss"))?;
        live.dirty = false;
        match loss[0].dtype() {
            DType::F64 => Ok(loss[0].to_scalar::<f64>()? as f32),
            _ => loss[0].to_scalar::<f32>(),
        }
    }
}

/// The parts of a batch.
fn split(batch: &[Tensor], inputs: usize, n: usize) -> Result<Vec<Vec<Tensor>>> {
    if batch.len() != inputs {
        return Err(Error::invalid(format!(
            "a batch has a tensor for each of the pipeline's {inputs} inputs, got {}",
            batch.len()
        )));
    }
    let part = |k: usize| {
        let of = |t: &Tensor| match t.shape().first() {
            Some(rows) if rows % n == 0 => t.slice_rows(k * (rows / n), (k + 1) * (rows / n)),
            _ => Err(Error::invalid(format!(
                "a tensor of shape {} is not {n} equal parts",
                t.shape()
            ))),
        };
        batch.iter().map(of).collect()
    };
    (0..n).map(part).collect()
}

/// Takes away what a failed step has left.
fn clear(session: &Session, rests: &[Rest], deadline: Instant) -> Result<()> {
    let run = || session.runner().deadline(deadline);
    let mut asked = run();
    for r in rests {
        asked = asked.fetch(&r.left);
    }
    for (r, n) in rests.iter().zip(asked.run()?) {
        // Of an accumulator one is taken, which is all of them.
        let accumulated = r.take.node().op_name() == "AccumulatorTakeGradient";
        let n = usize::try_from(n.to_i64()?).unwrap_or(0);
        let times = if accumulated { n.min(1) } else { n };
        for _ in 0..times {
            run().target(&r.take).run()?;
        }
    }
    Ok(())
}
