//! The variables of one parameter server, their agreement, and the updates that are made there.

use actorflow_core::gradient::Grad;
use actorflow_core::graph::OutputRef;
use actorflow_core::op::registry;
use actorflow_core::{AttrValue, DType, Error, Graph, Operation, Output, Result, Shape};

use crate::train::optimizer::{Arg, Hyper, Optimizer};
use crate::train::variable::{Variable, VariableKind};

/// Who agrees at an agreement, and where it is.
pub(super) struct Site<'a> {
    pub(super) name: String,
    pub(super) device: &'a str,
    /// Groups, members, required, bound.
    pub(super) rules: (usize, usize, usize, Option<u64>),
}

/// Adds the node of an agreement.
pub(super) fn agreement(g: &Graph, site: &Site<'_>) -> Result<Output> {
    let (groups, members, required, bound) = site.rules;
    let bound = bound.map_or(Ok(-1), |b| {
        i64::try_from(b).map_err(|_| Error::invalid(format!("the bound {b} does not fit an int64")))
    })?;
    let _place = g.device_scope("");
    let _here = g.device_scope(site.device);
    g.op("Agreement")
        .attr("groups", groups)
        .attr("members", members)
        .attr("required", required)
        .attr("bound", bound)
        .attr("shared_name", site.name.as_str())
        .name("agreement")
        .output()
}

/// A node that takes an agreement.
pub(super) fn at(agreement: &Output, op: &str) -> actorflow_core::graph::OpBuilder {
    let b = agreement.graph().op(op).input(agreement);
    b.colocate_with(&agreement.op().name())
}

/// The trained variables of one server.
pub(super) struct Shard {
    pub(super) agreement: Output,
    /// What the node that applies takes: first the variables whose values replicas keep, then others that are trained,
    /// slots, shared scalars, and the step counter.
    handles: Vec<Output>,
    dtypes: Vec<DType>,
    updates: Vec<String>,
    step: Option<usize>,
    /// The variables whose values replicas keep.
    pub(super) kept: Vec<Variable>,
    /// What a replica pushes: gradients, then hyper-parameters that the graph computes.
    pub(super) payload: Vec<Output>,
    /// The replica's tag.
    pub(super) tag: Output,
}

/// What a shard is made of.
pub(super) struct Parts<'a> {
    pub(super) optimizer: &'a Optimizer,
    /// Number of the shard.
    pub(super) number: usize,
    pub(super) grads: Vec<(Grad, Variable)>,
    /// The step counter, if it is here.
    pub(super) step: Option<&'a Variable>,
    /// Divide learning rates by staleness.
    pub(super) scaled: bool,
    /// What shared scalars' names begin with.
    pub(super) prefix: &'a str,
}

impl Shard {
    /// Adds the agreement and the slots of a shard, and collects its updates.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if a variable is none that can be updated there; `UNIMPLEMENTED` if the optimizer has no rule for
    /// a sparse gradient.
    pub(super) fn build(g: &Graph, site: &Site<'_>, parts: Parts<'_>) -> Result<Shard> {
        let agreement = agreement(g, site)?;
        let tag = g.placeholder("tag", DType::I64, [4])?;
        let mut shard = Shard {
            agreement,
            handles: Vec::new(),
            dtypes: Vec::new(),
            updates: Vec::new(),
            step: None,
            kept: Vec::new(),
            payload: Vec::new(),
            tag,
        };
        // Variables whose values replicas keep come first, as their values are the first outputs.
        let (dense, sparse): (Vec<_>, Vec<_>) = parts.grads.iter().partition(|(g, _)| matches!(g, Grad::Dense(_)));
        let all: Vec<&(Grad, Variable)> = dense.iter().chain(&sparse).copied().collect();
        for (_, v) in &all {
            if v.kind() != VariableKind::Resource {
                return Err(Error::invalid(format!(
                    "variable {} is a reference; replicas agree about resource variables only",
                    v.name()
                )));
            }
            shard.handle(v);
        }
        shard.kept = dense.iter().map(|(_, v)| v.clone()).collect();
        let mut places = Vec::new();
        for (grad, _) in &all {
            places.push(shard.payload.len());
            match grad {
                Grad::Dense(d) => shard.payload.push(d.clone()),
                Grad::Slices(s) => {
                    shard.payload.push(s.values.clone());
                    shard.payload.push(s.indices.cast(DType::I64)?);
                }
            }
        }
        let rule = parts.optimizer.rule();
        let mut shared = Vec::new();
        if let Some((_, first)) = all.first() {
            for s in rule.shared() {
                let own = match parts.number {
                    0 => format!("{}{}", parts.prefix, s.name),
                    n => format!("{}{}_{n}", parts.prefix, s.name),
                };
                let optimizer = parts.optimizer;
                let v = optimizer.slot_variable(g, &own, first.dtype(), &Shape::SCALAR, s.initial, first)?;
                shared.push(shard.handle(&v));
            }
        }
        let mut hypers = Vec::new();
        for (i, (grad, v)) in all.iter().enumerate() {
            let line = shard.update(g, &parts, (i, places[i]), (grad, v), &shared, &mut hypers)?;
            shard.updates.push(line);
        }
        for (i, by) in shared.iter().zip(rule.factors()) {
            shard.updates.push(format!("Multiply v{i} c{by:?}"));
        }
        if let Some(step) = parts.step {
            shard.step = Some(shard.handle(step));
        }
        Ok(shard)
    }

    fn handle(&mut self, v: &Variable) -> usize {
        self.handles.push(v.handle().clone());
        self.dtypes.push(v.dtype());
        self.handles.len() - 1
    }

