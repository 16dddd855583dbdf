//! How a kernel spreads its own work over the workers of the device that runs it.

/// The intra-op parallelism of a device: one pool of workers, shared by every kernel that the device runs, so
/// that nothing is ever oversubscribed.
///
/// Implemented by the CPU device actor; [`Serial`] runs everything on the calling thread.
pub trait Parallel: Send + Sync {
    /// How many threads can work at once, the caller included; at least 1.
    fn threads(&self) -> usize;

    /// Calls `body(i)` once for every `i` in `0..chunks`, in any order and on any of the device's workers, and
    /// returns when all calls have returned. The caller takes part. A panic of any call is re-raised here.
    ///
    /// Which thread runs which chunk is not determined, so results must not depend on it.
    fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync));
}

/// [`Parallel`] without parallelism: every chunk runs in order on the caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        for i in 0..chunks {
            body(i);
        }
    }
}
