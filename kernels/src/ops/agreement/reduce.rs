//! `AgreeReduce`: the mean of the gradients that count, for replicas that keep the parameters themselves.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Code, DType, Tensor, register_ops};

use super::desk::{Agreement, AgreementDesk, decision};
use super::mean;
use crate::ops::queue::room::{At, first_input};
use crate::shapes;

/// The means of what was pushed; the tensors of numbers `rows` are rows, and those behind them their indices.
fn run(cx: &OpContext<'_>, desk: &AgreementDesk, rows: &[usize]) -> Result<Vec<Tensor>> {
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
        let all = |i: usize| gradients.iter().filter_map(|(_, p)| p.get(i)).collect::<Vec<_>>();
        let n = gradients.first().map_or(0, |(_, p)| p.len());
        if gradients.iter().any(|(_, p)| p.len() != n) || n != cx.num_outputs() {
            return Err(Error::invalid(format!(
                "the replicas pushed different numbers of tensors, or not the {} that are asked for",
                cx.num_outputs()
            )));
        }
        let mut means = Vec::with_capacity(n);
        while means.len() < n {
            let i = means.len();
            if rows.contains(&i) {
                let parts: Vec<_> = all(i).into_iter().zip(all(i + 1)).collect();
                let (values, indices) = mean::rows(&parts, pool)?;
                means.extend([values, indices]);
            } else {
                means.push(mean::dense(&all(i), pool, cx.parallel())?);
            }
        }
        mean = Some(means);
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

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (n, mut rows) = (init.output_types.len(), Vec::new());
    for i in init.attrs.ints("rows")? {
        let at = usize::try_from(i).ok().filter(|at| {
            let indices = at.checked_add(1).and_then(|next| init.output_types.get(next));
            indices == Some(&DType::I64) && rows.last().is_none_or(|before| before + 1 < *at)
        });
        let wrong = || {
            Error::invalid(format!(
                "there are no rows with int64 indices at {i} of {n} means, in order"
            ))
        };
        rows.push(at.ok_or_else(wrong)?);
    }
    Ok(Box::new(At::once(first_input::<Agreement>, move |cx, desk| {
        let outputs = run(cx, desk, &rows)?;
        for (i, t) in outputs.into_iter().enumerate() {
            cx.set_output(i, t);
        }
        Ok(())
    })))
}

fn reduce() -> OpDef {
    OpDef::new("AgreeReduce", Category::Training)
        .doc(
            "The means of the tensors of all pushes that count, in the order of the replicas; the same for everybody. The \
             tensors of numbers `rows` are rows, each with its index in the next tensor: there the mean has each index once, \
             and rows that are missing from a push count as zeros.",
        )
        .input("agreement: resource")
        .input("decision: int64")
        .output("means: mean_types")
        .attr("mean_types: list(type) >= 1")
        .attr("rows: list(int) = []")
        .shape(shapes::unknown)
        .stateful()
        .not_differentiable()
        .cpu(make)
}

register_ops!(reduce);
