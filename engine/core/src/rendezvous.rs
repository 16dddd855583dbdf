//! Where tensors that cross devices and tasks meet.

use crate::error::Result;
use crate::tensor::Tensor;

/// What arrives under a key: a tensor, or `None` for a dead one.
pub type Arrival = Option<Tensor>;

/// A table in which a `Send` and a `Recv` of the same key meet, whichever comes first.
pub trait Rendezvous: Send + Sync {
    /// Delivers a value under `key`.
    ///
    /// # Errors
    /// `ABORTED` or the abort's reason after [`abort`](Self::abort); `INTERNAL` if the key was delivered before.
    fn send(&self, key: &str, value: Arrival) -> Result<()>;

    /// Calls `then` with the value of `key`: at once if it is there, else on the thread that sends it, or with the
    /// abort's reason.
    fn recv(&self, key: &str, then: Box<dyn FnOnce(Result<Arrival>) + Send>);

    /// Wakes everyone who waits, with `reason`, and makes every later call fail with it.
    fn abort(&self, reason: crate::error::Error);
}
