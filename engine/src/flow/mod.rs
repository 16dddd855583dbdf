//! Writing conditionals and loops.
//!
//! ```
//! use actorflow::{Graph, Session, flow};
//!
//! # fn main() -> actorflow::Result<()> {
//! let g = Graph::new();
//! let (zero, one) = (g.constant(0i32)?, g.constant(1.0f32)?);
//! let rate = g.constant(1.5f32)?;
//! // Multiply until the product exceeds 10; `rate` is captured.
//! let out = flow::while_loop(
//!     &[zero, one],
//!     |v| v[1].less(&v[1].scalar_like(10.0)?),
//!     |v| Ok(vec![(&v[0] + 1)?, (&v[1] * &rate)?]),
//!     flow::WhileOptions::default(),
//! )?;
//! let got = Session::new(&g)?.run(&[], &[&out[0]])?;
//! assert_eq!(got[0].to_scalar::<i32>()?, 6);
//! # Ok(())
//! # }
//! ```
//!
//! The functions that are given here are called once, when the graph is built; the nodes that they add become the
//! branch or the body. Tensors from outside that they use are passed in by themselves, and nodes without inputs are
//! bound to the branch or iteration. Everything nests, and can be differentiated.
//!
//! - [`cond`], [`case`], [`switch_case`], [`cond_run`]: one of several branches
//! - [`while_loop`]: a loop over a tuple of tensors
//! - [`map_fn`], [`scan`], [`foldl`], [`foldr`]: loops over the rows of tensors
//! - [`TensorArray`]: tensors that a loop writes and reads one by one

mod branch;
mod choose;
mod elements;
mod iterate;
mod tensor_array;

pub use choose::{Branch, case, cond, cond_run, switch_case};
pub use elements::{ElementOptions, foldl, foldr, map_fn, scan};
pub use iterate::{WhileOptions, while_loop};
pub use tensor_array::{TensorArray, TensorArrayOptions};
