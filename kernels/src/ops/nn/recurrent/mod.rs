//! Cells of recurrent networks in one operation, and a whole layer of them.
//!
//! - `cell`: the LSTM cell, one step forwards and one backwards
//! - the other files define the operations

pub mod block;
mod cell;
pub mod gru;
pub mod lstm;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::{Attrs, DType, Element, Tensor};
use half::f16;

use crate::ops::compose::Part;

/// A float whose functions are computed in double.
pub(super) trait Real: Element {
    fn wide(self) -> f64;
    fn of(x: f64) -> Self;
}

macro_rules! reals {
    ($($t:ty: $wide:expr, $of:expr;)*) => {
        $(impl Real for $t {
            fn wide(self) -> f64 {
                $wide(self)
            }
            fn of(x: f64) -> $t {
                $of(x)
            }
        })*
    };
}

reals! {
    f32: f64::from, |x| x as f32;
    f64: |x| x, |x| x;
    f16: f16::to_f64, f16::from_f64;
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Products of matrices of one dtype.
struct Products {
    plain: Part,
    by_transposed: Part,
    of_transposed: Part,
}

impl Products {
    fn new(init: &KernelInit<'_>) -> Result<Products> {
        let t = init.output_types[0];
        let part = |a: bool, b: bool| {
            let mut attrs = Attrs::default();
            attrs.set("transpose_a", a);
            attrs.set("transpose_b", b);
            Part::new(init, "MatMul", attrs, &[t, t], &[t])
        };
        Ok(Products {
            plain: part(false, false)?,
            by_transposed: part(false, true)?,
            of_transposed: part(true, false)?,
        })
    }
}

/// The rows of two matrices side by side; the second row by row multiplied by `gain` if there is one.
fn joined<T: Real>(
    cx: &OpContext<'_>,
    a: &[T],
    b: &[T],
    [rows, n, m]: [usize; 3],
    gain: Option<&[T]>,
) -> Result<Tensor> {
    let mut t = cx.alloc(T::DTYPE, [rows, n + m])?;
    let out = t
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    for (r, out) in out.chunks_mut((n + m).max(1)).enumerate() {
        out[..n].copy_from_slice(&a[r * n..][..n]);
        for (k, o) in out[n..].iter_mut().enumerate() {
            let at = r * m + k;
            *o = match gain {
                Some(g) => T::of(b[at].wide() * g[at].wide()),
                None => b[at],
            };
        }
    }
    Ok(t)
}

/// Zeros in the device's memory, and a vector to fill them from.
fn given<T: Real>(cx: &mut OpContext<'_>, i: usize, shape: &[usize], values: &[T]) -> Result<()> {
    let mut t = cx.alloc(T::DTYPE, shape)?;
    let out = t
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    if out.len() != values.len() {
        return Err(Error::internal("an output has another size than its shape"));
    }
    out.copy_from_slice(values);
    cx.set_output(i, t);
    Ok(())
}

/// Fails unless input `i` has this shape.
fn check(cx: &OpContext<'_>, i: usize, name: &str, shape: &[usize]) -> Result<()> {
    let got = cx.input(i)?.shape();
    if got.dims() != shape {
        return Err(Error::invalid(format!("{name} must have shape {shape:?}, got {got}")));
    }
    Ok(())
}

/// The dimensions of input `i`, which must have `N`.
fn dims<const N: usize>(cx: &OpContext<'_>, i: usize, name: &str) -> Result<[usize; N]> {
    let s = cx.input(i)?.shape();
    s.dims()
        .try_into()
        .map_err(|_| Error::invalid(format!("{name} must have rank {N}, got shape {s}")))
}

/// The dtypes of cells.
const TYPES: &str = "T: {half, float, double}";

/// Refuses dtypes that no cell has.
fn supported(init: &KernelInit<'_>) -> Result<DType> {
    match init.output_types[0] {
        t @ (DType::F16 | DType::F32 | DType::F64) => Ok(t),
        _ => Err(init.no_kernel()),
    }
}
