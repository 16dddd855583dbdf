//! `SparseTensorDenseAdd`, `SparseDenseCwiseAdd`, `SparseDenseCwiseMul`, `SparseDenseCwiseDiv`: a sparse tensor and a
//! dense one.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Operation, Output, PartialShape, Shape, dispatch, register_ops};

use super::number::Number;
use super::{Sparse, known_rank, matrix};

fn add<T: Number>(cx: &mut OpContext<'_>) -> Result<()> {
    let (indices, values, shape, b) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (n, rank) = matrix(indices, "a_indices")?;
    if values.shape().dims() != [n] || shape.shape().dims() != [rank] {
        return Err(Error::invalid(format!(
            "a_indices, a_values and a_shape of shapes {}, {} and {} are no sparse tensor",
            indices.shape(),
            values.shape(),
            shape.shape()
        )));
    }
    let dims: Vec<i64> = b.shape().to_i64();
    if shape.to_i64_vec()? != dims {
        return Err(Error::invalid(format!(
            "the sparse tensor has the shape {:?}, the dense one {} (there is no broadcasting)",
            shape.to_i64_vec()?,
            b.shape()
        )));
    }
    let (at, strides) = (indices.to_i64_vec()?, b.shape().strides());
    let mut places = Vec::with_capacity(n);
    for k in 0..n {
        let at = &at[k * rank..][..rank];
        if !at.iter().zip(&dims).all(|(i, d)| (0..*d).contains(i)) {
            return Err(Error::invalid(format!(
                "the sparse tensor has an invalid index: a_indices[{k}] = {at:?}, dense shape {}",
                b.shape()
            )));
        }
        places.push(at.iter().zip(&strides).map(|(i, s)| *i as usize * s).sum::<usize>());
    }
    let (values, b) = (values.clone(), b.clone());
    let mut out = cx.alloc(T::DTYPE, b.shape().clone())?;
    let to = out
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    to.copy_from_slice(b.as_slice()?);
    for (p, v) in places.iter().zip(values.as_slice::<T>()?) {
        to[*p] = to[*p].plus(*v);
    }
    cx.set_output(0, out);
    Ok(())
}

fn dense_add() -> OpDef {
    OpDef::new("SparseTensorDenseAdd", Category::Sparse)
        .doc("The dense sum of a sparse tensor and a dense one of the same shape.")
        .input("a_indices: Tindices")
        .input("a_values: T")
        .input("a_shape: Tindices")
        .input("b: T")
        .output("output: T")
        .attr("T: numbertype")
        .attr("Tindices: {int32, int64}")
        .shape(|cx| Ok(vec![cx.input(3)]))
        .gradient(|cx, dys| {
            let dy = cx.dense(dys, 0)?;
            let da = gather_nd(&dy, &cx.input(0)?)?;
            Ok(vec![None, Some(da.into()), None, Some(dy.into())])
        })
        .cpu(|init| dispatch!(init.input_types[1], T in numbers => Ok(Box::new(add::<T>)), else Err(init.no_kernel())))
        .sample(|s| {
            let (v, b) = (s.normal([3])?, s.normal([2, 3])?);
            s.op("SparseTensorDenseAdd")
                .input(&s.constant([[0i64, 1], [1, 0], [0, 1]])?)
                .input(&v)
                .input(&s.constant([2i64, 3])?)
                .input(&b)
                .finish()
        })
}

pub(super) fn gather_nd(from: &Output, indices: &Output) -> Result<Output> {
    from.graph().op("GatherNd").input(from).input(indices).output()
}

/// What an operation does with an element of the sparse tensor and one of the dense tensor.
#[derive(Clone, Copy, PartialEq)]
enum Cwise {
    Add,
    Mul,
    Div,
}

fn cwise<T: Number>(cx: &mut OpContext<'_>, what: Cwise) -> Result<()> {
    let a = Sparse::at(cx, 0)?;
    let dense = cx.input(3)?;
    let dims = dense.shape();
    let lead = a.rank.checked_sub(dims.rank());
    let fits = lead.is_some_and(|lead| {
        let mut pairs = a.shape[lead..].iter().zip(dims.iter());
        pairs.all(|(s, d)| *d == 1 || *s == *d as i64)
    });
    let Some(lead) = lead.filter(|_| fits) else {
        return Err(Error::invalid(format!(
            "the dense tensor is broadcast to the sparse one only; got incompatible shapes: {:?} and {dims}",
            a.shape
        )));
    };
    a.check_bounds()?;
    let strides = dims.strides();
    let (values, dense) = (a.values.as_slice::<T>()?, dense.as_slice::<T>()?);
    let mut out = cx.alloc(T::DTYPE, [values.len()])?;
    let to = out
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    for (k, (o, v)) in to.iter_mut().zip(values).enumerate() {
        let at = &a.index(k)[lead..];
        let place: usize = at
            .iter()
            .zip(dims.iter().zip(&strides))
            .map(|(i, (d, s))| if *d == 1 { 0 } else { *i as usize * s })
            .sum();
        let d = dense[place];
        *o = match what {
            Cwise::Add => v.plus(d),
            Cwise::Mul => v.times(d),
            Cwise::Div => v.over(d).ok_or_else(|| {
                Error::invalid("SparseDenseCwiseDiv cannot divide by zero, but the dense tensor contains zero")
            })?,
        };
    }
    cx.set_output(0, out);
    Ok(())
}

