//! Input: files of examples, and pipelines that turn them into batches.
//!
//! - [`records`]: TensorFlow's files of records

pub mod records;
