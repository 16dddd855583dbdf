//! Where checkpoints are: local files, or objects of a cloud's store, through `object_store`.
//!
//! A write appears whole or not at all: a local file is written beside its place, synchronised to the disk and then
//! renamed; an object store publishes an object when its upload is complete.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::{Component, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::files::{Access, FilePolicy};
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

/// A file: in the local file system, or `s3://bucket/key`, `gs://bucket/key`.
#[derive(Clone)]
pub struct Location {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// The directory (with its slash) as it was written, for messages and for neighbours.
    folder: String,
    name: String,
    /// What is allowed, when it is a graph that names the file.
    files: FilePolicy,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.folder, self.name)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Wakes the thread that waits in [`wait`].
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks the thread until the future is ready. Local files need no runtime; see [`cloud`] for the rest.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(any(feature = "s3", feature = "gs"))]
mod cloud {
    //! The runtime that requests to a cloud's store need; it has one thread, started by the first request.

    use std::sync::OnceLock;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    static RUNTIME: OnceLock<Runtime> = OnceLock::new();

    fn runtime() -> Result<&'static Runtime> {
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        let made = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("actorflow-store")
            .enable_all()
            .build()?;
        Ok(RUNTIME.get_or_init(|| made))
    }

    pub(super) fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        super::wait(runtime()?.spawn(future)).map_err(|e| Error::internal(e.to_string()))
    }
}

/// The code of an error of the file system that is somewhere inside; `UNAVAILABLE` if there is none.
fn file_error(e: &object_store::Error) -> Code {
    use std::io::ErrorKind as K;
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(now) = at {
        if let Some(io) = now.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                K::NotADirectory | K::IsADirectory => Code::FailedPrecondition,
                K::PermissionDenied | K::ReadOnlyFilesystem => Code::PermissionDenied,
                K::StorageFull | K::QuotaExceeded | K::OutOfMemory => Code::ResourceExhausted,
                K::NotFound => Code::NotFound,
                K::InvalidFilename => Code::InvalidArgument,
                _ => Code::Unavailable,
            };
        }
        at = now.source();
    }
    Code::Unavailable
}

fn failed(at: &Location, e: object_store::Error) -> Error {
    use object_store::Error as E;
    let code = match &e {
        E::NotFound { .. } => Code::NotFound,
        E::PermissionDenied { .. } => Code::PermissionDenied,
        E::Unauthenticated { .. } => Code::Unauthenticated,
        E::AlreadyExists { .. } => Code::AlreadyExists,
        E::InvalidPath { .. } => Code::InvalidArgument,
        other => file_error(other),
    };
    match code {
        Code::NotFound => Error::new(code, format!("{at}; No such file or directory")),
        _ => Error::new(code, format!("{at}; {e}")),
    }
}

/// The absolute path with `.` and `..` taken out of it.
fn plain_path(text: &str) -> Result<PathBuf> {
    let absolute = std::path::absolute(text).map_err(|e| Error::invalid(format!("{text:?} is no path: {e}")))?;
    let mut plain = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                // As the file system has it: `a/link/..` is not `a`.
                if let Ok(real) = plain.canonicalize() {
                    plain = real;
                }
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    Ok(plain)
}

impl Location {
    /// The file that a program or a user names: any local path, absolute or relative to the current directory, or a
    /// URL.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what names no file; `UNIMPLEMENTED` for a URL whose feature (`s3`, `gs`) is not built
    /// in.
    pub fn of(text: &str) -> Result<Location> {
        let text = text.strip_prefix("file://").unwrap_or(text);
        let (folder, name) = match text.rfind('/') {
            Some(at) => text.split_at(at + 1),
            None => ("", text),
        };
        if matches!(name, "" | "." | "..") || text.contains('\0') {
            return Err(Error::invalid(format!("{text:?} does not name a file")));
        }
        let (store, path) = match text.split_once("://") {
            Some((scheme, _)) => remote(scheme, text)?,
            None => local(text)?,
        };
        Ok(Location {
            store,
            path,
            folder: folder.to_owned(),
            name: name.to_owned(),
            files: FilePolicy::anything(),
        })
    }

    /// The same file, of which from now on only what `files` allows can be done, and so of its neighbours.
    fn within(mut self, files: &FilePolicy) -> Location {
        self.files = files.clone();
        self
    }

    /// As [`of`](Self::of), for a name that comes out of a graph: it must not climb out of a directory by `..`, and what
    /// `files` does not allow fails with `PERMISSION_DENIED`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for such a name too.
    pub fn in_graph(text: &[u8], files: &FilePolicy) -> Result<Location> {
        Ok(Location::of(graph_path(text)?)?.within(files))
    }

