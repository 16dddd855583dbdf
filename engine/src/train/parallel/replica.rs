//! One worker's graph of a model, and its steps.

use std::time::Instant;

use actorflow_core::cancel::CancelToken;
use actorflow_core::gradient::{Grad, IndexedSlices};
use actorflow_core::graph::keys;
use actorflow_core::{DType, Error, Graph, Operation, Output, Result, Tensor};

use super::buckets::{Buckets, exchange};
use super::live::{Beside, Live};
use super::ring::Ring;
use super::shard::{Parts, Shard, Site, at};
use super::{Model, ReplicaOptions, StepReport, Strategy};
use crate::Session;
use crate::placement::parameter_devices;
use crate::train::monitored::RunArgs;
use crate::train::optimizer::Optimizer;
use crate::train::variable::{GraphVariables, Variable};

/// Where gradients can be given instead of computed.
pub(super) enum Point {
    Dense(Output),
    Rows(Output, Output),
}

/// The nodes of a replica's graph.
pub(super) struct Nodes {
    pub(super) model: Model,
    pub(super) points: Vec<Point>,
    pub(super) shards: Vec<Shard>,
    pub(super) ring: Option<Ring>,
    /// The values after a step and what happened, for each shard.
    pub(super) stepped: Vec<(Vec<Output>, Output)>,
    /// Under a bound: what happened when the push was applied, before the values were read.
    pub(super) pushed: Vec<Output>,
    /// The decision that `pulled` brings.
    pub(super) decision: Output,
    pub(super) pulled: Vec<(Vec<Output>, Output)>,
    /// Joining, for the buckets and then the shards: the next push and round, and the last decision.
    pub(super) joined: Vec<(Output, Output)>,
    /// The version from which the shards begin, and the operations; those of the buckets.
    pub(super) version: Output,
    pub(super) begin: Vec<Operation>,
    pub(super) begin_buckets: Vec<Operation>,
    pub(super) leave: Vec<Operation>,
    /// Reports of the buckets and then the shards.
    pub(super) reports: Vec<Vec<Output>>,
    pub(super) initializer: Operation,
}

/// One worker's part of data-parallel training: a graph builder and a driver of steps.
///
/// Replicas of one process have a graph each and sessions of the same devices ([`Session::sibling`]); those of a cluster
/// have a session in each worker's task. Both are the same to a replica.
///
/// ```
/// use actorflow::train::optimizer::GradientDescent;
/// use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
/// use actorflow::{Graph, GraphVariables, Session, Tensor};
///
/// # fn main() -> actorflow::Result<()> {
/// let g = Graph::new();
/// let options = ReplicaOptions::new(Strategy::Sync { backup: 0 }, 0, 1);
/// let mut replica = Replica::build(&g, GradientDescent::new(0.5).into(), options, |g| {
///     let w = g.variable("w", 0.0f32)?;
///     let target = g.placeholder("target", actorflow::DType::F32, [2])?;
///     let loss = (&target - &*w)?.square()?.mean(&[], false)?;
///     Ok(Model { inputs: vec![target], loss, metrics: vec![] })
/// })?;
/// replica.start(&Session::new(&g)?)?;
/// let report = replica.step(&[Tensor::vector(&[2.0f32, 4.0])])?;
/// assert_eq!((report.loss, report.global_step, report.applied), (10.0, 1, true));
/// assert_eq!(replica.parameters()?[0].1.to_scalar::<f32>()?, 3.0);
/// # Ok(())
/// # }
/// ```
pub struct Replica {
    graph: Graph,
    options: ReplicaOptions,
    /// What the names of its own variables begin with.
    prefix: String,
    variables: Vec<Variable>,
    nodes: Nodes,
    live: Option<Live>,
}

fn point(grad: Grad) -> Result<(Grad, Point)> {
    Ok(match grad {
        Grad::Dense(d) => {
            let d = d.unary("Identity")?;
            (Grad::Dense(d.clone()), Point::Dense(d))
        }
        Grad::Slices(s) => {
            let (values, indices) = (
                s.values.unary("Identity")?,
                s.indices.cast(DType::I64)?.unary("Identity")?,
            );
            let grad = IndexedSlices {
                values: values.clone(),
                indices: indices.clone(),
                dense_shape: s.dense_shape,
            };
            (Grad::Slices(grad), Point::Rows(values, indices))
        }
    })
}

