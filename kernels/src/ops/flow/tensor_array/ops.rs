//! The operations on arrays of tensors.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Cost, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::ResourceHandle;
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::array::{Options, TensorArray};
use super::grad;
use crate::moves::{self, Copies, Fill, StridedCopy};
use crate::shapes;

/// A kernel that is always cheap.
struct Cheap<F>(F);

impl<F: Fn(&mut OpContext<'_>) -> Result<()> + Send + Sync> Kernel for Cheap<F> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        self.0(cx)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn cheap(f: fn(&mut OpContext<'_>) -> Result<()>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Cheap(f)))
}

fn array(cx: &OpContext<'_>) -> Result<Arc<TensorArray>> {
    cx.resource::<TensorArray>(0)
}

fn index(cx: &OpContext<'_>, i: usize) -> Result<i64> {
    Ok(i64::from(cx.scalar::<i32>(i)?))
}

/// A new array each time it runs.
struct Make {
    name: String,
    options: Options,
    made: AtomicU64,
}

impl Kernel for Make {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let size = cx.scalar::<i32>(0)?;
        let size = usize::try_from(size).map_err(|_| Error::invalid(format!("size must be >= 0, got {size}")))?;
        let name = format!("{}_{}", self.name, self.made.fetch_add(1, Relaxed));
        let array = TensorArray::new(&name, size, self.options.clone())?;
        cx.set_output(0, Tensor::resource(ResourceHandle::new(name, Arc::new(array))));
        cx.set_output(1, Tensor::scalar(0f32));
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let a = init.attrs;
    let name = a.str("tensor_array_name")?;
    Ok(Box::new(Make {
        name: if name.is_empty() { init.name } else { name }.to_owned(),
        options: Options {
            dtype: a.dtype("dtype")?,
            element_shape: a.shape("element_shape")?.clone(),
            dynamic: a.bool("dynamic_size")?,
            clear_after_read: a.bool("clear_after_read")?,
            identical_shapes: a.bool("identical_element_shapes")?,
            sums: false,
        },
        made: AtomicU64::new(0),
    }))
}

fn write(cx: &mut OpContext<'_>) -> Result<()> {
    let (array, at) = (array(cx)?, index(cx, 1)?);
    let value = cx.take_input(2)?;
    array.write(at, value, cx.step().device.pool())?;
    cx.forward(0, 3)
}

fn read(cx: &mut OpContext<'_>, dtype: DType) -> Result<()> {
    let array = array(cx)?;
    array.check_dtype(dtype)?;
    let value = array.read(index(cx, 1)?)?;
    cx.set_output(0, value);
    Ok(())
}

/// The elements under each other, with `count` of them; `first` is the length of each along the first dimension.
fn join(cx: &OpContext<'_>, dtype: DType, shape: Shape, parts: &[Tensor]) -> Result<Tensor> {
    let mut to = 0;
    let copies: Vec<StridedCopy> = parts
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let copy = StridedCopy::block(i, 0, to, p.len());
            to += p.len();
            copy
        })
        .collect();
    let sources: Vec<&Tensor> = parts.iter().collect();
    moves::build(cx, dtype, shape, Fill::Any, &sources, &Copies(&copies))
}

fn indices(t: &Tensor) -> Result<&[i32]> {
    if t.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "the indices must be a vector, got shape {}",
            t.shape()
        )));
    }
    t.as_slice::<i32>()
}

fn gather(cx: &mut OpContext<'_>, dtype: DType, declared: &PartialShape) -> Result<()> {
    let array = array(cx)?;
    array.check_dtype(dtype)?;
    let known = array.element_shape().merge(declared)?;
    let wanted = indices(cx.input(1)?)?;
    let parts = array.read_many(wanted.iter().map(|i| i64::from(*i)))?;
    let element = match (parts.first(), known.to_shape()) {
        (Some(p), _) => p.shape().clone(),
        (None, Some(s)) => s,
        (None, None) => {
            return Err(Error::unimplemented(format!(
                "nothing is gathered from the TensorArray, and its element shape {known} is not fully known, so the \
                 result has no shape"
            )));
        }
    };
    if !known.accepts(&element) {
        return Err(Error::invalid(format!(
            "the TensorArray's elements have shape {element}, the operation asks for {known}"
        )));
    }
    if let Some((i, p)) = parts.iter().enumerate().find(|(_, p)| *p.shape() != element) {
        return Err(Error::invalid(format!(
            "the TensorArray has inconsistent shapes: index 0 has shape {element}, but index {i} has shape {}",
            p.shape()
        )));
    }
    let shape = element.with_replaced(0, 0, &[parts.len()]);
    shape.checked_count()?;
    let t = join(cx, dtype, shape, &parts)?;
    cx.set_output(0, t);
    Ok(())
}

