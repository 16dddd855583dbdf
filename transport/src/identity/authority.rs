//! The cluster's certificate authority: its key, what it signs, what it takes back.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actorflow_core::{Code, Error, Result};
use pem::Pem;
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;

use super::audit::{Audit, Event};
use super::certificate::{
    Name, PeerIdentity, Validity, ca_params, cluster_of, end_of, leaf_params, new_key, new_serial, writing,
};
use super::clock::{rfc3339, seconds};
use super::crypto::{fingerprint, hex, provider};
use super::files::{private_dir, read_private, write_private};
use super::join::ALPN;
use super::node::{Identity, configuring, finish_server};
use super::request::requested_key;
use super::revoke::revoked;
use super::store::{IssuedRecord, State, Store, lock};
use super::subject::{Subject, check_cluster};
use super::tokens;
use super::verify::{ClusterVerifier, Expect};

/// How long the certificates of members are valid, unless somebody asks for another time.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The longest time for which a member's certificate is issued: 90 days.
pub const MAX_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// How long the CA itself is valid: ten years, in seconds.
const CA_LIFETIME: u64 = 10 * 365 * 24 * 3600;

/// How far back a certificate starts, in seconds, so that a clock that is a little slow accepts it at once.
const BACKDATED: u64 = 300;

/// The CA's key and certificate, in one file.
const AUTHORITY_FILE: &str = "authority.pem";
const AUDIT_FILE: &str = "audit.jsonl";
const MAX_AUTHORITY: usize = 64 << 10;

/// The certificate authority of one cluster. Cheap to clone; several processes may have the same directory open.
///
/// The directory (mode 0700) holds `authority.pem` (key and certificate of the CA), `state.json` (hashes of tokens,
/// certificates issued and revoked), `audit.jsonl` and `lock`. Who can read it owns the cluster.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
    ca: Vec<u8>,
    /// When the CA's certificate ends, in seconds since 1970.
    ends: u64,
    store: Store,
    audit: Audit,
}

impl Authority {
    /// An authority that lives and dies with this process: for clusters on one machine, and for tests.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if `cluster` is not a name.
    pub fn ephemeral(cluster: &str) -> Result<Authority> {
        let (key, ca) = new_ca(cluster, seconds(SystemTime::now()))?;
        Self::assemble(key, ca, Store::in_memory(), Audit::in_memory())
    }

    /// Makes a new authority in `dir`, and the directory.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` if `dir` has one, `INVALID_ARGUMENT` if `cluster` is not a name, and those of the file system.
    pub fn create(dir: &Path, cluster: &str) -> Result<Authority> {
        check_cluster(cluster)?;
        private_dir(dir)?;
        let _lock = lock(dir)?;
        if dir.join(AUTHORITY_FILE).exists() {
            return Err(Error::already_exists(format!(
                "{} has a cluster's authority already; use it, or choose another directory",
                dir.display()
            )));
        }
        let now = seconds(SystemTime::now());
        let (key, ca) = new_ca(cluster, now)?;
        let store = Store::in_dir(dir, true)?;
        let text = pem::encode_many(&[
            Pem::new("PRIVATE KEY", key.serialized_der()),
            Pem::new("CERTIFICATE", ca.as_slice()),
        ]);
        // Last, because it is what makes the directory an authority's.
        write_private(dir, AUTHORITY_FILE, text.as_bytes())?;
        let authority = Self::assemble(key, ca, store, Audit::in_file(dir.join(AUDIT_FILE)))?;
        authority
            .audit()
            .record(&Event::done("authority_created", now).subject(cluster))?;
        Ok(authority)
    }

