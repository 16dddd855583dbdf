//! `SparseMatMul`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Output, Tensor, register_ops};
use half::bf16;

use super::matmul::{both_matrices, product_shape};
use super::product::{Batch, Finish, Multiply, Turn, convert, extents, multiply};
use crate::gemm::Offsets;

/// The product in single precision. That an operand is said to be mostly zeros changes nothing but speed, and products
/// of dense matrices are fast.
struct SparseMatMul {
    a: Turn,
    b: Turn,
    multiply: Multiply,
}

impl Kernel for SparseMatMul {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let device = &*cx.step().device;
        let single = |i: usize| -> Result<Tensor> {
            let x = cx.input(i)?;
            match x.dtype() {
                DType::BF16 => convert::<bf16, f32>(device, x, bf16::to_f32),
                _ => Ok(x.clone()),
            }
        };
        let (a, b) = (single(0)?, single(1)?);
        both_matrices(a.shape(), b.shape())?;
        let (m, k, n) = extents((a.shape(), self.a.transpose), (b.shape(), self.b.transpose))?;
        let batch = Batch {
            m,
            k,
            n,
            count: 1,
            a: Offsets::Every(0),
            b: Offsets::Every(0),
        };
        let finish = Finish::default();
        let out = (self.multiply)(device, (&a, self.a), (&b, self.b), &batch, finish, [m, n].into())?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let turn = |name| -> Result<Turn> {
        Ok(Turn {
            transpose: init.attrs.bool(name)?,
            conj: false,
        })
    };
    Ok(Box::new(SparseMatMul {
        a: turn("transpose_a")?,
        b: turn("transpose_b")?,
        multiply: multiply(DType::F32, init)?,
    }))
}

fn sparse_matmul_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (a, b, dy) = (cx.input(0)?, cx.input(1)?, cx.dense(grads, 0)?);
    let attr = |name| cx.attrs().bool(name);
    let (ta, tb) = (attr("transpose_a")?, attr("transpose_b")?);
    // An operand with the hint whether it is mostly zeros.
    let (a_is, b_is) = ((&a, attr("a_is_sparse")?), (&b, attr("b_is_sparse")?));
    let dy_is = (&dy, false);
    let product = |x: (&Output, bool), y: (&Output, bool), tx: bool, ty: bool, of: &Output| -> Result<Option<Grad>> {
        let product = cx
            .graph()
            .op("SparseMatMul")
            .input(x.0)
            .input(y.0)
            .attr("transpose_a", tx)
            .attr("transpose_b", ty)
            .attr("a_is_sparse", x.1)
            .attr("b_is_sparse", y.1)
            .output()?;
        Ok(Some(product.cast(of.dtype())?.into()))
    };
    let da = match ta {
        false => product(dy_is, b_is, false, !tb, &a)?,
        true => product(b_is, dy_is, tb, true, &a)?,
    };
    let db = match tb {
        false => product(a_is, dy_is, !ta, false, &b)?,
        true => product(dy_is, a_is, true, ta, &b)?,
    };
    Ok(vec![da, db])
}

fn sparse_matmul() -> OpDef {
    OpDef::new("SparseMatMul", Category::Matrix)
        .doc("The product in single precision of two matrices, of which either may be mostly zeros, or bfloat16.")
        .input("a: Ta")
        .input("b: Tb")
        .output("product: float")
        .attr("transpose_a: bool = false")
        .attr("transpose_b: bool = false")
        .attr("a_is_sparse: bool = false")
        .attr("b_is_sparse: bool = false")
        .attr("Ta: {float, bfloat16} = DT_FLOAT")
        .attr("Tb: {float, bfloat16} = DT_FLOAT")
        .shape(product_shape)
        .gradient(sparse_matmul_grad)
        .cpu(kernel)
}

register_ops!(sparse_matmul);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::gradient::gradients;
    use actorflow_core::{DType, Graph, Output, Tensor};

    #[test]
    fn products_and_gradients_are_those_of_matmul() {
        let g = Graph::new();
        let c = |x: Tensor| g.constant(x).unwrap();
        let (a, b) = (
            c(Tensor::from([[1f32, 0., 3.], [0., 5., 0.]])),
            c(Tensor::from([[0f32, 2.], [3., 0.], [0., 1.]])),
        );
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let turn = |x: &Output, turn| if turn { x.transpose(&[1, 0]).unwrap() } else { x.clone() };
            let (x, y) = (turn(&a, ta), turn(&b, tb));
            let node = g.op("SparseMatMul").input(&x).input(&y).attr("a_is_sparse", true);
            let sparse = node.attr("transpose_a", ta).attr("transpose_b", tb).output().unwrap();
            let dense = x.matmul_t(&y, ta, tb).unwrap();
            let mut outs = Vec::new();
            for product in [sparse, dense] {
                let square = product.square().unwrap();
                outs.push(product);
                for d in gradients(&[square], &[x.clone(), y.clone()]).unwrap() {
                    outs.push(d.unwrap().to_dense().unwrap());
                }
            }
            let out = Interpreter::default().run(&outs, &[], &[]).unwrap();
            assert_eq!(out[..3], out[3..], "{ta} {tb}");
        }
    }

    #[test]
    fn bfloat16_is_multiplied_in_single_precision_and_its_gradient_is_narrow() {
        let g = Graph::new();
        let narrow = |x: f32| g.constant([[x]]).unwrap().cast(DType::BF16).unwrap();
        let (a, b) = (narrow(1.0078125), narrow(1.0078125));
        let y = g
            .op("SparseMatMul")
            .input(&a)
            .input(&b)
            .attr("Ta", DType::BF16)
            .attr("Tb", DType::BF16)
            .output()
            .unwrap();
        assert_eq!(eval(&y), Tensor::from([[1.0078125f32 * 1.0078125]]));
        let d = gradients(&[y], &[a]).unwrap().remove(0).unwrap().to_dense().unwrap();
        assert_eq!(d.dtype(), DType::BF16);
    }
}
