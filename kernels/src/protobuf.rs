//! Messages of Protocol Buffers, written, and read field by field without a schema and without copies.
#![forbid(unsafe_code)]

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// A little-endian base-128 number; `None` if the bytes begin with none.
pub(crate) fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut x = 0u64;
    for i in 0..10 {
        let (b, rest) = from.split_first()?;
        *from = rest;
        x |= u64::from(b & 0x7f).checked_shl(7 * i)?;
        if b & 0x80 == 0 {
            return Some(x);
        }
    }
    None
}

/// The next `n` bytes, if there are so many.
pub(crate) fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = from.split_at_checked(n)?;
    *from = rest;
    Some(head)
}

/// Calls `f(number, value)` for each field of a message; `None` if the bytes are none, or `f` says so.
pub(crate) fn fields<'a>(mut from: &'a [u8], mut f: impl FnMut(u64, Value<'a>) -> Option<()>) -> Option<()> {
    while !from.is_empty() {
        let tag = varint(&mut from)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut from)?),
            1 => Value::Fixed64(u64::from_le_bytes(take(&mut from, 8)?.try_into().ok()?)),
            2 => {
                let n = usize::try_from(varint(&mut from)?).ok()?;
                Value::Bytes(take(&mut from, n)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(take(&mut from, 4)?.try_into().ok()?)),
            // Groups have not been written for twenty years.
            _ => return None,
        };
        if tag >> 3 == 0 {
            return None;
        }
        f(tag >> 3, value)?;
    }
    Some(())
}

/// The numbers of a repeated field of varints, packed or not.
pub(crate) fn varints(value: Value<'_>, mut f: impl FnMut(u64)) -> Option<()> {
    match value {
        Value::Varint(x) => f(x),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                f(varint(&mut packed)?);
            }
        }
        _ => return None,
    }
    Some(())
}

/// The numbers of a repeated field of four bytes each, packed or not.
pub(crate) fn fixed32s(value: Value<'_>, mut f: impl FnMut(u32)) -> Option<()> {
    match value {
        Value::Fixed32(x) => f(x),
        Value::Bytes(packed) if packed.len().is_multiple_of(4) => {
            for c in packed.chunks_exact(4) {
                f(u32::from_le_bytes(c.try_into().ok()?));
            }
        }
        _ => return None,
    }
    Some(())
}

/// The numbers of a repeated field of eight bytes each, packed or not.
pub(crate) fn fixed64s(value: Value<'_>, mut f: impl FnMut(u64)) -> Option<()> {
    match value {
        Value::Fixed64(x) => f(x),
        Value::Bytes(packed) if packed.len().is_multiple_of(8) => {
            for c in packed.chunks_exact(8) {
                f(u64::from_le_bytes(c.try_into().ok()?));
            }
        }
        _ => return None,
    }
    Some(())
}

/// Writes a number as [`varint`] reads it.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A message that is being written, its fields in the order of their numbers.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u32, wire: u32) {
        put_varint(&mut self.0, u64::from(field << 3 | wire));
    }

    /// An integer.
    pub(crate) fn int(self, field: u32, n: u64) -> Self {
        if n == 0 { self } else { self.chosen_int(field, n) }
    }

    /// An integer of a list or of a `oneof`, which is written even if it is zero.
    pub(crate) fn chosen_int(mut self, field: u32, n: u64) -> Self {
        self.key(field, 0);
        put_varint(&mut self.0, n);
        self
    }

    /// A double.
    pub(crate) fn double(mut self, field: u32, x: f64) -> Self {
        if x.to_bits() != 0 {
            self.key(field, 1);
            self.0.extend(x.to_le_bytes());
        }
        self
    }

    /// A float of a list or of a `oneof`, which is written even if it is zero.
    pub(crate) fn chosen_float(mut self, field: u32, x: f32) -> Self {
        self.key(field, 5);
        self.0.extend(x.to_le_bytes());
        self
    }

    /// A float.
    pub(crate) fn float(self, field: u32, x: f32) -> Self {
        if x.to_bits() == 0 {
            self
        } else {
            self.chosen_float(field, x)
        }
    }

    /// Bytes of an element of a list, or a message, which are written even if they are empty.
    pub(crate) fn part(mut self, field: u32, bytes: &[u8]) -> Self {
        self.key(field, 2);
        put_varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes.
    pub(crate) fn bytes(self, field: u32, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            self
        } else {
            self.part(field, bytes)
        }
    }

    /// A list of doubles in one field.
    pub(crate) fn doubles(self, field: u32, list: &[f64]) -> Self {
        let bytes: Vec<u8> = list.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.bytes(field, &bytes)
    }

    /// What was written.
    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_and_torn_ones_refused() {
        let m = Message::default()
            .part(1, b"ab")
            .int(2, 300)
            .double(3, 0.0)
            .double(4, 1.5)
            .done();
        let read = |m| {
            let mut all = Vec::new();
            fields(m, |n, v| {
                all.push((n, v));
                Some(())
            })
            .map(|()| all)
        };
        let written = vec![
            (1, Value::Bytes(b"ab")),
            (2, Value::Varint(300)),
            (4, Value::Fixed64(1.5f64.to_bits())),
        ];
        assert_eq!(read(&m), Some(written));
        assert_eq!(read(&m[..3]), None);
        assert_eq!(read(&[0xff; 12]), None);
        assert_eq!(read(&[7]), None);
    }
}
