//! Recurrent networks: cells, and ways to run them over sequences.
//!
//! ```
//! use actorflow::rnn::{Gru, RnnOptions, dynamic_rnn};
//! use actorflow::{DType, Graph, GraphVariables, Session, Tensor};
//!
//! # fn main() -> actorflow::Result<()> {
//! let g = Graph::new();
//! // Four features in each step; how many sequences there are, and how long, is known when the graph runs.
//! let x = g.placeholder("x", DType::F32, [None, None, Some(4)])?;
//! let cell = Gru::new(&g, "gru", 4, 8)?;
//! let (outputs, state) = dynamic_rnn(&cell, &x, RnnOptions::default())?;
//! let session = Session::new(&g)?;
//! session.execute(&[&g.global_variables_initializer()?])?;
//! let batch = Tensor::zeros(DType::F32, [2, 5, 4])?;
//! let got = session.run(&[(&x, batch)], &[&outputs, &state[0]])?;
//! assert_eq!(got[0].shape().dims(), [2, 5, 8]);
//! assert_eq!(got[1].shape().dims(), [2, 8]);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Cell`] maps the input of one step and a state, a list of matrices `[batch, units]`, to an output and the next
//! state. Equations, gate order and defaults are those of TensorFlow 1's `tf.nn.rnn_cell`, so that weights can be
//! carried over.
//!
//! - [`BasicRnn`], [`Gru`], [`Lstm`]: cells
//! - [`Stacked`], [`Dropout`], [`Residual`]: cells made of cells
//! - [`dynamic_rnn`], [`bidirectional_dynamic_rnn`]: over tensors whose length is known at run time, by a loop
//! - [`static_rnn`]: over a list of tensors, written out

mod cells;
mod lstm;
mod over;
mod wrap;

pub use cells::{BasicRnn, Cell, Gru};
pub use lstm::{Lstm, LstmOptions, Peepholes};
pub use over::{Bidirectional, RnnOptions, bidirectional_dynamic_rnn, dynamic_rnn, static_rnn};
pub use wrap::{Dropout, Residual, Stacked};

#[cfg(test)]
mod expected;
#[cfg(test)]
mod tests;
