//! How a node becomes a member and stays one: pure exchanges of one request and one response, without sockets.
//!
//! The connection that carries them is TLS 1.3 on [`ALPN`]. The authority shows a certificate of its own and the CA's,
//! whose hash the node knows ([`client_tls_join`]); a node that has a certificate shows it, one that joins has none.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actorflow_core::{Code, Error, Result};
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::version::TLS13;

pub use super::message::{MAX_REQUEST, MAX_RESPONSE, Request, Response};

use super::authority::{Authority, CERTIFICATE_LIFETIME};
use super::certificate::PeerIdentity;
use super::crypto::{check_fingerprint, fingerprint, provider};
use super::node::{Identity, configuring, finish_client};
use super::request::key_and_request;
use super::revocations::Revocations;
use super::subject::Subject;
use super::verify::{Expect, PinnedAuthority};

/// The application protocol of the exchange.
pub const ALPN: &[u8] = b"actorflow-join/1";

/// The configuration with which to reach the authority whose CA has the hash `sha256:…`, for a node without a
/// certificate. No member of the cluster can pose as the authority, so no member learns the secrets of those that join.
///
/// # Errors
/// `INVALID_ARGUMENT` if the hash is malformed.
pub fn client_tls_join(ca_hash: &str) -> Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(configuring)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedAuthority::new(ca_hash)?))
        .with_no_client_auth();
    finish_client(&mut config, &[ALPN]);
    Ok(config)
}

/// The configuration with which a member reaches its authority, showing its certificate.
///
/// # Errors
/// `INTERNAL` if the TLS library refuses the parts.
pub fn client_tls_renew(identity: &Identity) -> Result<ClientConfig> {
    identity.client_tls_for(&[ALPN], Expect::Authority)
}

/// The authority's side: answers requests.
#[derive(Debug, Clone)]
pub struct Server {
    authority: Authority,
    lifetime: Duration,
}

impl Server {
    /// Answers for `authority`, with certificates of [`CERTIFICATE_LIFETIME`].
    pub fn new(authority: &Authority) -> Self {
        Server {
            authority: authority.clone(),
            lifetime: CERTIFICATE_LIFETIME,
        }
    }

    /// Issues certificates of another lifetime.
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Answers a request of a node that has shown no certificate: only joining is possible.
    pub fn answer(&self, request: &[u8], peer: SocketAddr) -> Vec<u8> {
        self.answer_at(request, None, peer, SystemTime::now())
    }

    /// Answers a request of a member whose certificate the handshake has verified.
    pub fn answer_member(&self, request: &[u8], member: &PeerIdentity, peer: SocketAddr) -> Vec<u8> {
        self.answer_at(request, Some(member), peer, SystemTime::now())
    }

    fn answer_at(&self, request: &[u8], member: Option<&PeerIdentity>, peer: SocketAddr, now: SystemTime) -> Vec<u8> {
        let answer = match Request::decode(request) {
            Ok(request) => self.decide(&request, member, peer, now),
            Err(error) => Err(self.authority.audit_malformed(error, peer, now)),
        };
        answer
            .unwrap_or_else(|error| Response::Refused(for_strangers(error)))
            .encode()
    }

    fn decide(
        &self,
        request: &Request,
        member: Option<&PeerIdentity>,
        peer: SocketAddr,
        now: SystemTime,
    ) -> Result<Response> {
        let shown = || {
            member.ok_or_else(|| {
                Error::new(
                    Code::Unauthenticated,
                    "this needs the certificate of a member; join first, with a token",
                )
            })
        };
        let (authority, peer) = (&self.authority, Some(peer));
        let chain = match request {
            Request::Join { subject, secret, csr } => {
                authority.admit(secret, csr, subject, self.lifetime, now, peer)?
            }
            Request::Renew { subject, csr } => authority.renew(shown()?, csr, subject, self.lifetime, now, peer)?,
            Request::Revocations => return Ok(Response::Revocations(authority.revocations_for(shown()?)?)),
        };
        let revocations = authority.revocations()?;
        match <[Vec<u8>; 2]>::try_from(chain) {
            Ok([leaf, ca]) => Ok(Response::Granted { leaf, ca, revocations }),
            Err(_) => Err(Error::internal("the authority's chains are a certificate and the CA's")),
        }
    }
}

