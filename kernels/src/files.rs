//! Local files as kernels touch them: only where the task's [`FilePolicy`] lets graphs.
//!
//! A name may begin with `file://`; other URLs are for what goes through [`Location`](crate::checkpoint::Location).

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;

use actorflow_core::error::{Error, Result};
use actorflow_core::files::{Access, FilePolicy};

/// The path that a graph names, once the policy allows it.
fn allowed<'p>(files: &FilePolicy, path: &'p str, access: Access) -> Result<&'p str> {
    files.check(path, access)?;
    let plain = path.strip_prefix("file://").unwrap_or(path);
    match plain.contains("://") {
        true => Err(Error::unimplemented(format!(
            "this operation takes local files only, got {path:?}; copy the object to a file first"
        ))),
        false => Ok(plain),
    }
}

/// Opens a file for reading.
///
/// # Errors
/// `PERMISSION_DENIED` where the policy forbids it; what the system says, naming the file; `UNIMPLEMENTED` for a URL.
pub(crate) fn open(files: &FilePolicy, path: &str) -> Result<File> {
    File::open(allowed(files, path, Access::Read)?).map_err(|e| Error::from(e).context(path))
}

/// The whole file.
///
/// # Errors
/// As [`open`].
pub(crate) fn read(files: &FilePolicy, path: &str) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let read = open(files, path)?.read_to_end(&mut all);
    read.map_err(|e| Error::from(e).context(path))?;
    Ok(all)
}

/// Opens a file, made if there is none, for writing at its end.
///
/// # Errors
/// As [`open`].
pub(crate) fn append(files: &FilePolicy, path: &str) -> Result<File> {
    let plain = allowed(files, path, Access::Write)?;
    let opened = OpenOptions::new().create(true).append(true).open(plain);
    opened.map_err(|e| Error::from(e).context(path))
}

/// Whether there is a directory of that name; of a URL nothing is known.
///
/// # Errors
/// `PERMISSION_DENIED` where the policy forbids that kind of access.
pub(crate) fn is_dir(files: &FilePolicy, path: &str, access: Access) -> Result<bool> {
    files.check(path, access)?;
    let plain = path.strip_prefix("file://").unwrap_or(path);
    Ok(!plain.contains("://") && Path::new(plain).is_dir())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use actorflow_core::Code;

    use super::*;

    #[test]
    fn what_the_policy_forbids_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f").to_str().unwrap().to_owned();
        let none = FilePolicy::nothing();
        for refused in [
            append(&none, &path).map(drop),
            open(&none, &path).map(drop),
            read(&none, &path).map(drop),
            is_dir(&none, &path, Access::Write).map(drop),
        ] {
            assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        }
        assert!(!Path::new(&path).exists());
        let below = FilePolicy::only([dir.path()]).unwrap();
        append(&below, &path).unwrap().write_all(b"a").unwrap();
        append(&below, &format!("file://{path}"))
            .unwrap()
            .write_all(b"b")
            .unwrap();
        assert_eq!(read(&below, &path).unwrap(), b"ab");
        assert!(is_dir(&below, dir.path().to_str().unwrap(), Access::Read).unwrap());
    }

    #[test]
    fn a_url_is_no_local_file() {
        let e = open(&FilePolicy::anything(), "s3://bucket/x").unwrap_err();
        assert_eq!(e.code(), Code::Unimplemented);
        let e = open(&FilePolicy::only(["s3://bucket"]).unwrap(), "s3://bucket/x").unwrap_err();
        assert_eq!(e.code(), Code::Unimplemented);
    }
}
