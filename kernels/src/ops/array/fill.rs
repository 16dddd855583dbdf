//! `ZerosLike`, `OnesLike`, `Fill`, `Empty`: tensors of one value.

use actorflow_core::error::{Error, Result};
use actorflow_core::half::{bf16, f16};
use actorflow_core::kernel::OpContext;
use actorflow_core::num_complex::Complex;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Shape, Tensor, register_ops};

use super::support::ints;
use crate::moves;
use crate::ops::list::variants;
use crate::shapes;

/// The one of a dtype; true for bool.
fn one(dtype: DType) -> Result<Tensor> {
    Ok(match dtype {
        DType::F32 => Tensor::scalar(1f32),
        DType::F64 => Tensor::scalar(1f64),
        DType::F16 => Tensor::scalar(f16::ONE),
        DType::BF16 => Tensor::scalar(bf16::ONE),
        DType::I8 => Tensor::scalar(1i8),
        DType::I16 => Tensor::scalar(1i16),
        DType::I32 => Tensor::scalar(1i32),
        DType::I64 => Tensor::scalar(1i64),
        DType::U8 => Tensor::scalar(1u8),
        DType::U16 => Tensor::scalar(1u16),
        DType::U32 => Tensor::scalar(1u32),
        DType::U64 => Tensor::scalar(1u64),
        DType::C64 => Tensor::scalar(Complex::new(1f32, 0.0)),
        DType::C128 => Tensor::scalar(Complex::new(1f64, 0.0)),
        DType::Bool => Tensor::scalar(true),
        DType::QI8 | DType::QU8 | DType::QI32 | DType::QI16 | DType::QU16 => one(dtype.storage())?.bitcast(dtype)?,
        DType::Str | DType::Resource | DType::Variant => {
            return Err(Error::invalid(format!("there is no one of dtype {dtype}")));
        }
    })
}

fn zeros_like() -> OpDef {
    OpDef::new("ZerosLike", Category::Array)
        .doc("Zeros (empty strings, false) of the input's dtype and shape.")
        .input("x: T")
        .output("y: T")
        .attr("T: type")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            if init.input_types.first() == Some(&DType::Variant) {
                return Ok(Box::new(variants::zeros_like));
            }
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                let t = moves::zeros(cx, x.dtype(), x.shape().clone())?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn ones_like() -> OpDef {
    OpDef::new("OnesLike", Category::Array)
        .doc("Ones of the input's dtype and shape.")
        .input("x: T")
        .output("y: T")
        .attr(
            "T: {bfloat16, half, float, double, int8, uint8, int16, uint16, int32, uint32, int64, uint64, complex64, \
             complex128, bool}",
        )
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            let one = one(init.attrs.dtype("T")?)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = moves::full(cx, cx.input(0)?.shape().clone(), &one)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn fill() -> OpDef {
    OpDef::new("Fill", Category::Array)
        .doc("A tensor of shape `dims` full of one value.")
        .input("dims: index_type")
        .input("value: T")
        .output("output: T")
        .attr("T: type")
        .attr("index_type: {int32, int64} = DT_INT32")
        .shape(|cx| {
            cx.input(0).with_rank(1)?;
            cx.input(1).with_rank(0)?;
            Ok(vec![checked_dims(cx)?])
        })
        .gradient(|cx, dys| Ok(vec![None, Some(cx.dense(dys, 0)?.sum(&[], false)?.into())]))
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let (dims, value) = (cx.input(0)?, cx.input(1)?);
                if dims.shape().rank() != 1 {
                    return Err(Error::invalid(format!(
                        "dims must be a vector, got shape {}",
                        dims.shape()
                    )));
                }
                if !value.shape().is_scalar() {
                    return Err(Error::invalid(format!(
                        "value must be a scalar, got shape {}",
                        value.shape()
                    )));
                }
                let shape = Shape::from_i64(&ints(dims)?)?;
                let t = moves::full(cx, shape, value)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([])?;
            let dims = s.constant([2i32, 3])?;
            s.op("Fill").input(&dims).input(&x).finish()
        })
}

/// The shape that input 0 holds; unlike a shape to infer, no dimension may be negative.
fn checked_dims(cx: &actorflow_core::graph::ShapeContext<'_>) -> Result<actorflow_core::PartialShape> {
    if let Some(v) = cx.constant_i64s(0) {
        let shape = Shape::from_i64(&v)?;
        shape.checked_count()?;
        return Ok(shape.into());
    }
    cx.constant_shape(0)
}

fn empty() -> OpDef {
    OpDef::new("Empty", Category::Array)
        .doc("A tensor of the given shape and dtype whose elements nobody should read; here they are zero.")
        .input("shape: int32")
        .output("output: dtype")
        .attr("dtype: type")
        .attr("init: bool = false")
        .stateful()
        .shape(|cx| Ok(vec![checked_dims(cx)?]))
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.attrs.dtype("dtype")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let shape = Shape::from_i64(&ints(cx.input(0)?)?)?;
                let t = moves::zeros(cx, dtype, shape)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(zeros_like, ones_like, fill, empty);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};

    #[test]
    fn zeros_and_ones_of_every_dtype() {
        let g = Graph::new();
        for d in DType::ALL.into_iter().filter(|d| d.is_plain() && !d.is_quantized()) {
            let x = g.constant(Tensor::zeros(d, [3, 50]).unwrap()).unwrap();
            let ones = eval(&x.ones_like().unwrap());
            let want = eval(&x.zeros_like().unwrap());
            assert_eq!((ones.dtype(), ones.shape()), (d, want.shape()));
            assert!(want.bytes().unwrap().iter().all(|b| *b == 0) && ones != want);
        }
        let s = g.constant(Tensor::strings([2], vec!["a", "b"]).unwrap()).unwrap();
        assert_eq!(
            eval(&s.zeros_like().unwrap()),
            Tensor::strings([2], vec!["", ""]).unwrap()
        );
    }

    #[test]
    fn fill_refuses_what_cannot_be_held() {
        let g = Graph::new();
        let dims = |d: &[i64]| {
            let late = g.constant(Tensor::vector(d)).unwrap();
            let b = g.op("PlaceholderWithDefault").input(&late);
            b.attr("shape", PartialShape::UNKNOWN).output().unwrap()
        };
        let fill = |d: &[i64], v: Tensor| dims(d).fill_with(&g.constant(v).unwrap()).unwrap();
        assert_eq!(
            eval(&fill(&[2, 2], Tensor::from("x"))),
            Tensor::strings([2, 2], vec!["x"; 4]).unwrap()
        );
        assert_eq!(eval(&fill(&[0, 9], Tensor::from(1f32))).len(), 0);
        assert_eq!(fails(&fill(&[-1], Tensor::from(1f32))).code(), Code::InvalidArgument);
        assert_eq!(
            fails(&fill(&[1 << 40, 1 << 40], Tensor::from(1f32))).code(),
            Code::InvalidArgument
        );
        for v in [Tensor::from(1f32), Tensor::from("x")] {
            let e = fails(&fill(&[1 << 30, 1 << 30], v));
            assert!(
                matches!(e.code(), Code::ResourceExhausted | Code::InvalidArgument),
                "{e}"
            );
        }
    }
}
