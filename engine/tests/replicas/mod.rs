//! Devices and options for replicas of one process.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::time::Duration;

use actorflow::train::parallel::{ReplicaOptions, Strategy};
use actorflow::{Graph, Session, SessionOptions};

/// A session of so many devices, for others to be siblings of.
pub(crate) fn devices(n: usize) -> Session {
    let options = SessionOptions {
        devices: n,
        ..SessionOptions::with_threads(2)
    };
    Session::with_options(&Graph::new(), options).unwrap()
}

/// Parameter servers on the first devices, each replica on one of its own behind them.
pub(crate) fn options(strategy: Strategy, replica: usize, replicas: usize, ps: usize) -> ReplicaOptions {
    let mut o = ReplicaOptions::new(strategy, replica, replicas);
    o.ps = (0..ps).map(|i| format!("/cpu:{i}")).collect();
    o.worker = format!("/cpu:{}", ps + replica);
    o.workers = (0..replicas).map(|i| format!("/cpu:{}", ps + i)).collect();
    o.deadline = Duration::from_secs(30);
    o
}
