//! The packing buffer of a thread: grown when a block needs more than any before it, then reused for ever.

use std::cell::Cell;

/// One cache line, so that the buffer is aligned to one.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "only its size and alignment matter")] [u8; 64]);

thread_local! {
    static BUFFER: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Calls `body` with room for `len` elements of `T`, aligned to 64 bytes, whose contents are arbitrary but initialised.
///
/// A nested call gets a buffer of its own.
pub(super) fn with<T: Copy, R>(len: usize, body: impl FnOnce(*mut T) -> R) -> R {
    let lines = len.saturating_mul(size_of::<T>()).div_ceil(size_of::<Line>());
    let mut buffer = BUFFER.take();
    if buffer.len() < lines {
        buffer.resize(lines, Line([0; 64]));
    }
    let result = body(buffer.as_mut_ptr().cast());
    BUFFER.set(buffer);
    result
}
