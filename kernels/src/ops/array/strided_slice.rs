//! `StridedSlice`, `StridedSliceGrad`, `TensorStridedSliceUpdate`: Python's `x[a:b:c, ..., newaxis, i]`.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::{OpBuilder, ShapeContext};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Shape, Tensor, register_ops};
use smallvec::SmallVec;

use super::slicing::{MASKS, Masks, Range, Spec};
use super::support::{Ints, int_vector, shape_of};
use crate::moves::{self, Axis, Copies, Fill, StridedCopy};

/// The slice that inputs `first`, `first + 1`, `first + 2` describe of a tensor of shape `dims`.
pub(crate) fn resolve(cx: &OpContext<'_>, first: usize, masks: Masks, dims: &[usize]) -> Result<Spec> {
    let [b, e, s]: [Ints; 3] = [
        int_vector(cx.input(first)?, "begin")?,
        int_vector(cx.input(first + 1)?, "end")?,
        int_vector(cx.input(first + 2)?, "strides")?,
    ];
    if b.len() != e.len() || b.len() != s.len() {
        return Err(Error::invalid(format!(
            "begin, end and strides must have one length, got {}, {} and {}",
            b.len(),
            e.len(),
            s.len()
        )));
    }
    let dims: SmallVec<[Option<usize>; 6]> = dims.iter().map(|d| Some(*d)).collect();
    Spec::new(b.len(), [Some(&b), Some(&e), Some(&s)], masks, &dims)
}

/// The slice of `x`; shares the buffer if it is whole rows.
pub(crate) fn read(cx: &OpContext<'_>, x: &Tensor, spec: &Spec) -> Result<Tensor> {
    let shape = full(&spec.shape())?;
    let dims = x.shape().dims();
    let whole = |r: &Range, d: usize| r.begin == 0 && r.stride == 1 && r.len == Some(d);
    let rest_whole = spec.ranges.iter().zip(dims).skip(1).all(|(r, d)| whole(r, *d));
    if let Some(r) = spec.ranges.first()
        && rest_whole
        && (r.stride == 1 || r.len == Some(1))
        && shape.count() > 0
    {
        let begin = r.begin as usize;
        return x.slice_rows(begin, begin + r.len.unwrap_or(0))?.reshape(shape);
    }
    let (from, axes) = spec.copy(dims);
    let copy = StridedCopy {
        source: 0,
        from,
        to: 0,
        axes,
    };
    moves::build(cx, x.dtype(), shape, Fill::Any, &[x], &Copies(&[copy]))
}

/// The copy of `value` to the slice of a tensor of shape `dims`.
///
/// # Errors
/// `INVALID_ARGUMENT` if the value does not broadcast to the slice's shape (with `exact`: has not that shape).
pub(crate) fn place(dims: &Shape, spec: &Spec, value: &Tensor, exact: bool) -> Result<StridedCopy> {
    let shape = full(&spec.shape())?;
    let fits = match exact {
        true => shape == *value.shape(),
        false => Shape::broadcast(&shape, value.shape()).is_ok_and(|s| s == shape),
    };
    if !fits {
        return Err(Error::invalid(format!(
            "the value of shape {} does not fit the slice of shape {shape}",
            value.shape()
        )));
    }
    let (to, axes) = spec.copy(dims);
    // The value's stride along each axis of the slice: 0 where it is broadcast or the axis was a single index.
    let strides = value.shape().strides();
    let missing = shape.rank() - value.shape().rank();
    let mut from_value: SmallVec<[isize; 6]> = SmallVec::from_elem(0, spec.ranges.len());
    for (k, r) in spec.result.iter().enumerate() {
        if let (Some(i), Some(v)) = (*r, k.checked_sub(missing))
            && value.shape()[v] != 1
        {
            from_value[i] = strides[v] as isize;
        }
    }
    let axes = axes.iter().zip(&from_value).map(|(a, v)| Axis {
        n: a.n,
        src: *v,
        dst: a.src,
    });
    Ok(StridedCopy {
        source: 0,
        from: 0,
        to,
        axes: axes.collect(),
    })
}

