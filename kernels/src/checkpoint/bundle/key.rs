//! The keys of parts of tensors: TensorFlow's `EncodeTensorNameSlice` over its `OrderedCode`.

/// The extents of a part as the index has them: start and length for each dimension, `(0, -1)` for all of it.
pub(super) type Extents = Vec<(i64, i64)>;

/// The key under which the index has a part.
pub(super) fn of_slice(name: &[u8], extents: &[(i64, i64)]) -> Vec<u8> {
    let mut out = Vec::new();
    number(&mut out, 0);
    string(&mut out, name);
    number(&mut out, extents.len() as u64);
    for (start, length) in extents {
        signed(&mut out, *start);
        signed(&mut out, *length);
    }
    out
}

/// `WriteNumIncreasing`: how many bytes, and the bytes, big-endian.
fn number(out: &mut Vec<u8>, n: u64) {
    let bytes = n.to_be_bytes();
    let skip = n.leading_zeros() as usize / 8;
    out.push((8 - skip) as u8);
    out.extend_from_slice(&bytes[skip..]);
}

/// `WriteString`: 0 and 255 escaped, and a terminator.
fn string(out: &mut Vec<u8>, s: &[u8]) {
    for &b in s {
        match b {
            0 => out.extend([0, 0xff]),
            0xff => out.extend([0xff, 0]),
            b => out.push(b),
        }
    }
    out.extend([0, 1]);
}

/// `WriteSignedNumIncreasing`: the length in leading ones after the sign, then the bits.
fn signed(out: &mut Vec<u8>, n: i64) {
    let magnitude = if n < 0 { !n } else { n } as u64;
    let bits = 64 - magnitude.leading_zeros() as usize;
    // Each byte has room for seven bits; one goes to the sign.
    let length = (1..=10).find(|l| 7 * l > bits).unwrap_or(10);
    let sign = if n < 0 { 0xff } else { 0 };
    let mut bytes = [sign; 10];
    bytes[2..].copy_from_slice(&n.to_be_bytes());
    // `length` ones after which there is a zero.
    let header = !(0xffffu16.checked_shr(length as u32).unwrap_or(0));
    let from = 10 - length;
    bytes[from] ^= (header >> 8) as u8;
    if length > 1 {
        bytes[from + 1] ^= header as u8;
    }
    out.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_tensorflow_writes_them() {
        let of = |n: i64| {
            let mut out = Vec::new();
            signed(&mut out, n);
            out
        };
        assert_eq!(of(0), [0x80]);
        assert_eq!(of(-1), [0x7f]);
        assert_eq!(of(63), [0xbf]);
        assert_eq!(of(-64), [0x40]);
        assert_eq!(of(64), [0xc0, 0x40]);
        assert_eq!(of(-65), [0x3f, 0xbf]);
        assert_eq!(of(8192), [0xe0, 0x20, 0x00]);
        assert_eq!(
            of(i64::MAX),
            [0xff, 0xc0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
        );
        let mut out = Vec::new();
        number(&mut out, 0);
        number(&mut out, 300);
        string(&mut out, b"a\0\xff");
        assert_eq!(out, [0, 2, 1, 44, b'a', 0, 0xff, 0xff, 0, 0, 1]);
    }
}
