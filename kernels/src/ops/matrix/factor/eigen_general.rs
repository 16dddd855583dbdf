//! `Eig`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Operation, Output, PartialShape, Shape, Tensor, dispatch, register_ops};
use num_complex::Complex;

use super::{Entry, adjoint, batched, reciprocal_differences, square, square_shape, times, widened};
use crate::linalg::{Num, Schur, general_eigen};

type C = Complex<f64>;

fn decompose<T: Entry, R: Entry<Wide = C>>(cx: &mut OpContext<'_>, vectors: bool) -> Result<()> {
    let device = &*cx.step().device;
    let input = cx.input(0)?;
    let shape = input.shape().clone();
    let (batch, n) = square(&shape)?;
    let count: usize = batch.iter().product();
    let wide = widened::<T>(device, input)?;
    let a = wide.as_slice::<T::Wide>()?;
    // Values and vectors of a matrix one after the other.
    let step = if vectors { n + n * n } else { n };
    let total = Shape::new(&[count, step]).checked_count()?;
    let mut all = Vec::new();
    all.try_reserve_exact(total)
        .map_err(|_| Error::exhausted(format!("there is no memory for {total} complex numbers")))?;
    all.resize(total, C::default());
    batched(cx.parallel(), &mut all, step, 25 * n * n * n, |i, out| {
        let a = &a[i * n * n..][..n * n];
        let found = match T::DTYPE.is_complex() {
            true => Schur::of(a, n).map(|s| s.eigen()),
            false => general_eigen(&a.iter().map(|x| x.re()).collect::<Vec<_>>(), n),
        };
        let (values, columns) = found.ok_or_else(|| {
            Error::invalid("Eigen decomposition was not successful: the input has elements that are not finite")
        })?;
        out[..n].copy_from_slice(&values);
        if vectors {
            out[n..].copy_from_slice(&columns);
        }
        Ok(())
    })?;
    let part = |shape: Shape, from: usize, len: usize| -> Result<_> {
        let mut out = cx.alloc(R::DTYPE, shape)?;
        let to = out
            .as_mut_slice::<R>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        if len > 0 {
            for (to, all) in to.chunks_mut(len).zip(all.chunks(step)) {
                to.iter_mut().zip(&all[from..]).for_each(|(t, x)| *t = R::narrow(*x));
            }
        }
        Ok(out)
    };
    let values = part(batch.iter().copied().chain([n]).collect(), 0, n)?;
    let columns = match vectors {
        true => part(shape, n, n * n)?,
        false => part(Shape::new(&[0]), 0, 0)?,
    };
    cx.set_output(0, values);
    cx.set_output(1, columns);
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let vectors = init.attrs.bool("compute_v")?;
    dispatch!(init.input_types[0], T in [F32, F64, C64, C128] => {
        dispatch!(init.output_types[0], R in [C64, C128] => {
            Ok(Box::new(move |cx: &mut OpContext<'_>| decompose::<T, R>(cx, vectors)))
        }, else Err(init.no_kernel()))
    }, else Err(init.no_kernel()))
}

fn solve(a: &Output, b: &Output) -> Result<Output> {
    a.graph().op("MatrixSolve").input(a).input(b).output()
}

/// As TensorFlow's `_EigGrad` (Boeddeker et al., arXiv:1701.00392, 4.77): infinite where eigenvalues coincide.
fn eig_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let a = cx.input(0)?;
    let diagonal = cx.dense(grads, 0)?.unary("MatrixDiag")?;
    let (v, inner) = if cx.attrs().bool("compute_v")? {
        let (e, v) = (cx.output(0)?, cx.output(1)?);
        let f = reciprocal_differences(&e)?.conj_op()?;
        let turned = times(&v, &cx.dense(grads, 1)?, true, false)?;
        // Vectors keep their length.
        let part = if turned.dtype() == DType::C64 {
            DType::F32
        } else {
            DType::F64
        };
        let along = turned.unary("MatrixDiagPart")?;
        let along = cx.graph().op("Real").input(&along).attr("Tout", part).output()?;
        let along = along.cast(turned.dtype())?.unary("MatrixDiag")?;
        let across = turned.minus(&times(&times(&v, &v, true, false)?, &along, false, false)?)?;
        (v, diagonal.plus(&f.times(&across)?)?)
    } else {
        let again = cx.graph().op("Eig").input(&a).attr("Tout", cx.output(0)?.dtype());
        (again.finish()?.output(1)?, diagonal)
    };
    let vt = adjoint(&v)?;
    let da = solve(&vt, &times(&inner, &vt, false, false)?)?;
    Ok(vec![Some(da.cast(a.dtype())?.into())])
}

/// The real parts of the values, or the sizes of the vectors' elements, whose phases are of no importance; values far apart.
fn sample(s: &mut Sampler, vectors: bool) -> Result<Operation> {
    let values: Vec<f64> = (0..9)
        .map(|i| s.number(-0.7, 0.7) + if i % 4 == 0 { f64::from(i) } else { 0.0 })
        .collect();
    let x = s.input(Tensor::from_slice([3, 3], &values)?)?;
    let node = s
        .op("Eig")
        .input(&x)
        .attr("compute_v", vectors)
        .attr("Tout", DType::C128);
    let (op, part) = (node.finish()?, if vectors { "ComplexAbs" } else { "Real" });
    let part = s.op(part).input(&op.output(usize::from(vectors))?);
    part.attr("T", DType::C128).attr("Tout", DType::F64).finish()
}

fn eig() -> OpDef {
    OpDef::new("Eig", Category::Matrix)
        .doc("Eigenvalues and eigenvectors (columns of length 1) of square matrices; of complex ones, values of ascending magnitude.")
        .input("input: T")
        .output("e: Tout")
        .output("v: Tout")
        .attr("compute_v: bool = true")
        .attr("T: {float, double, complex64, complex128}")
        .attr("Tout: {complex64, complex128}")
        .shape(|cx| {
            let shape = square_shape(cx, 0)?;
            let values = match shape.rank() {
                Some(rank) => shape.sub(0, rank - 1),
                None => PartialShape::UNKNOWN,
            };
            let vectors = match cx.attrs().bool("compute_v")? {
                true => shape,
                false => PartialShape::from([0]),
            };
            Ok(vec![values, vectors])
        })
        .gradient(eig_grad)
        .cpu(kernel)
        .sample(|s| sample(s, false))
        .sample(|s| sample(s, true))
}

register_ops!(eig);

#[cfg(test)]
mod tests {
    use super::C;
    use crate::testing::{Interpreter, fails};
    use actorflow_core::{DType, Graph, Operation, Tensor};

    fn eig(g: &Graph, x: impl Into<Tensor>, vectors: bool) -> Operation {
        let node = g.op("Eig").input(&g.constant(x).unwrap());
        node.attr("compute_v", vectors)
            .attr("Tout", DType::C128)
            .finish()
            .unwrap()
    }

    #[test]
    fn real_matrices_have_complex_values_and_vectors_scaled_by_them() {
        let g = Graph::new();
        let x = [[0f64, 1.], [-1., 0.]];
        let out = Interpreter::default()
            .run(&eig(&g, x, true).outputs(), &[], &[])
            .unwrap();
        let (e, v) = (out[0].to_vec::<C>().unwrap(), out[1].to_vec::<C>().unwrap());
        assert!((e[0] * e[1] - C::ONE).norm() < 1e-14 && (e[0] + e[1]).norm() < 1e-14);
        for k in 0..2 {
            assert!((v[2 + k] - e[k] * v[k]).norm() < 1e-14 && (-v[k] - e[k] * v[2 + k]).norm() < 1e-14);
        }
    }

    #[test]
    fn vectors_may_be_left_out_and_what_is_not_finite_is_refused() {
        let g = Graph::new();
        let x = Tensor::from_slice([2, 1, 1], &[3.0f64, -2.0]).unwrap();
        let out = Interpreter::default()
            .run(&eig(&g, x, false).outputs(), &[], &[])
            .unwrap();
        assert_eq!(out[0].to_vec::<C>().unwrap(), [C::new(3.0, 0.0), C::new(-2.0, 0.0)]);
        assert_eq!((out[0].shape().dims(), out[1].shape().dims()), (&[2, 1][..], &[0][..]));
        let bad = eig(&g, [[f64::NAN]], true).output(0).unwrap();
        assert!(fails(&bad).message().contains("not successful"));
        let none = eig(&g, Tensor::zeros(DType::F64, [2, 0, 0]).unwrap(), true);
        let out = Interpreter::default().run(&none.outputs(), &[], &[]).unwrap();
        assert_eq!(out[1].shape().dims(), [2, 0, 0]);
    }
}
