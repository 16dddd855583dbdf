//! How a session is set up.

use std::time::Duration;

use crate::passes::Passes;

/// How a [`Session`](super::Session) is set up.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// How many threads may compute at once, the callers of `run` included.
    pub threads: usize,
    /// Whether workers are bound to cores, one each. The default binds them if `threads` is every core that the
    /// process may use.
    pub pin: bool,
    /// The most bytes that tensors of the session may take together. Checked before each allocation.
    pub memory_budget: usize,
    /// The passes that rewrite what is run.
    pub passes: Passes,
    /// How many compiled plans are kept.
    pub plan_cache: usize,
    /// A run that waits for so long, while no other run of the session is active that could wake it, fails and
    /// says what it waits for.
    pub stall_timeout: Duration,
}

impl SessionOptions {
    /// The default options with so many threads.
    pub fn with_threads(threads: usize) -> Self {
        let pool = actorflow_actors::pool::PoolOptions::new(threads);
        SessionOptions {
            threads: pool.threads,
            pin: pool.pin,
            memory_budget: usize::MAX,
            passes: Passes::ALL,
            plan_cache: 64,
            stall_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions::with_threads(std::thread::available_parallelism().map_or(1, usize::from))
    }
}
