//! TensorFlow's file formats: graphs, tensors, saved models, checkpoint indices and event files.
//!
//! - [`import_graph`], [`export_graph`]: between a `GraphDef` and a [`Graph`](actorflow_core::Graph).
//! - [`attrs`]: attributes and tensors between their messages and the engine's values.
//! - [`proto`]: the messages, generated from `engine/proto/*.proto` and checked in.
//! - [`decode`]: from bytes to messages within limits, for files that nobody vouches for.
//! - [`tensor_proto`]: tensors between their protobuf form and plain bytes.

#![forbid(unsafe_code)]

pub mod attrs;
pub mod decode;
mod export;
mod functions;
mod import;
mod order;
pub mod proto;
pub mod tensor_proto;

pub use export::{MIN_CONSUMER, PRODUCER, encoded_len, export_graph, graph_to_def};
pub use import::{ImportOptions, ImportedGraph, Unsupported, import_graph, import_into, import_with, unsupported};
