//! `EnsureShape`, `DeepCopy`, `GuaranteeConst`, `PlaceholderV2`, `Timestamp`.

use std::time::{SystemTime, UNIX_EPOCH};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::support::Light;
use crate::shapes;

fn ensure_shape() -> OpDef {
    OpDef::new("EnsureShape", Category::Array)
        .doc("The same tensor; an error if its shape is not one that `shape` allows.")
        .input("input: T")
        .output("output: T")
        .attr("shape: shape")
        .attr("T: type")
        .shape(|cx| Ok(vec![cx.input(0).merge(cx.attrs().shape("shape")?)?]))
        .gradient(|_, dys| Ok(vec![dys[0].clone()]))
        .cpu(|init| {
            let want = init.attrs.shape("shape")?.clone();
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                if !want.accepts(x.shape()) {
                    return Err(Error::invalid(format!(
                        "the tensor's shape {} is not compatible with the expected shape {want}",
                        x.shape()
                    )));
                }
                cx.forward(0, 0)
            })))
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            s.op("EnsureShape")
                .input(&x)
                .attr("shape", PartialShape::of_rank(2))
                .finish()
        })
}

fn deep_copy() -> OpDef {
    OpDef::new("DeepCopy", Category::Array)
        .doc("A copy that shares nothing with its input.")
        .input("x: T")
        .output("y: T")
        .attr("T: type")
        .stateful()
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let t = cx.input(0)?.deep_copy_in(cx.step().device.pool())?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn guarantee_const() -> OpDef {
    OpDef::new("GuaranteeConst", Category::Array)
        .doc("The same tensor, with the promise that it is the same in every run.")
        .input("input: T")
        .output("output: T")
        .attr("T: type")
        .stateful()
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|_| Ok(Box::new(Light(|cx: &mut OpContext<'_>| cx.forward(0, 0)))))
}

fn unfed(_: &mut OpContext<'_>) -> Result<()> {
    Err(Error::invalid("you must feed a value for this placeholder"))
}

fn placeholder_v2() -> OpDef {
    OpDef::new("PlaceholderV2", Category::Array)
        .doc("A tensor that every run must feed; running it is an error.")
        .output("output: dtype")
        .attr("dtype: type")
        .attr("shape: shape")
        .stateful()
        .shape(|cx| Ok(vec![cx.attrs().shape("shape")?.clone()]))
        .not_differentiable()
        .cpu(|_: &KernelInit<'_>| Ok(Box::new(unfed)))
}

fn timestamp() -> OpDef {
    OpDef::new("Timestamp", Category::Io)
        .doc("Seconds since the beginning of 1970, when the operation runs.")
        .output("ts: double")
        .stateful()
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| -> Result<()> {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                cx.set_output(0, Tensor::scalar(now.as_secs_f64()));
                Ok(())
            })))
        })
}

register_ops!(ensure_shape, deep_copy, guarantee_const, placeholder_v2, timestamp);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, PartialShape, Tensor};

    #[test]
    fn a_shape_is_ensured_when_it_is_known() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2]]).unwrap();
        let ensure = |x, s: PartialShape| g.op("EnsureShape").input(x).attr("shape", s).output();
        assert_eq!(eval(&ensure(&x, PartialShape::of_rank(2)).unwrap()), eval(&x));
        assert!(ensure(&x, PartialShape::of_rank(1)).is_err());
        let late = g
            .op("PlaceholderWithDefault")
            .input(&x)
            .attr("shape", PartialShape::UNKNOWN)
            .output()
            .unwrap();
        let y = ensure(&late, PartialShape::from([2, 2])).unwrap();
        assert_eq!(y.shape(), PartialShape::from([2, 2]));
        assert!(fails(&y).message().contains("[1,2]"));
    }

    #[test]
    fn a_deep_copy_shares_nothing() {
        let g = Graph::new();
        let x = g.constant(Tensor::zeros(DType::F32, [9]).unwrap()).unwrap();
        let y = eval(&x.unary("DeepCopy").unwrap());
        assert!(y == eval(&x) && !y.shares_data_with(&eval(&x)));
    }
}
