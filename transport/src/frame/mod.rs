//! Frames: how a message or a tensor is laid out in a stream.
#![forbid(unsafe_code)]

/// The largest header in bytes: of a frame, and of a message within one.
pub const MAX_HEADER: usize = 64 << 10;

/// The largest number of tensors in a message.
pub const MAX_TENSORS: usize = 1024;

/// The largest rank of a tensor on the wire.
pub const MAX_RANK: usize = 16;
