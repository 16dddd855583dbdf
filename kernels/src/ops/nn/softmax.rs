//! `Softmax`, `LogSoftmax`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::rows::{Float, LANES, Real, float_kernel, largest, padded, rows_of, sum_of, writable};
use crate::math::madd::Madd;
use crate::spread;
use crate::wide::Work;

/// Replaces each row by its softmax.
struct Softmax<'a, T> {
    rows: &'a mut [T],
    columns: usize,
}

/// Replaces each row by the logarithm of its softmax.
struct LogSoftmax<'a, T> {
    rows: &'a mut [T],
    columns: usize,
}

/// Replaces each element of a row by e^(x - max) and returns their sum.
#[inline(always)]
pub(super) fn exponentials<T: Real, M: Madd>(row: &mut [T], max: T) -> T {
    let mut sums = [T::ZERO; LANES];
    let (lanes, rest) = row.as_chunks_mut::<LANES>();
    for x in lanes {
        for (s, x) in sums.iter_mut().zip(x) {
            *x = (*x - max).exp::<M>();
            *s = *s + *x;
        }
    }
    if !rest.is_empty() {
        let mut last = padded(rest, T::LEAST);
        for (s, x) in sums.iter_mut().zip(&mut last) {
            *x = (*x - max).exp::<M>();
            *s = *s + *x;
        }
        rest.copy_from_slice(&last[..rest.len()]);
    }
    sum_of(&sums)
}

impl<T: Real> Work for Softmax<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        for row in self.rows.chunks_exact_mut(self.columns) {
            let max = largest(row);
            let scale = T::ONE / exponentials::<T, M>(row, max);
            for x in row {
                *x = *x * scale;
            }
        }
    }
}

impl<T: Real> Work for LogSoftmax<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        for row in self.rows.chunks_exact_mut(self.columns) {
            let max = largest(row);
            let mut sums = [T::ZERO; LANES];
            let (lanes, rest) = row.as_chunks::<LANES>();
            for x in lanes {
                for (s, x) in sums.iter_mut().zip(x) {
                    *s = *s + (*x - max).exp::<M>();
                }
            }
            if !rest.is_empty() {
                for (s, x) in sums.iter_mut().zip(padded(rest, T::LEAST)) {
                    *s = *s + (x - max).exp::<M>();
                }
            }
            let log = sum_of(&sums).log();
            for x in row {
                *x = *x - max - log;
            }
        }
    }
}

fn by_rows<T: Float>(cx: &mut OpContext<'_>, log: bool) -> Result<()> {
    let shape = cx.input(0)?.shape().clone();
    let Some(&columns) = shape.last() else {
        return Err(Error::invalid(format!("logits must have >= 1 dimension, got {shape}")));
    };
    let device = &*cx.step().device;
    // The input is given up before uniqueness is asked for, so that an unshared one is overwritten.
    let logits = T::widened(device, &cx.take_input(0)?)?;
    let mut out = logits.into_unique(device.pool())?;
    if columns > 0 {
        let rows = rows_of(columns) * columns;
        spread::chunks(device.parallel(), writable::<T::Real>(&mut out)?, rows, |_, rows| {
            if log {
                T::Real::run(LogSoftmax { rows, columns });
            } else {
                T::Real::run(Softmax { rows, columns });
            }
        });
    }
    cx.set_output(0, T::narrowed(device, out)?);
    Ok(())
}

fn softmax_kernel<T: Float>(cx: &mut OpContext<'_>) -> Result<()> {
    by_rows::<T>(cx, false)
}

fn log_softmax_kernel<T: Float>(cx: &mut OpContext<'_>) -> Result<()> {
    by_rows::<T>(cx, true)
}

fn definition(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .input("logits: T")
        .attr("T: {half, bfloat16, float, double}")
        .shape(|cx| Ok(vec![cx.input(0).with_rank_at_least(1)?]))
}