/// A tensor of shape `dims` that starts as `fill` and has `value` at the slice.
///
/// # Errors
/// As [`place`].
pub(crate) fn write(
    cx: &OpContext<'_>,
    dims: &Shape,
    spec: &Spec,
    value: &Tensor,
    fill: Fill<'_>,
    exact: bool,
) -> Result<Tensor> {
    let copy = place(dims, spec, value, exact)?;
    moves::build(cx, value.dtype(), dims.clone(), fill, &[value], &Copies(&[copy]))
}

fn full(shape: &PartialShape) -> Result<Shape> {
    shape
        .to_shape()
        .ok_or_else(|| Error::internal("a slice was not resolved"))
}

fn infer(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let masks = Masks::of(cx.attrs())?;
    let values = [cx.constant_i64s(1), cx.constant_i64s(2), cx.constant_i64s(3)];
    let mut n = None;
    for i in 1..4 {
        let len = cx.input(i).with_rank(1)?.dim(0);
        if n.zip(len).is_some_and(|(a, b)| a != b) {
            return Err(Error::invalid("begin, end and strides must have one length"));
        }
        n = n.or(len);
    }
    let x = cx.input(0);
    let (Some(n), Some(dims)) = (n, x.dims()) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let spec = Spec::new(
        n,
        [values[0].as_deref(), values[1].as_deref(), values[2].as_deref()],
        masks,
        dims,
    )?;
    Ok(vec![spec.shape()])
}

fn with_masks(mut b: OpBuilder, attrs: &Attrs) -> Result<OpBuilder> {
    for m in MASKS {
        b = b.attr(m, attrs.int(m)?);
    }
    Ok(b)
}

fn masked(name: &'static str) -> OpDef {
    MASKS.iter().fold(OpDef::new(name, Category::Array), |d, m| {
        d.attr(&format!("{m}: int = 0"))
    })
}

fn strided_slice() -> OpDef {
    masked("StridedSlice")
        .doc("The elements that Python's extended slice notation selects.")
        .input("input: T")
        .input("begin: Index")
        .input("end: Index")
        .input("strides: Index")
        .output("output: T")
        .attr("T: type")
        .attr("Index: {int16, int32, int64}")
        .shape(infer)
        .gradient(|cx, dys| {
            // The gradient takes no int16.
            let index = match cx.input(1)?.dtype() {
                DType::I16 => DType::I32,
                d => d,
            };
            let mut b = cx
                .graph()
                .op("StridedSliceGrad")
                .input(&shape_of(&cx.input(0)?, index)?);
            for i in 1..4 {
                b = b.input(&cx.input(i)?.cast(index)?);
            }
            let dx = with_masks(b.input(&cx.dense(dys, 0)?), cx.attrs())?.output()?;
            Ok(vec![Some(dx.into()), None, None, None])
        })
        .cpu(|init| {
            let masks = Masks::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                let spec = resolve(cx, 1, masks, x.shape())?;
                let t = read(cx, x, &spec)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            // x[::-2, 1, newaxis, ...]
            let x = s.normal([4, 3, 2])?;
            let (b, e, t) = (
                s.constant([0i32, 1, 0, 0])?,
                s.constant([0i32, 2, 0, 0])?,
                s.constant([-2i32, 1, 1, 1])?,
            );
            s.op("StridedSlice")
                .input(&x)
                .input(&b)
                .input(&e)
                .input(&t)
                .attr("begin_mask", 1i64)
                .attr("end_mask", 1i64)
                .attr("shrink_axis_mask", 2i64)
                .attr("new_axis_mask", 4i64)
                .attr("ellipsis_mask", 8i64)
                .finish()
        })
}

