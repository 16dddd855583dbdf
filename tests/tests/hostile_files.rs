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
//! writes those that `actorflow_tests::hostile::seeds` makes.
#![cfg(unix)] // a shell bounds the memory
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod hostile;

use actorflow::graphdef::proto::GraphDef;
use actorflow_tests::hostile::guided::Guided;
use actorflow_tests::hostile::{seeds, targets};
use actorflow_tests::repo;
use hostile::child::{self, Files};
use prost::Message;

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
#[ignore = "writes fuzz/corpus"]
fn corpora() {
    for name in targets::NAMES {
        let folder = repo::root().join("fuzz/corpus").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (i, input) in Guided::new(name).inputs().into_iter().enumerate() {
            std::fs::write(folder.join(format!("{i:03}")), input).unwrap();
        }
    }
}

#[test]
fn every_kind_of_file_has_a_fuzz_target() {
    let fuzz = repo::root().join("fuzz");
    let manifest: toml::Table = std::fs::read_to_string(fuzz.join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let bins = manifest["bin"].as_array().unwrap();
    for name in targets::NAMES {
        let bin = bins.iter().find(|b| b["name"].as_str() == Some(name));
        let path = bin.unwrap_or_else(|| panic!("fuzz/Cargo.toml has no target {name}"))["path"].as_str();
        let text = std::fs::read_to_string(fuzz.join(path.unwrap())).unwrap();
        assert!(text.contains(&format!("Guided::new({name:?})")), "{path:?}");
    }
}

#[test]
fn changes_of_a_graph_are_graphs_within_the_fuzzers_buffer() {
    let guided = Guided::new("graph");
    let (mut changed, mut kept) = (0, 0);
    for (seed, input) in guided.inputs().into_iter().enumerate().take(100) {
        for room in [0, 64] {
            let mut buffer = input.clone();
            buffer.resize(input.len() + room, 0);
            match guided.change(&mut buffer, input.len(), seed as u32) {
                Some(size) => {
                    assert!(GraphDef::decode(&buffer[..size]).is_ok());
                    changed += usize::from(buffer[..size] != input[..]);
                }
                None => kept += 1,
            }
        }
    }
    assert!(changed > 50, "{changed} changed, {kept} left to the fuzzer");
}

#[test]
fn inputs_that_name_no_file_are_no_files() {
    let guided = Guided::new("checkpoint");
    assert!(guided.read(&[]).is_none());
    assert!(guided.read(&[u8::MAX, 1, 2, 3]).is_none());
    assert!(
        guided.read(&[0, 1, 2, 3]).is_some(),
        "three bytes pass for a file of a checkpoint"
    );
    let sound = guided.inputs();
    assert!(
        sound.iter().all(|input| guided.read(input).is_none()),
        "a sound file is refused"
    );
}

#[test]
fn the_corpus_has_the_graphs_that_were_made_to_do_harm() {
    let kept = seeds::kept();
    for (name, bytes) in seeds::made() {
        assert!(
            kept.contains(&(name.to_owned(), bytes)),
            "tests/data/hostile/{name} is not what tests/src/hostile/seeds.rs makes; run the test `regenerate`"
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