    /// Opens the authority that [`create`](Self::create) made in `dir`.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is none, `PERMISSION_DENIED` if others may read its key, `DATA_LOSS` if a file is damaged.
    pub fn open(dir: &Path) -> Result<Authority> {
        let path = dir.join(AUTHORITY_FILE);
        let text = read_private(
            &path,
            MAX_AUTHORITY,
            "as the CA's key may be known to others, make a new cluster",
        )
        .map_err(|error| match error.code() {
            Code::NotFound => Error::not_found(format!(
                "no cluster's authority in {}; make one with `actorflow cluster init`",
                dir.display()
            )),
            _ => error,
        })?;
        let damaged = |why: &str| Error::data_loss(format!("{}: {why}", path.display()));
        let blocks = pem::parse_many(&text).map_err(|error| damaged(&error.to_string()))?;
        let [key, ca] = blocks.as_slice() else {
            return Err(damaged("expected a private key and a certificate"));
        };
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(key.contents()),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )
        .map_err(|_| damaged("the private key cannot be read"))?;
        let store = Store::in_dir(dir, false)?;
        Self::assemble(key, ca.contents().to_vec(), store, Audit::in_file(dir.join(AUDIT_FILE)))
            .map_err(|error| error.context(path.display()))
    }

    fn assemble(key: KeyPair, ca: Vec<u8>, store: Store, audit: Audit) -> Result<Authority> {
        let cluster = cluster_of(&ca)?;
        let ends = end_of(&ca)?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(ca.as_slice()), key)
            .map_err(|error| Error::data_loss(format!("the CA's certificate cannot be used: {error}")))?;
        Ok(Authority(Arc::new(Inner {
            cluster,
            issuer,
            ca,
            ends,
            store,
            audit,
        })))
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// The hash of the CA's certificate, `sha256:…`. It is not secret; it is what a node knows its cluster by.
    pub fn ca_hash(&self) -> String {
        fingerprint(&self.0.ca)
    }

    /// The CA's certificate in DER form.
    pub fn ca_der(&self) -> &[u8] {
        &self.0.ca
    }

    /// The audit log.
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Issues an identity whose key is made here: for tasks that this process starts itself. Nodes elsewhere make their own
    /// key and send a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if `subject` or `ttl` (1 s to [`MAX_CERTIFICATE_LIFETIME`]) is out of bounds,
    /// `FAILED_PRECONDITION` if the CA ends before.
    pub fn issue(&self, subject: Subject, ttl: Duration) -> Result<Identity> {
        self.issue_at(subject, ttl, SystemTime::now())
    }

    /// As [`issue`](Self::issue), at a time of the caller's choice.
    pub(crate) fn issue_at(&self, subject: Subject, ttl: Duration, now: SystemTime) -> Result<Identity> {
        let key = new_key()?;
        let chain = self.sign("issue", &key, &subject, ttl, now, None, |_| Ok(None))?;
        let revocations = self.revocations()?;
        Identity::from_parts(key.serialized_der(), &chain[0], &self.0.ca, revocations)
    }

    /// Signs a request (PKCS #10 in DER form): the certificate for `subject`, then the CA's, each in DER form.
    ///
    /// Of the request, only the key is taken, once its signature has shown that the requester has the private half; names
    /// and extensions in it are ignored. Whether the requester may be `subject` is for the caller to know.
    ///
    /// # Errors
    /// As [`issue`](Self::issue), and `INVALID_ARGUMENT` if the request is malformed, not signed by its key, or its key is
    /// not one of ECDSA on P-256.
    pub fn sign_request(&self, csr_der: &[u8], subject: &Subject, ttl: Duration) -> Result<Vec<Vec<u8>>> {
        let now = SystemTime::now();
        let key = self.audited("issue", subject, now, None, || requested_key(csr_der))?;
        self.sign("issue", &key, subject, ttl, now, None, |_| Ok(None))
    }

    /// Spends a use of a token and signs the request, or does neither.
    pub(crate) fn admit(
        &self,
        secret: &str,
        csr_der: &[u8],
        subject: &Subject,
        ttl: Duration,
        now: SystemTime,
        peer: Option<SocketAddr>,
    ) -> Result<Vec<Vec<u8>>> {
        let key = self.audited("join", subject, now, peer, || requested_key(csr_der))?;
        let spend = |state: &mut State| tokens::spend(state, secret, subject, seconds(now)).map(Some);
        self.sign("join", &key, subject, ttl, now, peer, spend)
    }

    /// Signs a request of a member whose certificate a handshake has verified, for the same member.
    pub(crate) fn renew(
        &self,
        holder: &PeerIdentity,
        csr_der: &[u8],
        wanted: &Subject,
        ttl: Duration,
        now: SystemTime,
        peer: Option<SocketAddr>,
    ) -> Result<Vec<Vec<u8>>> {
        let key = self.audited("renew", wanted, now, peer, || {
            if holder.subject != *wanted || holder.cluster != self.0.cluster {
                return Err(Error::new(
                    Code::PermissionDenied,
                    format!(
                        "{} of cluster {} cannot renew as {wanted} of {}; ask for a token of that subject",
                        holder.subject, holder.cluster, self.0.cluster
                    ),
                ));
            }
            requested_key(csr_der)
        })?;
        // Again under the lock: a revocation since the handshake counts, so no new certificate escapes it.
        let check = |state: &mut State| match state.revoked.contains_key(&holder.serial) {
            true => Err(revoked(&holder.subject)),
            false => Ok(None),
        };
        self.sign("renew", &key, wanted, ttl, now, peer, check)
    }

    /// Issues a certificate in one transaction with `check`, which may name a token, and records it or the refusal.
    #[allow(clippy::too_many_arguments)] // what a line of the audit log consists of
    fn sign(
        &self,
        event: &str,
        key: &impl PublicKeyData,
        subject: &Subject,
        ttl: Duration,
        now: SystemTime,
        peer: Option<SocketAddr>,
        check: impl FnOnce(&mut State) -> Result<Option<String>>,
    ) -> Result<Vec<Vec<u8>>> {
        let (serial, leaf, token) = self.audited(event, subject, now, peer, || {
            subject.check()?;
            let validity = self.validity(ttl, seconds(now))?;
            let serial = new_serial()?;
            let params = leaf_params(&self.0.cluster, &Name::Member(subject.clone()), serial, validity)?;
            let serial = hex(&serial);
            self.0.store.change(seconds(now), |state| {
                let token = check(state)?;
                let leaf = params.signed_by(key, &self.0.issuer).map_err(writing)?;
                let issued = IssuedRecord {
                    subject: subject.to_string(),
                    not_after: validity.not_after,
                };
                state.issued.insert(serial.clone(), issued);
                Ok((serial.clone(), leaf.der().to_vec(), token))
            })
        })?;
        let mut line = Event::done(event, seconds(now)).subject(subject).peer(peer);
        line.serial = Some(&serial);
        line.token = token.as_deref();
        self.0.audit.record(&line)?;
        Ok(vec![leaf, self.0.ca.clone()])
    }

    /// Records the refusal, if `attempt` is refused.
    pub(crate) fn audited<R>(
        &self,
        event: &str,
        subject: &Subject,
        now: SystemTime,
        peer: Option<SocketAddr>,
        attempt: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        attempt().map_err(|error| {
            let line = Event::refused(event, seconds(now), &error).subject(subject).peer(peer);
            match self.0.audit.record(&line) {
                Ok(()) => error,
                Err(unrecorded) => unrecorded,
            }
        })
    }

    /// Records a request that could not even be read; returns the error to answer with.
    pub(crate) fn audit_malformed(&self, error: Error, peer: SocketAddr, now: SystemTime) -> Error {
        let line = Event::refused("request", seconds(now), &error).peer(Some(peer));
        self.0.audit.record(&line).err().unwrap_or(error)
    }

    fn validity(&self, ttl: Duration, now: u64) -> Result<Validity> {
        if ttl < Duration::from_secs(1) || ttl > MAX_CERTIFICATE_LIFETIME {
            return Err(Error::invalid(format!(
                "a certificate is valid for 1 s to {} days, not for {ttl:?}",
                MAX_CERTIFICATE_LIFETIME.as_secs() / (24 * 3600)
            )));
        }
        let lifetime = ttl.as_secs();
        let not_after = now
            .checked_add(lifetime)
            .filter(|end| *end <= self.0.ends)
            .ok_or_else(|| {
                Error::failed_precondition(format!(
                    "the CA of cluster {} ends at {}, before such a certificate would; make a new cluster",
                    self.0.cluster,
                    rfc3339(self.0.ends)
                ))
            })?;
        Ok(Validity {
            not_before: now.saturating_sub(BACKDATED.min(lifetime / 10)),
            not_after,
        })
    }

    /// The TLS configuration of the service that admits members, on [`ALPN`]: it shows a certificate of its own, made here,
    /// and the CA's, and lets clients in that have no certificate yet. It is good for a day.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` if the CA ends before, `INTERNAL` if the TLS library refuses the parts.
    pub fn server_tls_join(&self) -> Result<ServerConfig> {
        let key = new_key()?;
        let validity = self.validity(CERTIFICATE_LIFETIME, seconds(SystemTime::now()))?;
        let leaf = leaf_params(&self.0.cluster, &Name::Authority, new_serial()?, validity)?
            .signed_by(&key, &self.0.issuer)
            .map_err(writing)?;
        let verifier = ClusterVerifier::new(&self.0.cluster, &self.0.ca, self.revocations()?, Expect::Member)?;
        let chain = vec![leaf.der().clone(), CertificateDer::from(self.0.ca.clone())];
        let key = PrivatePkcs8KeyDer::from(key.serialized_der().to_vec());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(configuring)?
            .with_client_cert_verifier(Arc::new(verifier.client_may_be_unknown()))
            .with_single_cert(chain, key.into())
            .map_err(configuring)?;
        finish_server(&mut config, &[ALPN]);
        Ok(config)
    }
}

