//! What is in a certificate of a cluster: writing it, and reading it back strictly.
//!
//! The name of a member is one subject alternative name of type URI, `actorflow://CLUSTER/task/ps/0`. Nothing else in a
//! certificate is believed: neither the common name, which is for people, nor DNS names, of which there are none.
#![forbid(unsafe_code)]

use std::time::SystemTime;

use actorflow_core::{Code, Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::clock::{calendar, moment};
use super::crypto::{hex, random};
use super::subject::{Subject, check_cluster};

/// The largest certificate that is read, in bytes. Those written here have under 1 KiB.
pub(crate) const MAX_CERTIFICATE: usize = 8 << 10;

/// The scheme of the URI that names a member.
const SCHEME: &str = "actorflow://";

/// The name, in place of a subject, of the service that admits members. It is none that a member can have, so no member
/// can pose as that service.
const AUTHORITY: &str = "authority";

/// Who a verified certificate says its holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The cluster it was issued for.
    pub cluster: String,
    /// The member.
    pub subject: Subject,
    /// The certificate's serial number, in lower-case hexadecimal digits: what a revocation names.
    pub serial: String,
    /// When it stops being valid. Nothing ends a connection then: who keeps one open longer has to close it.
    pub not_after: SystemTime,
}

/// Reads who a certificate is for.
///
/// Verifies nothing: it is for certificates that a handshake with [`client_tls`](super::Identity::client_tls) or
/// [`server_tls`](super::Identity::server_tls) has accepted.
///
/// # Errors
/// `UNAUTHENTICATED` if it is no certificate, or not one of a member of a cluster: not exactly one name of the form
/// `actorflow://CLUSTER/SUBJECT`, or other names beside it.
pub fn peer_identity(leaf_certificate_der: &[u8]) -> Result<PeerIdentity> {
    let leaf = Leaf::read(leaf_certificate_der)?;
    match leaf.name {
        Name::Member(subject) => Ok(PeerIdentity {
            cluster: leaf.cluster,
            subject,
            serial: leaf.serial,
            not_after: moment(leaf.not_after)?,
        }),
        Name::Authority => Err(unreadable("it belongs to the cluster's authority, not to a member")),
    }
}

/// Whom a leaf certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// A member of the cluster.
    Member(Subject),
    /// The service that admits members.
    Authority,
}

impl Name {
    fn uri(&self, cluster: &str) -> String {
        match self {
            Name::Member(subject) => format!("{SCHEME}{cluster}/{subject}"),
            Name::Authority => format!("{SCHEME}{cluster}/{AUTHORITY}"),
        }
    }

    fn common_name(&self) -> String {
        match self {
            Name::Member(subject) => subject.to_string(),
            Name::Authority => AUTHORITY.to_owned(),
        }
    }
}

/// A leaf certificate, read.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) cluster: String,
    pub(crate) name: Name,
    pub(crate) serial: String,
    /// Seconds since 1970.
    pub(crate) not_before: u64,
    /// Seconds since 1970.
    pub(crate) not_after: u64,
    /// The bits of the public key, without its algorithm.
    pub(crate) public_key: Vec<u8>,
}

impl Leaf {
    /// Reads a certificate and nothing after it.
    pub(crate) fn read(der: &[u8]) -> Result<Leaf> {
        let certificate = parse(der)?;
        let (cluster, name) = split_uri(single_uri(&certificate)?)?;
        let bound = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        Ok(Leaf {
            cluster,
            name,
            serial: serial(&certificate),
            not_before: bound(certificate.validity().not_before),
            not_after: bound(certificate.validity().not_after),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }
}

/// Whether `ca` signed `leaf`; dates are not looked at.
pub(crate) fn is_signed_by(leaf: &[u8], ca: &[u8]) -> Result<bool> {
    let (leaf, ca) = (parse(leaf)?, parse(ca)?);
    Ok(leaf.verify_signature(Some(ca.public_key())).is_ok())
}

/// When a CA's certificate stops being valid, in seconds since 1970.
pub(crate) fn end_of(ca: &[u8]) -> Result<u64> {
    Ok(u64::try_from(parse(ca)?.validity().not_after.timestamp()).unwrap_or(0))
}

/// The cluster that a CA's certificate is for, from its own name.
pub(crate) fn cluster_of(ca: &[u8]) -> Result<String> {
    let (cluster, rest) = split_at_cluster(single_uri(&parse(ca)?)?)?;
    match rest.is_empty() {
        true => Ok(cluster),
        false => Err(unreadable("it is not the certificate of a cluster's CA")),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>> {
    if der.len() > MAX_CERTIFICATE {
        return Err(unreadable("it is longer than any that a cluster issues"));
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(unreadable("bytes follow it")),
        Err(_) => Err(unreadable("it is not X.509 in DER form")),
    }
}

/// The serial number's digits, without the zero byte that keeps it positive.
fn serial(certificate: &X509Certificate<'_>) -> String {
    let raw = certificate.raw_serial();
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    hex(&raw[zeros..])
}

/// The one alternative name, which has to be a URI.
fn single_uri<'a>(certificate: &X509Certificate<'a>) -> Result<&'a str> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| unreadable("it has its alternative names twice"))?
        .ok_or_else(|| unreadable("it names no member of a cluster"))?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Ok(uri),
        _ => Err(unreadable("it has other names than one URI")),
    }
}

fn split_at_cluster(uri: &str) -> Result<(String, &str)> {
    let rest = uri
        .strip_prefix(SCHEME)
        .ok_or_else(|| unreadable("its URI does not begin with actorflow://"))?;
    let (cluster, rest) = rest
        .split_once('/')
        .ok_or_else(|| unreadable("its URI names no member"))?;
    check_cluster(cluster).map_err(|error| unreadable(error.message()))?;
    Ok((cluster.to_owned(), rest))
}

fn split_uri(uri: &str) -> Result<(String, Name)> {
    let (cluster, rest) = split_at_cluster(uri)?;
    let name = match rest {
        AUTHORITY => Name::Authority,
        _ => Name::Member(rest.parse().map_err(|error: Error| unreadable(error.message()))?),
    };
    Ok((cluster, name))
}

fn unreadable(why: &str) -> Error {
    Error::new(
        Code::Unauthenticated,
        format!("not a certificate of an Actorflow cluster: {why}"),
    )
}

/// A failure inside of the library that writes certificates.
pub(crate) fn writing(error: rcgen::Error) -> Error {
    Error::internal(format!("a certificate could not be made: {error}"))
}

/// A fresh key pair: ECDSA on P-256, from the operating system's generator.
pub(crate) fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(writing)
}

