//! `SoftmaxCrossEntropyWithLogits`, `SparseSoftmaxCrossEntropyWithLogits`.
//!
//! One pass over the logits gives the loss and its gradient.
#![forbid(unsafe_code)]

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext, unbroadcast};
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Output, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::rows::{BLOCK_ROWS, Divide, Float, Real, Shift, Sums, block_rows, float_kernel, rows_of, sum_row, writable};
use crate::math::madd::Madd;
use crate::spread;
use crate::wide::Work;

/// For each row of logits less their maximum and of labels: sum(labels * row) and sum(labels).
struct Weigh<'a, T> {
    rows: &'a [T],
    labels: &'a [T],
    linear: &'a mut [T],
    total: &'a mut [T],
}

impl<T: Real> Work for Weigh<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        const LANES: usize = 16;
        let columns = self.rows.len() / self.linear.len();
        let rows = self.rows.chunks_exact(columns).zip(self.labels.chunks_exact(columns));
        for ((x, y), (linear, total)) in rows.zip(self.linear.iter_mut().zip(self.total)) {
            let (mut lin, mut tot) = ([T::ZERO; LANES], [T::ZERO; LANES]);
            let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
            for (x, y) in x.iter().zip(y) {
                for i in 0..LANES {
                    lin[i] = lin[i] + y[i] * x[i];
                    tot[i] = tot[i] + y[i];
                }
            }
            let (mut l, mut t) = match x.is_empty() {
                true => (T::ZERO, T::ZERO),
                false => (sum_row(&lin), sum_row(&tot)),
            };
            for (x, y) in x_rest.iter().zip(y_rest) {
                l = l + *y * *x;
                t = t + *y;
            }
            (*linear, *total) = (l, t);
        }
    }
}

/// `rows` holds logits and becomes softmax - labels; the losses are -sum(labels * log(softmax)).
fn dense_rows<T: Real>(rows: &mut [T], labels: &[T], losses: &mut [T], columns: usize) {
    let block = block_rows(columns);
    let blocks = rows.chunks_mut(block * columns).zip(labels.chunks(block * columns));
    for ((rows, labels), linear) in blocks.zip(losses.chunks_mut(block)) {
        let (mut sums, mut total) = ([T::ZERO; BLOCK_ROWS], [T::ZERO; BLOCK_ROWS]);
        let (sums, total) = (&mut sums[..linear.len()], &mut total[..linear.len()]);
        T::run(Shift { rows, columns });
        T::run(Weigh {
            rows,
            labels,
            linear,
            total,
        });
        T::exp_all(rows);
        T::run(Sums { rows, sums });
        T::run(Divide { rows, sums });
        rows.iter_mut().zip(labels).for_each(|(x, y)| *x = *x - *y);
        // sum(labels * (log(sum(e)) - (x - max))), with the logarithm taken out of the sum.
        T::log_all(sums);
        for ((loss, log), total) in linear.iter_mut().zip(sums).zip(total) {
            *loss = *log * *total - *loss;
        }
    }
}

/// As [`dense_rows`] with one label for each row, the number of its class.
fn sparse_rows<T: Real>(rows: &mut [T], labels: &[usize], losses: &mut [T], columns: usize) {
    let block = block_rows(columns);
    let blocks = rows.chunks_mut(block * columns).zip(labels.chunks(block));
    for ((rows, labels), losses) in blocks.zip(losses.chunks_mut(block)) {
        let mut sums = [T::ZERO; BLOCK_ROWS];
        let sums = &mut sums[..losses.len()];
        T::run(Shift { rows, columns });
        for ((row, label), loss) in rows.chunks_exact(columns).zip(labels).zip(&mut *losses) {
            *loss = row[*label];
        }
        T::exp_all(rows);
        T::run(Sums { rows, sums });
        T::run(Divide { rows, sums });
        for (row, label) in rows.chunks_exact_mut(columns).zip(labels) {
            row[*label] = row[*label] - T::ONE;
        }
        T::log_all(sums);
        losses.iter_mut().zip(sums).for_each(|(loss, log)| *loss = *log - *loss);
    }
}

/// `x` in the type it is computed in, repeated to the shape `[rows, columns]`.
fn broadcast<T: Float>(device: &dyn Device, x: &Tensor, shape: &Shape) -> Result<Tensor> {
    let x = T::widened(device, x)?;
    if x.shape() == shape {
        return Ok(x);
    }
    let mut out = Tensor::alloc_in(device.pool(), T::Real::DTYPE, shape.clone())?;
    let (rows, columns) = (shape[0], shape[1]);
    let (own_columns, own_rows) = match *x.shape().dims() {
        [] => (1, 1),
        [c] => (c, 1),
        [r, c, ..] => (c, r),
    };
    let from = x.as_slice::<T::Real>()?;
    let out_all = writable::<T::Real>(&mut out)?;
    if columns > 0 {
        for (i, row) in out_all.chunks_exact_mut(columns).enumerate() {
            let own = if own_rows == rows { i } else { 0 };
            match &from[own * own_columns..][..own_columns] {
                [one] => row.fill(*one),
                all => row.copy_from_slice(all),
            }
        }
    }
    Ok(out)
}

