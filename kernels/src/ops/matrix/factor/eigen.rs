//! `SelfAdjointEigV2`, `SelfAdjointEig`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, Tensor, register_ops};

use super::{Factor, TYPES, adjoint, band, factoring, reciprocal_differences, set_diag, square_shape, times};
use crate::linalg::{self, Num};

struct Eigen {
    vectors: bool,
    /// Values and vectors in one matrix, the values as its first row.
    joined: bool,
}

impl Factor for Eigen {
    const SQUARE: bool = true;

    fn results(&self, _: usize, n: usize) -> Vec<Option<Vec<usize>>> {
        match self.joined {
            true => vec![Some(vec![n + 1, n])],
            false => vec![Some(vec![n]), self.vectors.then(|| vec![n, n])],
        }
    }

    fn run<W: Num>(&self, a: &[W], n: usize, _: usize, out: &mut [W]) -> Result<()> {
        let (values, vectors) = linalg::eigen(a, n);
        let (to_values, to_vectors) = out.split_at_mut(n);
        to_values.iter_mut().zip(values).for_each(|(o, v)| *o = W::real(v));
        if !to_vectors.is_empty() {
            to_vectors.copy_from_slice(&vectors);
        }
        Ok(())
    }
}

fn eigen_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let diagonal = cx.dense(grads, 0)?.unary("MatrixDiag")?;
    let (v, inner) = if cx.attrs().bool("compute_v")? {
        let (e, v) = (cx.output(0)?, cx.output(1)?);
        let f = reciprocal_differences(&e)?;
        let turned = times(&v, &cx.dense(grads, 1)?, true, false)?;
        (v, diagonal.plus(&f.times(&turned)?)?)
    } else {
        let again = cx.graph().op("SelfAdjointEigV2").input(&cx.input(0)?).finish()?;
        (again.output(1)?, diagonal)
    };
    let da = times(&v, &times(&inner, &v, false, true)?, false, false)?;
    // Only the lower triangle is read, so it gets what belongs to both.
    let da = band(&da.plus(&adjoint(&da)?)?, -1, 0)?;
    let diagonal = da.unary("MatrixDiagPart")?;
    let half = diagonal.times(&diagonal.scalar_like(0.5)?)?;
    Ok(vec![Some(set_diag(&da, &half)?.into())])
}

fn sample(s: &mut Sampler, vectors: bool) -> Result<Operation> {
    // Eigenvalues far apart, and only the lower triangle differs from zero.
    let values: Vec<f64> = (0..9)
        .map(|i| match (i / 3, i % 3) {
            (r, c) if r == c => 3.0 * r as f64 + s.number(-0.5, 0.5),
            _ => s.number(-0.7, 0.7),
        })
        .collect();
    let x = s.input(Tensor::from_slice([3, 3], &values)?)?;
    s.op("SelfAdjointEigV2").input(&x).attr("compute_v", vectors).finish()
}

pub(in crate::ops::matrix) fn eigen_v2() -> OpDef {
    OpDef::new("SelfAdjointEigV2", Category::Matrix)
        .doc("Eigenvalues, ascending, and eigenvectors (columns) of self-adjoint matrices; lower triangles are read.")
        .input("input: T")
        .output("e: T")
        .output("v: T")
        .attr("compute_v: bool = true")
        .attr(TYPES)
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
        .gradient(eigen_grad)
        .cpu(|init| {
            let vectors = init.attrs.bool("compute_v")?;
            factoring(Eigen { vectors, joined: false }, init)
        })
        .sample(|s| sample(s, true))
        .sample(|s| sample(s, false))
}

pub(in crate::ops::matrix) fn eigen_v1() -> OpDef {
    OpDef::new("SelfAdjointEig", Category::Matrix)
        .doc("Eigenvalues, as the first row, and eigenvectors (columns) of self-adjoint matrices.")
        .input("input: T")
        .output("output: T")
        .attr("T: {double, float, half}")
        .shape(|cx| {
            let shape = square_shape(cx, 0)?;
            Ok(vec![match shape.rank() {
                Some(rank) => shape.with_dim(rank - 2, shape.dim(rank - 1).map(|n| n + 1)),
                None => PartialShape::UNKNOWN,
            }])
        })
        .cpu(|init| {
            factoring(
                Eigen {
                    vectors: true,
                    joined: true,
                },
                init,
            )
        })
}

register_ops!(eigen_v2, eigen_v1);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn values_ascend_and_vectors_may_be_left_out() {
        let g = Graph::new();
        let x = g.constant([[2f32, 99.], [0., -1.]]).unwrap();
        let op = g
            .op("SelfAdjointEigV2")
            .input(&x)
            .attr("compute_v", false)
            .finish()
            .unwrap();
        let out = Interpreter::default().run(&op.outputs(), &[], &[]).unwrap();
        assert_eq!(out[0], Tensor::from([-1f32, 2.]));
        assert_eq!(out[1].shape().dims(), [0]);
        let joined = eval(&x.unary("SelfAdjointEig").unwrap());
        assert_eq!(joined, Tensor::from([[-1f32, 2.], [0., 1.], [1., 0.]]));
    }
}
