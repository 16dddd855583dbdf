//! `Pack`, `Unpack`, `ParallelConcat`: joining along a new axis, and back.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::support::{inserted, inserted_partial, product};
use crate::moves::{self, Axis, Copies, Fill, StridedCopy};

fn pack_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let mut s = PartialShape::UNKNOWN;
    for i in cx.inputs() {
        s = s.merge(i)?;
    }
    let axis = cx.attrs().int("axis")?;
    Ok(vec![match s.rank() {
        Some(r) => inserted_partial(&s, resolve_axis(axis, r + 1)?, Some(cx.num_inputs())),
        None => PartialShape::UNKNOWN,
    }])
}

/// The inputs side by side: `outer` times one run of `inner` elements of each.
fn interleave(cx: &OpContext<'_>, axis: usize) -> Result<Tensor> {
    let n = cx.num_inputs();
    let sources = (0..n).map(|i| cx.input(i)).collect::<Result<Vec<_>>>()?;
    let shape = sources[0].shape().clone();
    for (i, s) in sources.iter().enumerate() {
        if *s.shape() != shape {
            return Err(Error::invalid(format!(
                "all inputs must have one shape: input 0 has {shape}, input {i} has {}",
                s.shape()
            )));
        }
    }
    let (outer, inner) = (product(&shape[..axis]), product(&shape[axis..]));
    let copies: Vec<StridedCopy> = (0..n)
        .map(|i| {
            let rows = Axis {
                n: outer,
                src: inner as isize,
                dst: (n * inner) as isize,
            };
            let row = Axis {
                n: inner,
                src: 1,
                dst: 1,
            };
            StridedCopy {
                source: i,
                from: 0,
                to: i * inner,
                axes: [rows, row].into_iter().collect(),
            }
        })
        .collect();
    let out = inserted(&shape, axis, n);
    out.checked_count()?;
    moves::build(cx, sources[0].dtype(), out, Fill::Any, &sources, &Copies(&copies))
}

fn pack() -> OpDef {
    OpDef::new("Pack", Category::Array)
        .doc("Stacks tensors of one shape along a new axis.")
        .input("values: N * T")
        .output("output: T")
        .attr("N: int >= 1")
        .attr("T: type")
        .attr("axis: int = 0")
        .shape(pack_shape)
        .gradient(|cx, dys| {
            let parts = cx
                .graph()
                .op("Unpack")
                .input(&cx.dense(dys, 0)?)
                .attr("num", cx.num_inputs())
                .attr("axis", cx.attrs().int("axis")?)
                .finish()?;
            Ok(parts.outputs().into_iter().map(|p| Some(p.into())).collect())
        })
        .cpu(|init| {
            let axis = init.attrs.int("axis")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let rank = cx.input(0)?.shape().rank();
                let t = interleave(cx, resolve_axis(axis, rank + 1)?)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let (x, y) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("Pack").input_list(&[x, y]).attr("axis", -1i64).finish()
        })
}

fn unpack() -> OpDef {
    OpDef::new("Unpack", Category::Array)
        .doc("The slices along an axis, without that axis.")
        .input("value: T")
        .output("output: num * T")
        .attr("num: int >= 0")
        .attr("T: type")
        .attr("axis: int = 0")
        .shape(|cx| {
            let (x, axis, num) = (cx.input(0), cx.attrs().int("axis")?, cx.num_outputs());
            let Some(dims) = x.dims() else {
                return Ok(vec![PartialShape::UNKNOWN; num]);
            };
            let axis = resolve_axis(axis, dims.len())?;
            if dims[axis].is_some_and(|d| d != num) {
                return Err(Error::invalid(format!("dimension {axis} of {x} must be num = {num}")));
            }
            let mut rest = dims.to_vec();
            rest.remove(axis);
            Ok(vec![PartialShape::new(rest); num])
        })
        .gradient(|cx, dys| {
            let parts = (0..dys.len()).map(|i| cx.dense(dys, i)).collect::<Result<Vec<_>>>()?;
            Ok(vec![Some(cx.graph().stack(&parts, cx.attrs().int("axis")?)?.into())])
        })
        .cpu(|init| {
            let axis = init.attrs.int("axis")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| unpack_kernel(cx, axis)))
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            s.op("Unpack").input(&x).attr("num", 3i64).attr("axis", 1i64).finish()
        })
}

