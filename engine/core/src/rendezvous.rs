//! Where tensors that cross devices and tasks meet.

use crate::error::{Error, Result};
use crate::kernel::Continuation;
use crate::tensor::Tensor;

/// What arrives at a receiver: a tensor, or `None` for a dead one.
pub type Arrival = Option<Tensor>;

/// Names one value of a step: which edge it crosses and, in a loop, in which iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeKey {
    /// The number that the edge was given when the plan was partitioned; unique in the plan.
    pub edge: u32,
    /// The loop iterations around it, as [`iteration_tag`] folds them; [`NO_ITERATION`] outside of loops.
    pub tag: u64,
}

/// The tag of what is outside of any loop.
pub const NO_ITERATION: u64 = 0;

/// The tag of iteration `number` of the loop whose name has the hash `frame`, inside of what has the tag `outer`.
/// Every process folds the same iteration to the same tag, whatever its plan looks like.
pub fn iteration_tag(outer: u64, frame: u64, number: u64) -> u64 {
    // The finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection with full avalanche.
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    // 0 is kept for what is outside of loops.
    mix(mix(mix(outer) ^ frame) ^ number).max(1)
}

/// The hash of a loop's name that [`iteration_tag`] takes (FNV-1a, 64 bits).
pub fn frame_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Makes the continuation of the node that sends or receives; calling it suspends the node.
pub type Park<'a> = &'a mut dyn FnMut() -> Result<Continuation>;

/// A table in which a `Send` and a `Recv` of the same key meet, whichever comes first. One for each step.
pub trait Rendezvous: Send + Sync {
    /// Delivers a value. Where it cannot leave at once (the receiver has given no credit) the node is parked, and its
    /// continuation finishes with no outputs when the value has been taken; a worker never blocks here.
    ///
    /// # Errors
    /// The abort's reason after [`abort`](Self::abort); `INTERNAL` if the key was delivered before or is unknown.
    fn send(&self, key: EdgeKey, value: Arrival, park: Park<'_>) -> Result<()>;

    /// The value of a key, if it is there. If not the node is parked, and its continuation finishes with the value,
    /// or with the abort's reason.
    ///
    /// # Errors
    /// The abort's reason after [`abort`](Self::abort); `INTERNAL` if somebody waits for the key already.
    fn recv(&self, key: EdgeKey, park: Park<'_>) -> Result<Option<Arrival>>;

    /// Wakes everyone who waits, with `reason`, and makes every later call fail with it.
    fn abort(&self, reason: Error);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn iterations_have_tags_of_their_own() {
        let (a, b) = (frame_hash("while/a"), frame_hash("while/b"));
        let mut seen = HashSet::from([NO_ITERATION]);
        for i in 0..100 {
            let outer = iteration_tag(NO_ITERATION, a, i);
            assert!(seen.insert(outer));
            assert!(seen.insert(iteration_tag(NO_ITERATION, b, i)));
            for j in 0..100 {
                assert!(seen.insert(iteration_tag(outer, b, j)));
            }
        }
    }
}
