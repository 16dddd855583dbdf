//! Conversions between tensors and Rust's own values, vectors and `ndarray` arrays.

use bytes::Bytes;
use ndarray::{ArrayBase, ArrayD, ArrayViewD, Data as NdData, Dimension, IxDyn};

use super::Tensor;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::shape::Shape;

impl Tensor {
    /// The elements as a vector.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the tensor has another dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        Ok(self.as_slice::<T>()?.to_vec())
    }

    /// A copy of an `ndarray` array of any layout.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is no memory for it.
    pub fn from_ndarray<T: Element, S: NdData<Elem = T>, D: Dimension>(a: &ArrayBase<S, D>) -> Result<Tensor> {
        let shape = Shape::new(a.shape());
        match a.as_slice() {
            Some(s) => Tensor::from_slice(shape, s),
            None => Tensor::from_slice(shape, &a.iter().copied().collect::<Vec<T>>()),
        }
    }

    /// A view as an `ndarray` array; nothing is copied.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the tensor has another dtype.
    pub fn view<T: Element>(&self) -> Result<ArrayViewD<'_, T>> {
        ArrayViewD::from_shape(IxDyn(self.shape().dims()), self.as_slice::<T>()?)
            .map_err(|e| Error::invalid(e.to_string()))
    }

    /// An owned `ndarray` array of the elements.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the tensor has another dtype.
    pub fn to_ndarray<T: Element>(&self) -> Result<ArrayD<T>> {
        Ok(self.view::<T>()?.to_owned())
    }
}

impl<T: Element> From<T> for Tensor {
    fn from(x: T) -> Self {
        Tensor::scalar(x)
    }
}

impl<T: Element> From<&[T]> for Tensor {
    fn from(x: &[T]) -> Self {
        Tensor::vector(x)
    }
}

impl<T: Element> From<Vec<T>> for Tensor {
    fn from(x: Vec<T>) -> Self {
        Tensor::vector(&x)
    }
}

impl<T: Element, const N: usize> From<[T; N]> for Tensor {
    fn from(x: [T; N]) -> Self {
        Tensor::vector(&x)
    }
}

impl<T: Element, const N: usize, const M: usize> From<[[T; M]; N]> for Tensor {
    fn from(x: [[T; M]; N]) -> Self {
        Tensor::from_slice([N, M], x.as_flattened()).unwrap_or_else(|_| Tensor::vector::<T>(&[]))
    }
}

impl From<&str> for Tensor {
    fn from(x: &str) -> Self {
        Tensor::string(Bytes::copy_from_slice(x.as_bytes()))
    }
}

impl From<String> for Tensor {
    fn from(x: String) -> Self {
        Tensor::string(x)
    }
}

impl From<&Tensor> for Tensor {
    fn from(x: &Tensor) -> Self {
        x.clone()
    }
}

impl<T: Element> TryFrom<ArrayD<T>> for Tensor {
    type Error = Error;
    fn try_from(a: ArrayD<T>) -> Result<Tensor> {
        Tensor::from_ndarray(&a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn ndarray_round_trip_of_any_layout() {
        let a = array![[1f32, 2., 3.], [4., 5., 6.]];
        let t = Tensor::from_ndarray(&a.t()).unwrap();
        assert_eq!(t.shape().dims(), [3, 2]);
        assert_eq!(t.to_vec::<f32>().unwrap(), [1., 4., 2., 5., 3., 6.]);
        assert_eq!(t.view::<f32>().unwrap(), a.t().into_dyn());
    }

    #[test]
    fn values_convert() {
        assert_eq!(Tensor::from(2.5f64).to_scalar::<f64>().unwrap(), 2.5);
        assert_eq!(Tensor::from([[1, 2], [3, 4i32]]).shape().dims(), [2, 2]);
        assert_eq!(Tensor::from("hi").as_strings().unwrap()[0], "hi");
        assert_eq!(Tensor::from(vec![true, false]).to_vec::<bool>().unwrap(), [true, false]);
    }
}
