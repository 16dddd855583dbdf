//! Which files graphs may touch.
//!
//! Whoever submits a graph to a task chooses the names of the files that its operations read and write. The task has a
//! [`FilePolicy`], which its [`ResourceManager`](crate::resource::ResourceManager) holds; every kernel asks it before it
//! touches a file.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// What an operation is about to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it, list it, or ask whether it is there.
    Read,
    /// Make, change, move or delete it.
    Write,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
        })
    }
}

/// A directory, or the beginning of a URL, and what may be done below it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Allowed {
    place: Place,
    read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Absolute and without symbolic links.
    Directory(PathBuf),
    /// Without a slash at its end.
    Url(String),
}

impl Allowed {
    fn of(entry: &Path) -> Result<Allowed> {
        let (text, read_only) = match entry.to_str() {
            Some(text) => match text.strip_suffix(":ro") {
                Some(text) => (Some(text), true),
                None => (Some(text), false),
            },
            None => (None, false),
        };
        let text = text.map(|t| t.strip_prefix("file://").unwrap_or(t));
        if let Some(url) = text.filter(|t| t.contains("://")) {
            let url = url.trim_end_matches('/');
            if !url.contains("://") || url.starts_with("://") || climbs(url) {
                return Err(Error::invalid(format!(
                    "{} is no URL of a bucket or of a folder in one; write s3://bucket/folder",
                    entry.display()
                )));
            }
            let place = Place::Url(url.to_owned());
            return Ok(Allowed { place, read_only });
        }
        let directory = text.map_or(entry, Path::new);
        if directory.as_os_str().is_empty() {
            return Err(Error::invalid(
                "the name of an allowed directory is empty; write . for the current one",
            ));
        }
        let real = directory.canonicalize().map_err(|e| {
            Error::from(e).context(format!(
                "the allowed directory {} has to exist; create it first",
                directory.display()
            ))
        })?;
        if !real.is_dir() {
            return Err(Error::invalid(format!(
                "{} is not a directory, and only directories can be allowed",
                directory.display()
            )));
        }
        let place = Place::Directory(real);
        Ok(Allowed { place, read_only })
    }

    /// How much of a name the place is, in bytes, if the name is the place or below it.
    fn covers(&self, named: &Place) -> Option<usize> {
        match (&self.place, named) {
            (Place::Directory(dir), Place::Directory(path)) => path.starts_with(dir).then(|| dir.as_os_str().len()),
            (Place::Url(base), Place::Url(url)) => url
                .strip_prefix(base.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                .then_some(base.len()),
            _ => None,
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Directory(dir) => write!(f, "{}", dir.display())?,
            Place::Url(url) => f.write_str(url)?,
        }
        f.write_str(if self.read_only { " (read only)" } else { "" })
    }
}

/// Which files the operations of graphs may touch: any, or those below some directories. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FilePolicy {
    /// `None` allows everything.
    allowed: Option<Arc<[Allowed]>>,
}

impl FilePolicy {
    /// Every file that the process may touch: for sessions whose graphs are the program's own.
    pub const fn anything() -> FilePolicy {
        FilePolicy { allowed: None }
    }

    /// No file at all.
    pub fn nothing() -> FilePolicy {
        FilePolicy {
            allowed: Some(Arc::new([])),
        }
    }

    /// The files below these directories, and the objects below these URLs (`s3://bucket/folder`). An entry that ends in
    /// `:ro` may only be read from. Where entries are inside of each other, the innermost decides. Without an entry
    /// nothing is allowed.
    ///
    /// Directories are resolved now: symbolic links that change later do not change what is allowed.
    ///
    /// # Errors
    /// `NOT_FOUND` (or what else the system says) naming a directory that does not exist, `INVALID_ARGUMENT` for one that
    /// is none, and for a URL without a bucket.
    pub fn only<P: AsRef<Path>>(directories: impl IntoIterator<Item = P>) -> Result<FilePolicy> {
        let allowed = directories.into_iter().map(|d| Allowed::of(d.as_ref()));
        Ok(FilePolicy {
            allowed: Some(allowed.collect::<Result<Vec<_>>>()?.into()),
        })
    }

    /// Whether an operation may do that with the file (or directory, or object) called `path`, which need not exist.
    ///
    /// A local path is taken as the system would take it: relative to the current directory, with `..` and symbolic links
    /// followed, also those that lead nowhere yet. The answer holds for the file system as it is: that nobody but the
    /// task's owner can make links in its directories is up to whoever allows them.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` naming the path, what is allowed, and the cure.
    pub fn check(&self, path: &str, access: Access) -> Result<()> {
        let Some(allowed) = &self.allowed else {
            return Ok(());
        };
        let innermost = named(path).and_then(|place| {
            let covering = allowed.iter().filter_map(|a| Some((a.covers(&place)?, !a.read_only)));
            // Of the same directory twice, the one that allows more.
            covering.max()
        });
        match (innermost, access) {
            (Some(_), Access::Read) | (Some((_, true)), Access::Write) => Ok(()),
            _ => Err(refused(path, access, allowed)),
        }
    }

