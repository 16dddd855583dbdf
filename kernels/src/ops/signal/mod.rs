//! Spectral transforms.
#![forbid(unsafe_code)]

pub mod complex;
pub mod lines;
pub mod real;
