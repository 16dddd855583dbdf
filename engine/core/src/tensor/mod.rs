//! Tensors: the values that flow along the edges of a graph.
//!
//! A [`Tensor`] is one cache line: dtype, shape, and either up to 16 bytes of data inline (scalars, short vectors)
//! or a share of a reference-counted, 64-byte-aligned [`Buffer`]. Data is always row-major and contiguous, so a
//! reshape and a slice of the outermost dimension share the buffer; everything else copies. A tensor that is the
//! only owner of its buffer can be written in place ([`Tensor::as_mut_slice`]).

mod buffer;
mod build;
mod convert;
mod fmt;

pub use buffer::{ALIGN, Buffer, Pool, PoolStats, human};

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::resource::ResourceHandle;
use crate::shape::Shape;

/// Bytes stored in the tensor itself.
pub const INLINE_BYTES: usize = 16;

#[derive(Clone)]
enum Data {
    Inline([u64; 2]),
    Shared {
        buffer: Arc<Buffer>,
        offset: usize,
    },
    Strings {
        items: Arc<Vec<Bytes>>,
        offset: usize,
    },
    Handles {
        items: Arc<Vec<ResourceHandle>>,
        offset: usize,
    },
    Variants {
        items: Arc<Vec<Variant>>,
        offset: usize,
    },
}

/// An element of a tensor of dtype `variant`: any shareable value.
pub type Variant = Arc<dyn Any + Send + Sync>;

/// An immutable n-dimensional array; cloning shares the data.
#[derive(Clone)]
pub struct Tensor {
    data: Data,
    shape: Shape,
    dtype: DType,
}

fn wrong_dtype(have: DType, want: DType) -> Error {
    Error::invalid(format!("tensor is {have}, not {want}"))
}

impl Tensor {
    /// The element type.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    #[inline]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.shape.count()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of data: of the dense buffer, or the sum of the strings' lengths.
    pub fn byte_size(&self) -> usize {
        match &self.data {
            Data::Strings { .. } => self.as_strings().map_or(0, |s| s.iter().map(Bytes::len).sum()),
            _ => self.len() * self.dtype.size(),
        }
    }

    /// The dense data as bytes, native byte order; `None` for strings, resources and variants.
    #[inline]
    pub fn bytes(&self) -> Option<&[u8]> {
        let n = self.len() * self.dtype.size();
        match &self.data {
            // SAFETY: reading the inline cell as bytes; `n` is at most 16 for inline data by construction.
            Data::Inline(cell) => Some(unsafe { std::slice::from_raw_parts(cell.as_ptr() as *const u8, n) }),
            Data::Shared { buffer, offset } => buffer.bytes().get(*offset..*offset + n),
            _ => None,
        }
    }

