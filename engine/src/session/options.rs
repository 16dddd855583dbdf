//! How a session is set up.

use std::sync::Arc;
use std::time::Duration;

use crate::passes::Passes;
use crate::placement::{CostModel, Free};

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
    /// says what it waits for. A run with a deadline of its own may wait until that, and an asynchronous one until it is
    /// cancelled: it is known to wait, so that it makes nobody else wait longer.
    pub stall_timeout: Duration,
    /// How many CPU devices the process has: `/device:CPU:0`, `/device:CPU:1` and so on. They share the threads; each has
    /// the memory budget to itself.
    pub devices: usize,
    /// Whether nodes whose constraints no device meets go to the nearest that there is, instead of failing.
    pub soft_placement: bool,
    /// Where nodes go that no constraint binds.
    pub free_nodes: Free,
    /// What nodes cost, for [`Free::CostModel`]; estimates from shapes alone if there is none. Traced runs over several
    /// devices add what they measure, on every device and task, so that sessions which are made with the same model later
    /// place by that. Nodes that a session has placed stay where they are.
    pub costs: Option<Arc<CostModel>>,
    /// Send single-precision tensors between processes as bfloat16: half the bytes, and 8 of 24 bits of the mantissa.
    /// [`lossy`](crate::placement::lossy) and [`lossless`](crate::placement::lossless) decide for single tensors.
    pub lossy_edges: bool,
    /// Of a cluster's tasks, those that the session uses: `/job:ps`, `/job:worker/task:0`. All, if there are none.
    pub device_filters: Vec<String>,
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
            devices: 1,
            soft_placement: false,
            free_nodes: Free::Default,
            costs: None,
            lossy_edges: false,
            device_filters: Vec::new(),
        }
    }
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions::with_threads(std::thread::available_parallelism().map_or(1, usize::from))
    }
}
