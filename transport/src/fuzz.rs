//! What the fuzz targets in `fuzz/` call, with the feature `fuzzing`: the bodies of the seeded tests, for bytes that a fuzzer
//! chooses. They panic where something is wrong.
#![forbid(unsafe_code)]

use crate::sim::Random;

/// Decodes a stream of frames, in pieces of a length that the first two bytes say.
pub fn frames(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    crate::frame::fuzz::any(bytes, usize::from(u16::from_le_bytes(*piece)));
}

/// Lets two peers, their users and the network between them do what `data` says.
pub fn conversation(data: &[u8]) {
    let rough = data.first().is_none_or(|b| b % 4 > 0);
    let counted = crate::proto::fuzz::converse(&mut Random::of_bytes(data), rough);
    let accused = counted.iter().any(|c| c.malformed + c.oversized > 0);
    assert!(rough || !accused, "sound peers accuse each other: {counted:?}");
}