    /// The dense data for writing, if this tensor is its only owner.
    #[inline]
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let n = self.len() * self.dtype.size();
        match &mut self.data {
            // SAFETY: as in `bytes`, uniquely borrowed.
            Data::Inline(cell) => Some(unsafe { std::slice::from_raw_parts_mut(cell.as_mut_ptr() as *mut u8, n) }),
            Data::Shared { buffer, offset } => {
                let offset = *offset;
                Arc::get_mut(buffer)?.bytes_mut().get_mut(offset..offset + n)
            }
            _ => None,
        }
    }

    /// The elements.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the tensor has another dtype.
    #[inline]
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        match (self.dtype == T::DTYPE, self.bytes()) {
            // SAFETY: the bytes are `len` elements of `T` (the dtypes agree), initialised, aligned (buffers to 64,
            // offsets are multiples of the element size, the inline cell to 8) and valid for `T` (bools are
            // checked or zeroed when made).
            (true, Some(b)) => Ok(unsafe { std::slice::from_raw_parts(b.as_ptr() as *const T, self.len()) }),
            _ => Err(wrong_dtype(self.dtype, T::DTYPE)),
        }
    }

    /// The elements for writing, if the dtype is `T` and this tensor is the only owner of its data.
    #[inline]
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        if self.dtype != T::DTYPE {
            return None;
        }
        let n = self.len();
        let b = self.bytes_mut()?;
        // SAFETY: as in `as_slice`, uniquely borrowed.
        Some(unsafe { std::slice::from_raw_parts_mut(b.as_mut_ptr() as *mut T, n) })
    }

    /// The strings.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the dtype is not string.
    pub fn as_strings(&self) -> Result<&[Bytes]> {
        match &self.data {
            Data::Strings { items, offset } => Ok(&items[*offset..*offset + self.len()]),
            _ => Err(wrong_dtype(self.dtype, DType::Str)),
        }
    }

    /// The resource handles.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the dtype is not resource.
    pub fn as_resources(&self) -> Result<&[ResourceHandle]> {
        match &self.data {
            Data::Handles { items, offset } => Ok(&items[*offset..*offset + self.len()]),
            _ => Err(wrong_dtype(self.dtype, DType::Resource)),
        }
    }

    /// The variants.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the dtype is not variant.
    pub fn as_variants(&self) -> Result<&[Variant]> {
        match &self.data {
            Data::Variants { items, offset } => Ok(&items[*offset..*offset + self.len()]),
            _ => Err(wrong_dtype(self.dtype, DType::Variant)),
        }
    }

    /// The variants, without a copy if this tensor is the only owner of its data.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the dtype is not variant.
    pub fn into_variants(self) -> Result<Vec<Variant>> {
        let n = self.len();
        match self.data {
            Data::Variants { items, offset } if offset == 0 && items.len() == n => Ok(Arc::unwrap_or_clone(items)),
            Data::Variants { items, offset } => Ok(items[offset..offset + n].to_vec()),
            _ => Err(wrong_dtype(self.dtype, DType::Variant)),
        }
    }

    /// The value of a scalar (or of a tensor with exactly one element).
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for another dtype or element count.
    #[inline]
    pub fn to_scalar<T: Element>(&self) -> Result<T> {
        match self.as_slice::<T>()? {
            [x] => Ok(*x),
            _ => Err(Error::invalid(format!(
                "tensor of shape {} is not a scalar",
                self.shape
            ))),
        }
    }

    /// The elements as `i64`, from any integer dtype; for indices, axes and shapes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the dtype is not an integer or a `uint64` does not fit.
    #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions)] // one body for all integers
    pub fn to_i64_vec(&self) -> Result<Vec<i64>> {
        crate::dispatch!(self.dtype, T in integers => {
            self.as_slice::<T>()?.iter().map(|&x| i64::try_from(x)
                .map_err(|_| Error::invalid(format!("{x} does not fit an int64")))).collect()
        }, else Err(Error::invalid(format!("expected an integer tensor, got {}", self.dtype))))
    }

    /// The one element of an integer scalar as `i64`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the tensor is not an integer scalar (or one-element tensor).
    pub fn to_i64(&self) -> Result<i64> {
        match self.to_i64_vec()?[..] {
            [x] => Ok(x),
            _ => Err(Error::invalid(format!(
                "expected a scalar, got a tensor of shape {}",
                self.shape
            ))),
        }
    }

    /// The elements as a shape, from an int32 or int64 vector.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for another rank or dtype, negative dimensions, overflow.
    pub fn to_shape(&self) -> Result<Shape> {
        if self.shape.rank() > 1 {
            return Err(Error::invalid(format!(
                "a shape must be a vector, got a tensor of shape {}",
                self.shape
            )));
        }
        let s = Shape::from_i64(&self.to_i64_vec()?)?;
        s.checked_count()?;
        Ok(s)
    }

    /// Whether this tensor is the only owner of its data, so that a kernel may write into it.
    #[inline]
    pub fn is_unique(&self) -> bool {
        match &self.data {
            Data::Inline(_) => true,
            Data::Shared { buffer, .. } => Arc::strong_count(buffer) == 1,
            Data::Strings { items, .. } => Arc::strong_count(items) == 1,
            Data::Handles { items, .. } => Arc::strong_count(items) == 1,
            Data::Variants { items, .. } => Arc::strong_count(items) == 1,
        }
    }

    /// Whether the data is stored in the tensor itself.
    #[inline]
    pub fn is_inline(&self) -> bool {
        matches!(self.data, Data::Inline(_))
    }

    /// Whether both share the same data.
    pub fn shares_data_with(&self, other: &Tensor) -> bool {
        match (&self.data, &other.data) {
            (Data::Shared { buffer: a, .. }, Data::Shared { buffer: b, .. }) => Arc::ptr_eq(a, b),
            (Data::Strings { items: a, .. }, Data::Strings { items: b, .. }) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The same elements in another shape; never copies.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both shapes if the element counts differ.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape.checked_count()? != self.len() {
            return Err(Error::invalid(format!(
                "cannot reshape a tensor of shape {} ({} elements) to {shape} ({} elements)",
                self.shape,
                self.len(),
                shape.count()
            )));
        }
        self.shape = shape;
        Ok(self)
    }

    /// Rows `start..end` of the outermost dimension; shares the data (small results are copied inline).
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a scalar or a range outside of the dimension.
    pub fn slice_rows(&self, start: usize, end: usize) -> Result<Tensor> {
        let Some((&rows, rest)) = self.shape.dims().split_first() else {
            return Err(Error::invalid("a scalar has no rows"));
        };
        if start > end || end > rows {
            return Err(Error::invalid(format!(
                "rows {start}..{end} are outside of shape {}",
                self.shape
            )));
        }
        let row: usize = rest.iter().product();
        let shape = self.shape.with_replaced(0, 1, &[end - start]);
        let (skip, size) = (start * row, self.dtype.size());
        let data = match &self.data {
            Data::Inline(_) => {
                let bytes = self.bytes().unwrap_or(&[]);
                return Tensor::from_bytes(self.dtype, shape, &bytes[skip * size..(end * row) * size]);
            }
            Data::Shared { .. } if (end - start) * row * size <= INLINE_BYTES => {
                let bytes = self.bytes().unwrap_or(&[]);
                return Tensor::from_bytes(self.dtype, shape, &bytes[skip * size..(end * row) * size]);
            }
            Data::Shared { buffer, offset } => Data::Shared {
                buffer: buffer.clone(),
                offset: offset + skip * size,
            },
            Data::Strings { items, offset } => Data::Strings {
                items: items.clone(),
                offset: offset + skip,
            },
            Data::Handles { items, offset } => Data::Handles {
                items: items.clone(),
                offset: offset + skip,
            },
            Data::Variants { items, offset } => Data::Variants {
                items: items.clone(),
                offset: offset + skip,
            },
        };
        Ok(Tensor {
            data,
            shape,
            dtype: self.dtype,
        })
    }

    /// The same bits as another dtype of the same element size; never copies.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the sizes differ or either is bool or not plain.
    pub fn bitcast(mut self, dtype: DType) -> Result<Tensor> {
        if dtype.size() != self.dtype.size() || !dtype.is_plain() || dtype == DType::Bool {
            return Err(Error::invalid(format!(
                "cannot view {} elements as {dtype}",
                self.dtype
            )));
        }
        self.dtype = dtype;
        Ok(self)
    }

    /// A copy that shares nothing with this tensor.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the pool's budget refuses it.
    pub fn deep_copy_in(&self, pool: &Arc<Pool>) -> Result<Tensor> {
        let Some(bytes) = self.bytes() else {
            return Ok(self.clone());
        };
        let mut t = Tensor::alloc_in(pool, self.dtype, self.shape.clone())?;
        if let Some(out) = t.bytes_mut() {
            out.copy_from_slice(bytes);
        }
        Ok(t)
    }

    /// This tensor if it is the only owner of its data, else a copy: the result can be written.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the pool's budget refuses the copy.
    pub fn into_unique(self, pool: &Arc<Pool>) -> Result<Tensor> {
        if self.is_unique() {
            Ok(self)
        } else {
            self.deep_copy_in(pool)
        }
    }
}

