//! `AgreeReport`: what has happened at an agreement.

#![forbid(unsafe_code)]

use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::desk::{Agreement, number};
use crate::ops::queue::room::{At, first_input};

fn report() -> OpDef {
    OpDef::new("AgreeReport", Category::Training)
        .doc(
            "Whether the variables have values; how many updates were applied; how many pushes were applied when they were \
             0, 1, 2 … updates old; and which replicas the others wait for.",
        )
        .input("agreement: resource")
        .output("ready: bool")
        .output("version: int64")
        .output("histogram: int64")
        .output("missing: int64")
        .shape(|_| {
            let (scalar, vector) = (PartialShape::scalar(), PartialShape::vector(None));
            Ok(vec![scalar.clone(), scalar, vector.clone(), vector])
        })
        .stateful()
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(At::once(first_input::<Agreement>, |cx, desk| {
                let outputs = {
                    let room = cx.state(desk.actor())?;
                    let s = &room.counter.state;
                    let list = |v: &[u64]| Tensor::vector(&v.iter().map(|x| number(*x)).collect::<Vec<_>>());
                    [
                        Tensor::scalar(s.is_ready()),
                        Tensor::scalar(number(s.version())),
                        list(s.histogram()),
                        list(&s.missing()),
                    ]
                };
                for (i, t) in outputs.into_iter().enumerate() {
                    cx.set_output(i, t);
                }
                Ok(())
            })))
        })
}

register_ops!(report);
