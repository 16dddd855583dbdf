//! What a member of a cluster holds: its key, its certificate, its cluster's CA; and the TLS configurations made of them.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use actorflow_core::{Code, Error, Result};
use pem::Pem;
use rcgen::{KeyPair, PublicKeyData};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::certificate::{Leaf, PeerIdentity, cluster_of, is_signed_by, peer_identity};
use super::clock::{rfc3339, seconds};
use super::crypto::{fingerprint, provider};
use super::files::{private_dir, read, read_private, write_private};
use super::revocations::Revocations;
use super::subject::Subject;
use super::verify::{ClusterVerifier, Expect};

/// Key, certificate and CA of a member, in one file: they are replaced together or not at all.
const IDENTITY_FILE: &str = "identity.pem";

/// The revoked certificates that the member knows of.
const REVOKED_FILE: &str = "revoked.json";

/// Where the authority is that renews the identity beside it: `HOST:PORT`.
const AUTHORITY_FILE: &str = "authority-address";

/// The largest files of an identity that are read, in bytes.
const MAX_IDENTITY: usize = 64 << 10;
pub(crate) const MAX_REVOKED: usize = 16 << 20;

const KEY_TAG: &str = "PRIVATE KEY";
const CERTIFICATE_TAG: &str = "CERTIFICATE";

/// A member's own identity. Cheap to clone, and unchanging: renewal and revocation make another one.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    peer: PeerIdentity,
    /// Seconds since 1970.
    not_before: u64,
    not_after: u64,
    /// The private key as PKCS #8.
    key: Vec<u8>,
    leaf: Vec<u8>,
    ca: Vec<u8>,
    revocations: Revocations,
    /// The folder that it was loaded from.
    folder: Option<PathBuf>,
}