    /// Whether every check succeeds.
    pub fn allows_anything(&self) -> bool {
        self.allowed.is_none()
    }
}

#[cold]
fn refused(path: &str, access: Access, allowed: &[Allowed]) -> Error {
    let list: Vec<String> = allowed.iter().map(Allowed::to_string).collect();
    let only = match list.is_empty() {
        true => "no files at all".to_owned(),
        false => format!("only files in {}", list.join(", ")),
    };
    Error::permission_denied(format!(
        "a graph may not {access} {path:?} here: this task lets graphs touch {only}; start it with --allow-dir DIR, DIR \
         being a directory that contains the file{}",
        match access {
            Access::Read => " (DIR:ro to allow no more than reading)",
            Access::Write => " and does not end in :ro",
        }
    ))
}

/// What a path names; `None` for what cannot be told.
fn named(path: &str) -> Option<Place> {
    let text = path.strip_prefix("file://").unwrap_or(path);
    match text.contains("://") {
        true if climbs(text) => None,
        true => Some(Place::Url(text.to_owned())),
        false => resolved(Path::new(text)).map(Place::Directory),
    }
}

/// Whether a URL has a part that means another folder to some who read it.
fn climbs(url: &str) -> bool {
    url.split(['/', '\\'])
        .any(|part| matches!(part.replace("%2e", ".").replace("%2E", ".").as_str(), "." | ".."))
}

/// Symbolic links on the way to one file; Linux follows as many.
const MOST_LINKS: usize = 40;

