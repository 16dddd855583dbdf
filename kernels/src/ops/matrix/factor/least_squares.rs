//! `MatrixSolveLs`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, dispatch, register_ops};

use super::solve::write;
use super::{Entry, TYPES, matrices, times, widened};
use crate::linalg::{self, Num, Triangular, adjoint, product};

/// `(A^H A + l I)^-1 A^H b`, or `A^H (A A^H + l I)^-1 b` if there are fewer rows than columns.
fn normal_equations<W: Num>(a: &[W], (m, n): (usize, usize), b: &[W], k: usize, l2: f64) -> Option<Vec<W>> {
    let at = adjoint(a, m, n);
    let tall = m >= n;
    let p = m.min(n);
    let mut gram = if tall {
        product(&at, a, (n, m, n))
    } else {
        product(a, &at, (m, n, m))
    };
    for i in 0..p {
        gram[i * p + i] = gram[i * p + i] + W::real(l2);
    }
    let l = linalg::cholesky(&gram, p)?;
    let solve = |x: &mut [W]| {
        for adjoint in [false, true] {
            let (lower, unit) = (true, false);
            Triangular {
                a: &l,
                n: p,
                lower,
                adjoint,
                unit,
            }
            .solve(x, k);
        }
    };
    if tall {
        let mut x = product(&at, b, (n, m, k));
        solve(&mut x);
        Some(x)
    } else {
        let mut y = b.to_vec();
        solve(&mut y);
        Some(product(&at, &y, (n, m, k)))
    }
}

/// The shortest of the solutions with the least error.
fn shortest<W: Num>(a: &[W], (m, n): (usize, usize), b: &[W], k: usize) -> Vec<W> {
    let linalg::Svd { s, u, v } = linalg::svd(a, m, n, false);
    let p = s.len();
    let floor = s.first().copied().unwrap_or(0.0) * f64::EPSILON * m.max(n) as f64;
    let mut y = product(&adjoint(&u, m, p), b, (p, m, k));
    if k > 0 {
        for (row, s) in y.chunks_exact_mut(k).zip(&s) {
            let by = if *s > floor { 1.0 / s } else { 0.0 };
            row.iter_mut().for_each(|x| *x = x.scale(by));
        }
    }
    product(&v, &y, (n, p, k))
}

fn solve_all<T: Entry>(cx: &mut OpContext<'_>, fast: bool) -> Result<()> {
    let device = &*cx.step().device;
    let (sa, sb) = (cx.input(0)?.shape(), cx.input(1)?.shape());
    let ((batch, m, n), (other, rows, k)) = (matrices(sa)?, matrices(sb)?);
    if batch != other || rows != m {
        return Err(Error::invalid(format!(
            "matrix and right-hand side are incompatible: they have shapes {sa} and {sb}"
        )));
    }
    let l2 = cx.scalar::<f64>(2)?;
    if !(l2 >= 0.0) {
        return Err(Error::invalid(format!("l2_regularizer must be >= 0, got {l2}")));
    }
    let shape: Shape = batch.iter().copied().chain([n, k]).collect();
    shape.checked_count()?;
    let (a, b) = (widened::<T>(device, cx.input(0)?)?, widened::<T>(device, cx.input(1)?)?);
    let (a, b) = (a.as_slice::<T::Wide>()?, b.as_slice::<T::Wide>()?);
    write::<T>(cx, shape, n * k, m * n * (n + k), |i, out| {
        let (a, b) = (&a[i * m * n..][..m * n], &b[i * m * k..][..m * k]);
        let x = match fast {
            true => normal_equations(a, (m, n), b, k, l2).ok_or_else(|| {
                Error::invalid(
                    "input matrix was rank deficient or ill-conditioned; try setting fast=False or provide a larger \
                     l2_regularizer > 0",
                )
            })?,
            false => shortest(a, (m, n), b, k),
        };
        out.copy_from_slice(&x);
        Ok(())
    })
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let fast = init.attrs.bool("fast")?;
    dispatch!(init.input_types[0], T in [F16, F32, F64, C64, C128] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| solve_all::<T>(cx, fast)))
    }, else Err(init.no_kernel()))
}

/// The inverse of the regularised Gramian times `b`.
fn gram_solve(a: &Output, l2: &Output, tall: bool, p: usize, b: &Output) -> Result<Output> {
    let g = a.graph();
    let ones = g.constant(vec![1.0f64; p])?.cast(a.dtype())?;
    let ridge = ones.times(&l2.cast(a.dtype())?)?.unary("MatrixDiag")?;
    let gram = times(a, a, tall, !tall)?.plus(&ridge)?;
    let l = gram.unary("Cholesky")?;
    let solve = |b: &Output, adjoint: bool| {
        g.op("MatrixTriangularSolve")
            .input(&l)
            .input(b)
            .attr("adjoint", adjoint)
            .output()
    };
    solve(&solve(b, false)?, true)
}

