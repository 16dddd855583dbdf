//! What comes of a stream at a time, wherever it lies.
#![forbid(unsafe_code)]

use bytes::{Buf, Bytes};

/// The next bytes of a stream, to be taken from the front.
pub trait Arriving {
    /// How many there are.
    fn len(&self) -> usize;

    /// The next `n` bytes, of which there are so many.
    fn take(&mut self, n: usize) -> Bytes;

    /// Moves the next bytes to where they belong, of which there are so many.
    fn copy_to(&mut self, into: &mut [u8]);

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Arriving for Bytes {
    fn len(&self) -> usize {
        Bytes::len(self)
    }

    fn take(&mut self, n: usize) -> Bytes {
        self.split_to(n)
    }

    fn copy_to(&mut self, into: &mut [u8]) {
        self.copy_to_slice(into);
    }
}
