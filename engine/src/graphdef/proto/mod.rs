//! TensorFlow's protobuf messages, generated from `engine/proto/*.proto`.
//!
//! The names and field numbers are TensorFlow's, so its `.proto` files are the reference for what a field
//! means. Maps are `BTreeMap`s (the same message always encodes to the same bytes) and byte fields are
//! [`bytes::Bytes`] (a decoded message shares the buffer it was decoded from). `tensorflow.rs` is not
//! edited by hand: `tests/tests/protobuf_code.rs` says how to regenerate it and checks that it is current.

#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod tensorflow;

pub use tensorflow::*;
