//! Quantised arithmetic: integers that stand for the real numbers of a range given beside them.
//!
//! Every operation takes and gives, with each quantised tensor, the least and the greatest real number that its integers
//! stand for. What the integers mean is in `range`; results are TensorFlow's to the last bit, because programs compare
//! and store them.
//!
//! - `quantize`: from real numbers and back
//! - `requantize`: to another range or a narrower type
//! - `product`: matrix products and convolutions
//! - `sum`: sums, products and biases, element by element
//! - `activation`: rectifiers
//! - `layout`: reshaping and joining
//! - `norm`: normalisation
//! - `resize`: images of another size
//! - `uniform`: integers with scales and zero points given beside them, in place of the ends of ranges
//!
//! Pools are with the other pools, [`crate::ops::nn::pool::quantized`].

pub mod activation;
pub mod layout;
pub mod norm;
pub mod product;
pub mod quantize;
pub(crate) mod range;
pub mod requantize;
pub mod resize;
pub mod sum;
pub mod uniform;