/// Equality of dtype, shape and every element's bits (so NaN equals the same NaN); handles are equal by identity.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        if self.dtype != other.dtype || self.shape != other.shape {
            return false;
        }
        match (&self.data, &other.data) {
            (Data::Strings { .. }, Data::Strings { .. }) => self.as_strings().ok() == other.as_strings().ok(),
            (Data::Handles { .. }, Data::Handles { .. }) => match (self.as_resources(), other.as_resources()) {
                (Ok(a), Ok(b)) => a.iter().zip(b).all(|(a, b)| a.same(b)),
                _ => false,
            },
            (Data::Variants { .. }, Data::Variants { .. }) => match (self.as_variants(), other.as_variants()) {
                (Ok(a), Ok(b)) => a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b)),
                _ => false,
            },
            _ => self.bytes().is_some() && self.bytes() == other.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_one_cache_line() {
        assert_eq!(std::mem::size_of::<Tensor>(), 64);
        assert_eq!(std::mem::size_of::<Option<Tensor>>(), 64);
    }

    #[test]
    fn small_values_are_inline_and_large_ones_aligned() {
        assert!(Tensor::vector(&[1i32, 2, 3, 4]).is_inline());
        let t = Tensor::vector(&[1f32; 100]);
        assert!(!t.is_inline());
        assert_eq!(t.bytes().unwrap().as_ptr() as usize % ALIGN, 0);
    }

    #[test]
    fn reshapes_and_row_slices_share_the_buffer() {
        let v: Vec<f32> = (0..60).map(|x| x as f32).collect();
        let t = Tensor::from_slice([10, 6], &v).unwrap();
        let r = t.clone().reshape([5, 12]).unwrap();
        let s = r.slice_rows(1, 3).unwrap();
        assert!(s.shares_data_with(&t));
        assert_eq!(s.as_slice::<f32>().unwrap()[0], 12.0);
        assert!(t.clone().reshape([7]).is_err() && t.slice_rows(3, 11).is_err());
    }

    #[test]
    fn only_a_sole_owner_may_write() {
        let mut t = Tensor::vector(&[0i64; 9]);
        let other = t.clone();
        assert!(t.as_mut_slice::<i64>().is_none());
        drop(other);
        t.as_mut_slice::<i64>().unwrap()[3] = 7;
        assert_eq!(t.as_slice::<i64>().unwrap()[3], 7);
        assert!(t.as_slice::<f64>().is_err());
    }

    #[test]
    fn bad_bytes_are_refused() {
        assert!(Tensor::from_bytes(DType::Bool, [2], &[0, 2]).is_err());
        assert!(Tensor::from_bytes(DType::F32, [2], &[0; 7]).is_err());
        assert!(Tensor::from_bytes(DType::Str, [0], &[]).is_err());
        assert!(Tensor::zeros(DType::F64, Shape::new(&[usize::MAX, 8])).is_err());
    }
}
