//! Kernels that apply a function to each element of one tensor, or of two of the same shape.
#![forbid(unsafe_code)]

use actorflow_core::Shape;
use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;

use crate::math::simd::{self, Fn1, Fn2};
use crate::spread::{self, GRAIN};

fn unwritable() -> Error {
    Error::internal("a new tensor must be writable")
}

/// `y = f(x)`, in the buffer of `x` if nobody else has it.
pub(super) fn unary<F: Fn1<T, T>, T: Element>(cx: &mut OpContext<'_>) -> Result<()> {
    let shape = cx.input(0)?.shape().clone();
    let (mut out, reused) = cx.reuse_or_alloc(0, T::DTYPE, &shape)?;
    let y = out.as_mut_slice::<T>().ok_or_else(unwritable)?;
    let par = cx.parallel();
    if reused {
        spread::chunks(par, y, GRAIN, |_, y| simd::map1_inplace::<F, T>(y));
    } else {
        let x = cx.slice::<T>(0)?;
        spread::chunks(par, y, GRAIN, |i, y| {
            simd::map1::<F, T, T>(&x[i * GRAIN..][..y.len()], y)
        });
    }
    cx.set_output(0, out);
    Ok(())
}

/// Fails unless inputs 0 and 1 have one shape.
fn same_shape(cx: &OpContext<'_>) -> Result<Shape> {
    let (a, b) = (cx.input(0)?.shape(), cx.input(1)?.shape());
    if a == b {
        return Ok(a.clone());
    }
    Err(Error::invalid(format!(
        "inputs must have the same size and shape: input 0 has {a}, input 1 has {b}"
    )))
}

/// `y = f(a, b)` of two tensors of the same shape, in the buffer of either if nobody else has it.
pub(super) fn binary<F: Fn2<T, T, T>, T: Element>(cx: &mut OpContext<'_>) -> Result<()> {
    let shape = same_shape(cx)?;
    let par = cx.parallel();
    let (mut out, reused) = cx.reuse_or_alloc(0, T::DTYPE, &shape)?;
    let y = out.as_mut_slice::<T>().ok_or_else(unwritable)?;
    let b = cx.slice::<T>(1)?;
    if reused {
        spread::chunks(par, y, GRAIN, |i, y| {
            let b = &b[i * GRAIN..][..y.len()];
            simd::map2_inplace_left::<F, T, T>(y, b);
        });
    } else {
        let a = cx.slice::<T>(0)?;
        spread::chunks(par, y, GRAIN, |i, y| {
            let at = i * GRAIN..i * GRAIN + y.len();
            simd::map2::<F, T, T, T>(&a[at.clone()], &b[at], y);
        });
    }
    cx.set_output(0, out);
    Ok(())
}
