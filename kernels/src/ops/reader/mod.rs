//! Readers: they take names of files from a queue and give their records one by one.
//!
//! - `source`: one file, cut into records
//! - `state`: a reader's progress, its requests and its state as bytes
//! - `ops`: the operations

pub mod ops;
pub mod source;
pub mod state;
