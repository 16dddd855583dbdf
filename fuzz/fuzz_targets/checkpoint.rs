//! The files of a checkpoint, one of them as the fuzzer makes it: `cargo +nightly fuzz run checkpoint`.
#![no_main]

use std::sync::LazyLock;

use actorflow_tests::hostile::guided::Guided;
use libfuzzer_sys::fuzz_target;

static FILES: LazyLock<Guided> = LazyLock::new(|| Guided::new("checkpoint"));

fuzz_target!(|data: &[u8]| drop(FILES.read(data)));
