//! Building blocks of neural networks: activations, biases, losses, selections.

pub mod bias;
pub mod cross_entropy;
pub mod exponential_units;
pub mod l2_loss;
mod map;
pub mod rectifiers;
mod rows;
pub mod softmax;
