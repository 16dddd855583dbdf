//! Two peers of the protocol, with users and a network that do anything: `cargo +nightly fuzz run conversation`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| actorflow_transport::fuzz::conversation(data));
