//! `StringJoin`, `ReduceJoin`, `UnsortedSegmentJoin`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};
use bytes::Bytes;

use crate::moves;
use crate::ops::array::support::{int_scalar, int_vector, ints, product};
use crate::ops::array::transpose::transposed;

fn joined<'a>(parts: impl Iterator<Item = &'a Bytes>, separator: &[u8]) -> Bytes {
    let mut out = Vec::new();
    for (i, p) in parts.enumerate() {
        if i > 0 {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(p);
    }
    out.into()
}

fn string_join() -> OpDef {
    OpDef::new("StringJoin", Category::String)
        .doc("Joins strings element by element; scalars go with every element.")
        .input("inputs: N * string")
        .output("output: string")
        .attr("N: int >= 0")
        .attr("separator: string = ''")
        .shape(|cx| {
            let mut all = PartialShape::scalar();
            let mut unknown = false;
            for s in cx.inputs() {
                match s.rank() {
                    None => unknown = true,
                    Some(0) => {}
                    Some(_) if all.rank() == Some(0) => all = s.clone(),
                    Some(_) => all = all.merge(s)?,
                }
            }
            Ok(vec![if unknown && all.rank() == Some(0) {
                PartialShape::UNKNOWN
            } else {
                all
            }])
        })
        .not_differentiable()
        .cpu(|init| {
            let separator = init.attrs.byte_string("separator")?.clone();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let inputs = (0..cx.num_inputs()).map(|i| cx.input(i)).collect::<Result<Vec<_>>>()?;
                let mut shape = Shape::SCALAR;
                for t in inputs.iter().filter(|t| !t.shape().is_scalar()) {
                    if !shape.is_scalar() && shape != *t.shape() {
                        return Err(Error::invalid(format!(
                            "inputs that are no scalars must have one shape, got {shape} and {}",
                            t.shape()
                        )));
                    }
                    shape = t.shape().clone();
                }
                let lists = inputs.iter().map(|t| t.as_strings()).collect::<Result<Vec<_>>>()?;
                let mut out = moves::list(cx, shape.count())?;
                for i in 0..shape.count() {
                    let of = |(l, t): (&&[Bytes], &&Tensor)| {
                        if t.shape().is_scalar() {
                            l[0].clone()
                        } else {
                            l[i].clone()
                        }
                    };
                    let parts: Vec<Bytes> = lists.iter().zip(&inputs).map(of).collect();
                    out.push(joined(parts.iter(), &separator));
                }
                let t = Tensor::strings(shape, out)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

/// The axes to join along, in the order given; none twice.
fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut out = Vec::with_capacity(list.len());
    for &a in list {
        let i = resolve_axis(a, rank).map_err(|_| {
            Error::out_of_range(format!(
                "invalid reduction dimension {a} for input with {rank} dimensions"
            ))
        })?;
        if out.contains(&i) {
            return Err(Error::invalid(format!("duplicate reduction dimension {a}")));
        }
        out.push(i);
    }
    Ok(out)
}

fn reduce_join() -> OpDef {
    OpDef::new("ReduceJoin", Category::String)
        .doc("Joins strings along axes, the first one named running fastest.")
        .input("inputs: string")
        .input("reduction_indices: int32")
        .output("output: string")
        .attr("keep_dims: bool = false")
        .attr("separator: string = ''")
        .shape(|cx| {
            let (x, keep) = (cx.input(0), cx.attrs().bool("keep_dims")?);
            let (Some(d), Some(list)) = (x.dims(), cx.constant_i64s(1)) else {
                return Ok(vec![match (x.rank(), keep) {
                    (Some(r), true) => PartialShape::of_rank(r),
                    _ => PartialShape::UNKNOWN,
                }]);
            };
            let gone = axes(&list, d.len())?;
            let dims = d
                .iter()
                .enumerate()
                .filter_map(|(i, d)| match (gone.contains(&i), keep) {
                    (false, _) => Some(*d),
                    (true, true) => Some(Some(1)),
                    (true, false) => None,
                });
            Ok(vec![PartialShape::new(dims.collect::<Vec<_>>())])
        })
        .not_differentiable()
        .cpu(|init| {
            let keep = init.attrs.bool("keep_dims")?;
            let separator = init.attrs.byte_string("separator")?.clone();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                let dims = x.shape();
                let gone = axes(&int_vector(cx.input(1)?, "reduction_indices")?, dims.rank())?;
                let stay: Vec<usize> = (0..dims.rank()).filter(|d| !gone.contains(d)).collect();
                let order: Vec<usize> = stay.iter().chain(gone.iter().rev()).copied().collect();
                let run: usize = gone.iter().map(|d| dims[*d]).product();
                let shape: Shape = (0..dims.rank())
                    .filter(|d| keep || stay.contains(d))
                    .map(|d| if stay.contains(&d) { dims[d] } else { 1 })
                    .collect();
                let x = transposed(cx, x, &order)?;
                let list = x.as_strings()?;
                let mut out = moves::list(cx, shape.count())?;
                for i in 0..shape.count() {
                    out.push(joined(list[i * run..(i + 1) * run].iter(), &separator));
                }
                let t = Tensor::strings(shape, out)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn unsorted_segment_join() -> OpDef {
    OpDef::new("UnsortedSegmentJoin", Category::String)
        .doc("Joins the rows of each segment.")
        .input("inputs: string")
        .input("segment_ids: Tindices")
        .input("num_segments: Tnumsegments")
        .output("output: string")
        .attr("separator: string = ''")
        .attr("Tindices: {int32, int64}")
        .attr("Tnumsegments: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let (x, ids) = (cx.input(0), cx.input(1));
            Ok(vec![match (x.rank(), ids.rank()) {
                (Some(r), Some(k)) => {
                    x.with_rank_at_least(k)?.sub(0, k).merge(&ids)?;
                    let n = cx.constant_i64(2).and_then(|n| usize::try_from(n).ok());
                    PartialShape::vector(n).concat(&x.sub(k, r))
                }
                _ => PartialShape::UNKNOWN,
            }])
        })
        .not_differentiable()
        .cpu(|init| {
            let separator = init.attrs.byte_string("separator")?.clone();
            Ok(Box::new(move |cx: &mut OpContext<'_>| segment_join(cx, &separator)))
        })
}

fn segment_join(cx: &mut OpContext<'_>, separator: &[u8]) -> Result<()> {
    let (x, ids) = (cx.input(0)?, cx.input(1)?);
    let n = int_scalar(cx.input(2)?, "num_segments")?;
    let n = usize::try_from(n).map_err(|_| Error::invalid(format!("num_segments must not be negative, got {n}")))?;
    let lead = ids.shape().rank();
    if x.shape().rank() < lead || x.shape()[..lead] != ids.shape()[..] {
        return Err(Error::invalid(format!(
            "the shape of inputs {} must start with that of segment_ids {}",
            x.shape(),
            ids.shape()
        )));
    }
    let rest = &x.shape()[lead..];
    let shape = Shape::from([&[n], rest].concat());
    let (count, row) = (shape.checked_count()?, product(rest));
    let mut out: Vec<Option<Vec<u8>>> = moves::list(cx, count)?;
    out.resize(count, None);
    let list = x.as_strings()?;
    for (k, id) in ints(ids)?.into_iter().enumerate() {
        let s = usize::try_from(id)
            .ok()
            .filter(|s| *s < n)
            .ok_or_else(|| Error::invalid(format!("segment_ids has {id}, which is not in [0, {n})")))?;
        for (o, part) in out[s * row..(s + 1) * row]
            .iter_mut()
            .zip(&list[k * row..(k + 1) * row])
        {
            match o {
                Some(text) => {
                    text.extend_from_slice(separator);
                    text.extend_from_slice(part);
                }
                None => *o = Some(part.to_vec()),
            }
        }
    }
    let t = Tensor::strings(
        shape,
        out.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>(),
    )?;
    cx.set_output(0, t);
    Ok(())
}

register_ops!(string_join, reduce_join, unsorted_segment_join);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::Graph;

    fn strings(dims: &[usize], v: &[&'static str]) -> Tensor {
        Tensor::strings(dims, v.to_vec()).unwrap()
    }

    #[test]
    fn element_by_element() {
        let g = Graph::new();
        let (a, b) = (
            g.constant("x").unwrap(),
            g.constant(strings(&[2], &["p", "q"])).unwrap(),
        );
        let y = g
            .op("StringJoin")
            .input_list(&[a, b.clone()])
            .attr("separator", "-")
            .output()
            .unwrap();
        assert_eq!(y.shape(), PartialShape::from([2]));
        assert_eq!(eval(&y), strings(&[2], &["x-p", "x-q"]));
        let c = g.constant(strings(&[1], &["z"])).unwrap();
        assert!(g.op("StringJoin").input_list(&[b, c]).output().is_err());
    }

    #[test]
    fn along_axes_in_their_order() {
        let g = Graph::new();
        let x = g.constant(strings(&[2, 2], &["a", "b", "c", "d"])).unwrap();
        let join = |a: &[i32], keep: bool| {
            let b = g
                .op("ReduceJoin")
                .input(&x)
                .input(&g.constant(Tensor::vector(a)).unwrap());
            b.attr("separator", ".").attr("keep_dims", keep).output()
        };
        assert_eq!(eval(&join(&[0], false).unwrap()), strings(&[2], &["a.c", "b.d"]));
        assert_eq!(eval(&join(&[-1], true).unwrap()), strings(&[2, 1], &["a.b", "c.d"]));
        assert_eq!(eval(&join(&[0, 1], false).unwrap()), Tensor::from("a.c.b.d"));
        assert_eq!(eval(&join(&[1, 0], false).unwrap()), Tensor::from("a.b.c.d"));
        assert_eq!(eval(&join(&[], false).unwrap()), eval(&x));
        assert!(join(&[0, 0], false).is_err() && join(&[2], false).is_err());
    }

    #[test]
    fn by_segments() {
        let g = Graph::new();
        let x = g.constant(strings(&[2, 2], &["a", "b", "c", "d"])).unwrap();
        let join = |ids: Tensor| {
            let (i, n) = (g.constant(ids).unwrap(), g.constant(2i32).unwrap());
            let b = g.op("UnsortedSegmentJoin").input(&x).input(&i).input(&n);
            b.attr("separator", ":").output().unwrap()
        };
        assert_eq!(eval(&join([1i32, 1].into())), strings(&[2, 2], &["", "", "a:c", "b:d"]));
        assert_eq!(eval(&join([[1i32, 0], [1, 1]].into())), strings(&[2], &["b", "a:c:d"]));
        assert!(fails(&join([-1i32, 0].into())).message().contains("-1"));
    }
}
