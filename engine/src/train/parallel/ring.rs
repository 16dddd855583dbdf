//! Replicas that keep the parameters themselves: who has the newest values, and taking them.
//!
//! A replica whose process was lost comes back without values, and so do the agreements of the buckets that it owned.
//! Meanwhile some of the others may have made the last update and others not: the means that those lack may be gone. So
//! whoever joins (again) first takes the values of the replica with the most updates, if it has fewer, and then tells every
//! agreement of a bucket how many there were. Whoever waits there for an older step fails, and does the same. As
//! no step is made without all replicas, this ends with all of them at the same step.

use std::time::{Duration, Instant};

use actorflow_core::{Graph, Operation, Output, Result, Tensor};

use super::ReplicaOptions;
use super::buckets::Buckets;
use super::live::Info;
use super::shard::{Shard, Site, agreement, at};
use crate::Session;

/// How long asking a replica how far it is may take.
const ASKING: Duration = Duration::from_secs(2);

/// Another replica, whose values can be taken.
struct Source {
    /// Its `AgreeReport`.
    report: Vec<Output>,
    values: Vec<Output>,
    info: Output,
}

/// The nodes by which replicas that keep the parameters exchange gradients, and take each other's values.
pub(super) struct Ring {
    pub(super) buckets: Buckets,
    others: Vec<Source>,
    /// What takes a value of each variable.
    given: Vec<Output>,
    assigns: Vec<Operation>,
    /// What is fed to nodes that only read.
    decision: Output,
    tag: Output,
}

impl Ring {
    /// Adds the nodes.
    ///
    /// # Errors
    /// If they cannot be added.
    pub(super) fn build(
        g: &Graph,
        options: &ReplicaOptions,
        buckets: Buckets,
        own: &Shard,
        decision: &Output,
    ) -> Result<Ring> {
        let mut others = Vec::new();
        let mine = format!("replica_{}/", options.replica);
        for i in (0..options.replicas).filter(|i| *i != options.replica) {
            let site = Site {
                name: format!("{}/of{i}/0", options.name),
                device: &options.workers[i],
                rules: (1, 1, 1, None),
            };
            let there = agreement(g, &site)?;
            let theirs = format!("replica_{i}/");
            let (values, info) = own.values_of(g, &there, decision, |n| n.replacen(&mine, &theirs, 1))?;
            others.push(Source {
                report: at(&there, "AgreeReport").finish()?.outputs(),
                values,
                info,
            });
        }
        let (given, assigns) = own.assigns(g)?;
        Ok(Ring {
            buckets,
            others,
            given,
            assigns,
            decision: decision.clone(),
            tag: own.tag.clone(),
        })
    }

    /// Who has made more updates than these, the one with the most; those who cannot be asked are left out.
    fn newest(&self, session: &Session, least: Option<u64>) -> Option<&Source> {
        let mut best = (least, None);
        for other in &self.others {
            let run = session.runner().timeout(ASKING);
            let Ok(said) = run.fetch(&other.report[0]).fetch(&other.report[1]).run() else {
                continue;
            };
            let (ready, version) = (said[0].to_scalar::<bool>(), said[1].to_scalar::<i64>());
            if let (Ok(true), Ok(version)) = (ready, version) {
                let version = Some(u64::try_from(version).unwrap_or(0));
                if version > best.0 {
                    best = (version, Some(other));
                }
            }
        }
        best.1
    }

    /// Whether another replica has values.
    pub(super) fn is_in_training(&self, session: &Session) -> bool {
        self.newest(session, None).is_some()
    }

    /// Takes the values of the replica with the most updates, if those are more than `least`; how many there were.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub(super) fn take_newest(&self, session: &Session, least: Option<u64>, deadline: Instant) -> Result<Option<u64>> {
        let Some(from) = self.newest(session, least) else {
            return Ok(None);
        };
        let mut run = session.runner().deadline(deadline);
        run = run.feed(&self.decision, Tensor::vector::<i64>(&[]));
        run = run.feed(&self.tag, Tensor::vector(&[0i64; 4]));
        for v in from.values.iter().chain([&from.info]) {
            run = run.fetch(v);
        }
        let mut values = run.run()?;
        let info = values.split_off(from.values.len());
        let info = info.first().map(Info::of).transpose()?;
        let mut run = session.runner().deadline(deadline);
        for (to, value) in self.given.iter().zip(values) {
            run = run.feed(to, value);
        }
        for op in &self.assigns {
            run = run.target(op);
        }
        run.run()?;
        Ok(info.map(|i| i.version))
    }
}