/// What somebody who is no member yet may learn of an error: a refusal as it is, a failure of the authority only as that.
fn for_strangers(error: Error) -> Error {
    match error.code() {
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::ResourceExhausted => error,
        _ => Error::internal("the authority failed; its audit log or its machine says why"),
    }
}

/// The identity that a response grants to the holder of `key`, if it is the one asked for.
fn granted(response: &[u8], key: &KeyPair, subject: &Subject, ca_hash: &str) -> Result<Identity> {
    let (leaf, ca, revocations) = match Response::decode(response)? {
        Response::Granted { leaf, ca, revocations } => (leaf, ca, revocations),
        Response::Refused(error) => return Err(error),
        Response::Revocations(_) => return Err(unasked("revocations, and no certificate")),
    };
    if fingerprint(&ca) != ca_hash {
        return Err(unasked("a certificate of another cluster's CA"));
    }
    let identity = Identity::from_parts(key.serialized_der(), &leaf, &ca, revocations)?;
    if identity.subject() != subject {
        return Err(unasked("the certificate of another subject"));
    }
    identity.check_dates(SystemTime::now())?;
    Ok(identity)
}

fn unasked(what: &str) -> Error {
    Error::data_loss(format!("the authority answered with {what}"))
}

/// A joining node's side. The key is made here and never leaves.
pub struct Client {
    subject: Subject,
    secret: String,
    ca_hash: String,
    key: KeyPair,
    csr: Vec<u8>,
}

impl Client {
    /// Prepares to become `subject` of the cluster whose CA has this hash, by the token with this secret.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if one of the three is malformed.
    pub fn new(subject: Subject, secret: &str, ca_hash: &str) -> Result<Self> {
        subject.check()?;
        check_fingerprint(ca_hash)?;
        let secret = super::tokens::secret_from(secret.as_bytes())?;
        let (key, csr) = key_and_request()?;
        Ok(Client {
            subject,
            secret,
            ca_hash: ca_hash.to_owned(),
            key,
            csr,
        })
    }

    /// The request to send, over a connection made with [`client_tls_join`].
    pub fn request(&self) -> Vec<u8> {
        let request = Request::Join {
            subject: self.subject.clone(),
            secret: self.secret.clone(),
            csr: self.csr.clone(),
        };
        request.encode()
    }

    /// The identity, from the authority's response.
    ///
    /// # Errors
    /// The authority's refusal; `DATA_LOSS` if it answered with something else than was asked for; `UNAUTHENTICATED` if the
    /// clocks differ so much that the certificate is not valid here.
    pub fn finish(self, response: &[u8]) -> Result<Identity> {
        granted(response, &self.key, &self.subject, &self.ca_hash)
    }
}

/// A member's side of renewal: a new key for the same subject.
pub struct Renewal {
    subject: Subject,
    ca_hash: String,
    key: KeyPair,
    csr: Vec<u8>,
}

impl Renewal {
    /// Prepares to renew `identity`.
    ///
    /// # Errors
    /// `INTERNAL` if no key can be made.
    pub fn new(identity: &Identity) -> Result<Self> {
        let (key, csr) = key_and_request()?;
        Ok(Renewal {
            subject: identity.subject().clone(),
            ca_hash: identity.ca_hash(),
            key,
            csr,
        })
    }

    /// The request to send, over a connection made with [`client_tls_renew`].
    pub fn request(&self) -> Vec<u8> {
        let request = Request::Renew {
            subject: self.subject.clone(),
            csr: self.csr.clone(),
        };
        request.encode()
    }

    /// The new identity, from the authority's response.
    ///
    /// # Errors
    /// As [`Client::finish`].
    pub fn finish(self, response: &[u8]) -> Result<Identity> {
        granted(response, &self.key, &self.subject, &self.ca_hash)
    }
}

