//! Numbers that follow from a seed.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Sebastiano Vigna's SplitMix64: small, and every seed is good.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    /// What is given out before, from the end.
    script: Vec<u8>,
}

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Random {
        Random {
            state: seed,
            script: Vec::new(),
        }
    }

    /// Two bytes of `script` for each number, as long as there are any, so that who changes a byte changes one number; those of
    /// a seed after that.
    pub fn of_bytes(script: &[u8]) -> Random {
        Random {
            state: script.len() as u64,
            script: script.iter().rev().copied().collect(),
        }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        if let Some(low) = self.script.pop() {
            return u64::from(u16::from_le_bytes([low, self.script.pop().unwrap_or(0)]));
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number().checked_rem(limit).unwrap_or(0)
    }

    /// True so many times out of a million.
    pub fn happens(&mut self, of_a_million: u32) -> bool {
        of_a_million > 0 && self.below(1_000_000) < u64::from(of_a_million)
    }

    /// A duration between two.
    pub fn between(&mut self, quick: Duration, slow: Duration) -> Duration {
        let range = u64::try_from(slow.saturating_sub(quick).as_nanos()).unwrap_or(u64::MAX - 1);
        quick.saturating_add(Duration::from_nanos(self.below(range.saturating_add(1))))
    }
}
