//! For tests: runs small graphs on the calling thread without a runtime, and checks gradients.
//!
//! [`Interpreter`] evaluates nodes recursively, each at most once a run. It knows variables but no control flow; it
//! exists so that an operation can be tested beside its code, whatever the state of the runtime.

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::actor::local_mailboxes;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::gradients;
use actorflow_core::graph::NodeId;
use actorflow_core::kernel::{Device, HostDevice, KernelInit, run_alone};
use actorflow_core::op::{SampleFn, Sampler};
use actorflow_core::resource::{ResourceManager, Variable};
use actorflow_core::{DType, Operation, Output, Tensor};

/// Evaluates graphs; variables and other resources live as long as it does.
pub struct Interpreter {
    resources: Arc<ResourceManager>,
    device: Arc<dyn Device>,
}

impl Default for Interpreter {
    fn default() -> Self {
        Interpreter::on(Arc::new(HostDevice::default()))
    }
}

impl Interpreter {
    /// One whose kernels run on `device`.
    pub fn on(device: Arc<dyn Device>) -> Self {
        Interpreter {
            resources: ResourceManager::new(local_mailboxes()),
            device,
        }
    }

    /// The resources that its runs share.
    pub fn resources(&self) -> &Arc<ResourceManager> {
        &self.resources
    }

    /// Runs `fetches` with `feeds`, after the operations `targets`.
    ///
    /// # Errors
    /// The first error, with the node's name.
    pub fn run(&self, fetches: &[Output], targets: &[Operation], feeds: &[(Output, Tensor)]) -> Result<Vec<Tensor>> {
        let mut done: HashMap<NodeId, Vec<Tensor>> = HashMap::new();
        let fed: HashMap<_, _> = feeds.iter().map(|(o, t)| (o.as_ref(), t.clone())).collect();
        for t in targets {
            self.node(t, &fed, &mut done)?;
        }
        fetches.iter().map(|f| self.value(f, &fed, &mut done)).collect()
    }

    fn value(
        &self,
        o: &Output,
        fed: &HashMap<actorflow_core::graph::OutputRef, Tensor>,
        done: &mut HashMap<NodeId, Vec<Tensor>>,
    ) -> Result<Tensor> {
        let t = self.raw(o, fed, done)?;
        if o.is_ref() { self.read(&t) } else { Ok(t) }
    }

    fn read(&self, t: &Tensor) -> Result<Tensor> {
        let v = t.as_resources()?[0].get::<Variable>()?;
        let now = v.actor().try_with(|s| s.value.clone());
        now.unwrap_or(None).ok_or_else(|| v.uninitialized())
    }

    fn raw(
        &self,
        o: &Output,
        fed: &HashMap<actorflow_core::graph::OutputRef, Tensor>,
        done: &mut HashMap<NodeId, Vec<Tensor>>,
    ) -> Result<Tensor> {
        if let Some(t) = fed.get(&o.as_ref()) {
            return Ok(t.clone());
        }
        self.node(&o.op(), fed, done)?;
        Ok(done[&o.op().id()][o.index()].clone())
    }

    fn node(
        &self,
        op: &Operation,
        fed: &HashMap<actorflow_core::graph::OutputRef, Tensor>,
        done: &mut HashMap<NodeId, Vec<Tensor>>,
    ) -> Result<()> {
        if done.contains_key(&op.id()) {
            return Ok(());
        }
        let node = op.node();
        for c in node.control_inputs() {
            let c = op.graph().node(*c)?;
            self.node(&op.graph().operation(c.name())?, fed, done)?;
        }
        let mut inputs = Vec::new();
        for i in 0..node.inputs().len() {
            let from = op.input(i)?;
            let as_ref = node.input_refs()[i];
            inputs.push(if as_ref {
                self.raw(&from, fed, done)?
            } else {
                self.value(&from, fed, done)?
            });
        }
        let init = KernelInit::of(&node, &self.resources);
        let run = || {
            let k = node.def().make_kernel(&init)?;
            run_alone(
                &*k,
                inputs,
                node.num_outputs(),
                self.device.clone(),
                self.resources.clone(),
            )
        };
        let outs = run().map_err(|e| node.blame(e))?;
        for (i, t) in outs.iter().enumerate() {
            let (want, known) = (node.output_type(i), node.output_shape(i));
            if !node.output_is_ref(i) && (t.dtype() != want || !known.accepts(t.shape())) {
                return Err(node.blame(Error::internal(format!(
                    "output {i} is {t:?}, inferred was {want}{known}"
                ))));
            }
        }
        done.insert(op.id(), outs);
        Ok(())
    }
}

