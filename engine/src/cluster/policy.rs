//! What a process allows its peers: who may ask for what, and how large graphs may be.

use actorflow_core::error::{Code, Error, Result};
use actorflow_transport::{PeerInfo, Subject};

use super::messages::{ABORT, DESCRIBE, GONE, REGISTER, RELEASE, RUN, STATUS};
use super::ship::GraphLimits;

/// What a task allows its peers.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// It computes for others: it is a task, and no client.
    pub(crate) computes: bool,
    /// The jobs whose tasks may submit graphs, beside clients and chiefs.
    pub(crate) submitters: Vec<String>,
    /// What a graph may take that is registered.
    pub(crate) graphs: GraphLimits,
}

impl Policy {
    /// Of a process that runs no graphs for others.
    pub(crate) fn of_client() -> Policy {
        Policy {
            computes: false,
            submitters: Vec::new(),
            graphs: GraphLimits { bytes: 0, nodes: 0 },
        }
    }

    /// An error of importing a graph, with what the task takes if that was exceeded.
    pub(crate) fn explain(&self, e: Error) -> Error {
        let GraphLimits { bytes, nodes } = self.graphs;
        match e.code() {
            Code::ResourceExhausted => e.context(format!(
                "this task takes graphs of up to {nodes} nodes and {bytes} bytes, constants included (the limits graph-nodes \
                 and graph of its daemon, max_nodes and max_graph_bytes of its ServerOptions); feed what is large, or make \
                 variables of it"
            )),
            _ => e,
        }
    }

    fn may_submit(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Client { .. } | Subject::Chief { .. } => true,
            Subject::Task { job, .. } => self.submitters.contains(job),
        }
    }

    /// Whether a peer may send messages of this kind.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, with who may.
    pub(crate) fn allows(&self, peer: &PeerInfo, kind: u16) -> Result<()> {
        let subject = &peer.subject;
        let denied = |why: String| Err(Error::new(Code::PermissionDenied, why));
        if peer.is_visitor() && matches!(kind, REGISTER | RUN | ABORT | RELEASE) {
            return denied(format!(
                "{subject} is connected only to look, and may not submit graphs; connect a session"
            ));
        }
        if kind == GONE {
            // A client takes it from the tasks that it computes with, a task from chiefs alone.
            if !self.computes || matches!(subject, Subject::Chief { .. }) {
                return Ok(());
            }
            return denied(format!("{subject} may not say that a task is gone; a chief may"));
        }
        if matches!(kind, DESCRIBE | STATUS) || self.may_submit(subject) {
            return Ok(());
        }
        denied(format!(
            "{subject} may not submit graphs: clients and chiefs may, and tasks of the jobs {:?}; ask for a client's \
             token, or let the task's job submit",
            self.submitters
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use actorflow_transport::VISITOR;

    use super::super::messages::{CANCEL, STEPS};
    use super::*;

    fn peer(subject: &str, incarnation: u64) -> PeerInfo {
        PeerInfo {
            subject: subject.parse().unwrap(),
            incarnation,
            addr: "127.0.0.1:1".parse().unwrap(),
        }
    }

    fn of_task() -> Policy {
        Policy {
            computes: true,
            submitters: vec!["worker".to_owned()],
            ..Policy::of_client()
        }
    }

    #[test]
    fn clients_chiefs_and_the_tasks_of_some_jobs_submit_graphs() {
        let policy = of_task();
        for (who, may) in [
            ("client/a", true),
            ("chief/a", true),
            ("task/worker/0", true),
            ("task/ps/0", false),
        ] {
            for kind in [REGISTER, RUN, ABORT, RELEASE, CANCEL, STEPS] {
                assert_eq!(policy.allows(&peer(who, 7), kind).is_ok(), may, "{who} {kind}");
            }
            assert!(policy.allows(&peer(who, 7), DESCRIBE).is_ok());
        }
    }

    #[test]
    fn a_visitor_looks_and_submits_nothing() {
        let policy = of_task();
        for who in ["client/a", "chief/a", "task/worker/0"] {
            for kind in [REGISTER, RUN, ABORT, RELEASE] {
                let e = policy.allows(&peer(who, VISITOR), kind).unwrap_err();
                assert_eq!(e.code(), Code::PermissionDenied, "{e}");
            }
            for kind in [DESCRIBE, STEPS, CANCEL] {
                policy.allows(&peer(who, VISITOR), kind).unwrap();
            }
        }
        assert!(policy.allows(&peer("chief/a", VISITOR), GONE).is_ok());
        assert!(policy.allows(&peer("client/a", VISITOR), GONE).is_err());
        assert!(policy.allows(&peer("task/ps/0", VISITOR), STEPS).is_err());
    }
}
