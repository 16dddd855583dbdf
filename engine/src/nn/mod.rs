//! Pieces of neural networks, as functions that add nodes. Names and meanings are those of TensorFlow's `tf.nn`.
//!
//! - [`conv2d`], [`max_pool`], [`avg_pool`]: convolutions and pooling of images
//! - [`moments`], [`batch_normalization`], [`l2_normalize`], [`dropout`]: normalisation and regularisation
//! - [`sigmoid_cross_entropy`], [`softmax_cross_entropy`], [`sparse_softmax_cross_entropy`]: losses
//! - [`sampled_softmax_loss`], [`nce_loss`]: losses over very many classes
//! - [`embedding_lookup`], [`embedding_lookup_sparse`]: rows of tables, whole or in parts
//!
//! Recurrent networks are in [`rnn`](crate::rnn).

mod embedding;
mod image;
mod loss;
mod normal;
mod sampled;

pub use embedding::{Combiner, PartitionStrategy, embedding_lookup, embedding_lookup_sparse};
pub use image::{Padding, avg_pool, conv2d, max_pool};
pub use loss::{sigmoid_cross_entropy, softmax_cross_entropy, sparse_softmax_cross_entropy};
pub use normal::{batch_normalization, dropout, l2_normalize, moments};
pub use sampled::{Candidates, Classes, nce_loss, sampled_softmax_loss};

#[cfg(test)]
mod expected;
#[cfg(test)]
mod tests;
