//! `Shape`, `ShapeN`, `Size`, `Rank`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::support::{Light, index_vector};
use crate::shapes;

fn shapes_of(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .attr("T: type")
        .attr("out_type: {int32, int64} = DT_INT32")
        .shape(|cx| Ok(cx.inputs().iter().map(|s| PartialShape::vector(s.rank())).collect()))
        .not_differentiable()
        .cpu(|init| {
            let out = init.attrs.dtype("out_type")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                for i in 0..cx.num_inputs() {
                    let dims = cx.input(i)?.shape().clone();
                    let t = match (out, dims.dims()) {
                        (DType::I32, &[n]) if n <= i32::MAX as usize => Tensor::vector(&[n as i32]),
                        _ => index_vector(out, &dims.to_i64())?,
                    };
                    cx.set_output(i, t);
                }
                Ok(())
            })))
        })
}

fn shape() -> OpDef {
    shapes_of("Shape")
        .doc("The dimensions of a tensor, as a vector.")
        .input("input: T")
        .output("output: out_type")
}

fn shape_n() -> OpDef {
    shapes_of("ShapeN")
        .doc("The dimensions of several tensors, as vectors.")
        .input("input: N * T")
        .output("output: N * out_type")
        .attr("N: int >= 1")
}

fn size() -> OpDef {
    OpDef::new("Size", Category::Array)
        .doc("The number of elements.")
        .input("input: T")
        .output("output: out_type")
        .attr("T: type")
        .attr("out_type: {int32, int64} = DT_INT32")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|init| {
            let wide = init.attrs.dtype("out_type")? == DType::I64;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let n = cx.input(0)?.len();
                let t = if wide {
                    Tensor::scalar(n as i64)
                } else {
                    Tensor::scalar(i32::try_from(n).map_err(|_| {
                        Error::invalid(format!("{n} elements do not fit an int32; set out_type to int64"))
                    })?)
                };
                cx.set_output(0, t);
                Ok(())
            })))
        })
}

fn rank() -> OpDef {
    OpDef::new("Rank", Category::Array)
        .doc("The number of dimensions.")
        .input("input: T")
        .output("output: int32")
        .attr("T: type")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| -> Result<()> {
                let r = cx.input(0)?.shape().rank();
                cx.set_output(0, Tensor::scalar(r as i32));
                Ok(())
            })))
        })
}

register_ops!(shape, shape_n, size, rank);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Tensor};

    #[test]
    fn shapes_ranks_and_sizes_of_every_rank() {
        let g = Graph::new();
        let x = g.constant(Tensor::zeros(DType::F32, [2, 0, 3, 4, 5]).unwrap()).unwrap();
        assert_eq!(eval(&x.shape_op().unwrap()), Tensor::from([2i32, 0, 3, 4, 5]));
        assert_eq!(eval(&x.size_op().unwrap()), Tensor::from(0i32));
        assert_eq!(eval(&x.rank_op().unwrap()), Tensor::from(5i32));
        let s = g.constant("text").unwrap();
        assert_eq!(eval(&s.shape_op().unwrap()).shape().dims(), [0]);
        let wide = g.op("ShapeN").input_list(&[s.clone(), s]).attr("out_type", DType::I64);
        assert_eq!(eval(&wide.finish().unwrap().output(1).unwrap()).dtype(), DType::I64);
    }
}