impl Replica {
    /// Builds the graph of a replica: the model with its variables where the options say, gradients, and what agrees with
    /// the other replicas. `model` makes variables by [`GraphVariables`]; all replicas must make the same ones in the same
    /// order. Optimizer rules with a single operation are made inside of the agreements, on ordinary variables and slots,
    /// which checkpoints save as always.
    ///
    /// With [`Strategy::AllReduce`] the variables' names begin with `replica_` and the number, so that replicas of one
    /// process do not share them; [`parameters`](Self::parameters) leaves that out.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the options do not fit each other, or the loss depends on no trainable variable;
    /// `UNIMPLEMENTED` for a sparse gradient that the optimizer has no way for; what `model` returns.
    pub fn build(
        graph: &Graph,
        optimizer: Optimizer,
        options: ReplicaOptions,
        model: impl FnOnce(&Graph) -> Result<Model>,
    ) -> Result<Replica> {
        options.check()?;
        let reduces = options.strategy == Strategy::AllReduce;
        let prefix = match reduces {
            true => format!("replica_{}/", options.replica),
            false => String::new(),
        };
        let _devices = match reduces {
            true => graph.device_scope(&options.worker),
            false => {
                let worker = if options.ps.is_empty() { "" } else { &options.worker };
                graph.device_function(parameter_devices(&options.ps, worker, options.spread)?)
            }
        };
        let _names = reduces.then(|| graph.name_scope(&prefix));
        let model = model(graph)?;
        let mut grads = Vec::new();
        let (mut variables, mut points) = (Vec::new(), Vec::new());
        for (grad, v) in optimizer.compute_gradients(&model.loss, None)? {
            variables.push(v.clone());
            if let Some(grad) = grad {
                let (grad, at) = point(grad)?;
                grads.push((grad, v));
                points.push(at);
            }
        }
        if grads.is_empty() {
            return Err(Error::invalid("the loss depends on no trainable variable"));
        }
        let mut exchanged = None;
        if reduces {
            let (buckets, means) = exchange(graph, &options.name, &options.workers, grads)?;
            exchanged = Some(buckets);
            grads = means;
        }
        let shards = shards(graph, &optimizer, &options, &prefix, grads)?;
        let nodes = Nodes::build(graph, &options, model, points, shards, exchanged)?;
        Ok(Replica {
            graph: graph.clone(),
            options,
            prefix,
            variables,
            nodes,
            live: None,
        })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The options.
    pub fn options(&self) -> &ReplicaOptions {
        &self.options
    }

    /// Joins the training. The chief initialises the model unless it is already in training; the others wait until it has.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED` if the chief does not come in time; as [`Session::run`].
    pub fn start(&mut self, session: &Session) -> Result<()> {
        let init = self.nodes.initializer.clone();
        self.start_with(session, |session| session.execute(&[&init]))
    }

    /// [`start`](Self::start), where the chief calls `initialize` to give the variables their values, for example from a
    /// checkpoint.
    ///
    /// # Errors
    /// As [`start`](Self::start); what `initialize` returns.
    pub fn start_with(&mut self, session: &Session, initialize: impl FnOnce(&Session) -> Result<()>) -> Result<()> {
        self.start_until(session, Instant::now() + self.options.deadline, initialize)
    }

    /// [`start_with`](Self::start_with) with a deadline of its own.
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with).
    pub(crate) fn start_until(
        &mut self,
        session: &Session,
        deadline: Instant,
        initialize: impl FnOnce(&Session) -> Result<()>,
    ) -> Result<()> {
        if !session.graph().same(&self.graph) {
            return Err(Error::invalid("the session is of another graph than the replica"));
        }
        self.live = Some(Live::start(session, &self.nodes, &self.options, deadline, initialize)?);
        Ok(())
    }

    /// Whether values are lost that this replica has had, so that the training has to be restored.
    pub(crate) fn has_lost_values(&self) -> bool {
        self.live.as_ref().is_none_or(|live| live.has_lost_values(&self.nodes))
    }

    /// What a batch is fed for.
    pub(crate) fn inputs(&self) -> &[Output] {
        &self.nodes.model.inputs
    }

    /// The loss of the model.
    pub fn loss(&self) -> &Output {
        &self.nodes.model.loss
    }

    fn live(&mut self) -> Result<(&mut Live, &Nodes, &ReplicaOptions)> {
        match &mut self.live {
            Some(live) => Ok((live, &self.nodes, &self.options)),
            None => Err(not_started()),
        }
    }