impl Identity {
    /// Puts an identity together, if key, certificate and CA belong to each other. Dates are not looked at.
    pub(crate) fn from_parts(key: &[u8], leaf: &[u8], ca: &[u8], revocations: Revocations) -> Result<Identity> {
        let read = Leaf::read(leaf)?;
        let peer = peer_identity(leaf)?;
        let key_pair =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &rcgen::PKCS_ECDSA_P256_SHA256)
                .map_err(|_| Error::data_loss("the private key is not one of ECDSA on P-256 in PKCS #8"))?;
        if key_pair.der_bytes() != read.public_key {
            return Err(Error::data_loss("the private key is not that of the certificate"));
        }
        if !is_signed_by(leaf, ca)? || cluster_of(ca)? != peer.cluster {
            return Err(Error::data_loss("the certificate is not signed by the CA beside it"));
        }
        Ok(Identity(Arc::new(Inner {
            peer,
            not_before: read.not_before,
            not_after: read.not_after,
            key: key.to_vec(),
            leaf: leaf.to_vec(),
            ca: ca.to_vec(),
            revocations,
            folder: None,
        })))
    }

    /// The folder that it was [loaded](Self::load) from, if it was.
    pub fn folder(&self) -> Option<&Path> {
        self.0.folder.as_deref()
    }

    /// The same identity, as if it were loaded from that folder.
    fn in_folder(self, dir: &Path) -> Identity {
        Identity(Arc::new(Inner {
            folder: Some(dir.to_owned()),
            ..self.copy(self.0.revocations.clone())
        }))
    }

    fn copy(&self, revocations: Revocations) -> Inner {
        Inner {
            peer: self.0.peer.clone(),
            not_before: self.0.not_before,
            not_after: self.0.not_after,
            key: self.0.key.clone(),
            leaf: self.0.leaf.clone(),
            ca: self.0.ca.clone(),
            revocations,
            folder: self.0.folder.clone(),
        }
    }

    /// Which member this is.
    pub fn subject(&self) -> &Subject {
        &self.0.peer.subject
    }

    /// The cluster it is a member of.
    pub fn cluster(&self) -> &str {
        &self.0.peer.cluster
    }

    /// The serial number of the certificate, in lower-case hexadecimal digits.
    pub fn serial(&self) -> &str {
        &self.0.peer.serial
    }

    /// When the certificate starts to be valid.
    pub(crate) fn not_before(&self) -> u64 {
        self.0.not_before
    }

    /// When the certificate stops being valid.
    pub fn not_after(&self) -> SystemTime {
        self.0.peer.not_after
    }

    /// The hash of the CA's certificate, `sha256:…`: what a node that joins compares with.
    pub fn ca_hash(&self) -> String {
        fingerprint(&self.0.ca)
    }

    /// The CA's certificate in DER form.
    pub fn ca_der(&self) -> &[u8] {
        &self.0.ca
    }

    /// The member's certificate in DER form.
    pub fn certificate_der(&self) -> &[u8] {
        &self.0.leaf
    }

    /// The revoked certificates that configurations made from here refuse.
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// The same identity, refusing the certificates of `revocations` instead of those it refused so far.
    pub fn with_revocations(&self, revocations: &Revocations) -> Identity {
        Identity(Arc::new(self.copy(revocations.clone())))
    }

    /// The configuration with which to connect to members of the cluster: TLS 1.3 alone, our certificate shown, the
    /// server's verified against the cluster's CA, its dates and the revocations. Any member passes: the caller compares
    /// [`peer_identity`] with whom it meant to reach. Sessions are not resumed, because a resumed one would skip all that.
    ///
    /// # Errors
    /// `INTERNAL` if the TLS library refuses the parts.
    pub fn client_tls(&self, alpn: &[&[u8]]) -> Result<ClientConfig> {
        self.client_tls_for(alpn, Expect::Member)
    }

    /// As [`client_tls`](Self::client_tls), to reach a member or the authority.
    pub(crate) fn client_tls_for(&self, alpn: &[&[u8]], expect: Expect) -> Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(configuring)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(expect)?))
            .with_client_auth_cert(vec![self.leaf()], self.key())
            .map_err(configuring)?;
        finish_client(&mut config, alpn);
        Ok(config)
    }

    /// The configuration with which to accept members of the cluster: as [`client_tls`](Self::client_tls), with a
    /// certificate required of every client.
    ///
    /// # Errors
    /// `INTERNAL` if the TLS library refuses the parts.
    pub fn server_tls(&self, alpn: &[&[u8]]) -> Result<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(configuring)?
            .with_client_cert_verifier(Arc::new(self.verifier(Expect::Member)?))
            .with_single_cert(vec![self.leaf()], self.key())
            .map_err(configuring)?;
        finish_server(&mut config, alpn);
        Ok(config)
    }

    fn verifier(&self, expect: Expect) -> Result<ClusterVerifier> {
        ClusterVerifier::new(self.cluster(), &self.0.ca, self.0.revocations.clone(), expect)
    }

    fn leaf(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.0.leaf.clone())
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.key.clone()).into()
    }

    /// Writes the identity into `dir`, which is made if it is not there: `identity.pem` (key, certificate and CA; mode
    /// 0600; replaced atomically) and `revoked.json`.
    ///
    /// # Errors
    /// Those of the file system, with the file.
    pub fn save(&self, dir: &Path) -> Result<()> {
        private_dir(dir)?;
        // The list first: a reader between the two writes then knows too many revocations rather than too few.
        write_private(dir, REVOKED_FILE, self.0.revocations.to_json().as_bytes())?;
        let text = pem::encode_many(&[
            Pem::new(KEY_TAG, self.0.key.as_slice()),
            Pem::new(CERTIFICATE_TAG, self.0.leaf.as_slice()),
            Pem::new(CERTIFICATE_TAG, self.0.ca.as_slice()),
        ]);
        write_private(dir, IDENTITY_FILE, text.as_bytes())
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is none, `PERMISSION_DENIED` if others than its owner may read the key, `DATA_LOSS` if it is
    /// damaged, `UNAUTHENTICATED` if the certificate has expired; each says what to do.
    pub fn load(dir: &Path) -> Result<Identity> {
        Self::load_at(dir, SystemTime::now())
    }

    fn load_at(dir: &Path, now: SystemTime) -> Result<Identity> {
        let path = dir.join(IDENTITY_FILE);
        let text = read_private(
            &path,
            MAX_IDENTITY,
            "as the key may be known to others, have it revoked and join again",
        )
        .map_err(|error| match error.code() {
            Code::NotFound => {
                Error::not_found(format!("no identity in {}; join the cluster to get one", dir.display()))
            }
            _ => error,
        })?;
        let identity = Self::from_pem(&text, Revocations::default()).map_err(|error| {
            let cure = "the file is damaged: take it from a copy, or join the cluster again to get another";
            Error::new(error.code(), format!("{}: {}; {cure}", path.display(), error.message()))
        })?;
        let revoked = dir.join(REVOKED_FILE);
        let revocations = read(&revoked, MAX_REVOKED)
            .and_then(|json| Revocations::from_json(&json))
            .map_err(|error| error.context(revoked.display()))?;
        identity.check_dates(now)?;
        Ok(identity.with_revocations(&revocations).in_folder(dir))
    }

    fn from_pem(text: &[u8], revocations: Revocations) -> Result<Identity> {
        let blocks = pem::parse_many(text).map_err(|error| Error::data_loss(format!("not PEM: {error}")))?;
        match blocks.as_slice() {
            [key, leaf, ca] if key.tag() == KEY_TAG && leaf.tag() == CERTIFICATE_TAG && ca.tag() == CERTIFICATE_TAG => {
                Self::from_parts(key.contents(), leaf.contents(), ca.contents(), revocations)
            }
            _ => Err(Error::data_loss(
                "expected a private key, a certificate and the CA's certificate, in this order",
            )),
        }
    }

    /// Whether the certificate is valid at `now`.
    pub(crate) fn check_dates(&self, now: SystemTime) -> Result<()> {
        let now = seconds(now);
        let refuse = |why: String| {
            Err(Error::new(
                Code::Unauthenticated,
                format!("the certificate of {} {why}", self.subject()),
            ))
        };
        match now {
            _ if now > self.0.not_after => refuse(format!(
                "expired at {}; join again with a new token",
                rfc3339(self.0.not_after)
            )),
            _ if now < self.0.not_before => refuse(format!(
                "is valid from {} on, and it is {} here; set the clock",
                rfc3339(self.0.not_before),
                rfc3339(now)
            )),
            _ => Ok(()),
        }
    }
}