fn unpack_kernel(cx: &mut OpContext<'_>, axis: i64) -> Result<()> {
    let x = cx.input(0)?.clone();
    let axis = x.shape().axis(axis)?;
    let num = x.shape()[axis];
    if num != cx.num_outputs() {
        return Err(Error::invalid(format!(
            "dimension {axis} of shape {} must be num = {}",
            x.shape(),
            cx.num_outputs()
        )));
    }
    let shape = x.shape().with_replaced(axis, 1, &[]);
    let (outer, inner) = (product(&x.shape()[..axis]), product(&x.shape()[axis + 1..]));
    for i in 0..num {
        let t = if outer == 1 {
            // The slices lie one after the other: they share the buffer.
            x.clone()
                .reshape([num, inner])?
                .slice_rows(i, i + 1)?
                .reshape(shape.clone())?
        } else {
            let rows = Axis {
                n: outer,
                src: (num * inner) as isize,
                dst: inner as isize,
            };
            let row = Axis {
                n: inner,
                src: 1,
                dst: 1,
            };
            let copy = StridedCopy {
                source: 0,
                from: i * inner,
                to: 0,
                axes: [rows, row].into_iter().collect(),
            };
            moves::build(cx, x.dtype(), shape.clone(), Fill::Any, &[&x], &Copies(&[copy]))?
        };
        cx.set_output(i, t);
    }
    Ok(())
}

fn parallel_concat() -> OpDef {
    OpDef::new("ParallelConcat", Category::Array)
        .doc("Joins tensors whose first dimension is 1 along it.")
        .input("values: N * T")
        .output("output: T")
        .attr("N: int >= 1")
        .attr("T: type")
        .attr("shape: shape")
        .shape(|cx| {
            for i in cx.inputs() {
                i.with_rank_at_least(1)?;
                if i.dim(0).is_some_and(|d| d != 1) {
                    return Err(Error::invalid(format!("the first dimension of {i} must be 1")));
                }
            }
            Ok(vec![cx.attrs().shape("shape")?.clone()])
        })
        .not_differentiable()
        .cpu(|init| {
            let want = init.attrs.shape("shape")?.clone();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let first = cx.input(0)?.shape().clone();
                if first.dims().first() != Some(&1) {
                    return Err(Error::invalid(format!("the first dimension of {first} must be 1")));
                }
                let shape = first.with_replaced(0, 1, &[cx.num_inputs()]);
                if !want.accepts(&shape) {
                    return Err(Error::invalid(format!("the result has shape {shape}, not {want}")));
                }
                let t = interleave(cx, 0)?.reshape(shape)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(pack, unpack, parallel_concat);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, PartialShape, Tensor};

    #[test]
    fn packing_and_unpacking_along_every_axis() {
        let g = Graph::new();
        let (a, b) = (
            g.constant([[1i32, 2, 3], [4, 5, 6]]).unwrap(),
            g.constant([[7i32, 8, 9], [10, 11, 12]]).unwrap(),
        );
        for axis in -3..3 {
            let p = g.stack(&[a.clone(), b.clone()], axis).unwrap();
            let u = g
                .op("Unpack")
                .input(&p)
                .attr("num", 2i64)
                .attr("axis", axis)
                .finish()
                .unwrap();
            assert_eq!(eval(&u.output(0).unwrap()), eval(&a));
            assert_eq!(eval(&u.output(1).unwrap()), eval(&b));
        }
        let last = eval(&g.stack(&[a.clone(), b], -1).unwrap());
        assert_eq!(last.to_vec::<i32>().unwrap(), [1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12]);
        assert!(g.stack(&[a], 3).is_err());
    }

    #[test]
    fn strings_are_packed() {
        let g = Graph::new();
        let (a, b) = (g.constant("x").unwrap(), g.constant("y").unwrap());
        let p = g.stack(&[a, b], 0).unwrap();
        assert_eq!(p.shape(), PartialShape::from([2]));
        assert_eq!(eval(&p), Tensor::strings([2], vec!["x", "y"]).unwrap());
    }
}
