//! The backward walk.

use std::collections::{HashMap, HashSet};

use super::{Grad, GradContext, IndexedSlices};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeId, Operation, Output, OutputRef};
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
    let _scope = graph.name_scope("gradients");
    let mut walk = Walk {
        between: between(&graph, ys, xs, &options.stop_gradients)?,
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
    walk.run()?;
    xs.iter().map(|x| walk.total(x.as_ref())).collect()
}

/// The nodes on a path from an x to a y, in the order of their ids.
fn between(graph: &Graph, ys: &[Output], xs: &[Output], stops: &[Output]) -> Result<Vec<NodeId>> {
    let nodes = graph.nodes();
    let stop: HashSet<OutputRef> = stops.iter().map(Output::as_ref).collect();
    let mut above = HashSet::new();
    let mut todo: Vec<NodeId> = ys.iter().map(|y| y.op().id()).collect();
    while let Some(id) = todo.pop() {
        if above.insert(id) {
            let node = nodes.get(id.index()).ok_or_else(|| Error::internal("dangling edge"))?;
            todo.extend(node.inputs().iter().map(|r| r.node));
        }
    }
    let sources: HashSet<OutputRef> = xs.iter().map(Output::as_ref).collect();
    let source_nodes: HashSet<NodeId> = sources.iter().map(|r| r.node).collect();
    let mut order: Vec<NodeId> = above.into_iter().collect();
    order.sort_unstable();
    let carries = |node: &Node, r: &OutputRef, on_path: &HashSet<NodeId>| {
        let from = &nodes[r.node.index()];
        let _ = node;
        from.output_types()
            .get(r.index as usize)
            .is_some_and(|t| t.is_differentiable())
            && !stop.contains(r)
            && (sources.contains(r) || on_path.contains(&r.node))
    };
    let mut on_path = HashSet::new();
    for id in &order {
        let node = &nodes[id.index()];
        if node.inputs().iter().any(|r| carries(node, r, &on_path)) {
            on_path.insert(*id);
        }
    }
    Ok(order
        .into_iter()
        .filter(|id| on_path.contains(id) || source_nodes.contains(id))
        .collect())
}

struct Walk<'a> {
    graph: Graph,
    between: Vec<NodeId>,
    /// The contributions so far to the gradient of each output.
    sums: HashMap<OutputRef, Vec<Grad>>,
    options: &'a GradientOptions,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let wanted: HashSet<NodeId> = self.between.iter().copied().collect();
        let stops: HashSet<OutputRef> = self.options.stop_gradients.iter().map(Output::as_ref).collect();
        // Every consumer of a node has a higher id, so its contributions are complete when its turn comes.
        for id in std::mem::take(&mut self.between).into_iter().rev() {
            let op = Operation::new(self.graph.clone(), id);
            let node = op.node();
            if !node
                .inputs()
                .iter()
                .any(|r| wanted.contains(&r.node) && !stops.contains(r))
            {
                continue;
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
                continue;
            }
            let f = match node.def().gradient_of() {
                Gradient::NotDifferentiable => continue,
                Gradient::Function(f) => f,
                Gradient::Undefined => {
                    return Err(node.blame(Error::unimplemented(format!(
                        "operation {} has no gradient; stop it with stop_gradient, or register one",
                        node.op_name()
                    ))));
                }
            };
            let _scope = self
                .graph
                .name_scope(&format!("{}_grad", node.name().rsplit('/').next().unwrap_or("op")));
            let _place = match self.options.colocate {
                true => Some(self.graph.colocate_with(&op)?),
                false => None,
            };
            let cx = GradContext::new(op);
            let mut ins = f(&cx, &grads).map_err(|e| e.context(format!("gradient of {}", node.name())))?;
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
                if !wanted.contains(&r.node) || stops.contains(r) {
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
        }
        Ok(())
    }

    /// The sum of the contributions to one output's gradient, added up at most once.
    fn total(&mut self, r: OutputRef) -> Result<Option<Grad>> {
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

/// Dense contributions are summed by `AddN`, slices are concatenated; mixed ones become dense.
fn add_up(graph: &Graph, parts: &[Grad]) -> Result<Grad> {
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
