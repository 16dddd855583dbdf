//! The actor runtime of Actorflow: who computes a node, and when.
//!
//! Everything that runs is an actor: it has behaviour, a mailbox, and runs only when a message arrives. Each kind
//! is as heavy as it needs to be:
//!
//! * **node actors**, one per graph node per step: a slice of input slots and one [`pending`] word, run by [`exec`];
//! * **resource actors** (variables, queues …): state whose [`turn`] a kernel holds, or behind a [`mailbox`], with requests that cannot be served yet
//!   [`parked`] as continuations, never as blocked threads;
//! * the **CPU device actor**: a [`pool`] of workers with exactly as many seats as threads, for whole nodes and for
//!   the insides of kernels;
//! * **control actors** (actix, named in [`control`] only) for what is rare and long-lived, such as the registry of
//!   steps with deadlines.
//!
//! The lock-free parts are written against [`sync`], so that their models (the `loom_*` tests) check the code that
//! ships. This crate depends on `actorflow-core` alone; it knows nothing of kernels, sessions or transports.

#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod device;
#[cfg(not(loom))]
pub mod exec;
pub mod mailbox;
pub mod parked;
pub mod pending;
#[cfg(not(loom))]
pub mod pool;
pub mod region;
pub mod sync;
pub mod turn;
