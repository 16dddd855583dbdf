//! Certificates of connections that are up: they expire, are revoked, and are renewed.
//!
//! A handshake verifies a certificate once, and connections last. So the date is looked at again when it is due, and the
//! serial number whenever there is another list of revocations. Whoever has renewed its certificate makes new connections,
//! long before the old one expires: the old connections are given up when nothing is pending on them, and what happens on
//! them until then happens as before.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actorflow_core::{Code, Error, Result};
use quinn_proto::{ConnectionError, VarInt};

use super::dial::{self, Waiter};
use super::link::{Connected, Link};
use super::shared::Shared;
use super::state::Wish;
use crate::identity::{PeerIdentity, Subject};

/// The longest time between two looks at the clock, which may have been set, or the machine asleep.
const LOOK: Duration = Duration::from_secs(30);

/// How long a connection stays after another one has taken its place, so that what was sent on it meanwhile arrives.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// The code with which QUIC closes a connection that another one has replaced; errors have smaller ones.
pub(super) const REPLACED: VarInt = VarInt::from_u32(1000);

/// Whether the peer has closed the connection because there is another one.
pub(super) fn is_replacement(reason: &ConnectionError) -> bool {
    matches!(reason, ConnectionError::ApplicationClosed(close) if close.error_code == REPLACED)
}

/// The certificate that a peer has shown.
#[derive(Debug)]
pub(super) struct Certificate {
    subject: Subject,
    serial: String,
    not_after: SystemTime,
}

impl Certificate {
    pub(super) fn of(peer: &PeerIdentity) -> Certificate {
        Certificate {
            subject: peer.subject.clone(),
            serial: peer.serial.clone(),
            not_after: peer.not_after,
        }
    }

    /// Whether it is a certificate of this member.
    pub(super) fn is_of(&self, subject: &Subject) -> bool {
        self.subject == *subject
    }

    /// Whether it is valid now, as far as this side knows.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it has expired, `PERMISSION_DENIED` if it is revoked.
    pub(super) fn check(&self, shared: &Shared) -> Result<()> {
        if shared.setup.read().identity.revocations().contains(&self.serial) {
            let why = format!("the certificate of {} was revoked", self.subject);
            return Err(Error::new(Code::PermissionDenied, why));
        }
        // The second that a date names belongs to it.
        if SystemTime::now() >= self.not_after + Duration::from_secs(1) {
            let why = format!("the certificate of {} has expired and was not renewed", self.subject);
            return Err(Error::unauthenticated(why));
        }
        Ok(())
    }

    /// When to check again.
    pub(super) fn next_look(&self) -> Duration {
        let end = self.not_after + Duration::from_secs(1);
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        left.clamp(Duration::from_millis(10), LOOK)
    }
}

/// Closes the connections to peers whose certificates are revoked.
pub(super) fn end_revoked(shared: &Shared) {
    for link in shared.all_links() {
        if let Some(Err(why)) = link.certificate().map(|c| c.check(shared)) {
            link.wish(Wish::Close(why));
        }
    }
}

/// Makes a new connection in place of one that was being made when the certificate was renewed, and is up only now.
pub(super) fn catch_up(link: &Arc<Link>) {
    let Some(shared) = link.shared() else { return };
    connect_anew(&shared);
}

/// Makes a new connection to every peer that was shown an earlier certificate, and retires the present ones when it is
/// up. To a peer that cannot be reached the present ones stay.
pub(super) fn connect_anew(shared: &Arc<Shared>) {
    let turn = shared.setup.read().turn;
    let mut present: BTreeMap<String, (Subject, Vec<Arc<Link>>)> = BTreeMap::new();
    for link in shared.firsts().into_iter().filter(|l| l.take_turn(turn)) {
        if let Some(info) = link.info() {
            let known = present.entry(format!("{} {}", info.subject, info.incarnation));
            let subject = info.subject.clone();
            known.or_insert_with(|| (subject, Vec::new())).1.push(link.clone());
        }
    }
    for (subject, links) in present.into_values() {
        // Where this side has dialed before, somebody listens for sure.
        let Some(known) = links.iter().find(|l| l.dialed).or(links.first()) else {
            continue;
        };
        let at = known.addr;
        let up = Box::new(move |made: Connected| {
            if made.is_ok() {
                links.iter().for_each(Link::retire);
            }
        });
        let deadline = Instant::now() + shared.timing.handshake;
        dial::begin(shared, at, Some(&subject), Waiter::new(deadline, up), None);
    }
}