fn cwise_kernel(init: &KernelInit<'_>, what: Cwise) -> Result<Box<dyn Kernel>> {
    dispatch!(init.input_types[1], T in numbers => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| cwise::<T>(cx, what)))
    }, else Err(init.no_kernel()))
}

fn cwise_grad(cx: &GradContext, dys: &[Option<Grad>], what: Cwise) -> Result<Vec<Option<Grad>>> {
    let g = cx.graph();
    let (indices, x, shape, y) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let dy = cx.dense(dys, 0)?;
    let y_shape = y.shape_op()?.cast(DType::I64)?;
    let added = shape.size_op()?.minus(&y_shape.size_op()?)?.expand_dims(0)?;
    let ones = added.fill_with(&g.constant(1i64)?)?;
    let scaling = shape.floor_div(&g.concat(&[ones, y_shape.clone()], 0)?)?;
    let scaled = indices.floor_div(&scaling.maximum(&g.constant(1i64)?)?)?;
    let start = g.concat(&[g.constant([0i32])?, added], 0)?;
    let scaled = g
        .op("Slice")
        .input(&scaled)
        .input(&start)
        .input(&g.constant([-1i32, -1])?)
        .output()?;
    let at = gather_nd(&y, &scaled)?;
    let (dx, of_y) = match what {
        Cwise::Div => (dy.divided_by(&at)?, dy.times(&x.negated()?.divided_by(&at.square()?)?)?),
        _ => (dy.times(&at)?, dy.times(&x)?),
    };
    // Indices may repeat after scaling.
    let sum = g
        .op("SparseTensorDenseAdd")
        .input(&scaled)
        .input(&of_y)
        .input(&y_shape)
        .input(&y.zeros_like()?)
        .output()?;
    Ok(vec![None, Some(dx.into()), None, Some(sum.into())])
}

fn cwise_def(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Sparse)
        .input("sp_indices: int64")
        .input("sp_values: T")
        .input("sp_shape: int64")
        .input("dense: T")
        .output("output: T")
        .attr("T: numbertype")
        .shape(|cx| {
            known_rank(cx, 0)?;
            Ok(vec![PartialShape::vector(cx.input(0).dim(0))])
        })
}

fn sample(s: &mut Sampler, op: &str, shape: &[usize]) -> Result<Operation> {
    let (v, d) = (s.normal([3])?, s.positive(Shape::new(shape))?);
    s.op(op)
        .input(&s.constant([[0i64, 1], [1, 0], [1, 2]])?)
        .input(&v)
        .input(&s.constant([2i64, 3])?)
        .input(&d)
        .finish()
}

fn cwise_add() -> OpDef {
    cwise_def("SparseDenseCwiseAdd")
        .doc("The sums of the elements that are there and those of a dense tensor, which is broadcast.")
        .cpu(|init| cwise_kernel(init, Cwise::Add))
}

fn cwise_mul() -> OpDef {
    cwise_def("SparseDenseCwiseMul")
        .doc("The products of the elements that are there and those of a dense tensor, which is broadcast.")
        .gradient(|cx, dys| cwise_grad(cx, dys, Cwise::Mul))
        .cpu(|init| cwise_kernel(init, Cwise::Mul))
        .sample(|s| sample(s, "SparseDenseCwiseMul", &[2, 3]))
        .sample(|s| sample(s, "SparseDenseCwiseMul", &[3]))
}

fn cwise_div() -> OpDef {
    cwise_def("SparseDenseCwiseDiv")
        .doc("The quotients of the elements that are there and those of a dense tensor, which is broadcast.")
        .gradient(|cx, dys| cwise_grad(cx, dys, Cwise::Div))
        .cpu(|init| cwise_kernel(init, Cwise::Div))
        .sample(|s| sample(s, "SparseDenseCwiseDiv", &[2, 1]))
        .sample(|s| sample(s, "SparseDenseCwiseDiv", &[2, 3]))
}

register_ops!(dense_add, cwise_add, cwise_mul, cwise_div);
