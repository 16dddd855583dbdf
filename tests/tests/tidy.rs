//! The house rules, held against every source file of the repository.
//!
//! A failure names each place as `file:line` with the cure. The rules themselves, with tests of their own, are in
//! `actorflow_tests::rules`; what is excepted from them, and why, is listed here.
#![forbid(unsafe_code)]

use std::fs;

use actorflow_tests::repo;
use actorflow_tests::rules::{self, Exception, Finding};
use actorflow_tests::source::SourceFile;

/// A file longer than this holds more than one idea.
const LINE_LIMIT: usize = 600;

/// Files that may be longer.
const LONG_FILES: &[Exception] = &[
    Exception {
        path: "engine/src/graphdef/proto/",
        why: "generated from engine/proto",
    },
    Exception {
        path: "engine/src/ops/generated/",
        why: "generated from the registry of operations",
    },
];

/// Where `unsafe` is needed. Everything else is safe Rust.
const UNSAFE_FILES: &[Exception] = &[
    Exception {
        path: "benches/src/peak.rs",
        why: "the widest registers' multiply-adds, found at run time",
    },
    Exception {
        path: "engine/core/src/tensor/",
        why: "aligned buffers and their typed views",
    },
    Exception {
        path: "engine/core/src/actor.rs",
        why: "state that only the holder of a turn reaches",
    },
    Exception {
        path: "actors/src/turn.rs",
        why: "the lock-free queue of those who wait for a turn",
    },
    Exception {
        path: "actors/src/exec/flow/state.rs",
        why: "the slots and words of an iteration, and frames that are used again",
    },
    Exception {
        path: "actors/src/exec/flow/fire.rs",
        why: "slots that an arrival has handed over, without a check per access",
    },
    Exception {
        path: "actors/src/exec/flow/tokens.rs",
        why: "frames and iterations that live as long as their step",
    },
    Exception {
        path: "actors/src/exec/wait.rs",
        why: "iterations that live as long as their step",
    },
    Exception {
        path: "actors/src/exec/step.rs",
        why: "the slab of slots that node actors share",
    },
    Exception {
        path: "actors/src/exec/run.rs",
        why: "the work area of a step that one thread runs",
    },
    Exception {
        path: "actors/src/exec/fire.rs",
        why: "node actors reach their slots of the step's slab",
    },
    Exception {
        path: "actors/src/mailbox.rs",
        why: "the lock-free queue of a resource actor and the state it guards",
    },
    Exception {
        path: "actors/src/region.rs",
        why: "helpers reach a kernel's closure on its owner's stack",
    },
    Exception {
        path: "actors/src/pool/region_table.rs",
        why: "opens the slots of parallel regions",
    },
    Exception {
        path: "actors/tests/loom_pending.rs",
        why: "its data has no synchronisation but what the model checks",
    },
    Exception {
        path: "actors/tests/loom_region.rs",
        why: "its data has no synchronisation but what the model checks",
    },
    Exception {
        path: "actors/src/pool/affinity.rs",
        why: "system calls for core affinity",
    },
    Exception {
        path: "transport/src/lane/memory.rs",
        why: "memory that two processes have mapped",
    },
    Exception {
        path: "kernels/src/math/simd.rs",
        why: "loops compiled for instruction sets that are found at run time",
    },
    Exception {
        path: "kernels/src/elementwise/block.rs",
        why: "typed blocks meet loops whose types are known at run time only",
    },
    Exception {
        path: "kernels/src/elementwise/half.rs",
        why: "stages of half precision in memory of no type",
    },
    Exception {
        path: "kernels/src/elementwise/loops.rs",
        why: "loops that forget their element types",
    },
    Exception {
        path: "kernels/src/elementwise/run.rs",
        why: "operands by address: broadcast, in place, split over workers",
    },
    Exception {
        path: "kernels/src/elementwise/select.rs",
        why: "elements chosen by size, whatever their type",
    },
    Exception {
        path: "kernels/src/gemm/",
        why: "SIMD microkernels, packing buffers and blocks of one matrix that several workers write",
    },
    Exception {
        path: "kernels/examples/gemm_bench.rs",
        why: "the measured peak's SIMD loop and the raw interface of the crate compared with",
    },
    Exception {
        path: "kernels/src/wide.rs",
        why: "loops compiled for instruction sets that are found at run time",
    },
    Exception {
        path: "kernels/src/spread.rs",
        why: "several workers write disjoint chunks of one slice",
    },
];

