//! Building blocks of neural networks: activations, biases, losses, selections.

pub mod bias;
pub mod conv;
pub mod cross_entropy;
pub mod ctc;
pub mod data_format;
pub mod exponential_units;
pub mod in_top_k;
pub mod isotonic;
pub mod l2_loss;
mod map;
pub mod norm;
pub mod nth_element;
pub mod pool;
pub mod rectifiers;
pub mod recurrent;
mod rows;
pub mod softmax;
pub mod top_k;
pub(crate) mod window;