fn scatter(cx: &mut OpContext<'_>) -> Result<()> {
    let (array, value) = (array(cx)?, cx.input(2)?.clone());
    array.check_dtype(value.dtype())?;
    let to = indices(cx.input(1)?)?;
    let Some((&rows, element)) = value.shape().split_first() else {
        return Err(Error::invalid("the value to scatter must be at least a vector"));
    };
    if rows != to.len() {
        return Err(Error::invalid(format!(
            "there are {} indices for {rows} rows of the value",
            to.len()
        )));
    }
    if let Some(most) = to.iter().max().and_then(|m| usize::try_from(*m).ok()) {
        array.fit(most + 1)?;
    }
    let element = Shape::new(element);
    for (i, at) in to.iter().enumerate() {
        let row = value.slice_rows(i, i + 1)?.reshape(element.clone())?;
        array.write(i64::from(*at), row, cx.step().device.pool())?;
    }
    cx.forward(0, 3)
}

fn concat(cx: &mut OpContext<'_>, dtype: DType, declared: &PartialShape) -> Result<()> {
    let array = array(cx)?;
    array.check_dtype(dtype)?;
    let n = array.size()?;
    let parts = array.read_many((0..n).map(|i| i as i64))?;
    let mut lengths = Vec::with_capacity(n);
    let mut rest: Option<Shape> = None;
    for (i, p) in parts.iter().enumerate() {
        let Some((&length, row)) = p.shape().split_first() else {
            return Err(Error::invalid(format!(
                "the element at index {i} is a scalar; elements must be at least vectors to be concatenated"
            )));
        };
        let row = Shape::new(row);
        match &rest {
            None => rest = Some(row),
            Some(r) if *r == row => {}
            Some(r) => {
                return Err(Error::invalid(format!(
                    "the TensorArray has inconsistent shapes: behind the first dimension, index 0 has shape {r}, but \
                     index {i} has shape {row}"
                )));
            }
        }
        lengths.push(length as i64);
    }
    let rest = match (rest, declared.to_shape()) {
        (Some(r), _) => r,
        (None, Some(r)) => r,
        (None, None) => {
            return Err(Error::unimplemented(
                "the TensorArray has size zero, but element_shape_except0 is not fully known, so the result has no \
                 shape",
            ));
        }
    };
    if !declared.accepts(&rest) {
        return Err(Error::invalid(format!(
            "the TensorArray's elements have shape {rest} behind the first dimension, the operation asks for {declared}"
        )));
    }
    let total: i64 = lengths.iter().sum();
    let shape = rest.with_replaced(0, 0, &[total as usize]);
    shape.checked_count()?;
    let t = join(cx, dtype, shape, &parts)?;
    cx.set_output(0, t);
    cx.set_output(1, Tensor::vector(&lengths));
    Ok(())
}

