//! `GatherNd`: slices picked by tuples of indices.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext, IndexedSlices};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::{Attrs, DType, PartialShape, Shape, Tensor, register_ops};

use super::support::{ints, product, shape_of};
use crate::moves::{self, Fill, Item, Shuffle, par_rows};

/// What becomes of a tuple outside of the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadIndices {
    /// The step fails.
    Error,
    /// Zeros are gathered, an update is dropped.
    Ignore,
}

impl BadIndices {
    /// The attribute `bad_indices_policy`.
    pub(crate) fn of(attrs: &Attrs) -> Result<BadIndices> {
        match attrs.str("bad_indices_policy")? {
            "" | "DEFAULT" | "ERROR" => Ok(BadIndices::Error),
            "IGNORE" => Ok(BadIndices::Ignore),
            other => Err(Error::invalid(format!(
                "unknown bad_indices_policy {other:?}; it is ERROR or IGNORE"
            ))),
        }
    }
}

/// The numbers of the slices that the tuples along the last axis of `indices` name in a tensor of shape `dims`;
/// `None` for ignored ones.
///
/// # Errors
/// `INVALID_ARGUMENT` if tuples are longer than the rank, or naming the first tuple that is outside.
pub(crate) fn tuples(indices: &Tensor, dims: &[usize], bad: BadIndices) -> Result<Vec<Option<usize>>> {
    let Some((&k, lead)) = indices.shape().dims().split_last() else {
        return Err(Error::invalid("indices must be at least a vector"));
    };
    if k > dims.len() {
        return Err(Error::invalid(format!(
            "the last dimension of indices {} must not be more than the rank of {}",
            indices.shape(),
            Shape::new(dims)
        )));
    }
    let n = product(lead);
    if k == 0 {
        return Ok(vec![Some(0); n]);
    }
    let list = ints(indices)?;
    let strides = Shape::new(&dims[..k]).strides();
    let one = |(at, t): (usize, &[i64])| {
        let mut slice = 0;
        for ((&i, &d), &s) in t.iter().zip(dims).zip(&strides) {
            match usize::try_from(i) {
                Ok(i) if i < d => slice += i * s,
                _ if bad == BadIndices::Ignore => return Ok(None),
                _ => {
                    return Err(Error::invalid(format!(
                        "indices[{at}] = {t:?} does not index into shape {}",
                        Shape::new(dims)
                    )));
                }
            }
        }
        Ok(Some(slice))
    };
    list.chunks_exact(k).enumerate().map(one).collect()
}

/// `out` row `i` is row `picks[i]` of the source, or stays.
struct Picked<'a> {
    row: usize,
    picks: &'a [Option<usize>],
}

impl Shuffle for Picked<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], par: &dyn Parallel) -> Result<()> {
        let src = sources.first().copied().unwrap_or(&[]);
        par_rows(par, out, self.row, |at, part| {
            for (o, p) in part.chunks_exact_mut(self.row).zip(&self.picks[at / self.row..]) {
                if let Some(p) = p {
                    o.clone_from_slice(&src[p * self.row..][..self.row]);
                }
            }
        });
        Ok(())
    }
}

