//! `TensorListFromTensor`, `TensorListScatter`, `TensorListScatterV2`, `TensorListScatterIntoExistingList`,
//! `TensorListSplit`: lists of parts of a tensor.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};

use super::grads;
use super::items::row;
use super::value::{TensorList, known_shape, shape_of, take};
use crate::ops::array::support::{int_scalar, ints};
use crate::shapes;

/// The number of rows of a tensor, and their shape.
fn rows(t: &Tensor) -> Result<(usize, PartialShape)> {
    match t.shape().dims() {
        [n, inner @ ..] => Ok((*n, (&Shape::new(inner)).into())),
        [] => Err(Error::invalid("the tensor must be at least a vector, but is a scalar")),
    }
}

/// Fails unless a list of elements of shape `element` can have the rows.
fn compatible(element: &PartialShape, rows: &PartialShape) -> Result<()> {
    element.merge(rows).map(|_| ()).map_err(|_| {
        Error::invalid(format!(
            "specified a list of elements of shape {element} from a tensor with rows of shape {rows}"
        ))
    })
}

fn from_tensor() -> OpDef {
    OpDef::new("TensorListFromTensor", Category::Array)
        .doc("The list of the rows of a tensor.")
        .input("tensor: element_dtype")
        .input("element_shape: shape_type")
        .output("output_handle: variant")
        .attr("element_dtype: type")
        .attr("shape_type: {int32, int64}")
        .shape(|cx| {
            known_shape(cx, 1)?;
            cx.input(0).with_rank_at_least(1)?;
            shapes::scalar(cx)
        })
        .gradient(grads::from_tensor)
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let t = cx.input(0)?;
                let element = shape_of(cx.input(1)?)?;
                let (n, inner) = rows(t)?;
                compatible(&element, &inner)?;
                let mut l = TensorList::new(t.dtype(), element, n);
                for i in 0..n {
                    l.set(i, row(t, i)?)?;
                }
                cx.set_output(0, l.into_tensor()?);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            grads::samples::stacked(s, &l)
        })
}

/// Row k of input `tensor` becomes element `indices[k]`. `exact` is the number of elements; without it there are as
/// many as the indices need.
fn scatter(
    cx: &OpContext<'_>,
    tensor: usize,
    indices: usize,
    exact: Option<usize>,
    start: impl FnOnce(usize, &Tensor) -> Result<TensorList>,
) -> Result<TensorList> {
    let (t, at) = (cx.input(tensor)?, ints(cx.input(indices)?)?);
    let (n, _) = rows(t)?;
    if n != at.len() {
        return Err(Error::invalid(format!(
            "invalid number of rows in the input tensor: expected {}, got {n}",
            at.len()
        )));
    }
    if at.iter().any(|i| *i < 0) {
        return Err(Error::invalid("indices of a scatter into a list must not be negative"));
    }
    let need = at.iter().max().map_or(0, |i| *i as usize + 1);
    if let Some(len) = exact.filter(|len| need > *len) {
        return Err(Error::invalid(format!(
            "trying to scatter at index {} in a list with size {len}",
            need - 1
        )));
    }
    let mut l = start(exact.unwrap_or(need), t)?;
    if need > l.len() {
        l.resize(need);
    }
    for (k, i) in at.iter().enumerate() {
        l.set(*i as usize, row(t, k)?)?;
    }
    Ok(l)
}

fn scatter_new(cx: &mut OpContext<'_>, exact: Option<usize>) -> Result<()> {
    let element = shape_of(cx.input(2)?)?;
    let l = scatter(cx, 0, 1, exact, |len, t| {
        compatible(&element, &rows(t)?.1)?;
        Ok(TensorList::new(t.dtype(), element, len))
    })?;
    cx.set_output(0, l.into_tensor()?);
    Ok(())
}

fn scatter_v1() -> OpDef {
    OpDef::new("TensorListScatter", Category::Array)
        .doc("A list with the rows of a tensor at the places that indices name.")
        .input("tensor: element_dtype")
        .input("indices: int32")
        .input("element_shape: shape_type")
        .output("output_handle: variant")
        .attr("element_dtype: type")
        .attr("shape_type: {int32, int64}")
        .shape(shapes::scalar)
        .gradient(|cx, dys| grads::scatter(cx, dys, 0, 3))
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| scatter_new(cx, None))))
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let op = s
                .op("TensorListScatter")
                .input(&x)
                .input(&s.constant([2i32, 0, 3])?)
                .input(&s.constant([2i32])?);
            grads::samples::stacked(s, &op.output()?)
        })
}