/// Notes beside the identity in `dir` where it is renewed.
///
/// # Errors
/// Those of the file system, with the file.
pub fn remember_authority(dir: &Path, addr: &str) -> Result<()> {
    let path = dir.join(AUTHORITY_FILE);
    std::fs::write(&path, format!("{addr}\n")).map_err(|e| Error::from(e).context(path.display()))
}

/// Where the identity in `dir` is renewed, if somebody has [noted](remember_authority) it.
pub fn authority_of(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join(AUTHORITY_FILE)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Shows everything but the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("peer", &self.0.peer)
            .field("ca", &self.ca_hash())
            .finish_non_exhaustive()
    }
}

/// What every client's configuration has in common.
pub(crate) fn finish_client(config: &mut ClientConfig, alpn: &[&[u8]]) {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
}

/// What every server's configuration has in common.
pub(crate) fn finish_server(config: &mut ServerConfig, alpn: &[&[u8]]) {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}

/// A refusal of the TLS library to be configured.
pub(crate) fn configuring(error: rustls::Error) -> Error {
    Error::internal(format!("TLS cannot be configured: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::super::Authority;
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn identity() -> (Authority, Identity) {
        let authority = Authority::ephemeral("c").unwrap();
        let identity = authority.issue("task/ps/0".parse().unwrap(), DAY).unwrap();
        (authority, identity)
    }

    #[test]
    fn an_identity_is_read_back_with_its_revocations() {
        let (authority, identity) = identity();
        authority.revoke(identity.serial()).unwrap();
        let identity = identity.with_revocations(&authority.revocations().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/node");
        identity.save(&path).unwrap();
        identity.save(&path).unwrap();
        let read = Identity::load(&path).unwrap();
        assert_eq!(read.subject(), identity.subject());
        assert_eq!(read.cluster(), "c");
        assert_eq!(read.serial(), identity.serial());
        assert_eq!(read.ca_hash(), authority.ca_hash());
        assert_eq!(read.revocations(), identity.revocations());
        read.client_tls(&[b"x"]).unwrap();
        assert_eq!(identity.folder(), None);
        assert_eq!(read.folder(), Some(path.as_path()));
        assert_eq!(read.with_revocations(&Revocations::none()).folder(), read.folder());
    }

    #[test]
    fn the_authoritys_address_is_remembered_beside_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(authority_of(dir.path()), None);
        remember_authority(dir.path(), "host:2200").unwrap();
        assert_eq!(authority_of(dir.path()).as_deref(), Some("host:2200"));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_cure() {
        use std::os::unix::fs::PermissionsExt;
        let (_, identity) = identity();
        let dir = tempfile::tempdir().unwrap();
        identity.save(dir.path()).unwrap();
        let file = dir.path().join(IDENTITY_FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load(dir.path()).unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied);
        assert!(error.message().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_missing_identity_says_to_join_and_an_expired_one_to_join_again() {
        let (_, identity) = identity();
        let dir = tempfile::tempdir().unwrap();
        let error = Identity::load(dir.path()).unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        identity.save(dir.path()).unwrap();
        let late = identity.not_after() + Duration::from_secs(1);
        let error = Identity::load_at(dir.path(), late).unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
        assert!(error.message().contains("join again"), "{error}");
        Identity::load_at(dir.path(), identity.not_after()).unwrap();
    }

    #[test]
    fn a_damaged_identity_is_an_error_at_every_length() {
        let (_, identity) = identity();
        let dir = tempfile::tempdir().unwrap();
        identity.save(dir.path()).unwrap();
        let file = dir.path().join(IDENTITY_FILE);
        let text = fs::read(&file).unwrap();
        // Without its last line's end the text still is whole.
        for end in 0..text.len() - 2 {
            assert!(Identity::from_pem(&text[..end], Revocations::none()).is_err(), "{end}");
        }
        fs::remove_file(dir.path().join(REVOKED_FILE)).unwrap();
        assert!(
            Identity::load(dir.path()).is_err(),
            "a lost list of revocations is no empty one"
        );
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let ((_, a), (_, b)) = (identity(), identity());
        let parts = |key: &Identity, leaf: &Identity, ca: &Identity| {
            Identity::from_parts(&key.0.key, &leaf.0.leaf, &ca.0.ca, Revocations::none())
        };
        parts(&a, &a, &a).unwrap();
        assert!(parts(&b, &a, &a).is_err());
        assert!(parts(&a, &a, &b).is_err());
        assert!(parts(&b, &a, &b).is_err());
    }

    #[test]
    fn the_key_is_not_shown() {
        let (_, identity) = identity();
        let shown = format!("{identity:?}");
        assert!(shown.contains("Task") && !shown.contains("key"), "{shown}");
    }
}
