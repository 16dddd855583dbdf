//! Operations and their CPU kernels: what a node computes.
//!
//! - [`ops`]: one file for each operation (or tight family), with its definition, shape function, gradient, kernel
//!   and tests; registering it there is all it takes
//! - [`elementwise`]: broadcasting, half precision and the kernels that all element-wise operations share
//! - [`math`]: functions of one or two elements, and the loops that apply them to slices with SIMD
//! - [`linalg`]: factorisations, eigenvalues and singular values of small matrices
//! - [`wide`], [`spread`]: the same for loops of other forms, and splitting an output over the workers
//! - [`gemm`]: dense matrix products, alone and in batches
//! - [`reduction`]: sums, extremes and other folds along dimensions, at memory speed
//! - [`moves`]: moving elements by size, for everything that reshapes, joins, cuts and looks up
//! - [`checkpoint`]: tensors by name in files, for the operations that save and restore
//! - `files`: local files, where the task lets graphs touch them
//! - [`shapes`]: shape functions that many operations share
//! - [`testing`]: running small graphs without a runtime, and the gradient check, for tests
//!
//! The crate depends on `actorflow-core` only: kernels see the actor runtime through core's traits.

pub mod checkpoint;
pub mod elementwise;
mod files;
pub mod gemm;
pub mod linalg;
pub mod math;
pub mod moves;
pub mod ops;
mod protobuf;
pub mod reduction;
pub mod shapes;
pub mod spread;
pub mod testing;
pub mod wide;

/// Makes sure that the operations of this crate are linked in, and says how many the registry has.
pub fn link() -> usize {
    actorflow_core::op::registry().len()
}
