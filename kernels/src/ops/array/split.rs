//! `Split`, `SplitV`: cutting along an axis.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::support::{Ints, int_scalar, int_vector, product};
use crate::moves::{self, Axis, Copies, Fill, StridedCopy};

/// Cuts `x` into parts of the given lengths, which add up.
fn cut(cx: &mut OpContext<'_>, x: &Tensor, axis: usize, lengths: &[usize]) -> Result<()> {
    let dims = x.shape().clone();
    let (outer, inner) = (product(&dims[..axis]), product(&dims[axis + 1..]));
    let mut at = 0;
    for (i, &n) in lengths.iter().enumerate() {
        let shape = dims.with_replaced(axis, 1, &[n]);
        let t = if lengths.len() == 1 {
            x.clone()
        } else if outer == 1 {
            // The parts lie one after the other: they share the buffer.
            let flat = x.clone().reshape([dims[axis], inner])?;
            flat.slice_rows(at, at + n)?.reshape(shape)?
        } else {
            let rows = Axis {
                n: outer,
                src: (dims[axis] * inner) as isize,
                dst: (n * inner) as isize,
            };
            let row = Axis {
                n: n * inner,
                src: 1,
                dst: 1,
            };
            let copy = StridedCopy {
                source: 0,
                from: at * inner,
                to: 0,
                axes: [rows, row].into_iter().collect(),
            };
            moves::build(cx, x.dtype(), shape, Fill::Any, &[x], &Copies(&[copy]))?
        };
        cx.set_output(i, t);
        at += n;
    }
    Ok(())
}

/// The gradients of the parts, joined.
fn joined(cx: &GradContext, dys: &[Option<Grad>], axis: usize) -> Result<Grad> {
    let parts = (0..dys.len()).map(|i| cx.dense(dys, i)).collect::<Result<Vec<_>>>()?;
    match &parts[..] {
        [one] => Ok(one.clone().into()),
        _ => Ok(cx
            .graph()
            .op("ConcatV2")
            .input_list(&parts)
            .input(&cx.input(axis)?)
            .output()?
            .into()),
    }
}

fn split() -> OpDef {
    OpDef::new("Split", Category::Array)
        .doc("Cuts a tensor into `num_split` equal parts along an axis.")
        .input("split_dim: int32")
        .input("value: T")
        .output("output: num_split * T")
        .attr("num_split: int >= 1")
        .attr("T: type")
        .shape(|cx| {
            let (x, n) = (cx.input(1), cx.num_outputs());
            let one = match (x.rank(), cx.constant_i64(0)) {
                (Some(r), Some(a)) => {
                    let a = resolve_axis(a, r)?;
                    if x.dim(a).is_some_and(|d| d % n != 0) {
                        return Err(Error::invalid(format!(
                            "dimension {a} of {x} does not divide into {n} equal parts"
                        )));
                    }
                    x.with_dim(a, x.dim(a).map(|d| d / n))
                }
                (Some(r), None) => PartialShape::of_rank(r),
                _ => PartialShape::UNKNOWN,
            };
            Ok(vec![one; n])
        })
        .gradient(|cx, dys| Ok(vec![None, Some(joined(cx, dys, 0)?)]))
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let (axis, x) = (int_scalar(cx.input(0)?, "split_dim")?, cx.input(1)?.clone());
                let axis = x.shape().axis(axis)?;
                let (d, n) = (x.shape()[axis], cx.num_outputs());
                if d % n != 0 {
                    return Err(Error::invalid(format!(
                        "dimension {axis} of shape {} does not divide into {n} equal parts",
                        x.shape()
                    )));
                }
                cut(cx, &x, axis, &vec![d / n; n])
            }))
        })
        .sample(|s| {
            let x = s.normal([2, 6])?;
            let axis = s.constant(-1i32)?;
            s.op("Split").input(&axis).input(&x).attr("num_split", 3i64).finish()
        })
}

/// The lengths for a dimension of length `d`; at most one may be -1.
fn lengths(sizes: &[i64], d: usize) -> Result<Vec<usize>> {
    let bad = |why: &str| Error::invalid(format!("size_splits {sizes:?} {why} a dimension of length {d}"));
    let mut open = None;
    let mut sum = 0usize;
    let mut out = Vec::with_capacity(sizes.len());
    for (i, &s) in sizes.iter().enumerate() {
        match usize::try_from(s) {
            Ok(s) => {
                sum = sum.checked_add(s).ok_or_else(|| bad("overflow"))?;
                out.push(s);
            }
            Err(_) if s == -1 && open.is_none() => {
                open = Some(i);
                out.push(0);
            }
            Err(_) => return Err(bad("may have one -1 and no other negative length for")),
        }
    }
    match open {
        Some(i) => out[i] = d.checked_sub(sum).ok_or_else(|| bad("exceed"))?,
        None if sum == d => {}
        None => return Err(bad("do not add up to")),
    }
    Ok(out)
}

