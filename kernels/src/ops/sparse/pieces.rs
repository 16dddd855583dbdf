//! `SparseConcat`, `SparseSplit`, `SparseSlice`, `SparseSliceGrad`: sparse tensors joined and cut.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{PartialShape, Tensor, dispatch, register_ops};

use super::number::Number;
use super::reorder::order;
use super::{Sparse, indices_tensor, known_rank, matrix, parts, pick, pick_one};

fn too_long() -> Error {
    Error::invalid("the joined dimension is too long")
}

fn concat(cx: &mut OpContext<'_>, axis: i64) -> Result<()> {
    let n = cx.num_inputs() / 3;
    let mut all: Vec<Sparse<'_>> = Vec::with_capacity(n);
    for i in 0..n {
        all.push(Sparse::new(cx.input(i)?, cx.input(n + i)?, cx.input(2 * n + i)?)?);
    }
    let first = all.first().ok_or_else(|| Error::internal("there is nothing to join"))?;
    let axis = resolve_axis(axis, first.rank)?;
    let (mut shape, mut flat, mut from) = (first.shape.to_vec(), Vec::new(), Vec::new());
    shape[axis] = 0;
    for (i, s) in all.iter().enumerate() {
        let fits = s.rank == first.rank && (0..s.rank).all(|d| d == axis || s.shape[d] == first.shape[d]);
        if !fits {
            return Err(Error::invalid(format!(
                "the shapes of all inputs must match except in dimension {axis}: {:?} and, at position {i}, {:?}",
                first.shape, s.shape
            )));
        }
        for k in 0..s.len() {
            let start = flat.len();
            flat.extend_from_slice(s.index(k));
            let at: &mut i64 = &mut flat[start + axis];
            *at = at.checked_add(shape[axis]).ok_or_else(too_long)?;
            from.push((i, k));
        }
        shape[axis] = shape[axis].checked_add(s.shape[axis]).ok_or_else(too_long)?;
    }
    let rank = first.rank;
    let sorted = order(&flat, rank, from.len());
    let at: Vec<i64> = sorted.iter().flat_map(|k| &flat[k * rank..][..rank]).copied().collect();
    let picked: Vec<_> = sorted.iter().map(|k| from[*k]).collect();
    let sources: Vec<&Tensor> = all.iter().map(|s| s.values).collect();
    let values = pick(cx, &sources, &picked)?;
    let indices = indices_tensor(picked.len(), rank, &at)?;
    cx.set_output(0, indices);
    cx.set_output(1, values);
    cx.set_output(2, Tensor::vector(&shape));
    Ok(())
}

fn concat_op() -> OpDef {
    OpDef::new("SparseConcat", Category::Sparse)
        .doc("Sparse tensors joined along a dimension.")
        .input("indices: N * int64")
        .input("values: N * T")
        .input("shapes: N * int64")
        .output("output_indices: int64")
        .output("output_values: T")
        .output("output_shape: int64")
        .attr("concat_dim: int")
        .attr("N: int >= 2")
        .attr("T: type")
        .shape(|cx| {
            let n = cx.num_inputs() / 3;
            let mut rank = PartialShape::vector(None);
            for i in 0..n {
                rank = rank.merge(&cx.input(i).with_rank(2)?.sub(1, 2))?;
                rank = rank.merge(&cx.input(2 * n + i).with_rank(1)?)?;
            }
            Ok(parts(None, rank.dim(0)))
        })
        .not_differentiable()
        .cpu(|init| {
            let axis = init.attrs.int("concat_dim")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| concat(cx, axis)))
        })
}

