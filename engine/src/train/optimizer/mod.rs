//! Optimizers: from a loss to an operation that trains.
//!
//! An optimizer is an [`UpdateRule`] (which op, which slots, which hyper-parameters) in an [`Optimizer`], which
//! builds gradients, slot variables and update operations from it. Sparse gradients (of embedding lookups) use the
//! rule's sparse operation and are never made dense.

mod rules;

pub use rules::{
    AdaDelta, Adagrad, Adam, Ftrl, GradientDescent, Momentum, ProximalAdagrad, ProximalGradientDescent, RmsProp,
};

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradientOptions, IndexedSlices, gradients_with};
use actorflow_core::{DType, Graph, Operation, Output};

use super::init::Constant;
use super::saver::slices;
use super::variable::{GraphVariables, Shaped, Variable, VariableKind};

/// A hyper-parameter: a number, or an output of the graph (a schedule, a placeholder).
#[derive(Debug, Clone)]
pub enum Hyper {
    /// A constant.
    Number(f64),
    /// A scalar of the graph.
    Output(Output),
}

impl From<f64> for Hyper {
    fn from(x: f64) -> Self {
        Hyper::Number(x)
    }
}

impl From<f32> for Hyper {
    fn from(x: f32) -> Self {
        Hyper::Number(f64::from(x))
    }
}

impl From<&Output> for Hyper {
    fn from(x: &Output) -> Self {
        Hyper::Output(x.clone())
    }
}

impl From<Output> for Hyper {
    fn from(x: Output) -> Self {
        Hyper::Output(x)
    }
}

/// An input of an update operation, after the variable itself.
#[derive(Debug, Clone)]
pub enum Arg {
    /// The slot variable of that number.
    Slot(usize),
    /// The optimizer's non-slot variable of that number.
    Shared(usize),
    /// A hyper-parameter.
    Hyper(Hyper),
    /// The gradient, dense or its rows.
    Grad,
    /// The rows' indices (sparse gradients only).
    Indices,
}

/// A variable that a rule keeps beside the trained ones.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The name: `momentum`.
    pub name: &'static str,
    /// The initial value of every element.
    pub initial: f64,
}

/// How a variable is updated from its gradient.
pub trait UpdateRule {
    /// The name of the scope: `Momentum`.
    fn name(&self) -> &'static str;

    /// The slots, one variable of the trained variable's shape each.
    fn slots(&self) -> Vec<Slot> {
        Vec::new()
    }

    /// Scalars that all variables share: Adam's powers of the betas.
    fn shared(&self) -> Vec<Slot> {
        Vec::new()
    }

    /// The operation without its prefix (`Momentum` of `ResourceApplyMomentum`), the inputs after the variable, and
    /// attributes.
    fn dense(&self) -> (&'static str, Vec<Arg>, Vec<(&'static str, bool)>);

    /// The same for sparse gradients; `None` if the rule has no such operation and builds one of others.
    fn sparse(&self) -> Option<(&'static str, Vec<Arg>, Vec<(&'static str, bool)>)>;

    /// Builds the sparse update of a rule without an operation for it.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` unless the rule overrides it.
    fn composed_sparse(&self, _cx: &Apply<'_>, _slices: &IndexedSlices) -> Result<Operation> {
        Err(Error::unimplemented(format!(
            "{} has no update for sparse gradients",
            self.name()
        )))
    }

    /// The sparse form as an operation where there is one that does the same as [`composed_sparse`](Self::composed_sparse),
    /// for updates that are made inside of an actor.
    fn rows(&self) -> Option<(&'static str, Vec<Arg>, Vec<(&'static str, bool)>)> {
        self.sparse()
    }

    /// Whether a sparse gradient does what the dense one with zeros in its other rows does: rules without an operation by
    /// [`rows`](Self::rows) that move every row whatever the gradient (Adam, whose moments decay everywhere).
    fn moves_all_rows(&self) -> bool {
        false
    }

    /// What each of the [`shared`](Self::shared) scalars is multiplied by after all updates (Adam's powers by the betas).
    fn factors(&self) -> Vec<f64> {
        Vec::new()
    }
}

/// One variable with its slots, about to be updated.
pub struct Apply<'a> {
    /// The trained variable.
    pub variable: &'a Variable,
    /// Its slots.
    pub slots: &'a [Variable],
    /// The optimizer's shared variables.
    pub shared: &'a [Variable],
}