/// Shows no key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.0.cluster)
            .field("ca", &self.ca_hash())
            .finish_non_exhaustive()
    }
}

/// The key and the certificate of a new CA.
fn new_ca(cluster: &str, now: u64) -> Result<(KeyPair, Vec<u8>)> {
    check_cluster(cluster)?;
    let key = new_key()?;
    let validity = Validity {
        // Earlier than the longest a certificate is backdated, so that the CA is valid whenever one of them is.
        not_before: now.saturating_sub(2 * BACKDATED),
        not_after: now.saturating_add(CA_LIFETIME),
    };
    let ca = ca_params(cluster, validity)?.self_signed(&key).map_err(writing)?;
    Ok((key, ca.der().to_vec()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::CertificateParams;

    use super::super::{Revocations, peer_identity};
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    #[test]
    fn an_authority_is_opened_again_with_all_that_it_knew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authority");
        let made = Authority::create(&path, "prod").unwrap();
        let member = made.issue(subject("task/ps/0"), CERTIFICATE_LIFETIME).unwrap();
        made.revoke(member.serial()).unwrap();
        let opened = Authority::open(&path).unwrap();
        assert_eq!(opened.cluster(), "prod");
        assert_eq!(opened.ca_hash(), made.ca_hash());
        assert!(opened.revocations().unwrap().contains(member.serial()));
        opened.issue(subject("task/ps/1"), CERTIFICATE_LIFETIME).unwrap();
        let events: Vec<String> = opened.audit().tail(10).unwrap();
        assert_eq!(events.len(), 4, "{events:?}");
        assert!(events[1].contains(member.serial()) && events[1].contains("task/ps/0"));
    }

    #[test]
    fn a_directory_holds_one_authority_and_one_without_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Authority::open(dir.path()).unwrap_err().code(), Code::NotFound);
        let made = Authority::create(dir.path(), "c").unwrap();
        assert_eq!(
            Authority::create(dir.path(), "c").unwrap_err().code(),
            Code::AlreadyExists
        );
        assert_eq!(Authority::open(dir.path()).unwrap().ca_hash(), made.ca_hash());
    }

    #[cfg(unix)]
    #[test]
    fn an_authority_whose_key_others_can_read_is_not_opened() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path(), "c").unwrap();
        let file = dir.path().join(AUTHORITY_FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Authority::open(dir.path()).unwrap_err().code(), Code::PermissionDenied);
    }

    #[test]
    fn a_damaged_authority_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path(), "c").unwrap();
        let file = dir.path().join(AUTHORITY_FILE);
        let text = fs::read(&file).unwrap();
        for end in (0..text.len() - 2).step_by(7) {
            write_private(dir.path(), AUTHORITY_FILE, &text[..end]).unwrap();
            assert!(Authority::open(dir.path()).is_err(), "{end}");
        }
    }

    #[test]
    fn a_request_is_signed_for_the_given_subject_whatever_it_asks_for() {
        let authority = Authority::ephemeral("c").unwrap();
        let mut greedy = CertificateParams::default();
        greedy.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        greedy.subject_alt_names = vec![rcgen::SanType::URI("actorflow://c/chief/x".try_into().unwrap())];
        let key = new_key().unwrap();
        let csr = greedy.serialize_request(&key).unwrap();
        let chain = authority
            .sign_request(csr.der(), &subject("task/ps/0"), CERTIFICATE_LIFETIME)
            .unwrap();
        assert_eq!(chain[1], authority.ca_der());
        assert_eq!(peer_identity(&chain[0]).unwrap().subject, subject("task/ps/0"));
        Identity::from_parts(key.serialized_der(), &chain[0], &chain[1], Revocations::none()).unwrap();
    }

    #[test]
    fn lifetimes_and_names_out_of_bounds_are_refused() {
        let authority = Authority::ephemeral("c").unwrap();
        let forged = Subject::Client {
            name: "a/../../chief/x".to_owned(),
        };
        assert!(authority.issue(forged, CERTIFICATE_LIFETIME).is_err());
        for ttl in [Duration::ZERO, Duration::MAX, MAX_CERTIFICATE_LIFETIME * 2] {
            let error = authority.issue(subject("task/ps/0"), ttl).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
        }
        let end = SystemTime::now() + Duration::from_secs(CA_LIFETIME);
        let error = authority
            .issue_at(subject("task/ps/0"), CERTIFICATE_LIFETIME, end)
            .unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        for name in ["", "a/b", "a b", "ü", &"a".repeat(64)] {
            assert!(Authority::ephemeral(name).is_err(), "{name}");
        }
    }
}
