//! `_FusedMatMul`: a product, a bias and an activation in one pass.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, register_ops};

use super::matmul::{MatMul, product_shape};

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let fused = init.attrs.strs("fused_ops")?;
    let (bias, relu) = match fused[..] {
        [] => (false, false),
        ["BiasAdd"] => (true, false),
        ["BiasAdd", "Relu"] => (true, true),
        ["Relu"] => (false, true),
        _ => {
            return Err(Error::unimplemented(format!(
                "_FusedMatMul fuses BiasAdd and Relu, in this order, not {fused:?}"
            )));
        }
    };
    let args = init.attrs.int("num_args")?;
    if args != i64::from(bias) {
        return Err(Error::invalid(format!(
            "_FusedMatMul of {fused:?} takes {} further inputs, got {args}",
            i64::from(bias)
        )));
    }
    Ok(Box::new(MatMul::new(init, bias, relu)?))
}

fn fused_matmul() -> OpDef {
    OpDef::new("_FusedMatMul", Category::Internal)
        .doc("A product of matrices followed by what `fused_ops` names: BiasAdd, whose bias is the only argument, and Relu.")
        .input("a: T")
        .input("b: T")
        .input("args: num_args * T")
        .output("product: T")
        .attr("transpose_a: bool = false")
        .attr("transpose_b: bool = false")
        .attr("T: {bfloat16, half, float, double}")
        .attr("num_args: int >= 0")
        .attr("fused_ops: list(string) = []")
        .attr("epsilon: float = 0.0001")
        .attr("leakyrelu_alpha: float = 0.2")
        .shape(|cx| {
            let product = product_shape(cx)?.remove(0);
            if cx.num_inputs() < 3 {
                return Ok(vec![product]);
            }
            let columns = PartialShape::vector(product.dim(1)).merge(&cx.input(2))?;
            Ok(vec![product.with_dim(1, columns.dim(0))])
        })
        .cpu(kernel)
}

register_ops!(fused_matmul);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::error::Result;
    use actorflow_core::{Code, Graph, Output, Tensor};

    fn fused(ops: &[&str], bias: Option<Tensor>) -> Result<Output> {
        let g = Graph::new();
        let a = g.constant([[1f32, -2.], [3., 4.]])?;
        let bias = bias.map(|b| g.constant(b)).transpose()?;
        let args: Vec<Output> = bias.into_iter().collect();
        let ops: Vec<&str> = ops.to_vec();
        g.op("_FusedMatMul")
            .name("fused")
            .input(&a)
            .input(&a)
            .input_list(&args)
            .attr("T", a.dtype())
            .attr("num_args", args.len())
            .attr("fused_ops", ops)
            .output()
    }

    #[test]
    fn bias_and_activation_follow_the_product() {
        let bias = || Some(Tensor::from([5f32, 1.]));
        assert_eq!(
            eval(&fused(&[], None).unwrap()),
            Tensor::from([[-5f32, -10.], [15., 10.]])
        );
        assert_eq!(
            eval(&fused(&["BiasAdd"], bias()).unwrap()),
            Tensor::from([[0f32, -9.], [20., 11.]])
        );
        let relu = fused(&["BiasAdd", "Relu"], bias()).unwrap();
        assert_eq!(eval(&relu), Tensor::from([[0f32, 0.], [20., 11.]]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(fails(&fused(&["Elu"], None).unwrap()).code(), Code::Unimplemented);
        assert_eq!(fails(&fused(&["BiasAdd"], None).unwrap()).code(), Code::InvalidArgument);
        assert!(fused(&["BiasAdd"], Some(Tensor::from([1f32]))).is_err());
    }
}
