//! `ArgMax`, `ArgMin`.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{PartialShape, Tensor, dispatch, register_ops};
use half::{bf16, f16};

use super::shared::{elements, map};
use crate::math::madd::{Baseline, Madd};
use crate::spread;
use crate::wide::{self, Work};

/// An element type with an order and its ends.
trait Ordered: Element + PartialOrd {
    const LOW: Self;
    const HIGH: Self;
}

macro_rules! ordered {
    ($($t:ty, $low:expr, $high:expr;)*) => {
        $(impl Ordered for $t {
            const LOW: $t = $low;
            const HIGH: $t = $high;
        })*
    };
    (@ends $($t:ty)*) => {
        ordered! { $($t, <$t>::MIN, <$t>::MAX;)* }
    };
}

ordered!(@ends f32 f64 f16 bf16 i8 i16 i32 i64 u8 u16 u32 u64);
ordered! { bool, false, true; }

/// The order in which the first element is wanted: the largest first, or the smallest.
trait Wanted: 'static {
    fn worst<T: Ordered>() -> T;
    fn better<T: Ordered>(a: T, b: T) -> bool;
}

struct Max;
struct Min;

impl Wanted for Max {
    #[inline(always)]
    fn worst<T: Ordered>() -> T {
        T::LOW
    }
    #[inline(always)]
    fn better<T: Ordered>(a: T, b: T) -> bool {
        a > b
    }
}

impl Wanted for Min {
    #[inline(always)]
    fn worst<T: Ordered>() -> T {
        T::HIGH
    }
    #[inline(always)]
    fn better<T: Ordered>(a: T, b: T) -> bool {
        a < b
    }
}

/// Elements that are compared side by side.
const LANES: usize = 32;

/// The position of the first best element; 0 if none is better than the end of the type (all NaN, say).
struct Row<'a, T, W>(&'a [T], PhantomData<W>);

impl<T: Ordered, W: Wanted> Work for Row<'_, T, W> {
    type Out = usize;
    #[inline(always)]
    fn run<M: Madd>(self) -> usize {
        let pick = |a: T, b: T| if W::better(b, a) { b } else { a };
        let (lanes, rest) = self.0.as_chunks::<LANES>();
        let mut best = rest.iter().fold(W::worst(), |a: T, b| pick(a, *b));
        if !lanes.is_empty() {
            let mut acc = [W::worst::<T>(); LANES];
            for x in lanes {
                for (a, x) in acc.iter_mut().zip(x) {
                    *a = pick(*a, *x);
                }
            }
            best = acc.into_iter().fold(best, pick);
        }
        if !W::better(best, W::worst()) {
            return 0;
        }
        for (i, x) in lanes.iter().enumerate() {
            if x.iter().fold(false, |found, x| found | (*x == best)) {
                return i * LANES + x.iter().position(|x| *x == best).unwrap_or(0);
            }
        }
        let start = lanes.len() * LANES;
        start + rest.iter().position(|x| *x == best).unwrap_or(0)
    }
}

/// Columns that are compared side by side.
const STRIP: usize = 1024;

/// The position of the first best element of each column of `x`, a table with rows of `width` elements; as [`Row`].
struct Columns<'a, T, W> {
    x: &'a [T],
    width: usize,
    out: &'a mut [i64],
    order: PhantomData<W>,
}

impl<T: Ordered, W: Wanted> Work for Columns<'_, T, W> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        for (at, out) in self.out.chunks_mut(STRIP).enumerate() {
            let (mut best, mut place) = ([W::worst::<T>(); STRIP], [0u32; STRIP]);
            let (best, place) = (&mut best[..out.len()], &mut place[..out.len()]);
            for (i, row) in self.x.chunks(self.width).enumerate() {
                let row = &row[at * STRIP..][..best.len()];
                for ((x, best), place) in row.iter().zip(&mut *best).zip(&mut *place) {
                    let better = W::better(*x, *best);
                    *best = if better { *x } else { *best };
                    *place = if better { i as u32 } else { *place };
                }
            }
            out.iter_mut().zip(place).for_each(|(o, p)| *o = i64::from(*p));
        }
    }
}

fn columns<T: Ordered, W: Wanted>(x: &[T], width: usize, out: &mut [i64]) {
    let work = Columns::<T, W> {
        x,
        width,
        out,
        order: PhantomData,
    };
    if T::DTYPE == DType::F32 {
        wide::run(work)
    } else {
        work.run::<Baseline>()
    }
}