fn scatter_v2() -> OpDef {
    OpDef::new("TensorListScatterV2", Category::Array)
        .doc("A list with the rows of a tensor at the places that indices name, of a given size unless that is -1.")
        .input("tensor: element_dtype")
        .input("indices: int32")
        .input("element_shape: shape_type")
        .input("num_elements: int32")
        .output("output_handle: variant")
        .attr("element_dtype: type")
        .attr("shape_type: {int32, int64}")
        .shape(shapes::scalar)
        .gradient(|cx, dys| grads::scatter(cx, dys, 0, 4))
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let n = int_scalar(cx.input(3)?, "num_elements")?;
                if n < -1 {
                    return Err(Error::invalid(format!("num_elements must be >= -1, found {n}")));
                }
                scatter_new(cx, usize::try_from(n).ok())
            }))
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let op = s
                .op("TensorListScatterV2")
                .input(&x)
                .input(&s.constant([2i32, 0, 3])?)
                .input(&s.constant([2i32])?)
                .input(&s.constant(5i32)?);
            grads::samples::stacked(s, &op.output()?)
        })
}

fn scatter_into() -> OpDef {
    OpDef::new("TensorListScatterIntoExistingList", Category::Array)
        .doc("The list with the rows of a tensor at the places that indices name.")
        .input("input_handle: variant")
        .input("tensor: element_dtype")
        .input("indices: int32")
        .output("output_handle: variant")
        .attr("element_dtype: type")
        .shape(shapes::scalar)
        .gradient(grads::scatter_into)
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let old = take(cx, 0)?;
                let l = scatter(cx, 1, 2, None, |_, _| Ok(old))?;
                cx.set_output(0, l.into_tensor()?);
                Ok(())
            }))
        })
        .sample(|s| {
            let (x, y) = (s.normal([3, 2])?, s.normal([2, 2])?);
            let l = grads::samples::from_rows(s, &x)?;
            let op = s
                .op("TensorListScatterIntoExistingList")
                .input(&l)
                .input(&y)
                .input(&s.constant([2i32, 0])?);
            grads::samples::stacked(s, &op.output()?)
        })
}

fn split(cx: &mut OpContext<'_>) -> Result<()> {
    let (t, lengths) = (cx.input(0)?, cx.input(2)?);
    let element = shape_of(cx.input(1)?)?;
    let (n, inner) = rows(t)?;
    if element.rank() == Some(0) {
        return Err(Error::invalid("elements of a split must be at least vectors"));
    }
    if lengths.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "lengths must be a vector, not of shape {}",
            lengths.shape()
        )));
    }
    compatible(&element.sub(1, usize::MAX), &inner)?;
    let lengths = ints(lengths)?;
    let mut l = TensorList::new(t.dtype(), element, lengths.len());
    let mut at = 0usize;
    for (i, len) in lengths.iter().enumerate() {
        let end = usize::try_from(*len)
            .ok()
            .and_then(|len| at.checked_add(len))
            .filter(|end| *end <= n)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "attempting to slice {len} rows at {at} from a tensor with {n} rows"
                ))
            })?;
        l.set(i, t.slice_rows(at, end)?)?;
        at = end;
    }
    if at != n {
        return Err(Error::invalid(format!(
            "unused values in the tensor: it has {n} rows, of which {at} are used"
        )));
    }
    cx.set_output(0, l.into_tensor()?);
    Ok(())
}

fn split_op() -> OpDef {
    OpDef::new("TensorListSplit", Category::Array)
        .doc("The list of parts of a tensor that have these numbers of rows.")
        .input("tensor: element_dtype")
        .input("element_shape: shape_type")
        .input("lengths: int64")
        .output("output_handle: variant")
        .attr("element_dtype: type")
        .attr("shape_type: {int32, int64}")
        .shape(shapes::scalar)
        .gradient(grads::split)
        .cpu(|_| Ok(Box::new(split)))
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let op = s
                .op("TensorListSplit")
                .input(&x)
                .input(&s.constant([-1i32, 2])?)
                .input(&s.constant([2i64, 1])?);
            grads::samples::joined(s, &op.output()?)
        })
}

register_ops!(from_tensor, scatter_v1, scatter_v2, scatter_into, split_op);
