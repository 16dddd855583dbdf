//! Files that others must not read, and that are there whole or not at all.
#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use actorflow_core::{Code, Error, Result};

use super::crypto::{hex, random};

/// Makes a directory, with its parents, that its owner alone may enter. One that exists keeps its mode.
pub(crate) fn private_dir(dir: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| at(dir, error))
}

/// Options for a file that its owner alone may read and write, should they create it.
pub(crate) fn private_options() -> OpenOptions {
    #[allow(unused_mut)] // on systems without modes
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Replaces `dir/name` by `bytes`: its owner alone may read it, and after a crash it has the old content or the new.
pub(crate) fn write_private(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let target = dir.join(name);
    let temporary = dir.join(format!(".{name}.{}", hex(&random::<8>()?)));
    let written = (|| {
        let mut file = private_options().write(true).create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        sync_dir(dir)
    })();
    written.map_err(|error| {
        // The first error is the one to report; a file left behind holds nothing that the target would not.
        let _ = fs::remove_file(&temporary);
        at(&target, error)
    })
}

/// Makes the entries of a directory last.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// Reads at most `limit` bytes of a file that must be its owner's alone. `cure` says what to do if others can read it.
pub(crate) fn read_private(path: &Path, limit: usize, cure: &str) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| at(path, error))?;
    check_mode(&file, path, cure)?;
    read_bounded(file, path, limit)
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| at(path, error))?;
    read_bounded(file, path, limit)
}

fn read_bounded(file: File, path: &Path, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file at the limit from a longer one.
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound)
        .read_to_end(&mut bytes)
        .map_err(|error| at(path, error))?;
    match bytes.len() <= limit {
        true => Ok(bytes),
        false => Err(Error::data_loss(format!(
            "{} is longer than the {limit} bytes such a file can have",
            path.display()
        ))),
    }
}

#[cfg(unix)]
fn check_mode(file: &File, path: &Path, cure: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata().map_err(|error| at(path, error))?.permissions().mode() & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(Error::new(
            Code::PermissionDenied,
            format!(
                "{} holds a secret and others may read or change it (mode {mode:o}); run `chmod 600 {}`, and {cure}",
                path.display(),
                path.display()
            ),
        )),
    }
}

/// Without modes, the directory's access list is what protects the file.
#[cfg(not(unix))]
fn check_mode(_: &File, _: &Path, _: &str) -> Result<()> {
    Ok(())
}

/// An error of the file system, with the file.
pub(crate) fn at(path: &Path, error: std::io::Error) -> Error {
    Error::from(error).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        write_private(dir.path(), "f", b"old").unwrap();
        write_private(dir.path(), "f", b"new").unwrap();
        assert_eq!(read_private(&dir.path().join("f"), 3, "").unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_private(dir.path(), "f", b"1234").unwrap();
        assert_eq!(read(&dir.path().join("f"), 3).unwrap_err().code(), Code::DataLoss);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_its_owners_alone_and_one_that_is_not_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_private(dir.path(), "f", b"key").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o604, 0o640, 0o620, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path, 9, "make a new key").unwrap_err();
            assert_eq!(error.code(), Code::PermissionDenied);
            assert!(error.message().contains("chmod 600") && error.message().contains("make a new key"));
        }
    }
}
