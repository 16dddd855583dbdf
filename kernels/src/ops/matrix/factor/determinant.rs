//! `MatrixDeterminant`, `LogMatrixDeterminant`, `Lu`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::DType;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Output, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::inverse::sample_matrix;
use super::{Entry, Factor, TYPES, as_matrices, factoring, square, square_shape, widened};
use crate::linalg::{self, Num};

struct Determinant;

impl Factor for Determinant {
    const SQUARE: bool = true;

    fn results(&self, _: usize, _: usize) -> Vec<Option<Vec<usize>>> {
        vec![Some(Vec::new())]
    }

    fn run<W: Num>(&self, a: &[W], n: usize, _: usize, out: &mut [W]) -> Result<()> {
        out[0] = linalg::lu(a, n).determinant();
        Ok(())
    }
}

struct LogDeterminant;

impl Factor for LogDeterminant {
    const SQUARE: bool = true;

    fn results(&self, _: usize, _: usize) -> Vec<Option<Vec<usize>>> {
        vec![Some(Vec::new()), Some(Vec::new())]
    }

    fn run<W: Num>(&self, a: &[W], n: usize, _: usize, out: &mut [W]) -> Result<()> {
        let (sign, log) = linalg::lu(a, n).sign_and_log();
        (out[0], out[1]) = (sign, W::real(log));
        Ok(())
    }
}

fn batch_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let shape = square_shape(cx, 0)?;
    let batch = match shape.rank() {
        Some(rank) => shape.sub(0, rank - 2),
        None => PartialShape::UNKNOWN,
    };
    Ok(vec![batch; cx.num_outputs()])
}

/// `scale` times the inverse of the input's adjoint.
fn scaled_inverse(cx: &GradContext, scale: &Output) -> Result<Vec<Option<Grad>>> {
    let inverse = cx
        .graph()
        .op("MatrixInverse")
        .input(&cx.input(0)?)
        .attr("adjoint", true)
        .output()?;
    Ok(vec![Some(as_matrices(scale)?.times(&inverse)?.into())])
}

pub(in crate::ops::matrix) fn determinant() -> OpDef {
    OpDef::new("MatrixDeterminant", Category::Matrix)
        .doc("The determinants of square matrices.")
        .input("input: T")
        .output("output: T")
        .attr("T: {half, float, double, complex64, complex128}")
        .shape(batch_shape)
        .gradient(|cx, dys| {
            let scale = cx.dense(dys, 0)?.times(&cx.output(0)?)?;
            scaled_inverse(cx, &scale)
        })
        .cpu(|init| factoring(Determinant, init))
        .sample(|s| {
            let x = sample_matrix(s, 3)?;
            s.op("MatrixDeterminant").input(&x).finish()
        })
}

fn log_determinant() -> OpDef {
    OpDef::new("LogMatrixDeterminant", Category::Matrix)
        .doc("The signs of the determinants of square matrices and the logarithms of their magnitudes.")
        .input("input: T")
        .output("sign: T")
        .output("log_abs_determinant: T")
        .attr("T: {half, float, double, complex64, complex128}")
        .shape(batch_shape)
        .gradient(|cx, dys| scaled_inverse(cx, &cx.dense(dys, 1)?))
        .cpu(|init| factoring(LogDeterminant, init))
        .sample(|s| {
            let x = sample_matrix(s, 3)?;
            s.op("LogMatrixDeterminant").input(&x).finish()
        })
}

fn lu_all<T: Entry>(cx: &mut OpContext<'_>, index_type: DType) -> Result<()> {
    let device = &*cx.step().device;
    let shape = cx.input(0)?.shape().clone();
    let (batch, n) = square(&shape)?;
    let wide = widened::<T>(device, cx.input(0)?)?;
    let mut factors = Vec::with_capacity(wide.len());
    let mut rows: Vec<i64> = Vec::new();
    if n > 0 {
        for a in wide.as_slice::<T::Wide>()?.chunks_exact(n * n) {
            let f = linalg::lu(a, n);
            if f.is_singular() {
                return Err(Error::invalid("input is not invertible"));
            }
            factors.extend(f.factors.into_iter().map(T::narrow));
            rows.extend(f.rows.into_iter().map(|r| r as i64));
        }
    }
    let permutation: Shape = batch.iter().copied().chain([n]).collect();
    let rows = Tensor::from_slice(permutation, &rows)?;
    let rows = match index_type {
        DType::I32 => super::convert::<i64, i32>(device, &rows, |x| x as i32)?,
        _ => rows,
    };
    cx.set_output(0, Tensor::from_slice(shape.clone(), &factors)?);
    cx.set_output(1, rows);
    Ok(())
}

fn lu_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let index_type = init.output_types[1];
    dispatch!(init.input_types[0], T in [F16, F32, F64, C64, C128] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| lu_all::<T>(cx, index_type)))
    }, else Err(init.no_kernel()))
}

fn lu() -> OpDef {
    OpDef::new("Lu", Category::Matrix)
        .doc("The factors of P A = L U, both in one matrix, and the permutation: row i of P A is row p[i] of A.")
        .input("input: T")
        .output("lu: T")
        .output("p: output_idx_type")
        .attr(TYPES)
        .attr("output_idx_type: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let shape = square_shape(cx, 0)?;
            let rows = match shape.rank() {
                Some(rank) => shape.sub(0, rank - 1),
                None => PartialShape::UNKNOWN,
            };
            Ok(vec![shape, rows])
        })
        .cpu(lu_kernel)
}

register_ops!(determinant, log_determinant, lu);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn determinants_of_batches() {
        let g = Graph::new();
        let x = Tensor::from([1f32, 2., 3., 4., 2., 0., 0., 5.])
            .reshape([2, 2, 2])
            .unwrap();
        let x = g.constant(x).unwrap();
        let y = eval(&x.unary("MatrixDeterminant").unwrap());
        assert_eq!(y, Tensor::from([-2f32, 10.]));
        let op = g.op("LogMatrixDeterminant").input(&x).finish().unwrap();
        let out = Interpreter::default().run(&op.outputs(), &[], &[]).unwrap();
        assert_eq!(out[0], Tensor::from([-1f32, 1.]));
        assert_eq!(out[1], Tensor::from([2f32.ln(), 10f32.ln()]));
        let op = g.op("Lu").input(&x).finish().unwrap();
        let out = Interpreter::default().run(&op.outputs(), &[], &[]).unwrap();
        assert_eq!(out[1], Tensor::from([[1i32, 0], [0, 1]]));
        assert_eq!(out[0].to_vec::<f32>().unwrap()[..2], [3.0, 4.0]);
    }
}