/// As TensorFlow's `_MatrixSolveLsGrad`, for matrices of known extents.
fn least_squares_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    if !cx.attrs().bool("fast")? {
        return Err(cx.unsupported("for fast=False"));
    }
    let (a, b, l2, x, dx) = (
        cx.input(0)?,
        cx.input(1)?,
        cx.input(2)?,
        cx.output(0)?,
        cx.dense(grads, 0)?,
    );
    let shape = a.shape();
    let extents = shape
        .rank()
        .and_then(|r| Some((shape.dim(r.checked_sub(2)?)?, shape.dim(r - 1)?)));
    let Some((m, n)) = extents else {
        return Err(cx.unsupported("for matrices whose shape is not known when the graph is built"));
    };
    let (da, db) = if m >= n {
        let z = gram_solve(&a, &l2, true, n, &dx)?;
        let xz = times(&x, &z, false, true)?;
        let both = xz.plus(&super::adjoint(&xz)?)?;
        let da = times(&b, &z, false, true)?.minus(&times(&a, &both, false, false)?)?;
        (da, times(&a, &z, false, false)?)
    } else {
        let db = gram_solve(&a, &l2, false, m, &times(&a, &dx, false, false)?)?;
        let y = gram_solve(&a, &l2, false, m, &b)?;
        let first = times(&db, &times(&y, &a, true, false)?, false, false)?;
        let rest = dx.minus(&times(&a, &db, true, false)?)?;
        (times(&y, &rest, false, true)?.minus(&first)?, db)
    };
    Ok(vec![Some(da.into()), Some(db.into()), None])
}

fn sample(s: &mut Sampler, shape: [usize; 2]) -> Result<Operation> {
    let (a, b) = (s.normal(shape)?, s.normal([shape[0], 2])?);
    let l2 = s.scalar(0.3)?;
    s.op("MatrixSolveLs").input(&a).input(&b).input(&l2).finish()
}

pub(in crate::ops::matrix) fn least_squares() -> OpDef {
    OpDef::new("MatrixSolveLs", Category::Matrix)
        .doc("The solutions of linear least-squares problems; with `fast` by the normal equations and a regularizer.")
        .input("matrix: T")
        .input("rhs: T")
        .input("l2_regularizer: double")
        .output("output: T")
        .attr(TYPES)
        .attr("fast: bool = true")
        .shape(|cx| {
            let (a, b) = (cx.input(0).with_rank_at_least(2)?, cx.input(1).with_rank_at_least(2)?);
            cx.input(2).with_rank(0)?;
            let (Some(ra), Some(rb)) = (a.rank(), b.rank()) else {
                return Ok(vec![PartialShape::UNKNOWN]);
            };
            let rows = a.sub(0, ra - 1).merge(&b.sub(0, rb - 1))?;
            Ok(vec![
                rows.sub(0, ra - 2)
                    .concat(&a.sub(ra - 1, ra))
                    .concat(&b.sub(rb - 1, rb)),
            ])
        })
        .gradient(least_squares_grad)
        .cpu(kernel)
        .sample(|s| sample(s, [4, 2]))
        .sample(|s| sample(s, [2, 4]))
}

register_ops!(least_squares);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Output};

    fn solve(a: [[f64; 2]; 3], l2: f64, fast: bool) -> Output {
        let g = Graph::new();
        let (a, b) = (g.constant(a).unwrap(), g.constant([[1.0f64], [2.0], [3.0]]).unwrap());
        let node = g
            .op("MatrixSolveLs")
            .input(&a)
            .input(&b)
            .input(&g.constant(l2).unwrap());
        node.attr("fast", fast).output().unwrap()
    }

    #[test]
    fn both_ways_agree_where_the_solution_is_unique() {
        let a = [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]];
        for fast in [false, true] {
            let x = eval(&solve(a, 0.0, fast)).to_vec::<f64>().unwrap();
            assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] - 1.0).abs() < 1e-12, "{x:?}");
        }
        let deficient = [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]];
        assert!(fails(&solve(deficient, 0.0, true)).message().contains("rank deficient"));
        let x = eval(&solve(deficient, 0.0, false)).to_vec::<f64>().unwrap();
        assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] - 1.0).abs() < 1e-12, "{x:?}");
    }
}
