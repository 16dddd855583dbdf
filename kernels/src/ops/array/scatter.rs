//! `ScatterNd`, `TensorScatterUpdate/Add/Sub/Min/Max`, `ScatterNdNonAliasingAdd`: slices written by index tuples.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef, Sampler};
use actorflow_core::parallel::Parallel;
use actorflow_core::{DType, Operation, Output, PartialShape, Shape, Tensor, dispatch, register_ops};
use bytes::Bytes;

use super::gather_nd::{BadIndices, tuples};
use super::number::Number;
use super::support::product;
use crate::moves::{self, Fill, Item, Shuffle};

/// How an update meets what is there; updates of one place are made in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Combine {
    /// The update replaces it.
    Assign,
    /// The sum.
    Add,
    /// The difference.
    Sub,
    /// The smaller.
    Min,
    /// The larger.
    Max,
}

/// Row `picks[i]` of the output becomes row `i` of the source.
struct Assign<'a> {
    row: usize,
    picks: &'a [Option<usize>],
}

impl Shuffle for Assign<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        let src = sources.first().copied().unwrap_or(&[]);
        for (u, p) in src.chunks_exact(self.row.max(1)).zip(self.picks) {
            if let Some(p) = p {
                out[p * self.row..][..self.row].clone_from_slice(u);
            }
        }
        Ok(())
    }
}

fn each<T: Copy>(out: &mut [T], updates: &[T], row: usize, picks: &[Option<usize>], f: impl Fn(T, T) -> T) {
    for (u, p) in updates.chunks_exact(row.max(1)).zip(picks) {
        if let Some(p) = p {
            for (o, u) in out[p * row..][..row].iter_mut().zip(u) {
                *o = f(*o, *u);
            }
        }
    }
}

fn combined(base: Tensor, updates: &Tensor, row: usize, picks: &[Option<usize>], how: Combine) -> Result<Tensor> {
    let mut base = base;
    let dtype = base.dtype();
    let no = || Error::invalid(format!("there is no scatter {how:?} of dtype {dtype}"));
    match how {
        Combine::Add | Combine::Sub if dtype == DType::Bool => {
            // The sum of truth values, as TensorFlow's, is "or".
            let out = base.as_mut_slice::<bool>().ok_or_else(no)?;
            each(out, updates.as_slice()?, row, picks, |a, b| a | b);
        }
        Combine::Add | Combine::Sub => dispatch!(dtype, T in numbers => {
            let (out, u) = (base.as_mut_slice::<T>().ok_or_else(no)?, updates.as_slice::<T>()?);
            match how {
                Combine::Add => each(out, u, row, picks, T::plus),
                _ => each(out, u, row, picks, T::minus),
            }
        }, else return Err(no())),
        _ => dispatch!(dtype, T in reals => {
            let (out, u) = (base.as_mut_slice::<T>().ok_or_else(no)?, updates.as_slice::<T>()?);
            match how {
                Combine::Min => each(out, u, row, picks, |a, b| if b < a { b } else { a }),
                _ => each(out, u, row, picks, |a, b| if b > a { b } else { a }),
            }
        }, else return Err(no())),
    }
    Ok(base)
}

/// The rows of strings joined to what is there.
fn appended(base: &[Bytes], updates: &[Bytes], row: usize, picks: &[Option<usize>]) -> Vec<Bytes> {
    let mut out = base.to_vec();
    for (u, p) in updates.chunks_exact(row.max(1)).zip(picks) {
        if let Some(p) = p {
            for (o, u) in out[p * row..][..row].iter_mut().zip(u) {
                *o = if o.is_empty() {
                    u.clone()
                } else {
                    [&o[..], &u[..]].concat().into()
                };
            }
        }
    }
    out
}

