//! Gradients: lists of gradients, built with the same operations.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::{DType, Output};

type Grads = Result<Vec<Option<Grad>>>;

/// The gradients of inputs of which only the first ones have any.
fn padded(cx: &GradContext, first: Vec<Option<Output>>) -> Grads {
    let mut all: Vec<Option<Grad>> = first.into_iter().map(|g| g.map(Grad::from)).collect();
    all.resize(cx.num_inputs(), None);
    Ok(all)
}

/// The shape of the elements of a list, as far as the list knows it.
fn element_shape(list: &Output) -> Result<Output> {
    list.graph()
        .op("TensorListElementShape")
        .input(list)
        .attr("shape_type", DType::I32)
        .output()
}

/// The shape of the rows of a tensor.
fn row_shape(t: &Output) -> Result<Output> {
    let g = t.graph();
    g.op("Slice")
        .input(&t.shape_op()?)
        .input(&g.constant([1i32])?)
        .input(&g.constant([-1i32])?)
        .output()
}

fn length(list: &Output) -> Result<Output> {
    list.unary("TensorListLength")
}

/// A list of as many elements as `like` has, none of them set.
fn reserve(like: &Output, dtype: DType) -> Result<Output> {
    like.graph()
        .op("TensorListReserve")
        .input(&element_shape(like)?)
        .input(&length(like)?)
        .attr("element_dtype", dtype)
        .output()
}

fn gather_rows(list: &Output, indices: &Output, tensor: &Output) -> Result<Output> {
    list.graph()
        .op("TensorListGather")
        .input(list)
        .input(indices)
        .input(&row_shape(tensor)?)
        .attr("element_dtype", tensor.dtype())
        .output()
}

fn scatter_rows(list: &Output, tensor: &Output, indices: &Output) -> Result<Output> {
    list.graph()
        .op("TensorListScatterIntoExistingList")
        .input(list)
        .input(tensor)
        .input(indices)
        .output()
}

pub(super) fn push_back(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let x = cx.input(1)?;
    let popped = cx
        .graph()
        .op("TensorListPopBack")
        .input(&cx.dense(dys, 0)?)
        .input(&x.shape_op()?)
        .attr("element_dtype", x.dtype())
        .finish()?;
    padded(cx, vec![Some(popped.output(0)?), Some(popped.output(1)?)])
}

pub(super) fn pop_back(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let (rest, item) = (cx.output(0)?, cx.dense(dys, 1)?);
    let list = match dys.first() {
        Some(Some(g)) => g.to_dense()?,
        // As long as what is left, so that the sum with other gradients of the list is defined.
        _ => reserve(&rest, item.dtype())?,
    };
    let pushed = cx.graph().op("TensorListPushBack").input(&list).input(&item).output()?;
    padded(cx, vec![Some(pushed)])
}

pub(super) fn resize(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let resized = cx
        .graph()
        .op("TensorListResize")
        .input(&cx.dense(dys, 0)?)
        .input(&length(&cx.input(0)?)?)
        .output()?;
    padded(cx, vec![Some(resized)])
}

pub(super) fn get_item(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let item = cx.dense(dys, 0)?;
    let list = cx
        .graph()
        .op("TensorListSetItem")
        .input(&reserve(&cx.input(0)?, item.dtype())?)
        .input(&cx.input(1)?)
        .input(&item)
        .output()?;
    padded(cx, vec![Some(list)])
}

pub(super) fn set_item(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let g = cx.graph();
    let (index, item, dlist) = (cx.input(1)?, cx.input(2)?, cx.dense(dys, 0)?);
    let mut others = g
        .op("TensorListSetItem")
        .input(&dlist)
        .input(&index)
        .input(&item.zeros_like()?)
        .output()?;
    if cx.attrs().bool("resize_if_index_out_of_bounds")? {
        others = g
            .op("TensorListResize")
            .input(&others)
            .input(&length(&cx.input(0)?)?)
            .output()?;
    }
    let ditem = g
        .op("TensorListGetItem")
        .input(&dlist)
        .input(&index)
        .input(&item.shape_op()?)
        .attr("element_dtype", item.dtype())
        .output()?;
    padded(cx, vec![Some(others), None, Some(ditem)])
}