    /// The file's name in its directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory with a slash at its end, empty for the current one.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// A file of the same directory.
    ///
    /// # Errors
    /// `DATA_LOSS` if the name is not a bare one: this is how names are taken out of manifests.
    pub fn neighbour(&self, name: &str) -> Result<Location> {
        let bare = !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0']);
        if !bare {
            return Err(Error::data_loss(format!(
                "{self} names the file {name:?}, which is not a plain name in its directory"
            )));
        }
        self.with_name(name)
    }

    /// The file whose name has that much more at its end.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if that names no file.
    pub fn suffixed(&self, suffix: &str) -> Result<Location> {
        self.with_name(&format!("{}{suffix}", self.name))
    }

    fn with_name(&self, name: &str) -> Result<Location> {
        let text = format!("{}{name}", self.folder);
        if self.is_local() {
            return Ok(Location::of(&text)?.within(&self.files));
        }
        // A store keeps its connections and credentials, so that there is one for all files of a checkpoint.
        Ok(Location {
            store: self.store.clone(),
            path: object_path(&text)?,
            folder: self.folder.clone(),
            name: name.to_owned(),
            files: self.files.clone(),
        })
    }

    fn allow(&self, access: Access) -> Result<()> {
        match self.files.allows_anything() {
            true => Ok(()),
            false => self.files.check(&self.to_string(), access),
        }
    }

    /// The whole file.
    ///
    /// # Errors
    /// `NOT_FOUND`, `PERMISSION_DENIED` and what else the store says.
    pub fn read(&self) -> Result<Bytes> {
        self.allow(Access::Read)?;
        let (store, path) = (self.store.clone(), self.path.clone());
        self.run(async move { store.get(&path).await?.bytes().await })
            .map_err(|e| self.not_there(e))
    }

