//! Running a loop over whole tensors: reuse of buffers, broadcasting, workers.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::shape::Shape;
use actorflow_core::{DType, Tensor};

use super::loops::{Arg, Loop1, Loop2, Scratch};
use super::plan::{Cursor, Plan};
use super::split::ranges;

/// Ranges of different workers start on multiples of this many elements: whole cache lines and whole wide blocks.
const ALIGN: usize = 64;
/// A broadcast operand whose innermost runs are shorter than this is written out, a tile at a time, before the loop
/// sees it: calling the loop for each run would cost more.
const SHORT_RUN: usize = 128;
/// Bytes of such a tile; a few of them lie in the first-level cache together.
const TILE: usize = 8192;

/// A pointer that ranges of a parallel loop may use; each writes its own elements only.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(pub(super) T);

// SAFETY: see the type; whoever uses the pointer says why its accesses do not collide.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    // A method, so that closures capture the wrapper and not the pointer in it.
    pub(super) fn get(&self) -> T {
        self.0
    }
}

/// Whether input `i` may be overwritten with a result of this dtype and shape.
pub(super) fn is_reusable(cx: &OpContext<'_>, i: usize, dtype: DType, shape: &Shape) -> bool {
    cx.input_if_live(i)
        .is_some_and(|t| t.dtype() == dtype && t.shape() == shape && t.is_unique())
}

/// The start of a tensor's elements.
#[inline]
pub(super) fn start(t: &Tensor) -> Result<*const u8> {
    t.bytes()
        .map(<[u8]>::as_ptr)
        .ok_or_else(|| Error::internal(format!("a {} tensor has no dense elements", t.dtype())))
}

/// The start of the elements of a tensor that nobody else shares.
#[inline]
pub(super) fn start_mut(t: &mut Tensor) -> Result<*mut u8> {
    let dtype = t.dtype();
    t.bytes_mut()
        .map(<[u8]>::as_mut_ptr)
        .ok_or_else(|| Error::internal(format!("cannot write into a shared {dtype} tensor")))
}

#[cold]
fn wrong_type(i: usize, t: &Tensor, want: DType) -> Error {
    Error::internal(format!("input {i} is {}, the kernel was made for {want}", t.dtype()))
}

/// Fails unless input `i` has this dtype: what the unsafe loops rely on.
pub(super) fn expect(i: usize, t: &Tensor, want: DType) -> Result<()> {
    if t.dtype() == want {
        Ok(())
    } else {
        Err(wrong_type(i, t, want))
    }
}

/// Output 0 = `f`(input 0), in the input's buffer if nobody else needs it.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no memory for the result.
pub fn map1(f: &Loop1, cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    expect(0, x, f.input())?;
    if x.shape().is_scalar() {
        let from = start(x)?;
        let to = cx.scalar_output(0, f.output())?.as_mut_ptr();
        // SAFETY: both tensors have one element of the loop's dtypes, and the result is this kernel's only.
        unsafe { f.run(from, to, 1) };
        return Ok(());
    }
    let shape = x.shape().clone();
    let (mut y, reused) = cx.reuse_or_alloc(0, f.output(), &shape)?;
    let to = start_mut(&mut y)?;
    let from = if reused { to as *const u8 } else { start(cx.input(0)?)? };
    let (sx, sy) = (f.input().size(), f.output().size());
    let (from, to) = (Shared(from), Shared(to));
    ranges(cx.parallel(), shape.count(), f.grain(), ALIGN, &|s, e| {
        // SAFETY: both tensors have the loop's dtypes and `count` elements; ranges do not overlap; the tensors are
        // one (then the sizes agree) or do not overlap, because the result is this kernel's only.
        unsafe { f.run(from.get().add(s * sx), to.get().add(s * sy), e - s) };
    });
    cx.set_output(0, y);
    Ok(())
}

