//! `Svd`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, register_ops};

use super::qr::columns;
use super::{Factor, TYPES, adjoint, factoring, reciprocal_differences, safe_reciprocal, times};
use crate::linalg::{self, Num};

struct Svd {
    vectors: bool,
    full: bool,
}

impl Factor for Svd {
    const SQUARE: bool = false;

    fn results(&self, m: usize, n: usize) -> Vec<Option<Vec<usize>>> {
        let k = m.min(n);
        let (p, q) = if self.full { (m, n) } else { (k, k) };
        vec![
            Some(vec![k]),
            self.vectors.then(|| vec![m, p]),
            self.vectors.then(|| vec![n, q]),
        ]
    }

    fn run<W: Num>(&self, a: &[W], m: usize, n: usize, out: &mut [W]) -> Result<()> {
        let linalg::Svd { s, u, v } = linalg::svd(a, m, n, self.full && self.vectors);
        let (to_s, rest) = out.split_at_mut(s.len());
        to_s.iter_mut().zip(s).for_each(|(o, s)| *o = W::real(s));
        if self.vectors {
            let (to_u, to_v) = rest.split_at_mut(u.len());
            to_u.copy_from_slice(&u);
            to_v.copy_from_slice(&v);
        }
        Ok(())
    }
}

/// As TensorFlow's `_SvdGrad`: infinite where singular values coincide.
fn svd_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let a = cx.input(0)?;
    let ds = cx.dense(grads, 0)?.unary("MatrixDiag")?;
    if !cx.attrs().bool("compute_uv")? {
        let again = cx.graph().op("Svd").input(&a).finish()?;
        let da = times(
            &again.output(1)?,
            &times(&ds, &again.output(2)?, false, true)?,
            false,
            false,
        )?;
        return Ok(vec![Some(da.into())]);
    }
    let full = cx.attrs().bool("full_matrices")?;
    let shape = a.shape();
    let extents = shape
        .rank()
        .and_then(|r| Some((shape.dim(r.checked_sub(2)?)?, shape.dim(r - 1)?)));
    let Some((mut m, mut n)) = extents else {
        return Err(cx.unsupported("for matrices whose shape is not known when the graph is built"));
    };
    let s = cx.output(0)?;
    let (mut u, mut v) = (cx.output(1)?, cx.output(2)?);
    let (mut du, mut dv) = (cx.dense(grads, 1)?, cx.dense(grads, 2)?);
    // Of a tall matrix, the gradient of the adjoint is computed.
    let turned = m > n;
    if turned {
        std::mem::swap(&mut m, &mut n);
        std::mem::swap(&mut u, &mut v);
        std::mem::swap(&mut du, &mut dv);
    }
    if full && n - m > 1 {
        return Err(cx.unsupported("with full_matrices for matrices that are far from square"));
    }
    let s_mat = s.unary("MatrixDiag")?;
    let f = reciprocal_differences(&s.square()?)?;
    let s_inverse = safe_reciprocal(&s)?.unary("MatrixDiag")?;
    let (v1, dv1) = (columns(&v, 0, Some(m))?, columns(&dv, 0, Some(m))?);
    let u_du = times(&u, &du, true, false)?;
    let v_dv = times(&v1, &dv1, true, false)?;
    let twice = |x: &Output| -> Result<Output> {
        let y = f.times(x)?;
        y.plus(&adjoint(&y)?)
    };
    let inner =
        ds.plus(&times(&twice(&u_du)?, &s_mat, false, false)?)?
            .plus(&times(&s_mat, &twice(&v_dv)?, false, false)?)?;
    let around = |middle: &Output| times(&u, &times(middle, &v1, false, true)?, false, false);
    let mut grad = around(&inner)?;
    if m != n {
        let dv1t = adjoint(&dv1)?;
        let mut rest = dv1t.minus(&times(&times(&dv1t, &v1, false, false)?, &v1, false, true)?)?;
        if full {
            let (v2, dv2) = (columns(&v, m, Some(n))?, columns(&dv, m, Some(n))?);
            rest = rest.minus(&times(&times(&v1, &dv2, true, false)?, &v2, false, true)?)?;
        }
        let scaled = times(&u, &s_inverse, false, false)?;
        grad = grad.plus(&times(&scaled, &rest, false, false)?)?;
    }
    if grad.dtype().is_complex() {
        let l = v_dv.unary("MatrixDiagPart")?.unary("MatrixDiag")?;
        let phases = times(&s_inverse, &adjoint(&l)?.minus(&l)?, false, false)?;
        grad = grad.plus(&around(&phases)?.times(&grad.scalar_like(0.5)?)?)?;
    }
    Ok(vec![Some(if turned { adjoint(&grad)? } else { grad }.into())])
}