/// The value of an output.
///
/// # Panics
/// If the run fails: for tests.
pub fn eval(o: &Output) -> Tensor {
    match Interpreter::default().run(std::slice::from_ref(o), &[], &[]) {
        Ok(mut v) => v.remove(0),
        Err(e) => panic!("{e}"),
    }
}

/// The error of running an output.
///
/// # Panics
/// If it succeeds: for tests.
pub fn fails(o: &Output) -> Error {
    match Interpreter::default().run(std::slice::from_ref(o), &[], &[]) {
        Err(e) => e,
        Ok(v) => panic!("expected an error, got {v:?}"),
    }
}

/// Compares the symbolic gradient of a sampled operation with central differences, in float64.
///
/// The function that is differentiated is the sum of all differentiable outputs, each multiplied by fixed random
/// weights, so that contributions cannot cancel.
///
/// # Errors
/// A message naming the input, the element and both derivatives if they differ by more than 1e-5 (relative, or
/// absolute below 1); errors of building and running.
pub fn check_gradient(sample: SampleFn, seed: u64) -> Result<()> {
    let mut s = Sampler::new(seed);
    let op = sample(&mut s)?;
    let run = Interpreter::default();
    let feeds: Vec<(Output, Tensor)> = s.inputs().to_vec();
    let mut terms = Vec::new();
    for y in op.outputs().iter().filter(|y| y.dtype().is_float()) {
        let value = run.run(std::slice::from_ref(y), &[], &feeds)?.remove(0);
        let weights: Vec<f64> = (0..value.len()).map(|_| s.number(0.5, 1.5)).collect();
        let w = s
            .constant(Tensor::from_slice(value.shape(), &weights)?)?
            .cast(y.dtype())?;
        terms.push(y.times(&w)?.reshape(&[-1])?.sum(&[0], false)?.cast(DType::F64)?);
    }
    if terms.is_empty() {
        return Err(Error::invalid("the sampled operation has no differentiable output"));
    }
    let loss = s.graph().add_n(&terms)?;
    let xs: Vec<Output> = s
        .inputs()
        .iter()
        .filter(|(x, _)| x.dtype() == DType::F64)
        .map(|(x, _)| x.clone())
        .collect();
    let grads = gradients(std::slice::from_ref(&loss), &xs)?;
    for (x, grad) in xs.iter().zip(grads) {
        let Some(at) = feeds.iter().position(|(p, _)| p == x) else {
            continue;
        };
        let base: Vec<f64> = feeds[at].1.to_vec()?;
        let got: Vec<f64> = match grad {
            Some(g) => run.run(&[g.to_dense()?], &[], &feeds)?[0].to_vec()?,
            None => vec![0.0; base.len()],
        };
        if got.len() != base.len() {
            return Err(Error::internal(format!(
                "the gradient of {} has {} elements",
                x.name(),
                got.len()
            )));
        }
        let at_value = |i: usize, v: f64| -> Result<f64> {
            let mut moved = base.clone();
            moved[i] = v;
            let mut feeds = feeds.clone();
            feeds[at].1 = Tensor::from_slice(feeds[at].1.shape(), &moved)?;
            run.run(std::slice::from_ref(&loss), &[], &feeds)?[0].to_scalar::<f64>()
        };
        for i in 0..base.len() {
            // A fourth-order central difference.
            let h = 1e-3;
            let d = |k: f64| -> Result<f64> { Ok(at_value(i, base[i] + k * h)? - at_value(i, base[i] - k * h)?) };
            let want = (8.0 * d(1.0)? - d(2.0)?) / (12.0 * h);
            if !((got[i] - want).abs() <= 1e-5 * want.abs().max(1.0)) {
                return Err(Error::internal(format!(
                    "gradient of {} with respect to {} element {i}: symbolic {}, numeric {want}",
                    op.name(),
                    x.name(),
                    got[i]
                )));
            }
        }
    }
    Ok(())
}
