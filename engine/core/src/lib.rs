//! The vocabulary of Actorflow: what every other crate of the engine speaks, and nothing that runs.
//!
//! Layers, each using only those above it:
//!
//! - [`error`], [`dtype`], [`shape`]: codes, element types, full and partial shapes
//! - [`tensor`]: values, their buffers and the pool these come from
//! - [`cancel`], [`parallel`], [`philox`]: cancellation, intra-op parallelism, random numbers
//! - [`files`]: which files graphs may touch
//! - [`actor`], [`resource`], [`rendezvous`]: resource actors and their mailboxes, variables, where tensors meet
//! - [`device_name`]: names of devices and tasks, whole or in part
//! - [`attr`], [`kernel`], [`op`]: attributes, what a node computes, operation definitions and their registry
//! - [`graph`]: nodes, edges, scopes, shape inference when a node is added
//! - [`gradient`]: the backward walk that adds the nodes of derivatives
//!
//! The crate depends on no other crate of the workspace. It has no threads, no clock, no sockets, no CUDA: the
//! actor runtime, the kernels and the transport meet through its traits ([`kernel::Kernel`], [`actor::Mailbox`],
//! [`parallel::Parallel`], [`kernel::Device`], [`rendezvous::Rendezvous`], [`resource::Resource`]).

pub mod actor;
pub mod attr;
pub mod cancel;
pub mod device_name;
pub mod dtype;
pub mod error;
pub mod files;
pub mod gradient;
pub mod graph;
pub mod kernel;
pub mod op;
pub mod parallel;
pub mod philox;
pub mod rendezvous;
pub mod resource;
pub mod shape;
pub mod tensor;

#[doc(hidden)]
pub use {half, inventory, num_complex};

pub use attr::{AttrValue, Attrs};
pub use device_name::{DeviceName, TaskName};
pub use dtype::{DType, Element};
pub use error::{Code, Error, Result};
pub use graph::{Graph, Operation, Output};
pub use shape::{PartialShape, Shape};
pub use tensor::Tensor;
