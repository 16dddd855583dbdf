//! What queues and other resources promise, under schedules that a model checker (shuttle) chooses: the operations and their
//! actors are those of the engine; those who use them are threads, and who goes on at each turn of an actor is up to the
//! checker. That a turn excludes others is shown by `actors/tests/loom_turn.rs`.
//!
//! In every model nothing is lost and nothing is there twice, and whoever waits is woken: the checker fails if all threads
//! wait.
//!
//! `ACTORFLOW_SCHEDULES=20000 cargo test --release -p actorflow-kernels --test resource_schedules` tries more schedules.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod resources;
mod scheduled;
