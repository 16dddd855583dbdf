//! Summaries: values with names as TensorFlow's `Summary` messages, which event files hold.
//!
//! - `wire`: writing the messages
//! - `histogram`: values counted in TensorFlow's buckets
//! - the other files define the operations

mod histogram;
pub mod media;
pub mod numbers;
mod wire;
