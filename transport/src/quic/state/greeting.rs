//! How the two sides of a connection come to know each other.
//!
//! The side that was dialed says hello last and cannot know that this arrives: the way back may be cut. So it announces the
//! peer, and lets users send to it, when the peer has shown that it has heard: by coming to the door, or by anything else than
//! a hello. Until then the connection is one that is being made, and ends without a word to users if it fails.
#![forbid(unsafe_code)]

use std::time::Instant;

use actorflow_core::{Error, Result};
use quinn_proto::Dir;
use rustls::pki_types::CertificateDer;

use super::super::admission;
use super::super::link::Link;
use super::super::local::Way;
use super::super::peer::PeerInfo;
use super::super::reactor;
use super::super::renewal::Certificate;
use super::super::shared::Shared;
use super::super::stripes;
use super::{State, Up};
use crate::counters::Totals;
use crate::identity::peer_identity;
use crate::proto::{Connection, Verdict};

impl State {
    /// TLS has verified the peer's certificate; reads from it who the peer is, and says hello.
    pub(super) fn authenticate(&mut self, shared: &Shared, link: &Link, now: Instant) -> Result<()> {
        let chain = self.quic.crypto_session().peer_identity();
        let chain = chain.and_then(|c| c.downcast::<Vec<CertificateDer<'static>>>().ok());
        let leaf = chain.as_ref().and_then(|c| c.first());
        let leaf = leaf.ok_or_else(|| Error::unauthenticated("the peer has no certificate"))?;
        let peer = peer_identity(leaf)?;
        let mut local = shared.local();
        if peer.cluster != local.cluster {
            return Err(Error::unauthenticated(format!(
                "{} has a certificate of cluster {:?}, this side of {:?}",
                peer.subject, peer.cluster, local.cluster
            )));
        }
        let certificate = Certificate::of(&peer);
        certificate.check(shared)?;
        if let Some(expected) = &link.expect
            && *expected != peer.subject
        {
            return Err(Error::unauthenticated(format!(
                "{} answered at {} where {expected} was expected",
                peer.subject,
                self.quic.remote_address()
            )));
        }
        if !link.dialed {
            admission::of_member(shared, &peer.subject)?;
        }
        if link.dialed {
            let id = self.quic.streams().open(Dir::Bi);
            let id = id.ok_or_else(|| Error::unavailable("the peer accepts no control stream"))?;
            self.outgoing.set_control(&mut self.quic, id);
        }
        self.way = Way::begin(&self.quic, link.dialed, shared, reactor::bell(link.handle));
        if !self.way.is_open() {
            self.outgoing.through_quic();
        }
        let subject = peer.subject.to_string();
        self.intake.join(shared.ledger(&subject));
        local.stripe = link.stripes.is_one();
        if local.stripe {
            local.limits.in_flight_bytes /= shared.limits.stripes.max(1);
        }
        let connection = Connection::new(local, subject, link.dialed, shared.time(now));
        self.proto = Some(connection);
        self.look = shared.time(now).saturating_add(certificate.next_look());
        link.show(certificate);
        self.subject = Some(peer.subject);
        Ok(())
    }

    /// The peer has said who it is.
    pub(super) fn introduced(&mut self, shared: &Shared, link: &Link, incarnation: u64, stripe: bool, now: Instant) {
        let Some(subject) = self.subject.clone() else { return };
        let verdict = shared.fences.lock().judge(&subject.to_string(), incarnation);
        if let Verdict::Stale { latest } = verdict {
            Totals::count(&shared.totals.fenced, 1);
            return self.proto_close(Error::aborted(format!(
                "incarnation {incarnation} of {subject} is over: incarnation {latest} has been seen"
            )));
        }
        let info = PeerInfo {
            subject,
            incarnation,
            addr: self.quic.remote_address(),
        };
        let stripe = stripe || link.stripes.is_one();
        if stripe && let Err(error) = stripes::join(shared, link, &info) {
            return self.proto_close(error);
        }
        if verdict == Verdict::Newer {
            self.ups.push(Up::Fence(info.clone()));
        }
        self.greeted = Some(info);
        let Some(proto) = &mut self.proto else { return };
        if !link.dialed {
            proto.welcome();
            // Whoever does not wait for a hello needs none.
            if self.answered {
                self.announce(link);
            }
            return;
        }
        if !stripe && self.way.try_door(shared, reactor::bell(link.handle)) {
            Totals::count(&shared.totals.lanes, 1);
            link.set_shares();
        } else {
            self.way = Way::Quic;
            self.outgoing.through_quic();
            proto.ping(shared.time(now));
        }
        self.announce(link);
    }

    /// Each side knows that the other one has heard its hello: users may know.
    pub(super) fn announce(&mut self, link: &Link) {
        if let Some(info) = self.greeted.take() {
            link.introduce(info);
            self.ups.push(Up::Connected);
        }
    }
}
