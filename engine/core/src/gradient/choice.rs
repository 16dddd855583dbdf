//! Gradients of conditionals.
//!
//! The gradient of a `Merge` goes to the side that was taken: a `Switch`. The gradient of a `Switch` comes from the
//! side that was taken: a `Merge`; a side from which none comes gives zeros when it was taken.

#![forbid(unsafe_code)]

use super::history::Shared;
use super::structure::{Guard, is_merge, is_switch};
use super::zeros::{shape_of, zeros};
use super::{Grad, IndexedSlices};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Node, Operation, Output};
use crate::tensor::Tensor;

/// What a choice depends on: a bool, or an index and the number of sides.
struct Choice {
    on: Output,
    arms: usize,
    is_bool: bool,
}

impl Choice {
    /// Sends `x` to the side that was taken; the outputs, by side.
    fn send(&self, x: &Output) -> Result<Vec<Output>> {
        let g = x.graph();
        let op = if self.is_bool {
            g.op("Switch").input(x).input(&self.on).finish()?
        } else {
            let n = i64::try_from(self.arms).unwrap_or(i64::MAX);
            g.op("_SwitchN").input(x).input(&self.on).attr("num_outs", n).finish()?
        };
        Ok(op.outputs())
    }
}

/// Whether the gradient of a node is one of this module's.
pub(super) fn is_choice(n: &Node) -> bool {
    is_merge(n) || is_switch(n) || n.op_name() == "_SwitchN"
}

/// The gradients of the inputs of a `Merge`, `Switch` or `_SwitchN` that belongs to a conditional.
pub(super) fn gradient(shared: &Shared, op: &Operation, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let node = op.node();
    if is_merge(&node) {
        return match &grads[0] {
            Some(g) => of_merge(shared, op, g),
            None => Ok(vec![None; node.inputs().len()]),
        };
    }
    Ok(vec![of_switch(shared, op, grads)?, None])
}

fn of_merge(shared: &Shared, op: &Operation, g: &Grad) -> Result<Vec<Option<Grad>>> {
    let arms = op.node().inputs().len();
    let graph = op.graph();
    let choice = match decided_by(shared, op)? {
        Some(on) => Choice {
            on,
            arms,
            is_bool: true,
        },
        None if arms == 2 => {
            let zero = graph.constant(0i32)?;
            Choice {
                on: op.output(1)?.not_equal(&zero)?,
                arms,
                is_bool: true,
            }
        }
        None => Choice {
            on: op.output(1)?,
            arms,
            is_bool: false,
        },
    };
    let sides = match g {
        Grad::Dense(g) => choice.send(g)?.into_iter().map(Grad::Dense).collect::<Vec<_>>(),
        Grad::Slices(s) => {
            let (values, indices) = (choice.send(&s.values)?, choice.send(&s.indices)?);
            let shapes = choice.send(&s.dense_shape)?;
            let parts = values.into_iter().zip(indices).zip(shapes);
            parts
                .map(|((values, indices), dense_shape)| {
                    Grad::Slices(IndexedSlices {
                        values,
                        indices,
                        dense_shape,
                    })
                })
                .collect()
        }
    };
    Ok(sides.into_iter().map(Some).collect())
}

/// The bool that decides a Merge of two, if its inputs come from the two sides of one Switch in order.
fn decided_by(shared: &Shared, merge: &Operation) -> Result<Option<Output>> {
    let node = merge.node();
    if node.inputs().len() != 2 {
        return Ok(None);
    }
    let mut s = shared.structure.lock();
    let whole = s.guards(node.id())?;
    let mut own = |i: usize| -> Result<Vec<Guard>> {
        let mut g = s.output_guards(&merge.input(i)?)?;
        g.retain(|g| !whole.contains(g) && g.arms == 0);
        Ok(g)
    };
    let (no, yes) = (own(0)?, own(1)?);
    let on = no
        .iter()
        .find(|g| g.arm == 0 && yes.iter().any(|h| h.on == g.on && h.arm == 1))
        .map(|g| g.on);
    on.map(|on| merge.graph().output_of(on)).transpose()
}

