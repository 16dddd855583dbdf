//! Choosing between two tensors, element by element.

use actorflow_core::DType;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::shape::Shape;
use actorflow_core::{Tensor, tensor};
use bytes::Bytes;

use super::loops::Arg;
use super::plan::Plan;
use super::run::{Shared, Tile, expect, is_reusable, start, start_mut, write_out};
use super::split::ranges;

/// Elements a thread should have to do at least.
const GRAIN: usize = 64 << 10;
/// As for binary functions: shorter runs are written out first.
const SHORT_RUN: usize = 128;
const TILE: usize = 8192;

type Blend = unsafe fn(Arg, Arg, Arg, *mut u8, usize);

/// `y[i] = if c[i] { t[i] } else { e[i] }`.
///
/// # Safety
/// The operands are valid for reading and `y` for writing `n` elements (one, where they are `One`); `y` overlaps no
/// operand or is equal to `t` or `e`.
unsafe fn blend<T: Copy>(c: Arg, t: Arg, e: Arg, y: *mut u8, n: usize) {
    let y = y as *mut T;
    // SAFETY: the caller's promise; the indices are below `n`.
    unsafe {
        match (c, t, e) {
            (Arg::One(c), t, e) => match if *(c as *const bool) { t } else { e } {
                Arg::Many(x) => std::ptr::copy(x as *const T, y, n),
                Arg::One(x) => {
                    let x = (x as *const T).read();
                    (0..n).for_each(|i| y.add(i).write(x));
                }
            },
            (Arg::Many(c), Arg::Many(t), Arg::Many(e)) => {
                let (c, t, e) = (c as *const bool, t as *const T, e as *const T);
                // An operand that is the result is read through the result's pointer, so that the compiler sees it.
                if t == y {
                    (0..n).for_each(|i| *y.add(i) = if *c.add(i) { *y.add(i) } else { *e.add(i) });
                } else if e == y {
                    (0..n).for_each(|i| *y.add(i) = if *c.add(i) { *t.add(i) } else { *y.add(i) });
                } else {
                    (0..n).for_each(|i| *y.add(i) = if *c.add(i) { *t.add(i) } else { *e.add(i) });
                }
            }
            (Arg::Many(c), Arg::Many(t), Arg::One(e)) => {
                let (c, t, e) = (c as *const bool, t as *const T, (e as *const T).read());
                if t == y {
                    (0..n).for_each(|i| *y.add(i) = if *c.add(i) { *y.add(i) } else { e });
                } else {
                    (0..n).for_each(|i| *y.add(i) = if *c.add(i) { *t.add(i) } else { e });
                }
            }
            (Arg::Many(c), Arg::One(t), Arg::Many(e)) => {
                let (c, t, e) = (c as *const bool, (t as *const T).read(), e as *const T);
                if e == y {
                    (0..n).for_each(|i| *y.add(i) = if *c.add(i) { t } else { *y.add(i) });
                } else {
                    (0..n).for_each(|i| *y.add(i) = if *c.add(i) { t } else { *e.add(i) });
                }
            }
            (Arg::Many(c), Arg::One(t), Arg::One(e)) => {
                let (c, t, e) = (c as *const bool, (t as *const T).read(), (e as *const T).read());
                (0..n).for_each(|i| *y.add(i) = if *c.add(i) { t } else { e });
            }
        }
    }
}

fn blend_of(size: usize) -> Blend {
    match size {
        1 => blend::<u8>,
        2 => blend::<u16>,
        4 => blend::<u32>,
        8 => blend::<u64>,
        _ => blend::<[u64; 2]>,
    }
}

