//! `BandedTriangularSolve`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::solve::{matrix_grad, write};
use super::{Entry, TYPES, matrices, widened};
use crate::linalg::Num;
use crate::ops::matrix::batch_matmul::{fit, offsets};

/// A triangular matrix with `n` rows by its bands, the rows of `bands`. Of a lower one, the main diagonal is the first row
/// and element `(i, i - d)` is in column `i` of row `d`; of an upper one, the main diagonal is the last row and
/// element `(i, i + d)` in column `i` of the row `d` before it.
struct Bands<'a, W> {
    bands: &'a [W],
    count: usize,
    n: usize,
    lower: bool,
}

impl<W: Num> Bands<'_, W> {
    fn at(&self, i: usize, distance: usize) -> W {
        let row = if self.lower {
            distance
        } else {
            self.count - 1 - distance
        };
        self.bands[row * self.n + i]
    }

    /// Solves for `k` right sides in place, with the matrix or its adjoint.
    fn solve(&self, adjoint: bool, x: &mut [W], k: usize) -> Result<()> {
        let n = self.n;
        if (0..n).any(|i| self.at(i, 0) == W::ZERO) {
            return Err(Error::invalid("input matrix is not invertible"));
        }
        let forward = self.lower != adjoint;
        for step in 0..n {
            let i = if forward { step } else { n - 1 - step };
            let reach = (self.count - 1).min(step);
            for d in 1..=reach {
                let j = if forward { i - d } else { i + d };
                // The adjoint's element (i, j) is the conjugate of (j, i).
                let by = if adjoint { self.at(j, d).conj() } else { self.at(i, d) };
                for c in 0..k {
                    x[i * k + c] = x[i * k + c] - by * x[j * k + c];
                }
            }
            let pivot = self.at(i, 0);
            let pivot = if adjoint { pivot.conj() } else { pivot };
            x[i * k..][..k].iter_mut().for_each(|x| *x = *x / pivot);
        }
        Ok(())
    }
}

fn solve_all<T: Entry>(cx: &mut OpContext<'_>, lower: bool, adjoint: bool) -> Result<()> {
    let device = &*cx.step().device;
    let (sa, sb) = (cx.input(0)?.shape(), cx.input(1)?.shape());
    let ((batch_a, count, n), (batch_b, m, k)) = (matrices(sa)?, matrices(sb)?);
    if sa.count() == 0 || sb.count() == 0 {
        return Err(Error::invalid(format!(
            "bands and right-hand sides must not be empty: they have shapes {sa} and {sb}"
        )));
    }
    if m != n {
        return Err(Error::invalid(format!(
            "bands and right-hand sides are incompatible: they have shapes {sa} and {sb}"
        )));
    }
    let batch = Shape::broadcast(&Shape::new(batch_a), &Shape::new(batch_b))
        .map_err(|_| Error::invalid(format!("batch dimensions of {sa} and {sb} do not broadcast")))?;
    let (from_a, from_b) = (offsets(batch_a, &batch, count * n), offsets(batch_b, &batch, n * k));
    let shape: Shape = batch.iter().copied().chain([n, k]).collect();
    shape.checked_count()?;
    let (a, b) = (widened::<T>(device, cx.input(0)?)?, widened::<T>(device, cx.input(1)?)?);
    let (a, b) = (a.as_slice::<T::Wide>()?, b.as_slice::<T::Wide>()?);
    write::<T>(cx, shape, n * k, count * n * k, |i, out| {
        out.copy_from_slice(&b[from_b[i]..][..n * k]);
        let bands = &a[from_a[i]..][..count * n];
        Bands { bands, count, n, lower }.solve(adjoint, out, k)
    })
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (lower, adjoint) = (init.attrs.bool("lower")?, init.attrs.bool("adjoint")?);
    dispatch!(init.input_types[0], T in [F16, F32, F64, C64, C128] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| solve_all::<T>(cx, lower, adjoint)))
    }, else Err(init.no_kernel()))
}

