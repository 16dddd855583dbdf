//! Who an endpoint is: subjects, certificates of a cluster's authority, and the TLS configurations made of them.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actorflow_core::{Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The DNS name in every certificate; who a peer is says its subject.
const NAME: &str = "actorflow";

/// Who a certificate speaks for, and so what its holder may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A task of the cluster.
    Task {
        /// The job: `ps`, `worker`.
        job: String,
        /// Which task of the job.
        index: u32,
    },
    /// Somebody who submits graphs.
    Client {
        /// Its name.
        name: String,
    },
    /// Somebody who runs the cluster.
    Chief {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Task { job, index } => write!(f, "task/{job}/{index}"),
            Subject::Client { name } => write!(f, "client/{name}"),
            Subject::Chief { name } => write!(f, "chief/{name}"),
        }
    }
}

impl FromStr for Subject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Subject> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            ["task", job, index] if !job.is_empty() => match index.parse() {
                Ok(index) => Ok(Subject::Task {
                    job: job.to_owned(),
                    index,
                }),
                Err(_) => Err(Error::invalid(format!("{text:?} has no task index"))),
            },
            ["client", name] if !name.is_empty() => Ok(Subject::Client { name: name.to_owned() }),
            ["chief", name] if !name.is_empty() => Ok(Subject::Chief { name: name.to_owned() }),
            _ => Err(Error::invalid(format!("{text:?} is no task, client or chief"))),
        }
    }
}

/// What a certificate says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The cluster.
    pub cluster: String,
    /// The holder.
    pub subject: Subject,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// When it expires.
    pub not_after: SystemTime,
}

/// What a certificate whose chain TLS has verified says.
///
/// # Errors
/// `UNAUTHENTICATED` if it names no subject of a cluster.
pub fn peer_identity(leaf_certificate_der: &[u8]) -> Result<PeerIdentity> {
    let bad = |what: &str| Error::unauthenticated(format!("the peer's certificate {what}"));
    let (_, certificate) =
        x509_parser::parse_x509_certificate(leaf_certificate_der).map_err(|_| bad("cannot be parsed"))?;
    let name = certificate.subject();
    let cluster = name.iter_organization().next().and_then(|a| a.as_str().ok());
    let subject = name.iter_common_name().next().and_then(|a| a.as_str().ok());
    let (Some(cluster), Some(subject)) = (cluster, subject) else {
        return Err(bad("names no cluster or no subject"));
    };
    let expires = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(PeerIdentity {
        cluster: cluster.to_owned(),
        subject: subject.parse().map_err(|_| bad("names no task, client or chief"))?,
        serial: certificate.raw_serial_as_string(),
        not_after: UNIX_EPOCH + Duration::from_secs(expires),
    })
}

struct Inner {
    subject: Subject,
    cluster: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

/// A certificate with its key, and the authority that others' certificates are verified against.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tls(error: impl fmt::Display) -> Error {
    Error::invalid(format!("TLS refuses the identity: {error}"))
}

impl Identity {
    /// Whom it speaks for.
    pub fn subject(&self) -> &Subject {
        &self.0.subject
    }

    /// The cluster.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// For connections that this side makes: TLS 1.3, our certificate, the peer's verified against the authority.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if TLS refuses the certificate or key.
    pub fn client_tls(&self, alpn: &[&[u8]]) -> Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_root_certificates(self.0.roots.clone())
            .with_client_auth_cert(self.0.chain.clone(), self.0.key.clone_key())
            .map_err(tls)?;
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        Ok(config)
    }

    /// For connections that others make: as [`client_tls`](Self::client_tls), and they must have a certificate.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if TLS refuses the certificate or key.
    pub fn server_tls(&self, alpn: &[&[u8]]) -> Result<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.0.roots.clone(), provider())
            .build()
            .map_err(tls)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.0.chain.clone(), self.0.key.clone_key())
            .map_err(tls)?;
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        Ok(config)
    }
}

/// Issues a cluster's certificates.
pub struct Authority {
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
}

impl Authority {
    /// An authority that lives in memory.
    ///
    /// # Errors
    /// `INTERNAL` if no key can be made.
    pub fn ephemeral(cluster: &str) -> Result<Authority> {
        let failed = |e: rcgen::Error| Error::internal(format!("cannot make a certificate authority: {e}"));
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name = name(cluster, "authority");
        let certificate = params.self_signed(&key).map_err(failed)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).map_err(tls)?;
        Ok(Authority {
            cluster: cluster.to_owned(),
            issuer: Issuer::new(params, key),
            roots: Arc::new(roots),
        })
    }

    /// A certificate for `subject`, valid for `ttl` from now on.
    ///
    /// # Errors
    /// `INTERNAL` if it cannot be made.
    pub fn issue(&self, subject: Subject, ttl: Duration) -> Result<Identity> {
        let failed = |e: rcgen::Error| Error::internal(format!("cannot issue a certificate: {e}"));
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).map_err(failed)?;
        params.distinguished_name = name(&self.cluster, &subject.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = (SystemTime::now() + ttl).into();
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity(Arc::new(Inner {
            subject,
            cluster: self.cluster.clone(),
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            roots: self.roots.clone(),
        })))
    }
}

fn name(cluster: &str, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, cluster);
    name.push(DnType::CommonName, common);
    name
}
