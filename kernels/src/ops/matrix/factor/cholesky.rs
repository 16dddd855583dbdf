//! `Cholesky`, `CholeskyGrad`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Output, dispatch, register_ops};

use super::inverse::sample_matrix;
use super::solve::solving;
use super::{Entry, Factor, TYPES, adjoint, band, factoring, set_diag, square_shape, times};
use crate::linalg::{self, Num};

struct Cholesky;

impl Factor for Cholesky {
    const SQUARE: bool = true;

    fn results(&self, m: usize, n: usize) -> Vec<Option<Vec<usize>>> {
        vec![Some(vec![m, n])]
    }

    fn run<W: Num>(&self, a: &[W], n: usize, _: usize, out: &mut [W]) -> Result<()> {
        match linalg::cholesky(a, n) {
            Some(l) => out.copy_from_slice(&l),
            // The other matrices of a batch are none the worse.
            None => out
                .iter_mut()
                .enumerate()
                .for_each(|(i, o)| *o = if i % n <= i / n { W::real(f64::NAN) } else { W::ZERO }),
        }
        Ok(())
    }
}

/// The solution of a triangular system with every matrix lower.
fn lower_solve(l: &Output, b: &Output, adjoint: bool) -> Result<Output> {
    l.graph()
        .op("MatrixTriangularSolve")
        .input(l)
        .input(b)
        .attr("lower", true)
        .attr("adjoint", adjoint)
        .output()
}

/// L^-H (tril(L^H dL) with half the diagonal) L^-1, made symmetric (Murray 2016).
fn cholesky_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (l, dl) = (cx.output(0)?, cx.dense(grads, 0)?);
    let middle = times(&l, &dl, true, false)?;
    let diagonal = middle.unary("MatrixDiagPart")?;
    let middle = set_diag(&middle, &diagonal.times(&diagonal.scalar_like(0.5)?)?)?;
    let middle = band(&middle, -1, 0)?;
    let left = lower_solve(&l, &middle, true)?;
    let both = adjoint(&lower_solve(&l, &adjoint(&left)?, true)?)?;
    let symmetric = both.plus(&adjoint(&both)?)?;
    Ok(vec![Some(symmetric.times(&symmetric.scalar_like(0.5)?)?.into())])
}

pub(in crate::ops::matrix) fn cholesky() -> OpDef {
    OpDef::new("Cholesky", Category::Matrix)
        .doc("The lower triangular L with L L^H = input, for positive definite matrices; the upper triangle is not read.")
        .input("input: T")
        .output("output: T")
        .attr(TYPES)
        .shape(|cx| Ok(vec![square_shape(cx, 0)?]))
        .gradient(cholesky_grad)
        .cpu(|init| factoring(Cholesky, init))
        .sample(|s| {
            // The gradient is that of a symmetric matrix, so the input is made one.
            let x = sample_matrix(s, 3)?;
            let symmetric = x.plus(&adjoint(&x)?)?;
            s.op("Cholesky").input(&symmetric).finish()
        })
}

fn grad_all<T: Entry>(cx: &mut OpContext<'_>) -> Result<()> {
    solving::<T>(cx, |l, n, grad, k, out| {
        if n != k {
            return Err(Error::invalid("l and grad must have the same shape"));
        }
        out.copy_from_slice(&linalg::cholesky_gradient(l, grad, n));
        Ok(())
    })
}

fn grad_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    dispatch!(init.input_types[0], T in [F16, F32, F64] => Ok(Box::new(grad_all::<T>)), else Err(init.no_kernel()))
}

pub(in crate::ops::matrix) fn cholesky_grad_op() -> OpDef {
    OpDef::new("CholeskyGrad", Category::Matrix)
        .doc("The gradient of Cholesky with respect to its input, from the factor and the factor's gradient.")
        .input("l: T")
        .input("grad: T")
        .output("output: T")
        .attr("T: {half, float, double}")
        .shape(|cx| Ok(vec![square_shape(cx, 0)?.merge(&cx.input(1))?]))
        .cpu(grad_kernel)
}

register_ops!(cholesky, cholesky_grad_op);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::gradient::gradients;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn positive_definite_matrices_are_factored() {
        let g = Graph::new();
        let x = g.constant([[4f32, 99.], [2., 5.]]).unwrap();
        assert_eq!(
            eval(&x.unary("Cholesky").unwrap()),
            Tensor::from([[2f32, 0.], [1., 2.]])
        );
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factor() {
        let g = Graph::new();
        let x = g.constant(Tensor::from_slice([2, 2, 2], &[1f32, 2., 2., 1., 4., 0., 2., 5.]).unwrap());
        let l = eval(&x.unwrap().unary("Cholesky").unwrap()).to_vec::<f32>().unwrap();
        assert!(l[0].is_nan() && l[1] == 0.0 && l[2].is_nan() && l[3].is_nan(), "{l:?}");
        assert_eq!(l[4..], [2., 0., 1., 2.]);
    }

    #[test]
    fn the_gradient_agrees_with_differences_and_with_its_operation() {
        let g = Graph::new();
        let a = [[4.0, 1.0, 0.5], [1.0, 3.0, -0.4], [0.5, -0.4, 2.0f64]];
        let x = g.constant(a).unwrap();
        let w = g
            .constant([[1.0, 0.0, 0.0], [2.0, -1.0, 0.0], [0.5, 3.0, 1.5f64]])
            .unwrap();
        let l = x.unary("Cholesky").unwrap();
        let loss = l.times(&w).unwrap().sum(&[0, 1], false).unwrap();
        let dx = gradients(std::slice::from_ref(&loss), std::slice::from_ref(&x)).unwrap()[0]
            .clone()
            .unwrap()
            .to_dense()
            .unwrap();
        let op = g.op("CholeskyGrad").input(&l).input(&w).output().unwrap();
        let run = Interpreter::default();
        let got = run.run(&[dx, op], &[], &[]).unwrap();
        let (got, by_op) = (got[0].to_vec::<f64>().unwrap(), got[1].to_vec::<f64>().unwrap());
        for i in 0..3 {
            for j in 0..3 {
                // Both of a symmetric pair move.
                let at = |h: f64| {
                    let mut m = a;
                    m[i][j] += h;
                    m[j][i] = m[i][j];
                    let feed = [(x.clone(), Tensor::from(m))];
                    run.run(std::slice::from_ref(&loss), &[], &feed).unwrap()[0]
                        .to_scalar::<f64>()
                        .unwrap()
                };
                let want = (at(1e-5) - at(-1e-5)) / 2e-5 * if i == j { 1.0 } else { 0.5 };
                assert!((got[3 * i + j] - want).abs() < 1e-7, "{i} {j}: {got:?} {want}");
                assert!((by_op[3 * i + j] - want).abs() < 1e-7, "{i} {j}: {by_op:?} {want}");
            }
        }
    }
}
