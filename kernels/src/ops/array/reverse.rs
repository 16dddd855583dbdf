//! `Reverse`, `ReverseV2`, `ReverseSequence`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{Tensor, register_ops};

use super::support::{checked_rank, int_vector, ints};
use crate::moves::{self, Axes, Axis, Copies, Fill, StridedCopy, view_copy};
use crate::shapes;

const TYPES: &str = "T: {uint8, int8, uint16, int16, uint32, int32, uint64, int64, bool, bfloat16, half, float, \
                     double, complex64, complex128, string}";

/// The tensor read backwards along the axes marked.
fn reversed(cx: &OpContext<'_>, x: &Tensor, turn: &[bool]) -> Result<Tensor> {
    if !turn.iter().zip(x.shape().iter()).any(|(t, n)| *t && *n > 1) || x.is_empty() {
        return Ok(x.clone());
    }
    let mut from = 0;
    let mut strides = Vec::with_capacity(turn.len());
    for ((s, n), t) in x.shape().strides().into_iter().zip(x.shape().iter()).zip(turn) {
        if *t {
            from += (n - 1) * s;
        }
        strides.push(if *t { -(s as isize) } else { s as isize });
    }
    let copy = view_copy(x.shape(), &strides, from);
    moves::build(cx, x.dtype(), x.shape().clone(), Fill::Any, &[x], &Copies(&[copy]))
}

fn reverse() -> OpDef {
    OpDef::new("Reverse", Category::Array)
        .doc("Backwards along the dimensions that are true.")
        .input("tensor: T")
        .input("dims: bool")
        .output("output: T")
        .attr(TYPES)
        .shape(|cx| {
            let n = cx.input(1).with_rank(1)?.dim(0);
            let x = cx.input(0);
            match (n, x.rank()) {
                (Some(n), _) => Ok(vec![x.with_rank(checked_rank(n)?)?]),
                _ => Ok(vec![x]),
            }
        })
        .gradient(|cx, dys| {
            let b = cx.graph().op("Reverse").input(&cx.dense(dys, 0)?).input(&cx.input(1)?);
            Ok(vec![Some(b.output()?.into()), None])
        })
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let (x, dims) = (cx.input(0)?, cx.slice::<bool>(1)?);
                if dims.len() != x.shape().rank() {
                    return Err(Error::invalid(format!(
                        "dims must have one element for each dimension of {}, got {}",
                        x.shape(),
                        dims.len()
                    )));
                }
                let t = reversed(cx, x, dims)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            let dims = s.constant([false, true])?;
            s.op("Reverse").input(&x).input(&dims).finish()
        })
}

fn marked(axes: &[i64], rank: usize) -> Result<Vec<bool>> {
    let mut turn = vec![false; rank];
    for &a in axes {
        let i = resolve_axis(a, rank)?;
        if std::mem::replace(&mut turn[i], true) {
            return Err(Error::invalid(format!("axis {i} is specified more than once")));
        }
    }
    Ok(turn)
}

fn reverse_v2() -> OpDef {
    OpDef::new("ReverseV2", Category::Array)
        .doc("Backwards along the given axes.")
        .input("tensor: T")
        .input("axis: Tidx")
        .output("output: T")
        .attr("Tidx: {int32, int64} = DT_INT32")
        .attr(TYPES)
        .shape(|cx| {
            if let (Some(rank), Some(axes)) = (cx.input(0).rank(), cx.constant_i64s(1)) {
                marked(&axes, rank)?;
            }
            cx.input(1).with_rank(1)?;
            Ok(vec![cx.input(0)])
        })
        .gradient(|cx, dys| {
            let b = cx
                .graph()
                .op("ReverseV2")
                .input(&cx.dense(dys, 0)?)
                .input(&cx.input(1)?);
            Ok(vec![Some(b.output()?.into()), None])
        })
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                let turn = marked(&int_vector(cx.input(1)?, "axis")?, x.shape().rank())?;
                let t = reversed(cx, x, &turn)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([2, 3, 2])?;
            let axes = s.constant([0i32, -1])?;
            s.op("ReverseV2").input(&x).input(&axes).finish()
        })
}

