//! The hash functions whose values TensorFlow programs store: farmhash's Fingerprint64, the 64-bit Murmur hash and
//! SipHash-2-4.
#![forbid(unsafe_code)]

fn word64(s: &[u8], at: usize) -> u64 {
    s.get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn word32(s: &[u8], at: usize) -> u64 {
    s.get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, |b| u64::from(u32::from_le_bytes(b)))
}

const K0: u64 = 0xc3a5_c85c_97cb_3127;
const K1: u64 = 0xb492_b66f_be98_f273;
const K2: u64 = 0x9ae1_6a3b_2f90_404f;

/// A number with wrapping arithmetic, so that the formulas read as they are published.
type W = std::num::Wrapping<u64>;

const fn w(x: u64) -> W {
    std::num::Wrapping(x)
}

fn rotated(x: W, by: u32) -> W {
    w(x.0.rotate_right(by))
}

fn mixed(x: W) -> W {
    x ^ (x >> 47)
}

fn two(u: W, v: W, mul: W) -> W {
    let a = mixed((u ^ v) * mul);
    let b = mixed((v ^ a) * mul);
    b * mul
}

fn up_to_16(s: &[u8]) -> W {
    let n = s.len();
    let mul = w(K2) + w(2 * n as u64);
    if n >= 8 {
        let a = w(word64(s, 0)) + w(K2);
        let b = w(word64(s, n - 8));
        let c = rotated(b, 37) * mul + a;
        let d = (rotated(a, 25) + b) * mul;
        two(c, d, mul)
    } else if n >= 4 {
        let a = w(word32(s, 0));
        two(w(n as u64) + (a << 3), w(word32(s, n - 4)), mul)
    } else if n > 0 {
        let (a, b, c) = (u64::from(s[0]), u64::from(s[n >> 1]), u64::from(s[n - 1]));
        let (y, z) = (w(a + (b << 8)), w(n as u64 + (c << 2)));
        mixed((y * w(K2)) ^ (z * w(K0))) * w(K2)
    } else {
        w(K2)
    }
}

fn up_to_32(s: &[u8]) -> W {
    let n = s.len();
    let mul = w(K2) + w(2 * n as u64);
    let (a, b) = (w(word64(s, 0)) * w(K1), w(word64(s, 8)));
    let (c, d) = (w(word64(s, n - 8)) * mul, w(word64(s, n - 16)) * w(K2));
    two(
        rotated(a + b, 43) + rotated(c, 30) + d,
        a + rotated(b + w(K2), 18) + c,
        mul,
    )
}

fn up_to_64(s: &[u8]) -> W {
    let n = s.len();
    let mul = w(K2) + w(2 * n as u64);
    let (a, b) = (w(word64(s, 0)) * w(K2), w(word64(s, 8)));
    let (c, d) = (w(word64(s, n - 8)) * mul, w(word64(s, n - 16)) * w(K2));
    let y = rotated(a + b, 43) + rotated(c, 30) + d;
    let z = two(y, a + rotated(b + w(K2), 18) + c, mul);
    let (e, f) = (w(word64(s, 16)) * mul, w(word64(s, 24)));
    let g = (y + w(word64(s, n - 32))) * mul;
    let h = (z + w(word64(s, n - 24))) * mul;
    two(rotated(e + f, 43) + rotated(g, 30) + h, e + rotated(f + a, 18) + g, mul)
}

/// Thirty-two bytes and two seeds to two words.
fn weak(s: &[u8], at: usize, a: W, b: W) -> (W, W) {
    let [x0, x1, x2, x3] = [0, 8, 16, 24].map(|i| w(word64(s, at + i)));
    let a = a + x0;
    let b = rotated(b + a + x3, 21);
    let c = a;
    let a = a + x1 + x2;
    (a + x3, b + rotated(a, 44) + c)
}

