//! The operations, by family.

pub mod agreement;
pub mod array;
pub mod audio;
mod compose;
pub mod flow;
pub mod image;
pub mod io;
pub mod list;
pub mod math;
pub mod matrix;
pub mod nn;
pub mod parse;
pub mod quantized;
pub mod queue;
pub mod ragged;
pub mod random;
pub mod reader;
pub mod reduce;
pub mod signal;
pub mod sparse;
pub mod state;
pub mod string;
pub mod summary;
pub mod training;