/// How two operands meet.
enum Layout {
    Same,
    LeftScalar,
    RightScalar,
    General(Plan<2>),
}

fn layout(a: &Tensor, b: &Tensor) -> Result<(Shape, Layout)> {
    let (sa, sb) = (a.shape(), b.shape());
    if sa == sb {
        Ok((sa.clone(), Layout::Same))
    } else if sb.is_scalar() {
        Ok((sa.clone(), Layout::RightScalar))
    } else if sa.is_scalar() {
        Ok((sb.clone(), Layout::LeftScalar))
    } else {
        let (shape, plan) = Plan::new([sa, sb])?;
        let layout = match plan.dims[..] {
            [] => Layout::Same,
            [d] if d.strides == [1, 1] => Layout::Same,
            [d] if d.strides == [0, 1] => Layout::LeftScalar,
            [d] if d.strides == [1, 0] => Layout::RightScalar,
            _ => Layout::General(plan),
        };
        Ok((shape, layout))
    }
}

/// Output 0 = `f`(input 0, input 1) with broadcasting, in the buffer of an operand if nobody else needs it.
///
/// # Errors
/// `INVALID_ARGUMENT` naming both shapes if they do not broadcast; `RESOURCE_EXHAUSTED` if there is no memory for the
/// result.
pub fn map2(f: &Loop2, cx: &mut OpContext<'_>) -> Result<()> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let [ta, tb] = f.inputs();
    expect(0, a, ta)?;
    expect(1, b, tb)?;
    if a.shape().is_scalar() && b.shape().is_scalar() {
        // The short path of scalar programs: nothing is allocated, nothing is planned.
        let (a, b) = (start(a)?, start(b)?);
        let to = cx.scalar_output(0, f.output())?.as_mut_ptr();
        // SAFETY: each tensor has one element of the loop's dtypes, and the result is this kernel's only.
        unsafe { f.run(Arg::Many(a), Arg::Many(b), to, 1) };
        return Ok(());
    }
    let (shape, layout) = layout(a, b)?;
    let reuse = usize::from(!is_reusable(cx, 0, f.output(), &shape));
    let (mut y, reused) = if reuse == 0 || is_reusable(cx, 1, f.output(), &shape) {
        cx.reuse_or_alloc(reuse, f.output(), &shape)?
    } else {
        (cx.alloc(f.output(), &shape)?, false)
    };
    let n = shape.count();
    if n > 0 {
        let to = start_mut(&mut y)?;
        let from = |i: usize| match reused && i == reuse {
            true => Ok(to as *const u8),
            false => start(cx.input(i)?),
        };
        let (a, b) = (from(0)?, from(1)?);
        let (sa, sb, sy) = (ta.size(), tb.size(), f.output().size());
        let data = Shared((a, b, to));
        // SAFETY (of all three): the tensors have the loop's dtypes and as many elements as the layout uses; ranges do
        // not overlap; the result's buffer is this kernel's only, or it is that of an operand of the result's dtype
        // and shape, which therefore is not broadcast.
        match &layout {
            Layout::General(plan) => broadcast2(f, cx, plan, data, n),
            Layout::Same => ranges(cx.parallel(), n, f.grain(), ALIGN, &|s, e| {
                let (a, b, y) = data.get();
                // SAFETY: see above.
                unsafe { f.run(Arg::Many(a.add(s * sa)), Arg::Many(b.add(s * sb)), y.add(s * sy), e - s) };
            }),
            Layout::LeftScalar => ranges(cx.parallel(), n, f.grain(), ALIGN, &|s, e| {
                let (a, b, y) = data.get();
                // SAFETY: see above.
                unsafe { f.run(Arg::One(a), Arg::Many(b.add(s * sb)), y.add(s * sy), e - s) };
            }),
            Layout::RightScalar => ranges(cx.parallel(), n, f.grain(), ALIGN, &|s, e| {
                let (a, b, y) = data.get();
                // SAFETY: see above.
                unsafe { f.run(Arg::Many(a.add(s * sa)), Arg::One(b), y.add(s * sy), e - s) };
            }),
        }
    }
    cx.set_output(0, y);
    Ok(())
}

