//! `Max`, `Min`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::DType;
use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::OpDef;
use actorflow_core::register_ops;
use half::{bf16, f16};

use super::shared::{self, KeptShape, clamped, direct};
use crate::reduction::{Largest, Smallest};

const REALS: &str = "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}";

macro_rules! by_type {
    ($dtype:expr, $fold:ident) => {
        match $dtype {
            DType::F32 => direct::<$fold<f32>>,
            DType::F64 => direct::<$fold<f64>>,
            DType::I32 => direct::<$fold<i32>>,
            DType::I64 => direct::<$fold<i64>>,
            DType::U64 => direct::<$fold<u64>>,
            DType::F16 => clamped::<$fold<f32>, f16>,
            DType::BF16 => clamped::<$fold<f32>, bf16>,
            DType::I8 => clamped::<$fold<i64>, i8>,
            DType::I16 => clamped::<$fold<i64>, i16>,
            DType::U8 => clamped::<$fold<i64>, u8>,
            DType::U16 => clamped::<$fold<i64>, u16>,
            _ => clamped::<$fold<i64>, u32>,
        }
    };
}

/// The gradient goes to the extreme elements, in equal shares.
fn extreme_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, kept) = (cx.input(0)?, KeptShape::of(cx)?);
    let y = kept.apply(&cx.output(0)?)?;
    let dy = kept.apply(&cx.dense(grads, 0)?)?;
    let chosen = y.equal(&x)?.cast(dy.dtype())?;
    let number = kept.apply(&chosen.reduce_by("Sum", &cx.input(1)?, cx.attrs().bool("keep_dims")?)?)?;
    let dx = chosen.divided_by(&number)?.times(&dy)?;
    Ok(vec![Some(dx.into()), None])
}

fn max() -> OpDef {
    shared::definition("Max", REALS)
        .doc("The largest element along some dimensions; NaN if one is.")
        .gradient(extreme_grad)
        .cpu(|init| shared::kernel(init, true, by_type!(init.input_types[0], Largest)))
        .sample(|s| shared::sample(s, "Max", &[1], false))
        .sample(|s| shared::sample(s, "Max", &[2, 0], true))
}

fn min() -> OpDef {
    shared::definition("Min", REALS)
        .doc("The smallest element along some dimensions; NaN if one is.")
        .gradient(extreme_grad)
        .cpu(|init| shared::kernel(init, true, by_type!(init.input_types[0], Smallest)))
        .sample(|s| shared::sample(s, "Min", &[1], false))
        .sample(|s| shared::sample(s, "Min", &[2, 0], true))
}

register_ops!(max, min);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Tensor};
    use half::f16;

    fn reduce(op: &str, x: impl Into<Tensor>, axis: i32) -> Tensor {
        let g = Graph::new();
        let axis = g.constant(axis).unwrap();
        eval(&g.constant(x).unwrap().reduce_by(op, &axis, false).unwrap())
    }

    #[test]
    fn extremes_follow_the_axis_and_keep_nan() {
        assert_eq!(reduce("Max", [[1i8, -7], [3, -9]], 0), Tensor::from([3i8, -7]));
        assert_eq!(reduce("Min", [[1u64, u64::MAX], [3, 9]], 1), Tensor::from([1u64, 3]));
        assert!(
            reduce("Max", [1.0f64, f64::NAN, 3.0], 0)
                .to_scalar::<f64>()
                .unwrap()
                .is_nan()
        );
        assert_eq!(reduce("Min", [f16::ONE, f16::ZERO], 0), Tensor::from(f16::ZERO));
    }

    #[test]
    fn the_extreme_of_nothing_is_the_other_end_of_the_type() {
        let none = |d: DType| Tensor::zeros(d, [0, 2]).unwrap();
        assert_eq!(reduce("Max", none(DType::F32), 0), Tensor::from([f32::NEG_INFINITY; 2]));
        assert_eq!(reduce("Max", none(DType::I8), 0), Tensor::from([i8::MIN; 2]));
        assert_eq!(reduce("Min", none(DType::I16), 0), Tensor::from([i16::MAX; 2]));
        assert_eq!(reduce("Min", none(DType::U8), 0), Tensor::from([255u8; 2]));
        assert_eq!(reduce("Max", none(DType::U64), 0), Tensor::from([0u64; 2]));
    }
}
