//! The CPU device actor: its workers, its memory and its budget.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::kernel::Device;
use actorflow_core::parallel::Parallel;
use actorflow_core::tensor::Pool;

use crate::pool::{PoolOptions, WorkerPool};

/// A CPU device: a pool of workers and an allocator with a byte budget.
pub struct CpuDevice {
    name: String,
    workers: Arc<WorkerPool>,
    memory: Arc<Pool>,
}

impl CpuDevice {
    /// A device of that full name with these workers, whose tensors together may not exceed `budget` bytes.
    pub fn new(name: impl Into<String>, workers: PoolOptions, budget: usize) -> Self {
        // Freed blocks are kept without a limit of their own: the budget bounds what was ever in use at once.
        CpuDevice {
            name: name.into(),
            workers: Arc::new(WorkerPool::new(workers)),
            memory: Pool::new(budget, usize::MAX),
        }
    }

    /// A device whose workers are those of another device of the process: several devices of one processor share its
    /// cores, so they share the threads, and each has memory of its own.
    pub fn sharing(name: impl Into<String>, workers: &Arc<WorkerPool>, budget: usize) -> Self {
        CpuDevice {
            name: name.into(),
            workers: workers.clone(),
            memory: Pool::new(budget, usize::MAX),
        }
    }

    /// The workers.
    pub fn workers(&self) -> &Arc<WorkerPool> {
        &self.workers
    }
}

impl Device for CpuDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn parallel(&self) -> &dyn Parallel {
        &*self.workers
    }

    fn pool(&self) -> &Arc<Pool> {
        &self.memory
    }
}