fn strided_slice_grad() -> OpDef {
    masked("StridedSliceGrad")
        .doc("The gradient of StridedSlice: zeros of the given shape with `dy` at the slice.")
        .input("shape: Index")
        .input("begin: Index")
        .input("end: Index")
        .input("strides: Index")
        .input("dy: T")
        .output("output: T")
        .attr("T: type")
        .attr("Index: {int32, int64}")
        .shape(|cx| Ok(vec![cx.constant_shape(0)?]))
        .gradient(|cx, dys| {
            let mut b = cx.graph().op("StridedSlice").input(&cx.dense(dys, 0)?);
            for i in 1..4 {
                b = b.input(&cx.input(i)?);
            }
            let d = with_masks(b, cx.attrs())?.output()?;
            Ok(vec![None, None, None, None, Some(d.into())])
        })
        .cpu(|init| {
            let masks = Masks::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let shape = cx.input(0)?.to_shape()?;
                let spec = resolve(cx, 1, masks, &shape)?;
                let t = write(cx, &shape, &spec, cx.input(4)?, Fill::Zero, true)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let dy = s.normal([2, 1, 2])?;
            let shape = s.constant([3i32, 5])?;
            let (b, e, t) = (
                s.constant([0i32, 0, -1])?,
                s.constant([2i32, 0, 0])?,
                s.constant([1i32, 1, -3])?,
            );
            s.op("StridedSliceGrad")
                .input(&shape)
                .input(&b)
                .input(&e)
                .input(&t)
                .input(&dy)
                .attr("new_axis_mask", 2i64)
                .attr("end_mask", 4i64)
                .finish()
        })
}

