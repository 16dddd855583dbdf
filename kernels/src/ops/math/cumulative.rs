//! `Cumsum`, `Cumprod`, `CumulativeLogsumexp`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Element, Output, Tensor, dispatch, register_ops};
use half::{bf16, f16};

use super::common::{C64, C128};
use crate::{shapes, spread};

/// What the results so far and the next element make.
trait Step<T> {
    /// What an empty sequence makes.
    fn start() -> T;
    fn next(sum: T, x: T) -> T;
}

struct Sum;
struct Product;
struct LogSumExp;

macro_rules! steps {
    ($($step:ident { $($t:ty),+ => $start:expr, |$a:ident, $b:ident| $e:expr; })*) => {
        $(steps!(@each $step [$($t),+] $start, $a, $b, $e);)*
    };
    (@each $step:ident [$($t:ty),+] $start:expr, $a:ident, $b:ident, $e:expr) => {
        $(impl Step<$t> for $step {
            fn start() -> $t {
                $start
            }
            #[inline(always)]
            fn next($a: $t, $b: $t) -> $t {
                $e
            }
        })+
    };
}
steps! {
    Sum { f32, f64 => 0.0, |a, b| a + b; }
    Sum { f16, bf16 => Default::default(), |a, b| a + b; }
    Sum { C64, C128 => Default::default(), |a, b| a + b; }
    Sum { i8, i16, i32, i64, u8, u16, u32, u64 => 0, |a, b| a.wrapping_add(b); }
    Product { f32, f64 => 1.0, |a, b| a * b; }
    Product { f16 => f16::ONE, |a, b| a * b; }
    Product { bf16 => bf16::ONE, |a, b| a * b; }
    Product { C64 => C64::ONE, |a, b| a * b; }
    Product { C128 => C128::ONE, |a, b| a * b; }
    Product { i8, i16, i32, i64, u8, u16, u32, u64 => 1, |a, b| a.wrapping_mul(b); }
    LogSumExp { f32 => f32::NEG_INFINITY, |a, b| log_sum_exp(f64::from(a), f64::from(b)) as f32; }
    LogSumExp { f64 => f64::NEG_INFINITY, |a, b| log_sum_exp(a, b); }
    LogSumExp { f16 => f16::NEG_INFINITY, |a, b| f16::from_f64(log_sum_exp(a.to_f64(), b.to_f64())); }
    LogSumExp { bf16 => bf16::NEG_INFINITY, |a, b| bf16::from_f64(log_sum_exp(a.to_f64(), b.to_f64())); }
}

/// log(eᵃ + eᵇ) without overflow.
fn log_sum_exp(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY || high == f64::INFINITY && !low.is_nan() {
        return high;
    }
    high + (low - high).exp().ln_1p()
}

/// How the tensor is walked: `[outer, n, inner]`, along the middle.
#[derive(Clone, Copy)]
struct Walk {
    n: usize,
    inner: usize,
    exclusive: bool,
    reverse: bool,
}

/// One sequence of rows: `x` and `y` are `[n, inner]`.
fn scan<S: Step<T>, T: Element>(w: Walk, x: &[T], y: &mut [T]) {
    let rows = |i: usize| {
        let i = if w.reverse { w.n - 1 - i } else { i };
        i * w.inner..(i + 1) * w.inner
    };
    if w.inner == 1 {
        let mut sum = S::start();
        for i in 0..w.n {
            let at = rows(i).start;
            let next = S::next(sum, x[at]);
            y[at] = if w.exclusive { sum } else { next };
            sum = next;
        }
        return;
    }
    y[rows(0)].fill(S::start());
    if !w.exclusive {
        for (y, x) in y[rows(0)].iter_mut().zip(&x[rows(0)]) {
            *y = S::next(*y, *x);
        }
    }
    for i in 1..w.n {
        let (before, now) = (rows(i - 1), rows(i));
        let (from, to) = if before.start < now.start {
            let (a, b) = y.split_at_mut(now.start);
            (&a[before.clone()], &mut b[..w.inner])
        } else {
            let (a, b) = y.split_at_mut(before.start);
            (&b[..w.inner], &mut a[now.clone()])
        };
        let x = if w.exclusive { &x[before] } else { &x[now] };
        for ((y, sum), x) in to.iter_mut().zip(from).zip(x) {
            *y = S::next(*sum, *x);
        }
    }
}

