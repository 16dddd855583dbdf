//! The connections that a process has with others, and which of them is the one to use.
//!
//! Two tasks that dial each other at the same time have two connections, a certificate that is renewed brings another
//! one, and after a partition a task may be connected anew before this side has missed it. The newest is used: who dials
//! again has no other that works. What this side sent on one that is lost later may have been lost with it.

use std::collections::HashMap;
use std::time::Instant;

use actorflow_transport::{Peer, Subject};
use parking_lot::Mutex;

/// A connection that is up, with the time since which it is.
struct Living {
    peer: Peer,
    since: Instant,
}

/// The connections of a process.
#[derive(Default)]
pub(crate) struct Peers(Mutex<HashMap<Subject, Vec<Living>>>);

/// What the loss of a connection means.
pub(crate) struct Loss {
    /// There is no other connection with this run of the peer.
    pub(crate) last: bool,
    /// Steps that began here earlier may have lost something with it.
    pub(crate) before: Instant,
}

impl Peers {
    /// A connection is up.
    pub(crate) fn came(&self, peer: &Peer) {
        let living = Living {
            peer: peer.clone(),
            since: Instant::now(),
        };
        let mut all = self.0.lock();
        all.entry(peer.info().subject.clone()).or_default().push(living);
    }

    /// A connection is gone.
    pub(crate) fn went(&self, peer: &Peer) -> Loss {
        let ended = peer.ended_at().unwrap_or_else(Instant::now);
        let mut all = self.0.lock();
        let Some(of_subject) = all.get_mut(&peer.info().subject) else {
            return Loss {
                last: true,
                before: ended,
            };
        };
        let at = of_subject.iter().position(|l| l.peer == *peer);
        // From then on the next one was used.
        let superseded = at.and_then(|at| of_subject.get(at + 1)).map(|next| next.since);
        if let Some(at) = at {
            of_subject.remove(at);
        }
        let run = peer.info().incarnation;
        let last = !of_subject
            .iter()
            .any(|l| l.peer.info().incarnation == run && l.peer.is_alive());
        if of_subject.is_empty() {
            all.remove(&peer.info().subject);
        }
        Loss {
            last,
            before: superseded.map_or(ended, |s| s.min(ended)),
        }
    }

    /// The connection to use with a subject.
    pub(crate) fn newest(&self, subject: &Subject) -> Option<Peer> {
        let all = self.0.lock();
        let found = all.get(subject)?.iter().rev().find(|l| l.peer.is_alive());
        found.map(|l| l.peer.clone())
    }

    /// The connections with the same run of a peer as this one, which has died of silence, that are silent themselves:
    /// they will die of it, too.
    pub(crate) fn silent_siblings(&self, peer: &Peer) -> Vec<Peer> {
        let all = self.0.lock();
        let siblings = all.get(&peer.info().subject).into_iter().flatten();
        let of_run = siblings.filter(|l| l.peer != *peer && l.peer.info().incarnation == peer.info().incarnation);
        of_run
            .filter(|l| l.peer.is_alive() && l.peer.is_silent())
            .map(|l| l.peer.clone())
            .collect()
    }
}
