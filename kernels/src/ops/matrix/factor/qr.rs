//! `Qr`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, register_ops};

use super::{Factor, TYPES, adjoint, band, factoring, set_diag, times};
use crate::linalg::{self, Num};

struct Qr {
    full: bool,
}

impl Factor for Qr {
    const SQUARE: bool = false;

    fn results(&self, m: usize, n: usize) -> Vec<Option<Vec<usize>>> {
        let p = if self.full { m } else { m.min(n) };
        vec![Some(vec![m, p]), Some(vec![p, n])]
    }

    fn run<W: Num>(&self, a: &[W], m: usize, n: usize, out: &mut [W]) -> Result<()> {
        let (q, r) = linalg::qr(a, m, n, self.full);
        let (to_q, to_r) = out.split_at_mut(q.len());
        to_q.copy_from_slice(&q);
        to_r.copy_from_slice(&r);
        Ok(())
    }
}

/// `x` times the inverse of the adjoint of the upper triangular `r`.
fn solve_right(x: &Output, r: &Output) -> Result<Output> {
    let solved = r
        .graph()
        .op("MatrixTriangularSolve")
        .input(r)
        .input(&adjoint(x)?)
        .attr("lower", false)
        .output()?;
    adjoint(&solved)
}

/// The gradient of matrices that are square or tall (Roberts and Roberts 2020, arXiv:2009.10071).
fn tall_grad(q: &Output, r: &Output, dq: &Output, dr: &Output) -> Result<Output> {
    let qdq = times(q, dq, true, false)?;
    let rdr = times(r, dr, false, true)?;
    let skew = |x: &Output| x.minus(&adjoint(x)?);
    let lower = band(&skew(&qdq)?.plus(&skew(&rdr)?)?, -1, 0)?;
    let inside = times(q, &dr.plus(&solve_right(&lower, r)?)?, false, false)?;
    let outside = solve_right(&dq.minus(&times(q, &qdq, false, false)?)?, r)?;
    let grad = inside.plus(&outside)?;
    if !grad.dtype().is_complex() {
        return Ok(grad);
    }
    // The phases of the diagonal are not free.
    let m = rdr.minus(&adjoint(&qdq)?)?;
    let diagonal = set_diag(&m.zeros_like()?, &m.unary("MatrixDiagPart")?)?;
    let half = diagonal.scalar_like(0.5)?;
    let real = diagonal.plus(&diagonal.conj_op()?)?.times(&half)?;
    let correction = diagonal.minus(&real)?;
    grad.plus(&solve_right(&times(q, &adjoint(&correction)?, false, false)?, r)?)
}

/// Columns `from..to` of a tensor of matrices of known rank.
pub(super) fn columns(x: &Output, from: usize, to: Option<usize>) -> Result<Output> {
    let g = x.graph();
    let rank = x.shape().rank().unwrap_or(2);
    let mut begin = vec![0i32; rank];
    let mut size = vec![-1i32; rank];
    begin[rank - 1] = i32::try_from(from).unwrap_or(i32::MAX);
    if let Some(to) = to {
        size[rank - 1] = i32::try_from(to - from).unwrap_or(i32::MAX);
    }
    g.op("Slice")
        .input(x)
        .input(&g.constant(begin)?)
        .input(&g.constant(size)?)
        .output()
}

fn qr_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (q, r) = (cx.output(0)?, cx.output(1)?);
    let (dq, dr) = (cx.dense(grads, 0)?, cx.dense(grads, 1)?);
    let extents = |x: &Output| {
        let s = x.shape();
        let rank = s.rank()?;
        Some((s.dim(rank.checked_sub(2)?)?, s.dim(rank - 1)?))
    };
    let (Some((p, n)), Some((m, wide))) = (extents(&r), extents(&q)) else {
        return Err(cx.unsupported("for matrices whose shape is not known when the graph is built"));
    };
    if p > n && m == wide {
        return Err(cx.unsupported("with full_matrices and more rows than columns"));
    }
    if m >= n {
        return Ok(vec![Some(tall_grad(&q, &r, &dq, &dr)?.into())]);
    }
    // A = [x, y] and R = [u, v], with x and u square.
    let y = columns(&cx.input(0)?, m, None)?;
    let u = columns(&r, 0, Some(m))?;
    let (du, dv) = (columns(&dr, 0, Some(m))?, columns(&dr, m, None)?);
    let dy = times(&q, &dv, false, false)?;
    let dx = tall_grad(&q, &u, &dq.plus(&times(&y, &dv, false, true)?)?, &du)?;
    Ok(vec![Some(cx.graph().concat(&[dx, dy], -1)?.into())])
}

fn sample(s: &mut Sampler, shape: &[usize], full: bool) -> Result<Operation> {
    let x = s.normal(Shape::new(shape))?;
    s.op("Qr").input(&x).attr("full_matrices", full).finish()
}

fn qr() -> OpDef {
    OpDef::new("Qr", Category::Matrix)
        .doc("input = Q R with Q orthonormal and R upper triangular.")
        .input("input: T")
        .output("q: T")
        .output("r: T")
        .attr("full_matrices: bool = false")
        .attr(TYPES)
        .shape(|cx| {
            let shape = cx.input(0).with_rank_at_least(2)?;
            let full = cx.attrs().bool("full_matrices")?;
            let Some(rank) = shape.rank() else {
                return Ok(vec![PartialShape::UNKNOWN; 2]);
            };
            let (m, n) = (shape.dim(rank - 2), shape.dim(rank - 1));
            let p = if full { m } else { m.zip(n).map(|(m, n)| m.min(n)) };
            let batch = shape.sub(0, rank - 2);
            Ok(vec![
                batch.concat(&PartialShape::from([m, p])),
                batch.concat(&PartialShape::from([p, n])),
            ])
        })
        .gradient(qr_grad)
        .cpu(|init| {
            let full = init.attrs.bool("full_matrices")?;
            factoring(Qr { full }, init)
        })
        .sample(|s| sample(s, &[3, 3], false))
        .sample(|s| sample(s, &[2, 4, 2], false))
        .sample(|s| sample(s, &[2, 4], false))
}

register_ops!(qr);

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::{Graph, PartialShape, Tensor};

    #[test]
    fn both_forms_have_the_shapes_announced() {
        let g = Graph::new();
        let x = g.constant(Tensor::full([2, 4, 3], 1f32).unwrap()).unwrap();
        for (full, p) in [(false, 3), (true, 4)] {
            let op = g.op("Qr").input(&x).attr("full_matrices", full).finish().unwrap();
            let out = Interpreter::default().run(&op.outputs(), &[], &[]).unwrap();
            assert_eq!(out[0].shape().dims(), [2, 4, p]);
            assert_eq!(op.outputs()[1].shape(), PartialShape::from([2, p, 3]));
            assert!((out[1].to_vec::<f32>().unwrap()[0] + 2.0).abs() < 1e-6);
        }
    }
}