/// Positions of the best elements along the middle dimension, of length `n`, of `[outer, n, inner]`.
fn positions<T: Ordered, W: Wanted>(
    device: &dyn Device,
    x: &Tensor,
    (n, inner): (usize, usize),
    out: &mut [i64],
) -> Result<()> {
    let (x, par) = (x.as_slice::<T>()?, device.parallel());
    if out.is_empty() {
        return Ok(());
    }
    if inner == 1 {
        let rows = spread::rows_of(n);
        spread::chunks(par, out, rows, |i, out| {
            for (o, row) in out.iter_mut().zip(x[i * rows * n..].chunks(n)) {
                let work = Row::<T, W>(row, PhantomData);
                let wide = T::DTYPE == DType::F32;
                *o = if wide { wide::run(work) } else { work.run::<Baseline>() } as i64;
            }
        });
    } else if n * inner > spread::GRAIN {
        // Each worker takes some of the columns; a row goes on for `inner` elements wherever it is begun.
        for (x, out) in x.chunks(n * inner).zip(out.chunks_mut(inner)) {
            spread::chunks(par, out, STRIP, |i, out| columns::<T, W>(&x[i * STRIP..], inner, out));
        }
    } else {
        let blocks = spread::rows_of(n * inner);
        spread::chunks(par, out, blocks * inner, |i, out| {
            for (x, out) in x[i * blocks * n * inner..].chunks(n * inner).zip(out.chunks_mut(inner)) {
                columns::<T, W>(x, inner, out);
            }
        });
    }
    Ok(())
}

type Positions = fn(&dyn Device, &Tensor, (usize, usize), &mut [i64]) -> Result<()>;

struct Arg {
    positions: Positions,
    output: DType,
}

impl Kernel for Arg {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (x, axis) = (cx.input(0)?, cx.input(1)?);
        let shape = x.shape();
        if !axis.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "dim must be a scalar, but received tensor of shape: {}",
                axis.shape()
            )));
        }
        let axis = resolve_axis(axis.to_i64()?, shape.rank())?;
        if shape[axis] == 0 {
            return Err(Error::invalid(format!(
                "reduction axis {axis} is empty in shape {shape}"
            )));
        }
        let device = &*cx.step().device;
        let inner: usize = shape[axis + 1..].iter().product();
        let mut out = cx.alloc(DType::I64, shape.with_replaced(axis, 1, &[]))?;
        (self.positions)(device, x, (shape[axis], inner), elements::<i64>(&mut out)?)?;
        let out = match self.output {
            DType::I64 => out,
            DType::I32 => map::<i64, i32>(device, &out, |x| x as i32)?,
            DType::I16 => map::<i64, i16>(device, &out, |x| x as i16)?,
            _ => map::<i64, u16>(device, &out, |x| x as u16)?,
        };
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel<W: Wanted>(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let positions: Positions = match init.input_types[0] {
        DType::Bool => positions::<bool, W>,
        d => dispatch!(d, T in reals => positions::<T, W>, else return Err(init.no_kernel())),
    };
    let output = init.output_types[0];
    Ok(Box::new(Arg { positions, output }))
}

fn arg_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(1).with_rank(0)?;
    let input = cx.input(0);
    let rank = match input.rank() {
        None => return Ok(vec![PartialShape::UNKNOWN]),
        // As in TensorFlow only running it fails.
        Some(0) => return Ok(vec![PartialShape::scalar()]),
        Some(rank) => rank,
    };
    Ok(vec![match cx.constant_i64(1) {
        Some(axis) => {
            let axis = resolve_axis(axis, rank)?;
            input.sub(0, axis).concat(&input.sub(axis + 1, rank))
        }
        None => PartialShape::of_rank(rank - 1),
    }])
}

fn definition(name: &'static str, outputs: &str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("input: T")
        .input("dimension: Tidx")
        .output("output: output_type")
        .attr("T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64, bool}")
        .attr("Tidx: {int16, int32, int64} = DT_INT32")
        .attr(outputs)
        .shape(arg_shape)
        .not_differentiable()
}

