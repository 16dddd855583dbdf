//! Graphs, SavedModels and checkpoints that are damaged or were made to do harm: an error or a result, in bounded memory.
//!
//! Files are read in processes of their own whose memory the system bounds. By default a few hundred damaged files are
//! read of each kind; for more
//!
//! ```text
//! ACTORFLOW_FUZZ_ITERATIONS=100000 cargo test --release -p actorflow-tests --test hostile_files -- --nocapture
//! ```
//!
//! and with `ACTORFLOW_FUZZ_SEED=N` others than those from seed 0 on. What is found belongs into `tests/data/hostile`, whose
//! files are read as they are and damaged further; `cargo test -p actorflow-tests --test hostile_files -- --ignored regenerate`
//! writes those that `hostile/seeds.rs` makes.
#![cfg(unix)] // a shell bounds the memory
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod hostile;

use hostile::child::{self, Files};
use hostile::{seeds, targets};

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// Reads the damaged files of a target.
fn fuzz(target: &str, default: u64) {
    let from = number("ACTORFLOW_FUZZ_SEED", 0);
    let to = from.saturating_add(number("ACTORFLOW_FUZZ_ITERATIONS", default));
    println!("{target}: {}", child::read(target, Files::Mutants { from, to }));
}

#[test]
#[ignore = "the child process of the other tests"]
fn the_process_that_reads_files() {
    child::serve();
}

#[test]
#[ignore = "writes tests/data/hostile"]
fn regenerate() {
    for (name, bytes) in seeds::made() {
        std::fs::write(seeds::folder().join(name), bytes).unwrap();
    }
}

#[test]
fn the_corpus_has_the_graphs_that_were_made_to_do_harm() {
    let kept = seeds::kept();
    for (name, bytes) in seeds::made() {
        assert!(
            kept.contains(&(name.to_owned(), bytes)),
            "tests/data/hostile/{name} is not what hostile/seeds.rs makes; run the test `regenerate`"
        );
    }
}

#[test]
fn graphs_that_were_made_to_do_harm_are_errors() {
    for (name, bytes) in seeds::made() {
        let harmless = ["constant_with_too_many_values.pb", "placeholder_of_huge_extents.pb"].contains(&name);
        let error = targets::run_graph(bytes);
        assert!(harmless || error.is_some(), "{name} has a result");
    }
}

#[test]
fn sound_files_of_folders_are_read() {
    for target in targets::NAMES.into_iter().skip(1) {
        child::read(target, Files::Whole { sound: true });
    }
}

#[test]
fn files_cut_off_anywhere_are_errors() {
    for (target, every) in [("saved_model", 101), ("bundle", 13), ("checkpoint", 1)] {
        let summary = child::read(target, Files::Cut { every, refused: true });
        println!("{target}: {summary}");
    }
}

#[test]
fn graphs_cut_off_anywhere_end() {
    // A graph cut off between two nodes is a shorter graph.
    let every = number("ACTORFLOW_FUZZ_CUT", 211) as usize;
    let files = Files::Cut {
        every: every.max(1),
        refused: false,
    };
    println!("graph: {}", child::read("graph", files));
}

#[test]
fn damaged_graphs_end() {
    child::read("graph", Files::Whole { sound: false });
    fuzz("graph", 300);
}

#[test]
fn damaged_saved_models_end() {
    fuzz("saved_model", 60);
}

#[test]
fn damaged_bundles_end() {
    fuzz("bundle", 300);
}

#[test]
fn damaged_checkpoints_end() {
    fuzz("checkpoint", 300);
}
