//! `MatrixInverse`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Tensor, register_ops};

use super::{Factor, TYPES, factoring, square_shape, times};
use crate::linalg::{self, Num};

struct Inverse {
    adjoint: bool,
}

impl Factor for Inverse {
    const SQUARE: bool = true;

    fn results(&self, m: usize, n: usize) -> Vec<Option<Vec<usize>>> {
        vec![Some(vec![m, n])]
    }

    fn run<W: Num>(&self, a: &[W], n: usize, _: usize, out: &mut [W]) -> Result<()> {
        let f = linalg::lu(a, n);
        if f.is_singular() {
            return Err(Error::invalid("input is not invertible"));
        }
        let unit: Vec<W> = (0..n * n)
            .map(|i| if i % (n + 1) == 0 { W::ONE } else { W::ZERO })
            .collect();
        out.copy_from_slice(&f.solve(&unit, n, self.adjoint));
        Ok(())
    }
}

fn inverse_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (y, dy, adjoint) = (cx.output(0)?, cx.dense(grads, 0)?, cx.attrs().bool("adjoint")?);
    let inner = times(&dy, &y, adjoint, !adjoint)?;
    Ok(vec![Some(times(&y, &inner, !adjoint, false)?.negated()?.into())])
}

/// A random matrix, shifted so that it is well conditioned.
pub(super) fn sample_matrix(s: &mut Sampler, n: usize) -> Result<actorflow_core::Output> {
    let values: Vec<f64> = (0..n * n)
        .map(|i| s.number(-1.0, 1.0) + if i % (n + 1) == 0 { 3.0 } else { 0.0 })
        .collect();
    s.input(Tensor::from_slice([n, n], &values)?)
}

fn sample(s: &mut Sampler, adjoint: bool) -> Result<Operation> {
    let x = sample_matrix(s, 3)?;
    s.op("MatrixInverse").input(&x).attr("adjoint", adjoint).finish()
}

pub(in crate::ops::matrix) fn inverse() -> OpDef {
    OpDef::new("MatrixInverse", Category::Matrix)
        .doc("The inverses of square matrices, or of their adjoints.")
        .input("input: T")
        .output("output: T")
        .attr("adjoint: bool = false")
        .attr(TYPES)
        .shape(|cx| Ok(vec![square_shape(cx, 0)?]))
        .gradient(inverse_grad)
        .cpu(|init| {
            let adjoint = init.attrs.bool("adjoint")?;
            factoring(Inverse { adjoint }, init)
        })
        .sample(|s| sample(s, false))
        .sample(|s| sample(s, true))
}

register_ops!(inverse);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, DType, Graph, Tensor};

    #[test]
    fn matrices_are_inverted_one_by_one() {
        let g = Graph::new();
        let x = Tensor::from([2f32, 0., 0., 4., 0., 1., 1., 0.])
            .reshape([2, 2, 2])
            .unwrap();
        let y = eval(&g.constant(x).unwrap().unary("MatrixInverse").unwrap());
        assert_eq!(y.to_vec::<f32>().unwrap(), [0.5, 0., 0., 0.25, 0., 1., 1., 0.]);
        let none = g.constant(Tensor::zeros(DType::F64, [2, 0, 0]).unwrap()).unwrap();
        assert_eq!(eval(&none.unary("MatrixInverse").unwrap()).shape().dims(), [2, 0, 0]);
    }

    #[test]
    fn what_cannot_be_inverted_is_refused() {
        let g = Graph::new();
        let x = g.constant([[1f32, 2.], [2., 4.]]).unwrap();
        let e = fails(&x.unary("MatrixInverse").unwrap());
        assert_eq!(e.code(), Code::InvalidArgument);
        assert!(g.constant([[1f32, 2.]]).unwrap().unary("MatrixInverse").is_err());
    }
}