fn of_switch(shared: &Shared, op: &Operation, grads: &[Option<Grad>]) -> Result<Option<Grad>> {
    if grads.iter().all(Option::is_none) {
        return Ok(None);
    }
    let data = op.input(0)?;
    let choice = Choice {
        on: op.input(1)?,
        arms: grads.len(),
        is_bool: op.node().op_name() != "_SwitchN",
    };
    let around = shared.structure.lock().guards(op.id())?;
    let slices = grads.iter().flatten().all(|g| matches!(g, Grad::Slices(_)));
    let mut empty = None;
    let mut sides = Vec::with_capacity(grads.len());
    for (i, g) in grads.iter().enumerate() {
        sides.push(match g {
            Some(g) if slices => guarded(shared, &around, &choice, i, g.clone())?,
            Some(g) => guarded(shared, &around, &choice, i, Grad::Dense(g.to_dense()?))?,
            // Of a list or an optional there are zeros like it, but none of its shape.
            None if data.dtype() == DType::Variant => Grad::Dense(op.output(i)?.zeros_like()?),
            None => {
                if empty.is_none() {
                    empty = Some(choice.send(&value_shape(&data)?)?);
                }
                let Some(shapes) = &empty else { continue };
                match grads.iter().flatten().next() {
                    Some(Grad::Slices(like)) if slices => Grad::Slices(no_slices(like, &shapes[i])?),
                    Some(like) => Grad::Dense(zeros(like.values(), &shapes[i])?),
                    None => continue,
                }
            }
        });
    }
    let shape = data.shape();
    let dense = |parts: Vec<Output>, known: bool| -> Result<Output> {
        let b = op.graph().op("Merge").input_list(&parts);
        if known { b.output_shape(0, shape.clone()) } else { b }.output()
    };
    if !slices {
        let known = !matches!(data.dtype(), DType::Resource);
        let parts = sides.iter().map(|g| g.values().clone()).collect();
        return Ok(Some(Grad::Dense(dense(parts, known)?)));
    }
    let part = |f: fn(&IndexedSlices) -> &Output| {
        let of = |g: &Grad| match g {
            Grad::Slices(s) => f(s).clone(),
            Grad::Dense(x) => x.clone(),
        };
        dense(sides.iter().map(of).collect(), false)
    };
    Ok(Some(Grad::Slices(IndexedSlices {
        values: part(|s| &s.values)?,
        indices: part(|s| &s.indices)?,
        dense_shape: part(|s| &s.dense_shape)?,
    })))
}

/// The shape of what a gradient with respect to `x` is: of a resource handle, the shape of the variable's value.
pub(super) fn value_shape(x: &Output) -> Result<Output> {
    if x.dtype() == DType::Resource {
        return x.graph().op("VariableShape").input(x).output();
    }
    shape_of(x)
}

/// Slices without rows.
fn no_slices(like: &IndexedSlices, shape: &Output) -> Result<IndexedSlices> {
    let g = shape.graph();
    // Zero rows of the shape that follows the first dimension.
    let wide = shape.cast(DType::I64)?;
    let (begin, size) = (
        g.constant(Tensor::vector(&[1i64]))?,
        g.constant(Tensor::vector(&[-1i64]))?,
    );
    let rest = g.op("Slice").input(&wide).input(&begin).input(&size).output()?;
    let none = g.constant(Tensor::vector(&[0i64]))?;
    let rows = g.concat(&[none, rest], 0)?;
    let begin = g.constant(Tensor::vector(&[0i64]))?;
    let one = g.constant(Tensor::vector(&[0i64]))?;
    let count = g.op("Slice").input(&wide).input(&begin).input(&one).output()?;
    Ok(IndexedSlices {
        values: zeros(&like.values, &rows)?,
        indices: count.cast(like.indices.dtype())?,
        dense_shape: shape.cast(like.dense_shape.dtype())?,
    })
}

/// A gradient that comes from side `arm`, dead if that side was not taken even if it depends on nothing of it.
fn guarded(shared: &Shared, around: &[Guard], choice: &Choice, arm: usize, g: Grad) -> Result<Grad> {
    let guards = shared.structure.lock().output_guards(g.values())?;
    if guards.iter().any(|g| !around.contains(g)) {
        return Ok(g);
    }
    let side = choice.send(&choice.on)?;
    let taken = side[arm].identity()?;
    let hold = |x: &Output| -> Result<Output> {
        let b = x.graph().op("Identity").input(x);
        b.control_input(&taken.op()).output()
    };
    Ok(match &g {
        Grad::Dense(x) => Grad::Dense(hold(x)?),
        Grad::Slices(s) => Grad::Slices(IndexedSlices {
            values: hold(&s.values)?,
            indices: hold(&s.indices)?,
            dense_shape: hold(&s.dense_shape)?,
        }),
    })
}