fn run(cx: &mut OpContext<'_>, bad: BadIndices) -> Result<()> {
    let (params, indices) = (cx.input(0)?, cx.input(1)?);
    if params.shape().rank() == 0 {
        return Err(Error::invalid("params must be at least a vector"));
    }
    let picks = tuples(indices, params.shape(), bad)?;
    let ix = indices.shape();
    let k = ix[ix.rank() - 1];
    let rest = &params.shape()[k..];
    let shape = Shape::from([&ix[..ix.rank() - 1], rest].concat());
    shape.checked_count()?;
    let fill = match bad {
        BadIndices::Error => Fill::Any,
        BadIndices::Ignore => Fill::Zero,
    };
    let t = if shape.count() == 0 {
        moves::build(cx, params.dtype(), shape, fill, &[params], &moves::Still)?
    } else {
        let row = product(rest);
        moves::build(
            cx,
            params.dtype(),
            shape,
            fill,
            &[params],
            &Picked { row, picks: &picks },
        )?
    };
    cx.set_output(0, t);
    Ok(())
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (params, indices, dy) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
    let index = if indices.dtype() == DType::I64 {
        DType::I64
    } else {
        DType::I32
    };
    let indices = indices.cast(index)?;
    let shape = shape_of(&params, index)?;
    let dims = indices.shape();
    let rows = dims.rank() == Some(2) && dims.dim(1) == Some(1);
    let policy = cx.attrs().str("bad_indices_policy")?;
    let dx: Grad = if rows && policy != "IGNORE" {
        IndexedSlices {
            values: dy,
            indices: indices.squeeze(&[-1])?,
            dense_shape: shape,
        }
        .into()
    } else {
        let b = cx.graph().op("ScatterNd").input(&indices).input(&dy).input(&shape);
        b.attr("bad_indices_policy", policy).output()?.into()
    };
    Ok(vec![Some(dx), None])
}

fn gather_nd() -> OpDef {
    OpDef::new("GatherNd", Category::Array)
        .doc("The elements (or slices) of `params` that the tuples along the last axis of `indices` name.")
        .input("params: Tparams")
        .input("indices: Tindices")
        .output("output: Tparams")
        .attr("Tparams: type")
        .attr("Tindices: {int16, int32, int64}")
        .attr("bad_indices_policy: string = ''")
        .shape(|cx| {
            let (p, ix) = (cx.input(0), cx.input(1).with_rank_at_least(1)?);
            let (Some(pr), Some(ir)) = (p.rank(), ix.rank()) else {
                return Ok(vec![PartialShape::UNKNOWN]);
            };
            Ok(vec![match ix.dim(ir - 1) {
                Some(k) if k > pr => {
                    return Err(Error::invalid(format!(
                        "the last dimension of {ix} must not be more than {pr}"
                    )));
                }
                Some(k) => ix.sub(0, ir - 1).concat(&p.sub(k, pr)),
                None => PartialShape::UNKNOWN,
            }])
        })
        .gradient(gradient)
        .cpu(|init| {
            let bad = BadIndices::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, bad)))
        })
        .sample(|s| {
            let x = s.normal([3, 2, 2])?;
            let i = s.constant([[0i32, 1], [2, 0], [0, 1]])?;
            s.op("GatherNd").input(&x).input(&i).finish()
        })
        .sample(|s| {
            let x = s.normal([3, 2])?;
            let i = s.constant([[2i64], [2]])?;
            s.op("GatherNd").input(&x).input(&i).finish()
        })
}

register_ops!(gather_nd);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn elements_and_slices_by_tuples() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2], [3, 4]]).unwrap();
        let nd = |i: Tensor, policy: &str| {
            let i = g.constant(i).unwrap();
            g.op("GatherNd")
                .input(&x)
                .input(&i)
                .attr("bad_indices_policy", policy)
                .output()
                .unwrap()
        };
        assert_eq!(
            eval(&nd(Tensor::from([[0i32, 0], [1, 1]]), "")),
            Tensor::from([1i32, 4])
        );
        assert_eq!(
            eval(&nd(Tensor::from([[1i64], [0]]), "")),
            Tensor::from([[3i32, 4], [1, 2]])
        );
        let all = nd(Tensor::from_slice::<i32>([2, 0], &[]).unwrap(), "");
        assert_eq!(eval(&all).to_vec::<i32>().unwrap(), [1, 2, 3, 4, 1, 2, 3, 4]);
        let e = fails(&nd(Tensor::from([[0i32, 0], [0, 2]]), ""));
        assert!(e.message().contains("indices[1] = [0, 2]"), "{e}");
        assert_eq!(
            eval(&nd(Tensor::from([[0i32, 1], [0, 2]]), "IGNORE")),
            Tensor::from([2i32, 0])
        );
    }
}
