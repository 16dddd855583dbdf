//! Moving elements without looking at them.
//!
//! Slicing, joining, transposing, padding, gathering and the like only move elements, so their kernels are written
//! once for each element *size* (and for strings, handles and variants) and not for each dtype. An operation says
//! where elements go by a [`Shuffle`]; [`build`] picks the element type, allocates and fills the output and runs it.
//! Most shuffles are lists of strided copies ([`Copies`]); lookups by index are [`Rows`].

mod rows;
mod runs;
mod strided;
mod transpose;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::parallel::Parallel;
use actorflow_core::resource::ResourceHandle;
use actorflow_core::tensor::Variant;
use actorflow_core::{DType, Shape, Tensor};
use bytes::Bytes;

use crate::spread;

pub use rows::Rows;
pub use runs::{MOST, Run, products};
pub use strided::{Axes, Axis, Copies, StridedCopy, view_copy};

/// Bytes that one worker should at least move, so that handing the work over pays.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Something that can be moved: a plain element of 1, 2, 4, 8 or 16 bytes, a string, a handle, a variant.
pub trait Item: Clone + Send + Sync + 'static {}

impl<T: Clone + Send + Sync + 'static> Item for T {}

/// Where elements of the sources go in the output.
pub trait Shuffle: Sync {
    /// Writes the output; elements that it leaves alone keep the [`Fill`].
    ///
    /// # Errors
    /// `INTERNAL` for a copy outside of a source or the output.
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], par: &dyn Parallel) -> Result<()>;
}

/// What an output holds before the shuffle.
#[derive(Clone, Copy)]
pub enum Fill<'a> {
    /// Anything: the shuffle writes every element.
    Any,
    /// Zeros, empty strings, false.
    Zero,
    /// The value of this one-element tensor of the output's dtype.
    Value(&'a Tensor),
    /// The elements of this tensor, which has the output's dtype and element count.
    Copy(&'a Tensor),
}

/// The error of a plan that reaches outside of its tensors.
#[cold]
fn outside() -> Error {
    Error::internal("a copy reaches outside of its tensor")
}

/// The elements of a plain tensor as elements of its size.
fn cast<E: bytemuck::Pod>(t: &Tensor) -> Result<&[E]> {
    let bytes = t.bytes().ok_or_else(|| Error::internal("no dense data"))?;
    bytemuck::try_cast_slice(bytes).map_err(|e| Error::internal(e.to_string()))
}

fn cast_mut<E: bytemuck::Pod>(t: &mut Tensor) -> Result<&mut [E]> {
    let bytes = t.bytes_mut().ok_or_else(|| Error::internal("the output is shared"))?;
    bytemuck::try_cast_slice_mut(bytes).map_err(|e| Error::internal(e.to_string()))
}

fn build_plain<E: bytemuck::Pod + Send + Sync>(
    cx: &OpContext<'_>,
    dtype: DType,
    shape: Shape,
    fill: Fill<'_>,
    sources: &[&Tensor],
    how: &impl Shuffle,
) -> Result<Tensor> {
    let mut t = cx.alloc(dtype, shape)?;
    let out = cast_mut::<E>(&mut t)?;
    match fill {
        Fill::Any => {}
        Fill::Zero => par_chunks(cx.parallel(), out, |_, o| o.fill(E::zeroed())),
        Fill::Value(v) => {
            let v = *cast::<E>(v)?.first().ok_or_else(outside)?;
            par_chunks(cx.parallel(), out, |_, o| o.fill(v));
        }
        Fill::Copy(from) => {
            let from = cast::<E>(from)?;
            if from.len() != out.len() {
                return Err(outside());
            }
            par_chunks(cx.parallel(), out, |at, o| o.copy_from_slice(&from[at..at + o.len()]));
        }
    }
    match sources {
        [a] => how.run(&[cast::<E>(a)?], out, cx.parallel())?,
        [a, b] => how.run(&[cast::<E>(a)?, cast::<E>(b)?], out, cx.parallel())?,
        many => {
            let many = many.iter().map(|s| cast::<E>(s)).collect::<Result<Vec<_>>>()?;
            how.run(&many, out, cx.parallel())?;
        }
    }
    Ok(t)
}

/// How a list of strings, handles or variants starts.
enum Start<'a, E> {
    /// With any elements of the sources; all are overwritten.
    Any,
    /// With this element everywhere.
    One(E),
    /// With these elements.
    Each(&'a [E]),
}

fn start<'a, E: Item>(fill: Fill<'a>, zero: Option<E>, of: fn(&Tensor) -> Result<&[E]>) -> Result<Start<'a, E>> {
    Ok(match fill {
        Fill::Any => Start::Any,
        Fill::Zero => {
            Start::One(zero.ok_or_else(|| {
                Error::invalid("there is no zero of dtype resource or variant to fill the output with")
            })?)
        }
        Fill::Value(v) => Start::One(of(v)?.first().ok_or_else(outside)?.clone()),
        Fill::Copy(t) => Start::Each(of(t)?),
    })
}

