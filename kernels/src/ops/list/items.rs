//! `EmptyTensorList`, `TensorListReserve`, `TensorListPushBack`, `TensorListPopBack`, `TensorListPushBackBatch`,
//! `TensorListLength`, `TensorListElementShape`, `TensorListResize`, `TensorListGetItem`, `TensorListSetItem`,
//! `TensorListConcatLists`: lists and their elements.
#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::tensor::Variant;
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::grads;
use super::value::{TensorList, known_shape, list, of_variant, shape_of, take, zeros};
use crate::ops::array::support::{Light, int_scalar};
use crate::shapes;

/// A list of which nothing but the name is said.
fn operation(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
}

fn empty() -> OpDef {
    operation("EmptyTensorList")
        .doc("A list without elements.")
        .input("element_shape: shape_type")
        .input("max_num_elements: int32")
        .output("handle: variant")
        .attr("element_dtype: type")
        .attr("shape_type: {int32, int64}")
        .shape(|cx| {
            known_shape(cx, 0)?;
            shapes::scalar(cx)
        })
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let most = int_scalar(cx.input(1)?, "max_num_elements")?;
                let l = TensorList::new(dtype, shape_of(cx.input(0)?)?, 0).limited(usize::try_from(most).ok());
                cx.set_output(0, l.into_tensor()?);
                Ok(())
            })))
        })
}

fn reserve() -> OpDef {
    operation("TensorListReserve")
        .doc("A list of elements without a value.")
        .input("element_shape: shape_type")
        .input("num_elements: int32")
        .output("handle: variant")
        .attr("element_dtype: type")
        .attr("shape_type: {int32, int64}")
        .shape(|cx| {
            known_shape(cx, 0)?;
            shapes::scalar(cx)
        })
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let n = int_scalar(cx.input(1)?, "num_elements")?;
                let len = usize::try_from(n).map_err(|_| {
                    Error::invalid(format!("the num_elements to reserve must not be negative, but got {n}"))
                })?;
                let l = TensorList::new(dtype, shape_of(cx.input(0)?)?, len);
                cx.set_output(0, l.into_tensor()?);
                Ok(())
            })))
        })
}

fn push_back() -> OpDef {
    operation("TensorListPushBack")
        .doc("The list with one more element.")
        .input("input_handle: variant")
        .input("tensor: element_dtype")
        .output("output_handle: variant")
        .attr("element_dtype: type")
        .shape(shapes::scalar)
        .gradient(grads::push_back)
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let mut l = take(cx, 0)?;
                l.push(cx.take_input(1)?)?;
                cx.set_output(0, l.into_tensor()?);
                Ok(())
            })))
        })
        .sample(|s| {
            let (x, y) = (s.normal([2])?, s.normal([2])?);
            let l = grads::samples::empty(s)?;
            let push = |l, x| s.op("TensorListPushBack").input(l).input(x).output();
            grads::samples::stacked(s, &push(&push(&l, &x)?, &y)?)
        })
}

fn push_back_batch() -> OpDef {
    operation("TensorListPushBackBatch")
        .doc("The lists, each with one more element: a row of the tensor.")
        .input("input_handles: variant")
        .input("tensor: element_dtype")
        .output("output_handles: variant")
        .attr("element_dtype: type")
        .shape(shapes::like_first)
        .not_differentiable()
        .cpu(|_| Ok(Box::new(push_all)))
}

fn push_all(cx: &mut OpContext<'_>) -> Result<()> {
    let (handles, rows) = (cx.input(0)?, cx.input(1)?);
    let n = match rows.shape().dims() {
        [n, ..] => *n,
        [] => return Err(Error::invalid("the tensor must be at least a vector, but is a scalar")),
    };
    if n != handles.len() {
        return Err(Error::invalid(format!(
            "expected tensor.shape[0] == input_handles.size, but saw {n} and {}",
            handles.len()
        )));
    }
    let mut out = Vec::with_capacity(n);
    for (i, v) in handles.as_variants()?.iter().enumerate() {
        let mut l = of_variant(v)?.clone();
        l.push(row(rows, i)?)?;
        out.push(Arc::new(l) as Variant);
    }
    let shape = handles.shape().clone();
    cx.set_output(0, Tensor::variants(shape, out)?);
    Ok(())
}

/// Row `i` of a tensor.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is none.
pub(super) fn row(t: &Tensor, i: usize) -> Result<Tensor> {
    let inner = Shape::new(t.shape().get(1..).unwrap_or(&[]));
    t.slice_rows(i, i + 1)?.reshape(inner)
}

