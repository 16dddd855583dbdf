//! Telling the tasks of a local cluster that one of them has died.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actorflow::Result;
use actorflow::cluster::identity::{Authority, CERTIFICATE_LIFETIME, Subject};
use actorflow::cluster::{ClusterInfo, ClusterSpec, ConnectOptions, TaskName};

use super::supervise::Shared;
use super::{Event, LocalOptions};

/// How long the announcement of a death may take.
const ANNOUNCE: Duration = Duration::from_secs(2);

/// Announces deaths, as many at the same time as there are.
pub(super) struct Announcer {
    spec: ClusterSpec,
    authority: Authority,
    shared: Arc<Shared>,
    on_event: Arc<dyn Fn(&Event) + Send + Sync>,
    /// What all announcements go through, and since when: its connections stay up for the next death.
    info: Mutex<Option<(Arc<ClusterInfo>, Instant)>>,
}

impl Announcer {
    pub(super) fn new(
        options: &LocalOptions,
        spec: &ClusterSpec,
        authority: Authority,
        shared: &Arc<Shared>,
    ) -> Arc<Announcer> {
        Arc::new(Announcer {
            spec: spec.clone(),
            authority,
            shared: shared.clone(),
            on_event: options.on_event.clone(),
            info: Mutex::default(),
        })
    }

    /// Tells the other tasks, and through them their clients, that a run of a task has ended. Does not wait for it: it may
    /// take a while, and meanwhile others may die.
    pub(super) fn announce(self: &Arc<Self>, task: &TaskName, incarnation: u64) {
        let (announcer, task) = (self.clone(), task.clone());
        let before = self.runs();
        let told = std::thread::Builder::new()
            .name("actorflow-announce".into())
            .spawn(move || announcer.tell(&task, incarnation, &before));
        if let Err(e) = told {
            self.deaf("every task".to_owned(), e.to_string());
        }
    }

    fn tell(&self, task: &TaskName, incarnation: u64, before: &[(TaskName, u64)]) {
        // All are told at once, so that one which is stopped does not keep the news from the others.
        match self.info().and_then(|info| info.announce_gone(task, incarnation)) {
            Ok(missed) => {
                // A run that has ended meanwhile need not know, and one that has just begun has not met the dead one.
                let now = self.runs();
                let same = |t: &TaskName| before.iter().any(|run| run.0 == *t && now.contains(run));
                for (t, e) in missed.iter().filter(|(t, _)| same(t)) {
                    self.deaf(t.to_string(), e.to_string());
                }
            }
            Err(e) => self.deaf("every task".to_owned(), e.to_string()),
        }
    }

    fn deaf(&self, task: String, why: String) {
        (self.on_event)(&Event::Deaf { task, why });
    }

    /// The runs that accept work now.
    fn runs(&self) -> Vec<(TaskName, u64)> {
        let tasks = self.shared.tasks().into_iter();
        tasks.filter_map(|t| Some((t.task, t.incarnation?))).collect()
    }

    /// The way to the tasks; another one before the certificate expires.
    fn info(&self) -> Result<Arc<ClusterInfo>> {
        // Nothing panics with the lock.
        let mut made = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((info, since)) = &*made
            && since.elapsed() < CERTIFICATE_LIFETIME / 2
        {
            return Ok(info.clone());
        }
        let subject = Subject::Chief {
            name: "supervisor".into(),
        };
        let mut options = ConnectOptions::new(self.authority.issue(subject, CERTIFICATE_LIFETIME)?);
        options.connect_timeout = ANNOUNCE;
        let info = Arc::new(ClusterInfo::of(&self.spec, &options)?);
        *made = Some((info.clone(), Instant::now()));
        Ok(info)
    }
}