/// The elements of an output of strings, handles or variants.
fn build_items<E: Item>(
    cx: &OpContext<'_>,
    count: usize,
    start: Start<'_, E>,
    sources: &[&[E]],
    how: &impl Shuffle,
) -> Result<Vec<E>> {
    let mut out = list(cx, count)?;
    match start {
        Start::Each(f) if f.len() == count => out.extend_from_slice(f),
        Start::Each(_) => return Err(outside()),
        Start::One(v) => out.resize(count, v),
        Start::Any => match sources.iter().find_map(|s| s.first()) {
            Some(v) => out.resize(count, v.clone()),
            None if count == 0 => {}
            None => return Err(outside()),
        },
    }
    how.run(sources, &mut out, &actorflow_core::parallel::Serial)?;
    Ok(out)
}

/// An empty vector with room for `count` elements, if the device's budget has as much left.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if it has not.
pub fn list<E>(cx: &OpContext<'_>, count: usize) -> Result<Vec<E>> {
    let exhausted = || Error::exhausted(format!("there is no memory for a list of {count} elements"));
    let bytes = count
        .checked_mul(size_of::<E>())
        .filter(|b| *b < isize::MAX as usize / 2);
    let bytes = bytes.ok_or_else(exhausted)?;
    let pool = cx.step().device.pool().stats();
    if bytes > pool.budget.saturating_sub(pool.used) {
        return Err(exhausted());
    }
    let mut out = Vec::new();
    out.try_reserve_exact(count).map_err(|_| exhausted())?;
    Ok(out)
}

/// A new tensor of `dtype` and `shape`, filled and then written by `how` from `sources` (all of that dtype).
///
/// # Errors
/// `INVALID_ARGUMENT` if the shape overflows or a handle or variant would have to be zero, `RESOURCE_EXHAUSTED` if
/// the device's budget refuses the output.
pub fn build(
    cx: &OpContext<'_>,
    dtype: DType,
    shape: Shape,
    fill: Fill<'_>,
    sources: &[&Tensor],
    how: &impl Shuffle,
) -> Result<Tensor> {
    match dtype.size() {
        1 => return build_plain::<u8>(cx, dtype, shape, fill, sources, how),
        2 => return build_plain::<u16>(cx, dtype, shape, fill, sources, how),
        4 => return build_plain::<u32>(cx, dtype, shape, fill, sources, how),
        8 => return build_plain::<u64>(cx, dtype, shape, fill, sources, how),
        16 => return build_plain::<[u64; 2]>(cx, dtype, shape, fill, sources, how),
        _ => {}
    }
    let count = shape.checked_count()?;
    fn parts<'a, E>(sources: &[&'a Tensor], of: fn(&Tensor) -> Result<&[E]>) -> Result<Vec<&'a [E]>> {
        sources.iter().map(|s| of(s)).collect()
    }
    match dtype {
        DType::Str => {
            let of = Tensor::as_strings;
            let start = start(fill, Some(Bytes::new()), of)?;
            Tensor::strings(shape, build_items(cx, count, start, &parts(sources, of)?, how)?)
        }
        DType::Resource => {
            let of = Tensor::as_resources;
            let start = start::<ResourceHandle>(fill, None, of)?;
            Tensor::resources(shape, build_items(cx, count, start, &parts(sources, of)?, how)?)
        }
        _ => {
            let of = Tensor::as_variants;
            let start = start::<Variant>(fill, None, of)?;
            Tensor::variants(shape, build_items(cx, count, start, &parts(sources, of)?, how)?)
        }
    }
}

