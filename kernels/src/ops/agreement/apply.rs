//! `AgreeApply`: the last phase, in which the variables of a server move and their new values are given.

#![forbid(unsafe_code)]

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::desk::{Agreement, AgreementDesk, decision, number, tag};
use super::program::Program;
use super::state::Brought;
use crate::ops::queue::room::first_input;
use crate::ops::state::access;

/// The input of the first handle, after the agreement, the tag and the decision.
const HANDLES: usize = 3;

struct Apply {
    program: Program,
    /// So many of the variables are given, the first ones.
    values: usize,
    /// The variable that counts updates, among the handles.
    step: Option<usize>,
}

impl Apply {
    fn next_step(&self, cx: &OpContext<'_>, applied: bool) -> Result<i64> {
        let Some(i) = self.step else { return Ok(0) };
        let v = cx.variable(HANDLES + i)?;
        let mut state = access::state(cx.held(), &v, DType::I64)?;
        let now = access::value(&v, &state)?.to_scalar::<i64>()?;
        if !applied {
            return Ok(now);
        }
        let next = now.wrapping_add(1);
        state.value = Some(Tensor::scalar(next));
        state.version += 1;
        Ok(next)
    }

    fn run(&self, cx: &OpContext<'_>, desk: &AgreementDesk) -> Result<Vec<Tensor>> {
        let (tag, decision) = (tag(cx, 1)?, decision(cx, 2)?);
        let mut room = cx.state(desk.actor())?;
        let state = &mut room.counter.state;
        let mut counted = false;
        let mut global_step = None;
        if let Some(d) = &decision {
            let brought = state.bring(d, |gradients| {
                self.next_step(cx, false)?;
                self.program.run(cx, HANDLES, gradients)?;
                global_step = Some(self.next_step(cx, true)?);
                Ok(())
            })?;
            counted =
                d.winners.contains(&(tag.replica, tag.push)) && (brought == Brought::Applied || !desk.info().alone());
        }
        let mut outputs = Vec::with_capacity(self.values + 1);
        for i in 0..self.values {
            let v = cx.variable(HANDLES + i)?;
            let state = cx.state(v.actor())?;
            outputs.push(access::value(&v, &state)?.clone());
        }
        let global_step = match global_step {
            Some(step) => step,
            None => self.next_step(cx, false)?,
        };
        let stale = if counted { state.staleness(tag.replica)? } else { 0 };
        outputs.push(Tensor::vector(&[
            number(state.version()),
            number(state.round(tag.replica)?),
            i64::from(counted),
            number(stale),
            global_step,
        ]));
        Ok(outputs)
    }
}

impl Kernel for Apply {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        want.want(first_input::<Agreement>(cx)?.actor().clone());
        (HANDLES..cx.num_inputs()).try_for_each(|i| access::want(cx, want, i))
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let desk = first_input::<Agreement>(cx)?;
        let outputs = self.run(cx, &desk)?;
        for (i, t) in outputs.into_iter().enumerate() {
            cx.set_output(i, t);
        }
        Ok(())
    }
}

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (lines, dtypes) = (init.attrs.strs("updates")?, init.attrs.dtypes("dtypes")?);
    let outputs = init.output_types.len().saturating_sub(1);
    let handles = init.input_types.len().saturating_sub(HANDLES);
    let step = usize::try_from(init.attrs.int("step")?).ok();
    if dtypes.len() != handles || outputs > handles || step.is_some_and(|s| s >= handles) {
        return Err(Error::invalid(format!(
            "AgreeApply of {handles} variables has {} dtypes, {outputs} values and a counter {step:?}",
            dtypes.len()
        )));
    }
    Ok(Box::new(Apply {
        program: Program::parse(init, &lines, &dtypes)?,
        values: outputs,
        step,
    }))
}

fn apply() -> OpDef {
    OpDef::new("AgreeApply", Category::Training)
        .doc(
            "Brings a decision to the server: unless that has happened before, `updates` move all its variables in one turn, \
             by the means of the gradients that count, and variable number `step` counts. Outputs the values of the first \
             variables, and: how many updates were applied, the group's next round, whether the tag's push counted, how \
             many updates old its values were, and the counter. Without a decision it only reads.",
        )
        .input("agreement: resource")
        .input("tag: int64")
        .input("decision: int64")
        .input("handles: N * resource")
        .output("values: value_types")
        .output("info: int64")
        .attr("N: int >= 0")
        .attr("updates: list(string)")
        .attr("dtypes: list(type) >= 0")
        .attr("value_types: list(type) >= 0")
        .attr("step: int = -1")
        .shape(|cx| {
            let n = cx.num_outputs().saturating_sub(1);
            let mut shapes: Vec<_> = (0..n).map(|i| cx.variable_shape(HANDLES + i)).collect();
            shapes.push(PartialShape::vector(Some(5)));
            Ok(shapes)
        })
        .stateful()
        .not_differentiable()
        .cpu(make)
}

register_ops!(apply);