/// The revocations, from the authority's response to [`Request::Revocations`].
///
/// # Errors
/// The authority's refusal, or `DATA_LOSS` if it answered with something else.
pub fn finish_revocations(response: &[u8]) -> Result<Revocations> {
    match Response::decode(response)? {
        Response::Revocations(revocations) => Ok(revocations),
        Response::Refused(error) => Err(error),
        Response::Granted { .. } => Err(unasked("a certificate, and not the revocations")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::TokenSpec;
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn peer() -> SocketAddr {
        "192.0.2.7:4000".parse().unwrap()
    }

    /// An authority, its server, and the secret of a token for `pattern`.
    fn cluster(pattern: &str) -> (Authority, Server, String) {
        let authority = Authority::ephemeral("c").unwrap();
        let spec = TokenSpec {
            subject: pattern.parse().unwrap(),
            ttl: Duration::from_secs(60),
            uses: 1,
        };
        let secret = authority.token(&spec).unwrap().secret().to_owned();
        (authority.clone(), Server::new(&authority), secret)
    }

    fn holder(identity: &Identity) -> PeerIdentity {
        super::super::peer_identity(identity.certificate_der()).unwrap()
    }

    #[test]
    fn a_node_becomes_whom_its_token_names_for_a_day() {
        let (authority, server, secret) = cluster("task/worker/1");
        let client = Client::new(subject("task/worker/1"), &secret, &authority.ca_hash()).unwrap();
        let response = server.answer(&client.request(), peer());
        let identity = client.finish(&response).unwrap();
        assert_eq!(identity.subject(), &subject("task/worker/1"));
        let left = identity.not_after().duration_since(SystemTime::now()).unwrap();
        assert!(left <= CERTIFICATE_LIFETIME && left > CERTIFICATE_LIFETIME / 2);
        let audit = authority.audit().tail(1).unwrap();
        assert!(
            audit[0].contains("192.0.2.7:4000") && audit[0].contains(identity.serial()),
            "{audit:?}"
        );
    }

    #[test]
    fn a_request_whose_key_is_refused_does_not_spend_the_token() {
        let (authority, server, secret) = cluster("client/a");
        let client = Client::new(subject("client/a"), &secret, &authority.ca_hash()).unwrap();
        let unsigned = Request::Join {
            subject: subject("client/a"),
            secret: secret.clone(),
            csr: vec![0x30, 0],
        };
        let refused = Response::decode(&server.answer(&unsigned.encode(), peer())).unwrap();
        assert!(matches!(refused, Response::Refused(error) if error.code() == Code::InvalidArgument));
        let response = server.answer(&client.request(), peer());
        client.finish(&response).unwrap();
    }

    #[test]
    fn a_member_renews_as_itself_only() {
        let (authority, server, _) = cluster("client/a");
        let task = authority.issue(subject("task/ps/0"), CERTIFICATE_LIFETIME).unwrap();
        let renewal = Renewal::new(&task).unwrap();
        let response = server.answer_member(&renewal.request(), &holder(&task), peer());
        assert_eq!(renewal.finish(&response).unwrap().subject(), task.subject());
        for other in ["chief/x", "client/a", "task/ps/1"] {
            let (_, csr) = key_and_request().unwrap();
            let request = Request::Renew {
                subject: subject(other),
                csr,
            };
            let response = server.answer_member(&request.encode(), &holder(&task), peer());
            match Response::decode(&response).unwrap() {
                Response::Refused(error) => assert_eq!(error.code(), Code::PermissionDenied),
                granted => panic!("{granted:?}"),
            }
        }
    }

    #[test]
    fn a_member_of_another_cluster_cannot_renew_here() {
        let (_, server, _) = cluster("client/a");
        let foreign = Authority::ephemeral("d").unwrap();
        let task = foreign.issue(subject("task/ps/0"), CERTIFICATE_LIFETIME).unwrap();
        let renewal = Renewal::new(&task).unwrap();
        let response = server.answer_member(&renewal.request(), &holder(&task), peer());
        assert_eq!(renewal.finish(&response).unwrap_err().code(), Code::PermissionDenied);
    }

    #[test]
    fn nothing_but_joining_is_possible_without_a_certificate() {
        let (authority, server, _) = cluster("client/a");
        let task = authority.issue(subject("task/ps/0"), CERTIFICATE_LIFETIME).unwrap();
        let renewal = Renewal::new(&task).unwrap();
        let response = server.answer(&renewal.request(), peer());
        assert_eq!(renewal.finish(&response).unwrap_err().code(), Code::Unauthenticated);
        let response = server.answer(&Request::Revocations.encode(), peer());
        assert_eq!(finish_revocations(&response).unwrap_err().code(), Code::Unauthenticated);
    }

    #[test]
    fn a_certificate_that_was_revoked_after_the_handshake_is_not_renewed() {
        let (authority, server, _) = cluster("client/a");
        let task = authority.issue(subject("task/ps/0"), CERTIFICATE_LIFETIME).unwrap();
        let renewal = Renewal::new(&task).unwrap();
        authority.revoke("task/ps/0").unwrap();
        let response = server.answer_member(&renewal.request(), &holder(&task), peer());
        let error = renewal.finish(&response).unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied);
        assert!(error.message().contains("revoked"), "{error}");
    }

    #[test]
    fn a_request_cut_off_or_changed_anywhere_is_refused_and_spends_nothing() {
        let (authority, server, secret) = cluster("client/a");
        let client = Client::new(subject("client/a"), &secret, &authority.ca_hash()).unwrap();
        let request = client.request();
        let is_refused = |bytes: &[u8]| {
            let response = Response::decode(&server.answer(bytes, peer())).unwrap();
            assert!(matches!(response, Response::Refused(_)), "{bytes:?}");
        };
        for end in 0..request.len() {
            is_refused(&request[..end]);
        }
        for at in 0..request.len() {
            let mut changed = request.clone();
            changed[at] ^= 0xff;
            is_refused(&changed);
        }
        let response = server.answer(&request, peer());
        client.finish(&response).unwrap();
    }

    #[test]
    fn a_response_cut_off_anywhere_is_refused() {
        let (authority, server, secret) = cluster("client/a");
        let hash = authority.ca_hash();
        let client = Client::new(subject("client/a"), &secret, &hash).unwrap();
        let response = server.answer(&client.request(), peer());
        for end in 0..response.len() {
            assert!(granted(&response[..end], &client.key, &client.subject, &hash).is_err());
        }
        client.finish(&response).unwrap();
    }

    #[test]
    fn a_response_with_somebody_elses_certificate_is_refused() {
        let (authority, server, secret) = cluster("client/a");
        let hash = authority.ca_hash();
        let client = Client::new(subject("client/a"), &secret, &hash).unwrap();
        let response = server.answer(&client.request(), peer());
        let (other_key, _) = key_and_request().unwrap();
        let refused = |key: &KeyPair, name: &str, hash: &str| {
            granted(&response, key, &subject(name), hash).unwrap_err().code() == Code::DataLoss
        };
        assert!(refused(&other_key, "client/a", &hash));
        assert!(refused(&client.key, "client/b", &hash));
        assert!(refused(
            &client.key,
            "client/a",
            &Authority::ephemeral("c").unwrap().ca_hash()
        ));
    }

    #[test]
    fn a_failure_of_the_authority_is_not_described_to_strangers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authority");
        let authority = Authority::create(&path, "c").unwrap();
        let server = Server::new(&authority);
        let secret = format!("aft_{}", "0".repeat(64));
        let client = Client::new(subject("client/a"), &secret, &authority.ca_hash()).unwrap();
        std::fs::remove_file(path.join("state.json")).unwrap();
        let response = server.answer(&client.request(), peer());
        let error = client.finish(&response).unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(!error.message().contains("state.json"), "{error}");
    }
}
