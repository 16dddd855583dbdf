//! The backward walk.

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::history::{LoopGrad, Shared};
use super::path::{between, is_pop};
use super::structure::{FrameId, Structure, is_constant_enter, is_enter, is_exit};
use super::{Grad, GradContext, IndexedSlices, choice};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId, Operation, Output, OutputRef};
use crate::op::Gradient;

/// How [`gradients_with`] works.
#[derive(Debug, Clone, Default)]
pub struct GradientOptions {
    /// The gradients of `ys` to start from; ones where `None` or missing.
    pub grad_ys: Vec<Option<Output>>,
    /// Tensors through which no gradient flows.
    pub stop_gradients: Vec<Output>,
    /// Finish all gradients of an operation before any of them is used (TensorFlow's `GATE_OP`), so that an
    /// optimizer cannot overwrite a variable that another gradient of the same operation still reads.
    pub gate: bool,
    /// Place each operation's gradient on the operation's device.
    pub colocate: bool,
}

/// The gradients of the sum of `ys` with respect to each of `xs`; `None` for an `x` that no `y` depends on.
///
/// `TensorFlow: tf.gradients`.
///
/// # Errors
/// `UNIMPLEMENTED` naming an operation on the path that has no gradient; `INVALID_ARGUMENT` for tensors of another
/// graph or a `y` that is not differentiable.
#[track_caller]
pub fn gradients(ys: &[Output], xs: &[Output]) -> Result<Vec<Option<Grad>>> {
    gradients_with(ys, xs, &GradientOptions::default())
}

/// [`gradients`] with options.
///
/// # Errors
/// As [`gradients`].
#[track_caller]
pub fn gradients_with(ys: &[Output], xs: &[Output], options: &GradientOptions) -> Result<Vec<Option<Grad>>> {
    let Some(first) = ys.first() else {
        return Err(Error::invalid("gradients need at least one y"));
    };
    let graph = first.graph().clone();
    let given = options.grad_ys.iter().flatten().chain(&options.stop_gradients);
    if let Some(t) = ys.iter().chain(xs).chain(given).find(|t| !t.graph().same(&graph)) {
        return Err(Error::invalid(format!("{} is of another graph", t.name())));
    }
    let mut structure = Structure::new(&graph);
    let base = structure.outputs_in(first.op().id())?;
    for y in ys {
        if structure.outputs_in(y.op().id())? != base {
            return Err(Error::invalid(format!(
                "{} and {} are in different loops; gradients are taken of tensors of one loop, or of results of loops",
                first.name(),
                y.name()
            )));
        }
    }
    let _scope = graph.name_scope("gradients");
    let mut walk = Walk {
        wanted: between(&graph, ys, xs, &options.stop_gradients)?,
        stops: options.stop_gradients.iter().map(Output::as_ref).collect(),
        by_frame: HashMap::new(),
        shared: Arc::new(Shared {
            context: graph.context(),
            graph: graph.clone(),
            structure: Mutex::new(structure),
            base,
        }),
        graph,
        sums: HashMap::new(),
        options,
    };
    for (i, y) in ys.iter().enumerate() {
        if !y.dtype().is_differentiable() {
            return Err(Error::invalid(format!(
                "{} is {}, which has no gradient",
                y.name(),
                y.dtype()
            )));
        }
        let seed = match options.grad_ys.get(i) {
            Some(Some(g)) => g.clone(),
            _ => y.ones_like()?,
        };
        walk.sums.entry(y.as_ref()).or_default().push(Grad::Dense(seed));
    }
    walk.sort_by_frame()?;
    walk.run_frame(base, None)?;
    xs.iter().map(|x| walk.total_of_source(x)).collect()
}

/// What is visited in a frame: a node, or a whole loop inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Node(NodeId),
    Loop(FrameId),
}

pub(super) struct Walk<'a> {
    pub(super) graph: Graph,
    pub(super) shared: Arc<Shared>,
    pub(super) wanted: HashSet<NodeId>,
    /// The wanted nodes that fire in each frame.
    pub(super) by_frame: HashMap<FrameId, Vec<NodeId>>,
    pub(super) stops: HashSet<OutputRef>,
    /// The contributions so far to the gradient of each output.
    pub(super) sums: HashMap<OutputRef, Vec<Grad>>,
    options: &'a GradientOptions,
}

