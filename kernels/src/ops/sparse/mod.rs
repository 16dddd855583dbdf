//! Sparse tensors: three tensors, the indices of the elements that are there (`[n, rank]`), their values (`[n]`) and
//! the shape of the whole (`[rank]`).
#![forbid(unsafe_code)]

pub mod combine;
pub(crate) mod count;
pub mod cross;
pub mod dense;
pub mod fill_rows;
#[cfg(test)]
mod more_tests;
pub(crate) mod number;
pub mod pieces;
pub mod product;
pub mod reduce;
pub mod reorder;
pub mod serialize;
pub mod sets;
#[cfg(test)]
pub(crate) mod tests;

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::parallel::Parallel;
use actorflow_core::shape::MAX_RANK;
use actorflow_core::{DType, PartialShape, Shape, Tensor};

use crate::moves::{self, Fill, Item, Shuffle};

/// A sparse tensor, as a kernel sees it.
pub(crate) struct Sparse<'a> {
    pub(crate) indices: &'a [i64],
    pub(crate) rank: usize,
    pub(crate) values: &'a Tensor,
    pub(crate) shape: &'a [i64],
}

/// Indices as a matrix: its elements and columns.
pub(crate) fn matrix(t: &Tensor, what: &str) -> Result<(usize, usize)> {
    match t.shape().dims() {
        [n, rank] if *rank <= MAX_RANK => Ok((*n, *rank)),
        _ => Err(Error::invalid(format!(
            "{what} should be a matrix with at most {MAX_RANK} columns but received shape {}",
            t.shape()
        ))),
    }
}

impl<'a> Sparse<'a> {
    /// The sparse tensor of inputs `i` (indices), `i + 1` (values) and `i + 2` (shape).
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if these do not belong together or a dimension is negative.
    pub(crate) fn at(cx: &'a OpContext<'_>, i: usize) -> Result<Sparse<'a>> {
        Sparse::new(cx.input(i)?, cx.input(i + 1)?, cx.input(i + 2)?)
    }

    pub(crate) fn new(indices: &'a Tensor, values: &'a Tensor, shape: &'a Tensor) -> Result<Sparse<'a>> {
        let (n, rank) = matrix(indices, "indices")?;
        if values.shape().dims() != [n] {
            return Err(Error::invalid(format!(
                "values should be a vector of {n} elements, as there are rows of indices, but received shape {}",
                values.shape()
            )));
        }
        if shape.shape().dims() != [rank] {
            return Err(Error::invalid(format!(
                "the dense shape should be a vector of {rank} elements, as there are columns of indices, but received \
                 shape {}",
                shape.shape()
            )));
        }
        let shape = shape.as_slice::<i64>()?;
        if let Some(d) = shape.iter().find(|d| **d < 0) {
            return Err(Error::invalid(format!("a dense shape has the negative dimension {d}")));
        }
        Ok(Sparse {
            indices: indices.as_slice()?,
            rank,
            values,
            shape,
        })
    }

    /// The number of elements that are there.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Where element `k` is.
    pub(crate) fn index(&self, k: usize) -> &'a [i64] {
        &self.indices[k * self.rank..][..self.rank]
    }

    /// Fails unless every element is inside of the shape.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the first that is not.
    pub(crate) fn check_bounds(&self) -> Result<()> {
        for k in 0..self.len() {
            let at = self.index(k);
            if !at.iter().zip(self.shape).all(|(i, d)| (0..*d).contains(i)) {
                return Err(Error::invalid(format!(
                    "sparse index tuple indices[{k}, :] = {at:?} is out of bounds of shape {:?}",
                    self.shape
                )));
            }
        }
        Ok(())
    }
}

/// Element k of the output is element `.1` of source `.0` of the k-th pair.
struct Pick<'a>(&'a [(usize, usize)]);

impl Shuffle for Pick<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        for (to, (source, at)) in out.iter_mut().zip(self.0) {
            let from = sources.get(*source).and_then(|s| s.get(*at));
            to.clone_from(from.ok_or_else(|| Error::internal("an element outside of its source was picked"))?);
        }
        Ok(())
    }
}

/// A vector of elements of several vectors.
pub(crate) fn pick(cx: &OpContext<'_>, sources: &[&Tensor], at: &[(usize, usize)]) -> Result<Tensor> {
    let dtype = sources.first().map_or(DType::F32, |s| s.dtype());
    let shape = Shape::new(&[at.len()]);
    if at.is_empty() {
        return match dtype {
            DType::Resource => Tensor::resources(shape, Vec::new()),
            DType::Variant => Tensor::variants(shape, Vec::new()),
            _ => moves::zeros(cx, dtype, shape),
        };
    }
    moves::build(cx, dtype, shape, Fill::Any, sources, &Pick(at))
}

/// A vector of elements of one vector.
pub(crate) fn pick_one(cx: &OpContext<'_>, from: &Tensor, at: &[usize]) -> Result<Tensor> {
    let at: Vec<_> = at.iter().map(|i| (0, *i)).collect();
    pick(cx, &[from], &at)
}

/// Indices as a tensor of `rank` columns.
pub(crate) fn indices_tensor(rows: usize, rank: usize, flat: &[i64]) -> Result<Tensor> {
    Tensor::from_slice([rows, rank], flat)
}

/// The rank of the sparse tensor of inputs `i`, `i + 1`, `i + 2`, if it is known.
pub(crate) fn known_rank(cx: &ShapeContext<'_>, i: usize) -> Result<Option<usize>> {
    let (indices, shape) = (cx.input(i).with_rank(2)?, cx.input(i + 2).with_rank(1)?);
    cx.input(i + 1).with_rank(1)?;
    Ok(indices.sub(1, 2).merge(&shape)?.dim(0))
}

/// The shapes of the three parts of a sparse tensor.
pub(crate) fn parts(elements: Option<usize>, rank: Option<usize>) -> Vec<PartialShape> {
    vec![
        PartialShape::new(vec![elements, rank]),
        PartialShape::vector(elements),
        PartialShape::vector(rank),
    ]
}
