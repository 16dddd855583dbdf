//! Scattering into a variable: which rows an operation reaches, and how each dtype's elements change.

#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::resource::Variable;
use actorflow_core::{DType, Shape, Tensor, dispatch};

use super::access;
use super::arith::{Arith, Update};

/// The rows of a variable that an operation reaches.
pub(super) struct Rows {
    /// The row that each row of the updates goes to; [`Rows::SKIP`] for none.
    pub(super) picks: Vec<usize>,
    /// Elements of a row.
    pub(super) len: usize,
    /// Whether the updates are one element that goes everywhere.
    pub(super) scalar: bool,
}

impl Rows {
    /// The pick of an update that goes nowhere.
    pub(super) const SKIP: usize = usize::MAX;

    /// Calls `f` with where a row of the variable starts and where its update does.
    fn each(&self, mut f: impl FnMut(usize, usize)) {
        for (i, pick) in self.picks.iter().enumerate() {
            if *pick != Rows::SKIP {
                f(pick * self.len, i * self.len);
            }
        }
    }
}

/// How indices name rows.
pub(super) trait Reach: Send + Sync + 'static {
    /// The rows of a variable of this shape; every pick lies in it.
    fn rows(&self, var: &Variable, shape: &Shape, indices: &Tensor, updates: &Shape) -> Result<Rows>;
}

/// The error of an index that names no row: where it is among the indices, what it is and what it may be.
#[cold]
pub(super) fn index_error(shape: &Shape, at: usize, index: &str, allowed: &str) -> Error {
    let mut place: Vec<String> = Vec::new();
    let mut rest = at;
    for d in shape.iter().rev() {
        place.push((rest % d).to_string());
        rest /= d;
    }
    place.reverse();
    Error::invalid(format!("indices[{}] = {index} is not in {allowed}", place.join(",")))
}

/// The kernel of `update` for a dtype.
pub(super) fn make(
    init: &KernelInit<'_>,
    update: Update,
    dtype: Option<DType>,
    reach: impl Reach,
) -> Result<Box<dyn Kernel>> {
    let is_ref = !init.output_types.is_empty();
    let dtype = dtype.ok_or_else(|| init.no_kernel())?;
    if update == Update::Set {
        return Ok(Box::new(Replace { dtype, is_ref, reach }));
    }
    if dtype == DType::Bool && matches!(update, Update::Add | Update::Sub) {
        let of = PhantomData::<fn() -> bool>;
        return Ok(Box::new(Change {
            update,
            is_ref,
            reach,
            of,
        }));
    }
    Ok(dispatch!(dtype, T in numbers => {
        if matches!(update, Update::Min | Update::Max) && !T::ORDERED {
            return Err(init.no_kernel());
        }
        Box::new(Change::<_, T> { update, is_ref, reach, of: PhantomData })
    }, else return Err(init.no_kernel())))
}

/// Changes rows arithmetically.
struct Change<R, T> {
    update: Update,
    is_ref: bool,
    reach: R,
    of: PhantomData<fn() -> T>,
}

impl<R: Reach, T: Arith> Change<R, T> {
    fn change(&self, cx: &OpContext<'_>) -> Result<()> {
        let var = cx.variable(0)?;
        let mut state = access::state(cx.held(), &var, T::DTYPE)?;
        let by = cx.input(2)?;
        let rows = {
            let value = access::existing(&var, &state, self.is_ref)?;
            self.reach.rows(&var, value.shape(), cx.input(1)?, by.shape())?
        };
        let by = by.as_slice::<T>()?;
        self.update.check(by)?;
        let to = access::writable(&var, &mut state, cx.step().device.pool())?;
        let to = to
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a new buffer is shared"))?;
        match (rows.scalar, by) {
            (true, [by]) => rows.each(|at, _| self.update.fill(&mut to[at..at + rows.len], *by)),
            _ => rows.each(|at, from| self.update.zip(&mut to[at..at + rows.len], &by[from..from + rows.len])),
        }
        Ok(())
    }
}

impl<R: Reach, T: Arith> Kernel for Change<R, T> {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        self.change(cx)?;
        if self.is_ref {
            cx.forward(0, 0)?;
        }
        Ok(())
    }
}

/// Replaces rows, of any dtype.
struct Replace<R> {
    dtype: DType,
    is_ref: bool,
    reach: R,
}

/// The elements with rows replaced by those of `by`.
fn replaced<E: Clone>(old: &[E], rows: &Rows, by: &[E]) -> Vec<E> {
    let mut new = old.to_vec();
    match (rows.scalar, by) {
        (true, [by]) => rows.each(|at, _| new[at..at + rows.len].fill(by.clone())),
        _ => rows.each(|at, from| new[at..at + rows.len].clone_from_slice(&by[from..from + rows.len])),
    }
    new
}

impl<R: Reach> Replace<R> {
    fn replace(&self, cx: &OpContext<'_>) -> Result<()> {
        let var = cx.variable(0)?;
        let mut state = access::state(cx.held(), &var, self.dtype)?;
        let by = cx.input(2)?;
        let value = access::existing(&var, &state, self.is_ref)?;
        let rows = self.reach.rows(&var, value.shape(), cx.input(1)?, by.shape())?;
        let items = match self.dtype {
            DType::Str => Some(Tensor::strings(
                value.shape(),
                replaced(value.as_strings()?, &rows, by.as_strings()?),
            )?),
            DType::Resource => Some(Tensor::resources(
                value.shape(),
                replaced(value.as_resources()?, &rows, by.as_resources()?),
            )?),
            DType::Variant => Some(Tensor::variants(
                value.shape(),
                replaced(value.as_variants()?, &rows, by.as_variants()?),
            )?),
            _ => None,
        };
        if let Some(t) = items {
            state.value = Some(t);
            state.version += 1;
            return Ok(());
        }
        let size = self.dtype.size();
        let missing = || Error::internal("a plain tensor without dense data");
        let by = by.bytes().ok_or_else(missing)?;
        let to = access::writable(&var, &mut state, cx.step().device.pool())?;
        let to = to.bytes_mut().ok_or_else(missing)?;
        let len = rows.len * size;
        rows.each(|at, from| {
            let to = &mut to[at * size..at * size + len];
            if rows.scalar {
                to.chunks_exact_mut(size).for_each(|e| e.copy_from_slice(by));
            } else {
                to.copy_from_slice(&by[from * size..from * size + len]);
            }
        });
        Ok(())
    }
}

impl<R: Reach> Kernel for Replace<R> {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        self.replace(cx)?;
        if self.is_ref {
            cx.forward(0, 0)?;
        }
        Ok(())
    }
}
