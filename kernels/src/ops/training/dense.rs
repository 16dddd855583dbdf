//! The kernel of the dense updates: one pass over the variable, its slots and the gradient.

#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::actor::Claims;
use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::parallel::Parallel;
use actorflow_core::{Error, Tensor};

use super::define::{Layout, slot_shape};
use super::drive::Storage;
use super::rule::{Field, MOST, Optimizer, Rule, Settings, Use};
use crate::ops::state::access;
use crate::spread;

struct Dense<O, T> {
    layout: Layout,
    of: PhantomData<fn() -> (O, T)>,
}

pub(super) fn kernel<O: Optimizer, T: Storage>(layout: Layout) -> Box<dyn Kernel> {
    Box::new(Dense::<O, T> {
        layout,
        of: PhantomData,
    })
}

impl<O: Optimizer, T: Storage> Kernel for Dense<O, T> {
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

impl<O: Optimizer, T: Storage> Dense<O, T> {
    fn update(&self, cx: &OpContext<'_>) -> Result<()> {
        let scalars = self.layout.scalars::<T>(cx)?;
        let grad = cx.input(self.layout.grad)?;
        let vars = self.layout.variables(cx)?;
        let mut states = [const { None }; MOST];
        for (state, var) in states.iter_mut().zip(&vars) {
            if let Some(var) = var {
                *state = Some(access::state(cx.held(), var, T::DTYPE)?);
            }
        }
        // Where readers share a value, the new one is written to a buffer of its own.
        let mut fresh: [Option<Tensor>; MOST] = [const { None }; MOST];
        for (i, (state, var)) in states.iter().zip(&vars).enumerate() {
            let (Some(state), Some(var), Some(first)) = (state, var, &vars[0]) else {
                continue;
            };
            let value = access::value(var, state)?;
            match i {
                0 => access::same_shape(var, value.shape(), "the gradient", grad.shape())?,
                _ => slot_shape(first, grad.shape(), var, value.shape())?,
            }
            if !value.is_unique() {
                fresh[i] = Some(cx.alloc(T::DTYPE, value.shape())?);
            }
        }
        let mut old: [Option<Tensor>; MOST] = [const { None }; MOST];
        let mut run = Run {
            parallel: cx.parallel(),
            to: [const { None }; MOST].map(|_: Option<()>| Default::default()),
            from: [const { None }; MOST],
            grad: grad.as_slice::<T>()?,
        };
        for (i, state) in states.iter_mut().enumerate() {
            if let Some(state) = state {
                state.version += 1;
                if let Some(fresh) = fresh[i].take() {
                    old[i] = state.value.replace(fresh);
                }
                let to = state.value.as_mut().and_then(Tensor::as_mut_slice::<T>);
                run.to[i] = to.ok_or_else(|| Error::internal("a new buffer is shared"))?;
            }
        }
        for (from, old) in run.from.iter_mut().zip(&old) {
            if let Some(old) = old {
                *from = Some(old.as_slice::<T>()?);
            }
        }
        let settings = Settings {
            scalars: &scalars,
            flags: &self.layout.flags,
        };
        T::Compute::choose::<O>(&settings, run);
        Ok(())
    }
}

struct Run<'a, T> {
    parallel: &'a dyn Parallel,
    /// Where the variable and the slots are written.
    to: [&'a mut [T]; MOST],
    /// Where their present elements are, unless they are in `to`.
    from: [Option<&'a [T]>; MOST],
    grad: &'a [T],
}

/// Elements that are copied before they are updated, so that they are still in the first-level cache then.
const BLOCK: usize = 1024;

impl<T: Storage> Use<T::Compute> for Run<'_, T> {
    fn with<R: Rule<T::Compute>>(self, rule: R) {
        let Run {
            parallel,
            to,
            from,
            grad,
        } = self;
        let copies = from.iter().any(Option::is_some);
        spread::chunks_of_all(parallel, to, spread::GRAIN, |start, mut part| {
            let n = part[0].len();
            let block = if copies { BLOCK } else { n.max(1) };
            for at in (0..n).step_by(block) {
                let end = n.min(at + block);
                let state = part.each_mut().map(|p| {
                    let end = end.min(p.len());
                    &mut p[at.min(end)..end]
                });
                let mut state = state;
                for (p, from) in state.iter_mut().zip(&from) {
                    if let Some(from) = from {
                        p.copy_from_slice(&from[start + at..start + end]);
                    }
                }
                T::run(rule, state, &grad[start + at..start + end]);
            }
        });
    }
}
