//! `actorflow::ops` has a typed function for every operation, as the registry describes it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests

mod command;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const AGAIN: &str = "write them again with\n    cargo run --release -- ops --builders engine/src/ops/generated";

/// The text of every file of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).unwrap())
    };
    entries.map(read).collect()
}

#[test]
fn the_typed_functions_are_current() {
    let folder = tempfile::tempdir().unwrap();
    let ran = command::run(["ops", "--builders", &folder.path().display().to_string()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/ops/generated");
    let (now, then) = (files(folder.path()), files(&checked_in));
    assert!(
        now.keys().eq(then.keys()),
        "engine/src/ops/generated has the files {:?}, not {:?}; {AGAIN}",
        then.keys(),
        now.keys()
    );
    for (name, text) in &now {
        let differs = text.lines().zip(then[name].lines()).find(|(now, then)| now != then);
        assert!(
            *text == then[name],
            "engine/src/ops/generated/{name} is not what the engine has (first difference: {differs:?}); {AGAIN}"
        );
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let ran = command::run(["ops", "--builders", "no/such/folder"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no/such/folder"), "{}", ran.stderr);
}
