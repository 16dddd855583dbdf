//! The data that travels with the repository is whole: it is what its README files say, and nothing is missing.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use actorflow_tests::repo;
use flate2::read::GzDecoder;
use serde_json::Value;

/// The folders of the bundled conformance cases.
fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(repo::root().join("tests/data/oracle")).expect("the cases can be listed");
    entries
        .map(|entry| entry.expect("a case can be listed").path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Every string of `value` that ends in `.npy`.
fn arrays(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(name) if name.ends_with(".npy") => {
            found.insert(name.clone());
        }
        Value::Array(values) => values.iter().for_each(|value| arrays(value, found)),
        Value::Object(entries) => entries.values().for_each(|value| arrays(value, found)),
        _ => {}
    }
}

#[test]
fn every_conformance_case_has_the_files_that_it_names_and_no_others() {
    let cases = cases();
    assert_eq!(cases.len(), 101, "the number that tests/data/oracle/README.md gives");
    for folder in cases {
        let text = fs::read_to_string(folder.join("case.json")).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let case: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut named = BTreeSet::from(["case.json".to_owned(), "graph.pb".to_owned()]);
        arrays(&case, &mut named);
        let there: BTreeSet<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(there, named, "{}", folder.display());
        let name = format!("{}.{}", case["group"].as_str().unwrap(), case["name"].as_str().unwrap());
        assert_eq!(folder.file_name().unwrap().to_str(), Some(name.as_str()));
        assert!(
            case["runs"].as_array().is_some_and(|runs| !runs.is_empty()),
            "{name} runs nothing"
        );
    }
}

#[test]
fn every_data_set_has_the_rows_columns_and_classes_that_its_page_gives() {
    for (file, rows, pixels, brightest) in [("digits.csv.gz", 1797, 64, 16), ("mnist_5k.csv.gz", 5000, 784, 255)] {
        let mut text = String::new();
        let packed = File::open(repo::root().join("engine/cli/data").join(file)).unwrap();
        GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        let mut labels = BTreeSet::new();
        for (row, line) in text.lines().enumerate() {
            let values: Vec<u32> = line
                .split(',')
                .map(|value| {
                    value
                        .parse()
                        .unwrap_or_else(|e| panic!("{file}:{}: {value}: {e}", row + 1))
                })
                .collect();
            let (label, image) = values.split_last().unwrap();
            assert_eq!(image.len(), pixels, "{file}:{}", row + 1);
            assert!(image.iter().all(|pixel| *pixel <= brightest), "{file}:{}", row + 1);
            labels.insert(*label);
        }
        assert_eq!(text.lines().count(), rows, "{file}");
        assert_eq!(labels, (0..10).collect(), "{file}");
    }
}
