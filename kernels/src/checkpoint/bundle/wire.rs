//! Integers of variable length and Protocol Buffers messages, read within the bytes that there are.

use actorflow_core::error::{Error, Result};

/// Bytes that are read from the front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

fn cut_off() -> Error {
    Error::data_loss("it is cut off")
}

impl<'a> Cursor<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let n = usize::try_from(n).map_err(|_| cut_off())?;
        let (taken, rest) = self.0.split_at_checked(n).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A little-endian base-128 number in its shortest form, so that no changed bit goes unnoticed.
    pub(super) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for i in 0..10 {
            let (&byte, rest) = self.0.split_first().ok_or_else(cut_off)?;
            self.0 = rest;
            if (i == 9 && byte > 1) || (i > 0 && byte == 0) {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::data_loss("a number is not written as it should be"))
    }

    /// Four bytes, little-endian.
    pub(super) fn fixed32(&mut self) -> Result<u32> {
        Ok(little_endian(self.take(4)?) as u32)
    }

    /// The next field of a message: its number and its value. Deprecated groups are refused.
    pub(super) fn field(&mut self) -> Result<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Number(little_endian(self.take(8)?)),
            2 => {
                let n = self.varint()?;
                Field::Bytes(self.take(n)?)
            }
            5 => Field::Number(little_endian(self.take(4)?)),
            other => return Err(Error::data_loss(format!("a message has wire type {other}"))),
        };
        Ok((tag >> 3, value))
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Up to eight bytes as a number.
pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b))
}

/// How TensorFlow and LevelDB write a CRC, since a CRC of data that has CRCs in it is a bad one.
pub(super) fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
