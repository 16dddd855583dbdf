//! Random numbers.
//!
//! All come from Philox streams, in which every number has a place of its own; so a tensor is filled by any number of
//! workers with the same result, and equal seeds give TensorFlow's numbers. A stateful operation keeps the position in
//! its stream in the session ([`stream`]); a stateless one is told it by its inputs ([`stateless`]).

pub mod binomial;
pub mod blocks;
pub mod candidates;
pub mod fill;
pub mod gamma;
pub mod index_shuffle;
pub mod multinomial;
pub mod parameterized;
pub mod parameterized_stateless;
pub mod poisson;
pub mod shuffle;
pub mod sobol;
pub mod stateful;
pub mod stateless;
pub mod stateless_gamma;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod uniform;
