//! What the string operations share.

use actorflow_core::error::Result;
use actorflow_core::kernel::OpContext;
use actorflow_core::{Element, Tensor};
use bytes::Bytes;

use crate::moves;

/// Input `i` with `f` applied to every string.
pub(crate) fn map(cx: &OpContext<'_>, i: usize, mut f: impl FnMut(&Bytes) -> Result<Bytes>) -> Result<Tensor> {
    let t = cx.input(i)?;
    let from = t.as_strings()?;
    let mut out = moves::list(cx, from.len())?;
    for s in from {
        out.push(f(s)?);
    }
    Tensor::strings(t.shape(), out)
}

/// Input `i` with `f` applied to every string, as numbers or truth values.
pub(crate) fn map_to<T: Element>(
    cx: &OpContext<'_>,
    i: usize,
    mut f: impl FnMut(&Bytes) -> Result<T>,
) -> Result<Tensor> {
    let t = cx.input(i)?;
    let from = t.as_strings()?;
    let mut out = cx.alloc(T::DTYPE, t.shape())?;
    for (o, s) in out.as_mut_slice::<T>().unwrap_or(&mut []).iter_mut().zip(from) {
        *o = f(s)?;
    }
    Ok(out)
}

/// The one string of input `i`.
pub(crate) fn scalar<'a>(cx: &'a OpContext<'_>, i: usize, what: &str) -> Result<&'a Bytes> {
    let t = cx.input(i)?;
    match t.as_strings()? {
        [s] if t.shape().is_scalar() => Ok(s),
        _ => Err(actorflow_core::Error::invalid(format!(
            "{what} must be a scalar, got shape {}",
            t.shape()
        ))),
    }
}

/// White space as C's `isspace` has it.
pub(crate) fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// Without white space at both ends.
pub(crate) fn stripped(s: &[u8]) -> &[u8] {
    let start = s.iter().position(|b| !is_space(*b)).unwrap_or(s.len());
    let end = s.iter().rposition(|b| !is_space(*b)).map_or(start, |i| i + 1);
    &s[start..end]
}

/// Whether a byte begins a character of UTF-8 (or is none of it).
pub(crate) fn begins_char(b: u8) -> bool {
    b & 0xc0 != 0x80
}
