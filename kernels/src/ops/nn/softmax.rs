//! `Softmax`, `LogSoftmax`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::rows::{BLOCK_ROWS, Divide, Float, Real, Shift, Sums, block_rows, float_kernel, rows_of, writable};
use crate::spread;

/// Replaces each row by its softmax.
fn softmax_rows<T: Real>(rows: &mut [T], columns: usize) {
    for rows in rows.chunks_mut(block_rows(columns) * columns) {
        let mut sums = [T::ZERO; BLOCK_ROWS];
        let sums = &mut sums[..rows.len() / columns];
        T::run(Shift { rows, columns });
        T::exp_all(rows);
        T::run(Sums { rows, sums });
        T::run(Divide { rows, sums });
    }
}

/// Replaces each row by the logarithm of its softmax.
fn log_softmax_rows<T: Real>(rows: &mut [T], columns: usize) {
    let mut powers = Vec::new();
    for rows in rows.chunks_mut(block_rows(columns) * columns) {
        let mut sums = [T::ZERO; BLOCK_ROWS];
        let sums = &mut sums[..rows.len() / columns];
        T::run(Shift { rows, columns });
        powers.clear();
        powers.extend_from_slice(rows);
        T::exp_all(&mut powers);
        T::run(Sums { rows: &powers, sums });
        T::log_all(sums);
        for (row, log) in rows.chunks_exact_mut(columns).zip(&*sums) {
            row.iter_mut().for_each(|x| *x = *x - *log);
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
                log_softmax_rows(rows, columns);
            } else {
                softmax_rows(rows, columns);
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
