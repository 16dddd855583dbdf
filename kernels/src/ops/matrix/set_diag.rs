//! `MatrixSetDiag` and its second and third version.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Shape, Tensor, register_ops};

use super::band::{Align, Band, diagonals};
use super::diag::{ALIGN, Diagonals, Same};
use crate::moves::{self, Fill};

struct SetDiag {
    align: Align,
    has_k: bool,
}

impl Kernel for SetDiag {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let k = if self.has_k { diagonals(cx.input(2)?)? } else { (0, 0) };
        let (input, diagonal) = (cx.input(0)?, cx.input(1)?);
        let shape = input.shape();
        if shape.rank() < 2 {
            return Err(Error::invalid(format!(
                "input must be at least 2-dim, received shape {shape}"
            )));
        }
        let (batch, matrix) = shape.split_at(shape.rank() - 2);
        let band = Band::inside(matrix[0], matrix[1], k, self.align)?;
        let batch = batch.iter().copied();
        let want: Shape = match k.0 == k.1 {
            true => batch.chain([band.longest()]).collect(),
            false => batch.chain([band.count(), band.longest()]).collect(),
        };
        if diagonal.shape() != &want {
            return Err(Error::invalid(format!(
                "diagonals {} to {} of matrices of shape {shape} have shape {want}, but {} is given",
                k.0,
                k.1,
                diagonal.shape()
            )));
        }
        let how = Diagonals {
            band,
            into_matrices: true,
        };
        let out = moves::build(cx, input.dtype(), shape.clone(), Fill::Copy(input), &[diagonal], &how)?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(SetDiag {
        align: Align::of(init.attrs)?,
        has_k: init.input_types.len() > 2,
    }))
}

fn set_diag_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (dy, same) = (cx.dense(grads, 0)?, Same::of(cx, 2)?);
    let mut out = cx.none()?;
    out[0] = Some(same.set(&dy, &cx.input(1)?.zeros_like()?)?.into());
    out[1] = Some(same.part(&dy)?.into());
    Ok(out)
}

fn definition(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Matrix)
        .input("input: T")
        .input("diagonal: T")
        .output("output: T")
        .attr("T: type")
        .shape(|cx| {
            cx.input(1).with_rank_at_least(1)?;
            Ok(vec![cx.input(0).with_rank_at_least(2)?])
        })
        .gradient(set_diag_grad)
        .cpu(kernel)
}

fn sample(s: &mut Sampler, op: &str, k: Option<&[i32]>, diagonal: &[usize]) -> Result<Operation> {
    let (x, d) = (s.normal([2, 3, 4])?, s.normal(diagonal)?);
    match k {
        Some(k) => {
            let k = s.constant(Tensor::vector(k))?;
            s.op(op).input(&x).input(&d).input(&k).finish()
        }
        None => s.op(op).input(&x).input(&d).finish(),
    }
}

pub(super) fn set_diag() -> OpDef {
    definition("MatrixSetDiag")
        .doc("Matrices with their main diagonals replaced.")
        .sample(|s| sample(s, "MatrixSetDiag", None, &[2, 3]))
}

fn set_diag_v2() -> OpDef {
    definition("MatrixSetDiagV2")
        .doc("Matrices with their diagonals `k` replaced, short ones stored on the left.")
        .input("k: int32")
        .sample(|s| sample(s, "MatrixSetDiagV2", Some(&[-1, 1]), &[2, 3, 3]))
}

fn set_diag_v3() -> OpDef {
    definition("MatrixSetDiagV3")
        .doc("Matrices with their diagonals `k` replaced, short ones stored as `align` says.")
        .input("k: int32")
        .attr(ALIGN)
        .sample(|s| sample(s, "MatrixSetDiagV3", Some(&[-1, 2]), &[2, 4, 3]))
        .sample(|s| sample(s, "MatrixSetDiagV3", Some(&[1]), &[2, 3]))
}

register_ops!(set_diag, set_diag_v2, set_diag_v3);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn diagonals_are_replaced() {
        let g = Graph::new();
        let x = g.constant([[7u8, 7, 7, 7], [7, 7, 7, 7], [7, 7, 7, 7]]).unwrap();
        let d = g.constant([1u8, 2, 3]).unwrap();
        let y = g.op("MatrixSetDiag").input(&x).input(&d).output().unwrap();
        assert_eq!(eval(&y), Tensor::from([[1u8, 7, 7, 7], [7, 2, 7, 7], [7, 7, 3, 7]]));
        let d = g.constant([[0u8, 9, 1], [6, 5, 8], [1, 2, 3], [4, 5, 0]]).unwrap();
        let k = g.constant([-1i32, 2]).unwrap();
        let y = g.op("MatrixSetDiagV3").input(&x).input(&d).input(&k).output().unwrap();
        assert_eq!(eval(&y), Tensor::from([[1u8, 6, 9, 7], [4, 2, 5, 1], [7, 5, 3, 8]]));
    }

    #[test]
    fn a_diagonal_of_another_length_is_refused() {
        let g = Graph::new();
        let x = g.constant([[7u8, 7], [7, 7]]).unwrap();
        let d = g.constant([1u8, 2, 3]).unwrap();
        let e = fails(&g.op("MatrixSetDiag").input(&x).input(&d).output().unwrap());
        assert!(e.message().contains("[2]") && e.message().contains("[3]"), "{e}");
    }
}
