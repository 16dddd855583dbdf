//! The folder of a local cluster, with the identities of its members.
//!
//! It is removed when the cluster ends. A supervisor that is killed cannot do that, so the next one does: whoever has a
//! folder keeps a file in it locked, which the system unlocks when the process is gone.

use std::fs::{self, File};
use std::path::Path;

use actorflow::{Error, Result};
use tempfile::TempDir;

/// How folders begin, in the system's folder of temporary files.
const PREFIX: &str = "actorflow-cluster-";
/// The file that is locked.
const LOCK: &str = "lock";

/// A private folder; dropping it removes it.
pub(super) struct Folder {
    dir: TempDir,
    /// Held until the process is gone.
    _lock: File,
}

impl Folder {
    /// A new folder; those whose processes are gone are removed.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn new() -> Result<Folder> {
        clean(&std::env::temp_dir());
        Folder::in_dir(&std::env::temp_dir())
    }

    fn in_dir(parent: &Path) -> Result<Folder> {
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(parent)
            .map_err(Error::from)?;
        // Locked before it has its name, so that nobody finds it unlocked.
        let made = dir.path().join("lock.new");
        let lock = File::create(&made).map_err(Error::from)?;
        lock.lock().map_err(Error::from)?;
        fs::rename(&made, dir.path().join(LOCK)).map_err(Error::from)?;
        Ok(Folder { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes the folders whose processes are gone.
fn clean(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let ours = name.to_str().is_some_and(|n| n.starts_with(PREFIX));
        // Of other users nothing can be opened, and nothing is to be removed.
        if ours
            && let Ok(lock) = File::options().write(true).open(path.join(LOCK))
            && lock.try_lock().is_ok()
        {
            // Another process may be at it, too.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_those_who_are_gone_are_removed_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        let living = Folder::in_dir(parent.path()).unwrap();
        let orphan = parent.path().join(format!("{PREFIX}orphan"));
        let foreign = parent.path().join("other");
        for dir in [&orphan, &foreign] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join(LOCK), "").unwrap();
        }
        // One that is being made has no lock yet.
        let young = parent.path().join(format!("{PREFIX}young"));
        fs::create_dir(&young).unwrap();
        clean(parent.path());
        assert!(living.path().exists() && foreign.exists() && young.exists());
        assert!(!orphan.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