/// The base with the updates of shape `indices[..-1] + dims[k..]` at the tuples of `indices`.
///
/// # Errors
/// `INVALID_ARGUMENT` for shapes that do not fit and tuples outside of the base.
pub(crate) fn scatter(
    cx: &OpContext<'_>,
    base: Tensor,
    indices: &Tensor,
    updates: &Tensor,
    how: Combine,
    bad: BadIndices,
) -> Result<Tensor> {
    let dims = base.shape().clone();
    let picks = tuples(indices, &dims, bad)?;
    let ix = indices.shape();
    let k = ix[ix.rank() - 1];
    let want = Shape::from([&ix[..ix.rank() - 1], &dims[k..]].concat());
    if *updates.shape() != want {
        return Err(Error::invalid(format!(
            "updates have shape {}, but indices {ix} into {dims} need {want}",
            updates.shape()
        )));
    }
    let row = product(&dims[k..]);
    if updates.is_empty() {
        return Ok(base);
    }
    match (how, base.dtype()) {
        (Combine::Assign, _) => {
            let picks = &picks;
            moves::build(
                cx,
                base.dtype(),
                dims,
                Fill::Copy(&base),
                &[updates],
                &Assign { row, picks },
            )
        }
        (Combine::Add, DType::Str) => {
            Tensor::strings(dims, appended(base.as_strings()?, updates.as_strings()?, row, &picks))
        }
        _ => {
            let base = base.into_unique(cx.step().device.pool())?;
            combined(base, updates, row, &picks, how)
        }
    }
}

/// Where the inputs fit each other: `updates[..] = indices[..-1] + base[k..]`.
fn check(base: &PartialShape, indices: &PartialShape, updates: &PartialShape) -> Result<()> {
    indices.with_rank_at_least(1)?;
    let (Some(br), Some(ir)) = (base.rank(), indices.rank()) else {
        return Ok(());
    };
    if let Some(k) = indices.dim(ir - 1) {
        if k > br {
            return Err(Error::invalid(format!(
                "the last dimension of indices {indices} must not be more than {br}"
            )));
        }
        indices.sub(0, ir - 1).concat(&base.sub(k, br)).merge(updates)?;
    }
    Ok(())
}

fn scatter_nd_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let shape = match cx.constant_i64s(2) {
        Some(v) => {
            let s = Shape::from_i64(&v)?;
            s.checked_count()?;
            s.into()
        }
        None => cx.constant_shape(2)?,
    };
    check(&shape, &cx.input(0), &cx.input(1))?;
    Ok(vec![shape])
}

fn scatter_nd() -> OpDef {
    OpDef::new("ScatterNd", Category::Array)
        .doc("Zeros of the given shape, to which updates are added at the tuples along the last axis of `indices`.")
        .input("indices: Tindices")
        .input("updates: T")
        .input("shape: Tindices")
        .output("output: T")
        .attr("T: type")
        .attr("Tindices: {int16, int32, int64}")
        .attr("bad_indices_policy: string = ''")
        .shape(scatter_nd_shape)
        .gradient(|cx, dys| {
            let dy = picked(cx, &cx.dense(dys, 0)?, &cx.input(0)?)?;
            Ok(vec![None, Some(dy.into()), None])
        })
        .cpu(|init| {
            let bad = BadIndices::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let (indices, updates) = (cx.input(0)?, cx.input(1)?);
                let shape = cx.input(2)?.to_shape()?;
                let base = moves::zeros(cx, updates.dtype(), shape)?;
                let t = scatter(cx, base, indices, updates, Combine::Add, bad)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let u = s.normal([3, 2])?;
            let (i, shape) = (s.constant([[1i32], [3], [1]])?, s.constant([4i32, 2])?);
            s.op("ScatterNd").input(&i).input(&u).input(&shape).finish()
        })
}

/// `GatherNd` with this operation's policy.
fn picked(cx: &GradContext, x: &Output, indices: &Output) -> Result<Output> {
    let indices = if indices.dtype() == DType::U16 {
        indices.cast(DType::I32)?
    } else {
        indices.clone()
    };
    let b = cx.graph().op("GatherNd").input(x).input(&indices);
    b.attr("bad_indices_policy", cx.attrs().str("bad_indices_policy")?)
        .output()
}

