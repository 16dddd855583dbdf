//! Queues and other resources at which nodes wait for each other, and lookup tables.
//!
//! Each is an actor; [`room`] keeps the requests that cannot be served yet, as continuations of their nodes.

pub mod accumulator;
pub mod accumulator_ops;
pub mod barrier;
pub mod batch;
pub mod handle;
pub mod map_staging;
pub mod mutex;
pub mod ops;
pub mod room;
pub mod staging;
pub mod state;
pub mod store;
pub mod table;
pub mod table_file;
pub mod table_ops;
#[cfg(test)]
mod tests;