fn split(cx: &mut OpContext<'_>) -> Result<()> {
    let (array, value) = (array(cx)?, cx.input(1)?.clone());
    array.check_dtype(value.dtype())?;
    let lengths = cx.input(2)?;
    if lengths.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "the lengths must be a vector, got shape {}",
            lengths.shape()
        )));
    }
    let lengths = lengths.as_slice::<i64>()?;
    let Some((&rows, _)) = value.shape().split_first() else {
        return Err(Error::invalid(format!(
            "the value to split must be at least a vector, got shape {}",
            value.shape()
        )));
    };
    let mut ends = Vec::with_capacity(lengths.len());
    let mut total = 0usize;
    for l in lengths {
        let l = usize::try_from(*l).map_err(|_| Error::invalid(format!("length {l} is negative")))?;
        total = total.saturating_add(l);
        ends.push(total);
    }
    if total != rows {
        return Err(Error::invalid(format!(
            "expected the sum of the lengths to be the value's first dimension: the lengths {lengths:?} add up to \
             {total}, the value's shape is {}",
            value.shape()
        )));
    }
    let size = array.size()?;
    if size < ends.len() {
        array.fit(ends.len())?;
    } else if size > ends.len() {
        return Err(Error::invalid(format!(
            "the TensorArray's size is not equal to the number of lengths ({size} vs. {})",
            ends.len()
        )));
    }
    let mut from = 0;
    for (i, end) in ends.iter().enumerate() {
        array.write(i as i64, value.slice_rows(from, *end)?, cx.step().device.pool())?;
        from = *end;
    }
    cx.forward(0, 3)
}

fn size(cx: &mut OpContext<'_>) -> Result<()> {
    let n = array(cx)?.size()?;
    cx.set_output(0, Tensor::scalar(i32::try_from(n).unwrap_or(i32::MAX)));
    Ok(())
}

struct Gradient(String);

impl Kernel for Gradient {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let prefix = match cx.num_inputs() {
            3 => cx.input(2)?.to_shape()?,
            _ => Shape::SCALAR,
        };
        let handle = array(cx)?.gradient(&self.0, &prefix)?;
        cx.set_output(0, Tensor::resource(handle));
        cx.forward(1, 1)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

/// What is known of the elements of the array whose handle is input 0.
fn element_shape(cx: &ShapeContext<'_>) -> PartialShape {
    match cx.handle_maker(0) {
        Some(n) if n.op_name() == "TensorArrayV3" => n.attrs().shape("element_shape").cloned().unwrap_or_default(),
        _ => PartialShape::UNKNOWN,
    }
}

fn op(name: &'static str) -> OpDef {
    OpDef::new(name, Category::ControlFlow).stateful()
}

fn tensor_array() -> OpDef {
    op("TensorArrayV3")
        .doc("A new array of tensors, which lives as long as the step.")
        .input("size: int32")
        .output("handle: resource")
        .output("flow: float")
        .attr("dtype: type")
        .attr("element_shape: shape = unknown")
        .attr("dynamic_size: bool = false")
        .attr("clear_after_read: bool = true")
        .attr("identical_element_shapes: bool = false")
        .attr("tensor_array_name: string = ''")
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            Ok(vec![PartialShape::vector(Some(2)), PartialShape::scalar()])
        })
        .not_differentiable()
        .cpu(make)
}

fn tensor_array_grad() -> OpDef {
    op("TensorArrayGradV3")
        .doc("The array of the gradients of an array; `source` keeps those of different walks apart.")
        .input("handle: resource")
        .input("flow_in: float")
        .output("grad_handle: resource")
        .output("flow_out: float")
        .attr("source: string")
        .shape(|_| Ok(vec![PartialShape::vector(Some(2)), PartialShape::scalar()]))
        .not_differentiable()
        .cpu(|init| Ok(Box::new(Gradient(init.attrs.str("source")?.to_owned()))))
}

fn tensor_array_grad_with_shape() -> OpDef {
    op("TensorArrayGradWithShape")
        .doc("TensorArrayGradV3 whose elements have more dimensions in front.")
        .input("handle: resource")
        .input("flow_in: float")
        .input("shape_to_prepend: int32")
        .output("grad_handle: resource")
        .output("flow_out: float")
        .attr("source: string")
        .shape(|_| Ok(vec![PartialShape::vector(Some(2)), PartialShape::scalar()]))
        .not_differentiable()
        .cpu(|init| Ok(Box::new(Gradient(init.attrs.str("source")?.to_owned()))))
}

fn tensor_array_write() -> OpDef {
    op("TensorArrayWriteV3")
        .doc("Writes an element, once; into an array of gradients, adds to it.")
        .input("handle: resource")
        .input("index: int32")
        .input("value: T")
        .input("flow_in: float")
        .output("flow_out: float")
        .attr("T: type")
        .shape(shapes::scalar)
        .gradient(grad::of_write)
        .cpu(|_| cheap(write))
}