pub(super) fn stack(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let dy = cx.dense(dys, 0)?;
    let list = cx
        .graph()
        .op("TensorListFromTensor")
        .input(&dy)
        .input(&row_shape(&dy)?)
        .output()?;
    padded(cx, vec![Some(list)])
}

pub(super) fn from_tensor(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let x = cx.input(0)?;
    let number = x.shape().dim(0).map_or(-1, |n| n as i64);
    let dx = cx
        .graph()
        .op("TensorListStack")
        .input(&cx.dense(dys, 0)?)
        .input(&row_shape(&x)?)
        .attr("element_dtype", x.dtype())
        .attr("num_elements", number)
        .output()?;
    padded(cx, vec![Some(dx)])
}

pub(super) fn gather(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let dy = cx.dense(dys, 0)?;
    let list = scatter_rows(&reserve(&cx.input(0)?, dy.dtype())?, &dy, &cx.input(1)?)?;
    padded(cx, vec![Some(list)])
}

/// Of a new list with the rows of input `tensor` at the indices of the input behind it.
pub(super) fn scatter(cx: &GradContext, dys: &[Option<Grad>], tensor: usize, inputs: usize) -> Grads {
    debug_assert_eq!(cx.num_inputs(), inputs);
    let dx = gather_rows(&cx.dense(dys, 0)?, &cx.input(tensor + 1)?, &cx.input(tensor)?)?;
    padded(cx, vec![Some(dx)])
}

pub(super) fn scatter_into(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let (x, indices, dlist) = (cx.input(1)?, cx.input(2)?, cx.dense(dys, 0)?);
    let dx = gather_rows(&dlist, &indices, &x)?;
    let others = scatter_rows(&dlist, &x.zeros_like()?, &indices)?;
    padded(cx, vec![Some(others), Some(dx)])
}

pub(super) fn concat(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let list = cx
        .graph()
        .op("TensorListSplit")
        .input(&cx.dense(dys, 0)?)
        .input(&element_shape(&cx.input(0)?)?)
        .input(&cx.output(1)?)
        .output()?;
    padded(cx, vec![Some(list)])
}

pub(super) fn split(cx: &GradContext, dys: &[Option<Grad>]) -> Grads {
    let (g, x) = (cx.graph(), cx.input(0)?);
    let element = g.concat(&[g.constant([-1i32])?, row_shape(&x)?], 0)?;
    let dx = g
        .op("TensorListConcatV2")
        .input(&cx.dense(dys, 0)?)
        .input(&element)
        .input(&cx.input(2)?)
        .attr("element_dtype", x.dtype())
        .finish()?
        .output(0)?;
    padded(cx, vec![Some(dx)])
}

/// What the samples of the operations need: lists whose elements are vectors of two float64.
pub(super) mod samples {
    use super::*;
    use actorflow_core::Operation;
    use actorflow_core::op::Sampler;

    pub(in super::super) fn empty(s: &Sampler) -> Result<Output> {
        s.op("EmptyTensorList")
            .input(&s.constant([2i32])?)
            .input(&s.constant(-1i32)?)
            .attr("element_dtype", DType::F64)
            .output()
    }

    pub(in super::super) fn from_rows(s: &Sampler, x: &Output) -> Result<Output> {
        s.op("TensorListFromTensor").input(x).input(&row_shape(x)?).output()
    }

    pub(in super::super) fn stacked(s: &Sampler, list: &Output) -> Result<Operation> {
        s.op("TensorListStack")
            .input(list)
            .input(&s.constant([2i32])?)
            .attr("element_dtype", DType::F64)
            .finish()
    }

    pub(in super::super) fn joined(s: &Sampler, list: &Output) -> Result<Operation> {
        s.op("TensorListConcatV2")
            .input(list)
            .input(&s.constant([-1i32, 2])?)
            .input(&s.constant(actorflow_core::Tensor::vector::<i64>(&[]))?)
            .attr("element_dtype", DType::F64)
            .finish()
    }
}
