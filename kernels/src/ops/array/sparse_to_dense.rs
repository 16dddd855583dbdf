//! `SparseToDense`.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::{Tensor, register_ops};

use super::support::ints;
use crate::moves::{self, Fill, Item, Shuffle};

/// Element `k` (or the only one) of the source goes to place `places[k]`.
struct Put<'a>(&'a [usize]);

impl Shuffle for Put<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        let values = sources.first().copied().unwrap_or(&[]);
        for (k, p) in self.0.iter().enumerate() {
            if let (Some(o), Some(v)) = (out.get_mut(*p), values.get(k).or(values.first())) {
                o.clone_from(v);
            }
        }
        Ok(())
    }
}

fn run(cx: &mut OpContext<'_>, validate: bool) -> Result<()> {
    let (indices, values, default) = (cx.input(0)?, cx.input(2)?, cx.input(3)?);
    let shape = cx.input(1)?.to_shape()?;
    let rank = shape.rank();
    let n = match indices.shape().dims() {
        [] => 1,
        [n] if rank == 1 => *n,
        [n, r] if *r == rank => *n,
        _ => {
            return Err(Error::invalid(format!(
                "sparse_indices of shape {} do not index into shape {shape}",
                indices.shape()
            )));
        }
    };
    if indices.shape().is_scalar() && rank != 1 {
        return Err(Error::invalid(format!(
            "a scalar index needs a vector, not shape {shape}"
        )));
    }
    if !(values.shape().is_scalar() || values.shape().dims() == [n]) {
        return Err(Error::invalid(format!(
            "sparse_values have shape {}, there are {n} indices",
            values.shape()
        )));
    }
    if !default.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "default_value must be a scalar, got shape {}",
            default.shape()
        )));
    }
    let list = ints(indices)?;
    let strides = shape.strides();
    let mut places = Vec::with_capacity(n);
    let mut last: Option<&[i64]> = None;
    // Indices into a scalar are empty.
    for k in 0..n {
        let row = &list[k * rank..(k + 1) * rank];
        let inside = row
            .iter()
            .zip(shape.iter())
            .all(|(i, d)| usize::try_from(*i).is_ok_and(|i| i < *d));
        if !inside {
            return Err(Error::invalid(format!(
                "indices[{k}] = {row:?} is out of bounds of shape {shape}"
            )));
        }
        if validate && last.is_some_and(|l| l >= row) {
            let how = if last == Some(row) { "repeated" } else { "out of order" };
            return Err(Error::invalid(format!("indices[{k}] = {row:?} is {how}")));
        }
        last = Some(row);
        places.push(row.iter().zip(&strides).map(|(i, s)| *i as usize * s).sum());
    }
    let t: Tensor = moves::build(
        cx,
        values.dtype(),
        shape,
        Fill::Value(default),
        &[values],
        &Put(&places),
    )?;
    cx.set_output(0, t);
    Ok(())
}

/// The values' gradient is gathered at the indices; the default's is what is left of the sum.
fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (dy, indices, values) = (cx.dense(dys, 0)?, cx.input(0)?, cx.input(2)?);
    let tuples = match indices.shape().rank() {
        Some(0) => indices.reshape(&[1, 1])?,
        Some(1) => indices.expand_dims(-1)?,
        _ => indices,
    };
    let picked = cx.graph().op("GatherNd").input(&dy).input(&tuples).output()?;
    let all = picked.sum(&[], false)?;
    let default = dy.sum(&[], false)?.minus(&all)?;
    let dv = if values.shape().rank() == Some(0) { all } else { picked };
    Ok(vec![None, None, Some(dv.into()), Some(default.into())])
}

fn sparse_to_dense() -> OpDef {
    OpDef::new("SparseToDense", Category::Sparse)
        .doc("A tensor of a default value in which `sparse_values` stand at `sparse_indices`.")
        .input("sparse_indices: Tindices")
        .input("output_shape: Tindices")
        .input("sparse_values: T")
        .input("default_value: T")
        .output("dense: T")
        .attr("validate_indices: bool = true")
        .attr("T: type")
        .attr("Tindices: {int32, int64}")
        .shape(|cx| Ok(vec![cx.constant_shape(1)?]))
        .gradient(gradient)
        .cpu(|init| {
            let validate = init.attrs.bool("validate_indices")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, validate)))
        })
        .sample(|s| {
            let (v, d) = (s.normal([2])?, s.normal([])?);
            let (i, shape) = (s.constant([[0i32, 1], [1, 0]])?, s.constant([2i32, 3])?);
            s.op("SparseToDense")
                .input(&i)
                .input(&shape)
                .input(&v)
                .input(&d)
                .finish()
        })
}

register_ops!(sparse_to_dense);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn values_stand_at_their_indices() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let run = |i: Tensor, s: Tensor, v: Tensor| {
            g.op("SparseToDense")
                .input(&c(i))
                .input(&c(s))
                .input(&c(v))
                .input(&c(7i32.into()))
                .output()
                .unwrap()
        };
        let y = run([[0i64, 1], [1, 0]].into(), [2i64, 2].into(), [3i32, 4].into());
        assert_eq!(eval(&y), Tensor::from([[7i32, 3], [4, 7]]));
        let y = run([2i32, 3].into(), [4i32].into(), 1i32.into());
        assert_eq!(eval(&y), Tensor::from([7i32, 7, 1, 1]));
        let e = fails(&run([3i32, 2].into(), [4i32].into(), 1i32.into()));
        assert!(e.message().contains("out of order"), "{e}");
        assert!(
            fails(&run([4i32].into(), [4i32].into(), 1i32.into()))
                .message()
                .contains("out of bounds")
        );
    }
}
