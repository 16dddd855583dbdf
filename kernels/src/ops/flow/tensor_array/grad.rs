//! Gradients of the operations on arrays.
//!
//! The gradient of an element is the element of an array of gradients. What is read in the forward direction is
//! written (added) there, what is written is read from there. The flow, a scalar without meaning, orders the
//! operations: the gradient with respect to a flow is the flow of the array of gradients.

#![forbid(unsafe_code)]

use actorflow_core::Output;
use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};

type Grads = Result<Vec<Option<Grad>>>;

/// The array of gradients beside `handle`: its handle, and its flow after `flow`.
fn beside(cx: &GradContext, handle: &Output, flow: &Output) -> Result<(Output, Output)> {
    let g = cx.graph();
    // One array for each walk of gradients: named as the innermost scope that was opened for one.
    let scope = g.current_name_scope();
    let parts: Vec<&str> = scope.split('/').collect();
    let depth = parts.iter().rposition(|p| p.starts_with("gradients"));
    let source = depth.map_or_else(|| "gradients".to_owned(), |i| parts[..=i].join("/"));
    let made = g
        .op("TensorArrayGradV3")
        .input(handle)
        .input(flow)
        .attr("source", source.as_str())
        .finish()?;
    let flow = g
        .op("Identity")
        .input(flow)
        .control_input(&made)
        .name("gradient_flow")
        .output()?;
    Ok((made.output(0)?, flow))
}

pub(super) fn of_read(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let (handle, index, flow) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (g, flow) = beside(cx, &handle, &flow)?;
    let flow = cx
        .graph()
        .op("TensorArrayWriteV3")
        .input(&g)
        .input(&index)
        .input(&cx.dense(dys, 0)?)
        .input(&flow)
        .output()?;
    Ok(vec![None, None, Some(flow.into())])
}

pub(super) fn of_write(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let flow = cx.dense(dys, 0)?;
    let (g, ordered) = beside(cx, &cx.input(0)?, &flow)?;
    let grad = cx
        .graph()
        .op("TensorArrayReadV3")
        .input(&g)
        .input(&cx.input(1)?)
        .input(&ordered)
        .attr("dtype", cx.attrs().dtype("T")?)
        .output_shape(0, cx.input(2)?.shape())
        .output()?;
    Ok(vec![None, None, Some(grad.into()), Some(flow.into())])
}

pub(super) fn of_gather(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let (handle, indices, flow) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (g, flow) = beside(cx, &handle, &flow)?;
    let flow = cx
        .graph()
        .op("TensorArrayScatterV3")
        .input(&g)
        .input(&indices)
        .input(&cx.dense(dys, 0)?)
        .input(&flow)
        .output()?;
    Ok(vec![None, None, Some(flow.into())])
}

pub(super) fn of_scatter(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let flow = cx.dense(dys, 0)?;
    let (g, ordered) = beside(cx, &cx.input(0)?, &flow)?;
    let grad = cx
        .graph()
        .op("TensorArrayGatherV3")
        .input(&g)
        .input(&cx.input(1)?)
        .input(&ordered)
        .attr("dtype", cx.attrs().dtype("T")?)
        .output_shape(0, cx.input(2)?.shape())
        .output()?;
    Ok(vec![None, None, Some(grad.into()), Some(flow.into())])
}

pub(super) fn of_concat(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let (handle, flow) = (cx.input(0)?, cx.input(1)?);
    let Some(dy) = &dys[0] else {
        return cx.none();
    };
    let (g, flow) = beside(cx, &handle, &flow)?;
    let flow = cx
        .graph()
        .op("TensorArraySplitV3")
        .input(&g)
        .input(&dy.to_dense()?)
        .input(&cx.output(1)?)
        .input(&flow)
        .output()?;
    Ok(vec![None, Some(flow.into())])
}

pub(super) fn of_split(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let flow = cx.dense(dys, 0)?;
    let (g, ordered) = beside(cx, &cx.input(0)?, &flow)?;
    let grad = cx
        .graph()
        .op("TensorArrayConcatV3")
        .input(&g)
        .input(&ordered)
        .attr("dtype", cx.attrs().dtype("T")?)
        .output_shape(0, cx.input(1)?.shape())
        .output()?;
    Ok(vec![None, Some(grad.into()), None, Some(flow.into())])
}