fn split(cx: &mut OpContext<'_>, n: usize) -> Result<()> {
    let axis = cx.input(0)?;
    if !axis.shape().is_scalar() && axis.shape().dims() != [1] {
        return Err(Error::invalid(format!(
            "split_dim must be a scalar, not of shape {}",
            axis.shape()
        )));
    }
    let axis = axis.to_i64()?;
    let s = Sparse::at(cx, 1)?;
    let axis = resolve_axis(axis, s.rank)?;
    let len = s.shape[axis];
    if n == 0 || n as i64 > len {
        return Err(Error::invalid(format!(
            "num_split should be between 1 and the splitting dimension's size ({len}), got {n}"
        )));
    }
    s.check_bounds()?;
    let (size, more) = (len / n as i64, len % n as i64);
    // The first parts are longer by one.
    let long = (size + 1) * more;
    let part_of = |i: i64| match i < long {
        true => (i / (size + 1), i % (size + 1)),
        false => (more + (i - long) / size, (i - long) % size),
    };
    let mut pieces: Vec<(Vec<i64>, Vec<usize>)> = vec![(Vec::new(), Vec::new()); n];
    for k in 0..s.len() {
        let (part, at) = part_of(s.index(k)[axis]);
        let (flat, from) = &mut pieces[part as usize];
        let start = flat.len();
        flat.extend_from_slice(s.index(k));
        flat[start + axis] = at;
        from.push(k);
    }
    let mut outs = Vec::with_capacity(n);
    for (p, (flat, from)) in pieces.iter().enumerate() {
        let mut shape = s.shape.to_vec();
        shape[axis] = size + i64::from((p as i64) < more);
        outs.push((
            indices_tensor(from.len(), s.rank, flat)?,
            pick_one(cx, s.values, from)?,
            Tensor::vector(&shape),
        ));
    }
    for (p, (indices, values, shape)) in outs.into_iter().enumerate() {
        cx.set_output(p, indices);
        cx.set_output(n + p, values);
        cx.set_output(2 * n + p, shape);
    }
    Ok(())
}

