//! The value: a list of tensors of one dtype, and what may be done with it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::tensor::Variant;
use actorflow_core::{DType, PartialShape, Shape, Tensor};

use super::map::TensorMap;
use crate::moves;

/// Elements of a list that may be set; more are a mistake, or an attack.
const MOST: usize = 1 << 24;

/// Lists in lists in lists: deeper ones are refused, since they are dropped one inside the other.
pub(super) const DEPTH: usize = 64;

/// A list of tensors of one dtype. Elements that were never set have no value.
#[derive(Clone, Debug)]
pub struct TensorList {
    dtype: DType,
    element: PartialShape,
    /// Elements beyond which nothing can be pushed.
    limit: Option<usize>,
    /// How deep lists are nested in the elements.
    depth: usize,
    len: usize,
    /// The first elements; those from here to `len` were never set.
    items: Vec<Option<Tensor>>,
}

impl TensorList {
    /// A list of `len` elements without a value.
    pub fn new(dtype: DType, element: PartialShape, len: usize) -> Self {
        TensorList {
            dtype,
            element,
            limit: None,
            depth: 0,
            len,
            items: Vec::new(),
        }
    }

    /// The same list, to which no more can be pushed once it has that many elements.
    pub fn limited(mut self, limit: Option<usize>) -> Self {
        self.limit = limit;
        self
    }

    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What is known of the shapes of the elements.
    pub fn element_shape(&self) -> &PartialShape {
        &self.element
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Element `i`, if it was set.
    pub fn get(&self, i: usize) -> Option<&Tensor> {
        self.items.get(i)?.as_ref()
    }

    /// The elements that were set.
    pub fn set_items(&self) -> impl Iterator<Item = &Tensor> {
        self.items.iter().flatten()
    }

    /// Fails unless the elements are of this dtype.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both dtypes.
    pub fn check_dtype(&self, dtype: DType) -> Result<()> {
        if self.dtype != dtype {
            return Err(Error::invalid(format!(
                "invalid data types; op elements {dtype} but list elements {}",
                self.dtype
            )));
        }
        Ok(())
    }

    fn fits(&self, t: &Tensor) -> Result<()> {
        self.check_dtype(t.dtype())?;
        if !self.element.accepts(t.shape()) {
            return Err(Error::invalid(format!(
                "a tensor of shape {} cannot be an element of a list of shape {}",
                t.shape(),
                self.element
            )));
        }
        Ok(())
    }

    fn make_room(&mut self, len: usize) -> Result<()> {
        if len > MOST {
            return Err(Error::exhausted(format!("a list cannot hold {len} tensors")));
        }
        if self.items.len() < len {
            self.items.resize(len, None);
        }
        Ok(())
    }

    /// Adds an element.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if its shape or dtype is not the list's or the list is full.
    pub fn push(&mut self, t: Tensor) -> Result<()> {
        self.fits(&t)?;
        if let Some(limit) = self.limit.filter(|l| self.len >= *l) {
            return Err(Error::invalid(format!(
                "tried to push an item into a full list; list size: {}, max_num_elements: {limit}",
                self.len
            )));
        }
        let at = self.len;
        self.len += 1;
        self.put(at, t)
    }

    fn put(&mut self, i: usize, t: Tensor) -> Result<()> {
        self.depth = self.depth.max(depth_of(&t)?);
        if self.depth > DEPTH {
            return Err(Error::invalid("lists are nested too deeply"));
        }
        self.make_room(i + 1)?;
        self.items[i] = Some(t);
        Ok(())
    }

    /// Sets element `i`, which must exist.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is no such element, or its shape or dtype is not the list's.
    pub fn set(&mut self, i: usize, t: Tensor) -> Result<()> {
        self.fits(&t)?;
        if i >= self.len {
            return Err(Error::invalid(format!(
                "trying to modify element {i} in a list with {} elements",
                self.len
            )));
        }
        self.put(i, t)
    }

    /// Removes the last element: `None` of an empty list, `Some(None)` if it was never set.
    pub fn pop(&mut self) -> Option<Option<Tensor>> {
        self.len = self.len.checked_sub(1)?;
        Some(match self.items.len() > self.len {
            true => self.items.pop().flatten(),
            false => None,
        })
    }

    /// Removes elements at the end, or adds elements without a value.
    pub fn resize(&mut self, len: usize) {
        self.items.truncate(len);
        self.len = len;
    }

    /// The list with the elements of another one behind its own.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there are too many.
    pub fn append(&mut self, other: &TensorList) -> Result<()> {
        self.depth = self.depth.max(other.depth);
        if !other.items.is_empty() {
            self.make_room(self.len + other.items.len())?;
            self.items.truncate(self.len);
            self.items.extend(other.items.iter().cloned());
        }
        self.len += other.len;
        i32::try_from(self.len).map_err(|_| Error::exhausted("the list is too long"))?;
        Ok(())
    }

    /// A list of as many elements, each of which `f` makes.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn map(&self, mut f: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<TensorList> {
        let mut out = self.unset();
        for t in &self.items {
            out.items.push(t.as_ref().map(&mut f).transpose()?);
        }
        Ok(out)
    }

