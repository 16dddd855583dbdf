//! TensorFlow's file formats: graphs, tensors, saved models, checkpoint indices and event files.
//!
//! - [`proto`]: the messages, generated from `engine/proto/*.proto` and checked in.
//! - [`decode`]: from bytes to messages within limits, for files that nobody vouches for.
//! - [`tensor_proto`]: tensors between their protobuf form and plain bytes.

#![forbid(unsafe_code)]

pub mod decode;
pub mod proto;
pub mod tensor_proto;