fn split_op() -> OpDef {
    OpDef::new("SparseSplit", Category::Sparse)
        .doc("A sparse tensor cut into parts along a dimension, the first of them longer by one if need be.")
        .input("split_dim: int64")
        .input("indices: int64")
        .input("values: T")
        .input("shape: int64")
        .output("output_indices: num_split * int64")
        .output("output_values: num_split * T")
        .output("output_shape: num_split * int64")
        .attr("num_split: int >= 1")
        .attr("T: type")
        .shape(|cx| {
            let rank = known_rank(cx, 1)?;
            let n = cx.num_outputs() / 3;
            let each = parts(None, rank);
            Ok(each.into_iter().flat_map(|p| std::iter::repeat_n(p, n)).collect())
        })
        .cpu(|init| {
            let n = usize::try_from(init.attrs.int("num_split")?).unwrap_or(0);
            Ok(Box::new(move |cx: &mut OpContext<'_>| split(cx, n)))
        })
}

fn slice(cx: &mut OpContext<'_>) -> Result<()> {
    let s = Sparse::at(cx, 0)?;
    let vector = |i: usize, what: &str| -> Result<&[i64]> {
        let t = cx.input(i)?;
        match t.shape().dims() == [s.rank] {
            true => t.as_slice::<i64>(),
            false => Err(Error::invalid(format!(
                "expected {what} to be a vector of length {}, got shape {}",
                s.rank,
                t.shape()
            ))),
        }
    };
    let (start, size) = (vector(3, "start")?, vector(4, "size")?);
    if let Some(n) = size.iter().find(|n| **n < 0) {
        return Err(Error::invalid(format!("expected a non-negative size, got {n}")));
    }
    let ends = s.shape.iter().zip(start).zip(size);
    let shape: Vec<i64> = ends
        .map(|((d, start), n)| d.saturating_sub(*start).min(*n).max(0))
        .collect();
    let (mut flat, mut from) = (Vec::new(), Vec::new());
    for k in 0..s.len() {
        let at = || s.index(k).iter().zip(start).map(|(i, start)| i.saturating_sub(*start));
        if at().zip(&shape).all(|(i, n)| (0..*n).contains(&i)) {
            flat.extend(at());
            from.push(k);
        }
    }
    let (indices, values) = (
        indices_tensor(from.len(), s.rank, &flat)?,
        pick_one(cx, s.values, &from)?,
    );
    cx.set_output(0, indices);
    cx.set_output(1, values);
    cx.set_output(2, Tensor::vector(&shape));
    Ok(())
}

fn slice_op() -> OpDef {
    OpDef::new("SparseSlice", Category::Sparse)
        .doc("The part of a sparse tensor of the given size that begins at the given index.")
        .input("indices: int64")
        .input("values: T")
        .input("shape: int64")
        .input("start: int64")
        .input("size: int64")
        .output("output_indices: int64")
        .output("output_values: T")
        .output("output_shape: int64")
        .attr("T: type")
        .shape(|cx| Ok(parts(None, known_rank(cx, 0)?)))
        .gradient(|cx, dys| {
            let dx = cx
                .graph()
                .op("SparseSliceGrad")
                .input(&cx.dense(dys, 1)?)
                .input(&cx.input(0)?)
                .input(&cx.input(3)?)
                .input(&cx.output(0)?)
                .output()?;
            Ok(vec![None, Some(dx.into()), None, None, None])
        })
        .cpu(|_| Ok(Box::new(slice)))
        .sample(|s| {
            let v = s.normal([3])?;
            s.op("SparseSlice")
                .input(&s.constant([[0i64, 1], [1, 0], [1, 2]])?)
                .input(&v)
                .input(&s.constant([2i64, 3])?)
                .input(&s.constant([0i64, 1])?)
                .input(&s.constant([2i64, 2])?)
                .finish()
        })
}

fn slice_grad<T: Number>(cx: &mut OpContext<'_>) -> Result<()> {
    let (dy, whole, start, part) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let ((n, rank), (m, other)) = (matrix(whole, "input_indices")?, matrix(part, "output_indices")?);
    if dy.shape().dims() != [m] || rank != other || start.shape().dims() != [rank] {
        return Err(Error::invalid(format!(
            "backprop_val_grad, input_indices, input_start and output_indices of shapes {}, {}, {} and {} do not fit \
             each other",
            dy.shape(),
            whole.shape(),
            start.shape(),
            part.shape()
        )));
    }
    let (dy, start) = (dy.as_slice::<T>()?, start.as_slice::<i64>()?);
    let (whole, part) = (whole.as_slice::<i64>()?, part.as_slice::<i64>()?);
    let (mut out, mut j) = (vec![T::default(); n], 0);
    for (i, o) in out.iter_mut().enumerate() {
        if j == m {
            break;
        }
        let moved = part[j * rank..][..rank]
            .iter()
            .zip(start)
            .map(|(i, s)| i.saturating_add(*s));
        if moved.eq(whole[i * rank..][..rank].iter().copied()) {
            *o = dy[j];
            j += 1;
        }
    }
    if j < m {
        return Err(Error::internal(format!(
            "elements of backprop_val_grad are not all propagated: {j} of {m} are"
        )));
    }
    cx.set_output(0, Tensor::vector(&out));
    Ok(())
}

fn slice_grad_op() -> OpDef {
    OpDef::new("SparseSliceGrad", Category::Sparse)
        .doc("The gradient of the elements of a sparse tensor from that of a part of it.")
        .input("backprop_val_grad: T")
        .input("input_indices: int64")
        .input("input_start: int64")
        .input("output_indices: int64")
        .output("val_grad: T")
        .attr("T: numbertype")
        .shape(|cx| Ok(vec![PartialShape::vector(cx.input(1).with_rank(2)?.dim(0))]))
        .cpu(|init| {
            dispatch!(init.input_types[0], T in numbers => Ok(Box::new(slice_grad::<T>)), else Err(init.no_kernel()))
        })
}

register_ops!(concat_op, split_op, slice_op, slice_grad_op);