fn scan_all<S: Step<T>, T: Element>(cx: &OpContext<'_>, w: Walk) -> Result<Tensor> {
    let x = cx.slice::<T>(0)?;
    let mut out = cx.alloc(T::DTYPE, cx.input(0)?.shape())?;
    let y = out
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    let block = w.n * w.inner;
    let chunk = spread::rows_of(block) * block.max(1);
    spread::chunks(cx.parallel(), y, chunk, |c, y| {
        for (k, y) in y.chunks_mut(block).enumerate() {
            scan::<S, T>(w, &x[c * chunk + k * block..][..block], y);
        }
    });
    Ok(out)
}

struct Scan {
    op: Kind,
    exclusive: bool,
    reverse: bool,
}

enum Kind {
    Sum,
    Product,
    LogSumExp,
}

impl Kernel for Scan {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (x, axis) = (cx.input(0)?, cx.input(1)?);
        if !axis.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "ScanOp: axis must be a scalar, not {}",
                axis.shape()
            )));
        }
        let (rank, axis) = (x.shape().rank() as i64, axis.to_i64()?);
        if axis < -rank || axis >= rank {
            return Err(Error::invalid(format!(
                "ScanOp: Expected scan axis in the range [{}, {rank}), but got {axis}",
                -rank
            )));
        }
        let axis = axis.rem_euclid(rank) as usize;
        let dims = x.shape().dims();
        let w = Walk {
            n: dims[axis],
            inner: dims[axis + 1..].iter().product(),
            exclusive: self.exclusive,
            reverse: self.reverse,
        };
        let missing = || Error::invalid(format!("no CPU kernel for {}", x.dtype()));
        let y = match self.op {
            Kind::Sum => dispatch!(x.dtype(), T in numbers => scan_all::<Sum, T>(cx, w)?, else return Err(missing())),
            Kind::Product => {
                dispatch!(x.dtype(), T in numbers => scan_all::<Product, T>(cx, w)?, else return Err(missing()))
            }
            Kind::LogSumExp => {
                dispatch!(x.dtype(), T in floats => scan_all::<LogSumExp, T>(cx, w)?, else return Err(missing()))
            }
        };
        cx.set_output(0, y);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Scan {
        op: match init.op {
            "Cumsum" => Kind::Sum,
            "Cumprod" => Kind::Product,
            _ => Kind::LogSumExp,
        },
        exclusive: init.attrs.bool("exclusive")?,
        reverse: init.attrs.bool("reverse")?,
    }))
}

fn definition(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("x: T")
        .input("axis: Tidx")
        .output("out: T")
        .attr("exclusive: bool = false")
        .attr("reverse: bool = false")
        .attr(types)
        .attr("Tidx: {int32, int64} = DT_INT32")
        .shape(shapes::like_first)
        .cpu(kernel)
}

/// The scan `op` of `x` along the differentiated op's axis, in the same or the other direction.
fn scanned(cx: &GradContext, op: &str, x: &Output, turned: bool) -> Result<Output> {
    let reverse = cx.attrs().bool("reverse")? != turned;
    cx.graph()
        .op(op)
        .input(x)
        .input(&cx.input(1)?)
        .attr("exclusive", cx.attrs().bool("exclusive")?)
        .attr("reverse", reverse)
        .output()
}

macro_rules! samples {
    ($def:expr, $op:literal) => {
        $def.sample(|s| {
            let (x, axis) = (s.normal([2, 3])?, s.constant(1i32)?);
            s.op($op).input(&x).input(&axis).finish()
        })
        .sample(|s| {
            let (x, axis) = (s.normal([3, 2])?, s.constant(-2i64)?);
            s.op($op)
                .input(&x)
                .input(&axis)
                .attr("exclusive", true)
                .attr("reverse", true)
                .finish()
        })
    };
}

fn cumsum() -> OpDef {
    let def = definition("Cumsum", "T: numbertype")
        .doc("The sums of the elements up to each one along an axis.")
        .gradient(|cx, dys| {
            Ok(vec![
                Some(scanned(cx, "Cumsum", &cx.dense(dys, 0)?, true)?.into()),
                None,
            ])
        });
    samples!(def, "Cumsum")
}

fn cumprod() -> OpDef {
    let def = definition("Cumprod", "T: numbertype")
        .doc("The products of the elements up to each one along an axis.")
        .gradient(|cx, dys| {
            let x = cx.input(0)?;
            let prod = scanned(cx, "Cumprod", &x, false)?;
            let out = scanned(cx, "Cumsum", &prod.times(&cx.dense(dys, 0)?)?, true)?;
            let dx = cx.graph().op("DivNoNan").input(&out).input(&x).output()?;
            Ok(vec![Some(dx.into()), None])
        });
    samples!(def, "Cumprod")
}

