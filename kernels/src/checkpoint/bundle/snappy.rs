//! Snappy's raw format (google/snappy, `format_description.txt`), decompression only.

use actorflow_core::error::{Error, Result};

use super::wire::{Cursor, little_endian};

/// No element of the format makes more bytes out of one than this.
const MOST_PER_BYTE: u64 = 64;

/// What was compressed.
///
/// # Errors
/// `DATA_LOSS` if it is no such data.
pub(super) fn decompressed(data: &[u8]) -> Result<Vec<u8>> {
    let mut at = Cursor(data);
    let length = at.varint()?;
    let bad = |what: &str| Error::data_loss(format!("compressed data are damaged: {what}"));
    if length > MOST_PER_BYTE * data.len() as u64 {
        return Err(bad("they are too short for their length"));
    }
    let length = length as usize;
    let mut out: Vec<u8> = Vec::with_capacity(length);
    while !at.is_empty() {
        let tag = at.take(1)?[0];
        let (offset, n) = match tag & 3 {
            0 => {
                let n = match tag >> 2 {
                    short @ 0..60 => u64::from(short),
                    long => little_endian(at.take(u64::from(long) - 59)?),
                } + 1;
                if n > (length - out.len()) as u64 {
                    return Err(bad("they are longer than they say"));
                }
                out.extend_from_slice(at.take(n)?);
                continue;
            }
            1 => {
                let low = at.take(1)?[0];
                (u64::from(tag >> 5) << 8 | u64::from(low), usize::from(tag >> 2 & 7) + 4)
            }
            2 => (little_endian(at.take(2)?), usize::from(tag >> 2) + 1),
            _ => (little_endian(at.take(4)?), usize::from(tag >> 2) + 1),
        };
        let from = usize::try_from(offset).ok().filter(|o| *o > 0);
        let from = from
            .and_then(|o| out.len().checked_sub(o))
            .ok_or_else(|| bad("a copy reaches before the start"))?;
        if n > length - out.len() {
            return Err(bad("they are longer than they say"));
        }
        // A copy may read what it has just written.
        for i in from..from + n {
            out.push(out[i]);
        }
    }
    match out.len() == length {
        true => Ok(out),
        false => Err(bad("they are shorter than they say")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_copies() {
        // "abcabcabcabc" and a literal of 61 bytes with its length apart.
        assert_eq!(
            decompressed(&[12, 8, b'a', b'b', b'c', 0x15, 3]).unwrap(),
            b"abcabcabcabc"
        );
        assert_eq!(decompressed(&[6, 0, b'x', 0x12, 1, 0]).unwrap(), b"xxxxxx");
        assert_eq!(decompressed(&[5, 0, b'x', 0x0f, 1, 0, 0, 0]).unwrap(), b"xxxxx");
        let mut long = vec![61, 60 << 2, 60];
        long.extend([7u8; 61]);
        assert_eq!(decompressed(&long).unwrap(), [7; 61]);
        assert_eq!(decompressed(&[0]).unwrap(), b"");
    }

    #[test]
    fn damage_is_an_error() {
        let good = [12, 8, b'a', b'b', b'c', 0x15, 3];
        for n in 0..good.len() {
            assert!(decompressed(&good[..n]).is_err(), "{n}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            let _ = decompressed(&bad);
        }
        assert!(decompressed(&[0xff, 0xff, 0xff, 0x7f, 0, 1]).is_err());
        assert!(decompressed(&[4, 0x15, 0]).is_err());
    }
}
