//! Philox4x32-10, the counter-based random generator of all random ops.
//!
//! J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
//! Any element of the stream can be computed by itself, so a tensor can be filled by any number of threads with
//! the same result. Keys and counters are laid out as in TensorFlow, so equal seeds give equal numbers.

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// A position in a Philox stream: a 64-bit key and a 128-bit counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    counter: [u32; 4],
    key: [u32; 2],
}

impl Philox {
    /// The stream of TensorFlow's op-level generators: `seed` is the key, `seed2` the upper half of the counter.
    pub fn new(seed: u64, seed2: u64) -> Self {
        Philox {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [0, 0, seed2 as u32, (seed2 >> 32) as u32],
        }
    }

    /// A stream of the given raw key and counter.
    pub fn from_raw(key: [u32; 2], counter: [u32; 4]) -> Self {
        Philox { counter, key }
    }

    /// The raw key.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The raw counter.
    pub fn counter(&self) -> [u32; 4] {
        self.counter
    }

    /// Moves `n` blocks (of four numbers) ahead.
    pub fn skip(&mut self, n: u64) {
        let c = self.counter;
        let v = u128::from(c[0]) | u128::from(c[1]) << 32 | u128::from(c[2]) << 64 | u128::from(c[3]) << 96;
        let v = v.wrapping_add(u128::from(n));
        self.counter = [v as u32, (v >> 32) as u32, (v >> 64) as u32, (v >> 96) as u32];
    }

    /// The block at the present position.
    #[inline]
    pub fn block(&self) -> [u32; 4] {
        let mut c = self.counter;
        let mut k = self.key;
        for round in 0..10 {
            if round > 0 {
                k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
            }
            let p0 = u64::from(M0) * u64::from(c[0]);
            let p1 = u64::from(M1) * u64::from(c[2]);
            c = [
                (p1 >> 32) as u32 ^ c[1] ^ k[0],
                p1 as u32,
                (p0 >> 32) as u32 ^ c[3] ^ k[1],
                p0 as u32,
            ];
        }
        c
    }

    /// The block at the present position; moves one ahead.
    #[inline]
    pub fn next_block(&mut self) -> [u32; 4] {
        let b = self.block();
        self.skip(1);
        b
    }
}

/// A uniform `f32` in `[0, 1)` of the 23 lowest bits, as TensorFlow makes it.
#[inline]
pub fn uniform_f32(x: u32) -> f32 {
    f32::from_bits(0x3F80_0000 | (x & 0x007F_FFFF)) - 1.0
}

/// A uniform `f64` in `[0, 1)` of 52 bits of two words, as TensorFlow makes it.
#[inline]
pub fn uniform_f64(x0: u32, x1: u32) -> f64 {
    let mantissa = (u64::from(x0 & 0x000F_FFFF) << 32) | u64::from(x1);
    f64::from_bits(0x3FF0_0000_0000_0000 | mantissa) - 1.0
}

/// A uniform `f16` in `[0, 1)` of the 10 lowest bits, as TensorFlow makes it.
#[inline]
pub fn uniform_f16(x: u32) -> half::f16 {
    half::f16::from_f32(f32::from_bits(0x3F80_0000 | (x & 0x3FF) << 13) - 1.0)
}

/// A uniform `bf16` in `[0, 1)` of the 7 lowest bits, as TensorFlow makes it.
#[inline]
pub fn uniform_bf16(x: u32) -> half::bf16 {
    half::bf16::from_f32(f32::from_bits(0x3F80_0000 | (x & 0x7F) << 16) - 1.0)
}

/// Two standard normal `f32`s of two words by the Box–Muller transform, as TensorFlow makes them.
#[inline]
pub fn normal_f32(x0: u32, x1: u32) -> (f32, f32) {
    let u1 = uniform_f32(x0).max(1.0e-7);
    // TensorFlow multiplies by a double 2π and rounds the product.
    let v1 = (2.0 * std::f64::consts::PI * f64::from(uniform_f32(x1))) as f32;
    let u2 = (-2.0 * u1.ln()).sqrt();
    (v1.sin() * u2, v1.cos() * u2)
}

/// Two standard normal `f64`s of four words by the Box–Muller transform, as TensorFlow makes them.
#[inline]
pub fn normal_f64(x: [u32; 4]) -> (f64, f64) {
    let u1 = uniform_f64(x[0], x[1]).max(1.0e-7);
    let v1 = 2.0 * std::f64::consts::PI * uniform_f64(x[2], x[3]);
    let u2 = (-2.0 * u1.ln()).sqrt();
    (v1.sin() * u2, v1.cos() * u2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors that the authors of Random123 publish (kat_vectors, philox4x32 10).
    #[test]
    fn published_test_vectors() {
        let f = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([f; 4], [f; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(Philox::from_raw(key, counter).block(), want);
        }
    }

    #[test]
    fn skipping_equals_stepping() {
        let mut a = Philox::new(7, 9);
        let mut b = a;
        for _ in 0..1000 {
            a.next_block();
        }
        b.skip(1000);
        assert_eq!(a, b);
        let mut c = Philox::from_raw([0; 2], [u32::MAX, u32::MAX, 0, 0]);
        c.skip(1);
        assert_eq!(c, Philox::from_raw([0; 2], [0, 0, 1, 0]));
    }

    #[test]
    fn uniforms_stay_below_one() {
        assert!(uniform_f32(u32::MAX) < 1.0 && uniform_f32(0) == 0.0);
        assert!(uniform_f64(u32::MAX, u32::MAX) < 1.0);
        assert!(normal_f32(0, 0).1.is_finite());
    }
}
