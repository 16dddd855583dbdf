//! The bundled cases that TensorFlow has answered.

use std::path::PathBuf;

use crate::repo;

/// The folders of `tests/data/oracle`, sorted; each holds a `graph.pb`, a `case.json` and arrays.
/// `ACTORFLOW_CASES` names another folder of such cases.
///
/// # Errors
/// An I/O error of the listing.
pub fn cases() -> std::io::Result<Vec<PathBuf>> {
    let mut cases = Vec::new();
    let folder = match std::env::var_os("ACTORFLOW_CASES") {
        Some(folder) => std::path::absolute(PathBuf::from(folder))?,
        None => repo::root().join("tests/data/oracle"),
    };
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.join("case.json").is_file() {
            cases.push(path);
        }
    }
    cases.sort();
    Ok(cases)
}