fn tensor_scatter(name: &'static str, indices: &str, make: KernelFn) -> OpDef {
    OpDef::new(name, Category::Array)
        .input("tensor: T")
        .input("indices: Tindices")
        .input("updates: T")
        .output("output: T")
        .attr("T: type")
        .attr(&format!("Tindices: {indices}"))
        .attr("bad_indices_policy: string = ''")
        .shape(|cx| {
            check(&cx.input(0), &cx.input(1), &cx.input(2))?;
            Ok(vec![cx.input(0)])
        })
        .cpu(make)
}

fn distinct(s: &mut Sampler, op: &str) -> Result<Operation> {
    let (x, u) = (s.normal([4, 2])?, s.normal([2, 2])?);
    let i = s.constant([[1i32], [3]])?;
    s.op(op).input(&x).input(&i).input(&u).finish()
}

fn repeated(s: &mut Sampler, op: &str) -> Result<Operation> {
    let (x, u) = (s.normal([4, 2])?, s.normal([3])?);
    let i = s.constant([[1i32, 0], [3, 1], [1, 0]])?;
    s.op(op).input(&x).input(&i).input(&u).finish()
}

fn kernel(init: &KernelInit<'_>, how: Combine) -> Result<Box<dyn actorflow_core::kernel::Kernel>> {
    let bad = BadIndices::of(init.attrs)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let base = cx.take_input(0)?;
        let t = scatter(cx, base, cx.input(1)?, cx.input(2)?, how, bad)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn update() -> OpDef {
    tensor_scatter("TensorScatterUpdate", "{int16, int32, int64, uint16}", |i| {
        kernel(i, Combine::Assign)
    })
    .doc("A copy of the tensor in which the slices at `indices` are replaced.")
    .gradient(|cx, dys| {
        let (dy, indices) = (cx.dense(dys, 0)?, cx.input(1)?);
        let zeros = cx.input(2)?.zeros_like()?;
        let b = cx
            .graph()
            .op("TensorScatterUpdate")
            .input(&dy)
            .input(&indices)
            .input(&zeros);
        let kept = b
            .attr("bad_indices_policy", cx.attrs().str("bad_indices_policy")?)
            .output()?;
        Ok(vec![Some(kept.into()), None, Some(picked(cx, &dy, &indices)?.into())])
    })
    .sample(|s| distinct(s, "TensorScatterUpdate"))
}

fn add_gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dy = cx.dense(dys, 0)?;
    let updates = picked(cx, &dy, &cx.input(1)?)?;
    Ok(vec![Some(dy.into()), None, Some(updates.into())])
}

fn add() -> OpDef {
    tensor_scatter("TensorScatterAdd", "{int32, int64}", |i| kernel(i, Combine::Add))
        .doc("A copy of the tensor to which updates are added at `indices`.")
        .gradient(add_gradient)
        .sample(|s| repeated(s, "TensorScatterAdd"))
}

fn sub() -> OpDef {
    tensor_scatter("TensorScatterSub", "{int32, int64}", |i| kernel(i, Combine::Sub))
        .doc("A copy of the tensor from which updates are subtracted at `indices`.")
        .gradient(|cx, dys| {
            let dy = cx.dense(dys, 0)?;
            let updates = picked(cx, &dy, &cx.input(1)?)?.negated()?;
            Ok(vec![Some(dy.into()), None, Some(updates.into())])
        })
        .sample(|s| repeated(s, "TensorScatterSub"))
}

