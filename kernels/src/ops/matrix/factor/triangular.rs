//! `MatrixTriangularSolve`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, Shape, dispatch, register_ops};

use super::inverse::sample_matrix;
use super::solve::{matrix_grad, write};
use super::{Entry, band, matrices, square, square_shape, widened};
use crate::linalg::Triangular;
use crate::ops::matrix::batch_matmul::{fit, offsets};

fn solve_all<T: Entry>(cx: &mut OpContext<'_>, lower: bool, adjoint: bool) -> Result<()> {
    let device = &*cx.step().device;
    let (sa, sb) = (cx.input(0)?.shape(), cx.input(1)?.shape());
    let (batch_a, n) = square(sa)?;
    let (batch_b, m, k) = matrices(sb)?;
    if m != n {
        return Err(Error::invalid(format!(
            "matrix and right-hand side are incompatible: they have shapes {sa} and {sb}"
        )));
    }
    let batch = Shape::broadcast(&Shape::new(batch_a), &Shape::new(batch_b))
        .map_err(|_| Error::invalid(format!("batch dimensions of {sa} and {sb} do not broadcast")))?;
    let (from_a, from_b) = (offsets(batch_a, &batch, n * n), offsets(batch_b, &batch, n * k));
    let shape: Shape = batch.iter().copied().chain([n, k]).collect();
    shape.checked_count()?;
    let (a, b) = (widened::<T>(device, cx.input(0)?)?, widened::<T>(device, cx.input(1)?)?);
    let (a, b) = (a.as_slice::<T::Wide>()?, b.as_slice::<T::Wide>()?);
    write::<T>(cx, shape, n * k, n * n * k, |i, out| {
        let a = &a[from_a[i]..][..n * n];
        out.copy_from_slice(&b[from_b[i]..][..n * k]);
        let unit = false;
        Triangular {
            a,
            n,
            lower,
            adjoint,
            unit,
        }
        .solve(out, k);
        Ok(())
    })
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (lower, adjoint) = (init.attrs.bool("lower")?, init.attrs.bool("adjoint")?);
    dispatch!(init.input_types[0], T in [F16, BF16, F32, F64, C64, C128] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| solve_all::<T>(cx, lower, adjoint)))
    }, else Err(init.no_kernel()))
}

fn solve_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (lower, adjoint) = (cx.attrs().bool("lower")?, cx.attrs().bool("adjoint")?);
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let db = cx
        .graph()
        .op("MatrixTriangularSolve")
        .input(&a)
        .input(&cx.dense(grads, 0)?)
        .attr("lower", lower)
        .attr("adjoint", !adjoint)
        .output()?;
    let da = matrix_grad(&cx.output(0)?, &db, adjoint)?;
    let da = if lower { band(&da, -1, 0)? } else { band(&da, 0, -1)? };
    Ok(vec![Some(fit(&da, &a, &b)?.into()), Some(fit(&db, &b, &a)?.into())])
}

fn sample(s: &mut Sampler, lower: bool, adjoint: bool, batch: &[usize]) -> Result<Operation> {
    let a = sample_matrix(s, 3)?;
    let shape: Shape = batch.iter().copied().chain([3, 2]).collect();
    let b = s.normal(shape)?;
    s.op("MatrixTriangularSolve")
        .input(&a)
        .input(&b)
        .attr("lower", lower)
        .attr("adjoint", adjoint)
        .finish()
}

pub(in crate::ops::matrix) fn triangular_solve() -> OpDef {
    OpDef::new("MatrixTriangularSolve", Category::Matrix)
        .doc("The solutions of systems with triangular matrices, or with their adjoints; batch dimensions broadcast.")
        .input("matrix: T")
        .input("rhs: T")
        .output("output: T")
        .attr("lower: bool = true")
        .attr("adjoint: bool = false")
        .attr("T: {bfloat16, double, float, half, complex64, complex128}")
        .shape(|cx| {
            let (a, b) = (square_shape(cx, 0)?, cx.input(1).with_rank_at_least(2)?);
            let (Some(ra), Some(rb)) = (a.rank(), b.rank()) else {
                return Ok(vec![PartialShape::UNKNOWN]);
            };
            let rows = a.sub(ra - 1, ra).merge(&b.sub(rb - 2, rb - 1))?;
            let batch = PartialShape::broadcast(&a.sub(0, ra - 2), &b.sub(0, rb - 2))?;
            Ok(vec![batch.concat(&rows).concat(&b.sub(rb - 1, rb))])
        })
        .gradient(solve_grad)
        .cpu(kernel)
        .sample(|s| sample(s, true, false, &[]))
        .sample(|s| sample(s, true, true, &[]))
        .sample(|s| sample(s, false, false, &[2]))
        .sample(|s| sample(s, false, true, &[]))
}

register_ops!(triangular_solve);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn only_one_triangle_is_read() {
        let g = Graph::new();
        let a = g.constant([[2f32, 8.], [1., 4.]]).unwrap();
        let b = g.constant([[2f32], [5.]]).unwrap();
        let solve = |lower: bool, adjoint: bool| {
            let node = g.op("MatrixTriangularSolve").input(&a).input(&b);
            eval(&node.attr("lower", lower).attr("adjoint", adjoint).output().unwrap())
        };
        assert_eq!(solve(true, false), Tensor::from([[1f32], [1.]]));
        assert_eq!(solve(true, true), Tensor::from([[0.375f32], [1.25]]));
        assert_eq!(solve(false, false), Tensor::from([[-4f32], [1.25]]));
        let zero = g.constant([[0f32, 1.], [1., 1.]]).unwrap();
        let bad = g.op("MatrixTriangularSolve").input(&zero).input(&b).output().unwrap();
        // As TensorFlow: dividing by a zero of the diagonal is no error.
        assert!(!eval(&bad).to_vec::<f32>().unwrap()[0].is_finite());
    }
}
