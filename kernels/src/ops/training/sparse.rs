//! The kernel of the sparse updates: only the rows that the indices name move, in the order of the indices.

#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::Tensor;
use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, OpContext};

use super::define::{Layout, slot_shape};
use super::drive::Storage;
use super::rule::{Field, MOST, Optimizer, Rule, Settings, Use};
use crate::ops::state::access;

struct Sparse<O, T> {
    layout: Layout,
    of: PhantomData<fn() -> (O, T)>,
}

pub(super) fn kernel<O: Optimizer, T: Storage>(layout: Layout) -> Box<dyn Kernel> {
    Box::new(Sparse::<O, T> {
        layout,
        of: PhantomData,
    })
}

impl<O: Optimizer, T: Storage> Kernel for Sparse<O, T> {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        self.layout.claims(cx, want)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        self.update(cx)?;
        if self.layout.is_ref {
            cx.forward(0, 0)?;
        }
        Ok(())
    }
}

impl<O: Optimizer, T: Storage> Sparse<O, T> {
    fn update(&self, cx: &OpContext<'_>) -> Result<()> {
        let scalars = self.layout.scalars::<T>(cx)?;
        let grad = cx.input(self.layout.grad)?;
        let indices = cx.input(self.layout.indices)?;
        let vars = self.layout.variables(cx)?;
        let mut states = [const { None }; MOST];
        for (state, var) in states.iter_mut().zip(&vars) {
            if let Some(var) = var {
                *state = Some(access::state(cx.held(), var, T::DTYPE)?);
            }
        }
        let (Some(var), Some(state)) = (&vars[0], &states[0]) else {
            return Err(Error::internal("an update without a variable"));
        };
        let shape = access::value(var, state)?.shape().clone();
        let (Some((&rows, row)), [count]) = (shape.split_first(), indices.shape().dims()) else {
            return Err(Error::invalid(format!(
                "a sparse update needs a variable of at least one dimension and a vector of indices, got variable {} \
                 of shape {shape} and indices of shape {}",
                var.name(),
                indices.shape()
            )));
        };
        if grad.shape().split_first() != Some((count, row)) {
            return Err(Error::invalid(format!(
                "the gradient must have a row for each index and the variable's other dimensions, got gradient {}, \
                 indices {} and variable {} of shape {shape}",
                grad.shape(),
                indices.shape(),
                var.name()
            )));
        }
        let indices = row_numbers(indices, rows, &shape)?;
        for (slot, state) in vars.iter().zip(&states).skip(1) {
            if let (Some(slot), Some(state)) = (slot, state) {
                slot_shape(var, &shape, slot, access::value(slot, state)?.shape())?;
            }
        }
        let pool = cx.step().device.pool();
        let mut to: [&mut [T]; MOST] = Default::default();
        for ((to, state), var) in to.iter_mut().zip(&mut states).zip(&vars) {
            if let (Some(state), Some(var)) = (state, var) {
                let value = access::writable(var, state, pool)?;
                *to = value
                    .as_mut_slice::<T>()
                    .ok_or_else(|| Error::internal("a new buffer is shared"))?;
            }
        }
        let settings = Settings {
            scalars: &scalars,
            flags: &self.layout.flags,
        };
        let run = Run {
            to,
            grad: grad.as_slice::<T>()?,
            indices: &indices,
            row: row.iter().product(),
        };
        T::Compute::choose::<O>(&settings, run);
        Ok(())
    }
}

/// The indices, all checked to be in `0..rows`.
fn row_numbers(indices: &Tensor, rows: usize, shape: &actorflow_core::Shape) -> Result<Vec<usize>> {
    let check = |(at, i): (usize, i64)| match usize::try_from(i) {
        Ok(i) if i < rows => Ok(i),
        _ => Err(Error::invalid(format!(
            "indices[{at}] = {i} is not in [0, {rows}), the rows of a variable of shape {shape}"
        ))),
    };
    match indices.as_slice::<i32>() {
        Ok(v) => v.iter().map(|i| i64::from(*i)).enumerate().map(check).collect(),
        Err(_) => indices
            .as_slice::<i64>()?
            .iter()
            .copied()
            .enumerate()
            .map(check)
            .collect(),
    }
}

struct Run<'a, T> {
    to: [&'a mut [T]; MOST],
    grad: &'a [T],
    indices: &'a [usize],
    /// Elements of a row.
    row: usize,
}

impl<T: Storage> Use<T::Compute> for Run<'_, T> {
    fn with<R: Rule<T::Compute>>(self, rule: R) {
        let Run {
            mut to,
            grad,
            indices,
            row,
        } = self;
        if row == 0 {
            return;
        }
        for (i, g) in indices.iter().zip(grad.chunks_exact(row)) {
            let state = to.each_mut().map(|t| match t.is_empty() {
                true => &mut t[..],
                false => &mut t[i * row..(i + 1) * row],
            });
            T::run(rule, state, g);
        }
    }
}