fn solve_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (lower, adjoint) = (cx.attrs().bool("lower")?, cx.attrs().bool("adjoint")?);
    let (g, a, b) = (cx.graph(), cx.input(0)?, cx.input(1)?);
    let db = g
        .op("BandedTriangularSolve")
        .input(&a)
        .input(&cx.dense(grads, 0)?)
        .attr("lower", lower)
        .attr("adjoint", !adjoint)
        .output()?;
    let da = matrix_grad(&cx.output(0)?, &db, adjoint)?;
    // The bands of the full matrix's gradient.
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    let farthest = a
        .shape_op()?
        .gather(&a.rank_op()?.minus(&g.constant(2i32)?)?, 0)?
        .minus(&one)?;
    let range = match lower {
        true => [farthest.negated()?, zero],
        false => [zero, farthest],
    };
    let da = g
        .op("MatrixDiagPartV3")
        .input(&da)
        .input(&g.stack(&range, 0)?)
        .input(&da.scalar_like(0.0)?)
        .attr("align", "LEFT_RIGHT")
        .output()?;
    Ok(vec![Some(fit(&da, &a, &b)?.into()), Some(fit(&db, &b, &a)?.into())])
}

fn sample(s: &mut Sampler, lower: bool, adjoint: bool, batch: &[usize]) -> Result<Operation> {
    let main = if lower { 0 } else { 1 };
    let values: Vec<f64> = (0..8)
        .map(|i| s.number(-1.0, 1.0) + if i / 4 == main { 3.0 } else { 0.0 })
        .collect();
    let a = s.input(Tensor::from_slice([2, 4], &values)?)?;
    let b = s.normal(batch.iter().copied().chain([4, 2]).collect::<Shape>())?;
    s.op("BandedTriangularSolve")
        .input(&a)
        .input(&b)
        .attr("lower", lower)
        .attr("adjoint", adjoint)
        .finish()
}

fn banded_triangular_solve() -> OpDef {
    OpDef::new("BandedTriangularSolve", Category::Matrix)
        .doc("The solutions of systems with triangular matrices, given by the bands next to the diagonal, or with their adjoints.")
        .input("matrix: T")
        .input("rhs: T")
        .output("output: T")
        .attr("lower: bool = true")
        .attr("adjoint: bool = false")
        .attr(TYPES)
        .shape(|cx| {
            let (a, b) = (cx.input(0).with_rank_at_least(2)?, cx.input(1).with_rank_at_least(2)?);
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
        .sample(|s| sample(s, true, true, &[2]))
        .sample(|s| sample(s, false, false, &[]))
        .sample(|s| sample(s, false, true, &[]))
}

register_ops!(banded_triangular_solve);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Tensor};

    #[test]
    fn either_triangle_and_its_adjoint_are_solved() {
        let g = Graph::new();
        let b = g.constant([[1f64], [2.], [3.]]).unwrap();
        let solve = |a: [[f64; 3]; 2], lower: bool, adjoint: bool| {
            let node = g.op("BandedTriangularSolve").input(&g.constant(a).unwrap()).input(&b);
            let node = node.attr("lower", lower).attr("adjoint", adjoint);
            eval(&node.output().unwrap()).to_vec::<f64>().unwrap()
        };
        let (lower, upper) = ([[1., 2., 3.], [f64::NAN, 4., 5.]], [[4., 5., f64::NAN], [1., 2., 3.]]);
        assert_eq!(solve(lower, true, false), [1.0, -1.0, 8.0 / 3.0]);
        assert_eq!(solve(lower, true, true), [7.0, -1.5, 1.0]);
        assert_eq!(solve(upper, false, false), [7.0, -1.5, 1.0]);
        assert_eq!(solve(upper, false, true), [1.0, -1.0, 8.0 / 3.0]);
    }

    #[test]
    fn bad_bands_are_refused() {
        let g = Graph::new();
        let b = g.constant([[1f64], [2.]]).unwrap();
        let solve = |a: Tensor| {
            let node = g.op("BandedTriangularSolve").input(&g.constant(a).unwrap()).input(&b);
            node.output()
        };
        let zero = solve(Tensor::from([[1f64, 0.]])).unwrap();
        assert!(fails(&zero).message().contains("not invertible"));
        let empty = solve(Tensor::zeros(DType::F64, [0, 2]).unwrap()).unwrap();
        assert!(fails(&empty).message().contains("empty"));
        assert!(solve(Tensor::from([[1f64, 2., 3.]])).is_err());
        // More bands than the matrix has are ignored.
        let many = solve(Tensor::from([[1f64, 2.]; 4])).unwrap();
        assert_eq!(eval(&many), Tensor::from([[1f64], [0.]]));
    }
}
