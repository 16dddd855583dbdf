//! `GraphDef`s that are imported and run: `cargo +nightly fuzz run graph`.
//!
//! Every other change is one of what a graph says (edges, operations, attributes, shapes), the rest are libFuzzer's own.
#![no_main]

use std::sync::LazyLock;

use actorflow_tests::hostile::guided::Guided;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

static GRAPHS: LazyLock<Guided> = LazyLock::new(|| Guided::new("graph"));

fuzz_target!(|data: &[u8]| drop(GRAPHS.read(data)));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let own = seed
        .is_multiple_of(2)
        .then(|| GRAPHS.change(&mut data[..max_size], size, seed));
    own.flatten().unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
