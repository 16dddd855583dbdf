//! `TensorListStack`, `TensorListGather`, `TensorListConcat`, `TensorListConcatV2`: tensors of a list's elements.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::grads;
use super::value::{TensorList, known_shape, list, shape_of};
use crate::moves::{self, Fill, Item, Shuffle};
use crate::ops::array::support::ints;

/// Each source goes as a whole to its place in the output.
struct Place<'a>(&'a [usize]);

impl Shuffle for Place<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        for (from, at) in sources.iter().zip(self.0) {
            out.get_mut(*at..*at + from.len())
                .ok_or_else(|| Error::internal("a part lies outside of the output"))?
                .clone_from_slice(from);
        }
        Ok(())
    }
}

/// A tensor of parts one behind the other: each a tensor or so many zeros.
fn join(cx: &OpContext<'_>, dtype: DType, shape: Shape, parts: &[(Option<&Tensor>, usize)]) -> Result<Tensor> {
    let (mut sources, mut places, mut at) = (Vec::new(), Vec::new(), 0);
    for (part, size) in parts {
        if let Some(t) = part {
            sources.push(*t);
            places.push(at);
        }
        at += size;
    }
    let fill = match sources.len() == parts.len() {
        true => Fill::Any,
        false => Fill::Zero,
    };
    if sources.is_empty() {
        return super::value::zeros(cx, dtype, shape);
    }
    moves::build(cx, dtype, shape, fill, &sources, &Place(&places))
}

/// The shape that all elements have.
fn common(l: &TensorList, asked: &PartialShape, indices: impl Iterator<Item = usize>) -> Result<Shape> {
    let mut shape = asked.merge(l.element_shape())?;
    let mut any = false;
    for i in indices {
        any = true;
        if let Some(t) = l.get(i) {
            shape = shape.merge(&t.shape().into())?;
        }
    }
    if !any && !shape.is_fully_known() {
        return Err(Error::invalid(format!(
            "tried to join no elements of a list with the not fully defined element_shape {shape}"
        )));
    }
    if !shape.is_fully_known() {
        for t in l.set_items() {
            shape = shape.merge(&t.shape().into())?;
        }
    }
    shape.to_shape().ok_or_else(|| {
        Error::invalid(format!(
            "tried to join elements that were never set, and element_shape is not fully defined: {shape}"
        ))
    })
}

fn pick(cx: &OpContext<'_>, l: &TensorList, asked: &PartialShape, indices: &[usize]) -> Result<Tensor> {
    let element = common(l, asked, indices.iter().copied())?;
    let shape: Shape = std::iter::once(indices.len()).chain(element.iter().copied()).collect();
    shape.checked_count()?;
    let size = element.count();
    let parts: Vec<_> = indices.iter().map(|i| (l.get(*i), size)).collect();
    join(cx, l.dtype(), shape, &parts)
}

fn stack() -> OpDef {
    OpDef::new("TensorListStack", Category::Array)
        .doc("The elements of the list, stacked along a new first dimension.")
        .input("input_handle: variant")
        .input("element_shape: int32")
        .output("tensor: element_dtype")
        .attr("element_dtype: type")
        .attr("num_elements: int = -1")
        .shape(|cx| {
            let n = usize::try_from(cx.attrs().int("num_elements")?).ok();
            Ok(vec![PartialShape::vector(n).concat(&known_shape(cx, 1)?)])
        })
        .gradient(grads::stack)
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            let number = usize::try_from(init.attrs.int("num_elements")?).ok();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let l = list(cx, 0)?;
                l.check_dtype(dtype)?;
                if let Some(n) = number.filter(|n| *n != l.len()) {
                    return Err(Error::invalid(format!(
                        "operation expected a list with {n} elements but got a list with {} elements",
                        l.len()
                    )));
                }
                let asked = shape_of(cx.input(1)?)?;
                // Nothing is as large as the result if no element was ever set.
                let out = if l.set_items().next().is_none() {
                    let element = common(l, &asked, 0..l.len().min(1))?;
                    let shape: Shape = std::iter::once(l.len()).chain(element.iter().copied()).collect();
                    super::value::zeros(cx, dtype, shape)?
                } else {
                    l.check_size()?;
                    pick(cx, l, &asked, &(0..l.len()).collect::<Vec<_>>())?
                };
                cx.set_output(0, out);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            grads::samples::stacked(s, &l)
        })
}

fn gather() -> OpDef {
    OpDef::new("TensorListGather", Category::Array)
        .doc("The elements of the list that indices name, stacked along a new first dimension.")
        .input("input_handle: variant")
        .input("indices: int32")
        .input("element_shape: int32")
        .output("values: element_dtype")
        .attr("element_dtype: type")
        .shape(|cx| {
            let n = PartialShape::vector(cx.input(1).count());
            Ok(vec![n.concat(&known_shape(cx, 2)?)])
        })
        .gradient(grads::gather)
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let l = list(cx, 0)?;
                l.check_dtype(dtype)?;
                let indices = ints(cx.input(1)?)?;
                let inside = |i: &i64| usize::try_from(*i).ok().filter(|i| *i < l.len());
                let mut at = Vec::with_capacity(indices.len());
                for i in &indices {
                    at.push(inside(i).ok_or_else(|| {
                        Error::invalid(format!(
                            "trying to gather element {i} in a list with {} elements",
                            l.len()
                        ))
                    })?);
                }
                let out = pick(cx, l, &shape_of(cx.input(2)?)?, &at)?;
                cx.set_output(0, out);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            s.op("TensorListGather")
                .input(&l)
                .input(&s.constant([2i32, 0])?)
                .input(&s.constant([2i32])?)
                .attr("element_dtype", DType::F64)
                .finish()
        })
}

