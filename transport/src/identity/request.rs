//! Signing requests (PKCS #10): making one, and believing nothing of one but its key.
#![forbid(unsafe_code)]

use actorflow_core::{Error, Result};
use rcgen::{CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateSigningRequestDer;

use super::certificate::{new_key, writing};

/// The largest signing request that is read, in bytes. One of ours has under 300.
pub(crate) const MAX_CSR: usize = 4 << 10;

/// A new key and the request to have it certified. The request says nothing but the key.
pub(crate) fn key_and_request() -> Result<(KeyPair, Vec<u8>)> {
    let key = new_key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).map_err(writing)?;
    Ok((key, csr.der().to_vec()))
}

/// The key that a signing request asks for, once its signature is verified.
pub(crate) fn requested_key(csr_der: &[u8]) -> Result<rcgen::PublicKey> {
    let refuse = |why: &str| Error::invalid(format!("the signing request is refused: {why}"));
    if csr_der.len() > MAX_CSR {
        return Err(refuse("it is longer than 4 KiB"));
    }
    let csr =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der)).map_err(|error| {
            match error {
                rcgen::Error::InvalidCertificationRequestSignature => {
                    refuse("it is not signed with the key that it names")
                }
                _ => refuse("it is not a PKCS #10 request that can be read"),
            }
        })?;
    let key = csr.public_key;
    // An uncompressed point of P-256: a tag and two coordinates.
    match key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256 && key.der_bytes().len() == 65 {
        true => Ok(key),
        false => Err(refuse("its key is not one of ECDSA on P-256 with SHA-256")),
    }
}

#[cfg(test)]
mod tests {
    use actorflow_core::Code;

    use super::*;

    #[test]
    fn a_request_without_proof_of_possession_is_refused() {
        let (_, mut csr) = key_and_request().unwrap();
        let last = csr.len() - 1;
        csr[last] ^= 1;
        let error = requested_key(&csr).unwrap_err();
        assert!(error.message().contains("not signed with the key"), "{error}");
    }

    #[test]
    fn a_malformed_request_is_refused_at_every_length_and_with_any_byte_changed() {
        let (key, whole) = key_and_request().unwrap();
        for end in 0..whole.len() {
            assert_eq!(
                requested_key(&whole[..end]).unwrap_err().code(),
                Code::InvalidArgument,
                "{end}"
            );
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            assert!(requested_key(&changed).is_err(), "{at}");
        }
        assert!(requested_key(&vec![0x30; MAX_CSR + 1]).is_err());
        assert_eq!(requested_key(&whole).unwrap().der_bytes(), key.der_bytes());
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let csr = CertificateParams::default().serialize_request(&key).unwrap();
            assert!(requested_key(csr.der()).unwrap_err().message().contains("P-256"));
        }
    }
}
