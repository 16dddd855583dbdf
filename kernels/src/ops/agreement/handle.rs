//! `Agreement`: the handle of the actor.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::desk::{Agreement, AgreementDesk};
use super::state::Rules;
use crate::ops::queue::handle::{Handle, Place};
use crate::shapes;

fn rules(init: &KernelInit<'_>) -> Result<Rules> {
    let count = |name: &str| {
        let n = init.attrs.int(name)?;
        usize::try_from(n).map_err(|_| Error::invalid(format!("{name} of an agreement cannot be {n}")))
    };
    let rules = Rules {
        groups: count("groups")?,
        members: count("members")?,
        required: count("required")?,
        bound: u64::try_from(init.attrs.int("bound")?).ok(),
    };
    rules.replicas()?;
    Ok(rules)
}

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let rules = rules(init)?;
    Ok(Box::new(Handle::new(
        Place::of(init)?,
        move |name, mailbox| Ok(AgreementDesk::new(name, rules, Agreement::new(rules)?, mailbox)),
        move |desk: &AgreementDesk| match *desk.info() == rules {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "agreement {} exists with {:?}, but the node asks for {rules:?}: all replicas must use the same strategy \
                 and say the same about how many they are",
                desk.name(),
                desk.info()
            ))),
        },
    )))
}

fn agreement() -> OpDef {
    OpDef::new("Agreement", Category::Training)
        .doc(
            "The actor at which replicas agree about updates: `groups` of `members`, of which the first `required` in each \
             make an update; no replica is more than `bound` pushes ahead of the slowest, unless that is negative.",
        )
        .output("agreement: resource")
        .attr("groups: int >= 1 = 1")
        .attr("members: int >= 1 = 1")
        .attr("required: int >= 1 = 1")
        .attr("bound: int = -1")
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(make)
}

register_ops!(agreement);