/// Output 0 = input 1 where input 0 is true, input 2 elsewhere, all three broadcast; the condition counts as one of
/// shape `condition`, which has as many elements.
///
/// # Errors
/// `INVALID_ARGUMENT` if the shapes do not broadcast or dtypes are wrong; `RESOURCE_EXHAUSTED` if there is no memory for
/// the result.
pub fn select(cx: &mut OpContext<'_>, condition: &Shape) -> Result<()> {
    let (c, t, e) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let dtype = t.dtype();
    expect(0, c, DType::Bool)?;
    expect(2, e, dtype)?;
    if condition.count() != c.len() {
        return Err(Error::internal("the condition has another size"));
    }
    let (shape, plan) = Plan::new([condition, t.shape(), e.shape()]).map_err(|_| {
        Error::invalid(format!(
            "condition {}, then {}, and else {} must be broadcastable",
            c.shape(),
            t.shape(),
            e.shape()
        ))
    })?;
    // One truth value chooses a whole tensor.
    if condition.is_scalar() || c.len() == 1 {
        let chosen = if c.as_slice::<bool>()?[0] { 1 } else { 2 };
        if *cx.input(chosen)?.shape() == shape {
            return cx.forward(0, chosen);
        }
    }
    if !dtype.is_plain() {
        let chosen = select_items(&plan, shape, c, t, e)?;
        cx.set_output(0, chosen);
        return Ok(());
    }
    let reuse = [1, 2].into_iter().find(|i| is_reusable(cx, *i, dtype, &shape));
    let mut y = match reuse {
        Some(i) => cx.take_input(i)?,
        None => cx.alloc(dtype, &shape)?,
    };
    let n = shape.count();
    if n > 0 {
        let to = start_mut(&mut y)?;
        let from = |i: usize| {
            if reuse == Some(i) {
                Ok(to as *const u8)
            } else {
                start(cx.input(i)?)
            }
        };
        let data = Shared(([from(0)?, from(1)?, from(2)?], to));
        let sizes = [1, dtype.size(), dtype.size()];
        run(cx, &plan, sizes, data, n);
    }
    cx.set_output(0, y);
    Ok(())
}

fn run(cx: &OpContext<'_>, plan: &Plan<3>, sizes: [usize; 3], data: Shared<([*const u8; 3], *mut u8)>, n: usize) {
    let f = blend_of(sizes[1]);
    let (len, strides) = plan.dims.first().map_or((1, [1; 3]), |d| (d.len, d.strides));
    if plan.dims.len() <= 1 || len >= SHORT_RUN {
        ranges(cx.parallel(), n, GRAIN, 1, &|s, e| {
            let (from, to) = data.get();
            plan.for_runs(s, e, |i, at, n| {
                // SAFETY: the plan's offsets lie within the operands; each range writes its own elements of the result,
                // which is an operand only if that is dense, so that its offset is `i`.
                unsafe {
                    let arg = |k: usize| match (strides[k], from[k].add(at[k] * sizes[k])) {
                        (0, p) => Arg::One(p),
                        (_, p) => Arg::Many(p),
                    };
                    f(arg(0), arg(1), arg(2), to.add(i * sizes[1]), n);
                }
            });
        });
        return;
    }
    let tile = TILE / sizes[1] / len * len;
    ranges(cx.parallel(), n, GRAIN, len, &|s, e| {
        let (from, to) = data.get();
        let mut memory = [const { Tile::new() }; 3];
        for at in (s..e).step_by(tile) {
            let m = (e - at).min(tile);
            let mut arg = |k: usize| {
                // SAFETY: a dense operand has as many elements as the result; tiles fit the scratch memory.
                unsafe {
                    if plan.is_dense(k) {
                        return Arg::Many(from[k].add(at * sizes[k]));
                    }
                    write_out(plan, k, from[k], sizes[k], memory[k].ptr(), at, m);
                    Arg::Many(memory[k].ptr() as *const u8)
                }
            };
            // SAFETY: each range writes its own elements of the result, which is an operand only if that is dense.
            unsafe { f(arg(0), arg(1), arg(2), to.add(at * sizes[1]), m) };
        }
    });
}

/// [`select`] of strings, handles and variants.
fn select_items(plan: &Plan<3>, shape: Shape, c: &Tensor, t: &Tensor, e: &Tensor) -> Result<Tensor> {
    fn choose<T: Clone>(plan: &Plan<3>, n: usize, c: &[bool], t: &[T], e: &[T]) -> Vec<T> {
        let step = plan.dims.first().map_or([0; 3], |d| d.strides);
        let mut all = Vec::with_capacity(n);
        plan.for_runs(0, n, |_, at, n| {
            all.extend((0..n).map(|i| {
                let at = |k: usize| at[k] + i * step[k];
                if c[at(0)] { t[at(1)].clone() } else { e[at(2)].clone() }
            }));
        });
        all
    }
    let (n, c) = (shape.checked_count()?, c.as_slice::<bool>()?);
    match t.dtype() {
        DType::Str => Tensor::strings::<Bytes>(shape, choose(plan, n, c, t.as_strings()?, e.as_strings()?)),
        DType::Resource => Tensor::resources(shape, choose(plan, n, c, t.as_resources()?, e.as_resources()?)),
        _ => {
            let (t, e): (&[tensor::Variant], _) = (t.as_variants()?, e.as_variants()?);
            Tensor::variants(shape, choose(plan, n, c, t, e))
        }
    }
}