    /// Fails if the elements are too many to be named one by one.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`
    pub fn check_size(&self) -> Result<()> {
        match self.len > MOST {
            true => Err(Error::exhausted(format!(
                "{} elements of a list cannot be joined",
                self.len
            ))),
            false => Ok(()),
        }
    }

    /// A list of the same kind and length, no element of which is set.
    fn unset(&self) -> TensorList {
        TensorList {
            dtype: self.dtype,
            element: self.element.clone(),
            limit: self.limit,
            depth: self.depth,
            len: self.len,
            items: Vec::new(),
        }
    }

    /// The sums of the elements of two lists; an element that was never set counts as zero.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if lengths, dtypes or shapes differ, and what `add` returns.
    pub fn plus(&self, other: &TensorList, mut add: impl FnMut(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Self> {
        self.check_dtype(other.dtype)?;
        if self.len != other.len {
            return Err(Error::invalid(format!(
                "trying to add two lists of tensors with different lengths, {} and {}",
                self.len, other.len
            )));
        }
        let mut out = self.unset();
        out.element = self.element.merge(&other.element)?;
        out.depth = self.depth.max(other.depth);
        let n = self.items.len().max(other.items.len());
        for i in 0..n {
            out.items.push(match (self.get(i), other.get(i)) {
                (Some(a), Some(b)) => Some(add(a, b)?),
                (a, b) => a.or(b).cloned(),
            });
        }
        Ok(out)
    }

    /// The list as a tensor.
    ///
    /// # Errors
    /// Never.
    pub fn into_tensor(self) -> Result<Tensor> {
        Tensor::variants([], vec![Arc::new(self) as Variant])
    }
}

/// How deep lists and maps are nested that have `t` as an element; 0 if it holds none of them.
///
/// # Errors
/// Never.
pub(super) fn depth_of(t: &Tensor) -> Result<usize> {
    if t.dtype() != DType::Variant {
        return Ok(0);
    }
    let inner = t.as_variants()?.iter().map(|v| {
        let list = v.downcast_ref::<TensorList>().map(|l| l.depth);
        list.or_else(|| v.downcast_ref::<TensorMap>().map(TensorMap::depth))
            .unwrap_or(0)
    });
    Ok(inner.max().map_or(0, |depth| depth + 1))
}

/// A variant as a list.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub fn of_variant(v: &Variant) -> Result<&TensorList> {
    v.downcast_ref()
        .ok_or_else(|| Error::invalid("the input handle is not a list of tensors"))
}

fn not_scalar(t: &Tensor) -> Error {
    Error::invalid(format!("the input list must be a scalar, saw shape {}", t.shape()))
}

/// Input `i` of a kernel, a list.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub fn list<'a>(cx: &'a OpContext<'_>, i: usize) -> Result<&'a TensorList> {
    let t = cx.input(i)?;
    match t.as_variants()? {
        [v] if t.shape().is_scalar() => of_variant(v),
        _ => Err(not_scalar(t)),
    }
}

