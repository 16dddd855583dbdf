//! Where members of clusters on this machine keep who they are.

use std::path::{Path, PathBuf};

use actorflow::cluster::identity::{Identity, Subject};
use actorflow::{Error, Result};

/// Names the folder of identities.
pub(crate) const HOME: &str = "ACTORFLOW_HOME";

/// Beside a task's identity: the cluster's epoch as the task knows it.
pub(crate) fn epoch_file(identity: &Path) -> PathBuf {
    identity.join("epoch")
}

/// The folder of identities: that of the environment variable `ACTORFLOW_HOME`, or `~/.actorflow`.
///
/// # Errors
/// `NOT_FOUND` if there is no home folder.
pub(crate) fn home() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(HOME).filter(|d| !d.is_empty()) {
        return Ok(dir.into());
    }
    let home = std::env::home_dir().filter(|d| !d.as_os_str().is_empty());
    home.map(|h| h.join(".actorflow")).ok_or_else(|| {
        Error::not_found(format!(
            "there is no home folder; say where identities are with --identity DIR or {HOME}"
        ))
    })
}

/// Where a member's identity is by default: `~/.actorflow/task-worker-1`.
///
/// # Errors
/// As [`home`].
pub(crate) fn member_dir(subject: &Subject) -> Result<PathBuf> {
    Ok(home()?.join(subject.to_string().replace('/', "-")))
}

/// The identity of whoever looks at a cluster: in this folder, or else the only client's or chief's that there is.
///
/// # Errors
/// `NOT_FOUND` or `FAILED_PRECONDITION` if there is none, or several; as [`Identity::load`].
pub(crate) fn caller(dir: Option<&Path>) -> Result<Identity> {
    if let Some(dir) = dir {
        return Identity::load(dir);
    }
    let home = home()?;
    let entries = std::fs::read_dir(&home).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| {
            let name = p
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            (name.starts_with("client-") || name.starts_with("chief-")) && p.is_dir()
        })
        .collect();
    found.sort();
    match found.as_slice() {
        [one] => Identity::load(one),
        [] => Err(Error::not_found(format!(
            "no client's identity in {}; give one with --identity DIR, or join the cluster as a client: `actorflow cluster \
             token --client NAME` where its authority is prints the command",
            home.display()
        ))),
        several => {
            let names: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
            Err(Error::failed_precondition(format!(
                "there are several identities: {}; choose one with --identity DIR",
                names.join(", ")
            )))
        }
    }
}
