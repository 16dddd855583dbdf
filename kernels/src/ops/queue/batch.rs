//! Stacking the elements that leave a queue together.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, PartialShape, Shape, Tensor};

/// Stacks tensors along a new first axis. They may differ in the dimensions that `shape` does not know: the smaller ones
/// are padded at their ends with zeros, empty strings or false.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no memory for the result; `INVALID_ARGUMENT` for handles that need padding.
pub fn stack(pool: &Arc<Pool>, dtype: DType, shape: &PartialShape, parts: &[&Tensor]) -> Result<Tensor> {
    let rank = match (shape.rank(), parts.first()) {
        (Some(r), _) => r,
        (None, Some(p)) => p.shape().rank(),
        (None, None) => 0,
    };
    if let Some(p) = parts.iter().find(|p| p.shape().rank() != rank || p.dtype() != dtype) {
        return Err(Error::internal(format!("{p:?} cannot be stacked to {dtype}{shape}")));
    }
    let largest = |d: usize| parts.iter().map(|p| p.shape()[d]).max().unwrap_or(0);
    let each: Vec<usize> = (0..rank).map(|d| shape.dim(d).unwrap_or(0).max(largest(d))).collect();
    let all = Shape::new(&[&[parts.len()], &each[..]].concat());
    let count: usize = Shape::new(&each).checked_count()?;
    let total = all.checked_count()?;
    match dtype {
        DType::Str => {
            let mut items = vec![bytes::Bytes::new(); total];
            for (p, out) in parts.iter().zip(items.chunks_mut(count.max(1))) {
                paste(out, &each, p.as_strings()?, p.shape(), 1);
            }
            Tensor::strings(all, items)
        }
        DType::Resource | DType::Variant if parts.iter().any(|p| p.len() != count) => {
            Err(Error::invalid(format!("{dtype} elements cannot be padded")))
        }
        DType::Resource => {
            let items: Result<Vec<_>> = parts.iter().map(|p| p.as_resources()).collect();
            Tensor::resources(all, items?.concat())
        }
        DType::Variant => {
            let items: Result<Vec<_>> = parts.iter().map(|p| p.as_variants()).collect();
            Tensor::variants(all, items?.concat())
        }
        _ => {
            let mut t = Tensor::alloc_in(pool, dtype, all)?;
            let size = dtype.size();
            let out = t.bytes_mut().ok_or_else(|| Error::internal("a new tensor is shared"))?;
            if parts.iter().any(|p| p.len() != count) {
                out.fill(0);
            }
            for (p, out) in parts.iter().zip(out.chunks_mut((count * size).max(1))) {
                let from = p.bytes().ok_or_else(|| Error::internal("no dense data"))?;
                paste(out, &each, from, p.shape(), size);
            }
            Ok(t)
        }
    }
}

/// Copies `from` of shape `have` into the corner of `to` of shape `want`; an element is `size` items long.
fn paste<E: Clone>(to: &mut [E], want: &[usize], from: &[E], have: &[usize], size: usize) {
    if want == have {
        to.clone_from_slice(from);
        return;
    }
    let (Some((w, inner_want)), Some((h, inner_have))) = (want.split_first(), have.split_first()) else {
        return;
    };
    let step = |dims: &[usize]| dims.iter().product::<usize>() * size;
    let (to_step, from_step) = (step(inner_want), step(inner_have));
    if to_step == 0 || from_step == 0 {
        return;
    }
    for (t, f) in to.chunks_mut(to_step).zip(from.chunks(from_step)).take(*h.min(w)) {
        paste(t, inner_want, f, inner_have, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_elements_are_padded_at_their_ends() {
        let pool = Pool::unbounded();
        let (a, b) = (Tensor::from([[1i32, 2], [3, 4]]), Tensor::from([[5i32, 6, 7]]));
        let shape = PartialShape::of_rank(2);
        let t = stack(&pool, DType::I32, &shape, &[&a, &b]).unwrap();
        assert_eq!(t.shape().dims(), [2, 2, 3]);
        assert_eq!(t.to_vec::<i32>().unwrap(), [1, 2, 0, 3, 4, 0, 5, 6, 7, 0, 0, 0]);
        let none = stack(&pool, DType::Str, &PartialShape::from([None, Some(2)]), &[]).unwrap();
        assert_eq!(none.shape().dims(), [0, 0, 2]);
    }
}
