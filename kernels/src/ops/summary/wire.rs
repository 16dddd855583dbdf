//! Protocol buffers, as far as summaries need them. Fields of value zero are left out, as in proto3.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::{DType, Tensor};

/// A message that is being written, its fields in the order of their numbers.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn key(&mut self, field: u32, wire: u32) {
        self.raw_varint(u64::from(field << 3 | wire));
    }

    /// An integer.
    pub(super) fn int(mut self, field: u32, n: u64) -> Self {
        if n != 0 {
            self.key(field, 0);
            self.raw_varint(n);
        }
        self
    }

    /// A double.
    pub(super) fn double(mut self, field: u32, x: f64) -> Self {
        if x.to_bits() != 0 {
            self.key(field, 1);
            self.0.extend(x.to_le_bytes());
        }
        self
    }

    /// A float of a `oneof`, which is written even if it is zero.
    pub(super) fn chosen_float(mut self, field: u32, x: f32) -> Self {
        self.key(field, 5);
        self.0.extend(x.to_le_bytes());
        self
    }

    /// A float.
    pub(super) fn float(self, field: u32, x: f32) -> Self {
        if x.to_bits() == 0 {
            self
        } else {
            self.chosen_float(field, x)
        }
    }

    /// Bytes of an element of a list, or a message, which are written even if they are empty.
    pub(super) fn part(mut self, field: u32, bytes: &[u8]) -> Self {
        self.key(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes.
    pub(super) fn bytes(self, field: u32, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            self
        } else {
            self.part(field, bytes)
        }
    }

    /// A list of doubles in one field.
    pub(super) fn doubles(self, field: u32, list: &[f64]) -> Self {
        let bytes: Vec<u8> = list.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.bytes(field, &bytes)
    }

    /// What was written.
    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// A tensor as a `TensorProto`.
///
/// # Errors
/// `UNIMPLEMENTED` for resources and variants.
pub(super) fn tensor(t: &Tensor) -> Result<Vec<u8>> {
    let shape = t
        .shape()
        .iter()
        .fold(Message::default(), |m, n| {
            m.part(2, &Message::default().int(1, *n as u64).done())
        })
        .done();
    let m = Message::default().int(1, t.dtype().to_tf() as u64).part(2, &shape);
    Ok(match (t.dtype(), t.bytes()) {
        (DType::Str, _) => t.as_strings()?.iter().fold(m, |m, s| m.part(8, s)),
        (_, Some(bytes)) => m.bytes(4, bytes),
        (d, None) => return Err(Error::unimplemented(format!("a tensor of {d} cannot be a summary"))),
    }
    .done())
}

/// The fields of a message: their numbers and, of those that have bytes, these; `None` if it is malformed.
pub(super) fn fields(mut from: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    fn varint(from: &mut &[u8]) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (b, rest) = from.split_first()?;
            *from = rest;
            n |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }
    let mut all = Vec::new();
    while !from.is_empty() {
        let key = varint(&mut from)?;
        let len = match key & 7 {
            0 => {
                varint(&mut from)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut from)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (bytes, rest) = from.split_at_checked(len)?;
        from = rest;
        if key >> 3 == 0 {
            return None;
        }
        all.push((key >> 3, if key & 7 == 2 { bytes } else { &[] }));
    }
    Some(all)
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
        assert_eq!(fields(&m), Some(vec![(1, &b"ab"[..]), (2, b""), (4, b"")]));
        assert_eq!(fields(&m[..3]), None);
        assert_eq!(fields(&[0xff; 12]), None);
        assert_eq!(fields(&[7]), None);
    }
}
