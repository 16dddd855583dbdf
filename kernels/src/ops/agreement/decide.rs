//! `AgreeDecide`, `AgreeGate`: where replicas wait for each other.

#![forbid(unsafe_code)]

use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, register_ops};

use super::desk::{Agreement, Wait, tag};
use crate::ops::queue::room::{At, first_input, settle, submit};

fn waiting(name: &'static str, doc: &'static str) -> OpDef {
    OpDef::new(name, Category::Training)
        .doc(doc)
        .input("agreement: resource")
        .input("tag: int64")
        .input("after: N * int64")
        .output("decision: int64")
        .attr("N: int >= 1")
        .shape(|_| Ok(vec![PartialShape::vector(None)]))
        .stateful()
        .not_differentiable()
}

fn decide() -> OpDef {
    waiting(
        "AgreeDecide",
        "A replica has staged everywhere, as the tickets `after` prove; waits until enough have. The decision is the same \
         for all of them, and for all servers. One who comes too late gets the decision that was made without it.",
    )
    .cpu(|_| {
        Ok(Box::new(At::waits(first_input::<Agreement>, |cx, desk| {
            let tag = tag(cx, 1)?;
            cx.state(desk.actor())?.counter.state.arrive(tag)?;
            submit(cx, desk, Wait::Decision(tag))
        })))
    })
}

fn gate() -> OpDef {
    waiting(
        "AgreeGate",
        "A replica's push is applied everywhere, as `after` proves; waits while it is more than the bound ahead of the \
         slowest. The decision is empty.",
    )
    .cpu(|_| {
        Ok(Box::new(At::waits(first_input::<Agreement>, |cx, desk| {
            let tag = tag(cx, 1)?;
            settle(cx, desk, |room| {
                room.counter.state.finish(tag.replica)?;
                Ok(((), None))
            })?;
            submit(cx, desk, Wait::Gate(tag.replica))
        })))
    })
}

register_ops!(decide, gate);