    /// One step: computes gradients of the batch, one tensor for each of the model's inputs, pushes them, and takes the new
    /// values. If it fails, the gradients count once or not at all, and the next step begins by joining again. So whoever gives
    /// the same batch again may have it count twice, unless it is chosen by [`position`](Self::position).
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` before [`start`](Self::start); `DEADLINE_EXCEEDED` naming the replicas that did not come;
    /// `OUT_OF_RANGE` if so many have left that no update can be made any more; as [`Session::run`].
    pub fn step(&mut self, batch: &[Tensor]) -> Result<StepReport> {
        let (live, nodes, options) = self.live()?;
        live.step(nodes, options, batch, &RunArgs::new(), None).map(|s| s.0)
    }

    /// The number of the step that comes next, that is how many updates the values have had from which it computes its
    /// gradients; joins again if the last step has failed.
    ///
    /// In `sync` and `allreduce` the gradients of the next step count for that very update or not at all. So a batch that is
    /// chosen by this number ([`SyncBatches`](crate::data::SyncBatches)) is used once, whatever fails.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn position(&mut self) -> Result<u64> {
        let (live, nodes, options) = self.live()?;
        live.position(nodes, options, None)
    }

    /// [`position`](Self::position) that can be cancelled.
    pub(crate) fn position_unless(&mut self, cancel: &CancelToken) -> Result<u64> {
        let (live, nodes, options) = self.live()?;
        live.position(nodes, options, Some(cancel))
    }

    /// [`step`](Self::step) that can be cancelled.
    ///
    /// # Errors
    /// As [`step`](Self::step); the reason given to the token.
    pub fn step_unless(&mut self, batch: &[Tensor], cancel: &CancelToken) -> Result<StepReport> {
        let (live, nodes, options) = self.live()?;
        live.step(nodes, options, batch, &RunArgs::new(), Some(cancel))
            .map(|s| s.0)
    }

    /// [`step_unless`](Self::step_unless), with what somebody else asks for beside.
    ///
    /// # Errors
    /// As [`step_unless`](Self::step_unless).
    pub(crate) fn step_beside(
        &mut self,
        batch: &[Tensor],
        beside: &RunArgs,
        cancel: &CancelToken,
    ) -> Result<(StepReport, Beside)> {
        let (live, nodes, options) = self.live()?;
        live.step(nodes, options, batch, beside, Some(cancel))
    }

    /// The present values of the trainable variables, by name, as the servers have them (with [`Strategy::AllReduce`], this
    /// replica).
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn parameters(&self) -> Result<Vec<(String, Tensor)>> {
        let live = self.live.as_ref().ok_or_else(not_started)?;
        let mut run = live.session().runner().timeout(self.options.deadline);
        for v in &self.variables {
            run = run.fetch(v.value());
        }
        let values = run.run()?;
        Ok(self.variables.iter().map(|v| self.name(v)).zip(values).collect())
    }

    /// The name that a variable has in the model.
    fn name(&self, v: &Variable) -> String {
        let name = v.name();
        name.strip_prefix(&self.prefix).map_or(name.clone(), str::to_owned)
    }

    /// The values from which the next step computes its gradients, by name, as the last one brought them. Those of variables
    /// with sparse gradients are at the servers only. Costs nothing, unlike [`parameters`](Self::parameters).
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` before [`start`](Self::start).
    pub fn kept(&self) -> Result<Vec<(String, Tensor)>> {
        let live = self.live.as_ref().ok_or_else(not_started)?;
        let variables = self.nodes.shards.iter().flat_map(|s| &s.kept);
        Ok(variables
            .map(|v| self.name(v))
            .zip(live.values().iter().cloned())
            .collect())
    }

    /// How many pushes of all replicas were applied when they were 0, 1, 2 … updates old, at the first server (with
    /// [`Strategy::AllReduce`], of this replica). The last of at most 1024 counts all that were older.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn histogram(&self) -> Result<Vec<u64>> {
        let live = self.live.as_ref().ok_or_else(not_started)?;
        live.histogram(&self.nodes, &self.options)
    }

    /// Takes part no more: nobody waits for this replica. [`start`](Self::start) joins again.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn leave(&mut self) -> Result<()> {
        let live = self.live.take().ok_or_else(not_started)?;
        live.leave(&self.nodes, &self.options)
    }
}

fn not_started() -> Error {
    Error::failed_precondition("the replica takes part in no training: call start first")
}