type Pointers2 = Shared<(*const u8, *const u8, *mut u8)>;

fn broadcast2(f: &Loop2, cx: &OpContext<'_>, plan: &Plan<2>, data: Pointers2, n: usize) {
    let inner = plan.dims[0];
    let sizes = f.inputs().map(DType::size);
    let sy = f.output().size();
    if inner.len >= SHORT_RUN {
        ranges(cx.parallel(), n, f.grain(), 1, &|s, e| {
            let (a, b, y) = data.get();
            plan.for_runs(s, e, |i, at, n| {
                // SAFETY: the plan's offsets lie within the operands; each range writes its own elements of the result,
                // which is an operand only if that is dense, so that its offset is `i`.
                unsafe {
                    let arg = |k: usize, p: *const u8| match (inner.strides[k], p.add(at[k] * sizes[k])) {
                        (0, p) => Arg::One(p),
                        (_, p) => Arg::Many(p),
                    };
                    f.run(arg(0, a), arg(1, b), y.add(i * sy), n);
                }
            });
        });
        return;
    }
    // Ranges and tiles start at the innermost loop's beginning, so that a periodic operand is written out once.
    let tile = TILE / sizes[0].max(sizes[1]) / inner.len * inner.len;
    ranges(cx.parallel(), n, f.grain(), inner.len, &|s, e| {
        let (a, b, y) = data.get();
        let mut memory = [const { Tile::new() }; 2];
        let mut done = [false; 2];
        for at in (s..e).step_by(tile) {
            let m = (e - at).min(tile);
            let mut arg = |k: usize, p: *const u8| {
                if plan.is_dense(k) {
                    // SAFETY: a dense operand has as many elements as the result.
                    return Arg::Many(unsafe { p.add(at * sizes[k]) });
                }
                let to = memory[k].ptr();
                if !done[k] {
                    // The first tile is the longest one.
                    // SAFETY: the tile fits the scratch memory; the plan's offsets lie within the operand.
                    unsafe { write_out(plan, k, p, sizes[k], to, at, m) };
                    done[k] = plan.is_periodic(k);
                }
                Arg::Many(to as *const u8)
            };
            // SAFETY: each range writes its own elements of the result, which is an operand only if that is dense.
            unsafe { f.run(arg(0, a), arg(1, b), y.add(at * sy), m) };
        }
    });
}

/// Elements that [`write_out`] may write beyond the last one.
const SLACK: usize = 8;
/// Scratch memory for a tile that [`write_out`] writes.
pub(super) type Tile = Scratch<{ TILE + 16 * SLACK }>;

/// Writes what the elements `start..start + n` of the result take from operand `k` to `to`, one after the other.
///
/// # Safety
/// `from` is valid for reading the operand's elements of `size` bytes, `to` for writing `n + SLACK` of them.
pub(super) unsafe fn write_out<const K: usize>(
    plan: &Plan<K>,
    k: usize,
    from: *const u8,
    size: usize,
    to: *mut u8,
    start: usize,
    n: usize,
) {
    // SAFETY: the caller's promise; dense data is aligned for its elements (16 bytes: two of 8).
    unsafe {
        match size {
            1 => write_out_as::<K, u8>(plan, k, from, to, start, n),
            2 => write_out_as::<K, u16>(plan, k, from, to, start, n),
            4 => write_out_as::<K, u32>(plan, k, from, to, start, n),
            8 => write_out_as::<K, u64>(plan, k, from, to, start, n),
            _ => write_out_as::<K, [u64; 2]>(plan, k, from, to, start, n),
        }
    }
}