/// What an element without a value is: zeros of the shape that is known of it.
fn unset(cx: &OpContext<'_>, l: &TensorList, asked: &Tensor) -> Result<Tensor> {
    let mut shape = shape_of(asked)?.merge(l.element_shape())?;
    if !shape.is_fully_known() {
        for t in l.set_items() {
            shape = shape.merge(&t.shape().into())?;
        }
    }
    match shape.to_shape() {
        Some(s) => zeros(cx, l.dtype(), s),
        None => Err(Error::invalid(format!(
            "trying to read an element that was never set, but element_shape is not fully defined: {shape}"
        ))),
    }
}

fn pop_back() -> OpDef {
    operation("TensorListPopBack")
        .doc("The list without its last element, and that element.")
        .input("input_handle: variant")
        .input("element_shape: int32")
        .output("output_handle: variant")
        .output("tensor: element_dtype")
        .attr("element_dtype: type")
        .shape(|cx| Ok(vec![PartialShape::scalar(), known_shape(cx, 1)?]))
        .gradient(grads::pop_back)
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let mut l = take(cx, 0)?;
                l.check_dtype(dtype)?;
                let popped = l
                    .pop()
                    .ok_or_else(|| Error::invalid("trying to pop from an empty list"))?;
                let item = match popped {
                    Some(t) => t,
                    None => unset(cx, &l, cx.input(1)?)?,
                };
                cx.set_output(0, l.into_tensor()?);
                cx.set_output(1, item);
                Ok(())
            })))
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            let popped = s
                .op("TensorListPopBack")
                .input(&l)
                .input(&s.constant([2i32])?)
                .attr("element_dtype", DType::F64)
                .finish()?;
            let rest = grads::samples::stacked(s, &popped.output(0)?)?.output(0)?;
            s.op("AddV2").input(&rest).input(&popped.output(1)?.square()?).finish()
        })
}

fn length() -> OpDef {
    operation("TensorListLength")
        .doc("The number of elements of the list.")
        .input("input_handle: variant")
        .output("length: int32")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let n = list(cx, 0)?.len();
                let n = i32::try_from(n).map_err(|_| Error::invalid("the length does not fit an int32"))?;
                cx.set_output(0, Tensor::scalar(n));
                Ok(())
            })))
        })
}

/// The shape of a list's elements as these operations take it.
fn element_shape_tensor(shape: &PartialShape, dtype: DType) -> Result<Tensor> {
    let long: Vec<i64> = match shape.dims() {
        None => vec![-1],
        Some(dims) => dims.iter().map(|d| d.map_or(-1, |d| d as i64)).collect(),
    };
    let out = if shape.rank().is_none() {
        Shape::SCALAR
    } else {
        Shape::new(&[long.len()])
    };
    if dtype == DType::I64 {
        return Tensor::from_slice(out, &long);
    }
    let short = long
        .iter()
        .map(|d| i32::try_from(*d))
        .collect::<std::result::Result<Vec<_>, _>>();
    let short = short.map_err(|_| Error::invalid(format!("the element shape {shape} does not fit int32")))?;
    Tensor::from_slice(out, &short)
}

fn element_shape() -> OpDef {
    operation("TensorListElementShape")
        .doc("What is known of the shape of the list's elements; -1 if nothing is.")
        .input("input_handle: variant")
        .output("element_shape: shape_type")
        .attr("shape_type: {int32, int64}")
        .shape(shapes::unknown)
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.output_types[0];
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let t = element_shape_tensor(list(cx, 0)?.element_shape(), dtype)?;
                cx.set_output(0, t);
                Ok(())
            })))
        })
}

fn resize() -> OpDef {
    operation("TensorListResize")
        .doc("The list with another number of elements, cut off or without a value at its end.")
        .input("input_handle: variant")
        .input("size: int32")
        .output("output_handle: variant")
        .shape(shapes::scalar)
        .gradient(grads::resize)
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let n = int_scalar(cx.input(1)?, "size")?;
                let len =
                    usize::try_from(n).map_err(|_| Error::invalid(format!("size must not be negative, but is {n}")))?;
                let mut l = take(cx, 0)?;
                l.resize(len);
                cx.set_output(0, l.into_tensor()?);
                Ok(())
            })))
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            let short = s.op("TensorListResize").input(&l).input(&s.constant(2i32)?).output()?;
            grads::samples::stacked(s, &short)
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            let long = s.op("TensorListResize").input(&l).input(&s.constant(4i32)?).output()?;
            grads::samples::stacked(s, &long)
        })
}