    /// The line of a variable's update; see the kernels' `agreement::program`.
    fn update(
        &mut self,
        g: &Graph,
        parts: &Parts<'_>,
        (number, place): (usize, usize),
        (grad, v): (&Grad, &Variable),
        shared: &[usize],
        hypers: &mut Vec<((OutputRef, DType), usize)>,
    ) -> Result<String> {
        let rule = parts.optimizer.rule();
        let (form, of) = match grad {
            Grad::Dense(_) => (Some(rule.dense()), 'd'),
            Grad::Slices(_) => match rule.rows() {
                None if rule.moves_all_rows() => (Some(rule.dense()), 'w'),
                rows => (rows, 's'),
            },
        };
        let (op, args, flags) = form.ok_or_else(|| {
            Error::unimplemented(format!(
                "{} has no update by rows, which replicas need for the sparse gradient of variable {}; use another \
                 optimizer, or make the gradient dense",
                rule.name(),
                v.name()
            ))
        })?;
        let shape = v.shape().to_shape().ok_or_else(|| {
            Error::invalid(format!(
                "variable {} needs a fully known shape to be trained, not {}",
                v.name(),
                v.shape()
            ))
        })?;
        let mut slots = Vec::new();
        for s in rule.slots() {
            let name = format!("{}/{}", v.name(), s.name);
            let slot = parts
                .optimizer
                .slot_variable(g, &name, v.dtype(), &shape, s.initial, v)?;
            slots.push(self.handle(&slot));
        }
        let op = format!("Resource{}Apply{op}", if of == 's' { "Sparse" } else { "" });
        let def = registry().get(&op)?;
        let mut line = op;
        for (flag, on) in flags {
            line += &format!(" {flag}={on}");
        }
        line += &format!(" v{number}");
        let missing = || Error::internal("the update rule has no such slot");
        for (k, a) in args.iter().enumerate() {
            let is_rate = def
                .inputs()
                .get(k + 1)
                .is_some_and(|i| i.name == "lr" || i.name == "alpha");
            let scale = if parts.scaled && is_rate { "~" } else { "" };
            line += &match a {
                Arg::Slot(i) => format!(" v{}", slots.get(*i).ok_or_else(missing)?),
                Arg::Shared(i) => format!(" r{}", shared.get(*i).ok_or_else(missing)?),
                Arg::Hyper(Hyper::Number(x)) => format!(" {scale}c{x:?}"),
                Arg::Hyper(Hyper::Output(o)) => {
                    let key = (o.as_ref(), v.dtype());
                    let at = match hypers.iter().find(|h| h.0 == key) {
                        Some((_, at)) => *at,
                        None => {
                            self.payload.push(o.cast(v.dtype())?);
                            hypers.push((key, self.payload.len() - 1));
                            self.payload.len() - 1
                        }
                    };
                    format!(" {scale}h{at}")
                }
                Arg::Grad => format!(" {of}{place}"),
                Arg::Indices => format!(" i{place}"),
            };
        }
        Ok(line)
    }

    /// Leaves the payload; gives the ticket.
    pub(super) fn stage(&self) -> Result<Output> {
        at(&self.agreement, "AgreeStage")
            .input(&self.tag)
            .input_list(&self.payload)
            .output()
    }

    /// Brings a decision: the values of what replicas keep, and the node's last output, which says what happened.
    pub(super) fn apply(&self, decision: &Output) -> Result<(Vec<Output>, Output)> {
        let n = self.kept.len();
        let op = self.node(&self.agreement, decision, &self.handles, n)?;
        let mut outputs = op.outputs();
        let info = outputs
            .pop()
            .ok_or_else(|| Error::internal("AgreeApply has no output"))?;
        Ok((outputs, info))
    }

    fn node(&self, agreement: &Output, decision: &Output, handles: &[Output], values: usize) -> Result<Operation> {
        at(agreement, "AgreeApply")
            .input(&self.tag)
            .input(decision)
            .input_list(handles)
            .attr("updates", AttrValue::from(self.updates.clone()))
            .attr("dtypes", self.dtypes.clone())
            .attr("value_types", self.dtypes[..values].to_vec())
            .attr("step", self.step.map_or(Ok(-1), i64::try_from).unwrap_or(-1))
            .finish()
    }

    /// The values of all variables of another replica's shard, and what happened there. The variables there are named as
    /// `rename` says; `there` is their agreement.
    pub(super) fn values_of(
        &self,
        g: &Graph,
        there: &Output,
        decision: &Output,
        rename: impl Fn(&str) -> String,
    ) -> Result<(Vec<Output>, Output)> {
        let mut handles = Vec::new();
        for h in &self.handles {
            let node = h.op().node();
            let name = rename(node.attrs().str("shared_name")?);
            let mut attrs = node.attrs().clone();
            attrs.set("shared_name", name);
            let b = g.op("VarHandleOp").attrs(&attrs).name("copied");
            handles.push(b.colocate_with(&there.op().name()).output()?);
        }
        let mut values = self.node(there, decision, &handles, handles.len())?.outputs();
        let info = values
            .pop()
            .ok_or_else(|| Error::internal("AgreeApply has no output"))?;
        Ok((values, info))
    }

    /// For each of the shard's variables a placeholder, and the operation that assigns it.
    pub(super) fn assigns(&self, g: &Graph) -> Result<(Vec<Output>, Vec<Operation>)> {
        let (mut given, mut assigns) = (Vec::new(), Vec::new());
        for (h, dtype) in self.handles.iter().zip(&self.dtypes) {
            let value = g.placeholder("copy", *dtype, actorflow_core::PartialShape::UNKNOWN)?;
            assigns.push(g.op("AssignVariableOp").input(h).input(&value).finish()?);
            given.push(value);
        }
        Ok((given, assigns))
    }
}
