//! Random numbers for the order of examples.

use actorflow_core::philox::Philox;
use actorflow_core::{Error, Result};

/// Random numbers that depend on a seed and an epoch alone.
pub(super) struct Draws {
    stream: Philox,
    block: [u32; 4],
    used: usize,
}

impl Draws {
    pub(super) fn new(seed: u64, epoch: u64) -> Draws {
        Draws {
            stream: Philox::new(seed, epoch),
            block: [0; 4],
            used: 4,
        }
    }

    fn next(&mut self) -> u64 {
        if self.used == self.block.len() {
            self.block = self.stream.next_block();
            self.used = 0;
        }
        let [low, high] = [self.block[self.used], self.block[self.used + 1]];
        self.used += 2;
        u64::from(high) << 32 | u64::from(low)
    }

    /// A number below `n`; zero if that is zero.
    pub(super) fn below(&mut self, n: usize) -> usize {
        // The upper half of the product; its bias is n / 2^64.
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// The numbers below `n` in random order.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is no memory for so many.
    pub(super) fn permutation(&mut self, n: u64) -> Result<Vec<u64>> {
        let mut all: Vec<u64> = Vec::new();
        let room = usize::try_from(n).ok().and_then(|n| all.try_reserve_exact(n).ok());
        room.ok_or_else(|| Error::exhausted(format!("no memory for the order of {n} examples")))?;
        all.extend(0..n);
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
        Ok(all)
    }
}