/// The index that input `i` holds, of an element of a list of `len` elements.
fn index(cx: &OpContext<'_>, i: usize, len: usize, what: &str) -> Result<usize> {
    let at = int_scalar(cx.input(i)?, "index")?;
    usize::try_from(at)
        .ok()
        .filter(|at| *at < len)
        .ok_or_else(|| Error::invalid(format!("trying to {what} element {at} in a list with {len} elements")))
}

fn get_item() -> OpDef {
    operation("TensorListGetItem")
        .doc("One element of the list; zeros if it was never set.")
        .input("input_handle: variant")
        .input("index: int32")
        .input("element_shape: Tshape")
        .output("item: element_dtype")
        .attr("element_dtype: type")
        .attr("Tshape: {int32, int64} = DT_INT32")
        .shape(|cx| Ok(vec![known_shape(cx, 2)?]))
        .gradient(grads::get_item)
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let l = list(cx, 0)?;
                l.check_dtype(dtype)?;
                let item = match l.get(index(cx, 1, l.len(), "access")?) {
                    Some(t) => t.clone(),
                    None => unset(cx, l, cx.input(2)?)?,
                };
                cx.set_output(0, item);
                Ok(())
            })))
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            let get = |i: i32| {
                s.op("TensorListGetItem")
                    .input(&l)
                    .input(&s.constant(i)?)
                    .input(&s.constant([2i32])?)
                    .attr("element_dtype", DType::F64)
                    .output()
            };
            s.op("Mul").input(&get(1)?).input(&get(2)?).finish()
        })
}

fn set_item() -> OpDef {
    operation("TensorListSetItem")
        .doc("The list with one element replaced.")
        .input("input_handle: variant")
        .input("index: int32")
        .input("item: element_dtype")
        .output("output_handle: variant")
        .attr("element_dtype: type")
        .attr("resize_if_index_out_of_bounds: bool = false")
        .shape(shapes::scalar)
        .gradient(grads::set_item)
        .cpu(|init| {
            let grows = init.attrs.bool("resize_if_index_out_of_bounds")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let mut len = list(cx, 0)?.len();
                if grows {
                    let at = int_scalar(cx.input(1)?, "index")?;
                    len = len.max(usize::try_from(at).map_or(0, |i| i + 1));
                }
                let at = index(cx, 1, len, "modify")?;
                let mut l = take(cx, 0)?;
                if len > l.len() {
                    l.resize(len);
                }
                l.set(at, cx.take_input(2)?)?;
                cx.set_output(0, l.into_tensor()?);
                Ok(())
            })))
        })
        .sample(|s| {
            let (x, y) = (s.normal([3, 2])?, s.normal([2])?);
            let l = grads::samples::from_rows(s, &x)?;
            let set = s.op("TensorListSetItem").input(&l).input(&s.constant(1i32)?).input(&y);
            grads::samples::stacked(s, &set.output()?)
        })
}

fn concat_lists() -> OpDef {
    operation("TensorListConcatLists")
        .doc("The elements of two lists in one.")
        .input("input_a: variant")
        .input("input_b: variant")
        .output("output: variant")
        .attr("element_dtype: type")
        .shape(shapes::merged)
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let (a, b) = (cx.input(0)?, cx.input(1)?);
                if a.shape() != b.shape() {
                    return Err(Error::invalid(format!(
                        "input_a and input_b have different shapes, {} and {}",
                        a.shape(),
                        b.shape()
                    )));
                }
                let mut out = Vec::with_capacity(a.len());
                for (a, b) in a.as_variants()?.iter().zip(b.as_variants()?) {
                    let (a, b) = (of_variant(a)?, of_variant(b)?);
                    a.check_dtype(dtype)?;
                    b.check_dtype(dtype)?;
                    if a.element_shape() != b.element_shape() {
                        return Err(Error::invalid(format!(
                            "the lists' element shapes differ: {} and {}",
                            a.element_shape(),
                            b.element_shape()
                        )));
                    }
                    let mut joined = a.clone();
                    joined.append(b)?;
                    out.push(Arc::new(joined) as Variant);
                }
                let shape = a.shape().clone();
                cx.set_output(0, Tensor::variants(shape, out)?);
                Ok(())
            }))
        })
}

register_ops!(
    empty,
    reserve,
    push_back,
    push_back_batch,
    pop_back,
    length,
    element_shape,
    resize,
    get_item,
    set_item,
    concat_lists
);