/// A positive serial number of 16 bytes, none of them a leading zero: 126 random bits.
pub(crate) fn new_serial() -> Result<[u8; 16]> {
    let mut serial = random::<16>()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// From when until when, in seconds since 1970, both included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

/// What a leaf certificate of `cluster` says.
pub(crate) fn leaf_params(
    cluster: &str,
    name: &Name,
    serial: [u8; 16],
    validity: Validity,
) -> Result<CertificateParams> {
    let mut params = params(&name.uri(cluster), &name.common_name(), serial, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match name {
        Name::Member(_) => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        Name::Authority => vec![ExtendedKeyUsagePurpose::ServerAuth],
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What the certificate of the CA of `cluster` says. It signs leaves and no further CAs.
pub(crate) fn ca_params(cluster: &str, validity: Validity) -> Result<CertificateParams> {
    let uri = format!("{SCHEME}{cluster}/");
    let mut params = params(&uri, &format!("Actorflow cluster {cluster}"), new_serial()?, validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(uri: &str, common_name: &str, serial: [u8; 16], validity: Validity) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.not_before = calendar(validity.not_before)?;
    params.not_after = calendar(validity.not_after)?;
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(writing)?)];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A self-signed certificate with these alternative names.
    fn with_names(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.self_signed(&new_key().unwrap()).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn the_member_is_read_from_the_uri() {
        let der = with_names(vec![uri("actorflow://prod/task/ps/0")]);
        let peer = peer_identity(&der).unwrap();
        assert_eq!(peer.cluster, "prod");
        assert_eq!(peer.subject.to_string(), "task/ps/0");
    }

    #[test]
    fn a_certificate_that_names_anything_else_is_refused() {
        let dns = SanType::DnsName("task-ps-0".try_into().unwrap());
        for names in [
            vec![],
            vec![dns.clone()],
            vec![uri("actorflow://c/task/ps/0"), dns],
            vec![uri("actorflow://c/task/ps/0"), uri("actorflow://c/chief/x")],
            vec![uri("https://c/task/ps/0")],
            vec![uri("actorflow://task/ps/0")],
            vec![uri("actorflow:///task/ps/0")],
            vec![uri("actorflow://c/task/ps/0?role=chief")],
            vec![uri("actorflow://c/task/ps/0#chief")],
            vec![uri("actorflow://c/authority")],
            vec![uri("actorflow://c/")],
            vec![uri("ACTORFLOW://c/task/ps/0")],
            vec![uri("actorflow://u@c/task/ps/0")],
        ] {
            let error = peer_identity(&with_names(names)).unwrap_err();
            assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        }
    }

    #[test]
    fn a_cut_off_or_extended_certificate_is_refused_at_every_length() {
        let mut der = with_names(vec![uri("actorflow://c/task/ps/0")]);
        for end in 0..der.len() {
            assert!(peer_identity(&der[..end]).is_err(), "{end}");
        }
        der.push(0);
        assert!(peer_identity(&der).is_err());
    }

    #[test]
    fn a_certificate_with_any_byte_changed_is_read_or_refused_but_no_panic() {
        let der = with_names(vec![uri("actorflow://c/task/ps/0")]);
        let read = (0..der.len()).filter(|at| {
            let mut changed = der.clone();
            changed[*at] ^= 0xff;
            peer_identity(&changed).is_ok()
        });
        // The signature and the key are for the handshake to verify; most of the rest has to be as it is.
        assert!(read.count() < der.len());
    }

    #[test]
    fn a_serial_number_keeps_its_length() {
        for _ in 0..100 {
            assert!((0x40..0x80).contains(&new_serial().unwrap()[0]));
        }
    }
}
