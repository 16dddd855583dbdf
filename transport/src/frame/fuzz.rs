//! Bytes that are no frames, most likely: nothing panics, and what is held follows what has come. The bytes are mangled
//! frames of a seed in the tests, and the fuzzer's in `fuzz/`.
#![forbid(unsafe_code)]

use actorflow_core::tensor::Pool;
use bytes::Bytes;

use super::{Decoder, Fault, Frame, Intake};
use crate::limits::Limits;

/// Limits of a megabyte.
pub(crate) fn limits() -> Limits {
    Limits {
        message: 1 << 20,
        tensor: 1 << 20,
        in_flight_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// Decodes all of `bytes`, fed in pieces of `piece`: the frames, and whether the last one is whole. On the way, checks what
/// may be held of so many bytes; `pool` is for this stream alone.
pub(crate) fn decode(bytes: &[u8], piece: usize, intake: &mut Intake) -> Result<(Vec<Frame>, bool), Fault> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    let mut come = 0;
    for part in bytes.chunks(piece.max(1)) {
        come += part.len() as u64;
        let mut chunk = Bytes::copy_from_slice(part);
        loop {
            let frame = match decoder.push(&mut chunk, intake) {
                Ok(frame) => frame,
                Err(fault) => {
                    decoder.abandon(intake);
                    return Err(fault);
                }
            };
            assert!(
                intake.held() <= come.saturating_mul(9),
                "{} bytes of {come}",
                intake.held()
            );
            match frame {
                Some(frame) => frames.push(frame),
                None => break,
            }
        }
        assert!(chunk.is_empty(), "bytes are left behind");
    }
    let whole = decoder.is_between_frames();
    decoder.abandon(intake);
    assert_eq!((intake.held(), intake.promised()), (0, 0), "an account is not settled");
    Ok((frames, whole))
}

/// Decodes a stream of anything.
pub(crate) fn any(bytes: &[u8], piece: usize) {
    let pool = Pool::new(4 << 20, 0);
    let mut intake = Intake::new(limits(), pool.clone());
    if let Ok((frames, _)) = decode(bytes, piece, &mut intake) {
        for frame in frames {
            // What has come can be sent on.
            let encoded = frame.encode().expect("a frame that was decoded can be encoded");
            assert!(encoded.len > 0);
        }
    }
    drop(intake);
    assert_eq!(pool.stats().used, 0, "memory is kept");
}