/// Writes into `to`, whose data nobody shares, from `sources` of its dtype; what `how` leaves alone stays.
///
/// # Errors
/// `INTERNAL` if the data is shared; strings, handles and variants cannot be written in place.
pub fn write_into(cx: &OpContext<'_>, to: &mut Tensor, sources: &[&Tensor], how: &impl Shuffle) -> Result<()> {
    fn run<E: bytemuck::Pod + Send + Sync>(
        par: &dyn Parallel,
        to: &mut Tensor,
        sources: &[&Tensor],
        how: &impl Shuffle,
    ) -> Result<()> {
        let sources = sources.iter().map(|s| cast::<E>(s)).collect::<Result<Vec<_>>>()?;
        how.run(&sources, cast_mut::<E>(to)?, par)
    }
    let par = cx.parallel();
    match to.dtype().size() {
        1 => run::<u8>(par, to, sources, how),
        2 => run::<u16>(par, to, sources, how),
        4 => run::<u32>(par, to, sources, how),
        8 => run::<u64>(par, to, sources, how),
        16 => run::<[u64; 2]>(par, to, sources, how),
        _ => Err(Error::internal(format!(
            "{} elements cannot be written in place",
            to.dtype()
        ))),
    }
}

/// Leaves the output as it was filled.
pub struct Still;

impl Shuffle for Still {
    fn run<E: Item>(&self, _: &[&[E]], _: &mut [E], _: &dyn Parallel) -> Result<()> {
        Ok(())
    }
}

/// A tensor of `shape` full of `value`, a tensor with one element.
///
/// # Errors
/// As [`build`].
pub fn full(cx: &OpContext<'_>, shape: Shape, value: &Tensor) -> Result<Tensor> {
    build(cx, value.dtype(), shape, Fill::Value(value), &[], &Still)
}

/// A tensor of `shape` full of zeros, empty strings or false.
///
/// # Errors
/// As [`build`].
pub fn zeros(cx: &OpContext<'_>, dtype: DType, shape: Shape) -> Result<Tensor> {
    build(cx, dtype, shape, Fill::Zero, &[], &Still)
}

/// Calls `body(first element's index, chunk)` for consecutive chunks of `out`, spread over the workers if it is big.
pub fn par_chunks<E: Send>(par: &dyn Parallel, out: &mut [E], body: impl Fn(usize, &mut [E]) + Sync) {
    par_rows(par, out, 1, body);
}

/// As [`par_chunks`] with chunks that are whole rows of `row` elements.
pub fn par_rows<E: Send>(par: &dyn Parallel, out: &mut [E], row: usize, body: impl Fn(usize, &mut [E]) + Sync) {
    let row = row.max(1);
    let parts = (std::mem::size_of_val(out) / CHUNK_BYTES).min(par.threads() * 4);
    if parts < 2 || par.threads() < 2 {
        return body(0, out);
    }
    let chunk = out.len().div_ceil(row).div_ceil(parts).max(1) * row;
    spread::chunks(par, out, chunk, |i, part| body(i * chunk, part));
}
