//! Who a daemon is, and how it stays that: its certificate from a folder or from the authority that it hosts, renewal,
//! revocations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use actorflow::cluster::identity::{
    Authority, CERTIFICATE_LIFETIME, Identity, JoinService, Renewer, Subject, authority_of, serve,
};
use actorflow::cluster::{Renewal, Server};
use actorflow::{Code, Error};

use super::config::Config;
use super::metrics::Vitals;
use crate::failure::Failure;

/// What keeps an identity fresh, before it begins to.
pub(super) struct Keeper {
    service: Option<JoinService>,
}

/// What keeps an identity fresh; dropping it ends that.
pub(super) struct Member {
    _renewer: Option<Renewer>,
    _service: Option<JoinService>,
}

/// The identity of the task, and what will keep it; the authority is served from here on, if it is here.
pub(super) fn identity(config: &Config) -> Result<(Identity, Keeper), Failure> {
    let subject = Subject::Task {
        job: config.task.job.to_string(),
        index: config.task.index,
    };
    let Some((dir, addr)) = &config.authority else {
        let identity = Identity::load(&config.identity).map_err(|e| with_cure(e, &subject))?;
        return Ok((identity, Keeper { service: None }));
    };
    let authority = Authority::open(dir)?;
    let service = serve(*addr, &authority)?;
    let identity = own(&authority, subject, &config.identity)?;
    tracing::info!(cluster = authority.cluster(), addr = %service.addr(), "serving the cluster's authority");
    Ok((identity, Keeper { service: Some(service) }))
}

/// The identity in a folder if it is still good, or a new one from the authority that is here.
fn own(authority: &Authority, subject: Subject, dir: &Path) -> Result<Identity, Error> {
    match Identity::load(dir) {
        Ok(i) if *i.subject() == subject && i.ca_hash() == authority.ca_hash() => {
            let revoked = authority.revocations()?;
            if !revoked.contains(i.serial()) {
                return Ok(i.with_revocations(&revoked));
            }
        }
        Ok(_) => {}
        Err(e) if matches!(e.code(), Code::NotFound | Code::Unauthenticated) => {}
        Err(e) => return Err(e),
    }
    let fresh = authority.issue(subject, CERTIFICATE_LIFETIME)?;
    fresh.save(dir)?;
    Ok(fresh)
}

/// What to do without an identity.
fn with_cure(e: Error, subject: &Subject) -> Failure {
    let missing = matches!(e.code(), Code::NotFound | Code::Unauthenticated);
    let (Subject::Task { job, index }, true) = (subject, missing) else {
        return e.into();
    };
    Failure::Failed(format!(
        "{e}: `actorflow cluster token --job {job} --task {index}` where the cluster's authority is prints the command to join \
         with"
    ))
}

/// Where a service that listens at `addr` is reached from this machine.
fn from_here(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        let here: IpAddr = match addr {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        addr.set_ip(here);
    }
    addr
}

impl Keeper {
    /// Begins to renew the identity, and to fetch revocations.
    pub(super) fn keep(
        self,
        config: &Config,
        identity: Identity,
        server: &Arc<Server>,
        vitals: &Arc<Vitals>,
    ) -> Result<Member, Failure> {
        let addr = match &self.service {
            Some(s) => Some(from_here(s.addr()).to_string()),
            None => config
                .authority_address
                .clone()
                .or_else(|| authority_of(&config.identity)),
        };
        let renewer = match addr {
            Some(addr) => {
                tracing::debug!(addr, "the certificate is renewed there");
                let (server, vitals) = (Arc::downgrade(server), vitals.clone());
                let folder = config.identity.clone();
                let report = Renewal::reporter(&identity, move |fresh| {
                    vitals.renewed(fresh);
                    if let Err(error) = fresh.save(&folder) {
                        tracing::error!(%error, "the identity cannot be kept; after a restart it will be the old one");
                    }
                    server.upgrade().map_or(Ok(()), |s| s.set_identity(fresh.clone()))
                });
                Some(Renewer::start(&addr, identity, report)?)
            }
            None => {
                tracing::warn!(
                    dir = %config.identity.display(),
                    "nobody renews the certificate, since nothing says where the authority is; give --authority-address HOST:PORT"
                );
                None
            }
        };
        Ok(Member {
            _renewer: renewer,
            _service: self.service,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authoritys_own_task_gets_an_identity_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), "demo").unwrap();
        let (subject, at) = (
            Subject::Task {
                job: "ps".into(),
                index: 0,
            },
            dir.path().join("me"),
        );
        let first = own(&authority, subject.clone(), &at).unwrap();
        assert_eq!(own(&authority, subject.clone(), &at).unwrap().serial(), first.serial());
        authority.revoke(first.serial()).unwrap();
        assert_ne!(own(&authority, subject, &at).unwrap().serial(), first.serial());
        let other = Subject::Task {
            job: "ps".into(),
            index: 1,
        };
        assert_eq!(*own(&authority, other.clone(), &at).unwrap().subject(), other);
    }

    #[test]
    fn a_task_without_an_identity_is_told_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        let e = Identity::load(dir.path()).unwrap_err();
        let Failure::Failed(text) = with_cure(
            e,
            &Subject::Task {
                job: "ps".into(),
                index: 3,
            },
        ) else {
            panic!("a failure with a message");
        };
        assert!(text.contains("cluster token --job ps --task 3"), "{text}");
    }
}
