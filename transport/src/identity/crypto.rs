//! The few cryptographic pieces that the rest uses: random bytes, SHA-256, hexadecimal text, the TLS provider.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::sync::Arc;

use actorflow_core::{Error, Result};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::CryptoProvider;

/// `N` bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::internal("the operating system gave no random bytes"))?;
    Ok(bytes)
}

/// The SHA-256 hash of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes any text");
            text
        })
}

/// Whether `text` is `digits` lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The hash by which a certificate is named: `sha256:` and 64 hexadecimal digits of its DER form.
pub(crate) fn fingerprint(certificate_der: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256(certificate_der)))
}

/// Whether `text` has the form of a [`fingerprint`].
///
/// # Errors
/// `INVALID_ARGUMENT` that shows the form.
pub(crate) fn check_fingerprint(text: &str) -> Result<()> {
    match text.strip_prefix("sha256:") {
        Some(digits) if is_hex(digits, 64) => Ok(()),
        _ => Err(Error::invalid(
            "the CA's hash is `sha256:` and 64 lower-case hexadecimal digits; copy it from the join command",
        )),
    }
}

/// The provider of every TLS configuration here. Nothing depends on the process-wide default, which belongs to the
/// embedding program.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    // 128-bit keys first: 10 rounds in place of 14 for each block, and encrypting is the largest part of what a large
    // tensor costs on its way (30 % of the sender's time).
    let wide = |s: &rustls::SupportedCipherSuite| s.suite() == rustls::CipherSuite::TLS13_AES_256_GCM_SHA384;
    provider.cipher_suites.sort_by_key(wide);
    Arc::new(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_checked_for_its_form() {
        let good = fingerprint(b"x");
        assert_eq!(good.len(), 7 + 64);
        check_fingerprint(&good).unwrap();
        for bad in [&good[7..], &good[..70], "sha256:", &good.to_uppercase(), "md5:00"] {
            assert!(check_fingerprint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random::<32>().unwrap(), random::<32>().unwrap());
    }
}
