//! `MatrixSquareRoot`, `MatrixLogarithm`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Output, register_ops};
use num_complex::Complex;

use super::inverse::sample_matrix;
use super::{Factor, TYPES, factoring, square_shape};
use crate::linalg::{Num, Schur};

/// A function of matrices.
struct Function(fn(&Schur) -> Vec<Complex<f64>>);

/// The part of a real matrix's image that may be imaginary by rounding.
const IMAGINARY: f64 = 1e-6;

impl Factor for Function {
    const SQUARE: bool = true;

    fn results(&self, m: usize, n: usize) -> Vec<Option<Vec<usize>>> {
        vec![Some(vec![m, n])]
    }

    fn run<W: Num>(&self, a: &[W], n: usize, _: usize, out: &mut [W]) -> Result<()> {
        let image = Schur::of(a, n).map(|s| (self.0)(&s));
        let largest = |part: fn(&Complex<f64>) -> f64| {
            let all = image.iter().flatten();
            all.map(|x| part(x).abs()).fold(0.0, f64::max)
        };
        // A real matrix whose image is not real has none.
        let real = W::DTYPE.is_complex() || largest(|x| x.im) <= IMAGINARY * largest(|x| x.re).max(f64::MIN_POSITIVE);
        match image {
            Some(image) if real => out.iter_mut().zip(image).for_each(|(o, x)| *o = W::from_complex(x)),
            _ => out.fill(W::from_complex(Complex::new(f64::NAN, f64::NAN))),
        }
        Ok(())
    }
}

/// Kronecker products of batches of `n` by `n` matrices: a factor's rows and columns are dimensions `at` and `at + 2` of
/// the four that become two.
fn spread(x: &Output, at: usize) -> Result<Output> {
    match at {
        0 => x.expand_dims(-2)?.expand_dims(-1),
        _ => x.expand_dims(-2)?.expand_dims(-4),
    }
}

/// `dA` with `dR = Rᵀ dA + dA Rᵀ`, as TensorFlow writes it: one system of linear equations with n² unknowns.
fn square_root_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, r, dy) = (cx.graph(), cx.output(0)?, cx.dense(grads, 0)?);
    let Some(rank) = r.shape().rank() else {
        return Err(cx.unsupported("for matrices whose rank is not known when the graph is built"));
    };
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    perm.swap(rank - 2, rank - 1);
    let turned = |x: &Output| x.transpose(&perm);
    let ones = r.unary("MatrixDiagPart")?.unary("OnesLike")?;
    let unit = ones.unary("MatrixDiag")?;
    let sum = spread(&unit, 0)?
        .times(&spread(&turned(&r)?, 1)?)?
        .plus(&spread(&r, 0)?.times(&spread(&unit, 1)?)?)?;
    let shape = r.shape_op()?;
    let batch = g
        .op("Slice")
        .input(&shape)
        .input(&g.constant([0i32])?)
        .input(&g.constant([rank as i32 - 2])?)
        .output()?;
    let n = shape.gather(&g.constant([rank as i32 - 1])?, 0)?;
    let squared = n.times(&n)?;
    let matrix = g.concat(&[batch.clone(), squared.clone(), squared.clone()], 0)?;
    let vector = g.concat(&[batch, squared, g.constant([1i32])?], 0)?;
    let solved = g
        .op("MatrixSolve")
        .input(&sum.reshape_to(&matrix)?)
        .input(&turned(&dy)?.reshape_to(&vector)?)
        .output()?;
    Ok(vec![Some(turned(&solved.reshape_to(&shape)?)?.into())])
}

fn square_root() -> OpDef {
    OpDef::new("MatrixSquareRoot", Category::Matrix)
        .doc("The principal square roots of square matrices; NaN where there is none.")
        .input("input: T")
        .output("output: T")
        .attr(TYPES)
        .shape(|cx| Ok(vec![square_shape(cx, 0)?]))
        .gradient(square_root_grad)
        .cpu(|init| factoring(Function(Schur::square_root), init))
        .sample(|s| {
            let x = sample_matrix(s, 3)?;
            s.op("MatrixSquareRoot").input(&x).finish()
        })
}

fn logarithm() -> OpDef {
    OpDef::new("MatrixLogarithm", Category::Matrix)
        .doc("The principal logarithms of square matrices; NaN where there is none.")
        .input("input: T")
        .output("output: T")
        .attr("T: {complex64, complex128}")
        .shape(|cx| Ok(vec![square_shape(cx, 0)?]))
        .cpu(|init| factoring(Function(Schur::logarithm), init))
}

register_ops!(square_root, logarithm);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Tensor};
    use num_complex::Complex;

    #[test]
    fn roots_are_principal_and_nan_where_there_is_none() {
        let g = Graph::new();
        let root = |x: [[f64; 2]; 2]| {
            let y = g.constant(x).unwrap().unary("MatrixSquareRoot").unwrap();
            eval(&y).to_vec::<f64>().unwrap()
        };
        let h = 0.5f64.sqrt();
        for (x, want) in [
            ([[4., 0.], [0., 9.]], [2., 0., 0., 3.]),
            ([[1., 1.], [0., 1.]], [1., 0.5, 0., 1.]),
            ([[0., 1.], [-1., 0.]], [h, h, -h, h]),
        ] {
            for (a, b) in root(x).iter().zip(want) {
                assert!((a - b).abs() < 1e-12, "{x:?}: {a} {b}");
            }
        }
        for x in [[[-1., 1.], [0., 4.]], [[f64::INFINITY, 1.], [1., 1.]]] {
            assert!(root(x).iter().all(|x| x.is_nan()), "{x:?}");
        }
        let none = g.constant(Tensor::zeros(DType::F32, [2, 0, 0]).unwrap()).unwrap();
        assert_eq!(eval(&none.unary("MatrixSquareRoot").unwrap()).shape().dims(), [2, 0, 0]);
    }

    #[test]
    fn logarithms_are_principal_and_nan_of_singular_matrices() {
        let g = Graph::new();
        let c = |re: f64| Complex::new(re, 0.0);
        let log = |x: [[Complex<f64>; 2]; 2]| {
            let y = g.constant(x).unwrap().unary("MatrixLogarithm").unwrap();
            eval(&y).to_vec::<Complex<f64>>().unwrap()
        };
        let got = log([[c(-1.), c(1.)], [c(0.), c(4.)]]);
        let pi = std::f64::consts::PI;
        let want = [
            Complex::new(0.0, pi),
            Complex::new(4f64.ln() / 5.0, -pi / 5.0),
            c(0.),
            c(4f64.ln()),
        ];
        for (a, b) in got.iter().zip(want) {
            assert!((a - b).norm() < 1e-12, "{got:?}");
        }
        let singular = log([[c(1.), c(2.)], [c(2.), c(4.)]]);
        assert!(singular.iter().all(|x| !x.is_finite()), "{singular:?}");
    }
}
