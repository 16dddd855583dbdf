//! A typed function for every operation.
//!
//! [`Graph::op`](crate::Graph::op) builds any operation by name and checks it when the node is added. The functions here are
//! the same operations with names and types that the compiler checks: required inputs and attributes are parameters, each
//! optional attribute is a method of what the function returns, and that adds the node at last.
//!
//! ```
//! use actorflow::{Graph, Result, Session, Tensor, ops};
//!
//! fn main() -> Result<()> {
//!     let g = Graph::new();
//!     let a = g.constant([[1f32, 2.0], [3.0, 4.0]])?;
//!     let product = ops::mat_mul(&a, &a).transpose_a(true).name("gram").output()?;
//!     let axis = g.constant(1i32)?;
//!     let columns = ops::split(&axis, &product, 2).outputs()?;
//!     let values = Session::new(&g)?.run(&[], &[&product, &columns[1]])?;
//!     assert_eq!(values[0], Tensor::from([[10f32, 14.0], [14.0, 20.0]]));
//!     assert_eq!(values[1], Tensor::from([[14f32], [20.0]]));
//!     assert_eq!(product.op().name(), "gram");
//!     Ok(())
//! }
//! ```
//!
//! # The rules
//!
//! - **Names** are those of TensorFlow's generated Python functions: `MatMul` is [`mat_mul`], `Conv2D` [`conv2d`], `FIFOQueueV2`
//!   [`fifo_queue_v2`]. Attributes follow the same rule: `DstT` is `dst_t`.
//! - **A name that is taken gets a trailing `_`**: Rust's reserved words (`Where` is [`where_`], an input `ref` is `ref_`), a
//!   parameter that is called as an earlier one, an optional attribute that is called as a method of [`Builder`].
//! - **Parameters** are, in this order: the graph where no input says which one it is (operations without inputs, and those
//!   whose inputs are all lists that may be empty); the inputs in the order of the definition; the attributes that have no default.
//! - **Inputs** are `&Output`, or `&[Output]` for a list. Resources and references to variables are outputs like all others; a
//!   [`Variable`](crate::Variable) dereferences to its own.
//! - **Attributes that follow from the inputs** (dtypes such as `T`, lengths of lists such as `N`) are no parameters. One that follows
//!   from nothing if a list is empty is a method.
//! - **Attributes** are `i64`, `f32`, `bool`, `&str`, `DType`, what makes a `PartialShape` or a `Tensor`, and slices of these.
//!
//! The groups of operations are modules ([`math`], [`nn`], …), and all functions are here too. Operations whose names begin with an
//! underscore have no function: they are made by passes and by the partitioner. Operations that a program registers itself are built
//! by name.
//!
//! The modules are generated from the registry: `engine/cli/src/ops/builders` is the generator, and nothing in them is edited by hand.

mod builder;
#[rustfmt::skip]
#[allow(clippy::too_many_arguments, clippy::wrong_self_convention)]
mod generated;

pub use builder::Builder;
pub use generated::*;