fn tensor_array_read() -> OpDef {
    op("TensorArrayReadV3")
        .doc("An element, which is taken out unless the array keeps what was read.")
        .input("handle: resource")
        .input("index: int32")
        .input("flow_in: float")
        .output("value: dtype")
        .attr("dtype: type")
        .shape(|cx| Ok(vec![element_shape(cx)]))
        .gradient(grad::of_read)
        .cpu(|init| {
            let dtype = init.attrs.dtype("dtype")?;
            Ok(Box::new(Cheap(move |cx: &mut OpContext<'_>| read(cx, dtype))))
        })
}

fn tensor_array_gather() -> OpDef {
    op("TensorArrayGatherV3")
        .doc("The elements at these indices, stacked.")
        .input("handle: resource")
        .input("indices: int32")
        .input("flow_in: float")
        .output("value: dtype")
        .attr("dtype: type")
        .attr("element_shape: shape = unknown")
        .shape(|cx| {
            let element = element_shape(cx).merge(cx.attrs().shape("element_shape")?)?;
            let rows = PartialShape::vector(cx.input(1).dim(0));
            Ok(vec![rows.concat(&element)])
        })
        .gradient(grad::of_gather)
        .cpu(|init| {
            let (dtype, shape) = (init.attrs.dtype("dtype")?, init.attrs.shape("element_shape")?.clone());
            Ok(Box::new(move |cx: &mut OpContext<'_>| gather(cx, dtype, &shape)))
        })
}

fn tensor_array_scatter() -> OpDef {
    op("TensorArrayScatterV3")
        .doc("Writes the rows of a tensor at these indices.")
        .input("handle: resource")
        .input("indices: int32")
        .input("value: T")
        .input("flow_in: float")
        .output("flow_out: float")
        .attr("T: type")
        .shape(shapes::scalar)
        .gradient(grad::of_scatter)
        .cpu(|_| Ok(Box::new(scatter)))
}

fn tensor_array_concat() -> OpDef {
    op("TensorArrayConcatV3")
        .doc("All elements, joined along their first dimension, and their lengths.")
        .input("handle: resource")
        .input("flow_in: float")
        .output("value: dtype")
        .output("lengths: int64")
        .attr("dtype: type")
        .attr("element_shape_except0: shape = unknown")
        .shape(|cx| {
            let rest = cx.attrs().shape("element_shape_except0")?;
            let all = PartialShape::vector(None).concat(rest);
            Ok(vec![all, PartialShape::vector(None)])
        })
        .gradient(grad::of_concat)
        .cpu(|init| {
            let (dtype, rest) = (
                init.attrs.dtype("dtype")?,
                init.attrs.shape("element_shape_except0")?.clone(),
            );
            Ok(Box::new(move |cx: &mut OpContext<'_>| concat(cx, dtype, &rest)))
        })
}

fn tensor_array_split() -> OpDef {
    op("TensorArraySplitV3")
        .doc("Writes consecutive parts of a tensor, of these lengths along its first dimension.")
        .input("handle: resource")
        .input("value: T")
        .input("lengths: int64")
        .input("flow_in: float")
        .output("flow_out: float")
        .attr("T: type")
        .shape(shapes::scalar)
        .gradient(grad::of_split)
        .cpu(|_| Ok(Box::new(split)))
}

fn tensor_array_size() -> OpDef {
    op("TensorArraySizeV3")
        .doc("The number of elements.")
        .input("handle: resource")
        .input("flow_in: float")
        .output("size: int32")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| cheap(size))
}

fn tensor_array_close() -> OpDef {
    op("TensorArrayCloseV3")
        .doc("Drops the elements and refuses further use.")
        .input("handle: resource")
        .shape(shapes::none)
        .not_differentiable()
        .cpu(|_| {
            cheap(|cx| {
                array(cx)?.close();
                Ok(())
            })
        })
}

register_ops!(
    tensor_array,
    tensor_array_grad,
    tensor_array_grad_with_shape,
    tensor_array_write,
    tensor_array_read,
    tensor_array_gather,
    tensor_array_scatter,
    tensor_array_concat,
    tensor_array_split,
    tensor_array_size,
    tensor_array_close
);