impl Apply<'_> {
    /// A hyper-parameter as a scalar of the variable's dtype.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    pub fn hyper(&self, h: &Hyper) -> Result<Output> {
        match h {
            Hyper::Number(x) => self.variable.handle().graph().scalar(self.variable.dtype(), *x),
            Hyper::Output(o) => o.cast(self.variable.dtype()),
        }
    }

    /// `ScatterAdd` and the like on one of the variables, of either kind.
    ///
    /// # Errors
    /// If the node cannot be added.
    pub fn scatter(&self, op: &str, of: &Variable, indices: &Output, updates: &Output) -> Result<Operation> {
        let name = match of.kind() {
            VariableKind::Resource => format!("Resource{op}"),
            VariableKind::Reference => op.to_owned(),
        };
        let g = of.handle().graph();
        g.op(&name).input(of.handle()).input(indices).input(updates).finish()
    }

    fn update(
        &self,
        prefix: &str,
        (op, args, attrs): (&str, Vec<Arg>, Vec<(&str, bool)>),
        grad: &Output,
        indices: Option<&Output>,
    ) -> Result<Operation> {
        let resource = match self.variable.kind() {
            VariableKind::Resource => "Resource",
            VariableKind::Reference => "",
        };
        let g = self.variable.handle().graph();
        let _place = g.colocate_with(&self.variable.handle().op())?;
        let mut b = g.op(&format!("{resource}{prefix}{op}")).input(self.variable.handle());
        for a in &args {
            b = match a {
                Arg::Slot(i) => b.input(get(self.slots, *i)?.handle()),
                Arg::Shared(i) => b.input(get(self.shared, *i)?.value()),
                Arg::Hyper(h) => b.input(&self.hyper(h)?),
                Arg::Grad => b.input(grad),
                Arg::Indices => b.input(indices.ok_or_else(|| Error::internal("a dense update has no indices"))?),
            };
        }
        for (k, v) in attrs {
            b = b.attr(k, v);
        }
        b.finish()
    }
}

fn get(list: &[Variable], i: usize) -> Result<&Variable> {
    list.get(i)
        .ok_or_else(|| Error::internal(format!("the update rule has no slot {i}")))
}

/// A variable and the gradient of the loss with respect to it.
pub type VariableGrad = (Option<Grad>, Variable);

/// Trains variables by an [`UpdateRule`].
pub struct Optimizer {
    rule: Box<dyn UpdateRule>,
}

impl<R: UpdateRule + 'static> From<R> for Optimizer {
    fn from(rule: R) -> Self {
        Optimizer { rule: Box::new(rule) }
    }
}

impl Optimizer {
    /// An optimizer of that rule.
    pub fn new(rule: impl UpdateRule + 'static) -> Self {
        Optimizer::from(rule)
    }

    /// One of a boxed rule.
    pub fn boxed(rule: Box<dyn UpdateRule>) -> Self {
        Optimizer { rule }
    }

    /// The rule.
    pub fn rule(&self) -> &dyn UpdateRule {
        &*self.rule
    }

    /// An operation that takes one step towards a smaller `loss`, for all trainable variables.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the loss depends on no trainable variable; see [`compute_gradients`](Self::compute_gradients).
    #[track_caller]
    pub fn minimize(&self, loss: &Output) -> Result<Operation> {
        let grads = self.compute_gradients(loss, None)?;
        self.apply_gradients(&grads, None)
    }

    /// [`minimize`](Self::minimize), also adding 1 to a step counter.
    ///
    /// # Errors
    /// As [`minimize`](Self::minimize).
    #[track_caller]
    pub fn minimize_counting(&self, loss: &Output, global_step: &Variable) -> Result<Operation> {
        let grads = self.compute_gradients(loss, None)?;
        self.apply_gradients(&grads, Some(global_step))
    }

    /// The gradients of `loss` with respect to `variables` (all trainable ones if `None`).
    ///
    /// All gradients of an operation are finished before one of them is applied (TensorFlow's `GATE_OP`).
    ///
    /// # Errors
    /// `UNIMPLEMENTED` naming an operation without a gradient; `INVALID_ARGUMENT` if there is no variable.
    #[track_caller]
    pub fn compute_gradients(&self, loss: &Output, variables: Option<&[Variable]>) -> Result<Vec<VariableGrad>> {
        let vars = match variables {
            Some(v) => v.to_vec(),
            None => loss.graph().trainable_variables()?,
        };
        if vars.is_empty() {
            return Err(Error::invalid("there is no variable to train"));
        }
        // A resource variable's gradient flows to its handle, a reference's to the reference.
        let xs: Vec<Output> = vars.iter().map(|v| v.handle().clone()).collect();
        let options = GradientOptions {
            gate: true,
            ..GradientOptions::default()
        };
        let grads = gradients_with(std::slice::from_ref(loss), &xs, &options)?;
        Ok(grads.into_iter().zip(vars).collect())
    }

