//! Queues and other resources at which nodes wait for each other.
//!
//! Each is an actor; [`room`] keeps the requests that cannot be served yet, as continuations of their nodes.

pub mod batch;
pub mod handle;
pub mod ops;
pub mod room;
pub mod state;
pub mod store;
#[cfg(test)]
mod tests;
