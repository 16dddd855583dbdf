//! Tests of which handshakes succeed, over TLS connections in memory.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WantsClientCert;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConfigBuilder, ServerConfig, ServerConnection};

use super::certificate::{Name, Validity, leaf_params, new_key, new_serial};
use super::clock::seconds;
use super::verify::Expect;
use super::*;

const ALPN: &[&[u8]] = &[b"test/1"];
const JOIN: &[&[u8]] = &[join::ALPN];
const DAY: Duration = Duration::from_secs(24 * 3600);

fn subject(text: &str) -> Subject {
    text.parse().unwrap()
}

/// Moves bytes both ways until both sides are done; the subjects that server and client see of each other.
fn connect(client: ClientConfig, server: ServerConfig) -> Result<(Option<String>, Option<String>), rustls::Error> {
    let name = ServerName::try_from("actorflow").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let peer = |certificates: Option<&[CertificateDer<'static>]>| {
        certificates.and_then(|chain| peer_identity(&chain[0]).ok().map(|peer| peer.subject.to_string()))
    };
    Ok((peer(server.peer_certificates()), peer(client.peer_certificates())))
}

fn between(client: &Identity, server: &Identity) -> Result<(Option<String>, Option<String>), rustls::Error> {
    connect(client.client_tls(ALPN).unwrap(), server.server_tls(ALPN).unwrap())
}

fn is_refused(outcome: Result<(Option<String>, Option<String>), rustls::Error>, why: &str) {
    let error = outcome.expect_err("the handshake fails");
    assert!(format!("{error:?}").contains(why), "{error:?}");
}

/// A client that accepts any member, before it is said what it shows.
fn accepting_members(authority: &Authority) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let (cluster, ca) = (authority.cluster(), authority.ca_der());
    let verifier = verify::ClusterVerifier::new(cluster, ca, Revocations::none(), Expect::Member).unwrap();
    ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
}

fn with_alpn(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN[0].to_vec()];
    config
}

#[test]
fn members_of_one_cluster_connect_and_know_each_other() {
    let authority = Authority::ephemeral("c").unwrap();
    let a = authority.issue(subject("client/a"), DAY).unwrap();
    let b = authority.issue(subject("task/ps/0"), DAY).unwrap();
    let (of_client, of_server) = between(&a, &b).unwrap();
    assert_eq!(of_client.as_deref(), Some("client/a"));
    assert_eq!(of_server.as_deref(), Some("task/ps/0"));
}

#[test]
fn members_of_different_clusters_refuse_each_other_even_if_their_names_are_equal() {
    let a = Authority::ephemeral("c")
        .unwrap()
        .issue(subject("client/a"), DAY)
        .unwrap();
    let b = Authority::ephemeral("c")
        .unwrap()
        .issue(subject("task/ps/0"), DAY)
        .unwrap();
    assert!(between(&a, &b).is_err());
    assert!(between(&b, &a).is_err());
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::ephemeral("c").unwrap();
    let server = authority.issue(subject("task/ps/0"), DAY).unwrap();
    is_refused(
        connect(
            with_alpn(accepting_members(&authority).with_no_client_auth()),
            server.server_tls(ALPN).unwrap(),
        ),
        "NoCertificatesPresented",
    );
}

#[test]
fn an_expired_certificate_is_refused_in_both_directions() {
    let authority = Authority::ephemeral("c").unwrap();
    let fresh = authority.issue(subject("task/ps/0"), DAY).unwrap();
    let yesterday = SystemTime::now() - DAY - Duration::from_secs(10);
    let old = authority.issue_at(subject("task/ps/1"), DAY, yesterday).unwrap();
    is_refused(between(&old, &fresh), "Expired");
    is_refused(between(&fresh, &old), "Expired");
}

#[test]
fn a_certificate_of_the_future_is_refused_in_both_directions() {
    let authority = Authority::ephemeral("c").unwrap();
    let fresh = authority.issue(subject("task/ps/0"), DAY).unwrap();
    let tomorrow = SystemTime::now() + DAY;
    let early = authority.issue_at(subject("task/ps/1"), DAY, tomorrow).unwrap();
    is_refused(between(&early, &fresh), "NotValidYet");
    is_refused(between(&fresh, &early), "NotValidYet");
}