/// Where kernels, and what they share, touch files: each asks the task's policy first, or is not for graphs.
const REVIEWED_FOR_FILES: &[Exception] = &[
    Exception {
        path: "kernels/src/files.rs",
        why: "opens local files for operations, after asking",
    },
    Exception {
        path: "kernels/src/checkpoint/store.rs",
        why: "locations carry the policy and ask it before everything that is done to them",
    },
    Exception {
        path: "kernels/src/checkpoint/reader.rs",
        why: "`Reader::open` is for programs; operations open a location of theirs",
    },
    Exception {
        path: "kernels/src/ops/io/matching.rs",
        why: "lists directories, and asks for each name",
    },
    Exception {
        path: "kernels/src/ops/reader/source.rs",
        why: "holds files that `crate::files` has opened",
    },
];

/// The folders whose code runs inside somebody else's program.
const LIBRARIES: &[&str] = &[
    "engine/core/src/",
    "engine/src/",
    "actors/src/",
    "kernels/src/",
    "transport/src/",
];

/// Every file of the repository.
fn files() -> Vec<String> {
    repo::files(&repo::root()).expect("the repository can be listed")
}

/// Every Rust file of the repository, read.
fn sources() -> Vec<SourceFile> {
    let root = repo::root();
    let read = |file: String| {
        let text = fs::read_to_string(root.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        (file, text)
    };
    let sources = SourceFile::parse_all(files().into_iter().filter(|file| file.ends_with(".rs")).map(read));
    assert!(
        sources.iter().any(|source| source.path == "tests/tests/tidy.rs"),
        "the listing misses this very file"
    );
    sources
}

/// The text of a file at the top of the repository.
fn page(name: &str) -> String {
    fs::read_to_string(repo::root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
fn none(findings: Vec<Finding>) {
    let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(
        findings.is_empty(),
        "{} place(s) to put right:\n{}",
        findings.len(),
        text.join("\n")
    );
}

#[test]
fn no_file_is_too_long() {
    none(rules::files_are_short(&sources(), LINE_LIMIT, LONG_FILES));
}

#[test]
fn unsafe_code_is_confined_to_the_modules_that_need_it() {
    none(rules::unsafe_is_confined(&sources(), UNSAFE_FILES));
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    none(rules::unsafe_is_justified(&sources()));
}

#[test]
fn nothing_unwraps_outside_of_tests() {
    none(rules::nothing_unwraps(&sources()));
}

#[test]
fn nothing_is_marked_as_unfinished() {
    none(rules::nothing_is_unfinished(&sources()));
}

#[test]
fn libraries_do_not_print() {
    none(rules::libraries_do_not_print(&sources(), LIBRARIES));
}

#[test]
fn kernels_touch_files_only_where_it_was_reviewed() {
    none(rules::file_access_is_reviewed(
        &sources(),
        "kernels/src/",
        REVIEWED_FOR_FILES,
    ));
}

#[test]
fn the_framework_of_control_actors_is_named_in_one_module() {
    none(rules::crate_is_named_in_one_module(
        &sources(),
        "actix",
        "actors/src/control",
    ));
}

#[test]
fn every_crate_says_what_it_is_for() {
    let roots: Vec<String> = files()
        .into_iter()
        .filter(|file| file.ends_with("src/lib.rs") || file.ends_with("src/main.rs"))
        .collect();
    none(rules::crates_say_what_they_are_for(&sources(), &roots));
}

#[test]
fn the_readme_mentions_every_top_level_folder() {
    none(rules::folders_are_mentioned("README.md", &page("README.md"), &files()));
}

#[test]
fn the_pages_name_only_paths_that_exist() {
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        none(rules::paths_exist(name, &page(name), &files()));
    }
}
