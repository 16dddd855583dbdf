//! Many Philox blocks at once, at the width of the processor.

#![forbid(unsafe_code)]

use actorflow_core::philox::Philox;

use crate::math::madd::Madd;
use crate::wide::{self, Work};

/// Blocks computed side by side.
const LANES: usize = 16;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Fills `out` with the stream's numbers from its present position; a rest shorter than a block takes a whole block.
pub fn fill(from: Philox, out: &mut [u32]) {
    wide::run(Fill { from, out });
}

struct Fill<'a> {
    from: Philox,
    out: &'a mut [u32],
}

impl Work for Fill<'_> {
    type Out = ();

    #[inline(always)]
    fn run<M: Madd>(self) {
        let Fill { mut from, out } = self;
        let mut groups = out.chunks_exact_mut(4 * LANES);
        for part in &mut groups {
            lanes(from, part);
            from.skip(LANES as u64);
        }
        for part in groups.into_remainder().chunks_mut(4) {
            let block = from.next_block();
            part.copy_from_slice(&block[..part.len()]);
        }
    }
}

/// `LANES` blocks, side by side.
#[inline(always)]
fn lanes(from: Philox, out: &mut [u32]) {
    let [c0, c1, c2, c3] = from.counter();
    let low = u64::from(c0) | u64::from(c1) << 32;
    let high = u64::from(c2) | u64::from(c3) << 32;
    let mut x = [[0u32; LANES]; 4];
    for i in 0..LANES {
        let l = low.wrapping_add(i as u64);
        let h = high.wrapping_add(u64::from(l < low));
        (x[0][i], x[1][i]) = (l as u32, (l >> 32) as u32);
        (x[2][i], x[3][i]) = (h as u32, (h >> 32) as u32);
    }
    let mut key = from.key();
    for _ in 0..10 {
        let [a, b, c, d] = x;
        for i in 0..LANES {
            let p0 = u64::from(MULTIPLIERS[0]) * u64::from(a[i]);
            let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[i]);
            x[0][i] = (p1 >> 32) as u32 ^ b[i] ^ key[0];
            x[1][i] = p1 as u32;
            x[2][i] = (p0 >> 32) as u32 ^ d[i] ^ key[1];
            x[3][i] = p0 as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    for (i, block) in out.chunks_exact_mut(4).take(LANES).enumerate() {
        block.copy_from_slice(&[x[0][i], x[1][i], x[2][i], x[3][i]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_blocks_are_the_blocks_one_by_one() {
        let starts = [
            Philox::new(1, 2),
            // The counter carries inside a group, into each of its words.
            Philox::from_raw([3, 4], [u32::MAX - 5, 0, 7, 8]),
            Philox::from_raw([3, 4], [u32::MAX - 5, u32::MAX, u32::MAX, 8]),
            Philox::from_raw([3, 4], [u32::MAX - 5, u32::MAX, u32::MAX, u32::MAX]),
        ];
        for start in starts {
            for n in [0, 1, 4, 63, 64, 65, 200] {
                let mut out = vec![0; n];
                fill(start, &mut out);
                let mut one = start;
                let want: Vec<u32> = (0..n.div_ceil(4)).flat_map(|_| one.next_block()).take(n).collect();
                assert_eq!(out, want);
            }
        }
    }
}