impl Walk<'_> {
    fn sort_by_frame(&mut self) -> Result<()> {
        let mut s = self.shared.structure.lock();
        let mut ids: Vec<NodeId> = self.wanted.iter().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.by_frame.entry(s.fires_in(id)?).or_default().push(id);
        }
        Ok(())
    }

    /// The unit of `frame` that an output belongs to; `None` if the output is not of the frame's body.
    fn unit_of(&self, s: &mut Structure, r: OutputRef, frame: FrameId) -> Result<Option<Unit>> {
        let node = self.graph.node(r.node)?;
        let fires_in = s.fires_in(r.node)?;
        if is_exit(&node) {
            return Ok((s.outputs_in(r.node)? == frame).then_some(Unit::Loop(fires_in)));
        }
        Ok((fires_in == frame && !is_enter(&node)).then_some(Unit::Node(r.node)))
    }

    /// Visits the nodes of a frame against the direction of their edges, loops inside of it as a whole. `inside` is
    /// the gradient of the frame's own loop, if that is being built.
    pub(super) fn run_frame(&mut self, frame: FrameId, inside: Option<&Arc<LoopGrad>>) -> Result<()> {
        let nodes = self.by_frame.get(&frame).cloned().unwrap_or_default();
        // How many uses of each unit are not yet visited, and whose outputs each unit uses.
        let mut waits: HashMap<Unit, usize> = HashMap::new();
        let mut sources: HashMap<Unit, Vec<Unit>> = HashMap::new();
        let mut heads: HashMap<Unit, NodeId> = HashMap::new();
        {
            let shared = self.shared.clone();
            let mut s = shared.structure.lock();
            for id in &nodes {
                let node = self.graph.node(*id)?;
                let unit = if is_enter(&node) {
                    Unit::Loop(s.outputs_in(*id)?)
                } else if is_exit(&node) {
                    // Of the frame itself.
                    continue;
                } else {
                    Unit::Node(*id)
                };
                waits.entry(unit).or_default();
                let head = heads.entry(unit).or_insert(*id);
                *head = (*head).max(*id);
                for r in node.inputs() {
                    if !self.wanted.contains(&r.node) {
                        continue;
                    }
                    let Some(from) = self.unit_of(&mut s, *r, frame)? else {
                        continue;
                    };
                    if from == unit || (inside.is_some() && s.is_loop_merge(&node)?) {
                        continue;
                    }
                    *waits.entry(from).or_default() += 1;
                    sources.entry(unit).or_default().push(from);
                }
            }
        }
        // Latest first, so that nodes without loops are visited against the order in which they were added.
        let order = |u: &Unit| match u {
            Unit::Node(id) => (*id, 1, *u),
            Unit::Loop(_) => (heads.get(u).copied().unwrap_or(NodeId(0)), 0, *u),
        };
        let mut ready: BinaryHeap<Entry> = waits
            .iter()
            .filter(|(_, n)| **n == 0)
            .map(|(u, _)| Entry(order(u).0, order(u).1, *u))
            .collect();
        let mut visited = 0;
        while let Some(Entry(_, _, unit)) = ready.pop() {
            visited += 1;
            match unit {
                Unit::Node(id) => self.visit(id, inside)?,
                Unit::Loop(f) => self.visit_loop(f, inside)?,
            }
            for from in sources.remove(&unit).unwrap_or_default() {
                if let Some(n) = waits.get_mut(&from) {
                    *n -= 1;
                    if *n == 0 {
                        let (id, kind, _) = order(&from);
                        ready.push(Entry(id, kind, from));
                    }
                }
            }
        }
        if visited < waits.len() {
            return Err(Error::invalid("the graph has a cycle that is no loop"));
        }
        Ok(())
    }

    /// Adds the gradient of one node.
    fn visit(&mut self, id: NodeId, inside: Option<&Arc<LoopGrad>>) -> Result<()> {
        let op = Operation::new(self.graph.clone(), id);
        let node = op.node();
        let wanted = |r: &OutputRef| self.wanted.contains(&r.node) && !self.stops.contains(r);
        if is_pop(&node) {
            return self.refuse_stack(&op);
        }
        if !node.inputs().iter().any(wanted) {
            return Ok(());
        }
        if inside.is_some() && self.is_of_loop(&op)? {
            return Ok(());
        }
        let grads = (0..node.num_outputs())
            .map(|i| {
                self.total(OutputRef {
                    node: id,
                    index: i as u32,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        if grads.iter().all(Option::is_none) {
            return Ok(());
        }
        let _scope = self
            .graph
            .name_scope(&format!("{}_grad", node.name().rsplit('/').next().unwrap_or("op")));
        let _place = match self.options.colocate {
            true => Some(self.graph.colocate_with(&op)?),
            false => None,
        };
        let mut ins = if choice::is_choice(&node) {
            if self.is_of_loop(&op)? {
                // A loop that is being built, in whose body gradients were asked for.
                let through = grads.iter().flatten().next().cloned();
                node.inputs()
                    .iter()
                    .enumerate()
                    .map(|(i, _)| through.clone().filter(|_| i == 0))
                    .collect()
            } else {
                choice::gradient(&self.shared, &op, &grads)?
            }
        } else {
            let f = match node.def().gradient_of() {
                Gradient::NotDifferentiable => return Ok(()),
                Gradient::Function(f) => f,
                Gradient::Undefined => {
                    return Err(node.blame(Error::unimplemented(format!(
                        "operation {} has no gradient; stop it with stop_gradient, or register one",
                        node.op_name()
                    ))));
                }
            };
            let cx = GradContext::new(op.clone());
            f(&cx, &grads).map_err(|e| e.context(format!("gradient of {}", node.name())))?
        };
        if ins.len() != node.inputs().len() {
            return Err(node.blame(Error::internal(format!(
                "the gradient of {} gave {} gradients for {} inputs",
                node.op_name(),
                ins.len(),
                node.inputs().len()
            ))));
        }
        for (r, g) in node.inputs().iter().zip(&mut ins) {
            // A gradient that leads to no x is not waited for, so it is not computed.
            if !self.wanted.contains(&r.node) || self.stops.contains(r) {
                *g = None;
            }
        }
        if self.options.gate && ins.iter().flatten().count() > 1 {
            ins = self.gated(ins)?;
        }
        for (r, g) in node.inputs().iter().zip(ins) {
            if let Some(g) = g {
                self.sums.entry(*r).or_default().push(g);
            }
        }
        Ok(())
    }

    /// What is popped in the gradient of a loop depends on an x through the stack. Leaving that out would be wrong.
    fn refuse_stack(&mut self, op: &Operation) -> Result<()> {
        match self.total(op.output(0)?.as_ref())? {
            None => Ok(()),
            Some(_) => Err(op.node().blame(Error::unimplemented(format!(
                "operation {} has no gradient: a loop cannot be differentiated twice, because its gradient keeps values \
                 on stacks",
                op.node().op_name()
            )))),
        }
    }

    /// Whether a node is the Merge, Switch, NextIteration or condition of a loop variable.
    fn is_of_loop(&self, op: &Operation) -> Result<bool> {
        let node = op.node();
        let s = self.shared.structure.lock();
        Ok(super::structure::is_next(&node) || s.is_loop_merge(&node)? || s.is_loop_switch(&node)?)
    }

    /// The gradient of an x. One outside of the loop in which gradients were asked for is used through its Enters.
    fn total_of_source(&mut self, x: &Output) -> Result<Option<Grad>> {
        let (at, base) = {
            let mut s = self.shared.structure.lock();
            (s.outputs_in(x.op().id())?, self.shared.base)
        };
        if at == base {
            return self.total(x.as_ref());
        }
        if self.shared.structure.lock().path(base, at).is_some() {
            return Err(Error::invalid(format!(
                "{} is in a loop, where it has a value for each iteration; take the gradient with respect to what \
                 enters the loop",
                x.name()
            )));
        }
        let mut parts = Vec::new();
        let enters: Vec<NodeId> = self.wanted.iter().copied().collect();
        for id in enters {
            let node = self.graph.node(id)?;
            if is_constant_enter(&node) && node.inputs().first() == Some(&x.as_ref()) {
                parts.extend(self.total(OutputRef { node: id, index: 0 })?);
            }
        }
        match parts.len() {
            0 => self.total(x.as_ref()),
            _ => add_up(&self.graph, &parts).map(Some),
        }
    }

    /// The sum of the contributions to one output's gradient, added up at most once.
    pub(super) fn total(&mut self, r: OutputRef) -> Result<Option<Grad>> {
        let Some(parts) = self.sums.get_mut(&r) else {
            return Ok(None);
        };
        if parts.len() > 1 {
            let sum = add_up(&self.graph, parts)?;
            *parts = vec![sum];
        }
        Ok(parts.first().cloned())
    }

    /// All of an operation's gradients behind one barrier.
    fn gated(&self, grads: Vec<Option<Grad>>) -> Result<Vec<Option<Grad>>> {
        let ops: Vec<Operation> = grads.iter().flatten().map(|g| g.values().op()).collect();
        let all = self.graph.group("group_deps", &ops)?;
        grads
            .into_iter()
            .map(|g| match g {
                None => Ok(None),
                Some(g) => {
                    let held = self
                        .graph
                        .op("Identity")
                        .input(g.values())
                        .control_input(&all)
                        .name("gate")
                        .output()?;
                    Ok(Some(g.with_values(held)))
                }
            })
            .collect()
    }
}

/// A unit that can be visited: those added last come first.
#[derive(PartialEq, Eq)]
struct Entry(NodeId, u8, Unit);

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Dense contributions are summed by `AddN`, slices are concatenated; mixed ones become dense.
pub(super) fn add_up(graph: &Graph, parts: &[Grad]) -> Result<Grad> {
    let slices: Option<Vec<&IndexedSlices>> = parts
        .iter()
        .map(|p| if let Grad::Slices(s) = p { Some(s) } else { None })
        .collect();
    match slices {
        Some(slices) => {
            let values: Vec<Output> = slices.iter().map(|s| s.values.clone()).collect();
            let wide = slices.iter().any(|s| s.indices.dtype() == crate::dtype::DType::I64);
            let indices = slices
                .iter()
                .map(|s| {
                    if wide {
                        s.indices.cast(crate::dtype::DType::I64)
                    } else {
                        Ok(s.indices.clone())
                    }
                })
                .collect::<Result<Vec<_>>>()?;
            Ok(Grad::Slices(IndexedSlices {
                values: graph.concat(&values, 0)?,
                indices: graph.concat(&indices, 0)?,
                dense_shape: slices[0].dense_shape.clone(),
            }))
        }
        None => {
            let dense = parts.iter().map(Grad::to_dense).collect::<Result<Vec<_>>>()?;
            Ok(Grad::Dense(graph.add_n(&dense)?))
        }
    }
}