/// Groups the gradients by where the variables are.
fn shards(
    g: &Graph,
    optimizer: &Optimizer,
    options: &ReplicaOptions,
    prefix: &str,
    grads: Vec<(Grad, Variable)>,
) -> Result<Vec<Shard>> {
    let mut places: Vec<(String, Vec<(Grad, Variable)>)> = Vec::new();
    for (grad, v) in grads {
        let device = v.handle().op().node().device().to_owned();
        match places.iter_mut().find(|p| p.0 == device) {
            Some(p) => p.1.push((grad, v)),
            None => places.push((device, vec![(grad, v)])),
        }
    }
    let reduces = options.strategy == Strategy::AllReduce;
    let step = match (reduces, places.first()) {
        // The model's own, of its learning rate, or one that replicas of one process do not share.
        (true, _) => match g.collection_outputs(keys::GLOBAL_STEP)?.first() {
            Some(handle) => Variable::from_handle(handle)?,
            None => {
                let v = g.variable_builder("global_step").not_trainable().build(0i64)?;
                g.add_to_collection(keys::GLOBAL_STEP, v.handle().name());
                v
            }
        },
        (false, first) => {
            let _there = g.device_scope(first.map_or("", |p| p.0.as_str()));
            g.global_step()?
        }
    };
    let mut shards = Vec::new();
    for (number, (device, grads)) in places.into_iter().enumerate() {
        let site = match reduces {
            true => Site {
                name: format!("{}/of{}/{number}", options.name, options.replica),
                device: &device,
                rules: (1, 1, 1, None),
            },
            false => Site {
                name: format!("{}/{number}", options.name),
                device: &device,
                rules: options.strategy.rules(options.replicas),
            },
        };
        let scaled = Strategy::Async {
            scale_by_staleness: true,
        };
        let parts = Parts {
            optimizer,
            number,
            grads,
            step: (number == 0).then_some(&step),
            scaled: options.strategy == scaled,
            prefix,
        };
        shards.push(Shard::build(g, &site, parts)?);
    }
    if reduces && shards.len() != 1 {
        return Err(Error::invalid(
            "with allreduce all variables of a replica are on its worker; remove the model's device scopes",
        ));
    }
    Ok(shards)
}

impl Nodes {
    fn build(
        g: &Graph,
        options: &ReplicaOptions,
        model: Model,
        points: Vec<Point>,
        shards: Vec<Shard>,
        buckets: Option<Buckets>,
    ) -> Result<Nodes> {
        let number = |n: usize| g.constant(i64::try_from(n).unwrap_or(i64::MAX));
        let (first, strategy) = (&shards[0], options.strategy);
        let tickets = shards.iter().map(Shard::stage).collect::<Result<Vec<_>>>()?;
        let (mut stepped, mut pushed) = (Vec::new(), Vec::new());
        let waits = |op: &str, after: &[Output]| at(&first.agreement, op).input(&first.tag).input_list(after).output();
        match strategy {
            Strategy::Async { .. } | Strategy::AllReduce => {
                for (s, ticket) in shards.iter().zip(&tickets) {
                    stepped.push(s.apply(ticket)?);
                }
            }
            Strategy::Ssp { .. } => {
                for (s, ticket) in shards.iter().zip(&tickets) {
                    pushed.push(s.apply(ticket)?.1);
                }
                let open = waits("AgreeGate", &pushed)?;
                for s in &shards {
                    stepped.push(s.apply(&open)?);
                }
            }
            Strategy::Sync { .. } | Strategy::Hybrid { .. } => {
                let decision = waits("AgreeDecide", &tickets)?;
                for s in &shards {
                    stepped.push(s.apply(&decision)?);
                }
            }
        }
        let decision = g.placeholder("decision", DType::I64, actorflow_core::PartialShape::vector(None))?;
        let pulled = shards.iter().map(|s| s.apply(&decision)).collect::<Result<Vec<_>>>()?;
        let version = g.placeholder("version", DType::I64, [0usize; 0])?;
        let shared: Vec<&Output> = buckets.iter().flat_map(|b| &b.agreements).collect();
        let own: Vec<&Output> = shards.iter().map(|s| &s.agreement).collect();
        let (mut joined, mut leave, mut reports) = (Vec::new(), Vec::new(), Vec::new());
        let alone = strategy == Strategy::AllReduce;
        for (i, a) in shared.iter().chain(&own).enumerate() {
            let me = number(if alone && i >= shared.len() { 0 } else { options.replica })?;
            let join = at(a, "AgreeJoin").input(&me).finish()?;
            joined.push((join.output(0)?, join.output(1)?));
            leave.push(at(a, "AgreeLeave").input(&me).finish()?);
            reports.push(at(a, "AgreeReport").finish()?.outputs());
        }
        let begins = |list: &[&Output], if_behind: bool| {
            let begin = |a: &&Output| {
                let b = at(a, "AgreeBegin").input(&version);
                b.attr("if_behind", if_behind).finish()
            };
            list.iter().map(begin).collect::<Result<Vec<_>>>()
        };
        // Of those of buckets, which several replicas begin, whoever knows of the most steps is right.
        let (begin, begin_buckets) = (begins(&own, false)?, begins(&shared, true)?);
        let ring = buckets
            .map(|b| Ring::build(g, options, b, first, &decision))
            .transpose()?;
        Ok(Nodes {
            model,
            points,
            ring,
            stepped,
            pushed,
            decision,
            pulled,
            joined,
            version,
            begin,
            begin_buckets,
            leave,
            reports,
            initializer: g.global_variables_initializer()?,
            shards,
        })
    }
}
