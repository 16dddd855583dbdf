//! A cluster of this machine on which a child process runs its cases.

use std::path::Path;

use actorflow::cluster::ClusterInfo;
use actorflow::{Error, Result, Session};
use tempfile::TempDir;

use super::{Settings, run_case_in};
use crate::cluster::local::{LocalCluster, LocalOptions};

/// A cluster with a folder that it and this process work in.
pub(super) struct Stage {
    cluster: LocalCluster,
    info: ClusterInfo,
    dir: TempDir,
}

impl Stage {
    /// Starts the cluster and goes to its folder.
    ///
    /// # Errors
    /// As [`LocalCluster::start`].
    pub(super) fn new(settings: &Settings) -> Result<Stage> {
        let dir = tempfile::tempdir().map_err(Error::from)?;
        let options = LocalOptions {
            // The cases are this machine's own, and touch files where they like.
            allow_dir: vec!["/".to_owned()],
            threads: Some(settings.threads),
            devices: settings.devices,
            memory: Some(settings.memory),
            current_dir: Some(dir.path().to_owned()),
            ..LocalOptions::new(1, 2)
        };
        let cluster = LocalCluster::start(options)?;
        let info = ClusterInfo::connect(&cluster.target(), &cluster.connect_options()?)?;
        std::env::set_current_dir(dir.path()).map_err(Error::from)?;
        Ok(Stage { cluster, info, dir })
    }

    /// Runs a case, then forgets what it has left in the tasks and in their folder.
    ///
    /// # Errors
    /// As [`run_case_in`].
    pub(super) fn run(&self, case: &Path, settings: &Settings) -> std::result::Result<(), String> {
        // A client's own variables and queues are in the tasks.
        let connect = |graph: &actorflow::Graph| {
            Session::connect(
                graph,
                &self.cluster.target(),
                &self.cluster.connect_options()?,
                settings.session(),
            )
        };
        let outcome = run_case_in(case, settings, &connect);
        let clean = self.info.reset(&[]).and_then(|()| self.empty());
        outcome.and(clean.map_err(|e| format!("after the case: {e}")))
    }

    fn empty(&self) -> Result<()> {
        let entries = std::fs::read_dir(self.dir.path()).map_err(Error::from)?;
        for entry in entries {
            let path = entry.map_err(Error::from)?.path();
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.map_err(|e| Error::from(e).context(path.display()))?;
        }
        Ok(())
    }
}