/// The shape of the loss's rows: what both broadcast to, a matrix.
fn matrix_of(logits: &Shape, labels: &Shape) -> Result<Shape> {
    let shape = Shape::broadcast(logits, labels).map_err(|_| {
        Error::invalid(format!(
            "logits and labels must be broadcastable: logits have shape {logits}, labels {labels}"
        ))
    })?;
    if shape.rank() != 2 {
        return Err(Error::invalid(format!(
            "logits and labels must be matrices or broadcast to one: logits have shape {logits}, labels {labels}"
        )));
    }
    Ok(shape)
}

fn dense_kernel<T: Float>(cx: &mut OpContext<'_>) -> Result<()> {
    let shape = matrix_of(cx.input(0)?.shape(), cx.input(1)?.shape())?;
    let device = &*cx.step().device;
    let labels = broadcast::<T>(device, &cx.take_input(1)?, &shape)?;
    let logits = broadcast::<T>(device, &cx.take_input(0)?, &shape)?;
    let mut back = logits.into_unique(device.pool())?;
    let mut loss = cx.alloc(T::Real::DTYPE, [shape[0]])?;
    let losses = writable::<T::Real>(&mut loss)?;
    let columns = shape[1];
    if columns == 0 {
        losses.fill(T::Real::ZERO);
    } else {
        let rows = rows_of(columns);
        let labels = labels.as_slice::<T::Real>()?;
        let back = writable::<T::Real>(&mut back)?;
        spread::chunks2(
            cx.parallel(),
            (losses, rows),
            (back, rows * columns),
            |i, losses, back| {
                let labels = &labels[i * rows * columns..][..back.len()];
                dense_rows(back, labels, losses, columns);
            },
        );
    }
    cx.set_output(0, T::narrowed(device, loss)?);
    cx.set_output(1, T::narrowed(device, back)?);
    Ok(())
}

fn sparse_kernel<T: Float>(cx: &mut OpContext<'_>, labels: &[usize], columns: usize) -> Result<()> {
    let device = &*cx.step().device;
    let logits = T::widened(device, &cx.take_input(0)?)?;
    let mut back = logits.into_unique(device.pool())?;
    let mut loss = cx.alloc(T::Real::DTYPE, [labels.len()])?;
    let rows = rows_of(columns);
    let (losses, all) = (writable::<T::Real>(&mut loss)?, writable::<T::Real>(&mut back)?);
    spread::chunks2(
        cx.parallel(),
        (losses, rows),
        (all, rows * columns),
        |i, losses, back| {
            let labels = &labels[i * rows..][..losses.len()];
            sparse_rows(back, labels, losses, columns);
        },
    );
    cx.set_output(0, T::narrowed(device, loss)?);
    cx.set_output(1, T::narrowed(device, back)?);
    Ok(())
}

/// The labels as positions in rows of `classes` elements.
fn positions<I: Copy + TryInto<i64>>(labels: &[I], classes: usize) -> Result<Vec<usize>> {
    let position = |l: I| {
        l.try_into()
            .ok()
            .and_then(|l| usize::try_from(l).ok())
            .filter(|l| *l < classes)
    };
    let as_i64 = |l: I| l.try_into().unwrap_or(i64::MAX);
    labels
        .iter()
        .map(|&l| {
            position(l).ok_or_else(|| {
                let shown: Vec<String> = labels.iter().take(64).map(|&l| as_i64(l).to_string()).collect();
                Error::invalid(format!(
                    "received a label value of {} which is outside the valid range of [0, {classes}); label values: {}",
                    as_i64(l),
                    shown.join(" ")
                ))
            })
        })
        .collect()
}

fn sparse_checked(cx: &mut OpContext<'_>, run: SparseKernel) -> Result<()> {
    let (logits, labels) = (cx.input(0)?.shape(), cx.input(1)?.shape());
    let [rows, classes] = *logits.dims() else {
        return Err(Error::invalid(format!("logits must be 2-D, but got shape {logits}")));
    };
    if labels.rank() != 1 {
        return Err(Error::invalid(format!("labels must be 1-D, but got shape {labels}")));
    }
    if labels[0] != rows {
        return Err(Error::invalid(format!(
            "logits and labels must have the same first dimension, got logits shape {logits} and labels shape {labels}"
        )));
    }
    if classes == 0 {
        return Err(Error::invalid(format!(
            "must have at least one class, but got logits shape {logits}"
        )));
    }
    let labels = match cx.input(1)?.dtype() {
        DType::I32 => positions(cx.slice::<i32>(1)?, classes)?,
        _ => positions(cx.slice::<i64>(1)?, classes)?,
    };
    run(cx, &labels, classes)
}