fn sequence_kernel(cx: &mut OpContext<'_>, seq: i64, batch: i64) -> Result<()> {
    let x = cx.input(0)?;
    let dims = x.shape();
    let (seq, batch) = (dims.axis(seq)?, dims.axis(batch)?);
    if seq == batch {
        return Err(Error::invalid(format!(
            "seq_dim and batch_dim must differ, both are {seq}"
        )));
    }
    let lengths = ints(cx.input(1)?)?;
    if cx.input(1)?.shape().rank() != 1 || lengths.len() != dims[batch] {
        return Err(Error::invalid(format!(
            "seq_lengths must be a vector with one length for each of {} sequences, got shape {}",
            dims[batch],
            cx.input(1)?.shape()
        )));
    }
    let strides = dims.strides();
    let others: Axes = (0..dims.rank())
        .filter(|d| *d != seq && *d != batch)
        .map(|d| Axis {
            n: dims[d],
            src: strides[d] as isize,
            dst: strides[d] as isize,
        })
        .collect();
    let step = strides[seq] as isize;
    let mut copies = Vec::with_capacity(2 * lengths.len());
    for (b, &len) in lengths.iter().enumerate() {
        let len = usize::try_from(len).ok().filter(|l| *l <= dims[seq]);
        let len = len.ok_or_else(|| {
            Error::invalid(format!(
                "seq_lengths[{b}] = {} is not in [0, {}]",
                lengths[b], dims[seq]
            ))
        })?;
        let base = b * strides[batch];
        let part = |from: usize, to: usize, n: usize, src: isize| {
            let mut axes = others.clone();
            axes.push(Axis { n, src, dst: step });
            StridedCopy {
                source: 0,
                from,
                to,
                axes,
            }
        };
        if len > 0 {
            copies.push(part(base + (len - 1) * strides[seq], base, len, -step));
        }
        let at = base + len * strides[seq];
        copies.push(part(at, at, dims[seq] - len, step));
    }
    let t = moves::build(cx, x.dtype(), dims.clone(), Fill::Any, &[x], &Copies(&copies))?;
    cx.set_output(0, t);
    Ok(())
}

fn reverse_sequence() -> OpDef {
    OpDef::new("ReverseSequence", Category::Array)
        .doc("The first `seq_lengths[b]` steps of every sequence `b` backwards, the rest as it is.")
        .input("input: T")
        .input("seq_lengths: Tlen")
        .output("output: T")
        .attr("seq_dim: int")
        .attr("batch_dim: int = 0")
        .attr("T: type")
        .attr("Tlen: {int32, int64} = DT_INT64")
        .shape(|cx| {
            if let Some(r) = cx.input(0).rank() {
                resolve_axis(cx.attrs().int("seq_dim")?, r)?;
                let batch = resolve_axis(cx.attrs().int("batch_dim")?, r)?;
                cx.input(1)
                    .merge(&actorflow_core::PartialShape::vector(cx.input(0).dim(batch)))?;
            }
            shapes::like_first(cx)
        })
        .gradient(|cx, dys| {
            let b = cx
                .graph()
                .op("ReverseSequence")
                .input(&cx.dense(dys, 0)?)
                .input(&cx.input(1)?);
            let b = b.attr("seq_dim", cx.attrs().int("seq_dim")?);
            let dx = b.attr("batch_dim", cx.attrs().int("batch_dim")?).output()?;
            Ok(vec![Some(dx.into()), None])
        })
        .cpu(|init| {
            let (seq, batch) = (init.attrs.int("seq_dim")?, init.attrs.int("batch_dim")?);
            Ok(Box::new(move |cx: &mut OpContext<'_>| sequence_kernel(cx, seq, batch)))
        })
        .sample(|s| {
            let x = s.normal([4, 3, 2])?;
            let n = s.constant([2i64, 0, 4])?;
            s.op("ReverseSequence")
                .input(&x)
                .input(&n)
                .attr("seq_dim", 0i64)
                .attr("batch_dim", 1i64)
                .finish()
        })
}

register_ops!(reverse, reverse_v2, reverse_sequence);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn backwards_along_axes() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3], [4, 5, 6]]).unwrap();
        let rev = |a: &[i32]| {
            g.op("ReverseV2")
                .input(&x)
                .input(&g.constant(Tensor::vector(a)).unwrap())
                .output()
        };
        assert_eq!(eval(&rev(&[-1]).unwrap()), Tensor::from([[3i32, 2, 1], [6, 5, 4]]));
        assert_eq!(eval(&rev(&[0, 1]).unwrap()), Tensor::from([[6i32, 5, 4], [3, 2, 1]]));
        assert!(rev(&[1, -1]).is_err() && rev(&[2]).is_err());
        let y = g
            .op("Reverse")
            .input(&x)
            .input(&g.constant([true, false]).unwrap())
            .output()
            .unwrap();
        assert_eq!(eval(&y), Tensor::from([[4i32, 5, 6], [1, 2, 3]]));
    }

    #[test]
    fn sequences_of_their_own_lengths() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]).unwrap();
        let rev = |n: [i64; 3]| {
            let n = g.constant(n).unwrap();
            g.op("ReverseSequence")
                .input(&x)
                .input(&n)
                .attr("seq_dim", 1i64)
                .output()
                .unwrap()
        };
        assert_eq!(
            eval(&rev([3, 0, 4])),
            Tensor::from([[3i32, 2, 1, 4], [5, 6, 7, 8], [12, 11, 10, 9]])
        );
        assert!(fails(&rev([5, 0, 0])).message().contains("seq_lengths[0] = 5"));
    }
}