fn updating(init: &KernelInit<'_>) -> Result<Box<dyn actorflow_core::kernel::Kernel>> {
    let masks = Masks::of(init.attrs)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let spec = resolve(cx, 1, masks, x.shape())?;
        let t = write(cx, x.shape(), &spec, cx.input(4)?, Fill::Copy(x), false)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn tensor_strided_slice_update() -> OpDef {
    masked("TensorStridedSliceUpdate")
        .doc("A copy of `input` with `value` at the slice.")
        .input("input: T")
        .input("begin: Index")
        .input("end: Index")
        .input("strides: Index")
        .input("value: T")
        .output("output: T")
        .attr("T: type")
        .attr("Index: {int32, int64}")
        .shape(crate::shapes::like_first)
        .gradient(|cx, dys| {
            let (g, dy, value) = (cx.graph(), cx.dense(dys, 0)?, cx.input(4)?);
            let bounds = |mut b: OpBuilder| -> Result<OpBuilder> {
                for i in 1..4 {
                    b = b.input(&cx.input(i)?);
                }
                Ok(b)
            };
            let kept = bounds(g.op("TensorStridedSliceUpdate").input(&dy))?.input(&value.zeros_like()?);
            let kept = with_masks(kept, cx.attrs())?.output()?;
            let part = with_masks(bounds(g.op("StridedSlice").input(&dy))?, cx.attrs())?.output()?;
            let part = actorflow_core::gradient::unbroadcast(&part, &value, &part)?;
            Ok(vec![Some(kept.into()), None, None, None, Some(part.into())])
        })
        .cpu(updating)
        .sample(|s| {
            let (x, v) = (s.normal([3, 4])?, s.normal([2, 2])?);
            let (b, e, t) = (s.constant([1i32, 0])?, s.constant([3i32, 4])?, s.constant([1i32, 2])?);
            s.op("TensorStridedSliceUpdate")
                .input(&x)
                .input(&b)
                .input(&e)
                .input(&t)
                .input(&v)
                .finish()
        })
}

register_ops!(strided_slice, strided_slice_grad, tensor_strided_slice_update);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::{Graph, Output};

    fn slice(x: &Output, b: &[i32], e: &[i32], s: &[i32], masks: [i64; 5]) -> Result<Output> {
        let g = x.graph();
        let c = |v: &[i32]| g.constant(Tensor::vector(v));
        let mut op = g.op("StridedSlice").input(x).input(&c(b)?).input(&c(e)?).input(&c(s)?);
        for (m, v) in MASKS.iter().zip(masks) {
            op = op.attr(m, v);
        }
        op.output()
    }

    fn values(o: Result<Output>) -> (Vec<usize>, Vec<i32>) {
        let o = o.unwrap();
        let t = eval(&o);
        assert_eq!(o.shape(), PartialShape::from(t.shape()));
        (t.shape().to_vec(), t.to_vec().unwrap())
    }

    fn grid() -> Output {
        let v: Vec<i32> = (0..24).collect();
        Graph::new()
            .constant(Tensor::from_slice([2, 3, 4], &v).unwrap())
            .unwrap()
    }

    #[test]
    fn python_slices() {
        let x = grid();
        let none = [0; 5];
        // x[1], x[-1, 2]
        assert_eq!(
            values(slice(&x, &[1], &[2], &[1], [0, 0, 0, 0, 1])).1,
            (12..24).collect::<Vec<_>>()
        );
        assert_eq!(
            values(slice(&x, &[-1, 2], &[0, 3], &[1, 1], [0, 0, 0, 0, 3])).1,
            [20, 21, 22, 23]
        );
        // x[0:1, ::-1, 3:0:-2]
        let got = values(slice(&x, &[0, 0, 3], &[1, 0, 0], &[1, -1, -2], [2, 2, 0, 0, 0]));
        assert_eq!(got, (vec![1, 3, 2], vec![11, 9, 7, 5, 3, 1]));
        // x[..., newaxis, 1]
        let got = values(slice(&x, &[0, 0, 1], &[0, 0, 2], &[1, 1, 1], [0, 0, 1, 2, 4]));
        assert_eq!(got, (vec![2, 3, 1], vec![1, 5, 9, 13, 17, 21]));
        // Bounds beyond the ends are clamped; empty results are empty.
        assert_eq!(values(slice(&x, &[-9], &[9], &[1], none)).0, [2, 3, 4]);
        assert_eq!(values(slice(&x, &[2, 1], &[1, 1], &[1, 1], none)).0, [0, 0, 4]);
        assert_eq!(values(slice(&x, &[0], &[i32::MAX], &[i32::MAX], none)).0, [1, 3, 4]);
    }

    #[test]
    fn impossible_slices_are_refused() {
        let x = grid();
        assert!(slice(&x, &[2], &[3], &[1], [0, 0, 0, 0, 1]).is_err());
        assert!(slice(&x, &[0], &[1], &[0], [0; 5]).is_err());
        assert!(slice(&x, &[0; 4], &[1; 4], &[1; 4], [0; 5]).is_err());
        assert!(slice(&x, &[0; 2], &[1; 2], &[1; 2], [0, 0, 3, 0, 0]).is_err());
        assert!(slice(&x, &[0], &[1; 2], &[1; 2], [0; 5]).is_err());
    }

    #[test]
    fn lengths_that_do_not_depend_on_unknown_dimensions_are_inferred() {
        let g = Graph::new();
        let x = g.placeholder("x", DType::F32, [None, Some(5)]).unwrap();
        let y = slice(&x, &[0, 1], &[0, 4], &[1, 1], [1, 1, 0, 0, 0]).unwrap();
        assert_eq!(y.shape(), PartialShape::from([None, Some(3)]));
        let z = slice(&x, &[0], &[1], &[1], [0, 0, 0, 0, 1]).unwrap();
        assert_eq!(z.shape(), PartialShape::from([5]));
    }

    #[test]
    fn an_update_broadcasts_into_the_slice() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3], [4, 5, 6]]).unwrap();
        let c = |v: &[i32]| g.constant(Tensor::vector(v)).unwrap();
        let op = g
            .op("TensorStridedSliceUpdate")
            .input(&x)
            .input(&c(&[0, 2]))
            .input(&c(&[2, 0]))
            .input(&c(&[1, -2]));
        let y = op.input(&c(&[9])).attr("end_mask", 2i64).output().unwrap();
        assert_eq!(eval(&y), Tensor::from([[9i32, 2, 9], [9, 5, 9]]));
    }
}