fn split_v() -> OpDef {
    OpDef::new("SplitV", Category::Array)
        .doc("Cuts a tensor along an axis into parts of the given lengths, one of which may be -1: what is left.")
        .input("value: T")
        .input("size_splits: Tlen")
        .input("split_dim: int32")
        .output("output: num_split * T")
        .attr("num_split: int >= 1")
        .attr("T: type")
        .attr("Tlen: {int8, int32, int64} = DT_INT64")
        .shape(|cx| {
            let (x, n) = (cx.input(0), cx.num_outputs());
            let Some(rank) = x.rank() else {
                return Ok(vec![PartialShape::UNKNOWN; n]);
            };
            let Some(axis) = cx.constant_i64(2) else {
                return Ok(vec![PartialShape::of_rank(rank); n]);
            };
            let axis = resolve_axis(axis, rank)?;
            let sizes = cx.constant_i64s(1);
            if sizes.as_ref().is_some_and(|s| s.len() != n) {
                return Err(Error::invalid(format!(
                    "size_splits must have num_split = {n} elements"
                )));
            }
            let known: Vec<Option<usize>> = match (sizes, x.dim(axis)) {
                (Some(s), Some(d)) => lengths(&s, d)?.into_iter().map(Some).collect(),
                (Some(s), None) => s.iter().map(|s| usize::try_from(*s).ok()).collect(),
                (None, d) => vec![if n == 1 { d } else { None }; n],
            };
            Ok(known.into_iter().map(|k| x.with_dim(axis, k)).collect())
        })
        .gradient(|cx, dys| Ok(vec![Some(joined(cx, dys, 2)?), None, None]))
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let (x, axis) = (cx.input(0)?.clone(), int_scalar(cx.input(2)?, "split_dim")?);
                let sizes: Ints = int_vector(cx.input(1)?, "size_splits")?;
                let axis = x.shape().axis(axis)?;
                if sizes.len() != cx.num_outputs() {
                    return Err(Error::invalid(format!(
                        "size_splits must have num_split = {} elements, got {}",
                        cx.num_outputs(),
                        sizes.len()
                    )));
                }
                let lengths = lengths(&sizes, x.shape()[axis])?;
                cut(cx, &x, axis, &lengths)
            }))
        })
        .sample(|s| {
            let x = s.normal([2, 6])?;
            let (sizes, axis) = (s.constant([1i64, -1, 2])?, s.constant(1i32)?);
            s.op("SplitV")
                .input(&x)
                .input(&sizes)
                .input(&axis)
                .attr("num_split", 3i64)
                .finish()
        })
}

register_ops!(split, split_v);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::{Graph, Operation, Output};

    fn split_v(x: &Output, sizes: &[i32], axis: i32) -> Result<Operation> {
        let g = x.graph();
        let (s, a) = (g.constant(Tensor::vector(sizes))?, g.constant(axis)?);
        g.op("SplitV")
            .input(x)
            .input(&s)
            .input(&a)
            .attr("num_split", sizes.len())
            .finish()
    }

    #[test]
    fn parts_of_given_lengths() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3], [4, 5, 6]]).unwrap();
        let p = split_v(&x, &[1, -1], 1).unwrap().outputs();
        assert_eq!(p[1].shape(), PartialShape::from([2, 2]));
        assert_eq!(eval(&p[0]), Tensor::from([[1i32], [4]]));
        assert_eq!(eval(&p[1]), Tensor::from([[2i32, 3], [5, 6]]));
        let p = split_v(&x, &[0, 2], -2).unwrap().outputs();
        assert_eq!((eval(&p[0]).len(), eval(&p[1])), (0, eval(&x)));
        assert!(split_v(&x, &[1, 1], 1).is_err() && split_v(&x, &[4, -1], 1).is_err());
    }

    #[test]
    fn equal_parts_must_divide() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3], [4, 5, 6]]).unwrap();
        let axis = g.constant(1i32).unwrap();
        let split = |n: i64| g.op("Split").input(&axis).input(&x).attr("num_split", n).finish();
        assert_eq!(eval(&split(3).unwrap().output(2).unwrap()), Tensor::from([[3i32], [6]]));
        assert!(split(2).is_err());
    }
}