type SparseKernel = fn(&mut OpContext<'_>, &[usize], usize) -> Result<()>;

fn sparse_factory(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let run: SparseKernel =
        dispatch!(init.input_types[0], T in floats => sparse_kernel::<T>, else return Err(init.no_kernel()));
    Ok(Box::new(move |cx: &mut OpContext<'_>| sparse_checked(cx, run)))
}

/// `matrix` with row i multiplied by element i of `vector`.
fn scale_rows(vector: &Output, matrix: &Output) -> Result<Output> {
    vector.expand_dims(-1)?.times(matrix)
}

/// The gradient with respect to the logits: of the loss, and of the backprop where something depends on it.
fn logits_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Output> {
    let g = cx.graph();
    let grad = scale_rows(&cx.dense(grads, 0)?, &cx.output(1)?)?;
    let Some(Some(second)) = grads.get(1) else {
        return Ok(grad);
    };
    let (second, softmax) = (second.to_dense()?, cx.input(0)?.softmax()?);
    let product = g
        .op("BatchMatMulV2")
        .input(&second.expand_dims(1)?)
        .input(&softmax.expand_dims(2)?)
        .output()?;
    let through = second.minus(&product.squeeze(&[1])?)?.times(&softmax)?;
    grad.plus(&through)
}

fn dense_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (logits, labels) = (cx.input(0)?, cx.input(1)?);
    let dx = logits_grad(cx, grads)?;
    let mut dy = scale_rows(&cx.dense(grads, 0)?, &logits.log_softmax()?.negated()?)?;
    if let Some(Some(second)) = grads.get(1) {
        // The backprop is softmax - labels. (TensorFlow leaves this part out.)
        dy = dy.minus(&second.to_dense()?)?;
    }
    // Operands that were broadcast get the sum of what their copies get.
    let fit = |d: Output, of: &Output| match (d.shape().to_shape(), of.shape().to_shape()) {
        (Some(a), Some(b)) if a != b => unbroadcast(&d, of, &d),
        _ => Ok(d),
    };
    Ok(vec![Some(fit(dx, &logits)?.into()), Some(fit(dy, &labels)?.into())])
}

fn dense() -> OpDef {
    OpDef::new("SoftmaxCrossEntropyWithLogits", Category::Nn)
        .doc("The cross entropy of each row of labels with the softmax of the logits, and its gradient.")
        .input("features: T")
        .input("labels: T")
        .output("loss: T")
        .output("backprop: T")
        .attr("T: {half, bfloat16, float, double}")
        .shape(|cx| {
            let both = PartialShape::broadcast(&cx.input(0), &cx.input(1))?.with_rank(2)?;
            Ok(vec![both.sub(0, 1), both])
        })
        .gradient(dense_grad)
        .cpu(|init| float_kernel!(init, dense_kernel))
        .sample(|s| {
            let (x, y) = (s.normal([3, 4])?, s.positive([3, 4])?);
            s.op("SoftmaxCrossEntropyWithLogits")
                .input(&x)
                .input(&y.softmax()?)
                .finish()
        })
}

fn sparse() -> OpDef {
    OpDef::new("SparseSoftmaxCrossEntropyWithLogits", Category::Nn)
        .doc("The cross entropy of each row's class, given by its number, with the softmax of the logits, and its gradient.")
        .input("features: T")
        .input("labels: Tlabels")
        .output("loss: T")
        .output("backprop: T")
        .attr("T: {half, bfloat16, float, double}")
        .attr("Tlabels: {int32, int64} = DT_INT64")
        .shape(|cx| {
            let (logits, labels) = (cx.input(0).with_rank(2)?, cx.input(1).with_rank(1)?);
            let rows = logits.sub(0, 1).merge(&labels)?;
            Ok(vec![rows.clone(), logits.with_dim(0, rows.dim(0))])
        })
        .gradient(|cx, dys| Ok(vec![Some(logits_grad(cx, dys)?.into()), None]))
        .cpu(sparse_factory)
        .sample(|s| {
            let x = s.normal([3, 4])?;
            let y = s.constant([2i32, 0, 3])?;
            s.op("SparseSoftmaxCrossEntropyWithLogits").input(&x).input(&y).finish()
        })
}

register_ops!(dense, sparse);

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::error::Result;
    use actorflow_core::{DType, Graph, PartialShape, Tensor};

    /// Runs an op of two inputs whose shapes nothing is known of.
    fn run(op: &str, x: impl Into<Tensor>, y: impl Into<Tensor>) -> Result<Vec<Tensor>> {
        let (g, x, y) = (Graph::new(), x.into(), y.into());
        let px = g.placeholder("x", x.dtype(), PartialShape::UNKNOWN)?;
        let py = g.placeholder("y", y.dtype(), PartialShape::UNKNOWN)?;
        let op = g.op(op).input(&px).input(&py).finish()?;
        Interpreter::default().run(&op.outputs(), &[], &[(px, x), (py, y)])
    }

    const DENSE: &str = "SoftmaxCrossEntropyWithLogits";
    const SPARSE: &str = "SparseSoftmaxCrossEntropyWithLogits";

    fn close(t: &Tensor, want: &[f32]) {
        let got = t.to_vec::<f32>().unwrap();
        assert_eq!(got.len(), want.len());
        for (a, b) in got.iter().zip(want) {
            assert!(
                a == b || (a - b).abs() < 1e-6 || a.is_nan() && b.is_nan(),
                "{got:?} {want:?}"
            );
        }
    }

    #[test]
    fn dense_labels_with_and_without_broadcasting() {
        let (x, y) = ([[1f32, 2.], [3., 4.]], [[0f32, 1.], [1., 0.]]);
        let (p, q) = (0.268_941_42, 0.731_058_6);
        for logits in [Tensor::from(x), Tensor::from([[1f32, 2.]]), Tensor::from([1f32, 2.])] {
            let out = run(DENSE, logits, y).unwrap();
            close(&out[0], &[0.313_261_66, 1.313_261_6]);
            close(&out[1], &[p, -p, -q, q]);
        }
        let out = run(DENSE, x, [[0f32], [1.]]).unwrap();
        close(&out[0], &[0.0, 1.626_523_3]);
        close(&out[1], &[p, q, p - 1.0, q - 1.0]);
    }

    #[test]
    fn infinite_logits_are_as_in_tensorflow() {
        let (i, n) = (f32::INFINITY, f32::NAN);
        let out = run(
            DENSE,
            [[-i, 2.0f32], [-i, 2.0], [i, 4.0]],
            [[0f32, 1.], [1., 0.], [1., 0.]],
        )
        .unwrap();
        close(&out[0], &[n, i, n]);
        close(&out[1], &[0.0, 0.0, -1.0, 1.0, n, n]);
        let out = run(SPARSE, [[n, 2.0f32], [i, 4.0], [-i, 1.0]], [0i32, 0, 0]).unwrap();
        close(&out[0], &[n, n, i]);
        close(&out[1], &[n, n, n, n, -1.0, 1.0]);
    }

    #[test]
    fn sparse_labels_agree_with_dense_ones_for_any_number_of_classes() {
        for n in [1, 5, 10, 16, 31, 100] {
            let x: Vec<f64> = (0..7 * n).map(|i| (i * 31 % 17) as f64 * 0.3).collect();
            let labels: Vec<i64> = (0..7).map(|i| i * 13 % n as i64).collect();
            let mut dense = vec![0f64; 7 * n];
            labels
                .iter()
                .enumerate()
                .for_each(|(r, l)| dense[r * n + *l as usize] = 1.0);
            let x = Tensor::from_slice([7, n], &x).unwrap();
            let a = run(DENSE, &x, Tensor::from_slice([7, n], &dense).unwrap()).unwrap();
            let b = run(SPARSE, &x, labels).unwrap();
            for (a, b) in a.iter().zip(&b) {
                let (a, b) = (a.to_vec::<f64>().unwrap(), b.to_vec::<f64>().unwrap());
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-14), "{n}: {a:?} {b:?}");
            }
        }
    }

    #[test]
    fn bad_labels_and_shapes_are_refused() {
        let x = [[1f32, 2.], [3., 4.]];
        for bad in [2i32, -1] {
            let e = run(SPARSE, x, [0i32, bad]).unwrap_err();
            assert!(e.message().contains(&format!("label value of {bad}")), "{e}");
        }
        assert!(run(SPARSE, x, [0i32]).is_err());
        assert!(run(SPARSE, x, [[0i32], [1]]).is_err());
        assert!(run(SPARSE, [1f32, 2.], 0i32).is_err());
        assert!(run(SPARSE, Tensor::zeros(DType::F32, [2, 0]).unwrap(), [0i32, 0]).is_err());
        assert!(run(DENSE, x, [[1f32, 2., 3.], [1., 2., 3.]]).is_err());
        assert!(run(DENSE, [1f32, 2.], [0f32, 1.]).is_err());
        let none = Tensor::zeros(DType::F32, [2, 0]).unwrap();
        close(&run(DENSE, &none, &none).unwrap()[0], &[0.0, 0.0]);
        let none = Tensor::zeros(DType::F32, [0, 2]).unwrap();
        assert_eq!(
            run(SPARSE, &none, Tensor::vector::<i64>(&[])).unwrap()[1]
                .shape()
                .dims(),
            [0, 2]
        );
    }
}
