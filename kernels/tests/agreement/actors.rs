//! The actors of one place, and nodes that run there.

use std::collections::VecDeque;
use std::sync::Arc;

use actorflow_core::cancel::CancelToken;
use actorflow_core::error::Result;
use actorflow_core::kernel::{Device, HostDevice};
use actorflow_core::resource::ResourceManager;
use actorflow_core::{DType, Graph, Operation, Output, PartialShape, Tensor};
use actorflow_kernels::ops::agreement::desk::AgreementDesk;
use actorflow_kernels::ops::agreement::state::Rules;

use crate::scheduled::{Node, Scheduled, run};

/// What a node answered whose outputs are numbers.
pub(crate) type Numbers = Vec<i64>;

/// An agreement with a variable of `width` numbers and a counter of steps that it guards: a parameter server, or the
/// owner of a bucket, or a replica that keeps the parameters itself.
pub(crate) struct Place {
    resources: Arc<ResourceManager>,
    device: Arc<dyn Device>,
    agreement: Tensor,
    handles: [Tensor; 2],
    begin: Node,
    catch_up: Node,
    join: Node,
    leave: Node,
    report: Node,
    stage: Node,
    decide: Node,
    gate: Node,
    apply: Node,
    reduce: Node,
    assign: Node,
    assign_step: Node,
}

/// The nodes of a place.
fn graph(rules: Rules, width: usize) -> actorflow_core::Result<Vec<Operation>> {
    let g = Graph::new();
    let agreement = g
        .op("Agreement")
        .attr("groups", rules.groups)
        .attr("members", rules.members)
        .attr("required", rules.required)
        .attr("bound", rules.bound.map_or(-1, |b| b as i64))
        .attr("shared_name", "agreement")
        .output()?;
    let vector = |name: &str| g.placeholder(name, DType::I64, PartialShape::vector(None));
    let (tag, decision, ticket) = (vector("tag")?, vector("decision")?, vector("ticket")?);
    let number = g.placeholder("number", DType::I64, [0usize; 0])?;
    let gradient = g.placeholder("gradient", DType::F32, [width])?;
    let handle = |name: &str, dtype: DType, shape: &[usize]| {
        let b = g.op("VarHandleOp").attr("dtype", dtype).attr("shared_name", name);
        b.attr("shape", PartialShape::from(shape)).output()
    };
    let handles: [Output; 2] = [handle("w", DType::F32, &[width])?, handle("step", DType::I64, &[])?];
    let at = |op: &str| g.op(op).input(&agreement);
    let waits = |op: &str| at(op).input(&tag).input_list(std::slice::from_ref(&ticket)).finish();
    let assign = |to: &Output, value: &Output| g.op("AssignVariableOp").input(to).input(value).finish();
    let update = vec!["ResourceApplyGradientDescent v0 c1.0 d0".to_owned()];
    Ok(vec![
        agreement.op(),
        handles[0].op(),
        handles[1].op(),
        at("AgreeBegin").input(&number).finish()?,
        at("AgreeBegin").input(&number).attr("if_behind", true).finish()?,
        at("AgreeJoin").input(&number).finish()?,
        at("AgreeLeave").input(&number).finish()?,
        at("AgreeReport").finish()?,
        at("AgreeStage")
            .input(&tag)
            .input_list(std::slice::from_ref(&gradient))
            .finish()?,
        waits("AgreeDecide")?,
        waits("AgreeGate")?,
        at("AgreeApply")
            .input(&tag)
            .input(&decision)
            .input_list(&handles)
            .attr("updates", update)
            .attr("dtypes", vec![DType::F32, DType::I64])
            .attr("value_types", vec![DType::F32])
            .attr("step", 1)
            .finish()?,
        at("AgreeReduce")
            .input(&decision)
            .attr("mean_types", vec![DType::F32])
            .finish()?,
        assign(&handles[0], &gradient)?,
        assign(&handles[1], &number)?,
    ])
}

