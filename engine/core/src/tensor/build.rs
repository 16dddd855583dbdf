//! Making tensors.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Data, INLINE_BYTES, Pool, Tensor, Variant};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::resource::ResourceHandle;
use crate::shape::Shape;

fn host_pool() -> &'static Arc<Pool> {
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(usize::MAX, 64 << 20))
}

fn check_count(shape: &Shape, n: usize) -> Result<()> {
    let count = shape.checked_count()?;
    if count != n {
        return Err(Error::invalid(format!(
            "{n} values do not fill a tensor of shape {shape} ({count} elements)"
        )));
    }
    Ok(())
}

#[cold]
fn no_layout(dtype: DType) -> Error {
    Error::invalid(format!("a {dtype} tensor has no dense buffer"))
}

impl Tensor {
    /// A scalar.
    #[inline]
    pub fn scalar<T: Element>(value: T) -> Tensor {
        let mut cell = [0u64; 2];
        // SAFETY: every element type is plain data of at most 16 bytes, alignment at most 8.
        unsafe { (cell.as_mut_ptr() as *mut T).write(value) };
        Tensor {
            data: Data::Inline(cell),
            shape: Shape::SCALAR,
            dtype: T::DTYPE,
        }
    }

    /// A tensor of the given elements in row-major order.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the shape's element count is not the slice's length.
    pub fn from_slice<T: Element>(shape: impl Into<Shape>, values: &[T]) -> Result<Tensor> {
        let shape = shape.into();
        check_count(&shape, values.len())?;
        let mut t = Tensor::alloc_in(host_pool(), T::DTYPE, shape)?;
        if let Some(out) = t.as_mut_slice::<T>() {
            out.copy_from_slice(values);
        }
        Ok(t)
    }

    /// A vector of the given elements.
    pub fn vector<T: Element>(values: &[T]) -> Tensor {
        Tensor::from_slice([values.len()], values).unwrap_or_else(|_| Tensor::scalar(T::default()))
    }

    /// A tensor of bytes in the layout of `dtype`, native byte order.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the length does not fit, for a dtype without a dense layout, or a bool byte over 1.
    pub fn from_bytes(dtype: DType, shape: impl Into<Shape>, bytes: &[u8]) -> Result<Tensor> {
        let shape = shape.into();
        if !dtype.is_plain() {
            return Err(Error::invalid(format!("a {dtype} tensor cannot be made of raw bytes")));
        }
        let want = shape.checked_count()?.checked_mul(dtype.size());
        if want != Some(bytes.len()) {
            return Err(Error::invalid(format!(
                "{} bytes do not make a {dtype} tensor of shape {shape}",
                bytes.len()
            )));
        }
        if dtype == DType::Bool && bytes.iter().any(|b| *b > 1) {
            return Err(Error::invalid("a bool tensor has a byte that is neither 0 nor 1"));
        }
        let mut t = Tensor::alloc_in(host_pool(), dtype, shape)?;
        if let Some(out) = t.bytes_mut() {
            out.copy_from_slice(bytes);
        }
        Ok(t)
    }

    /// A tensor of strings.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the shape's element count is not the vector's length.
    pub fn strings<S: Into<Bytes>>(shape: impl Into<Shape>, values: Vec<S>) -> Result<Tensor> {
        let shape = shape.into();
        check_count(&shape, values.len())?;
        let items = Arc::new(values.into_iter().map(Into::into).collect());
        Ok(Tensor {
            data: Data::Strings { items, offset: 0 },
            shape,
            dtype: DType::Str,
        })
    }

    /// A scalar string.
    pub fn string(value: impl Into<Bytes>) -> Tensor {
        let items = Arc::new(vec![value.into()]);
        Tensor {
            data: Data::Strings { items, offset: 0 },
            shape: Shape::SCALAR,
            dtype: DType::Str,
        }
    }

    /// A scalar resource handle.
    pub fn resource(handle: ResourceHandle) -> Tensor {
        let items = Arc::new(vec![handle]);
        Tensor {
            data: Data::Handles { items, offset: 0 },
            shape: Shape::SCALAR,
            dtype: DType::Resource,
        }
    }

