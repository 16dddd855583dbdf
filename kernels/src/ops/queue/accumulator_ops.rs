//! `ConditionalAccumulator`, `SparseConditionalAccumulator`, `ResourceConditionalAccumulator` and what works on them.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::accumulator::{Accumulator, Spec, Take};
use super::handle::{Handle, Place};
use super::room::{At, Desk, first_input, settle, submit};
use crate::shapes;

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let spec = Spec {
        dtype: init.attrs.dtype("dtype")?,
        shape: init.attrs.shape("shape")?.clone(),
        mean: init.attrs.str("reduction_type")? == "MEAN",
        sparse: init.op.starts_with("Sparse"),
    };
    if !spec.dtype.is_float() {
        return Err(init.no_kernel());
    }
    let wanted = spec.clone();
    Ok(Box::new(Handle::new(
        Place::of(init)?,
        move |name, mailbox| Ok(Desk::new(name, spec.clone(), Accumulator::new(spec.clone()), mailbox)),
        move |desk: &Desk<Accumulator>| match *desk.info() == wanted {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "Shared accumulator '{}' exists as {:?}, but the node asks for {wanted:?}",
                desk.name(),
                desk.info()
            ))),
        },
    )))
}

fn check(desk: &Desk<Accumulator>, dtype: DType, sparse: bool) -> Result<()> {
    let info = desk.info();
    if info.dtype == dtype && info.sparse == sparse {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "accumulator {} is of {}{}, the operation of {}{dtype}",
        desk.name(),
        if info.sparse { "sparse " } else { "" },
        info.dtype,
        if sparse { "sparse " } else { "" },
    )))
}

fn scalar_i64(cx: &OpContext<'_>, i: usize, what: &str) -> Result<i64> {
    let t = cx.input(i)?;
    match t.shape().is_scalar() {
        true => t.to_i64(),
        false => Err(Error::invalid(format!(
            "{what} must be a scalar, got shape {}",
            t.shape()
        ))),
    }
}

fn apply(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let dtype = init.attrs.dtype("dtype")?;
    let sparse = init.op.starts_with("Sparse");
    Ok(Box::new(At::once(first_input::<Accumulator>, move |cx, desk| {
        check(desk, dtype, sparse)?;
        let step = scalar_i64(cx, 1, "local_step")?;
        let pool = cx.step().device.pool();
        let inputs = (cx.input(2)?, cx.input_if_live(3), cx.input_if_live(4));
        settle(cx, desk, |room| {
            match inputs {
                (indices, Some(values), Some(shape)) => room.counter.add_rows(step, [indices, values, shape], pool)?,
                (gradient, ..) => room.counter.add(step, gradient, pool)?,
            }
            Ok(((), None))
        })
    })))
}

fn take(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let dtype = init.attrs.dtype("dtype")?;
    let sparse = init.op.starts_with("Sparse");
    Ok(Box::new(At::waits(first_input::<Accumulator>, move |cx, desk| {
        check(desk, dtype, sparse)?;
        let n = scalar_i64(cx, 1, "num_required")?;
        let required = usize::try_from(n)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::invalid(format!("Argument num_required must be positive, got {n}")))?;
        let pool = cx.step().device.pool().clone();
        submit(cx, desk, Take { required, pool })
    })))
}

fn set_step(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(first_input::<Accumulator>, |cx, desk| {
        let step = scalar_i64(cx, 1, "new_global_step")?;
        cx.state(desk.actor())?.counter.set_step(step);
        Ok(())
    })))
}

fn count(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(first_input::<Accumulator>, |cx, desk| {
        let n = cx.state(desk.actor())?.counter.count();
        cx.set_output(0, Tensor::scalar(i32::try_from(n).unwrap_or(i32::MAX)));
        Ok(())
    })))
}

fn handle(name: &str) -> &'static str {
    match name.starts_with("Resource") {
        true => "handle: resource",
        false => "handle: Ref(string)",
    }
}

fn makers() -> Vec<OpDef> {
    [
        "ConditionalAccumulator",
        "ResourceConditionalAccumulator",
        "SparseConditionalAccumulator",
    ]
    .map(|name| {
        OpDef::new(name, Category::Queue)
            .doc("Adds gradients up until enough of them have come; those of past steps are dropped.")
            .output(handle(name))
            .attr("dtype: numbertype")
            .attr("shape: shape")
            .attr("container: string = ''")
            .attr("shared_name: string = ''")
            .attr("reduction_type: {'MEAN', 'SUM'} = 'MEAN'")
            .shape(shapes::scalar)
            .stateful()
            .not_differentiable()
            .cpu(make)
    })
    .into()
}

fn on_accumulator(name: &'static str, doc: &'static str, kernel: KernelFn) -> OpDef {
    OpDef::new(name, Category::Queue)
        .doc(doc)
        .input(handle(name))
        .stateful()
        .not_differentiable()
        .shape(shapes::none)
        .cpu(kernel)
}

fn dense() -> Vec<OpDef> {
    let apply = ["AccumulatorApplyGradient", "ResourceAccumulatorApplyGradient"].map(|name| {
        on_accumulator(name, "Adds a gradient unless its step is past.", apply)
            .input("local_step: int64")
            .input("gradient: dtype")
            .attr("dtype: numbertype")
    });
    let take = ["AccumulatorTakeGradient", "ResourceAccumulatorTakeGradient"].map(|name| {
        let doc = "Takes the mean or sum of the gradients; waits until num_required have come.";
        on_accumulator(name, doc, take)
            .input("num_required: int32")
            .output("average: dtype")
            .attr("dtype: numbertype")
            .shape(shapes::unknown)
    });
    let set = ["AccumulatorSetGlobalStep", "ResourceAccumulatorSetGlobalStep"].map(|name| {
        on_accumulator(
            name,
            "Sets the step, so that gradients of earlier ones are dropped.",
            set_step,
        )
        .input("new_global_step: int64")
    });
    let count = ["AccumulatorNumAccumulated", "ResourceAccumulatorNumAccumulated"].map(|name| {
        on_accumulator(name, "How many gradients were added since the last were taken.", count)
            .output("num_accumulated: int32")
            .shape(shapes::scalar)
    });
    apply.into_iter().chain(take).chain(set).chain(count).collect()
}

fn sparse_apply() -> OpDef {
    on_accumulator(
        "SparseAccumulatorApplyGradient",
        "Adds rows of a gradient unless its step is past.",
        apply,
    )
    .input("local_step: int64")
    .input("gradient_indices: int64")
    .input("gradient_values: dtype")
    .input("gradient_shape: int64")
    .attr("dtype: numbertype")
    .attr("has_known_shape: bool")
}

fn sparse_take() -> OpDef {
    on_accumulator(
        "SparseAccumulatorTakeGradient",
        "Takes the mean or sum of each row; waits until num_required gradients have come.",
        take,
    )
    .input("num_required: int32")
    .output("indices: int64")
    .output("values: dtype")
    .output("shape: int64")
    .attr("dtype: numbertype")
    .shape(|_| {
        let vector = PartialShape::of_rank(1);
        Ok(vec![vector.clone(), PartialShape::UNKNOWN, vector])
    })
}

register_ops!(all makers);
register_ops!(all dense);
register_ops!(sparse_apply, sparse_take);