/// Input `i` of a kernel, a list that may be changed: it is copied if somebody else has it too.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub fn take(cx: &mut OpContext<'_>, i: usize) -> Result<TensorList> {
    list(cx, i)?;
    let mut items = cx.take_input(i)?.into_variants()?;
    let v = items.pop().ok_or_else(|| Error::internal("a scalar has an element"))?;
    let list = v
        .downcast::<TensorList>()
        .map_err(|_| Error::internal("the variant was a list"))?;
    Ok(Arc::unwrap_or_clone(list))
}

/// A shape as these operations take it: -1 if nothing is known, else a vector in which -1 is an unknown dimension.
///
/// # Errors
/// `INVALID_ARGUMENT` for anything else.
pub fn shape_of(t: &Tensor) -> Result<PartialShape> {
    let dims = t.to_i64_vec()?;
    match (t.shape().rank(), &dims[..]) {
        (0, [-1]) => return Ok(PartialShape::UNKNOWN),
        (0, _) => {
            return Err(Error::invalid(
                "the only valid scalar shape is the fully unknown one, -1",
            ));
        }
        (1, _) => {}
        _ => {
            return Err(Error::invalid(format!(
                "a shape must be a vector, not a tensor of shape {}",
                t.shape()
            )));
        }
    }
    if let Some(d) = dims.iter().find(|d| **d < -1) {
        return Err(Error::invalid(format!("dimension {d} must be >= -1")));
    }
    // Refuses more dimensions than a tensor can have.
    Shape::from_i64(&vec![1; dims.len()])?;
    Ok(PartialShape::from_i64(&dims))
}

/// The shape that input `i` holds, as far as it is known when the graph is built.
///
/// # Errors
/// As [`shape_of`].
pub fn known_shape(cx: &ShapeContext<'_>, i: usize) -> Result<PartialShape> {
    match cx.constant(i) {
        Some(t) => shape_of(&t),
        None if cx.input(i).rank() == Some(1) => cx.constant_shape(i),
        None => Ok(PartialShape::UNKNOWN),
    }
}

/// A tensor of zeros, which stands for an element that was never set.
///
/// # Errors
/// `INVALID_ARGUMENT` if the dtype has no zero.
pub fn zeros(cx: &OpContext<'_>, dtype: DType, shape: Shape) -> Result<Tensor> {
    shape.checked_count()?;
    moves::zeros(cx, dtype, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_were_never_set_take_no_room() {
        let mut l = TensorList::new(DType::F32, PartialShape::UNKNOWN, i32::MAX as usize);
        assert_eq!((l.len(), l.items.len()), (i32::MAX as usize, 0));
        assert!(matches!(l.pop(), Some(None)));
        assert!(l.set(l.len() - 1, Tensor::scalar(1f32)).is_err());
        l.set(2, Tensor::scalar(1f32)).unwrap();
        assert_eq!(l.items.len(), 3);
        l.resize(2);
        assert_eq!((l.len(), l.set_items().count()), (2, 0));
    }

    #[test]
    fn sums_take_what_is_set() {
        let mut a = TensorList::new(DType::F32, PartialShape::UNKNOWN, 3);
        let mut b = a.clone();
        a.set(0, Tensor::scalar(1f32)).unwrap();
        b.set(1, Tensor::scalar(2f32)).unwrap();
        let c = a.plus(&b, |_, _| Err(Error::internal("not both"))).unwrap();
        assert_eq!(c.get(0), Some(&Tensor::scalar(1f32)));
        assert_eq!(c.get(1), Some(&Tensor::scalar(2f32)));
        assert!(c.get(2).is_none());
        b.resize(2);
        assert!(a.plus(&b, |a, _| Ok(a.clone())).is_err());
        assert!(a.set(1, Tensor::scalar(1i32)).is_err());
    }
}