fn concat(cx: &mut OpContext<'_>, dtype: DType, asked: &PartialShape, leading: &[i64]) -> Result<()> {
    let l = list(cx, 0)?;
    l.check_dtype(dtype)?;
    l.check_size()?;
    let element = asked.merge(l.element_shape())?;
    if element.rank() == Some(0) {
        return Err(Error::invalid(
            "elements to be joined must be at least vectors, not scalars",
        ));
    }
    let mut inner = element.sub(1, usize::MAX);
    for (i, t) in l.set_items().enumerate() {
        let Some((_, dims)) = t.shape().dims().split_first() else {
            return Err(Error::invalid(format!(
                "element {i} is a scalar, but elements to be joined must be at least vectors"
            )));
        };
        inner = inner.merge(&(&Shape::new(dims)).into())?;
    }
    let inner = inner.to_shape().ok_or_else(|| {
        Error::invalid(format!(
            "all except the first dimension must be fully defined to join these elements; element_shape: {element}"
        ))
    })?;
    let size = inner.checked_count()?;
    let (mut parts, mut lengths, mut total) = (Vec::new(), Vec::new(), 0usize);
    let too_long = || Error::invalid("the joined tensor is too long");
    for i in 0..l.len() {
        let rows = match (l.get(i), element.dim(0)) {
            (Some(t), known) => {
                let n = t.shape()[0];
                if let Some(known) = known.filter(|k| *k != n) {
                    return Err(Error::invalid(format!(
                        "the first dimension of element {i} is {n}, but {known} by element_shape"
                    )));
                }
                n
            }
            (None, Some(known)) => known,
            (None, None) => {
                let n = leading.get(i).ok_or_else(|| {
                    Error::invalid(format!(
                        "element {i} was never set, but leading_dims has only {} elements",
                        leading.len()
                    ))
                })?;
                usize::try_from(*n).map_err(|_| Error::invalid(format!("leading_dims[{i}] = {n} is negative")))?
            }
        };
        total = total.checked_add(rows).ok_or_else(too_long)?;
        parts.push((l.get(i), rows.checked_mul(size).ok_or_else(too_long)?));
        lengths.push(rows as i64);
    }
    let shape: Shape = std::iter::once(total).chain(inner.iter().copied()).collect();
    shape.checked_count()?;
    let out = join(cx, dtype, shape, &parts)?;
    cx.set_output(0, out);
    cx.set_output(1, Tensor::vector(&lengths));
    Ok(())
}

fn concat_shape(cx: &ShapeContext<'_>, element: &PartialShape) -> Result<Vec<PartialShape>> {
    debug_assert_eq!(cx.num_outputs(), 2);
    let inner = element.with_rank_at_least(1)?.sub(1, usize::MAX);
    Ok(vec![
        PartialShape::vector(None).concat(&inner),
        PartialShape::vector(None),
    ])
}

fn concat_v1() -> OpDef {
    OpDef::new("TensorListConcat", Category::Array)
        .doc("The elements of the list, joined along their first dimension, and their lengths along it.")
        .input("input_handle: variant")
        .output("tensor: element_dtype")
        .output("lengths: int64")
        .attr("element_dtype: type")
        .attr("element_shape: shape = unknown")
        .shape(|cx| concat_shape(cx, cx.attrs().shape("element_shape")?))
        .gradient(grads::concat)
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            let element = init.attrs.shape("element_shape")?.clone();
            Ok(Box::new(move |cx: &mut OpContext<'_>| concat(cx, dtype, &element, &[])))
        })
        .sample(|s| {
            let x = s.normal([2, 3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            s.op("TensorListConcat")
                .input(&l)
                .attr("element_dtype", DType::F64)
                .finish()
        })
}

fn concat_v2() -> OpDef {
    OpDef::new("TensorListConcatV2", Category::Array)
        .doc("The elements of the list, joined along their first dimension, and their lengths along it.")
        .input("input_handle: variant")
        .input("element_shape: shape_type")
        .input("leading_dims: int64")
        .output("tensor: element_dtype")
        .output("lengths: int64")
        .attr("element_dtype: type")
        .attr("shape_type: {int32, int64}")
        .shape(|cx| concat_shape(cx, &known_shape(cx, 1)?))
        .gradient(grads::concat)
        .cpu(|init| {
            let dtype = init.attrs.dtype("element_dtype")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let (asked, leading) = (shape_of(cx.input(1)?)?, ints(cx.input(2)?)?);
                concat(cx, dtype, &asked, &leading)
            }))
        })
        .sample(|s| {
            let x = s.normal([2, 3, 2])?;
            let l = grads::samples::from_rows(s, &x)?;
            grads::samples::joined(s, &l)
        })
}

register_ops!(stack, gather, concat_v1, concat_v2);