/// The gradient of an op whose output is `y`: the softmax itself, or its logarithm.
fn softmax_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (y, dy) = (cx.output(0)?, cx.dense(grads, 0)?);
    let sum = dy.times(&y)?.sum(&[-1], true)?;
    Ok(vec![Some(dy.minus(&sum)?.times(&y)?.into())])
}

fn log_softmax_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dy = cx.dense(grads, 0)?;
    let softmax = cx.output(0)?.exp()?;
    let sum = dy.sum(&[-1], true)?;
    Ok(vec![Some(dy.minus(&sum.times(&softmax)?)?.into())])
}

fn softmax() -> OpDef {
    definition("Softmax")
        .output("softmax: T")
        .doc("e^logits, scaled so that each row (the last dimension) sums to 1.")
        .gradient(softmax_grad)
        .cpu(|init| float_kernel!(init, softmax_kernel))
        .sample(|s| {
            let x = s.normal([2, 3, 5])?;
            s.op("Softmax").input(&x).finish()
        })
}

fn log_softmax() -> OpDef {
    definition("LogSoftmax")
        .output("logsoftmax: T")
        .doc("The logarithm of Softmax, computed without loss.")
        .gradient(log_softmax_grad)
        .cpu(|init| float_kernel!(init, log_softmax_kernel))
        .sample(|s| {
            let x = s.normal([3, 4])?;
            s.op("LogSoftmax").input(&x).finish()
        })
}

register_ops!(softmax, log_softmax);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, PartialShape, Tensor};
    use half::bf16;

    #[test]
    fn rows_sum_to_one_whatever_their_length() {
        let g = Graph::new();
        for n in [1, 2, 10, 16, 17, 33, 1000] {
            let x: Vec<f32> = (0..3 * n).map(|i| ((i * 37 % 101) as f32) * 0.3 - 10.0).collect();
            let t = g.constant(Tensor::from_slice([3, n], &x).unwrap()).unwrap();
            let y = eval(&t.softmax().unwrap()).to_vec::<f32>().unwrap();
            let log = eval(&t.log_softmax().unwrap()).to_vec::<f32>().unwrap();
            for r in 0..3 {
                let row = &x[r * n..][..n];
                let max = row.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
                for (i, v) in row.iter().enumerate() {
                    let want = f64::from(v - max).exp() / sum;
                    assert!((f64::from(y[r * n + i]) - want).abs() < 1e-6, "{n}");
                    assert!((f64::from(log[r * n + i]) - want.ln()).abs() < 1e-5, "{n}");
                }
            }
        }
    }

    #[test]
    fn infinities_and_nan_stay_in_their_row() {
        let g = Graph::new();
        let (n, i) = (f32::NAN, f32::INFINITY);
        let x = g.constant([[n, 1.0], [i, 1.0], [-i, -i], [-i, 1.0]]).unwrap();
        let y = eval(&x.softmax().unwrap()).to_vec::<f32>().unwrap();
        let log = eval(&x.log_softmax().unwrap()).to_vec::<f32>().unwrap();
        assert!(y[..6].iter().chain(&log[..6]).all(|v| v.is_nan()), "{y:?} {log:?}");
        assert_eq!((&y[6..], &log[6..]), (&[0.0, 1.0][..], &[-i, 0.0][..]));
    }

    #[test]
    fn other_types_and_empty_rows() {
        let g = Graph::new();
        let x = g.constant([bf16::ONE; 4]).unwrap();
        assert_eq!(eval(&x.softmax().unwrap()), Tensor::from([bf16::from_f32(0.25); 4]));
        let none = g.constant(Tensor::zeros(DType::F64, [2, 0]).unwrap()).unwrap();
        assert_eq!(eval(&none.softmax().unwrap()).shape().dims(), [2, 0]);
        assert!(g.constant(1f32).unwrap().softmax().is_err());
        let p = g.op("PlaceholderWithDefault").input(&g.constant(1f32).unwrap());
        let p = p.attr("shape", PartialShape::UNKNOWN).output().unwrap();
        assert!(fails(&p.softmax().unwrap()).message().contains(">= 1 dimension"));
    }
}
