//! Synchronous replicas in monitored sessions.

use actorflow_core::Result;

use super::shared::{Replica, SyncGraph};
use crate::train::monitored::{Role, SessionHook, Setup};

/// Prepares a replica in each session; the chief's also does the chief's part, in a thread that ends with the session.
///
/// Add it before hooks that run the model.
pub struct SyncReplicasHook {
    graph: SyncGraph,
    replica: Replica,
    role: Role,
}

impl SyncReplicasHook {
    /// The hook of a replica.
    pub fn new(graph: &SyncGraph, replica: &Replica, role: Role) -> SyncReplicasHook {
        SyncReplicasHook {
            graph: graph.clone(),
            replica: replica.clone(),
            role,
        }
    }
}

impl SessionHook for SyncReplicasHook {
    fn after_create_session(&mut self, setup: &Setup<'_>) -> Result<()> {
        setup.session.execute(&[self.replica.init()])?;
        if self.role == Role::Chief {
            setup.session.execute(&[self.graph.init()])?;
            self.graph.start_chief(setup.session, setup.threads)?;
        }
        Ok(())
    }
}
