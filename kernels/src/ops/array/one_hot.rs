//! `OneHot`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::shape::resolve_axis;
use actorflow_core::{PartialShape, register_ops};

use super::support::{inserted, inserted_partial, int_scalar, ints, product};
use crate::moves::{self, Fill, Item, Shuffle};

/// Writes the one element of the source at the hot places of an output `[outer, depth, inner]`.
struct Hot<'a> {
    depth: usize,
    inner: usize,
    /// `[outer, inner]`; places outside of the depth are left alone.
    indices: &'a [i64],
}

impl Shuffle for Hot<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        let Some(on) = sources.first().and_then(|s| s.first()) else {
            return Err(Error::invalid("on_value must be a scalar"));
        };
        for (k, &i) in self.indices.iter().enumerate() {
            let Some(i) = usize::try_from(i).ok().filter(|i| *i < self.depth) else {
                continue;
            };
            let (row, column) = (k / self.inner, k % self.inner);
            if let Some(o) = out.get_mut((row * self.depth + i) * self.inner + column) {
                o.clone_from(on);
            }
        }
        Ok(())
    }
}

fn run(cx: &mut OpContext<'_>, axis: i64) -> Result<()> {
    let (indices, on, off) = (cx.input(0)?, cx.input(2)?, cx.input(3)?);
    let depth = int_scalar(cx.input(1)?, "depth")?;
    for (t, name) in [(on, "on_value"), (off, "off_value")] {
        if !t.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "{name} must be a scalar, got shape {}",
                t.shape()
            )));
        }
    }
    let depth =
        usize::try_from(depth).map_err(|_| Error::invalid(format!("depth must not be negative, got {depth}")))?;
    let axis = place(axis, indices.shape().rank())?;
    let shape = inserted(indices.shape(), axis, depth);
    shape.checked_count()?;
    let list = ints(indices)?;
    let how = Hot {
        depth,
        inner: product(&indices.shape()[axis..]).max(1),
        indices: &list,
    };
    let t = moves::build(cx, on.dtype(), shape, Fill::Value(off), &[on], &how)?;
    cx.set_output(0, t);
    Ok(())
}

/// The new axis among those of indices of rank `rank`; -1 is after the last.
fn place(axis: i64, rank: usize) -> Result<usize> {
    if axis < -1 {
        return Err(Error::invalid(format!("axis must be -1 or more, got {axis}")));
    }
    resolve_axis(axis, rank + 1)
}

fn one_hot() -> OpDef {
    OpDef::new("OneHot", Category::Array)
        .doc("A new axis of length `depth` that is `on_value` at the index and `off_value` elsewhere.")
        .input("indices: TI")
        .input("depth: int32")
        .input("on_value: T")
        .input("off_value: T")
        .output("output: T")
        .attr("axis: int = -1")
        .attr("T: type")
        .attr("TI: {uint8, int8, int32, int64} = DT_INT64")
        .shape(|cx| {
            let (indices, axis) = (cx.input(0), cx.attrs().int("axis")?);
            let depth = match cx.constant_i64(1) {
                Some(d) => Some(
                    usize::try_from(d).map_err(|_| Error::invalid(format!("depth must not be negative, got {d}")))?,
                ),
                None => None,
            };
            Ok(vec![match indices.rank() {
                Some(r) => inserted_partial(&indices, place(axis, r)?, depth),
                None => PartialShape::UNKNOWN,
            }])
        })
        .not_differentiable()
        .cpu(|init| {
            let axis = init.attrs.int("axis")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, axis)))
        })
}

register_ops!(one_hot);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, PartialShape, Tensor};

    #[test]
    fn hot_along_any_axis_and_cold_out_of_range() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let hot = |i: Tensor, depth: i32, axis: i64| {
            let b = g
                .op("OneHot")
                .input(&c(i))
                .input(&c(depth.into()))
                .input(&c(5f32.into()))
                .input(&c((-1f32).into()));
            b.attr("axis", axis).output()
        };
        let y = hot(Tensor::from([0i32, 2, -1, 3]), 3, -1).unwrap();
        assert_eq!(y.shape(), PartialShape::from([4, 3]));
        let v = eval(&y).to_vec::<f32>().unwrap();
        assert_eq!(v, [5., -1., -1., -1., -1., 5., -1., -1., -1., -1., -1., -1.]);
        let y = hot(Tensor::from([[1u8, 0]]), 2, 1).unwrap();
        assert_eq!(eval(&y).shape().dims(), [1, 2, 2]);
        assert_eq!(eval(&y).to_vec::<f32>().unwrap(), [-1., 5., 5., -1.]);
        assert!(hot(Tensor::from([1i32]), -2, -1).is_err() && hot(Tensor::from([1i32]), 2, 2).is_err());
        let empty = hot(Tensor::vector::<i64>(&[]), 4, 0).unwrap();
        assert_eq!(eval(&empty).shape().dims(), [4, 0]);
        let bad = g
            .op("OneHot")
            .input(&c(0i32.into()))
            .input(&c(2i32.into()))
            .input(&c(1i64.into()));
        let bad = bad.input(&c(Tensor::from([1i64, 2]))).output().unwrap();
        assert!(fails(&bad).message().contains("off_value must be a scalar"));
    }
}