/// The least finite number of a float dtype.
fn least(d: DType) -> f64 {
    match d {
        DType::F16 => f16::MIN.to_f64(),
        DType::BF16 => bf16::MIN.to_f64(),
        DType::F32 => f64::from(f32::MIN),
        _ => f64::MIN,
    }
}

/// In logarithms, for the positive and the negative part of the gradient.
fn log_sum_exp_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, y, g) = (cx.input(0)?, cx.output(0)?, cx.dense(dys, 0)?);
    let (zero, floor) = (g.scalar_like(0.0)?, g.scalar_like(least(g.dtype()))?);
    let part = |log: Output| {
        scanned(cx, "CumulativeLogsumexp", &log.minus(&y)?, true)?
            .plus(&x)?
            .exp()
    };
    let positive = part(g.greater(&zero)?.select(&g.log()?, &floor)?)?;
    let negative = part(g.less(&zero)?.select(&g.negated()?.log()?, &floor)?)?;
    Ok(vec![Some(positive.minus(&negative)?.into()), None])
}

fn cumulative_logsumexp() -> OpDef {
    let def = definition("CumulativeLogsumexp", "T: {bfloat16, half, float, double}")
        .doc("The logarithms of the sums of exponentials of the elements up to each one along an axis.")
        .gradient(log_sum_exp_grad);
    def.sample(|s| {
        let (x, axis) = (s.normal([2, 3])?, s.constant(1i32)?);
        s.op("CumulativeLogsumexp").input(&x).input(&axis).finish()
    })
    .sample(|s| {
        let (x, axis) = (s.normal([3, 2])?, s.constant(0i32)?);
        s.op("CumulativeLogsumexp")
            .input(&x)
            .input(&axis)
            .attr("reverse", true)
            .finish()
    })
}

register_ops!(cumsum, cumprod, cumulative_logsumexp);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    fn scan(op: &str, x: impl Into<Tensor>, axis: i32, exclusive: bool, reverse: bool) -> actorflow_core::Output {
        let g = Graph::new();
        let (x, axis) = (g.constant(x).unwrap(), g.constant(axis).unwrap());
        let b = g.op(op).input(&x).input(&axis);
        b.attr("exclusive", exclusive)
            .attr("reverse", reverse)
            .output()
            .unwrap()
    }

    #[test]
    fn sums_and_products_run_along_any_axis_in_both_directions() {
        let x = [[1i32, 2, 3], [4, 5, 6]];
        for (axis, exclusive, reverse, want) in [
            (1, false, false, [[1, 3, 6], [4, 9, 15]]),
            (-1, true, false, [[0, 1, 3], [0, 4, 9]]),
            (1, false, true, [[6, 5, 3], [15, 11, 6]]),
            (0, false, false, [[1, 2, 3], [5, 7, 9]]),
            (0, true, true, [[4, 5, 6], [0, 0, 0]]),
            (0, true, false, [[0, 0, 0], [1, 2, 3]]),
        ] {
            assert_eq!(eval(&scan("Cumsum", x, axis, exclusive, reverse)), Tensor::from(want));
        }
        assert_eq!(
            eval(&scan("Cumprod", x, 0, false, true)),
            Tensor::from([[4, 10, 18], [4, 5, 6]])
        );
        let empty = Tensor::zeros(actorflow_core::DType::F32, [0, 3]).unwrap();
        assert_eq!(eval(&scan("Cumsum", empty.clone(), 0, false, false)), empty);
    }

    #[test]
    fn logarithms_of_sums_do_not_overflow() {
        let inf = f32::INFINITY;
        let y = eval(&scan(
            "CumulativeLogsumexp",
            [-inf, 1.0, 1000.0, 1000.0],
            0,
            false,
            false,
        ));
        assert_eq!(y, Tensor::from([-inf, 1.0, 1000.0, (1000.0 + 2f64.ln()) as f32]));
        let y = eval(&scan("CumulativeLogsumexp", [1.0f64, 2.0], 0, true, false))
            .to_vec::<f64>()
            .unwrap();
        assert_eq!(y, [f64::NEG_INFINITY, 1.0]);
        let y = eval(&scan("CumulativeLogsumexp", [inf, f32::NAN, 2.0], 0, false, false))
            .to_vec::<f32>()
            .unwrap();
        assert!(y[0] == inf && y[1].is_nan() && y[2].is_nan());
    }

    #[test]
    fn an_axis_out_of_range_is_named() {
        assert!(
            fails(&scan("Cumsum", [1.0f32], 1, false, false))
                .message()
                .contains("range [-1, 1), but got 1")
        );
        assert!(
            fails(&scan("Cumsum", 1.0f32, 0, false, false))
                .message()
                .contains("got 0")
        );
    }
}