/// Farmhash's `Fingerprint64`, which is the same on every machine.
pub(crate) fn fingerprint64(s: &[u8]) -> u64 {
    let n = s.len();
    match n {
        0..=16 => return up_to_16(s).0,
        17..=32 => return up_to_32(s).0,
        33..=64 => return up_to_64(s).0,
        _ => {}
    }
    let seed = w(81);
    let mut x = seed * w(K2) + w(word64(s, 0));
    let mut y = seed * w(K1) + w(113);
    let mut z = mixed(y * w(K2) + w(113)) * w(K2);
    let (mut v, mut u) = ((w(0), w(0)), (w(0), w(0)));
    let end = (n - 1) / 64 * 64;
    let last = n - 64;
    let mut at = 0;
    while at != end {
        x = rotated(x + y + v.0 + w(word64(s, at + 8)), 37) * w(K1);
        y = rotated(y + v.1 + w(word64(s, at + 48)), 42) * w(K1);
        x ^= u.1;
        y += v.0 + w(word64(s, at + 40));
        z = rotated(z + u.0, 33) * w(K1);
        v = weak(s, at, v.1 * w(K1), x + u.0);
        u = weak(s, at + 32, z + u.1, y + w(word64(s, at + 16)));
        std::mem::swap(&mut z, &mut x);
        at += 64;
    }
    let mul = w(K1) + ((z & w(0xff)) << 1);
    u.0 += w((n as u64 - 1) & 63);
    v.0 += u.0;
    u.0 += v.0;
    x = rotated(x + y + v.0 + w(word64(s, last + 8)), 37) * mul;
    y = rotated(y + v.1 + w(word64(s, last + 48)), 42) * mul;
    x ^= u.1 * w(9);
    y += v.0 * w(9) + w(word64(s, last + 40));
    z = rotated(z + u.0, 33) * mul;
    v = weak(s, last, v.1 * mul, x + u.0);
    u = weak(s, last + 32, z + u.1, y + w(word64(s, last + 16)));
    std::mem::swap(&mut z, &mut x);
    two(two(v.0, u.0, mul) + mixed(y) * w(K0) + z, two(v.1, u.1, mul) + x, mul).0
}

/// MurmurHash64A with TensorFlow's seed.
pub(crate) fn murmur64(s: &[u8]) -> u64 {
    let m = w(0xc6a4_a793_5bd1_e995);
    let mut h = w(0x00de_cafc_affe) ^ (w(s.len() as u64) * m);
    let mut chunks = s.chunks_exact(8);
    for c in &mut chunks {
        let mut k = w(word64(c, 0)) * m;
        k ^= k >> 47;
        h = (h ^ (k * m)) * m;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0u64, |t, b| (t << 8) | u64::from(*b));
        h = (h ^ w(tail)) * m;
    }
    h = mixed(h) * m;
    mixed(h).0
}

/// SipHash-2-4 with a key of two words.
pub(crate) fn siphash(key: [u64; 2], s: &[u8]) -> u64 {
    let mut v = [
        w(key[0] ^ 0x736f_6d65_7073_6575),
        w(key[1] ^ 0x646f_7261_6e64_6f6d),
        w(key[0] ^ 0x6c79_6765_6e65_7261),
        w(key[1] ^ 0x7465_6462_7974_6573),
    ];
    let round = |v: &mut [W; 4]| {
        let left = |x: W, by: u32| w(x.0.rotate_left(by));
        v[0] += v[1];
        v[2] += v[3];
        v[1] = left(v[1], 13) ^ v[0];
        v[3] = left(v[3], 16) ^ v[2];
        v[0] = left(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = left(v[1], 17) ^ v[2];
        v[3] = left(v[3], 21) ^ v[0];
        v[2] = left(v[2], 32);
    };
    let take = |m: u64, v: &mut [W; 4]| {
        v[3] ^= w(m);
        round(v);
        round(v);
        v[0] ^= w(m);
    };
    let mut chunks = s.chunks_exact(8);
    for c in &mut chunks {
        take(word64(c, 0), &mut v);
    }
    let tail = chunks
        .remainder()
        .iter()
        .rev()
        .fold(0u64, |t, b| (t << 8) | u64::from(*b));
    take(tail | ((s.len() as u64) << 56), &mut v);
    v[2] ^= w(0xff);
    for _ in 0..4 {
        round(&mut v);
    }
    (v[0] ^ v[1] ^ v[2] ^ v[3]).0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that TensorFlow 2.21 gives, modulo 2^63 - 1: of a text, Fingerprint64, Hash64 and SipHash by [123, -456].
    const KNOWN: &str = include_str!("hashes.txt");

    #[test]
    fn values_are_those_of_tensorflow() {
        let buckets = i64::MAX as u64;
        let mut lines = 0;
        for line in KNOWN.lines() {
            let mut words = line.split(' ');
            let hex = words.next().unwrap();
            let text: Vec<u8> = (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            let mut want = words.map(|w| w.parse::<u64>().unwrap());
            let n = text.len();
            assert_eq!(
                Some(fingerprint64(&text) % buckets),
                want.next(),
                "Fingerprint64 of {n} bytes"
            );
            assert_eq!(Some(murmur64(&text) % buckets), want.next(), "Hash64 of {n} bytes");
            let key = [123, -456i64 as u64];
            assert_eq!(Some(siphash(key, &text) % buckets), want.next(), "SipHash of {n} bytes");
            lines += 1;
        }
        assert_eq!(lines, 26);
    }
}
