//! `BatchCholesky`, `BatchMatrixSolve`, `BatchMatrixDiag` and the like: names that operations on matrices had when the
//! ones without `Batch` took a single matrix.
//!
//! TensorFlow removed them from graphs of version 13 (14 for the diagonals and the band) on and still computes them in
//! older ones, with the kernels of their successors. They have fewer data types and no gradients.
#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::factor::{cholesky, determinant, eigen, inverse, least_squares, solve, svd, triangular};
use super::{band_part, diag, set_diag};

const REAL: &str = "T: {double, float}";
const COMPLEX: &str = "T: {double, float, complex64, complex128}";
const ANY: &str = "T: type";

/// What `of` computes, under an older name and with these attributes instead of its own.
fn alias(name: &'static str, doc: &'static str, of: &OpDef, attrs: &[&str]) -> OpDef {
    let mut def = OpDef::new(name, of.category()).doc(doc).shape(of.shape_fn());
    for x in of.inputs() {
        // The type of an index could not be chosen.
        def = def.input(&x.to_string().replace("Tindex", "int64"));
    }
    for y in of.outputs() {
        def = def.output(&y.to_string());
    }
    for a in attrs {
        def = def.attr(a);
    }
    match of.cpu_kernel() {
        Some(kernel) => def.cpu(kernel),
        None => def,
    }
}

macro_rules! aliases {
    ($($new:literal, $of:expr, [$($attr:expr),*];)*) => {
        fn all() -> Vec<OpDef> {
            vec![$(alias(
                concat!("Batch", $new),
                concat!("The name that `", $new, "` for batches had before version 14 of graphs."),
                &$of,
                &[$($attr),*],
            )),*]
        }
    };
}

aliases! {
    "Cholesky", cholesky::cholesky(), [REAL];
    "CholeskyGrad", cholesky::cholesky_grad_op(), [REAL];
    "MatrixDeterminant", determinant::determinant(), [COMPLEX];
    "MatrixInverse", inverse::inverse(), ["adjoint: bool = false", REAL];
    "MatrixSolve", solve::solve(), ["adjoint: bool = false", REAL];
    "MatrixSolveLs", least_squares::least_squares(), [REAL, "fast: bool = true"];
    "MatrixTriangularSolve", triangular::triangular_solve(), ["lower: bool = true", "adjoint: bool = false", REAL];
    "SelfAdjointEig", eigen::eigen_v1(), [REAL];
    "SelfAdjointEigV2", eigen::eigen_v2(), ["compute_v: bool = true", REAL];
    "Svd", svd::svd(), ["compute_uv: bool = true", "full_matrices: bool = false", COMPLEX];
    "MatrixBandPart", band_part::band_part(), [ANY];
    "MatrixDiag", diag::matrix_diag(), [ANY];
    "MatrixDiagPart", diag::matrix_diag_part(), [ANY];
    "MatrixSetDiag", set_diag::set_diag(), [ANY];
}