impl Place {
    /// One whose agreement has not begun; the variable has zeros.
    pub(crate) fn new(rules: Rules, width: usize) -> Place {
        let resources = Scheduled::resources();
        let device: Arc<dyn Device> = Arc::new(HostDevice::default());
        let ops = graph(rules, width).unwrap();
        let mut nodes: VecDeque<Node> = ops.iter().map(|op| Node::of(op, &resources)).collect();
        let mut next = || nodes.pop_front().unwrap();
        let handle = |node: Node| {
            run(&node, vec![], &device, &resources, &CancelToken::new())
                .wait()
                .unwrap()
                .remove(0)
        };
        let place = Place {
            agreement: handle(next()),
            handles: [handle(next()), handle(next())],
            begin: next(),
            catch_up: next(),
            join: next(),
            leave: next(),
            report: next(),
            stage: next(),
            decide: next(),
            gate: next(),
            apply: next(),
            reduce: next(),
            assign: next(),
            assign_step: next(),
            resources: resources.clone(),
            device: device.clone(),
        };
        place.set(Tensor::vector(&vec![0f32; width]), 0);
        place
    }

    fn run(&self, node: &Node, inputs: Vec<Tensor>, cancel: &CancelToken) -> Result<Vec<Tensor>> {
        run(node, inputs, &self.device, &self.resources, cancel).wait()
    }

    /// A node that never waits for others.
    fn now(&self, node: &Node, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.run(node, inputs, &CancelToken::new())
    }

    /// Gives the variable and the counter values.
    pub(crate) fn set(&self, value: Tensor, step: i64) {
        self.now(&self.assign, vec![self.handles[0].clone(), value]).unwrap();
        self.now(&self.assign_step, vec![self.handles[1].clone(), Tensor::scalar(step)])
            .unwrap();
    }

    /// The variables have values, so many updates old; with `if_behind` only if fewer are known.
    pub(crate) fn begin(&self, version: i64, if_behind: bool) {
        let node = if if_behind { &self.catch_up } else { &self.begin };
        self.now(node, vec![self.agreement.clone(), Tensor::scalar(version)])
            .unwrap();
    }

    /// The next push and round, and what was decided last.
    pub(crate) fn join(&self, replica: i64, cancel: &CancelToken) -> Result<(Numbers, Tensor)> {
        let outputs = self.run(
            &self.join,
            vec![self.agreement.clone(), Tensor::scalar(replica)],
            cancel,
        )?;
        Ok((outputs[0].to_vec()?, outputs[1].clone()))
    }

    pub(crate) fn leave(&self, replica: i64) {
        self.now(&self.leave, vec![self.agreement.clone(), Tensor::scalar(replica)])
            .unwrap();
    }

    /// How many updates were applied.
    pub(crate) fn version(&self) -> i64 {
        self.now(&self.report, vec![self.agreement.clone()]).unwrap()[1]
            .to_scalar()
            .unwrap()
    }

    /// The ticket.
    pub(crate) fn stage(&self, tag: &Tensor, gradient: Tensor) -> Result<Tensor> {
        let inputs = vec![self.agreement.clone(), tag.clone(), gradient];
        Ok(self.now(&self.stage, inputs)?.remove(0))
    }

    /// The decision.
    pub(crate) fn decide(&self, tag: &Tensor, ticket: &Tensor, cancel: &CancelToken) -> Result<Tensor> {
        let inputs = vec![self.agreement.clone(), tag.clone(), ticket.clone()];
        Ok(self.run(&self.decide, inputs, cancel)?.remove(0))
    }

    /// Waits until the replica may go on; what it is told instead of a decision.
    pub(crate) fn gate(&self, tag: &Tensor, cancel: &CancelToken) -> Result<Tensor> {
        let inputs = vec![self.agreement.clone(), tag.clone(), Tensor::vector::<i64>(&[])];
        Ok(self.run(&self.gate, inputs, cancel)?.remove(0))
    }

    /// The variable, and the version, the next round, whether the push counted, its age and the counter.
    pub(crate) fn apply(&self, tag: &Tensor, decision: &Tensor) -> Result<(Tensor, Numbers)> {
        let mut inputs = vec![self.agreement.clone(), tag.clone(), decision.clone()];
        inputs.extend(self.handles.iter().cloned());
        let outputs = self.now(&self.apply, inputs)?;
        Ok((outputs[0].clone(), outputs[1].to_vec()?))
    }

    /// The mean.
    pub(crate) fn reduce(&self, decision: &Tensor) -> Result<Tensor> {
        Ok(self
            .now(&self.reduce, vec![self.agreement.clone(), decision.clone()])?
            .remove(0))
    }

    /// How many requests wait at the agreement.
    pub(crate) fn waiting(&self) -> usize {
        let desk = self.agreement.as_resources().unwrap()[0]
            .get::<AgreementDesk>()
            .unwrap();
        desk.actor()
            .try_with(|room| room.waiting(0))
            .ok()
            .expect("somebody holds the turn for ever")
    }
}