    /// A tensor of resource handles.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the shape's element count is not the vector's length.
    pub fn resources(shape: impl Into<Shape>, items: Vec<ResourceHandle>) -> Result<Tensor> {
        let shape = shape.into();
        check_count(&shape, items.len())?;
        Ok(Tensor {
            data: Data::Handles {
                items: Arc::new(items),
                offset: 0,
            },
            shape,
            dtype: DType::Resource,
        })
    }

    /// A tensor of variants.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the shape's element count is not the vector's length.
    pub fn variants(shape: impl Into<Shape>, items: Vec<Variant>) -> Result<Tensor> {
        let shape = shape.into();
        check_count(&shape, items.len())?;
        Ok(Tensor {
            data: Data::Variants {
                items: Arc::new(items),
                offset: 0,
            },
            shape,
            dtype: DType::Variant,
        })
    }

    /// A tensor of zeros, empty strings or false.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for resources and variants, which have no zero, and shapes that overflow.
    pub fn zeros(dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        match dtype {
            DType::Str => {
                let n = shape.checked_count()?;
                Tensor::strings(shape, vec![Bytes::new(); n])
            }
            DType::Resource | DType::Variant => Err(Error::invalid(format!("there is no zero of dtype {dtype}"))),
            _ => {
                let mut t = Tensor::alloc_in(host_pool(), dtype, shape)?;
                if let Some(b) = t.bytes_mut() {
                    b.fill(0);
                }
                Ok(t)
            }
        }
    }

    /// A tensor with every element `value`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the shape overflows.
    pub fn full<T: Element>(shape: impl Into<Shape>, value: T) -> Result<Tensor> {
        let mut t = Tensor::alloc_in(host_pool(), T::DTYPE, shape.into())?;
        if let Some(s) = t.as_mut_slice::<T>() {
            s.fill(value);
        }
        Ok(t)
    }

    /// A tensor of a plain dtype whose elements may have any value (bools are false); for kernels that write
    /// every element. Small ones are inline.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the element count overflows or the dtype has no dense layout; `RESOURCE_EXHAUSTED` if
    /// the bytes do not fit the address space or the pool's budget refuses them.
    #[inline]
    pub fn alloc_in(pool: &Arc<Pool>, dtype: DType, shape: Shape) -> Result<Tensor> {
        if !dtype.is_plain() {
            return Err(no_layout(dtype));
        }
        let count = if shape.is_scalar() { 1 } else { shape.checked_count()? };
        let bytes = count
            .checked_mul(dtype.size())
            .filter(|b| *b <= isize::MAX as usize / 2)
            .ok_or_else(|| {
                Error::exhausted(format!("a {dtype} tensor of shape {shape} overflows the address space"))
            })?;
        if bytes <= INLINE_BYTES {
            return Ok(Tensor {
                data: Data::Inline([0; 2]),
                shape,
                dtype,
            });
        }
        let mut buffer = pool.alloc(bytes)?;
        if dtype == DType::Bool {
            // A recycled block may hold bytes that are no valid bool.
            buffer.bytes_mut().fill(0);
        }
        Ok(Tensor {
            data: Data::Shared {
                buffer: Arc::new(buffer),
                offset: 0,
            },
            shape,
            dtype,
        })
    }

    /// A scalar zero of a plain dtype in `place`, and its first bytes, to be written.
    #[inline]
    pub(crate) fn zero_scalar_in(place: &mut Option<Tensor>, dtype: DType) -> Result<&mut [u8; INLINE_BYTES]> {
        if !dtype.is_plain() {
            return Err(no_layout(dtype));
        }
        let made = place.insert(Tensor {
            data: Data::Inline([0; 2]),
            shape: Shape::SCALAR,
            dtype,
        });
        match &mut made.data {
            // SAFETY: sixteen bytes of words are as many bytes, and any bytes are words.
            Data::Inline(cell) => Ok(unsafe { &mut *std::ptr::from_mut(cell).cast::<[u8; INLINE_BYTES]>() }),
            _ => Err(no_layout(dtype)),
        }
    }

    /// A scalar zero of a plain dtype, for kernels that write it at once.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the dtype has no dense layout.
    #[inline]
    pub fn zero_scalar(dtype: DType) -> Result<Tensor> {
        if !dtype.is_plain() {
            return Err(no_layout(dtype));
        }
        Ok(Tensor {
            data: Data::Inline([0; 2]),
            shape: Shape::SCALAR,
            dtype,
        })
    }
}
