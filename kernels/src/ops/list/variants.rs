//! `AddN` and `ZerosLike` of variants: of lists, maps, optionals and ragged tensors, and of tensors in them that are
//! themselves of variants.
#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::tensor::Variant;
use actorflow_core::{DType, Tensor};

use super::map::TensorMap;
use super::value::{DEPTH, TensorList};
use crate::elementwise::{self, Loops};
use crate::moves;
use crate::ops::flow::optional::Optional;
use crate::ops::ragged::variant::Ragged;

/// Sets output 0 to the sum of all inputs, tensors of variants.
pub(crate) fn add_all(cx: &mut OpContext<'_>) -> Result<()> {
    let mut sum = cx.input(0)?.clone();
    for i in 1..cx.num_inputs() {
        sum = add(cx, &sum, cx.input(i)?, DEPTH)?;
    }
    cx.set_output(0, sum);
    Ok(())
}

/// Sets output 0 to zeros of the shapes of what is in input 0, a tensor of variants.
pub(crate) fn zeros_like(cx: &mut OpContext<'_>) -> Result<()> {
    let t = zeros(cx, cx.input(0)?, DEPTH)?;
    cx.set_output(0, t);
    Ok(())
}

fn unknown(what: &str) -> Error {
    Error::unimplemented(format!(
        "{what} of variants that are neither lists, maps, optionals nor ragged tensors are not defined"
    ))
}

fn deeper(depth: usize) -> Result<usize> {
    depth
        .checked_sub(1)
        .ok_or_else(|| Error::invalid("variants are nested too deeply"))
}

fn add(cx: &OpContext<'_>, a: &Tensor, b: &Tensor, depth: usize) -> Result<Tensor> {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return Err(Error::invalid(format!(
            "cannot add tensors of {} and {}, of shapes {} and {}",
            a.dtype(),
            b.dtype(),
            a.shape(),
            b.shape()
        )));
    }
    if a.dtype() == DType::Variant {
        let depth = deeper(depth)?;
        let mut out = Vec::with_capacity(a.len());
        for (a, b) in a.as_variants()?.iter().zip(b.as_variants()?) {
            if let (Some(a), Some(b)) = (a.downcast_ref::<Ragged>(), b.downcast_ref::<Ragged>()) {
                out.push(Arc::new(a.with_values(add(cx, &a.values, &b.values, depth)?)) as Variant);
                continue;
            }
            if let (Some(a), Some(b)) = (a.downcast_ref::<Optional>(), b.downcast_ref::<Optional>()) {
                out.push(Arc::new(a.plus(b, |a, b| add(cx, a, b, depth))?) as Variant);
                continue;
            }
            if let (Some(a), Some(b)) = (a.downcast_ref::<TensorMap>(), b.downcast_ref::<TensorMap>()) {
                out.push(Arc::new(a.plus(b, |a, b| add(cx, a, b, depth))?) as Variant);
                continue;
            }
            let (Some(a), Some(b)) = (a.downcast_ref::<TensorList>(), b.downcast_ref::<TensorList>()) else {
                return Err(unknown("sums"));
            };
            let sum = a.plus(b, |a, b| add(cx, a, b, depth))?;
            out.push(Arc::new(sum) as Variant);
        }
        return Tensor::variants(a.shape().clone(), out);
    }
    let Some(Loops::Two(plus)) = elementwise::loops("AddV2", a.dtype()) else {
        return Err(Error::invalid(format!(
            "elements of dtype {} cannot be added",
            a.dtype()
        )));
    };
    let (mut ins, mut outs) = ([Some(a.clone()), Some(b.clone())], [None]);
    let held = Claims::none();
    let mut inner = OpContext::new(&mut ins, &mut outs, cx.step(), &held, None);
    elementwise::fold(&plus, &mut inner)?;
    let [sum] = outs;
    sum.ok_or_else(|| Error::internal("the sum was not set"))
}

fn zeros(cx: &OpContext<'_>, t: &Tensor, depth: usize) -> Result<Tensor> {
    if t.dtype() != DType::Variant {
        return moves::zeros(cx, t.dtype(), t.shape().clone());
    }
    let depth = deeper(depth)?;
    let mut out = Vec::with_capacity(t.len());
    for v in t.as_variants()? {
        if let Some(r) = v.downcast_ref::<Ragged>() {
            out.push(Arc::new(r.with_values(zeros(cx, &r.values, depth)?)) as Variant);
            continue;
        }
        if let Some(o) = v.downcast_ref::<Optional>() {
            out.push(Arc::new(o.map(|t| zeros(cx, t, depth))?) as Variant);
            continue;
        }
        if v.downcast_ref::<TensorMap>().is_some() {
            // A key that is missing stands for zero.
            out.push(Arc::new(TensorMap::default()) as Variant);
            continue;
        }
        let Some(l) = v.downcast_ref::<TensorList>() else {
            return Err(unknown("zeros"));
        };
        out.push(Arc::new(l.map(|t| zeros(cx, t, depth))?) as Variant);
    }
    Tensor::variants(t.shape().clone(), out)
}