    /// Bytes `range` of the file; fewer if it is shorter.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        self.allow(Access::Read)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (store, path) = (self.store.clone(), self.path.clone());
        self.run(async move { store.get_range(&path, range).await })
            .map_err(|e| self.not_there(e))
    }

    /// The file's length; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for `NOT_FOUND`.
    pub fn length(&self) -> Result<Option<u64>> {
        self.allow(Access::Read)?;
        let (store, path) = (self.store.clone(), self.path.clone());
        let meta = self.run(async move { store.head(&path).await });
        match meta.map_err(|e| self.not_there(e)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(e) if e.code() == Code::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What is to be read below a file, or is a directory, is not there.
    fn not_there(&self, e: Error) -> Error {
        match e.code() {
            Code::FailedPrecondition => Error::not_found(e.message()),
            _ => e,
        }
    }

    /// Writes the file as a whole, directories included; a reader sees the old file or the new one.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, `UNAVAILABLE`: what the store says.
    pub fn write(&self, parts: Vec<Bytes>) -> Result<()> {
        self.allow(Access::Write)?;
        let (store, path) = (self.store.clone(), self.path.clone());
        let payload: PutPayload = parts.into_iter().collect();
        self.run(async move { store.put(&path, payload).await }).map(|_| ())
    }

    /// Deletes the file; that there is none is no error.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, `UNAVAILABLE`: what the store says.
    pub fn delete(&self) -> Result<()> {
        self.allow(Access::Write)?;
        let (store, path) = (self.store.clone(), self.path.clone());
        match self.run(async move { store.delete(&path).await }) {
            Err(e) if e.code() != Code::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Moves the file to another place, replacing what is there.
    ///
    /// # Errors
    /// `NOT_FOUND`, `PERMISSION_DENIED` and what else the store says; `UNIMPLEMENTED` from one store to another.
    pub fn rename(&self, to: &Location) -> Result<()> {
        self.allow(Access::Write)?;
        to.allow(Access::Write)?;
        if self.is_local() != to.is_local() || self.bucket() != to.bucket() {
            return Err(Error::unimplemented(format!(
                "{self} cannot be moved to {to}: they are in different stores"
            )));
        }
        let (store, path, to) = (self.store.clone(), self.path.clone(), to.path.clone());
        self.run(async move { store.rename(&path, &to).await })
    }

    /// Whether there is a checkpoint of this prefix, of this engine or a V2 bundle of TensorFlow.
    ///
    /// # Errors
    /// What the store says.
    pub fn is_checkpoint(&self) -> Result<bool> {
        for suffix in [super::manifest::SUFFIX, ".index"] {
            if self.suffixed(suffix)?.length()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the file's directory if nothing is left in it; that something is, or that there is none, is no error.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if the directory may not be written to.
    pub fn remove_folder(&self) -> Result<()> {
        if self.is_local() && !self.folder.is_empty() {
            // What is to go has to be inside of what is allowed, not the allowed directory itself.
            let folder = self.folder.trim_end_matches('/');
            self.files.check(folder, Access::Write)?;
            let around = std::path::Path::new(folder).parent().and_then(|p| p.to_str());
            self.files
                .check(around.filter(|p| !p.is_empty()).unwrap_or("."), Access::Write)?;
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Whether it is in the local file system.
    pub fn is_local(&self) -> bool {
        !self.folder.contains("://")
    }

    fn bucket(&self) -> Option<(&str, &str)> {
        let (scheme, rest) = self.folder.split_once("://")?;
        Some((scheme, rest.split('/').next().unwrap_or(rest)))
    }

    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T> {
        #[cfg(any(feature = "s3", feature = "gs"))]
        if !self.is_local() {
            return cloud::wait(future)?.map_err(|e| failed(self, e));
        }
        wait(future).map_err(|e| failed(self, e))
    }
}

/// The same file by a name without `..`, which graphs may have: a URL or a path without it as it is, any other path
/// made absolute.
///
/// # Errors
/// `INVALID_ARGUMENT` for what is no path or no text.
pub fn without_climbing(text: &str) -> Result<String> {
    if text.contains("://") || !text.split('/').any(|part| part == "..") {
        return Ok(text.to_owned());
    }
    let plain = plain_path(text)?;
    let text = plain.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::invalid(format!("the path {} is not UTF-8", plain.display())))
}

/// A path out of a graph as text.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is no UTF-8, empty, or climbs by `..`.
pub fn graph_path(text: &[u8]) -> Result<&str> {
    let shown = String::from_utf8_lossy(text);
    let text = std::str::from_utf8(text).map_err(|_| Error::invalid(format!("the path {shown:?} is not UTF-8")))?;
    if text.is_empty() {
        return Err(Error::invalid("the path is empty"));
    }
    if text.split(['/', '\\']).any(|part| part == "..") {
        return Err(Error::invalid(format!(
            "the path {text:?} leaves its directory by `..`; name an absolute path instead"
        )));
    }
    Ok(text)
}

fn local(text: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let path = Path::from_absolute_path(plain_path(text)?)
        .map_err(|e| Error::invalid(format!("{text:?} cannot be a file's name: {e}")))?;
    Ok((Arc::new(LocalFileSystem::new().with_fsync(true)), path))
}

/// What comes after the bucket of a URL.
fn object_path(url: &str) -> Result<Path> {
    let key = url.split_once("://").map_or("", |(_, rest)| rest);
    let key = key.split_once('/').map_or("", |(_, key)| key);
    Path::parse(key).map_err(|e| Error::invalid(format!("{url:?} cannot be an object's name: {e}")))
}

fn remote(scheme: &str, text: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let path = object_path(text)?;
    match scheme {
        #[cfg(feature = "s3")]
        "s3" | "s3a" => {
            let made = object_store::aws::AmazonS3Builder::from_env().with_url(text).build();
            let store = made.map_err(|e| Error::invalid(format!("{text}: {e}")))?;
            Ok((Arc::new(store), path))
        }
        #[cfg(feature = "gs")]
        "gs" => {
            let made = object_store::gcp::GoogleCloudStorageBuilder::from_env()
                .with_url(text)
                .build();
            let store = made.map_err(|e| Error::invalid(format!("{text}: {e}")))?;
            Ok((Arc::new(store), path))
        }
        other => Err(Error::unimplemented(format!(
            "{path} of {text}: there is no store for {other}://; the cargo features `s3` and `gs` add s3:// and gs://"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_whole_read_in_parts_renamed_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Location::of(&format!("{}/{name}", dir.path().display())).unwrap();
        let a = at("deep/er/a b%20ü");
        assert_eq!(a.length().unwrap(), None);
        assert_eq!(a.read().unwrap_err().code(), Code::NotFound);
        a.write(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")])
            .unwrap();
        assert_eq!(a.read().unwrap(), "abcdef");
        assert_eq!(a.read_range(2..4).unwrap(), "cd");
        assert_eq!(a.length().unwrap(), Some(6));
        assert!(dir.path().join("deep/er/a b%20ü").is_file());
        let b = at("b");
        a.rename(&b).unwrap();
        assert_eq!((a.length().unwrap(), b.length().unwrap()), (None, Some(6)));
        b.delete().unwrap();
        b.delete().unwrap();
        assert_eq!(b.length().unwrap(), None);
    }

    #[test]
    fn errors_of_the_file_system_keep_their_meaning() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Location::of(&format!("{}/{name}", dir.path().display())).unwrap();
        at("file").write(vec![Bytes::from_static(b"x")]).unwrap();
        let e = at("file/below").write(vec![Bytes::new()]).unwrap_err();
        assert_eq!(e.code(), Code::FailedPrecondition, "{e}");
        assert_eq!(at("file/below").length().unwrap(), None);
        assert_eq!(at("file/below").read().unwrap_err().code(), Code::NotFound);
        let here = Location::of(&dir.path().display().to_string()).unwrap();
        assert_eq!(here.read().unwrap_err().code(), Code::NotFound);
        let long = at(&"n".repeat(300)).write(vec![Bytes::new()]).unwrap_err();
        assert!(
            matches!(long.code(), Code::InvalidArgument | Code::Unavailable),
            "{long}"
        );
        assert!(e.message().contains("file/below"));
    }

    #[test]
    fn names_out_of_graphs_and_manifests_cannot_climb() {
        const ANY: FilePolicy = FilePolicy::anything();
        for bad in ["../x", "a/../../x", "..", "", "a\\..\\x"] {
            assert_eq!(
                Location::in_graph(bad.as_bytes(), &ANY).unwrap_err().code(),
                Code::InvalidArgument,
                "{bad:?}"
            );
        }
        assert!(Location::in_graph(b"\xff", &ANY).is_err() && Location::in_graph(b"a/", &ANY).is_err());
        let a = Location::in_graph(b"ckpt/model..1", &ANY).unwrap();
        for bad in ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "c\\d"] {
            assert_eq!(a.neighbour(bad).unwrap_err().code(), Code::DataLoss, "{bad:?}");
        }
        assert_eq!(a.neighbour("x").unwrap().to_string(), "ckpt/x");
        assert_eq!(a.suffixed(".index").unwrap().to_string(), "ckpt/model..1.index");
    }

    #[test]
    fn a_store_that_is_not_built_in_is_named() {
        let e = Location::of("hdfs://host/x").unwrap_err();
        assert_eq!(e.code(), Code::Unimplemented);
        assert!(e.message().contains("hdfs"), "{e}");
    }
    #[test]
    fn a_policy_holds_for_a_location_its_neighbours_and_everything_done_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let text = |name: &str| format!("{}/{name}", dir.path().display());
        for folder in ["in", "out", "ro"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
            std::fs::write(text(&format!("{folder}/f")), "x").unwrap();
        }
        let files = FilePolicy::only([text("in"), text("ro") + ":ro"]).unwrap();
        let at = |name: &str| Location::in_graph(text(name).as_bytes(), &files).unwrap();
        let denied = |r: Result<()>| assert_eq!(r.unwrap_err().code(), Code::PermissionDenied);
        let (inside, out, ro) = (at("in/g"), at("out/f"), at("ro/f"));
        inside.write(vec![Bytes::from_static(b"y")]).unwrap();
        assert_eq!((inside.read().unwrap(), ro.length().unwrap()), ("y".into(), Some(1)));
        assert!(ro.neighbour("g").unwrap().length().unwrap().is_none());
        denied(out.read().map(drop));
        denied(out.read_range(0..1).map(drop));
        denied(out.length().map(drop));
        denied(out.is_checkpoint().map(drop));
        denied(out.neighbour("g").unwrap().length().map(drop));
        denied(out.suffixed("g").unwrap().write(vec![Bytes::new()]));
        for at in [&out, &ro] {
            denied(at.write(vec![Bytes::new()]));
            denied(at.delete());
            denied(at.rename(&inside));
            denied(inside.rename(at));
            denied(at.remove_folder());
        }
        // A link among a checkpoint's files leads no further than a link among its names.
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(text("out/f"), dir.path().join("in/shard")).unwrap();
            denied(inside.neighbour("shard").unwrap().read().map(drop));
        }
        // The allowed directory itself stays.
        let empty = tempfile::tempdir_in(dir.path()).unwrap();
        let only = FilePolicy::only([empty.path()]).unwrap();
        let name = format!("{}/f", empty.path().display());
        denied(Location::in_graph(name.as_bytes(), &only).unwrap().remove_folder());
        assert!(empty.path().is_dir());
    }
}
