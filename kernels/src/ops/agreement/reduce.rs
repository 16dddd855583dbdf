//! `AgreeReduce`: the mean of the gradients that count, for replicas that keep the parameters themselves.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Code, Tensor, register_ops};

use super::desk::{Agreement, AgreementDesk, decision};
use super::mean;
use crate::ops::queue::room::{At, first_input};
use crate::shapes;

fn run(cx: &OpContext<'_>, desk: &AgreementDesk) -> Result<Vec<Tensor>> {
    let d = decision(cx, 1)?.ok_or_else(|| Error::invalid("a mean needs a decision whose gradients count"))?;
    let mut room = cx.state(desk.actor())?;
    if let Some((round, mean)) = &room.counter.mean
        && *round == d.round
    {
        return Ok(mean.clone());
    }
    let mut mean = None;
    room.counter.state.bring(&d, |gradients| {
        let pool = cx.step().device.pool();
        let of = |i: usize| {
            let parts = gradients.iter().filter_map(|(_, p)| p.get(i));
            mean::dense(&parts.collect::<Vec<_>>(), pool, cx.parallel())
        };
        let n = gradients.first().map_or(0, |(_, p)| p.len());
        if gradients.iter().any(|(_, p)| p.len() != n) || n != cx.num_outputs() {
            return Err(Error::invalid(format!(
                "the replicas pushed different numbers of tensors, or not the {} that are asked for",
                cx.num_outputs()
            )));
        }
        mean = Some((0..n).map(of).collect::<Result<Vec<_>>>()?);
        Ok(())
    })?;
    let mean = mean.ok_or_else(|| {
        let late = format!(
            "the mean of step {} is no longer here: the replica is more than a step late",
            d.round
        );
        Error::new(Code::Aborted, late)
    })?;
    room.counter.mean = Some((d.round, mean.clone()));
    Ok(mean)
}

fn reduce() -> OpDef {
    OpDef::new("AgreeReduce", Category::Training)
        .doc("The means of the tensors of all pushes that count, in the order of the replicas; the same for everybody.")
        .input("agreement: resource")
        .input("decision: int64")
        .output("means: mean_types")
        .attr("mean_types: list(type) >= 1")
        .shape(shapes::unknown)
        .stateful()
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(At::once(first_input::<Agreement>, |cx, desk| {
                let outputs = run(cx, desk)?;
                for (i, t) in outputs.into_iter().enumerate() {
                    cx.set_output(i, t);
                }
                Ok(())
            })))
        })
}

register_ops!(reduce);