/// An extreme passes the gradient to the operand that it came from; where both are equal, to each a share.
fn extreme_gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, dy) = (cx.graph(), cx.dense(dys, 0)?);
    let (x, indices, updates, y) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.output(0)?);
    let from_x = y.equal(&x)?.cast(dy.dtype())?;
    let at = picked(cx, &y, &indices)?;
    let from_updates = updates.equal(&at)?.cast(dy.dtype())?;
    let index = if indices.dtype() == DType::I64 {
        DType::I64
    } else {
        DType::I32
    };
    let shape = super::support::shape_of(&x, index)?;
    let counts = g
        .op("ScatterNd")
        .input(&indices.cast(index)?)
        .input(&from_updates)
        .input(&shape);
    let counts = counts
        .attr("bad_indices_policy", cx.attrs().str("bad_indices_policy")?)
        .output()?;
    let share = dy.divided_by(&counts.plus(&from_x)?)?;
    let dx = share.times(&from_x)?;
    let du = picked(cx, &share, &indices)?.times(&from_updates)?;
    Ok(vec![Some(dx.into()), None, Some(du.into())])
}

fn min() -> OpDef {
    tensor_scatter("TensorScatterMin", "{int32, int64}", |i| kernel(i, Combine::Min))
        .doc("A copy of the tensor in which elements at `indices` are at most the updates.")
        .gradient(extreme_gradient)
        .sample(|s| distinct(s, "TensorScatterMin"))
}

fn max() -> OpDef {
    tensor_scatter("TensorScatterMax", "{int32, int64}", |i| kernel(i, Combine::Max))
        .doc("A copy of the tensor in which elements at `indices` are at least the updates.")
        .gradient(extreme_gradient)
        .sample(|s| distinct(s, "TensorScatterMax"))
}

fn non_aliasing_add() -> OpDef {
    OpDef::new("ScatterNdNonAliasingAdd", Category::Array)
        .doc("A copy of the input to which updates are added at `indices`.")
        .input("input: T")
        .input("indices: Tindices")
        .input("updates: T")
        .output("output: T")
        .attr("T: {numbertype, bool}")
        .attr("Tindices: {int32, int64}")
        .attr("bad_indices_policy: string = ''")
        .shape(|cx| {
            check(&cx.input(0), &cx.input(1), &cx.input(2))?;
            Ok(vec![cx.input(0)])
        })
        .gradient(add_gradient)
        .cpu(|i| kernel(i, Combine::Add))
        .sample(|s| repeated(s, "ScatterNdNonAliasingAdd"))
}

register_ops!(scatter_nd, update, add, sub, min, max, non_aliasing_add);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn updates_of_one_place_add_up() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let (i, u, s) = (c([[4i32], [3], [4]].into()), c([9i32, 10, 11].into()), c([6i32].into()));
        let y = g.op("ScatterNd").input(&i).input(&u).input(&s).output().unwrap();
        assert_eq!(eval(&y), Tensor::from([0i32, 0, 0, 10, 20, 0]));
        let far = c([[6i32], [3], [4]].into());
        assert!(
            fails(&g.op("ScatterNd").input(&far).input(&u).input(&s).output().unwrap())
                .message()
                .contains("[6]")
        );
        assert!(
            g.op("ScatterNd")
                .input(&i)
                .input(&c([1i32, 2].into()))
                .input(&s)
                .output()
                .is_err()
        );
    }

    #[test]
    fn a_copy_is_updated_in_every_way() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let x = c([[1i32, 2], [3, 4]].into());
        let (i, u) = (c([[0i64, 1], [1, 0], [1, 0]].into()), c([5i32, -6, 7].into()));
        let run = |op: &str| eval(&g.op(op).input(&x).input(&i).input(&u).output().unwrap());
        assert_eq!(run("TensorScatterUpdate"), Tensor::from([[1i32, 5], [7, 4]]));
        assert_eq!(run("TensorScatterAdd"), Tensor::from([[1i32, 7], [4, 4]]));
        assert_eq!(run("TensorScatterSub"), Tensor::from([[1i32, -3], [2, 4]]));
        assert_eq!(run("TensorScatterMin"), Tensor::from([[1i32, 2], [-6, 4]]));
        assert_eq!(run("TensorScatterMax"), Tensor::from([[1i32, 5], [7, 4]]));
        assert_eq!(eval(&x), Tensor::from([[1i32, 2], [3, 4]]));
    }
}
