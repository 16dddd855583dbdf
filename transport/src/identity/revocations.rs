//! The certificates that are refused although they have not expired.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use actorflow_core::{Error, Result};

use super::crypto::is_hex;

/// The digits of a serial number.
pub(crate) const SERIAL_DIGITS: usize = 32;

/// A list of revoked serial numbers, each with the time at which its certificate expires anyway. Cheap to clone; a list
/// never changes, a newer one replaces it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations(Arc<BTreeMap<String, u64>>);

impl Revocations {
    /// The list of nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// The list of these serial numbers with the ends of their certificates in seconds since 1970.
    pub(crate) fn new(serials: BTreeMap<String, u64>) -> Self {
        Revocations(Arc::new(serials))
    }

    /// Whether the certificate with this serial number (lower-case hexadecimal digits) is revoked.
    pub fn contains(&self, serial: &str) -> bool {
        self.0.contains_key(serial)
    }

    /// How many certificates are revoked and have not expired.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The revoked serial numbers, in order.
    pub fn serials(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The list as JSON, for a file or the wire.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&*self.0).expect("a map from text to numbers is JSON")
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// `DATA_LOSS` if it is anything else.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let serials: BTreeMap<String, u64> = serde_json::from_slice(json)
            .map_err(|error| Error::data_loss(format!("a list of revocations cannot be read: {error}")))?;
        match serials.keys().find(|serial| !is_hex(serial, SERIAL_DIGITS)) {
            None => Ok(Revocations::new(serials)),
            Some(_) => Err(Error::data_loss(
                "a list of revocations names something that is no serial number",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_back() {
        let serial = "4".repeat(SERIAL_DIGITS);
        let list = Revocations::new(BTreeMap::from([(serial.clone(), 7)]));
        let read = Revocations::from_json(list.to_json().as_bytes()).unwrap();
        assert_eq!(read, list);
        assert!(read.contains(&serial) && !read.contains("5"));
    }

    #[test]
    fn a_damaged_list_is_refused() {
        for json in ["", "[]", "{\"4\":1}", "{\"4\":\"x\"}", "{"] {
            assert!(Revocations::from_json(json.as_bytes()).is_err(), "{json}");
        }
    }
}
