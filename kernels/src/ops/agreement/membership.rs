//! `AgreeBegin`, `AgreeJoin`, `AgreeLeave`: who takes part, and from when on.

#![forbid(unsafe_code)]

use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, register_ops};

use super::desk::{Agreement, Wait, count};
use crate::ops::queue::room::{At, first_input, settle, submit};
use crate::shapes;

fn on_agreement(name: &'static str, doc: &'static str) -> OpDef {
    OpDef::new(name, Category::Training)
        .doc(doc)
        .input("agreement: resource")
        .stateful()
        .not_differentiable()
}

fn begin() -> OpDef {
    on_agreement(
        "AgreeBegin",
        "The variables have values, which are `version` updates old: replicas that wait to join may. With `if_behind` it does \
         nothing where that, or more, is known already.",
    )
    .input("version: int64")
    .attr("if_behind: bool = false")
    .shape(shapes::none)
    .cpu(|init| {
        let if_behind = init.attrs.bool("if_behind")?;
        Ok(Box::new(At::once(first_input::<Agreement>, move |cx, desk| {
            let version = count(cx, 1, "version")?;
            settle(cx, desk, |room| {
                let state = &mut room.counter.state;
                let anew = !if_behind || state.catch_up(version);
                if !if_behind {
                    state.begin(version);
                }
                if anew {
                    room.counter.mean = None;
                }
                Ok(((), None))
            })
        })))
    })
}

fn join() -> OpDef {
    on_agreement(
        "AgreeJoin",
        "A replica takes part from now on; waits until the variables have values. Outputs the number of its next push \
         and its group's round, and what the group decided last, to be brought to all servers.",
    )
    .input("replica: int64")
    .output("next: int64")
    .output("decision: int64")
    .shape(|_| Ok(vec![PartialShape::vector(Some(2)), PartialShape::vector(None)]))
    .cpu(|_| {
        Ok(Box::new(At::waits(first_input::<Agreement>, |cx, desk| {
            let replica = count(cx, 1, "replica")?;
            submit(cx, desk, Wait::Join(replica))
        })))
    })
}

fn leave() -> OpDef {
    on_agreement("AgreeLeave", "A replica takes part no more; nobody waits for it.")
        .input("replica: int64")
        .shape(shapes::none)
        .cpu(|_| {
            Ok(Box::new(At::once(first_input::<Agreement>, |cx, desk| {
                let replica = count(cx, 1, "replica")?;
                settle(cx, desk, |room| {
                    room.counter.state.leave(replica)?;
                    Ok(((), None))
                })
            })))
        })
}

register_ops!(begin, join, leave);
