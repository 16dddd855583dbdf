//! Which certificates a handshake accepts.
//!
//! Every verifier here answers the same questions: is the chain signed by the right CA, are all dates right, is the name
//! that of a member (or of the authority) of this cluster, and is the certificate not revoked. No host name is looked at;
//! who a peer is allowed to be is the caller's question.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use actorflow_core::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};

use super::certificate::{Leaf, Name, cluster_of};
use super::crypto::{check_fingerprint, fingerprint, provider};
use super::revocations::Revocations;

/// How signatures within a handshake are verified: the same in every verifier.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General(
                "TLS 1.3 is the only version spoken here".to_owned(),
            ))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// Whom a certificate has to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A member of the cluster.
    Member,
    /// The service that admits members.
    Authority,
}

/// Accepts the certificates of one cluster.
#[derive(Debug)]
pub(crate) struct ClusterVerifier {
    cluster: String,
    roots: RootCertStore,
    revocations: Revocations,
    expect: Expect,
    client_may_be_unknown: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClusterVerifier {
    /// Accepts what the CA `ca_der` of `cluster` signed, except for `revocations`.
    pub(crate) fn new(cluster: &str, ca_der: &[u8], revocations: Revocations, expect: Expect) -> Result<Self> {
        Ok(ClusterVerifier {
            cluster: cluster.to_owned(),
            roots: roots_of(ca_der)?,
            revocations,
            expect,
            client_may_be_unknown: false,
            algorithms: provider().signature_verification_algorithms,
        })
    }

    /// Lets clients without a certificate through, for those that come to get one. One that is shown is still verified.
    pub(crate) fn client_may_be_unknown(mut self) -> Self {
        self.client_may_be_unknown = true;
        self
    }

    /// The questions that are asked of whoever is at the other end, be it the server or the client of a connection: the
    /// members of a cluster are both, and the CA signs no certificate that is for a client alone.
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        verify_chain(end_entity, &self.roots, intermediates, now, &self.algorithms)?;
        let leaf = Leaf::read(end_entity).map_err(refuse)?;
        if leaf.cluster != self.cluster {
            return Err(refuse(Error::invalid(format!(
                "the certificate is for the cluster {}, this one is {}",
                leaf.cluster, self.cluster
            ))));
        }
        check_expected(&leaf.name, self.expect)?;
        match self.revocations.contains(&leaf.serial) {
            true => Err(CertificateError::Revoked.into()),
            false => Ok(()),
        }
    }
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for ClusterVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.client_may_be_unknown
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)
            .map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}

/// Whether a chain leads to one of `roots`, with all signatures, dates and usages right.
fn verify_chain(
    end_entity: &CertificateDer<'_>,
    roots: &RootCertStore,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), rustls::Error> {
    let leaf = ParsedCertificate::try_from(end_entity)?;
    verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms.all)
}

/// Accepts the authority of the one cluster whose CA has a given hash: what a node that has nothing yet can verify.
///
/// The server shows its CA's certificate along with its own. Only the one with the right hash is trusted, and only the
/// authority's name passes, so that a member of the cluster cannot collect the secrets of those that join.
#[derive(Debug)]
pub(crate) struct PinnedAuthority {
    ca_hash: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedAuthority {
    /// Trusts the CA whose certificate has the hash `sha256:…`.
    pub(crate) fn new(ca_hash: &str) -> Result<Self> {
        check_fingerprint(ca_hash)?;
        Ok(PinnedAuthority {
            ca_hash: ca_hash.to_owned(),
            algorithms: provider().signature_verification_algorithms,
        })
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|shown| fingerprint(shown) == self.ca_hash)
            .ok_or(CertificateError::UnknownIssuer)?;
        let roots = roots_of(ca).map_err(refuse)?;
        verify_chain(end_entity, &roots, &[], now, &self.algorithms)?;
        let leaf = Leaf::read(end_entity).map_err(refuse)?;
        check_expected(&leaf.name, Expect::Authority)?;
        match cluster_of(ca).map_err(refuse)? == leaf.cluster {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(refuse(Error::invalid("the authority is that of another cluster"))),
        }
    }

    signatures!();
}

fn roots_of(ca_der: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(ca_der.to_vec()))
        .map_err(|error| Error::data_loss(format!("the CA's certificate cannot be used: {error}")))?;
    Ok(roots)
}

fn check_expected(name: &Name, expect: Expect) -> Result<(), rustls::Error> {
    match (name, expect) {
        (Name::Member(_), Expect::Member) | (Name::Authority, Expect::Authority) => Ok(()),
        (Name::Authority, Expect::Member) => Err(refuse(Error::invalid(
            "the peer is the cluster's authority, not a member",
        ))),
        (Name::Member(subject), Expect::Authority) => Err(refuse(Error::invalid(format!(
            "the peer is {subject}, not the cluster's authority"
        )))),
    }
}

/// The refusal as the TLS library reports it.
fn refuse(error: Error) -> rustls::Error {
    #[derive(Debug)]
    struct Why(String);
    impl fmt::Display for Why {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }
    impl std::error::Error for Why {}
    CertificateError::Other(OtherError(Arc::new(Why(error.message().to_owned())))).into()
}
