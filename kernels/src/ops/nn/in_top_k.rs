//! `InTopK`, `InTopKV2`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::DType;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, register_ops};

use super::rows::writable;

/// Whether class `target` is among the `k` most probable; never if a prediction that matters is not finite.
fn in_top(predictions: &[f32], target: i64, k: i64) -> bool {
    let own = usize::try_from(target).ok().and_then(|t| predictions.get(t));
    let Some(own) = own.filter(|p| p.is_finite()) else {
        return false;
    };
    predictions.iter().all(|p| p.is_finite()) && (predictions.iter().filter(|p| *p > own).count() as i64) < k
}

fn compute(cx: &mut OpContext<'_>, k: i64) -> Result<()> {
    let (predictions, targets) = (cx.input(0)?, cx.input(1)?);
    let (shape, rows) = (predictions.shape(), targets.shape());
    let [batch, classes] = *shape.dims() else {
        return Err(Error::invalid(format!(
            "predictions must be 2-dimensional, got shape {shape}"
        )));
    };
    if rows.rank() != 1 {
        return Err(Error::invalid(format!(
            "targets must be 1-dimensional, got shape {rows}"
        )));
    }
    if rows[0] != batch {
        return Err(Error::invalid(format!(
            "first dimension of predictions {batch} must match length of targets {}",
            rows[0]
        )));
    }
    let mut out = cx.alloc(DType::Bool, rows.clone())?;
    let p = predictions.as_slice::<f32>()?;
    let targets = targets.to_i64_vec()?;
    for (i, (o, t)) in writable::<bool>(&mut out)?.iter_mut().zip(targets).enumerate() {
        *o = in_top(&p[i * classes..][..classes], t, k);
    }
    cx.set_output(0, out);
    Ok(())
}

fn shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (predictions, targets) = (cx.input(0).with_rank(2)?, cx.input(1).with_rank(1)?);
    Ok(vec![predictions.sub(0, 1).merge(&targets)?])
}

fn in_top_k() -> OpDef {
    OpDef::new("InTopK", Category::Nn)
        .doc("Whether each row's target is among its `k` highest predictions; ties count as in.")
        .input("predictions: float")
        .input("targets: T")
        .output("precision: bool")
        .attr("k: int")
        .attr("T: {int32, int64} = DT_INT32")
        .shape(shape)
        .not_differentiable()
        .cpu(|init: &KernelInit<'_>| {
            let k = init.attrs.int("k")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| compute(cx, k)))
        })
}

fn in_top_k_v2() -> OpDef {
    OpDef::new("InTopKV2", Category::Nn)
        .doc("Whether each row's target is among its `k` highest predictions; ties count as in.")
        .input("predictions: float")
        .input("targets: T")
        .input("k: T")
        .output("precision: bool")
        .attr("T: {int32, int64} = DT_INT32")
        .shape(|cx| {
            cx.input(2).with_rank(0)?;
            shape(cx)
        })
        .not_differentiable()
        .cpu(|_: &KernelInit<'_>| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let k = cx.input(2)?.to_i64()?;
                compute(cx, k)
            }))
        })
}

register_ops!(in_top_k, in_top_k_v2);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    /// TensorFlow 2.21's own values.
    #[test]
    fn ties_are_in_and_what_is_not_finite_is_out() {
        let g = Graph::new();
        let (n, i) = (f32::NAN, f32::INFINITY);
        let p = g
            .constant([
                [0.1, 0.3, 0.3, 0.2],
                [0.1, 0.3, 0.3, 0.2],
                [n, 0.3, 0.3, 0.2],
                [0.1, i, 0.3, 0.2],
                [0.1, 0.2, 0.3, 0.4],
                [0.1, 0.2, 0.3, 0.4f32],
            ])
            .unwrap();
        let run = |targets: [i32; 6], k: i32| {
            let (t, k) = (g.constant(targets).unwrap(), g.constant(k).unwrap());
            eval(&g.op("InTopKV2").input(&p).input(&t).input(&k).output().unwrap())
        };
        let want = |b: [bool; 6]| Tensor::from(b);
        assert_eq!(
            run([1, 2, 1, 1, 4, -1], 1),
            want([true, true, false, false, false, false])
        );
        assert_eq!(
            run([1, 0, 0, 0, 0, 3], 2),
            want([true, false, false, false, false, true])
        );
        assert_eq!(run([1, 0, 0, 0, 0, 3], -2), want([false; 6]));
        assert_eq!(
            run([1, 0, 0, 0, 0, 3], 10),
            want([true, true, false, false, true, true])
        );
        let t = g.constant([1i64, 0, 0, 0, 0, 3]).unwrap();
        let y = g.op("InTopK").input(&p).input(&t).attr("k", 1i64).output().unwrap();
        assert_eq!(eval(&y), want([true, false, false, false, false, true]));
        let short = g.constant([1i32]).unwrap();
        assert!(g.op("InTopK").input(&p).input(&short).attr("k", 1i64).output().is_err());
    }
}