    /// An operation that applies gradients, and then adds 1 to `global_step` if it is given.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if no variable has a gradient.
    #[track_caller]
    pub fn apply_gradients(&self, grads: &[VariableGrad], global_step: Option<&Variable>) -> Result<Operation> {
        let Some((_, first)) = grads.iter().find(|(g, _)| g.is_some()) else {
            let names: Vec<String> = grads.iter().map(|(_, v)| v.name()).collect();
            return Err(Error::invalid(format!(
                "no variable has a gradient: {}",
                names.join(", ")
            )));
        };
        let g: Graph = first.handle().graph().clone();
        let _top = g.no_control_dependencies();
        let mut shared = Vec::new();
        for s in self.rule.shared() {
            shared.push(self.slot_variable(
                &g,
                s.name,
                first.dtype(),
                &actorflow_core::Shape::SCALAR,
                s.initial,
                first,
            )?);
        }
        let mut updates = Vec::new();
        for (grad, v) in grads {
            let Some(grad) = grad else { continue };
            let shape = v.shape().to_shape().ok_or_else(|| {
                Error::invalid(format!(
                    "variable {} needs a fully known shape to be trained, not {}",
                    v.name(),
                    v.shape()
                ))
            })?;
            let slots = self
                .rule
                .slots()
                .iter()
                .map(|s| self.slot_variable(&g, &format!("{}/{}", v.name(), s.name), v.dtype(), &shape, s.initial, v))
                .collect::<Result<Vec<_>>>()?;
            let _scope = g.name_scope(&format!("{}/update_{}", self.rule.name(), v.name().replace('/', "_")));
            let cx = Apply {
                variable: v,
                slots: &slots,
                shared: &shared,
            };
            updates.push(match grad {
                Grad::Dense(d) => cx.update("Apply", self.rule.dense(), d, None)?,
                Grad::Slices(s) => {
                    let (values, indices) = unique(s)?;
                    match self.rule.sparse() {
                        Some(rule) => cx.update("SparseApply", rule, &values, Some(&indices))?,
                        None => {
                            let s = IndexedSlices {
                                values,
                                indices,
                                dense_shape: s.dense_shape.clone(),
                            };
                            self.rule.composed_sparse(&cx, &s)?
                        }
                    }
                }
            });
        }
        let after = {
            let _after = g.control_dependencies(&updates);
            let factors = self.rule.factors();
            let next = |(v, by): (&Variable, f64)| v.assign(&(&v.read()? * by)?);
            shared.iter().zip(factors).map(next).collect::<Result<Vec<_>>>()?
        };
        updates.extend(after);
        let Some(step) = global_step else {
            return g.group(self.rule.name(), &updates);
        };
        let done = g.group("update", &updates)?;
        let _after = g.control_dependencies(&[done]);
        let one = g.scalar(step.dtype(), 1.0)?;
        step.assign_add(&one)
    }

    /// A slot variable `NAME/Rule`, beside the variable it belongs to.
    pub(crate) fn slot_variable(
        &self,
        g: &Graph,
        name: &str,
        dtype: DType,
        shape: &actorflow_core::Shape,
        initial: f64,
        like: &Variable,
    ) -> Result<Variable> {
        let _top = g.name_scope("");
        let _place = g.colocate_with(&like.handle().op())?;
        let mut b = g
            .variable_builder(&format!("{name}/{}", self.rule.name()))
            .not_trainable();
        if like.kind() == VariableKind::Reference {
            b = b.reference();
        }
        let slot = b.build(Shaped {
            initializer: Constant(initial),
            shape: shape.clone(),
            dtype,
        })?;
        slices::follow(g, &slot.name(), &like.name())?;
        Ok(slot)
    }
}

/// Rows of one index added up, so that an update sees each row once.
fn unique(s: &IndexedSlices) -> Result<(Output, Output)> {
    let g = s.values.graph();
    let u = g.op("Unique").input(&s.indices).attr("out_idx", DType::I32).finish()?;
    let (indices, positions) = (u.output(0)?, u.output(1)?);
    let n = indices.size_op()?;
    let values = g
        .op("UnsortedSegmentSum")
        .input(&s.values)
        .input(&positions)
        .input(&n)
        .output()?;
    Ok((values, indices))
}