#[test]
fn a_revoked_certificate_is_refused_in_both_directions() {
    let authority = Authority::ephemeral("c").unwrap();
    let a = authority.issue(subject("task/ps/0"), DAY).unwrap();
    let b = authority.issue(subject("task/ps/1"), DAY).unwrap();
    assert_eq!(authority.revoke("task/ps/1").unwrap(), [b.serial()]);
    between(&a, &b).expect("who does not know of it still accepts");
    let a = a.with_revocations(&authority.revocations().unwrap());
    is_refused(between(&a, &b), "Revoked");
    is_refused(between(&b, &a), "Revoked");
    let again = authority.issue(subject("task/ps/1"), DAY).unwrap();
    between(&a, &again).expect("a new certificate of the same member is accepted");
}

#[test]
fn a_member_cannot_sign_certificates() {
    let authority = Authority::ephemeral("c").unwrap();
    let server = authority.issue(subject("task/ps/0"), DAY).unwrap();
    let members_key = new_key().unwrap();
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&members_key)
        .unwrap();
    let member = authority.sign_request(csr.der(), &subject("task/ps/1"), DAY).unwrap();
    let member = CertificateDer::from(member[0].clone());

    let now = seconds(SystemTime::now());
    let validity = Validity {
        not_before: now - 60,
        not_after: now + 60,
    };
    let key = new_key().unwrap();
    let name = Name::Member(subject("chief/x"));
    let forged = leaf_params("c", &name, new_serial().unwrap(), validity)
        .unwrap()
        .signed_by(&key, &rcgen::Issuer::from_ca_cert_der(&member, members_key).unwrap())
        .unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialized_der().to_vec());
    let client = accepting_members(&authority)
        .with_client_auth_cert(vec![forged.der().clone(), member], key.into())
        .unwrap();
    is_refused(
        connect(with_alpn(client), server.server_tls(ALPN).unwrap()),
        "EndEntityUsedAsCa",
    );
}

#[test]
fn the_authoritys_service_is_known_by_the_cas_hash_alone() {
    let authority = Authority::ephemeral("c").unwrap();
    let pinned = |hash: &str| join::client_tls_join(hash).unwrap();
    let server = || authority.server_tls_join().unwrap();
    connect(pinned(&authority.ca_hash()), server()).expect("the right hash");
    let other = Authority::ephemeral("c").unwrap();
    is_refused(connect(pinned(&other.ca_hash()), server()), "UnknownIssuer");
}

#[test]
fn the_authoritys_certificate_is_no_members_and_a_members_not_the_authoritys() {
    let authority = Authority::ephemeral("c").unwrap();
    let member = authority.issue(subject("task/ps/0"), DAY).unwrap();
    let service = || authority.server_tls_join().unwrap();
    is_refused(
        connect(member.client_tls(JOIN).unwrap(), service()),
        "authority, not a member",
    );
    connect(member.client_tls_for(JOIN, Expect::Authority).unwrap(), service()).expect("asked for");
    let seeking = member.client_tls_for(JOIN, Expect::Authority).unwrap();
    is_refused(
        connect(seeking, member.server_tls(JOIN).unwrap()),
        "task/ps/0, not the cluster's authority",
    );
}

#[test]
fn a_member_that_shows_the_cas_certificate_cannot_pose_as_the_authority() {
    let authority = Authority::ephemeral("c").unwrap();
    let key = new_key().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let chain = authority.sign_request(csr.der(), &subject("chief/x"), DAY).unwrap();
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivatePkcs8KeyDer::from(key.serialized_der().to_vec());
    let mut server = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    server.alpn_protocols = vec![join::ALPN.to_vec()];
    is_refused(
        connect(join::client_tls_join(&authority.ca_hash()).unwrap(), server),
        "chief/x, not the cluster's authority",
    );
}

#[test]
fn protocols_that_differ_do_not_connect() {
    let authority = Authority::ephemeral("c").unwrap();
    let a = authority.issue(subject("task/ps/0"), DAY).unwrap();
    let client = a.client_tls(&[b"other/1"]).unwrap();
    assert!(connect(client, a.server_tls(ALPN).unwrap()).is_err());
}