fn arg_max() -> OpDef {
    definition("ArgMax", "output_type: {int16, uint16, int32, int64} = DT_INT64")
        .doc("The position of the largest element along a dimension, the first of several; NaNs are passed over.")
        .cpu(kernel::<Max>)
}

fn arg_min() -> OpDef {
    definition("ArgMin", "output_type: {int32, int64} = DT_INT64")
        .doc("The position of the smallest element along a dimension, the first of several; NaNs are passed over.")
        .cpu(kernel::<Min>)
}

register_ops!(arg_max, arg_min);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::error::Result;
    use actorflow_core::{DType, Graph, PartialShape, Tensor};

    fn run(op: &str, x: impl Into<Tensor>, axis: impl Into<Tensor>) -> Result<Vec<i64>> {
        let (g, axis) = (Graph::new(), axis.into());
        let p = g.placeholder("axis", axis.dtype(), PartialShape::UNKNOWN)?;
        let y = g.op(op).input(&g.constant(x)?).input(&p).output()?;
        Interpreter::default().run(&[y], &[], &[(p, axis)])?[0].to_vec::<i64>()
    }

    #[test]
    fn the_first_of_the_best_is_found_along_any_axis() {
        let x = [[1f32, 5., 5.], [7., 2., 5.]];
        assert_eq!(run("ArgMax", x, 1i32).unwrap(), [1, 0]);
        assert_eq!(run("ArgMax", x, -2i64).unwrap(), [1, 0, 0]);
        assert_eq!(run("ArgMin", x, 0i16).unwrap(), [0, 1, 0]);
        assert_eq!(run("ArgMax", [false, true, true], 0i32).unwrap(), [1]);
        assert_eq!(run("ArgMin", [3u8, 0, 0], 0i32).unwrap(), [1]);
    }

    #[test]
    fn long_rows_and_columns() {
        for n in [31, 32, 33, 500, 3000] {
            for at in [0, 1, n / 2, n - 1] {
                let x: Vec<f32> = (0..n).map(|i| if i >= at { 9.0 } else { i as f32 * 1e-3 }).collect();
                let t = Tensor::from_slice([1, n], &x).unwrap();
                assert_eq!(run("ArgMax", t.clone(), 1i32).unwrap(), [at as i64]);
                assert_eq!(
                    run("ArgMax", t.clone().reshape([n, 1]).unwrap(), 0i32).unwrap(),
                    [at as i64]
                );
                let columns = Tensor::from_slice([2, n], &[x.clone(), vec![5.0; n]].concat()).unwrap();
                let got = run("ArgMax", columns, 0i32).unwrap();
                assert!(got.iter().enumerate().all(|(i, g)| *g == i64::from(i < at)), "{n} {at}");
            }
        }
    }

    /// As TensorFlow: comparisons with NaN are false, and the search starts at the end of the type.
    #[test]
    fn nan_never_wins() {
        let (n, i) = (f32::NAN, f32::INFINITY);
        assert_eq!(run("ArgMax", [n, 3.0, n, 5.0], 0i32).unwrap(), [3]);
        assert_eq!(run("ArgMin", [7.0, n, 3.0, n, 5.0], 0i32).unwrap(), [2]);
        assert_eq!(run("ArgMax", [n, n], 0i32).unwrap(), [0]);
        assert_eq!(run("ArgMax", [-i, -i], 0i32).unwrap(), [0]);
    }

    #[test]
    fn the_axis_is_checked() {
        let x = || Tensor::from([[1f32, 2.]]);
        assert!(run("ArgMax", x(), 2i32).is_err());
        assert!(run("ArgMax", x(), [0i32]).is_err());
        assert!(run("ArgMax", 1f32, 0i32).is_err());
        let e = run("ArgMax", Tensor::zeros(DType::F32, [0, 3]).unwrap(), 0i32).unwrap_err();
        assert!(e.message().contains("is empty in shape [0,3]"), "{e}");
        let none = run("ArgMax", Tensor::zeros(DType::F32, [0, 3]).unwrap(), 1i32).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn the_output_type_is_chosen() {
        let g = Graph::new();
        let (x, axis) = (g.constant([1f64, 2.]).unwrap(), g.constant(0i32).unwrap());
        let node = g.op("ArgMax").input(&x).input(&axis).attr("output_type", DType::U16);
        assert_eq!(eval(&node.output().unwrap()), Tensor::from(1u16));
    }
}
