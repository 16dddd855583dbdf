//! `Const`, `Placeholder`, `PlaceholderWithDefault`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, Tensor, register_ops};

struct Const(Tensor);

impl Kernel for Const {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        cx.set_output(0, self.0.clone());
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn constant() -> OpDef {
    OpDef::new("Const", Category::Array)
        .doc("A tensor that is part of the graph.")
        .output("output: dtype")
        .attr("value: tensor")
        .attr("dtype: type")
        .shape(|cx| Ok(vec![PartialShape::from(cx.attrs().tensor("value")?.shape())]))
        .not_differentiable()
        .cpu(|init| Ok(Box::new(Const(init.attrs.tensor("value")?.clone()))))
}

fn unfed(_: &mut OpContext<'_>) -> Result<()> {
    Err(Error::invalid("you must feed a value for this placeholder"))
}

fn placeholder() -> OpDef {
    OpDef::new("Placeholder", Category::Array)
        .doc("A tensor that every run must feed; running it is an error.")
        .output("output: dtype")
        .attr("dtype: type")
        .attr("shape: shape = unknown")
        .shape(|cx| Ok(vec![cx.attrs().shape("shape")?.clone()]))
        .not_differentiable()
        // Not folded or merged: each placeholder is fed by its own name.
        .stateful()
        .cpu(|_: &KernelInit<'_>| Ok(Box::new(unfed)))
}

fn placeholder_with_default() -> OpDef {
    OpDef::new("PlaceholderWithDefault", Category::Array)
        .doc("Passes its input through unless it is fed.")
        .input("input: dtype")
        .output("output: dtype")
        .attr("dtype: type")
        .attr("shape: shape")
        .shape(|cx| {
            let shape = cx.attrs().shape("shape")?;
            cx.input(0).merge(shape)?;
            Ok(vec![shape.clone()])
        })
        .gradient(|_, dys| Ok(vec![dys[0].clone()]))
        .stateful()
        .cpu(|init| {
            let shape = init.attrs.shape("shape")?.clone();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let x = cx.input(0)?.shape();
                if !shape.accepts(x) {
                    return Err(Error::invalid(format!(
                        "the default has shape {x}, which is not {shape}"
                    )));
                }
                cx.forward(0, 0)
            }))
        })
        .sample(|s: &mut Sampler| -> Result<Operation> {
            let x = s.normal([2, 3])?;
            s.op("PlaceholderWithDefault")
                .input(&x)
                .attr("shape", PartialShape::of_rank(2))
                .finish()
        })
}

register_ops!(constant, placeholder, placeholder_with_default);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, DType, Graph};

    #[test]
    fn a_constant_is_its_value() {
        let g = Graph::new();
        let c = g.constant([[1i32, 2], [3, 4]]).unwrap();
        assert_eq!(c.shape(), PartialShape::from([2, 2]));
        assert_eq!(eval(&c), Tensor::from([[1i32, 2], [3, 4]]));
    }

    #[test]
    fn an_unfed_placeholder_is_named() {
        let g = Graph::new();
        let p = g.placeholder("images", DType::F32, PartialShape::UNKNOWN).unwrap();
        let e = fails(&p);
        assert_eq!((e.code(), e.node()), (Code::InvalidArgument, Some("images")));
    }
}
