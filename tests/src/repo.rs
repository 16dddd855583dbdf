//! Where the repository is and which files belong to it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root folder, whatever folder the tests run in.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Every file of the repository as a sorted list of `/`-separated paths relative to `root`.
///
/// With git: tracked files and new ones that git does not ignore, so that a rule already holds before the commit.
/// Without git (an unpacked source archive): all files outside of `target`, `out` and `.git`.
///
/// # Errors
/// An I/O error of the walk, when there is no git to ask.
pub fn files(root: &Path) -> io::Result<Vec<String>> {
    let mut files = match git_files(root) {
        Some(files) => files,
        None => {
            let mut found = Vec::new();
            walk(root, "", &mut found)?;
            found
        }
    };
    // A file that was deleted but not yet committed is still tracked.
    files.retain(|file| root.join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

fn git_files(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let names = String::from_utf8(output.stdout).ok()?;
    let files: Vec<String> = names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    // An archive unpacked inside somebody else's repository has git, but no file of ours is known to it.
    files.iter().any(|file| file == "Cargo.toml").then_some(files)
}

fn walk(root: &Path, below: &str, found: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = if below.is_empty() {
            name.clone()
        } else {
            format!("{below}/{name}")
        };
        let kind = entry.file_type()?;
        if kind.is_dir() && !(below.is_empty() && matches!(name.as_str(), "target" | "out" | ".git")) {
            walk(root, &path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_lists_this_very_file_and_nothing_built() {
        let files = files(&root()).unwrap();
        assert!(files.iter().any(|file| file == "tests/src/repo.rs"), "{files:?}");
        assert!(!files.iter().any(|file| file.starts_with("target/")), "{files:?}");
    }

    #[test]
    fn a_source_archive_without_git_is_walked() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["Cargo.toml", "engine/src/lib.rs", "target/release/junk.rs"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(files(folder.path()).unwrap(), ["Cargo.toml", "engine/src/lib.rs"]);
    }
}