/// The absolute path without `..` and symbolic links. Parts that do not exist stay as they are; `None` if the system
/// would not find a way, or what is on it cannot be told.
fn resolved(path: &Path) -> Option<PathBuf> {
    // Of a path that is to be walked, the next part is the last one.
    let parts = |p: &Path| -> Vec<OsString> { p.components().rev().map(|c| c.as_os_str().to_owned()).collect() };
    let mut ahead = parts(&std::path::absolute(path).ok()?);
    let (mut real, mut exists, mut links) = (PathBuf::new(), true, 0);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            // There is no way out of what does not exist.
            if !exists {
                return None;
            }
            real.pop();
            continue;
        }
        // The root and an absolute link's target begin anew.
        let next = real.join(&part);
        match fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() => {
                links += 1;
                if links > MOST_LINKS {
                    return None;
                }
                ahead.extend(parts(&fs::read_link(&next).ok()?));
            }
            Ok(_) => real = next,
            Err(e) => match e.kind() {
                // What cannot be looked at is no link that could be followed.
                ErrorKind::NotFound
                | ErrorKind::NotADirectory
                | ErrorKind::PermissionDenied
                | ErrorKind::InvalidFilename => (real, exists) = (next, false),
                _ => return None,
            },
        }
    }
    Some(real)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    /// A directory of the test's own, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir = std::env::temp_dir().join(format!("actorflow-files-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("in/deep")).unwrap();
            fs::create_dir_all(dir.join("inside")).unwrap();
            fs::create_dir_all(dir.join("out")).unwrap();
            fs::write(dir.join("in/f"), "f").unwrap();
            fs::write(dir.join("out/f"), "f").unwrap();
            Scratch(dir.canonicalize().unwrap())
        }

        fn at(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().to_owned()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn allows(policy: &FilePolicy, path: &str, access: Access) -> bool {
        match policy.check(path, access) {
            Ok(()) => true,
            Err(e) => {
                assert_eq!(e.code(), Code::PermissionDenied, "{e}");
                false
            }
        }
    }

    #[test]
    fn only_what_is_below_an_allowed_directory_may_be_touched() {
        let s = Scratch::new("below");
        let policy = FilePolicy::only([s.at("in")]).unwrap();
        for (path, fine) in [
            ("in", true),
            ("in/f", true),
            ("in/./f", true),
            ("in/deep/../f", true),
            ("in/new/and/newer", true),
            ("in/f/below", true),
            ("in/../in/f", true),
            ("out/f", false),
            ("inside/f", false),
            ("in/../out/f", false),
            ("in/deep/../../out/f", false),
            ("in/new/../../out/f", false),
            ("in/new/../f", false),
            ("", false),
        ] {
            let path = s.at(path);
            for access in [Access::Read, Access::Write] {
                assert_eq!(allows(&policy, &path, access), fine, "{access} {path}");
                assert_eq!(allows(&policy, &format!("file://{path}"), access), fine, "{path}");
            }
        }
        assert!(!allows(&policy, "/etc/passwd", Access::Read) && !allows(&policy, "", Access::Read));
    }

    #[test]
    fn a_relative_path_is_taken_from_the_current_directory() {
        let here = std::env::current_dir().unwrap();
        let policy = FilePolicy::only(["."]).unwrap();
        assert!(allows(&policy, "some/file", Access::Write) && allows(&policy, "./x", Access::Read));
        assert!(!allows(&policy, "../x", Access::Read));
        let inner = FilePolicy::only([here.join("src")]).unwrap();
        assert!(allows(&inner, "src/lib.rs", Access::Read) && !allows(&inner, "Cargo.toml", Access::Read));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_also_those_that_lead_nowhere_yet() {
        use std::os::unix::fs::symlink;
        let s = Scratch::new("links");
        let link = |target: &str, name: &str| symlink(target, s.0.join(name)).unwrap();
        link(&s.at("out"), "in/out");
        link("../out/f", "in/file");
        link("../out/new", "in/dangling");
        link("../out/none", "in/deep/nowhere");
        link("deep", "in/fine");
        link("loop", "in/loop");
        link(&s.at("in"), "out/back");
        let policy = FilePolicy::only([s.at("in")]).unwrap();
        for (path, fine) in [
            ("in/out/f", false),
            ("in/file", false),
            ("in/dangling", false),
            ("in/deep/nowhere/x", false),
            ("in/fine/x", true),
            ("in/loop", false),
            ("in/loop/x", false),
            ("in/fine/../f", true),
            ("in/out/../f", false),
            ("out/back/f", true),
        ] {
            assert_eq!(allows(&policy, &s.at(path), Access::Write), fine, "{path}");
        }
        // An allowed directory may itself be named by a link, and is what that led to at first.
        let policy = FilePolicy::only([s.at("out/back")]).unwrap();
        assert!(allows(&policy, &s.at("in/f"), Access::Read) && !allows(&policy, &s.at("out/f"), Access::Read));
    }

    #[test]
    fn the_innermost_entry_decides_about_writing() {
        let s = Scratch::new("modes");
        let policy = FilePolicy::only([s.at("in") + ":ro", s.at("in/deep"), s.at("out"), s.at("out") + ":ro"]).unwrap();
        for (path, writes) in [("in/f", false), ("in/deep/f", true), ("out/f", true)] {
            assert!(allows(&policy, &s.at(path), Access::Read), "{path}");
            assert_eq!(allows(&policy, &s.at(path), Access::Write), writes, "{path}");
        }
        let policy = FilePolicy::only([s.at("in"), s.at("in/deep") + ":ro"]).unwrap();
        assert!(allows(&policy, &s.at("in/f"), Access::Write) && !allows(&policy, &s.at("in/deep/f"), Access::Write));
    }

    #[test]
    fn urls_are_allowed_below_allowed_urls_only() {
        let policy = FilePolicy::only(["s3://bucket/data/", "gs://open:ro", "/"]).unwrap();
        for (path, reads, writes) in [
            ("s3://bucket/data/x", true, true),
            ("s3://bucket/data", true, true),
            ("s3://bucket/database", false, false),
            ("s3://bucket/data/../x", false, false),
            ("s3://bucket/data/%2e%2E/x", false, false),
            ("s3://bucket/other", false, false),
            ("s3://bucket@evil/data/x", false, false),
            ("s3a://bucket/data/x", false, false),
            ("gs://open/x", true, false),
            ("gs://opener/x", false, false),
            ("http://localhost/x", false, false),
            ("file://file:///etc/passwd", false, false),
        ] {
            assert_eq!(allows(&policy, path, Access::Read), reads, "{path}");
            assert_eq!(allows(&policy, path, Access::Write), writes, "{path}");
        }
    }

    #[test]
    fn nothing_is_allowed_without_an_entry_and_anything_without_a_policy() {
        for policy in [FilePolicy::nothing(), FilePolicy::only([""; 0]).unwrap()] {
            let e = policy.check("/data/x", Access::Write).unwrap_err();
            assert!(
                e.message().contains("/data/x") && e.message().contains("no files"),
                "{e}"
            );
            assert!(!policy.allows_anything());
        }
        assert!(FilePolicy::anything().check("s3://any/where", Access::Write).is_ok());
    }

    #[test]
    fn a_refusal_names_the_path_what_is_allowed_and_the_cure() {
        let s = Scratch::new("message");
        let policy = FilePolicy::only([s.at("in") + ":ro"]).unwrap();
        let e = policy.check(&s.at("in/f"), Access::Write).unwrap_err();
        assert_eq!(e.code(), Code::PermissionDenied);
        for part in [
            &s.at("in/f"),
            &format!("{} (read only)", s.at("in")),
            "write",
            "--allow-dir",
        ] {
            assert!(e.message().contains(part), "{part} in {e}");
        }
    }

    #[test]
    fn entries_that_name_no_directory_are_refused() {
        let s = Scratch::new("entries");
        for (entry, code) in [
            (s.at("none"), Code::NotFound),
            (s.at("in/f"), Code::InvalidArgument),
            (String::new(), Code::InvalidArgument),
            (":ro".to_owned(), Code::InvalidArgument),
            ("s3://".to_owned(), Code::InvalidArgument),
            ("s3://b/../c".to_owned(), Code::InvalidArgument),
        ] {
            assert_eq!(FilePolicy::only([&entry]).unwrap_err().code(), code, "{entry:?}");
        }
    }
}
