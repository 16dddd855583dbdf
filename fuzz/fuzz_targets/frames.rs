//! Streams of frames that are none: `cargo +nightly fuzz run frames`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| actorflow_transport::fuzz::frames(data));
