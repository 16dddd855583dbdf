//! Replicas as threads, servers as actors, and a scheduler that chooses who goes on.

pub(crate) mod actors;
pub(crate) mod replica;
pub(crate) mod ring;
pub(crate) mod world;