register_ops!(all all);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::gradient::gradients;
    use actorflow_core::{Code, Graph, Output, Tensor};

    fn op(name: &str, inputs: Vec<Tensor>) -> Output {
        let g = Graph::new();
        let node = inputs
            .into_iter()
            .fold(g.op(name), |node, t| node.input(&g.constant(t).unwrap()));
        node.finish().unwrap().output(0).unwrap()
    }

    fn stack(shape: [usize; 3], values: &[f32]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    #[track_caller]
    fn near(name: &str, inputs: Vec<Tensor>, want: &[f32]) {
        let got = eval(&op(name, inputs)).to_vec::<f32>().unwrap();
        assert_eq!(got.len(), want.len(), "{name}: {got:?}");
        for (a, b) in got.iter().zip(want) {
            assert!(
                (a - b).abs() <= 1e-5 * b.abs().max(1.0),
                "{name}: {got:?}, not {want:?}"
            );
        }
    }

    fn matrices() -> Tensor {
        stack([2, 2, 2], &[4., 99., 2., 5., 9., 0., 3., 2.])
    }

    /// TensorFlow's answers in a graph of version 8.
    #[test]
    fn the_old_names_compute_what_the_new_ones_do() {
        let a = matrices;
        let b = || stack([2, 2, 1], &[1., 2., 3., 4.]);
        let d = || Tensor::from([[1f32, 2.], [3., 4.]]);
        near("BatchCholesky", vec![a()], &[2., 0., 1., 2., 3., 0., 1., 1.]);
        near(
            "BatchCholeskyGrad",
            vec![
                stack([1, 2, 2], &[2., 0., 1., 2.]),
                stack([1, 2, 2], &[1., 0., 0.5, -1.]),
            ],
            &[0.125, 0.25, 0.25, -0.25],
        );
        near("BatchMatrixDeterminant", vec![a()], &[-178., 18.]);
        near(
            "BatchMatrixInverse",
            vec![a()],
            &[
                -0.028_089_89,
                0.556_179_76,
                0.011_235_96,
                -0.022_471_91,
                0.111_111_11,
                0.,
                -0.166_666_67,
                0.5,
            ],
        );
        near(
            "BatchMatrixSolve",
            vec![a(), b()],
            &[1.084_269_6, -0.033_707_86, 0.333_333_34, 1.5],
        );
        near(
            "BatchMatrixTriangularSolve",
            vec![a(), b()],
            &[0.25, 0.3, 0.333_333_34, 1.5],
        );
        near(
            "BatchMatrixSolveLs",
            vec![
                stack([1, 3, 2], &[1., 0., 1., 1., 1., 2.]),
                stack([1, 3, 1], &[1., 2., 4.]),
                Tensor::scalar(0.5f64),
            ],
            &[0.829_268_2, 1.365_853_7],
        );
        near(
            "BatchSelfAdjointEigV2",
            vec![stack([1, 2, 2], &[2., 0., 1., 2.])],
            &[1., 3.],
        );
        let joined = eval(&op("BatchSelfAdjointEig", vec![stack([1, 2, 2], &[2., 0., 1., 2.])]));
        assert_eq!(joined.shape().dims(), [1, 3, 2]);
        near("BatchSvd", vec![a()], &[99.210_79, 1.794_159_5, 9.508_764, 1.892_990_6]);
        near(
            "BatchMatrixBandPart",
            vec![a(), Tensor::scalar(0i64), Tensor::scalar(-1i64)],
            &[4., 99., 0., 5., 9., 0., 0., 2.],
        );
        near("BatchMatrixDiag", vec![d()], &[1., 0., 0., 2., 3., 0., 0., 4.]);
        near("BatchMatrixDiagPart", vec![a()], &[4., 5., 9., 2.]);
        near("BatchMatrixSetDiag", vec![a(), d()], &[1., 99., 2., 2., 3., 0., 3., 4.]);
    }

    #[test]
    fn they_have_tensorflows_data_types_and_errors_and_no_gradient() {
        let g = Graph::new();
        let half = g
            .constant(matrices())
            .unwrap()
            .cast(actorflow_core::DType::F16)
            .unwrap();
        assert!(half.unary("Cholesky").is_ok());
        let e = half.unary("BatchCholesky").unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument);
        let number = g.constant(1i32).unwrap();
        let x = g.constant(matrices()).unwrap();
        let band = g
            .op("BatchMatrixBandPart")
            .input(&x)
            .input(&number)
            .input(&number)
            .output();
        assert!(band.is_err());
        let singular = op("BatchMatrixInverse", vec![stack([1, 2, 2], &[1., 2., 2., 4.])]);
        assert!(fails(&singular).message().contains("not invertible"));
        let y = x.unary("BatchMatrixDiagPart").unwrap();
        assert!(gradients(&[y.sum(&[0, 1], false).unwrap()], &[x]).is_err());
    }
}