unsafe fn write_out_as<const K: usize, T: Copy>(
    plan: &Plan<K>,
    k: usize,
    from: *const u8,
    to: *mut u8,
    start: usize,
    n: usize,
) {
    let (from, to) = (from as *const T, to as *mut T);
    let stride = |i: usize| plan.dims.get(i).map_or(0, |d| d.strides[k]);
    let (inner, outer) = (stride(0), stride(1));
    let row = |x: *const T, y: *mut T, len: usize|
    // SAFETY: called below only with elements that the operand has and room that the result has, slack included.
    unsafe {
        match inner {
            0 => {
                // Whole groups: the next row, or the slack, takes what is too much.
                let group = [x.read(); SLACK];
                for j in (0..len).step_by(SLACK) {
                    (y.add(j) as *mut [T; SLACK]).write_unaligned(group);
                }
            }
            1 => std::ptr::copy_nonoverlapping(x, y, len),
            _ => (0..len).for_each(|j| y.add(j).write(x.add(j * inner).read())),
        }
    };
    let mut at = Cursor::new(plan, start);
    let mut i = 0;
    while i < n {
        let len = at.left_in_run(plan);
        // SAFETY: the cursor's offsets lie within the operand, and `i` plus what is written is at most `n`.
        unsafe {
            let (x, y) = (from.add(at.offsets[k]), to.add(i));
            let rounds = at.rounds_left(plan).min((n - i) / len);
            if rounds > 0 {
                for r in 0..rounds {
                    row(x.add(r * outer), y.add(r * len), len);
                }
                at.advance_rounds(plan, rounds);
                i += rounds * len;
            } else {
                let len = len.min(n - i);
                row(x, y, len);
                at.advance(plan, len);
                i += len;
            }
        }
    }
}

/// Output 0 = `f`(…`f`(`f`(input 0, input 1), input 2)…), for a sum of inputs of one shape; in this order, whichever
/// input's buffer is reused.
///
/// # Errors
/// `INVALID_ARGUMENT` if shapes differ; `RESOURCE_EXHAUSTED` if there is no memory for the result.
pub fn fold(f: &Loop2, cx: &mut OpContext<'_>) -> Result<()> {
    let n = cx.num_inputs();
    let first = cx.input(0)?;
    let shape = first.shape().clone();
    for i in 0..n {
        let x = cx.input(i)?;
        expect(i, x, f.output())?;
        if *x.shape() != shape {
            return Err(Error::invalid(format!(
                "Inputs must have the same size and shape. Input 0: {shape} != input {i}: {}",
                x.shape()
            )));
        }
    }
    if n == 1 {
        return cx.forward(0, 0);
    }
    let reuse = (0..n).find(|i| is_reusable(cx, *i, f.output(), &shape));
    let mut y = match reuse {
        Some(i) => cx.take_input(i)?,
        None => cx.alloc(f.output(), &shape)?,
    };
    let to = start_mut(&mut y)?;
    let from = (0..n)
        .map(|i| {
            if Some(i) == reuse {
                Ok(to as *const u8)
            } else {
                start(cx.input(i)?)
            }
        })
        .collect::<Result<Vec<_>>>()?;
    // An input that is overwritten must still be whole when its turn comes: sums are made aside then.
    let aside = reuse.is_some_and(|i| i > 1);
    let size = f.output().size();
    let data = Shared((from.as_slice(), to));
    ranges(cx.parallel(), shape.count(), f.grain(), ALIGN, &|s, e| {
        let (from, to) = data.get();
        let mut memory = Scratch::<TILE>::zeroed();
        for at in (s..e).step_by(TILE / size) {
            let m = (e - at).min(TILE / size);
            // SAFETY: all tensors have the loop's dtype and `count` elements; tiles do not overlap, and fit the scratch
            // memory; the result's buffer is this kernel's only.
            unsafe {
                let arg = |i: usize| Arg::Many(from[i].add(at * size));
                let y = to.add(at * size);
                let sum = if aside { memory.ptr() } else { y };
                f.run(arg(0), arg(1), sum, m);
                for i in 2..from.len() {
                    f.run(Arg::Many(sum), arg(i), sum, m);
                }
                if aside {
                    std::ptr::copy_nonoverlapping(sum, y, m * size);
                }
            }
        }
    });
    cx.set_output(0, y);
    Ok(())
}