fn svd_shape(cx: &actorflow_core::graph::ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let shape = cx.input(0).with_rank_at_least(2)?;
    let (vectors, full) = (cx.attrs().bool("compute_uv")?, cx.attrs().bool("full_matrices")?);
    let none = PartialShape::from([0]);
    let Some(rank) = shape.rank() else {
        let other = if vectors { PartialShape::UNKNOWN } else { none };
        return Ok(vec![PartialShape::UNKNOWN, other.clone(), other]);
    };
    let (m, n) = (shape.dim(rank - 2), shape.dim(rank - 1));
    let k = m.zip(n).map(|(m, n)| m.min(n));
    let (p, q) = if full { (m, n) } else { (k, k) };
    let batch = shape.sub(0, rank - 2);
    let s = batch.concat(&PartialShape::vector(k));
    Ok(match vectors {
        true => vec![
            s,
            batch.concat(&PartialShape::from([m, p])),
            batch.concat(&PartialShape::from([n, q])),
        ],
        false => vec![s, none.clone(), none],
    })
}

fn sample(s: &mut Sampler, shape: &[usize], vectors: bool, full: bool) -> Result<Operation> {
    let x = s.normal(Shape::new(shape))?;
    s.op("Svd")
        .input(&x)
        .attr("compute_uv", vectors)
        .attr("full_matrices", full)
        .finish()
}

pub(in crate::ops::matrix) fn svd() -> OpDef {
    OpDef::new("Svd", Category::Matrix)
        .doc("Singular values, descending, and singular vectors (columns): input = U diag(s) V^H.")
        .input("input: T")
        .output("s: T")
        .output("u: T")
        .output("v: T")
        .attr("compute_uv: bool = true")
        .attr("full_matrices: bool = false")
        .attr(TYPES)
        .shape(svd_shape)
        .gradient(svd_grad)
        .cpu(|init| {
            let (vectors, full) = (init.attrs.bool("compute_uv")?, init.attrs.bool("full_matrices")?);
            factoring(Svd { vectors, full }, init)
        })
        .sample(|s| sample(s, &[3, 3], true, false))
        .sample(|s| sample(s, &[2, 4], true, false))
        .sample(|s| sample(s, &[4, 2], true, false))
        .sample(|s| sample(s, &[2, 3], true, true))
        .sample(|s| sample(s, &[2, 3, 2], false, false))
}

register_ops!(svd);

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::{Graph, PartialShape, Tensor};

    #[test]
    fn values_descend_and_vectors_may_be_left_out() {
        let g = Graph::new();
        let x = g.constant([[0f32, 3.], [4., 0.], [0., 0.]]).unwrap();
        let op = g.op("Svd").input(&x).attr("compute_uv", false).finish().unwrap();
        let out = Interpreter::default().run(&op.outputs(), &[], &[]).unwrap();
        assert_eq!(out[0], Tensor::from([4f32, 3.]));
        assert_eq!((out[1].shape().dims(), out[2].shape().dims()), (&[0][..], &[0][..]));
        let op = g.op("Svd").input(&x).attr("full_matrices", true).finish().unwrap();
        assert_eq!(op.outputs()[1].shape(), PartialShape::from([3, 3]));
    }
}
