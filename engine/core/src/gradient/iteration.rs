//! Gradients of loops.
//!
//! The gradient of a loop is a loop that runs once for each iteration of the first, last iteration first. Each
//! variable of the loop has a variable in it: the gradient with respect to the variable's value at the start of the
//! iteration that was reached. It starts with the gradient of the loop's result, each iteration applies the gradient of
//! the body, and what comes out is the gradient of the variable's first value. The gradients of values that the body
//! reads from outside are summed over the iterations.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::choice::value_shape;
use super::history::{LoopGrad, as_is};
use super::structure::{FrameId, is_constant_enter, is_enter, is_exit, is_next};
use super::walk::Walk;
use super::zeros::{zeros, zeros_of};
use super::{Grad, IndexedSlices};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{NodeId, Operation, Output, OutputRef};
use crate::shape::PartialShape;
use crate::tensor::Tensor;

/// A variable of the loop that is differentiated.
struct Variable {
    /// The value at the start of an iteration.
    merge: Output,
    /// What the loop brings in.
    enter: Output,
    /// The value for the next iteration.
    next: Output,
    /// The switches behind the merge.
    switches: Vec<Operation>,
    /// What leaves the loop.
    exits: Vec<Output>,
}

impl Walk<'_> {
    /// Adds the gradient of loop `f`, inside of the gradient of the loop around it if there is one. The gradients of
    /// the loop's results are complete.
    pub(super) fn visit_loop(&mut self, f: FrameId, outer: Option<&Arc<LoopGrad>>) -> Result<()> {
        let (variables, constants) = self.parts(f)?;
        let mut starts = Vec::with_capacity(variables.len());
        for v in &variables {
            let mut parts = Vec::new();
            for e in &v.exits {
                parts.extend(self.total(e.as_ref())?);
            }
            starts.push(match parts.len() {
                0 => None,
                _ => Some(super::walk::add_up(&self.graph, &parts)?.to_dense()?),
            });
        }
        if starts.iter().all(Option::is_none) {
            return Ok(());
        }
        let name = self.shared.structure.lock().frame(f).name.clone();
        let _scope = self
            .graph
            .name_scope(&format!("{}_grad", name.rsplit('/').next().unwrap_or("while")));
        let l = LoopGrad::new(&self.shared, f, outer.cloned())?;
        let mut reverse = Vec::with_capacity(variables.len());
        for (v, start) in variables.iter().zip(starts) {
            let start = match start {
                Some(g) => g,
                None => zeros_of(&self.result(v, f)?)?,
            };
            let var = l.variable(&start, v.merge.shape())?;
            let g = Grad::Dense(var.value.clone());
            self.sums.entry(v.next.as_ref()).or_default().push(g);
            reverse.push(var);
        }
        let mut sums = Vec::new();
        {
            let _body = self.graph.context_scope(l.context());
            self.run_frame(f, Some(&l))?;
            for (v, var) in variables.iter().zip(&reverse) {
                let mut parts: Vec<Grad> = self.total(v.merge.as_ref())?.into_iter().collect();
                for s in &v.switches {
                    parts.extend(self.total(s.output(1)?.as_ref())?);
                }
                let g = match parts.len() {
                    0 => zeros_of(&v.merge)?,
                    _ => super::walk::add_up(&self.graph, &parts)?.to_dense()?,
                };
                var.next(&g)?;
            }
            for c in &constants {
                if let Some(g) = self.total(c.as_ref())? {
                    sums.push((c, g));
                }
            }
        }
        for (c, g) in sums {
            let from = c.op().input(0)?;
            let g = self.accumulate(&l, &from, g)?;
            self.sums.entry(from.as_ref()).or_default().push(g);
        }
        for (v, var) in variables.iter().zip(&reverse) {
            let from = v.enter.op().input(0)?;
            if self.wanted.contains(&from.op().id()) && !self.stops.contains(&from.as_ref()) {
                let g = Grad::Dense(var.exit.clone());
                self.sums.entry(from.as_ref()).or_default().push(g);
            }
        }
        l.finish()
    }

    /// The variables of a loop that lead from an x to a y, and the constants that do.
    fn parts(&mut self, f: FrameId) -> Result<(Vec<Variable>, Vec<Output>)> {
        let shared = self.shared.clone();
        let s = shared.structure.lock();
        let nodes: Vec<NodeId> = self.by_frame.get(&f).cloned().unwrap_or_default();
        let out = |id: NodeId, i: usize| Operation::new(self.graph.clone(), id).output(i);
        let mut variables: Vec<Variable> = Vec::new();
        let mut constants: Vec<Output> = Vec::new();
        let mut used: Vec<OutputRef> = Vec::new();
        for id in &nodes {
            let node = self.graph.node(*id)?;
            for r in node.inputs() {
                let from = self.graph.node(r.node)?;
                if !is_enter(&from) || !self.wanted.contains(&r.node) {
                    continue;
                }
                if is_constant_enter(&from) {
                    if !used.contains(r) {
                        used.push(*r);
                        constants.push(out(r.node, 0)?);
                    }
                } else if !s.is_loop_merge(&node)? {
                    return Err(node.blame(Error::unimplemented(
                        "the gradient of a loop is not defined where a value of its first iteration is read \
                         without a Merge",
                    )));
                }
            }
            if !s.is_loop_merge(&node)? || !is_variable_type(node.output_type(0)) {
                continue;
            }
            let (mut enter, mut next) = (None, None);
            for (i, r) in node.inputs().iter().enumerate() {
                let from = self.graph.node(r.node)?;
                if is_enter(&from) {
                    enter = Some(Operation::new(self.graph.clone(), *id).input(i)?);
                } else if is_next(&from) {
                    next = Some(Operation::new(self.graph.clone(), r.node).input(0)?);
                }
            }
            let (Some(enter), Some(next)) = (enter, next) else {
                return Err(node.blame(Error::unimplemented(
                    "the gradient of a loop needs Merges with one Enter and one NextIteration",
                )));
            };
            variables.push(Variable {
                merge: out(*id, 0)?,
                enter,
                next,
                switches: Vec::new(),
                exits: Vec::new(),
            });
        }
        for id in &nodes {
            let node = self.graph.node(*id)?;
            if s.is_loop_switch(&node)? {
                let data = node.inputs()[0];
                if let Some(v) = variables.iter_mut().find(|v| v.merge.as_ref() == data) {
                    v.switches.push(Operation::new(self.graph.clone(), *id));
                }
            }
        }
        for id in &nodes {
            let node = self.graph.node(*id)?;
            if !is_exit(&node) || !is_variable_type(node.output_type(0)) {
                continue;
            }
            let from = node.inputs()[0];
            let of = |v: &&mut Variable| {
                let behind = |s: &Operation| s.id() == from.node && from.index == 0;
                v.merge.as_ref() == from || v.switches.iter().any(behind)
            };
            match variables.iter_mut().find(of) {
                Some(v) => v.exits.push(out(*id, 0)?),
                None => {
                    return Err(node.blame(Error::unimplemented(
                        "the gradient of a loop is defined only if its results are the last values of its variables",
                    )));
                }
            }
        }
        Ok((variables, constants))
    }

    /// The last value of a loop variable.
    fn result(&self, v: &Variable, f: FrameId) -> Result<Output> {
        if let Some(e) = v.exits.first() {
            return Ok(e.clone());
        }
        // No result of the loop is of this variable, so there is no Exit to look at.
        let _forward = self.graph.context_scope(as_is(&self.shared.context));
        let side = match v.switches.first() {
            Some(s) => s.output(0)?,
            None => {
                let goes_on = self.shared.structure.lock().loop_condition(f)?.output(0)?;
                let s = self.graph.op("Switch").input(&v.merge).input(&goes_on).finish()?;
                s.output(0)?
            }
        };
        side.unary("Exit")
    }

    /// Sums a gradient over the iterations of the gradient of a loop. `from` is what it is the gradient of, outside of
    /// the loop.
    fn accumulate(&self, l: &Arc<LoopGrad>, from: &Output, g: Grad) -> Result<Grad> {
        match g {
            Grad::Dense(g) => {
                let start = match from.dtype() {
                    DType::Variant => from.zeros_like()?,
                    _ if g.shape().is_fully_known() => zeros(&g, &super::zeros::shape_of(&g)?)?,
                    _ => zeros(&g, &value_shape(from)?)?,
                };
                let shape = if g.shape().is_fully_known() {
                    g.shape()
                } else {
                    PartialShape::UNKNOWN
                };
                let v = l.variable(&start, shape)?;
                let _body = self.graph.context_scope(l.context());
                v.next(&self.graph.add_n(&[v.value.clone(), g])?)?;
                Ok(Grad::Dense(v.exit))
            }
            Grad::Slices(s) => {
                let none = |like: &Output| -> Result<Output> {
                    // No rows of the shape that the others have, as far as it is known.
                    let g = like.graph();
                    let rest = like.shape().dims().map(|d| d.get(1..).unwrap_or_default().to_vec());
                    let known = rest.and_then(|r| r.into_iter().collect::<Option<Vec<_>>>());
                    match known {
                        Some(rest) => {
                            let mut dims = vec![0i64];
                            dims.extend(rest.iter().map(|d| *d as i64));
                            zeros(like, &g.constant(Tensor::vector(&dims))?)
                        }
                        None => {
                            let wide = value_shape(from)?.cast(DType::I64)?;
                            let one = g.constant(Tensor::vector(&[1i64]))?;
                            let all = g.constant(Tensor::vector(&[-1i64]))?;
                            let rest = g.op("Slice").input(&wide).input(&one).input(&all).output()?;
                            let zero = g.constant(Tensor::vector(&[0i64]))?;
                            zeros(like, &g.concat(&[zero, rest], 0)?)
                        }
                    }
                };
                let join = |x: &Output| -> Result<Output> {
                    let rows = x.shape().with_dim(0, None);
                    let v = l.variable(&none(x)?, rows)?;
                    let _body = self.graph.context_scope(l.context());
                    v.next(&self.graph.concat(&[v.value.clone(), x.clone()], 0)?)?;
                    Ok(v.exit)
                };
                Ok(Grad::Slices(IndexedSlices {
                    values: join(&s.values)?,
                    indices: join(&s.indices)?,
                    dense_shape: value_shape(from)?.cast(DType::I64)?,
                }))
            }
        }
    }
}

/// Whether a loop variable of this dtype has a gradient.
fn is_variable_type(t: DType) -> bool {
    t.is_differentiable() && t != DType::Resource
}