/// Output 0 = input 0 after a chain of functions, each with the input of its number as second operand, which is a
/// scalar or has input 0's shape.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the shapes for any other shape; `RESOURCE_EXHAUSTED` if there is no memory for the result.
pub fn chain<const K: usize>(steps: [(&Loop2, usize); K], cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    let shape = x.shape().clone();
    let dtype = x.dtype();
    let mut from = [Arg::One(std::ptr::null()); K];
    for (from, (f, i)) in from.iter_mut().zip(steps) {
        let t = cx.input(i)?;
        expect(0, x, f.inputs()[0])?;
        expect(i, t, f.inputs()[1])?;
        if f.output() != dtype {
            return Err(Error::internal("a chain keeps its dtype"));
        }
        *from = match () {
            () if t.shape().is_scalar() => Arg::One(start(t)?),
            () if *t.shape() == shape => Arg::Many(start(t)?),
            () => {
                return Err(Error::invalid(format!(
                    "input {i} must be either of the same shape as the first input or a scalar: {} vs. {shape}",
                    t.shape()
                )));
            }
        };
    }
    // Second operands stay where they are: the first input only may be taken.
    let (mut y, reused) = cx.reuse_or_alloc(0, dtype, &shape)?;
    let to = start_mut(&mut y)?;
    let first = if reused { to as *const u8 } else { start(cx.input(0)?)? };
    let size = dtype.size();
    let (data, grain) = (Shared((first, from, to)), steps[0].0.grain());
    ranges(cx.parallel(), shape.count(), grain, ALIGN, &|s, e| {
        let (first, from, to) = data.get();
        for at in (s..e).step_by(TILE / size) {
            let m = (e - at).min(TILE / size);
            // SAFETY: all operands have the loops' dtype and `count` elements or one; tiles do not overlap; the result's
            // buffer is this kernel's only.
            unsafe {
                let y = to.add(at * size);
                let mut x = first.add(at * size);
                for ((f, _), arg) in steps.iter().zip(from) {
                    f.run(Arg::Many(x), arg.skip(at, size), y, m);
                    x = y;
                }
            }
        }
    });
    cx.set_output(0, y);
    Ok(())
}

/// Output 0 = the functions applied to input 0, one after the other; all but the last keep the dtype.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no memory for the result.
pub fn chain1(steps: [&Loop1; 2], cx: &mut OpContext<'_>) -> Result<()> {
    let [first, last] = steps;
    let x = cx.input(0)?;
    expect(0, x, first.input())?;
    if first.output() != first.input() || last.input() != first.output() {
        return Err(Error::internal("a chain keeps its dtype"));
    }
    let shape = x.shape().clone();
    let mut y = cx.alloc(last.output(), &shape)?;
    let (sx, sy) = (first.input().size(), last.output().size());
    let data = Shared((start(cx.input(0)?)?, start_mut(&mut y)?));
    ranges(cx.parallel(), shape.count(), first.grain(), ALIGN, &|s, e| {
        let (from, to) = data.get();
        let mut memory = Scratch::<TILE>::zeroed();
        for at in (s..e).step_by(TILE / sx) {
            let m = (e - at).min(TILE / sx);
            // SAFETY: both tensors have `count` elements of the loops' dtypes; tiles do not overlap and fit the scratch
            // memory; the result is this kernel's only.
            unsafe {
                first.run(from.add(at * sx), memory.ptr(), m);
                last.run(memory.ptr(), to.add(at * sy), m);
            }
        }
    });
    cx.set_output(0, y);
    Ok(())
}
