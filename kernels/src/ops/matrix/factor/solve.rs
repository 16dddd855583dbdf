//! `MatrixSolve`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, dispatch, register_ops};

use super::inverse::sample_matrix;
use super::{Entry, TYPES, batched, matrices, square, square_shape, times, widened};
use crate::linalg;

/// Applies `f(matrix, n, right side, its columns, out)` to inputs 0 and 1, batches of square matrices and of right
/// sides with the same batch dimensions.
pub(super) fn solving<T: Entry>(
    cx: &mut OpContext<'_>,
    f: impl Fn(&[T::Wide], usize, &[T::Wide], usize, &mut [T::Wide]) -> Result<()> + Sync,
) -> Result<()> {
    let device = &*cx.step().device;
    let (sa, sb) = (cx.input(0)?.shape(), cx.input(1)?.shape());
    let (batch, n) = square(sa)?;
    let (other, m, k) = matrices(sb)?;
    if batch != other || m != n {
        return Err(Error::invalid(format!(
            "input matrix and right-hand side are incompatible: they have shapes {sa} and {sb}"
        )));
    }
    let (a, b) = (widened::<T>(device, cx.input(0)?)?, widened::<T>(device, cx.input(1)?)?);
    let (a, b) = (a.as_slice()?, b.as_slice()?);
    let shape: Shape = sb.clone();
    write::<T>(cx, shape, n * k, n * n * (n + k), |i, out| {
        f(&a[i * n * n..][..n * n], n, &b[i * n * k..][..n * k], k, out)
    })
}

/// Sets output 0 to a tensor of this shape whose parts of `len` elements `f` computes.
pub(super) fn write<T: Entry>(
    cx: &mut OpContext<'_>,
    shape: Shape,
    len: usize,
    work: usize,
    f: impl Fn(usize, &mut [T::Wide]) -> Result<()> + Sync,
) -> Result<()> {
    use actorflow_core::dtype::Element;
    let device = &*cx.step().device;
    let mut out = cx.alloc(T::Wide::DTYPE, shape)?;
    let all = out
        .as_mut_slice::<T::Wide>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    batched(cx.parallel(), all, len, work, f)?;
    if T::DTYPE != T::Wide::DTYPE {
        out = super::convert::<T::Wide, T>(device, &out, T::narrow)?;
    }
    cx.set_output(0, out);
    Ok(())
}

fn solve_all<T: Entry>(cx: &mut OpContext<'_>, adjoint: bool) -> Result<()> {
    solving::<T>(cx, |a, n, b, k, out| {
        let f = linalg::lu(a, n);
        if f.is_singular() {
            return Err(Error::invalid("input matrix is not invertible"));
        }
        out.copy_from_slice(&f.solve(b, k, adjoint));
        Ok(())
    })
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let adjoint = init.attrs.bool("adjoint")?;
    dispatch!(init.input_types[0], T in [F16, F32, F64, C64, C128] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| solve_all::<T>(cx, adjoint)))
    }, else Err(init.no_kernel()))
}

/// The gradient with respect to the matrix of a solution `x`, from that with respect to the right side.
pub(super) fn matrix_grad(x: &Output, grad_rhs: &Output, adjoint: bool) -> Result<Output> {
    match adjoint {
        true => times(x, grad_rhs, false, true)?.negated(),
        false => times(grad_rhs, x, false, true)?.negated(),
    }
}

fn solve_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let adjoint = cx.attrs().bool("adjoint")?;
    let db = cx
        .graph()
        .op("MatrixSolve")
        .input(&cx.input(0)?)
        .input(&cx.dense(grads, 0)?)
        .attr("adjoint", !adjoint)
        .output()?;
    let da = matrix_grad(&cx.output(0)?, &db, adjoint)?;
    Ok(vec![Some(da.into()), Some(db.into())])
}

fn sample(s: &mut Sampler, adjoint: bool) -> Result<Operation> {
    let (a, b) = (sample_matrix(s, 3)?, s.normal([3, 2])?);
    s.op("MatrixSolve")
        .input(&a)
        .input(&b)
        .attr("adjoint", adjoint)
        .finish()
}

pub(in crate::ops::matrix) fn solve() -> OpDef {
    OpDef::new("MatrixSolve", Category::Matrix)
        .doc("The solutions of systems of linear equations with square matrices, or with their adjoints.")
        .input("matrix: T")
        .input("rhs: T")
        .output("output: T")
        .attr("adjoint: bool = false")
        .attr(TYPES)
        .shape(|cx| {
            let (a, b) = (square_shape(cx, 0)?, cx.input(1).with_rank_at_least(2)?);
            let (Some(rank), Some(other)) = (a.rank(), b.rank()) else {
                return Ok(vec![PartialShape::UNKNOWN]);
            };
            let rows = a.sub(0, rank - 1).merge(&b.sub(0, other - 1))?;
            Ok(vec![rows.concat(&b.sub(other - 1, other))])
        })
        .gradient(solve_grad)
        .cpu(kernel)
        .sample(|s| sample(s, false))
        .sample(|s| sample(s, true))
}

register_ops!(solve);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Tensor};
    use num_complex::Complex;

    #[test]
    fn systems_are_solved() {
        let g = Graph::new();
        let (a, b) = (
            g.constant([[0f32, 2.], [4., 0.]]).unwrap(),
            g.constant([[2f32], [8.]]).unwrap(),
        );
        let x = g.op("MatrixSolve").input(&a).input(&b).output().unwrap();
        assert_eq!(eval(&x), Tensor::from([[2f32], [1.]]));
        let i = Complex::new(0f32, 1.0);
        let (a, b) = (g.constant([[i]]).unwrap(), g.constant([[i * i]]).unwrap());
        let x = g
            .op("MatrixSolve")
            .input(&a)
            .input(&b)
            .attr("adjoint", true)
            .output()
            .unwrap();
        assert_eq!(eval(&x), Tensor::from([[-i]]));
        let (a, b) = (
            g.constant([[1f64, 1.], [1., 1.]]).unwrap(),
            g.constant([[1f64], [1.]]).unwrap(),
        );
        let e = fails(&g.op("MatrixSolve").input(&a).input(&b).output().unwrap());
        assert_eq!(e.code(), Code::InvalidArgument);
        assert!(
            g.op("MatrixSolve")
                .input(&a)
                .input(&g.constant([[1f64]]).unwrap())
                .output()
                .is_err()
        );
    }
}
