//! Actorflow: dataflow graphs that run as actors.
//!
//! This is the crate that programs use. It joins the layers below and adds what people write:
//!
//! - [`Graph`], [`Output`], [`Operation`], operators and methods on outputs: the programming model (from `core`)
//! - [`Session`], [`Callable`]: running parts of a graph, with state that stays
//! - [`gradients`]: symbolic differentiation
//! - [`ops`]: a typed function for every operation
//! - [`flow`]: conditionals and loops
//! - [`queue`]: elements that one part of a program leaves for another
//! - [`nn`], [`rnn`]: what networks are made of; cells and recurrent networks
//! - [`passes`]: rewriting what is run
//! - [`placement`]: which device each node runs on
//! - [`train`]: variables, initialisers, optimizers, clipping, learning-rate schedules, loops that go on after failures
//! - [`data`]: files of examples and pipelines of batches
//! - [`summary`]: TensorBoard's event files
//! - [`graphdef`]: TensorFlow's `GraphDef`
//! - [`checkpoint`]: saved tensors, in files of this engine and of TensorFlow
//! - [`saved_model`]: TensorFlow's SavedModel folders
//! - [`npy`]: NumPy's array files
//!
//! It may depend on `actorflow-core`, `-kernels`, `-actors` and `-transport`, which do not know it.

pub mod cluster;
pub mod data;
pub mod flow;
pub mod graphdef;
pub mod nn;
pub mod npy;
pub mod ops;
mod partition;
pub mod passes;
pub mod placement;
pub mod queue;
pub mod rnn;
pub mod saved_model;
pub mod session;
pub mod summary;
pub mod train;

pub use actorflow_actors::exec::{NodeTrace, StepFuture, Trace, panic_message};
pub use actorflow_core::cancel::CancelToken;
pub use actorflow_core::gradient::{Grad, GradientOptions, IndexedSlices, gradients, gradients_with};
pub use actorflow_core::graph::keys;
pub use actorflow_core::{
    AttrValue, Attrs, Code, DType, DeviceName, Element, Error, Graph, Operation, Output, PartialShape, Result, Shape,
    Tensor, dispatch, register_ops,
};
pub use actorflow_kernels::checkpoint;
pub use passes::Passes;
pub use saved_model::SavedModel;
pub use session::{Callable, Runner, Session, SessionOptions, TracedFuture};
pub use train::optimizer::Optimizer;
pub use train::saver::{Saver, SaverOptions, latest_checkpoint};
pub use train::variable::{GraphVariables, Variable};

/// What an operation of one's own is made of: its definition, what its kernel sees, its gradient.
pub mod op {
    pub use actorflow_core::actor::{Actor, Claims};
    pub use actorflow_core::files::{Access, FilePolicy};
    pub use actorflow_core::gradient::GradContext;
    pub use actorflow_core::graph::ShapeContext;
    pub use actorflow_core::kernel::{Continuation, Cost, Kernel, KernelInit, OpContext};
    pub use actorflow_core::op::{ArgDef, ArgType, AttrDef, AttrKind, Category, Gradient, OpDef, Registry, registry};
    pub use actorflow_core::resource::{Resource, ResourceHandle, ResourceManager, Variable};
}

#[doc(hidden)]
pub use actorflow_core::{half, inventory, num_complex};

/// The programs of README.md are compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So are those of the guides.
#[cfg(doctest)]
#[doc = include_str!("../../docs/control-flow.md")]
struct ControlFlow;

#[cfg(doctest)]
#[doc = include_str!("../../docs/queues.md")]
struct Queues;

#[cfg(doctest)]
#[doc = include_str!("../../docs/parallel.md")]
struct Parallel;

#[cfg(doctest)]
#[doc = include_str!("../../docs/ops.md")]
struct Operations;

#[cfg(doctest)]
#[doc = include_str!("../../docs/checkpoints.md")]
struct Checkpoints;

#[cfg(doctest)]
#[doc = include_str!("../../docs/placement.md")]
struct Placement;

#[cfg(doctest)]
#[doc = include_str!("../../docs/training.md")]
struct Training;

#[cfg(doctest)]
#[doc = include_str!("../../docs/cluster.md")]
struct Cluster;
