//! `AgreeStage`: the first phase, in which a replica leaves its gradients.

#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, register_ops};

use super::desk::{Agreement, tag, vector};
use crate::ops::queue::room::{At, first_input, settle};

/// The tag is input 1, the payload follows.
const PAYLOAD: usize = 2;

fn run(cx: &mut OpContext<'_>, desk: &super::desk::AgreementDesk) -> Result<()> {
    let tag = tag(cx, 1)?;
    let payload = (PAYLOAD..cx.num_inputs())
        .map(|i| cx.take_input(i))
        .collect::<Result<Vec<_>>>()?;
    let ticket = settle(cx, desk, |room| Ok((room.counter.state.stage(tag, payload)?, None)))?;
    cx.set_output(0, vector(Some(&ticket)));
    Ok(())
}

fn stage() -> OpDef {
    OpDef::new("AgreeStage", Category::Training)
        .doc(
            "Leaves a replica's gradients and the hyper-parameters that go with them. `tag` is the replica, the number of its \
             push, the round and the version of the values that they were computed from. The ticket says that they are \
             there; of a replica that decides alone it is the decision.",
        )
        .input("agreement: resource")
        .input("tag: int64")
        .input("payload: payload_types")
        .output("ticket: int64")
        .attr("payload_types: list(type) >= 0")
        .shape(|_| Ok(vec![PartialShape::vector(Some(4))]))
        .stateful()
        .not_differentiable()
        .cpu(|_| Ok(Box::new(At::once(first_input::<Agreement>, |cx, desk| run(cx, desk)))))
}

register_ops!(stage);
